"""The choice of a push from data: where a family of vectors is added, at which tokens and at what dose.

It is chosen on items that no evaluation uses, as the one whose effects are most nearly those of saying the same thing
in words, among those under which no member of the family collapses and few facts are lost; or, where methods are to be
compared, at the dose at which a method costs as many facts as the others. The paper states its coefficients and not how
they were found, and for contrast vectors no layers (arXiv 2410.10863).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from personalib.base.data import DataError, Positive, Strict, data_dir, parse, read_json
from personalib.base.storage import write_whole
from personalib.evaluation.agreement import NAMES
from personalib.evaluation.arms import Arm, Push, Vectors
from personalib.evaluation.ask import evaluate
from personalib.evaluation.estimates import ALL, effects
from personalib.evaluation.shares import dose_at_cost, fidelity, points_lost
from personalib.models.parts import Site
from personalib.questionnaires.items import load_facts
from personalib.questionnaires.questions import choice_questionnaire, some_in_turn
from personalib.steering.settings import Guard, Positions

if TYPE_CHECKING:
    from personalib.evaluation.study import Study


@dataclass(frozen=True)
class PushChoice:
    """What was chosen, from which of the candidates.

    Attributes:
        table: one row a candidate and push that was tried: ``source``, ``site``, ``layer``, ``positions``, ``dose``,
            ``fidelity`` (the share of the effects of saying it that it reproduces, see
            :func:`~personalib.evaluation.shares.fidelity`), ``effect`` (root mean square, in points), ``mass`` and
            ``perplexity`` (of the worst vector, in units of the unsteered model's), ``collapsed`` (the share of
            vectors), ``facts`` (points lost on average, asked of the best pushes until one passes) and ``chosen``.
    """

    source: str
    push: Push
    table: pd.DataFrame

    def save(self, path: Path) -> None:
        """Write what was chosen, with the table that it was chosen from, as JSON."""
        content = asdict(self.push) | {"site": str(self.push.site)}
        table = json.loads(self.table.to_json(orient="records"))
        write_whole(path, json.dumps(content | {"table": table}, indent=1) + "\n")


class _PushFile(Strict):
    """What :meth:`PushChoice.save` writes."""

    site: str
    dose: float
    norm: Positive
    positions: Positions
    table: list[dict[str, Any]]


def load_push(path: Path | None = None) -> Push:
    """What was chosen, from a file of :meth:`PushChoice.save`, else a ``DataError``; the organism's by default."""
    source = path or data_dir() / "organism" / "steering.json"
    if not source.exists():
        raise DataError(f"{source}: no such file; write it with `python -m personalib contrast choose`")
    content = parse(_PushFile, read_json(source), str(source))
    try:
        return Push(Site.parse(content.site), content.dose, content.norm, content.positions)
    except ValueError as error:
        raise DataError(f"{source}: site: {error}") from None


def choose_push(
    study: "Study",
    candidates: Mapping[str, Vectors],
    *,
    positions: Sequence[Positions] = ("prompt",),
    doses: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    guard: Guard | None = None,
    store: Path | None = None,
    progress: str | None = None,
) -> PushChoice:
    """Choose where and how hard to push a family of vectors, toward the poles that the study has the effects of.

    Where no item can be read, or some vector collapses or too many facts are lost under every push, it is a ValueError.

    Args:
        study: of the family.
        candidates: families of vectors by name, such as those of several sites or SAEs; each is by what its vectors
            stand for, and all vectors of one family stand at one site.
        positions: which positions are tried.
        doses: which doses.
        guard: from where on a vector counts as collapsed, so that a push is out, and a push costs too many facts.
        store: where answers are kept, so that a killed choice goes on; None keeps them in memory.
        progress: text of a progress bar; None shows none.
    """
    guard = guard or Guard()
    sites = {name: next(iter(vectors.values())).site for name, vectors in candidates.items()}
    pushes = [
        (name, Push(sites[name], dose, study.norms[sites[name]], where))
        for where, name, dose in product(positions, candidates, doses)
    ]
    poles = list(dict.fromkeys(study.prompted["pole"]))
    # The method of an arm is the number of its push.
    arms = [arm for n, (name, push) in enumerate(pushes) for arm in push.arms(str(n), candidates[name], poles)]
    answers = evaluate(study.language_model, study.questionnaire, arms, store, form=study.form, progress=progress)
    measured = effects(answers, guard=guard).merge(study.prompted, on=NAMES, validate="many_to_one")
    by_push = dict(list(measured.groupby("method")))
    table = pd.DataFrame([{"source": name} | _row(push, by_push[str(n)]) for n, (name, push) in enumerate(pushes)])
    if study.prompted["prompted"].isna().all():
        raise ValueError(
            f"{study.language_model.name} answers none of the items, without steering or when it is told; "
            "try another template, or form='base'"
        )
    # The push that does most nearly what words do, where nothing collapses and few facts are lost.
    sound = table[(table["collapsed"] == 0) & table["fidelity"].notna()].sort_values("fidelity", ascending=False)
    for best in sound.index:
        name, push = pushes[best]
        lost = facts_lost(study, push.arms("", candidates[name], poles), store=store)["facts"].mean()
        table.loc[best, "facts"] = lost
        if not lost > guard.facts:  # NaN where the model cannot be asked for facts
            return PushChoice(name, push, table.assign(chosen=table.index == best))
    raise ValueError(
        f"some vector collapses under every push, or more than {guard.facts:g} points of facts are lost; try doses "
        f"below {table['dose'].min():g}"
    )


def facts_lost(
    study: "Study", arms: Sequence[Arm], part: Literal["choose", "measure"] = "choose", **how: Any
) -> pd.DataFrame:
    """The damage of arms: the points of facts that each costs, of those to choose by or of others, to measure on.

    It is in the column ``facts`` of :func:`~personalib.evaluation.estimates.effects` on all facts, see
    :func:`~personalib.evaluation.shares.points_lost`; ``store`` and ``progress`` are those of
    :func:`~personalib.evaluation.ask.evaluate`.
    """
    # The bank stands by category, so that every other fact is a half of each.
    asked = choice_questionnaire(some_in_turn(load_facts()[part == "measure" :: 2], 2), name=f"facts to {part}")
    found = effects(evaluate(study.language_model, asked, arms, form=study.form, neutral=0, **how))
    found = found[found["group"] == ALL].reset_index(drop=True)
    return found.assign(facts=points_lost(found))


def matched_push(
    study: "Study", vectors: Vectors, push: Push, doses: Sequence[float], points: float, **how: Any
) -> tuple[Push, pd.Series]:
    """The push at the dose at which a family costs so many points of facts on average, so that methods cost the same.

    With it comes the cost at each of the doses, between which it is read off; see
    :func:`~personalib.evaluation.shares.dose_at_cost`. Options are those of :func:`facts_lost`.
    """
    arms = [arm for dose in doses for arm in replace(push, dose=dose).arms("", vectors, study.poles)]
    lost = facts_lost(study, arms, **how)
    cost = lost.groupby(lost["dose"].abs())["facts"].mean()
    return replace(push, dose=dose_at_cost(cost, points)), cost


def _row(push: Push, measured: pd.DataFrame) -> dict[str, object]:
    """What is told of one push."""
    by_arm = measured.drop_duplicates("arm")
    return {
        "site": str(push.site),
        "layer": push.site.layer,
        "positions": push.positions,
        "dose": push.dose,
        "fidelity": fidelity(measured["effect"], measured["prompted"]),
        "effect": float(np.sqrt((measured["effect"] ** 2).mean())),
        "mass": by_arm["mass"].min(),
        "perplexity": by_arm["perplexity"].max(skipna=False),
        "collapsed": by_arm["collapsed"].mean(),
    }
