"""Agreement of rows of :func:`personalib.evaluation.estimates.effects` with true effects, or those of words.

Elements of one factor are each other's opposites and no independent evidence: bootstraps resample whole factors.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, clustered_rank_correlation, resampled_interval
from personalib.evaluation.arms import RANDOM
from personalib.stimuli.factors import POLES

NAMES = ["key", "pole", "group"]
_UNKNOWN = Interval(np.nan, np.nan, np.nan)


def cluster(key: str) -> str:
    """What a key is no independent evidence beside: the factor of an element, and a pressure itself."""
    return key.split(".")[0]


def sound(effects: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Measured effects beside others of the same thing; what has collapsed, or could not be read, is left out."""
    known = effects[~effects["collapsed"]].dropna(subset=["effect"])
    return known.merge(reference, on=NAMES, validate="many_to_one")


def correlations(effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """:func:`truth_correlation` by method, and :func:`random_correlation` of random directions."""
    return {
        str(method): (random_correlation if method == RANDOM else truth_correlation)(rows, truth, seed=seed)
        for method, rows in effects.groupby("method", sort=False)
    }


def truth_correlation(effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> Interval:
    """Spearman's correlation of one method's effects with true ones in any unit; collapsed arms are left out.

    It is missing where fewer than two keys are left, or where all of their effects, measured or true, are the same.
    """
    both = sound(effects, truth)
    if both["key"].nunique() < 2 or both[["truth", "effect"]].nunique().min() < 2:
        return _UNKNOWN
    return clustered_rank_correlation(both["truth"], both["effect"], both["key"].map(cluster), seed=seed)


def truth_difference(
    one: pd.DataFrame, other: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """How much better one method's effects correlate with the true ones than another's, on what both could be read on.

    Raises:
        ValueError: fewer than two factors or pressures are left, or a method has several doses.
    """
    names = [*NAMES, "truth"]
    first, second = sound(one, truth), sound(other, truth)
    if first.duplicated(names).any() or second.duplicated(names).any():
        raise ValueError("a key has several effects on one group; compare one dose of each method")
    both = first.merge(second, on=names, suffixes=("", "_other"))
    clusters = [rows for _, rows in both.groupby(both["key"].map(cluster))]
    if len(clusters) < 2:
        raise ValueError("fewer than two factors or pressures are left to compare the methods on")

    def difference(places: NDArray[np.int64]) -> float:
        table = pd.concat([clusters[place] for place in places])
        ranks = table[["truth", "effect", "effect_other"]].rank()
        return float(ranks["truth"].corr(ranks["effect"]) - ranks["truth"].corr(ranks["effect_other"]))

    return resampled_interval(difference, len(clusters), resamples=resamples, seed=seed)


def rank_ceiling(truth: pd.DataFrame) -> float:
    """Spearman's correlation that a method would reach whose effects have the true order, with none the same.

    It is below one where many true effects are the same, such as zero: measured ones never are.
    """
    values = truth["truth"].to_numpy(dtype=float)
    # Whatever the order of the tied ones, they have the same mean rank.
    untied = np.empty(len(values))
    untied[np.argsort(values, kind="stable")] = np.arange(len(values))
    return float(stats.spearmanr(values, untied).statistic)


def random_correlation(effects: pd.DataFrame, truth: pd.DataFrame, deals: int = 500, seed: int = 0) -> Interval:
    """What random directions would come to: each is dealt to one key, as if it stood for that, many times.

    It is the mean of Spearman's correlation with the true effects of positive poles over deals, and the middle 95 % of
    them. Directions that have collapsed, or are partly unread, are left out; it is missing where none is left.
    """
    wanted = truth[truth["pole"] == POLES[0]].pivot(index="key", columns="group", values="truth")
    known = effects[~effects["collapsed"] & effects["group"].isin(wanted.columns)]
    # A group that no direction could be read on is missing for all.
    read = known.pivot(index="key", columns="group", values="effect").dropna(axis=1, how="all").dropna()
    if read.empty:
        return _UNKNOWN
    true, measured = wanted[list(read.columns)].to_numpy().ravel(), read.to_numpy()
    rng = np.random.default_rng([seed, 37])
    found = []
    for _ in range(deals):
        places = list(dealt(len(measured), list(wanted.index), rng).values())
        found.append(float(stats.spearmanr(true, measured[places].ravel()).statistic))
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(np.mean(found)), float(low), float(high))


def dealt(count: int, keys: Sequence[str], rng: np.random.Generator) -> dict[str, int]:
    """Random directions dealt to keys: each key gets the number of one, no two the same while there are enough.

    Raises:
        ValueError: there are no directions.
    """
    if count < 1:
        raise ValueError("there are no directions to deal; draw at least one")
    if not keys:
        return {}
    order = np.concatenate([rng.permutation(count) for _ in range(-(-len(keys) // count))])
    return dict(zip(keys, map(int, order), strict=False))


def standing_for(effects: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Effects in which each random direction goes by a key, as if it stood for that; further ones are left out."""
    random = effects["method"] == RANDOM
    names = dict(zip(effects.loc[random, "key"].unique(), keys, strict=False))
    named = effects[random & effects["key"].isin(names)]
    return pd.concat([effects[~random], named.assign(key=named["key"].map(names))])
