"""Correlations with intervals and tests that know what rows have in common."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from personalib.base.intervals import BATCH, Array, Interval, expanded_bounds, paired, places_of


def correlation_interval(
    x: ArrayLike, y: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Pearson's r with a percentile bootstrap interval over the rows (no normality assumed).

    Both sides have the same rows in the same order, shape ``(n,)``; percentiles and options are those of
    :func:`~personalib.base.intervals.bootstrap_interval`. Of 8, 12, 20, 50 and 100 normal rows it covered a correlation
    of 0.6 in 0.97, 0.95, 0.94, 0.94 and 0.94 of simulated cases. Lengths that differ, fewer than two rows, a number
    that is not finite, and a constant side are a ValueError.
    """
    left, right = _varying(x, y)
    # In units of their spread, so that what is rounding does not depend on the data's.
    first, second = ((side - side.mean()) / side.std() for side in (left, right))
    drawn = _resampled(partial(_weighted_pearson, first, second), np.arange(len(left)), resamples, seed)
    low, high = expanded_bounds(drawn, level, len(left))
    return Interval(_pearson(left, right), low, high)


def clustered_rank_correlation(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation with a percentile bootstrap interval that resamples whole clusters of rows.

    Values and clusters have the same rows in the same order, shape ``(n,)``; a cluster is, for instance, the thing that
    several measurements are of. With 8, 20 and 40 clusters of four rows that nearly agree it covered a correlation of
    0.57 in 0.97, 0.95 and 0.95 of simulated cases. Errors are those of :func:`correlation_interval`.

    Example:
        >>> clustered_rank_correlation([1, 2, 3, 4], [10, 20, 40, 30], ["a", "a", "b", "b"]).estimate
        0.8
    """
    left, right = _varying(x, y)
    places = places_of(clusters, left, "row")
    estimate = _pearson(stats.rankdata(left), stats.rankdata(right))
    if places.max() == 0:
        return Interval(estimate, np.nan, np.nan)

    def correlations(weights: Array) -> Array:
        return _weighted_pearson(_weighted_ranks(left, weights), _weighted_ranks(right, weights), weights)

    # Not widened: repeated clusters repeat rows that agree, which already makes the resamples vary too much.
    drawn = _resampled(correlations, places, resamples, seed)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def mantel(a: ArrayLike, b: ArrayLike, *, permutations: int = 999, seed: int = 0) -> tuple[float, float]:
    """Pearson's r of the entries of two square tables over the same things, and its two-sided p-value.

    Both have the shape ``(n, n)``; entries that are NaN in one of them are left out. Entries of one thing depend on
    each other, so the test renames the things of one table (so many times) and not its entries. Tables that are not
    square, or not of one shape, are a ValueError.

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


def _resampled(statistic: Callable[[Array], Array], places: NDArray[np.int64], resamples: int, seed: int) -> Array:
    """The statistic in each resample of the units that rows belong to, given how often each row was drawn."""
    rng, units, step = np.random.default_rng(seed), int(places.max()) + 1, max(1, BATCH // len(places))
    batches = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        batches.append(statistic(counts[:, places].astype(np.float64)))
    return np.concatenate(batches)


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Mean ranks where each value stands as often as it weighs; weights and result of shape ``(resamples, n)``."""
    levels, places = np.unique(values, return_inverse=True)
    order = np.argsort(places, kind="stable")
    last = np.searchsorted(places[order], np.arange(len(levels)), side="right") - 1
    upto = weights[:, order].cumsum(1)[:, last]
    below = np.hstack([np.zeros((len(upto), 1)), upto[:, :-1]])
    return ((below + upto + 1) / 2)[:, places]


def _weighted_pearson(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's r of each row of weights, shape ``(resamples, n)``; NaN where a side is constant."""
    total = weights.sum(1, keepdims=True)
    x, y = (side - (weights * side).sum(1, keepdims=True) / total for side in (x, y))
    across, *spreads = ((weights * product).sum(1) / total[:, 0] for product in (x * y, x * x, y * y))
    # A variance this small, of ranks or of data in units of their spread, is rounding.
    left, right = (np.where(variance > 1e-20, variance, np.nan) for variance in spreads)
    return np.clip(across / np.sqrt(left * right), -1.0, 1.0)


def _pearson(x: Array, y: Array) -> float:
    """Pearson's r; NaN where a side is constant."""
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(invalid="ignore"):
        return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _varying(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Two vectors that have a correlation."""
    left, right = paired(x, y, "x", "y")
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        raise ValueError("the correlation with a constant is undefined; leave out the constant side")
    return left, right
