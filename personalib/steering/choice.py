"""Pushes: where a family of vectors is added, at which tokens and at what dose; and the choice of one from data.

A push is the same for the whole family and norm-matched: every vector is brought to one length, so that none is pushed
harder than another. It is chosen on items that no evaluation uses, as the one whose effects are most nearly those of
telling the same thing in words, among those under which no member of the family collapses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from personalib.models.parts import Site
from personalib.steering.contrast_choice import TraitSheet, fidelity
from personalib.steering.effects import Push, Vectors, measure, told_arms
from personalib.steering.guards import Guard
from personalib.steering.interventions import Positions
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES


@dataclass(frozen=True)
class PushChoice:
    """What was chosen, from what.

    Attributes:
        source: which of the candidates.
        push: the push.
        table: one row a candidate and push that was tried: ``source``, ``site``, ``layer``, ``positions``, ``dose``,
            ``fidelity`` (the share of the told effects that it reproduces: 1 minus the ratio of the sums of squares of
            ``steered - told`` and of ``told``), ``effect`` (root mean square, in points), ``mass`` and ``perplexity``
            (of the worst vector, in units of the unsteered model's), ``collapsed`` (the share of vectors) and
            ``chosen``.
    """

    source: str
    push: Push
    table: pd.DataFrame


def choose_push(
    sheet: TraitSheet,
    candidates: Mapping[str, Vectors],
    told: pd.DataFrame,
    norms: Mapping[Site, float],
    *,
    positions: Sequence[Positions] = ("prompt",),
    doses: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    guard: Guard | None = None,
    progress: str | None = None,
) -> PushChoice:
    """Choose where and how hard to push a family of vectors.

    Args:
        sheet: items that no evaluation uses.
        candidates: families of vectors by name, such as those of several sites or SAEs; each is by what its vectors
            stand for, and all vectors of one family stand at one site.
        told: of :func:`told_effects` on the sheet's items; vectors are pushed toward the poles that are told.
        norms: the residual stream's typical length by site.
        positions: which positions are tried.
        doses: which doses.
        guard: from where on a vector counts as collapsed; a push is out where any does.
        progress: text of a progress bar; None shows none.

    Raises:
        ValueError: some vector collapses under every push.
    """
    sites = {name: next(iter(own.values())).site for name, own in candidates.items()}
    pushes = [
        (name, Push(sites[name], dose, norms[sites[name]], where))
        for where, name, dose in product(positions, candidates, doses)
    ]
    poles = list(dict.fromkeys(told["pole"]))
    arms = [
        (number, arm)
        for number, (name, push) in enumerate(pushes)
        for pole in poles
        for arm in push.arms("", candidates[name], pole)
    ]
    found = measure(sheet, [arm for _, arm in arms], guard, progress=progress)
    found["push"] = found["arm"].map(dict(enumerate(number for number, _ in arms)))
    found = found.merge(told, on=["key", "pole", "trait"], validate="many_to_one")
    rows = [{"source": name} | _row(push, found[found["push"] == number]) for number, (name, push) in enumerate(pushes)]
    table = pd.DataFrame(rows)
    sound = table[table["collapsed"] == 0]
    if found["told"].isna().all():
        raise ValueError(
            f"{sheet.language_model.name} answers none of the items, without steering or when it is told; "
            "try another template, or form='base'"
        )
    if sound.empty:
        raise ValueError(f"some vector collapses under every push; try doses below {min(doses):g}")
    best = int(sound["fidelity"].idxmax())
    return PushChoice(*pushes[best], table.assign(chosen=table.index == best))


def told_effects(sheet: TraitSheet, contrasts: Sequence[Contrast], poles: Sequence[str] = POLES[:1]) -> pd.DataFrame:
    """What telling does to the traits, in words of the split to train on.

    Returns:
        One row a contrast, pole and trait: ``key``, ``pole``, ``trait``, and ``told`` in points.
    """
    found = measure(sheet, told_arms(contrasts, "train", poles), neutral=1)
    return found[["key", "pole", "trait", "effect"]].rename(columns={"effect": "told"})


def _row(push: Push, own: pd.DataFrame) -> dict[str, object]:
    by_arm = own.drop_duplicates("arm")
    return {
        "site": str(push.site),
        "layer": push.site.layer,
        "positions": push.positions,
        "dose": push.dose,
        "fidelity": fidelity(own["effect"], own["told"]),
        "effect": float(np.sqrt((own["effect"] ** 2).mean())),
        "mass": by_arm["mass"].min(),
        "perplexity": by_arm["perplexity"].max(skipna=False),
        "collapsed": by_arm["collapsed"].mean(),
    }
