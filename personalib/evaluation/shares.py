"""What a push has of other effects, such as the known ones, what it costs, and methods where they cost the same."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from personalib.base.statistics import Interval, clustered_interval, resampled_interval, two_way_interval
from personalib.evaluation.agreement import NAMES, cells, cluster
from personalib.evaluation.arms import PROMPT, RANDOM
from personalib.evaluation.estimates import ALL
from personalib.stimuli.factors import POLES

_KINDS = {"sae": "SAE feature", "repe": "contrast vector", PROMPT: "prompted", RANDOM: "random direction"}


def fidelity(steered: ArrayLike, prompted: ArrayLike) -> float:
    """The share of the effects of saying it that steering reproduces; missing effects are left out.

    1 minus the ratio of the sums of squares of what is missed and of what is wanted: 1 if all of them, 0 if it misses
    as much as doing nothing, and missing where nothing is wanted.
    """
    done, said = np.asarray(steered, dtype=np.float64), np.asarray(prompted, dtype=np.float64)
    known = ~np.isnan(done + said)
    wanted = float((said[known] ** 2).sum())
    return 1 - float(((done[known] - said[known]) ** 2).sum()) / wanted if wanted else np.nan


def fidelity_interval(effects: pd.DataFrame, *, seed: int = 0) -> Interval:
    """:func:`fidelity` of ``effect`` to ``prompted``, one row a key, pole and group, or of these an ``item``.

    Its 95 % interval resamples factors or pressures of ``key``, and items where they are told apart.
    """
    values, clusters = cells(effects, ["effect", "prompted"])
    return two_way_interval(lambda means: fidelity(*means), values, clusters, limits=(-np.inf, 1.0), seed=seed)


def known_shares(effects: pd.DataFrame, truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How much of each known effect each dose has: the effects' projection on the known ones over the groups.

    Each key stands once a dose; effects at any dose are compared with the known ones of the positive pole.

    Returns:
        A row a key and a column a dose: the shares, 1 for all of it; and whether it collapsed.
    """
    wanted = truth[truth["pole"] == POLES[0]].drop(columns="pole")
    both = effects.merge(wanted, on=["key", "group"], validate="many_to_one").dropna(subset=["effect"])
    both = both.assign(part=both["effect"] * both["truth"], whole=both["truth"] ** 2)
    sums = both.groupby(["key", "dose"])[["part", "whole"]].sum()
    order = effects["key"].unique()
    shares = (sums["part"] / sums["whole"]).unstack().reindex(order)
    return shares, effects.groupby(["key", "dose"])["collapsed"].any().unstack().loc[order, shares.columns]


def share_left(effects: pd.DataFrame, *, without: Mapping[str, str] | None = None, seed: int = 0) -> pd.DataFrame:
    """How much of the effects of saying it is left under other methods: their projection on it, over keys and groups.

    Each key and pole stands once a method, and what has collapsed is left out. For some methods another one may be
    named (``without``), whose effects are taken off first, such as those of the same ablation where nothing is told.
    Where nothing is said, or nothing else is there, it is a ValueError.

    Returns:
        One row a method but these: ``left``, ``low`` and ``high``, which resample factors or pressures, and items where
        there is a column ``item``.
    """
    kept, off = effects[~effects["collapsed"] & (effects["group"] != ALL)], dict(without or {})
    wide = kept.pivot(index=[*NAMES, *kept.columns.intersection(["item"])], columns="method", values="effect").dropna()
    for name, other in off.items():
        wide[name] = wide[name] - wide[other]
    others = [name for name in effects["method"].unique() if name not in (PROMPT, *off.values())]
    if PROMPT not in wide or not others:
        raise ValueError(
            f"the effects have the methods {', '.join(wide.columns)}; there is nothing to compare {PROMPT!r} with"
        )
    values, clusters = cells(wide.reset_index(), [PROMPT, *others])

    def left(means: NDArray[np.float64]) -> float:
        return float(np.nansum(means[0] * means[1]) / np.nansum(means[0] ** 2))

    rows = [two_way_interval(left, values[[0, n]], clusters, seed=seed) for n in range(1, len(values))]
    return pd.DataFrame(rows, index=others).rename(columns={"estimate": "left"})


def dose_lines(effects: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Effects at several doses as :func:`personalib.base.plots.dose_curve` draws them, above random directions.

    Returns:
        One row a group, kind and dose: ``group``, ``kind``, ``coefficient`` (the dose), ``value``, ``low``, ``high``
        and ``collapsed``. Random directions are one kind, ``"random control"``: their mean, the least and the most of
        any, and whether any collapsed. No steering is a row as well, where all of it is zero.
    """
    random = effects["method"] == RANDOM
    steered = effects[~random].assign(kind=lambda rows: rows["key"].map(titles))
    grouped = effects[random].groupby(["group", "dose"])
    band = grouped.agg(
        effect=("effect", "mean"), low=("effect", "min"), high=("effect", "max"), collapsed=("collapsed", "any")
    )
    columns = ["group", "kind", "dose", "effect", "low", "high", "collapsed"]
    lines = pd.concat([steered[columns], band.reset_index().assign(kind="random control")[columns]])
    lines = lines.rename(columns={"dose": "coefficient", "effect": "value"})
    zero = lines[["group", "kind"]].drop_duplicates()
    zero = zero.assign(coefficient=0.0, value=0.0, low=0.0, high=0.0, collapsed=False)
    return pd.concat([lines, zero]).sort_values("coefficient", kind="stable").reset_index(drop=True)


def gains(effects: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """How much of the known effects (``key``, ``pole``, ``group``, and ``truth``, in points) each arm has.

    Methods are called by method and family like ``"sae elements"``, or ``"random"``.

    Returns:
        One row an arm: ``arm``, ``method``, ``family``, ``kind``, ``key``, ``dose`` (its size), ``cluster`` (the factor
        of an element, see :func:`~personalib.evaluation.agreement.cluster`), ``collapsed``; ``gain``, the slope of its
        effects on the known ones without an intercept, 1 where it has all of them, missing for random directions,
        which stand for nothing; and ``off_target``, the root mean square of what is left, in points.
    """
    known = effects.merge(truth[[*NAMES, "truth"]], on=NAMES, how="left")
    return pd.DataFrame([{"arm": arm} | _gain(own) for arm, own in known.groupby("arm", sort=False)])


def _gain(own: pd.DataFrame) -> dict[str, object]:
    """One arm's row but for its number."""
    first = own.iloc[0]
    method, _, family = str(first["method"]).partition(" ")
    read = own.dropna(subset=["effect"])
    wanted, found = read["truth"].fillna(0.0), read["effect"]
    gain = float(wanted @ found / (wanted @ wanted)) if wanted.any() else np.nan
    rest = found - np.nan_to_num(gain) * wanted
    return {
        "method": method,
        "family": family,
        "kind": _KINDS.get(method, method),
        "key": first["key"],
        "dose": abs(first["dose"]),
        "cluster": cluster(str(first["key"])),
        "collapsed": bool(first["collapsed"]),
        "gain": gain,
        "off_target": float(np.sqrt((rest**2).mean())) if len(rest) else np.nan,
    }


def costs(state: pd.DataFrame, lost: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What each arm costs, by :func:`~personalib.evaluation.estimates.health` and effects on what should not change.

    Returns:
        One row an arm: ``arm``, ``mass_lost`` (percent of the unsteered answer mass), ``perplexity_gain`` (percent),
        and under each name the points that are lost; less than zero where something is gained.
    """
    found = pd.DataFrame(
        {
            "arm": state["arm"],
            "mass_lost": 100 * (1 - state["mass"]),
            "perplexity_gain": 100 * (state["perplexity"] - 1),
        }
    )
    for name, own in lost.items():
        found[name] = found["arm"].map(points_lost(own).set_axis(own["arm"]))
    return found[found["arm"] > 0].reset_index(drop=True)


def points_lost(effects: pd.DataFrame) -> pd.Series:
    """What each row's arm loses, in points, of what is right or wrong; what it can no longer answer is lost as well."""
    share_read = effects["n"] / effects["n"].max()
    return effects.loc[effects["n"].idxmax(), "base"] - effects["score"].fillna(0.0) * share_read


def at_equal_cost(
    table: pd.DataFrame,
    cost: str,
    level: float,
    *,
    minus: pd.DataFrame | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean gain of a method where its mean cost comes to a level, between two doses or at the dose before.

    The table has ``cluster``, ``dose``, ``gain`` and the cost, one row an arm, all doses of one method; of another one
    (``minus``) the gain at the same cost is taken off, and the same clusters are resampled for both. Fewer than two
    clusters are a ValueError.

    Returns:
        The estimate with its 95 % interval, whose percentiles are widened as Student's t is where clusters are few.
        Items are not resampled. A method that never costs so much has the gain of its largest dose.
    """
    parts = [table] if minus is None else [table, minus]
    names = sorted(set.intersection(*(set(part["cluster"]) for part in parts)))
    if len(names) < 2:
        raise ValueError("fewer than two factors or pressures are left to resample")
    curves = [_by_cluster(part, cost, names) for part in parts]

    def value(places: NDArray[np.int64]) -> float:
        found = [_read_off(costs[places].mean(0), gained[places].mean(0), level) for costs, gained in curves]
        return found[0] - sum(found[1:])

    return resampled_interval(value, len(names), resamples=resamples, seed=seed)


def dose_at_cost(cost: pd.Series, level: float) -> float:
    """The dose at which a cost, by dose, first comes to a level, between two doses; the largest where it never does."""
    ordered = cost.sort_index()
    return _read_off(np.append(0.0, ordered), np.append(0.0, ordered.index), level)


def specificity(effects: pd.DataFrame, truth: pd.DataFrame, moved: float = 5.0, seed: int = 0) -> pd.DataFrame:
    """What each method changes where nothing is known to change: where the known effect is less than a point.

    What stands for nothing, such as a random direction, has all of its effects there; what has collapsed is left out.

    One row a method: ``value``, the root mean square of these effects in points, from ``low`` to ``high`` (resampling
    factors or pressures, items not); ``moved``, the share of them above so many points; and ``cells``, their number.
    """
    known = effects[~effects["collapsed"]].merge(truth[[*NAMES, "truth"]], on=NAMES, how="left")
    idle = known[known["truth"].fillna(0.0).abs() < 1].dropna(subset=["effect"])
    rows = {}
    for method, own in idle.groupby("method", sort=False):
        units = own["key"].map(cluster).where(own["truth"].notna(), own["key"])
        squares = clustered_interval(own["effect"] ** 2, units, seed=seed)
        rows[method] = dict(zip(("value", "low", "high"), np.sqrt(squares), strict=True))
        rows[method] |= {"moved": (own["effect"].abs() > moved).mean(), "cells": len(own)}
    return pd.DataFrame(rows).T


def _by_cluster(table: pd.DataFrame, cost: str, names: list[str]) -> list[NDArray[np.float64]]:
    """Mean costs and gains of each cluster, shape ``(clusters, doses)``, beginning with no push."""
    means = table.groupby(["cluster", "dose"])[[cost, "gain"]].mean().unstack("dose").loc[names]
    return [np.pad(means[column].to_numpy(dtype=np.float64), ((0, 0), (1, 0))) for column in (cost, "gain")]


def _read_off(costs: NDArray[np.float64], gained: NDArray[np.float64], level: float) -> float:
    """The gain where a line over doses first comes to a cost."""
    for place in range(1, len(costs)):
        if costs[place] >= level:
            share = (level - costs[place - 1]) / (costs[place] - costs[place - 1])
            return float(gained[place - 1] + share * (gained[place] - gained[place - 1]))
    return float(gained[-1])
