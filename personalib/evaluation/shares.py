"""Shares of effects: how much of the known ones a push has, and how much of one method's is left under another.

Effects are rows of :func:`personalib.evaluation.estimates.effects`, all groups together left out.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from personalib.base.statistics import Interval
from personalib.evaluation.agreement import NAMES, cluster
from personalib.evaluation.arms import PROMPT, RANDOM
from personalib.evaluation.estimates import ALL
from personalib.stimuli.factors import POLES

_RESAMPLES, _BOUNDS = 1000, (0.025, 0.975)


def fidelity(steered: pd.Series, prompted: pd.Series) -> float:
    """The share of the effects of saying it that steering reproduces: 1 minus the ratio of the sums of squares of what
    is missed and of what is wanted; 1 if all of them, 0 if it misses as much as doing nothing.

    Missing effects are left out; without any the result is missing.
    """
    known = steered.notna() & prompted.notna()
    wanted = float((prompted[known] ** 2).sum())
    return 1 - float(((steered[known] - prompted[known]) ** 2).sum()) / wanted if wanted else np.nan


def fidelity_interval(effects: pd.DataFrame, *, seed: int = 0) -> Interval:
    """:func:`fidelity` of ``effect`` to ``prompted``; its 95 % interval resamples factors or pressures of ``key``."""
    known = effects.dropna(subset=["effect", "prompted"])
    parts = pd.DataFrame({"missed": (known["effect"] - known["prompted"]) ** 2, "whole": known["prompted"] ** 2})
    sums = parts.groupby(known["key"].map(cluster)).sum().to_numpy()
    drawn = sums[np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))].sum(1)
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], _BOUNDS)
    return Interval(fidelity(known["effect"], known["prompted"]), float(low), float(high))


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


def share_left(
    effects: pd.DataFrame, of: str = PROMPT, *, without: Mapping[str, str] | None = None, seed: int = 0
) -> pd.DataFrame:
    """How much of the effects of one method is left under others: their projection on it, over all keys and groups.

    Each key and pole stands once a method, and what has collapsed is left out. For some methods another one may be
    named (``without``), whose effects are taken off first, such as those of the same ablation where nothing is told.
    The bootstrap resamples keys.

    Returns:
        One row a method but the one, and but those that are taken off: ``left``, ``low`` and ``high``.

    Raises:
        ValueError: the method is not among the effects, or stands alone.
    """
    kept, off = effects[~effects["collapsed"] & (effects["group"] != ALL)], dict(without or {})
    wide = kept.pivot(index=NAMES, columns="method", values="effect").dropna()
    for name, other in off.items():
        wide[name] = wide[name] - wide[other]
    others = [name for name in effects["method"].unique() if name not in (of, *off.values())]
    if of not in wide or not others:
        raise ValueError(
            f"the effects have the methods {', '.join(wide.columns)}; there is nothing to compare {of!r} with"
        )
    parts = pd.DataFrame({name: wide[name] * wide[of] for name in (of, *others)}).groupby("key").sum()
    drawn = np.random.default_rng(seed).integers(len(parts), size=(_RESAMPLES, len(parts)))
    sums = parts.to_numpy()[drawn].sum(1)
    low, high = np.quantile(sums[:, 1:] / sums[:, :1], _BOUNDS, axis=0)
    total = parts.sum()
    return pd.DataFrame({"left": total[others] / total[of], "low": low, "high": high}, index=others)


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
