"""Agreement of rows of :func:`personalib.evaluation.estimates.effects` with true effects, or those of words.

Elements of one factor are each other's opposites and no independent evidence: bootstraps resample whole factors.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, two_way_interval
from personalib.evaluation.arms import RANDOM
from personalib.stimuli.factors import POLES

NAMES = ["key", "pole", "group"]
Array = NDArray[np.float64]
_UNKNOWN = Interval(np.nan, np.nan, np.nan)


def cluster(key: str) -> str:
    """What a key is no independent evidence beside: the factor of an element, and a pressure itself."""
    return key.split(".")[0]


def sound(effects: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Measured effects beside others of the same thing; what has collapsed, or could not be read, is left out.

    Where both have a column ``item``, as of :func:`personalib.evaluation.estimates.item_effects`, item by item.
    """
    known = effects[~effects["collapsed"]].dropna(subset=["effect"])
    by_item = known.columns.intersection(["item"]).intersection(reference.columns)
    return known.merge(reference, on=[*NAMES, *by_item], validate="many_to_one")


def cells(table: pd.DataFrame, columns: Sequence[str]) -> tuple[Array, NDArray[np.str_]]:
    """Columns as :func:`~personalib.base.intervals.two_way_interval` takes them, and the cluster of each row.

    The table has one row a key, pole and group, or one a key, pole, group and ``item``; a pole may be lacking.
    """
    known = table.dropna(subset=list(columns)).assign(**({} if "item" in table else {"item": 0}))
    rows, by_group = known.groupby(["key", *known.columns.intersection(["pole"])]), known.groupby("group")
    groups, items = by_group.ngroup(), by_group["item"].transform(lambda own: own.factorize()[0])
    shape = [1 + int(places.max()) for places in (rows.ngroup(), groups, items)]
    values = np.full((len(columns), *shape), np.nan)
    values[:, rows.ngroup(), groups, items] = known[list(columns)].to_numpy(dtype=np.float64).T
    return values, np.array([cluster(key) for key in rows["key"].first()])


def correlations(effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """:func:`truth_correlation` by method, and :func:`random_correlation` of random directions."""
    return {
        str(method): (random_correlation if method == RANDOM else truth_correlation)(rows, truth, seed=seed)
        for method, rows in effects.groupby("method", sort=False)
    }


def truth_correlation(
    effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0, *, of_ceiling: bool = False
) -> Interval:
    """Spearman's correlation of one method's effects with true ones in any unit; collapsed arms are left out.

    Its 95 % interval resamples factors or pressures, and items where effects have a column ``item``. With
    ``of_ceiling`` it is in units of its :func:`rank_ceiling`, each resample of its own. It is missing where fewer than
    two keys are left, or where all of their effects, measured or true, are the same.
    """
    both = sound(effects, truth)
    if both["key"].nunique() < 2 or both[["truth", "effect"]].nunique().min() < 2:
        return _UNKNOWN
    values, clusters = cells(both, ["truth", "effect"])

    def correlation(means: Array) -> float:
        return float(_ranked(means)[0]) / (_ceiling(means[0]) if of_ceiling else 1.0)

    return two_way_interval(correlation, values, clusters, limits=(-1.0, 1.0), seed=seed)


def truth_difference(
    one: pd.DataFrame, other: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """How much better one method's effects correlate with the true ones than another's, on what both could be read on.

    The interval is that of :func:`truth_correlation`; all methods are resampled alike. Fewer than two factors or
    pressures, or several doses of a method, are a ValueError.
    """
    first, second = sound(one, truth), sound(other, truth)
    names = [*NAMES, "truth", *first.columns.intersection(["item"])]
    if first.duplicated(names).any() or second.duplicated(names).any():
        raise ValueError("a key has several effects on one group; compare one dose of each method")
    both = first.merge(second, on=names, suffixes=("", "_other"))
    if both["key"].map(cluster).nunique() < 2:
        raise ValueError("fewer than two factors or pressures are left to compare the methods on")
    values, clusters = cells(both, ["truth", "effect", "effect_other"])

    return two_way_interval(
        lambda means: float(np.subtract(*_ranked(means))), values, clusters, resamples=resamples, seed=seed
    )


def _ranked(means: Array) -> Array:
    """Spearman's correlations of the first measure with each of the others; NaN where one of two is constant."""
    rows = means.reshape(len(means), -1)
    ranks = stats.rankdata(rows[:, ~np.isnan(rows).any(axis=0)], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(ranks)[0, 1:]


def rank_ceiling(truth: pd.DataFrame) -> float:
    """Spearman's correlation that a method would reach whose effects have the true order, with none the same.

    It is below one where many true effects are the same, such as zero: measured ones never are.
    """
    return _ceiling(truth["truth"].to_numpy(dtype=np.float64))


def _ceiling(values: Array) -> float:
    """Spearman's correlation of values, NaN left out, with ranks of which none are the same."""
    known = values[~np.isnan(values)]
    # Whatever the order of the tied ones, they have the same mean rank.
    return float(_ranked(np.stack([known, known.argsort(kind="stable").argsort()]))[0])


def random_correlation(effects: pd.DataFrame, truth: pd.DataFrame, deals: int = 500, seed: int = 0) -> Interval:
    """What random directions would come to: each is dealt to one key, as if it stood for that, many times.

    An element's vector is what it has beyond the others of its factor, so that a factor of two has one direction, both
    ways. So have the deals: of the effects dealt to an element, the mean of those dealt to the others is taken off.

    It is the mean of Spearman's correlation with the true effects of positive poles over deals, and the middle 95 % of
    them. Directions that have collapsed, or are partly unread, are left out; it is missing where none is left.
    """
    wanted = truth[truth["pole"] == POLES[0]].pivot(index="key", columns="group", values="truth")
    known = effects[~effects["collapsed"] & effects["group"].isin(wanted.columns)]
    # A group that no direction could be read on is missing for all.
    read = known.pivot(index="key", columns="group", values="effect").dropna(axis=1, how="all").dropna()
    if read.empty:
        return _UNKNOWN
    keys, measured = list(wanted.index), read.to_numpy()
    factors = wanted.index.map(cluster).to_numpy()
    others = (factors[:, None] == factors) & ~np.eye(len(keys), dtype=bool)
    contrasts = np.eye(len(keys)) - others / np.maximum(others.sum(1, keepdims=True), 1)

    def deal(rng: np.random.Generator) -> Array:
        return contrasts @ measured[list(dealt(len(measured), keys, rng).values())]

    return _null(wanted[list(read.columns)].to_numpy(), deal, deals, seed)


def wrong_correlation(effects: pd.DataFrame, truth: pd.DataFrame, deals: int = 500, seed: int = 0) -> Interval:
    """What one method's own effects come to where all stand for wrong keys: each factor, or pressure, for another.

    These effects are as large, and as alike, as the method's own. The numbers are those of :func:`random_correlation`,
    over deals of whole factors of which none keeps its own; both poles of a key are dealt as one.
    """
    both = sound(effects, truth).pivot(index="key", columns=["pole", "group"], values=["truth", "effect"])
    factors = both.index.map(cluster).to_numpy()
    names = np.unique(factors)
    if len(names) < 2:
        return _UNKNOWN

    def deal(rng: np.random.Generator) -> Array:
        order, places = rng.permutation(names), np.empty(len(both), dtype=np.int64)
        for name, other in zip(order, np.roll(order, 1), strict=True):
            own, theirs = np.flatnonzero(factors == name), np.flatnonzero(factors == other)
            places[own] = theirs[list(dealt(len(theirs), both.index[own], rng).values())]
        return both["effect"].to_numpy()[places]

    return _null(both["truth"].to_numpy(), deal, deals, seed)


def _null(wanted: Array, deal: Callable[[np.random.Generator], Array], deals: int, seed: int) -> Interval:
    """The mean and the middle 95 % of Spearman's correlation over deals."""
    rng = np.random.default_rng([seed, 37])
    found = [float(_ranked(np.stack([wanted, deal(rng)]))[0]) for _ in range(deals)]
    return Interval(float(np.mean(found)), *map(float, np.quantile(found, [0.025, 0.975])))


def dealt(count: int, keys: Collection[str], rng: np.random.Generator) -> dict[str, int]:
    """Random directions dealt to keys: each key gets the number of one, no two the same while there are enough."""
    if count < 1:
        raise ValueError("there are no directions to deal; draw at least one")
    order = np.concatenate([rng.permutation(count) for _ in range(-(-len(keys) // count) or 1)])
    return dict(zip(keys, map(int, order), strict=False))


def standing_for(effects: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Effects in which each random direction goes by a key, as if it stood for that; further ones are left out."""
    random = effects["method"] == RANDOM
    names = dict(zip(effects.loc[random, "key"].unique(), keys, strict=False))
    named = effects[random & effects["key"].isin(names)]
    return pd.concat([effects[~random], named.assign(key=named["key"].map(names))])
