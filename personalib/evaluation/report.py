"""Reports of evaluations: every number as CSV, and tables to read as Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from personalib.base.storage import write_whole
from personalib.base.tables import to_csv, to_latex, to_markdown
from personalib.evaluation.estimates import base_scores, effects, health, questionnaires_of
from personalib.evaluation.plan import ModelPlan
from personalib.evaluation.runs import EvaluationRun
from personalib.models.sampling import GREEDY, Sampling
from personalib.questionnaires.scores import item_scores, named_options
from personalib.steering.settings import Guard

# What is compared beside the score itself, by kind.
_BESIDES: Mapping[str, Sequence[str]] = {"trait": ("published",), "judgement": ("yes",)}
_FORMS = ("csv", "md", "tex")
SIGNIFICANT = 0.05


def tables(run: EvaluationRun, guard: Guard | None = None) -> dict[str, pd.DataFrame]:
    """Every table of a run, by name.

    For each questionnaire its ``…_base`` (the model as it is), and for traits that of the published score as
    ``…_base_published``, for judgements that of the share of yes as ``…_base_yes``. Where there are arms, the same of
    their effects as ``…_effects``, with each template's as ``…_effects_by_template``, and ``…_health``. For answers in
    words :func:`reading` as ``…_reading``, with how they were sampled. ``left_out`` has the rows of the items' files
    that were not asked, if there are any.
    """
    found: dict[str, pd.DataFrame] = {} if run.left_out.empty else {"left_out": run.left_out}
    whole = health(run.answers, guard)
    for name, kind in questionnaires_of(run.answers).items():
        answers = run.of(name)
        state = whole[whole["questionnaire"] == name].reset_index(drop=True)
        found[f"{name}_base"] = base_scores(answers)
        for column in _BESIDES.get(kind, ()):
            found[f"{name}_base_{column}"] = base_scores(answers, column=column)
        if len(state) > 1:
            found |= {f"{name}_{table}": rows for table, rows in _compared(kind, answers, state).items()}
        if "text" in answers:
            plans = run.manifest.get("plan", {}).get("questionnaires", [])
            sampling = next((Sampling(**one.get("sampling", {})) for one in plans if one["name"] == name), GREEDY)
            found[f"{name}_reading"] = reading(answers, state).assign(sampling=str(sampling))
    return found


def _compared(kind: str, answers: pd.DataFrame, state: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What arms do, beside the model as it is."""
    found = {"effects": effects(answers, state=state), "health": state}
    for column in _BESIDES.get(kind, ()):
        found[f"effects_{column}"] = effects(answers, state=state, column=column)
    if answers["template"].nunique() > 1:
        found["effects_by_template"] = effects(answers, state=state, by_template=True)
    return found


def reading(answers: pd.DataFrame, state: pd.DataFrame) -> pd.DataFrame:
    """How answers in words to one questionnaire could be read under each arm.

    Returns:
        One row an arm: what names it, ``unreadable`` (share of the answers), ``accuracy`` over those that could be
        read, ``fallback`` (the accuracy with a blind guess in the place of each unreadable answer, as the paper's code
        has it, here its expected value), both in percent, and ``chance``, what guessing alone would get.
    """
    items = item_scores(answers["kind"].iloc[0], answers)
    guess = 100 / answers["roles"].str.count('"').div(2)
    silent = pd.Series([place is None for place in named_options(answers)], answers.index)
    found = items.groupby("arm")[["value", "fallback"]].mean().rename(columns={"value": "accuracy"})
    found.insert(0, "unreadable", silent.groupby(answers["arm"]).mean())
    found["chance"] = guess.groupby(answers["arm"]).mean()
    return state.merge(found.reset_index(), on="arm", validate="one_to_one")


def write_report(runs: Sequence[EvaluationRun], folder: Path, guard: Guard | None = None) -> list[Path]:
    """Write every table of some runs, in a folder for each model: all numbers as CSV, the rest for readers."""
    written = []
    for run in runs:
        # Two revisions of a model have two folders.
        revision = run.manifest.get("model", {}).get("revision")
        place = folder / ModelPlan(name=run.model, revision=revision).folder
        place.mkdir(parents=True, exist_ok=True)
        for kind in _FORMS:  # of an earlier report, where rows were left out that are asked now
            (place / f"left_out.{kind}").unlink(missing_ok=True)
        for name, table in tables(run, guard).items():
            plain = table.drop(columns=["questionnaire", "model", "arm"], errors="ignore")
            shown = readable_effects(table) if {"effect", "p_holm"} <= set(table) else plain
            for kind, text in zip(_FORMS, (to_csv(table), to_markdown(shown), to_latex(shown)), strict=True):
                write_whole(place / f"{name}.{kind}", text)
                written.append(place / f"{name}.{kind}")
    return written


def readable_effects(found: pd.DataFrame) -> pd.DataFrame:
    """Effects as a reader wants them: a row an arm, a column a group.

    Cells hold the effect between its bounds, with a star where it differs from zero after Holm's correction, and with
    ``=`` where all items changed alike (or fewer than three were read), so that bounds come from their number alone;
    those of arms that have collapsed are in brackets.
    """
    columns = ["effect", "low", "high", "p_holm", "collapsed", "size"]
    cells = [_cell(**row) for row in found[columns].to_dict("records")]
    doses = ["" if pd.isna(dose) else f"{dose:+.2f}" for dose in found["dose"]]
    index = [name for name in ("template", "method", "key", "pole", "dose") if name in found]
    named = found[index].assign(group=found["group"], cell=cells, dose=doses)
    named["arm"] = found["arm"]
    wide = named.pivot(index=["arm", *index], columns="group", values="cell")
    return wide[list(dict.fromkeys(found["group"]))].reset_index().drop(columns="arm").rename_axis(columns=None)


def _cell(effect: float, low: float, high: float, p_holm: float, collapsed: bool, size: float) -> str:
    if pd.isna(effect):
        return "missing"
    bounds = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]{'=' * pd.isna(size)}"
    text = f"{effect:+.1f}{bounds}{'*' if p_holm < SIGNIFICANT else ''}"
    return f"({text})" if collapsed else text
