"""Tables of measured effects: by dose, as shares of known effects, and what is left of an effect under ablation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from personalib.base.statistics import Interval
from personalib.steering.contrast_choice import fidelity
from personalib.steering.effects import RANDOM, cluster


def dose_lines(effects: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Effects by dose as :func:`personalib.base.plots.dose_curve` draws them, above the band of random directions.

    Args:
        effects: rows of :func:`~personalib.steering.effects.measure` at several doses, random directions among them.
        titles: names for readers, by key.

    Returns:
        One row a trait, kind and dose: ``trait``, ``kind``, ``coefficient`` (the dose), ``value``, ``low``, ``high``
        and ``collapsed``. Random directions are one kind, ``"random control"``: their mean, the least and the most of
        any, and whether any collapsed. No steering is a row as well, where all of it is zero.
    """
    random = effects["method"] == RANDOM
    steered = effects[~random].assign(kind=lambda own: own["key"].map(titles))
    grouped = effects[random].groupby(["trait", "dose"])
    band = grouped.agg(
        effect=("effect", "mean"), low=("effect", "min"), high=("effect", "max"), collapsed=("collapsed", "any")
    )
    columns = ["trait", "kind", "dose", "effect", "low", "high", "collapsed"]
    lines = pd.concat([steered[columns], band.reset_index().assign(kind="random control")[columns]])
    lines = lines.rename(columns={"dose": "coefficient", "effect": "value"})
    zero = lines[["trait", "kind"]].drop_duplicates()
    zero = zero.assign(coefficient=0.0, value=0.0, low=0.0, high=0.0, collapsed=False)
    return pd.concat([lines, zero]).sort_values("coefficient", kind="stable").reset_index(drop=True)


def known_shares(effects: pd.DataFrame, truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How much of each known effect each dose has: the effects' projection on the known ones over the traits.

    Args:
        effects: rows of :func:`~personalib.steering.effects.measure`, each key once a dose.
        truth: ``key``, ``pole``, ``trait`` and ``truth``; effects at any dose are compared with those of the positive
            pole.

    Returns:
        A row a key and a column a dose: the shares, 1 for all of it; and whether it collapsed.
    """
    wanted = truth[truth["pole"] == "positive"].drop(columns="pole")
    both = effects.merge(wanted, on=["key", "trait"], validate="many_to_one").dropna(subset=["effect"])
    both = both.assign(part=both["effect"] * both["truth"], whole=both["truth"] ** 2)
    sums = both.groupby(["key", "dose"])[["part", "whole"]].sum()
    order = effects["key"].unique()
    shares = (sums["part"] / sums["whole"]).unstack().reindex(order)
    return shares, effects.groupby(["key", "dose"])["collapsed"].any().unstack().loc[order, shares.columns]


def share_left(
    effects: pd.DataFrame,
    of: str = "prompt",
    *,
    without: Mapping[str, str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the effects of one method is left under others: their projection on it, over all keys and traits.

    Args:
        effects: rows of :func:`~personalib.steering.effects.measure`, each key and pole once a method. What has
            collapsed is left out.
        of: the method whose effects are the whole.
        without: for some methods another one, whose effects are taken off first, such as those of the same ablation
            where nothing is told.
        resamples: of the bootstrap over keys.
        level: of its interval.
        seed: of its random generator.

    Returns:
        One row a method but the one, and but those that are taken off: ``left``, ``low`` and ``high``.

    Raises:
        ValueError: the method is not among the effects, or stands alone.
    """
    kept, off = effects[~effects["collapsed"]], dict(without or {})
    wide = kept.pivot(index=["key", "pole", "trait"], columns="method", values="effect").dropna()
    for name, other in off.items():
        wide[name] = wide[name] - wide[other]
    others = [name for name in effects["method"].unique() if name not in (of, *off.values())]
    if of not in wide or not others:
        raise ValueError(
            f"the effects have the methods {', '.join(wide.columns)}; there is nothing to compare {of!r} with"
        )
    parts = pd.DataFrame({name: wide[name] * wide[of] for name in (of, *others)}).groupby("key").sum()
    drawn = np.random.default_rng(seed).integers(len(parts), size=(resamples, len(parts)))
    sums = parts.to_numpy()[drawn].sum(1)
    low, high = np.quantile(sums[:, 1:] / sums[:, :1], [(1 - level) / 2, (1 + level) / 2], axis=0)
    total = parts.sum()
    return pd.DataFrame({"left": total[others] / total[of], "low": low, "high": high}, index=others)


def standing_for(effects: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Effects in which each random direction goes by a key, as if it stood for that; further ones are left out."""
    random = effects["method"] == RANDOM
    dealt = dict(zip(effects.loc[random, "key"].unique(), keys, strict=False))
    named = effects[random & effects["key"].isin(dealt)]
    return pd.concat([effects[~random], named.assign(key=named["key"].map(dealt))])


def fidelity_interval(effects: pd.DataFrame, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """The share of told effects that steering reproduces, with a bootstrap interval that resamples what was pushed.

    Args:
        effects: ``key``, ``effect`` and ``told``.
        resamples: of the bootstrap, over factors or pressures (see :func:`~personalib.steering.effects.cluster`).
        level: of the interval.
        seed: of its random generator.
    """
    known = effects.dropna(subset=["effect", "told"])
    parts = pd.DataFrame({"missed": (known["effect"] - known["told"]) ** 2, "whole": known["told"] ** 2})
    sums = parts.groupby(known["key"].map(cluster)).sum().to_numpy()
    drawn = sums[np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))].sum(1)
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return Interval(fidelity(known["effect"], known["told"]), float(low), float(high))
