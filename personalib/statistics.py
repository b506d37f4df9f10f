"""Statistics: how sure a number is, whether two numbers differ, and what many comparisons cost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

# Resampled values held in memory at a time: 32 MiB of float64, whatever the number of items.
_BATCH = 2**22


class Interval(NamedTuple):
    """An estimate between its lower and upper bound, all in the unit of the data."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference between its bounds, and the two-sided p-value of no difference."""

    estimate: float
    low: float
    high: float
    p: float


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap interval of a statistic, resampling the values.

    Values that are all equal give an interval of width zero; for a share of 0 or 1 use
    :func:`proportion_interval`. One value alone says nothing about its spread: the bounds are then NaN.

    Args:
        values: one number an item, shape ``(n,)``, in any unit.
        statistic: maps values to a number; it is fast if it takes ``axis``, as NumPy's do.
        level: share of such intervals that hold the true value.
        resamples: how many bootstrap samples are drawn.
        seed: of the random generator; the same seed gives the same interval.

    Raises:
        ValueError: there is no value, or one is not finite.

    Source:
        Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), section 13.3.

    Example:
        >>> bootstrap_interval([0.0, 1.0, 1.0, 1.0]).estimate
        0.75
    """
    sample = _finite(values, "values")
    estimate = float(statistic(sample))
    if len(sample) == 1:
        return Interval(estimate, np.nan, np.nan)
    bounds = stats.bootstrap(
        (sample,),
        statistic,
        n_resamples=resamples,
        batch=max(1, _BATCH // len(sample)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, float(bounds.low), float(bounds.high))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """How much ``a`` exceeds ``b`` on the same items: mean, bootstrap interval and permutation p-value.

    The p-value flips the signs of the differences: all 2**n ways if those are no more than ``resamples``, and else a
    random choice of them. It is never zero.

    Args:
        a: one number an item, shape ``(n,)``.
        b: the same items in the same order, in the same unit.
        level: share of such intervals that hold the true difference.
        resamples: how many bootstrap samples and how many sign flips are drawn.
        seed: of the random generators.

    Raises:
        ValueError: the lengths differ, there are fewer than two items, or a number is not finite.

    Example:
        >>> paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).p
        0.25
    """
    differences = np.subtract(*_paired(a, b, "a", "b"))
    interval = bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, _BATCH // len(differences)),
        rng=np.random.default_rng(seed),
    )
    return Difference(*interval, float(test.pvalue))


def proportion_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share; it keeps its width where every trial ended the same way.

    Raises:
        ValueError: there is no trial, or not 0 <= successes <= n.

    Source:
        Wilson, *Journal of the American Statistical Association* 22 (1927).

    Example:
        >>> [round(bound, 3) for bound in proportion_interval(10, 10)]
        [1.0, 0.722, 1.0]
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes in {n} trials: need 0 <= successes <= n and n of at least 1")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, float(low), float(high))


def clustered_interval(
    values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of values that come in clusters, with a bootstrap interval that resamples whole clusters.

    Values of one cluster, such as texts of one phrase, are no independent evidence. Where every value is 0, or every
    one 1, it is Wilson's interval with as many trials as there are clusters: the bootstrap would give no width. One
    cluster alone says nothing about the spread of the rest: the bounds are then NaN.

    Args:
        values: shape ``(n,)``.
        clusters: the cluster of each value, shape ``(n,)``, of any kind that can be sorted.
        level: share of such intervals that hold the true mean.
        resamples: how many bootstrap samples are drawn.
        seed: of the random generator.

    Raises:
        ValueError: the lengths differ, there is no value, or one is not finite.

    Example:
        >>> [round(bound, 2) for bound in clustered_interval([1, 1, 1, 1], ["a", "a", "b", "b"])]
        [1.0, 0.34, 1.0]
    """
    sample, groups = _finite(values, "values"), np.asarray(clusters)
    if groups.shape != sample.shape:
        raise ValueError(f"{len(sample)} values and clusters of shape {groups.shape}; pass one cluster a value")
    places = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(places, sample), np.bincount(places)
    if (sample == sample[0]).all() and sample[0] in (0.0, 1.0):
        return proportion_interval(int(sample[0]) * len(sums), len(sums), level=level)
    if len(sums) == 1:
        return Interval(float(sample.mean()), np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def adjust(pvalues: ArrayLike, method: str = "holm") -> NDArray[np.float64]:
    """P-values corrected for being many: reject where the corrected one is below the level.

    Args:
        pvalues: shape ``(n,)``, each between 0 and 1.
        method: ``"holm"`` bounds the chance of any false rejection, ``"fdr_bh"`` (Benjamini and Hochberg) the
            expected share of false ones.

    Raises:
        ValueError: the method is another one, or a p-value is not between 0 and 1.

    Example:
        >>> adjust([0.01, 0.04]).tolist()
        [0.02, 0.04]
    """
    if method not in ("holm", "fdr_bh"):
        raise ValueError(f"unknown method {method!r}; use 'holm' or 'fdr_bh'")
    values = _finite(pvalues, "pvalues")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("p-values lie between 0 and 1; pass p-values, not test statistics")
    return np.asarray(multipletests(values, method=method)[1], dtype=np.float64)


def correlation_interval(
    x: ArrayLike, y: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Pearson's r with a percentile bootstrap interval over the rows (no normality assumed).

    Args:
        x: shape ``(n,)``.
        y: the same rows in the same order.
        level: share of such intervals that hold the true correlation.
        resamples: how many bootstrap samples are drawn.
        seed: of the random generator.

    Raises:
        ValueError: the lengths differ, there are fewer than two rows, a number is not finite, or a side is
            constant.

    Example:
        >>> round(correlation_interval([1, 2, 3, 4], [2, 1, 4, 3]).estimate, 6)
        0.6
    """
    left, right = _paired(x, y, "x", "y")
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ValueError("the correlation with a constant is undefined; leave out the constant side")
    rng, n = np.random.default_rng(seed), len(left)
    resampled = (rng.integers(n, size=n) for _ in range(resamples))
    drawn = [_pearson(left[rows], right[rows]) for rows in resampled]
    # A resample of few rows can repeat a single one: it has no correlation and says nothing about the spread.
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_pearson(left, right), float(low), float(high))


def clustered_rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Spearman's rank correlation with a percentile bootstrap interval that resamples whole clusters of rows.

    Args:
        x: shape ``(n,)``.
        y: the same rows in the same order.
        clusters: the cluster of each row, such as the thing that several measurements are of.
        level: share of such intervals that hold the true correlation.
        resamples: how many bootstrap samples are drawn.
        seed: of the random generator.

    Raises:
        ValueError: the lengths differ, there are fewer than two rows, a number is not finite, or a side is
            constant.

    Example:
        >>> clustered_rank_correlation([1, 2, 3, 4], [10, 20, 40, 30], ["a", "a", "b", "b"]).estimate
        0.8
    """
    left, right = _paired(x, y, "x", "y")
    groups = np.asarray(clusters)
    if groups.shape != left.shape:
        raise ValueError(f"{len(left)} rows and clusters of shape {groups.shape}; pass one cluster a row")
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ValueError("the correlation with a constant is undefined; leave out the constant side")
    estimate = _pearson(stats.rankdata(left), stats.rankdata(right))
    places = np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(places == one) for one in range(places.max() + 1)]
    if len(members) == 1:
        return Interval(estimate, np.nan, np.nan)
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = np.concatenate([members[one] for one in rng.integers(len(members), size=len(members))])
        drawn.append(_pearson(stats.rankdata(left[rows]), stats.rankdata(right[rows])))
    # A resample of one cluster alone can have a constant side: it has no correlation.
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def mantel(a: ArrayLike, b: ArrayLike, *, permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """Pearson's r of the entries of two square tables over the same things, and its two-sided p-value.

    Entries of one thing depend on each other, so the test renames the things of one table and not its entries.

    Args:
        a: shape ``(n, n)``; entries that are NaN in one of the tables are left out.
        b: the same things in the same order.
        permutations: how often things are renamed.
        seed: of the random generator.

    Raises:
        ValueError: the tables are not square, or not of one shape.

    Source:
        Mantel, *Cancer Research* 27 (1967).
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 2 or left.shape[0] != left.shape[1] or left.shape != right.shape:
        raise ValueError(f"tables of shapes {left.shape} and {right.shape}; pass two square ones over the same things")

    def correlation(order: NDArray[np.int64]) -> float:
        renamed = right[np.ix_(order, order)]
        both = ~(np.isnan(left) | np.isnan(renamed))
        return _pearson(left[both], renamed[both])

    rng = np.random.default_rng(seed)
    r = correlation(np.arange(len(left)))
    drawn = np.array([correlation(rng.permutation(len(left))) for _ in range(permutations)])
    return r, float((1 + (np.abs(drawn) >= abs(r) - 1e-12).sum()) / (1 + permutations))


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's r; NaN where a side is constant."""
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(invalid="ignore"):
        return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values as a vector, or an error: a value that is dropped in silence would bias the result."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} has shape {vector.shape}; pass a non-empty list of numbers")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} holds {np.sum(~np.isfinite(vector))} NaN or infinity; drop and count them first")
    return vector


def _paired(a: ArrayLike, b: ArrayLike, first: str, second: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two vectors over the same rows."""
    left, right = _finite(a, first), _finite(b, second)
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(
            f"{first} has {len(left)} values and {second} has {len(right)}; pass at least two, "
            "the same items in the same order"
        )
    return left, right
