"""Statistics: how sure a number is, whether two numbers differ, and what many comparisons cost."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from personalib.base.correlations import clustered_rank_correlation as clustered_rank_correlation
from personalib.base.correlations import correlation_interval as correlation_interval
from personalib.base.correlations import mantel as mantel
from personalib.base.intervals import BATCH, Array, finite, paired
from personalib.base.intervals import Interval as Interval
from personalib.base.intervals import bootstrap_interval as bootstrap_interval
from personalib.base.intervals import clustered_interval as clustered_interval
from personalib.base.intervals import expanded_bounds as expanded_bounds
from personalib.base.intervals import proportion_interval as proportion_interval
from personalib.base.intervals import resampled_interval as resampled_interval
from personalib.base.intervals import two_way_interval as two_way_interval

# Items whose signs are flipped in all ways: 4096 of 12.
_FEW = 12


class Difference(NamedTuple):
    """A mean difference between its bounds, and the two-sided p-value of no difference."""

    estimate: float
    low: float
    high: float
    p: float


class EffectSizes(NamedTuple):
    """Effect sizes of many conditions between their bounds, each of shape ``(conditions,)`` and without a unit."""

    estimate: Array
    low: Array
    high: Array


class PairedMeans(NamedTuple):
    """Mean changes, shape ``(conditions,)`` in their unit, with uncorrected p-values; ``n`` counts the items read."""

    estimate: Array
    low: Array
    high: Array
    p: Array
    n: NDArray[np.int64]


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """How much ``a`` exceeds ``b`` on the same items: mean, bootstrap interval and permutation p-value.

    Both have one number an item, shape ``(n,)``, in the same order and unit. The interval and its options are those of
    :func:`~personalib.base.intervals.bootstrap_interval`. The p-value flips the signs of the differences: all 2**n ways
    if those are no more than ``resamples``, and else a random choice of them. It is never zero.
    Other lengths, fewer than two items, or a number that is not finite are a ValueError.
    """
    differences = np.subtract(*paired(a, b, "a", "b"))
    interval = bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, BATCH // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return Difference(*interval, float(test.pvalue))


def paired_means(changes: ArrayLike, *, level: float = 0.95) -> PairedMeans:
    """Mean changes of many conditions over the same items, with bounds of Student's paired t, and p-values.

    Unlike a bootstrap's, these hold for a handful of items too, if the changes are roughly normal. Intervals of 8, 20
    and 100 exponential ones covered their mean in 0.89, 0.92 and 0.94 of simulated cases. The p-value of up to 12 items
    is exact: the share of all 2**n ways to flip the signs of the changes with a mean as far from 0. So it cannot be
    below 2**(1 - n), which is 0.125 for four items. Of more items it is Student's.

    Changes are differences to the same items without the condition, shape ``(conditions, items)`` in any unit, NaN
    where an item could not be read in one of both. The estimate is NaN where no item was read, and bounds and p-value
    where fewer than two were. The p-value is 1 where nothing changed at all. A table that has not two
    dimensions, is empty, or holds an infinity is a ValueError.

    Example:
        >>> found = paired_means([[1.0, 2.0, 3.0], [0.0, 0.0, np.nan]])
        >>> found.estimate.tolist(), found.p.round(3).tolist(), found.n.tolist()
        ([2.0, 0.0], [0.25, 1.0], [3, 2])
    """
    table = _changes(changes)
    n, mean, spread = _moments(table)
    freedom = np.maximum(n - 1, 1)
    error = spread / np.sqrt(np.maximum(n, 1))
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, freedom)
    # Where nothing changed at all there is no doubt that nothing changed.
    p = np.where((mean == 0) & (error == 0), 1.0, p)
    few = (n > 1) & (n <= _FEW)
    p[few] = [_flipped(row[~np.isnan(row)]) for row in table[few]]
    return PairedMeans(mean, mean - half, mean + half, p, n)


def effect_size(changes: ArrayLike, *, level: float = 0.95) -> EffectSizes:
    """Mean changes in units of their own standard deviation over items: Cohen's d_z with Hedges' correction.

    Changes are those of :func:`paired_means`. The bounds are those of the true effect size, from the noncentral t
    distribution, exact for normal changes. All are NaN where fewer than three items were read (the noncentral t with
    one degree of freedom has no mean), or all changed by the same amount; of an effect of hundreds of standard errors
    the bounds are.

    Source:
        Hedges, *Journal of Educational Statistics* 6 (1981), for the correction; Cumming and Finch, *Educational and
        Psychological Measurement* 61 (2001), for the interval.
    """
    n, mean, spread = _moments(_changes(changes))
    known = (n > 2) & (spread > 0)
    estimate, low, high = np.full((3, len(n)), np.nan)
    read, size = n[known].astype(np.float64), mean[known] / spread[known]
    freedom, root = read - 1, np.sqrt(read)
    gammas = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)
    estimate[known] = size * np.exp(gammas) / np.sqrt(freedom / 2)
    low[known] = _noncentrality(freedom, (1 + level) / 2, size * root) / root
    high[known] = _noncentrality(freedom, (1 - level) / 2, size * root) / root
    return EffectSizes(estimate, low, high)


def adjust(pvalues: ArrayLike, method: str = "holm") -> Array:
    """P-values, shape ``(n,)``, corrected for being many: reject where the corrected one is below the level.

    ``"holm"`` bounds the chance of any false rejection, ``"fdr_bh"`` (Benjamini and Hochberg) the expected share of
    false ones. Another method, or a p-value that is not between 0 and 1, is a ValueError.

    Source:
        Holm, *Scandinavian Journal of Statistics* 6 (1979); Benjamini and Hochberg, *Journal of the Royal Statistical
        Society B* 57 (1995).
    """
    if method not in ("holm", "fdr_bh"):
        raise ValueError(f"unknown method {method!r}; use 'holm' or 'fdr_bh'")
    values = finite(pvalues, "pvalues")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("p-values lie between 0 and 1; pass p-values, not test statistics")
    if method == "fdr_bh":
        return np.asarray(stats.false_discovery_control(values), dtype=np.float64)
    # statsmodels' own has the garbage collected at each call, which takes longer than whatever calls this.
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted


def _flipped(row: Array) -> float:
    """The exact two-sided p-value of changes of which each is as likely to have the other sign."""
    sums = np.abs(_signs(len(row)) @ row)
    return float((sums >= sums[0] - 1e-9 * np.abs(row).sum()).mean())


@cache
def _signs(n: int) -> Array:
    """All ways to choose n signs, none flipped first; shape ``(2**n, n)``."""
    flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
    return np.where(flipped, -1.0, 1.0)


def _moments(table: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """How many items of each row are read, their mean, and their standard deviation."""
    rows = pd.DataFrame(table.T)
    n, mean, spread = rows.count(), rows.mean(), rows.std()
    # Of equal items it is 0, whatever rounding says.
    spread = spread.mask((rows.max() == rows.min()) & (n > 1), 0.0)
    return n.to_numpy(), mean.to_numpy(), spread.to_numpy()


def _noncentrality(freedom: Array, quantile: float, t: Array) -> Array:
    """Of which noncentral t this is the quantile; NaN where SciPy's search finds none."""
    centre = special.nctdtrinc(freedom, quantile, t)
    return np.where(np.abs(special.nctdtr(freedom, centre, t) - quantile) < 1e-4, centre, np.nan)


def _changes(values: ArrayLike) -> Array:
    """A table of changes, or an error."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"changes have shape {table.shape}; pass a non-empty table of shape (conditions, items)")
    if np.isinf(table).any():
        raise ValueError(f"changes hold {np.isinf(table).sum()} infinities; only NaN stands for an item not read")
    return table
