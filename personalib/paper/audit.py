"""What scores published as percentages of a known number of items can tell without the answers behind them."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy import stats as tests
from statsmodels.stats import proportion

from personalib.base.statistics import Difference, Interval, adjust

# Weight of the equation "the shares sum to one" among equations in percent: it holds to about six digits.
_SUM_TO_ONE = 1e4


class WeightFit(NamedTuple):
    """Shares of categories that turn category scores into their average, and the root mean square of what is left."""

    weights: pd.Series
    residual: float


def item_counts(percent: ArrayLike, items: int) -> NDArray[np.int64]:
    """How many of the items a percentage stands for, rounded to whole items; a ValueError outside of 0..100.

    Example:
        >>> item_counts([50.0, 7.1], 1000).tolist()
        [500, 71]
    """
    values = np.asarray(percent, dtype=np.float64)
    if items < 1:
        raise ValueError(f"{items} items: need at least one")
    if not ((values >= 0) & (values <= 100)).all():
        raise ValueError("a percentage is not in 0..100; pass scores, not changes of scores")
    return np.rint(values / 100 * items).astype(np.int64)


def share_difference(before: int, after: int, items: int, *, level: float = 0.95) -> Difference:
    """How much a share has grown, in -1..1, from two counts over ``items`` that are taken as independent.

    The interval is Newcombe's of two Wilson intervals (*Statistics in Medicine* 17, 1998, method 10), the p-value the
    pooled score test's. Counts that are not in 0..items are a ValueError.

    Example:
        >>> [round(value, 3) for value in share_difference(500, 540, 1000)]
        [0.04, -0.004, 0.084, 0.073]
    """
    _check_counts(before, after, items)
    low, high = proportion.confint_proportions_2indep(after, items, before, items, method="newcomb", alpha=1 - level)
    if before == after:
        # The score test divides nothing by nothing where both counts are at the same end.
        return Difference(0.0, float(low), float(high), 1.0)
    test = proportion.test_proportions_2indep(after, items, before, items, method="score", correction=False)
    return Difference((after - before) / items, float(low), float(high), float(test.pvalue))


def pairing_bounds(before: int, after: int, items: int) -> tuple[float, float]:
    """The smallest and the largest p-value that a paired test could give for two counts over the same items.

    The counts fix how many more items changed one way than the other, but not how many changed at all. The bounds are
    McNemar's exact test (*Psychometrika* 12, 1947) with as few and with as many changed items as the counts allow;
    counts that are not in 0..items are a ValueError.

    Example:
        >>> pairing_bounds(0, 2, 10)
        (0.5, 0.5)
    """
    _check_counts(before, after, items)
    moved, most = abs(after - before), min(before + after, 2 * items - before - after)
    if not moved:
        return 1.0, 1.0
    few, many = 2 * tests.binom.cdf([0, (most - moved) // 2], [moved, most], 0.5)
    return min(1.0, float(few)), min(1.0, float(many))


def change_table(before: pd.DataFrame, after: pd.DataFrame, items: int, *, level: float = 0.95) -> pd.DataFrame:
    """Every change between two wide tables of scores in percent, with its interval and its tests.

    Returns:
        One row a cell, with the index of ``before.stack()``: ``before, after, change, low`` and ``high`` in points;
        ``p`` of :func:`share_difference` and ``p_paired``, the largest of :func:`pairing_bounds`; ``holm`` and ``fdr``,
        ``p`` corrected for all cells, and ``holm_paired``. Tables of different rows or columns are a ValueError.
    """
    if not (before.index.equals(after.index) and before.columns.equals(after.columns)):
        raise ValueError("the tables have different rows or columns; bring them into one order first")
    cells = pd.DataFrame({"before": before.stack(), "after": after.stack()})
    first, second = (item_counts(cells[name], items).tolist() for name in ("before", "after"))
    counts = list(zip(first, second, strict=True))
    differences = pd.DataFrame([share_difference(a, b, items, level=level) for a, b in counts], index=cells.index)
    cells[["change", "low", "high"]] = 100 * differences[["estimate", "low", "high"]]
    cells["p"] = differences["p"]
    cells["p_paired"] = [pairing_bounds(a, b, items)[1] for a, b in counts]
    for name, source, method in (("holm", "p", "holm"), ("fdr", "p", "fdr_bh"), ("holm_paired", "p_paired", "holm")):
        cells[name] = adjust(cells[source], method)
    return cells


def detectable_change(score: float, items: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest change of a score, in points, that two independent sets of items reveal with a chance of ``power``.

    The change is toward the middle of the scale; away from it a smaller one is enough. ``alpha`` is the level of the
    two-sided test; divide it by the number of comparisons for Bonferroni's correction. Where even a change to the other
    end of the scale would be missed that is a ValueError.

    Example:
        >>> round(detectable_change(50.0, 1000), 1)
        6.2
    """
    if not 0 < score < 100:
        raise ValueError(f"score {score:g}: need one inside of 0..100")
    start = min(score, 100 - score) / 100

    def missing(change: float) -> float:
        return (
            float(proportion.power_proportions_2indep(change, start, items, alpha=alpha, return_results=False)) - power
        )

    top = 1 - start - 1e-9
    if missing(top) < 0:
        raise ValueError(f"{items} items are too few to find any change at this level and power")
    return 100 * float(optimize.brentq(missing, 1e-9, top))


def largest_by_chance(
    score: float, items: int, *, elements: int, traits: int, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """The largest of many changes, in points, where nothing has changed but the items that were drawn.

    Every element and every trait has the same true score, in percent, on items drawn afresh, and all elements are
    compared with one unsteered score a trait. The estimate is the median over ``draws`` of the whole table.
    """
    if not 0 <= score <= 100:
        raise ValueError(f"score {score:g}: need one in 0..100")
    rng = np.random.default_rng(seed)
    before = rng.binomial(items, score / 100, size=(draws, 1, traits))
    after = rng.binomial(items, score / 100, size=(draws, elements, traits))
    largest = 100 / items * np.abs(after - before).max(axis=(1, 2))
    low, middle, high = np.quantile(largest, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(float(middle), float(low), float(high))


def cosine_after_push(push: ArrayLike, cosine: float = 0.0) -> NDArray[np.float64]:
    """Cosine of a stream with itself after a vector was added to it.

    An RMS norm without its learned gain leaves directions alone, so this is also the cosine of the normalised streams.
    ``push``, not negative, is the vector's length in units of the stream's, ``cosine`` that of the two before.

    Example:
        >>> cosine_after_push([0.0, 3.0]).round(2).tolist()
        [1.0, 0.32]
    """
    ratio = _pushes(push, cosine)
    return (1 + ratio * cosine) / np.sqrt(1 + 2 * ratio * cosine + ratio**2)


def cosine_of_pushed(push: ArrayLike, cosine: float = 0.0) -> NDArray[np.float64]:
    """Cosine of two streams of one length after the same vector, at right angles to both, was added to them.

    ``push``, not negative, is the vector's length in units of the streams', ``cosine`` that of the two before.

    Example:
        >>> cosine_of_pushed([0.0, 3.0]).tolist()
        [0.0, 0.9]
    """
    ratio = _pushes(push, cosine)
    return (cosine + ratio**2) / (1 + ratio**2)


def infer_weights(scores: pd.DataFrame, average: pd.Series) -> WeightFit:
    """Which share of the items each category has, from scores by condition (rows) and category, and their average.

    Least squares with shares that are not negative and sum to one; fewer conditions than categories, or other ones, are
    a ValueError.
    """
    if not scores.index.equals(average.index):
        raise ValueError("scores and averages are of different conditions; bring them into one order first")
    if len(scores) < scores.shape[1]:
        raise ValueError(f"{len(scores)} conditions cannot fix {scores.shape[1]} shares; pass at least as many")
    rows = np.vstack([scores.to_numpy(dtype=np.float64), np.full(scores.shape[1], _SUM_TO_ONE)])
    weights = optimize.nnls(rows, np.append(average.to_numpy(dtype=np.float64), _SUM_TO_ONE))[0]
    left = scores.to_numpy() @ weights - average.to_numpy()
    return WeightFit(pd.Series(weights, index=scores.columns), float(np.sqrt(np.mean(left**2))))


def weight_intervals(
    scores: pd.DataFrame, average: pd.Series, *, step: float = 0.1, level: float = 0.95, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """How far rounding to the last printed digit, ``step``, moves :func:`infer_weights`, and no wrong table.

    By category: ``estimate``, ``low`` and ``high``.
    """
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(draws):
        moved = scores + step * (rng.random(scores.shape) - 0.5)
        drawn.append(infer_weights(moved, average + step * (rng.random(len(average)) - 0.5)).weights)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"estimate": infer_weights(scores, average).weights, "low": low, "high": high})


def dilution_share(
    base: float, observed: float, chance: float, items: int, *, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> Interval:
    """Which share of the answers, replaced by a random option, would bring an accuracy down to the observed one.

    ``(base - observed) / (base - chance)``, in percent each: 0 where nothing is gone, 1 at the chance line, above 1
    below it. The bounds come from drawing both accuracies anew, as independent ones; the chance line is taken as exact,
    and a base that equals it is a ValueError.

    Example:
        >>> dilution_share(52.0, 44.0, 36.0, 10_000).estimate
        0.5
    """
    if base == chance:
        raise ValueError("base and chance are equal: dilution changes nothing, so it explains nothing")
    counts = item_counts([base, observed], items)
    rng = np.random.default_rng(seed)
    first, second = 100 / items * rng.binomial(items, counts[:, None] / items, size=(2, draws))
    low, high = np.quantile((first - second) / (first - chance), [(1 - level) / 2, (1 + level) / 2])
    return Interval((base - observed) / (base - chance), float(low), float(high))


def rank_permutation(x: ArrayLike, y: ArrayLike, *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of Spearman's rank correlation when the labels ``x`` are dealt anew to as many values ``y``.

    Example:
        >>> round(rank_permutation([1, 2, 3, 4], [1, 2, 3, 4]), 3)
        0.083
    """
    labels, values = tests.rankdata(x), tests.rankdata(y)
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels and {len(values)} values; pass one label a value")
    deal = tests.PermutationMethod(n_resamples=resamples, rng=np.random.default_rng(seed))
    return float(tests.pearsonr(labels, values, method=deal).pvalue)


def common_share(changes: ArrayLike) -> float:
    """Share of the sum of squared changes that one profile accounts for; of n unrelated rows it is 1/n on average.

    Example:
        >>> common_share([[1.0, 0.0], [0.0, 1.0]])
        0.5
    """
    table = np.asarray(changes, dtype=np.float64)
    return float(len(table) * (table.mean(axis=0) ** 2).sum() / (table**2).sum())


def one_profile_share(changes: ArrayLike) -> float:
    """Share of the sum of squared changes that one profile accounts for if each row has a strength of its own.

    Example:
        >>> one_profile_share([[1.0, 0.0], [3.0, 0.0]])
        1.0
    """
    sizes = np.linalg.svd(np.asarray(changes, dtype=np.float64), compute_uv=False) ** 2
    return float(sizes[0] / sizes.sum())


def _check_counts(before: int, after: int, items: int) -> None:
    if not (0 <= before <= items and 0 <= after <= items) or items < 1:
        raise ValueError(f"{before} and {after} of {items} items: need counts in 0..items and at least one item")


def _pushes(push: ArrayLike, cosine: float) -> NDArray[np.float64]:
    ratio = np.asarray(push, dtype=np.float64)
    if (ratio < 0).any() or not -1 <= cosine <= 1:
        raise ValueError("a push is negative or the cosine is not in -1..1; turn the vector around instead")
    return ratio
