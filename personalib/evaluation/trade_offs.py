"""Trade-offs: what a push gains, what it costs, and how methods compare where they cost the same."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.statistics import Interval, expanded_bounds
from personalib.evaluation.agreement import NAMES, cluster
from personalib.evaluation.arms import PROMPT, RANDOM

KINDS = {
    "sae": "SAE feature",
    "repe": "contrast vector",
    PROMPT: "prompted",
    RANDOM: "random direction",
}


def gains(effects: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """How much of the known effects each arm has.

    Args:
        effects: of traits, see :func:`personalib.evaluation.estimates.effects`; methods are called by method and
            family like ``"sae elements"``, or ``"random"``.
        truth: the known effects: ``key``, ``pole``, ``group``, and ``truth``, in points.

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
        "kind": KINDS.get(method, method),
        "key": first["key"],
        "dose": abs(first["dose"]),
        "cluster": cluster(str(first["key"])),
        "collapsed": bool(first["collapsed"]),
        "gain": gain,
        "off_target": float(np.sqrt((rest**2).mean())) if len(rest) else np.nan,
    }


def costs(state: pd.DataFrame, lost: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What each arm costs.

    Args:
        state: of :func:`personalib.evaluation.estimates.health`.
        lost: by name, effects on something that should not change, one row an arm.

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
        found[name] = found["arm"].map(-own.set_index("arm")["effect"])
    return found[found["arm"] > 0].reset_index(drop=True)


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
    (``minus``) the gain at the same cost is taken off, and the same clusters are resampled for both.

    Returns:
        The estimate with its 95 % interval, whose percentiles are widened as Student's t is where clusters are few.
        Items are not resampled. A method that never costs so much has the gain of its largest dose.

    Raises:
        ValueError: there are fewer than two clusters.
    """
    parts = [table] if minus is None else [table, minus]
    names = sorted(set.intersection(*(set(part["cluster"]) for part in parts)))
    if len(names) < 2:
        raise ValueError("fewer than two factors or pressures are left to resample")
    curves = [_by_cluster(part, cost, names) for part in parts]
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))

    def value(rows: NDArray[np.int64]) -> float:
        found = [_read_off(costs[rows].mean(0), gained[rows].mean(0), level) for costs, gained in curves]
        return found[0] - sum(found[1:])

    found = np.array([value(rows) for rows in drawn])
    return Interval(value(np.arange(len(names))), *expanded_bounds(found, 0.95, len(names)))


def _by_cluster(table: pd.DataFrame, cost: str, names: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean costs and gains of each cluster, shape ``(clusters, doses)``, beginning with no push."""
    means = table.groupby(["cluster", "dose"])[[cost, "gain"]].mean()
    found = []
    for column in (cost, "gain"):
        wide = means[column].unstack("dose").loc[names].to_numpy(dtype=np.float64)
        found.append(np.hstack([np.zeros((len(names), 1)), wide]))
    return found[0], found[1]


def _read_off(costs: NDArray[np.float64], gained: NDArray[np.float64], level: float) -> float:
    """The gain where a line over doses first comes to a cost."""
    for place in range(1, len(costs)):
        if costs[place] >= level:
            share = (level - costs[place - 1]) / (costs[place] - costs[place - 1])
            return float(gained[place - 1] + share * (gained[place] - gained[place - 1]))
    return float(gained[-1])
