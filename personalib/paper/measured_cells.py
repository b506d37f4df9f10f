"""What a finished evaluation measured in the cells of published numbers, by the published rule or the book's."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.data import DataError
from personalib.base.statistics import paired_means, proportion_interval
from personalib.evaluation.ask import NEUTRAL
from personalib.evaluation.estimates import health
from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, parse_plan
from personalib.evaluation.runs import EvaluationRun
from personalib.paper.protocol import Scoring
from personalib.paper.published_cells import BASE, CELL, CHANGE, OPTIONS, SAFETY, SCORE, WHOLE, persona_condition
from personalib.paper.tables import PERSONAS, SAFETY_CATEGORIES
from personalib.questionnaires.items import RESPONSE_ORDERS
from personalib.questionnaires.scores import POSITIONS, item_scores, per_item
from personalib.steering.settings import Guard
from personalib.stimuli.contrast_files import supplied_contrasts
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES

Array = NDArray[np.float64]
LEVEL = 0.95
_ARM = ("method", "key", "pole")
# Makes cells of answers, given the arms that are wanted and the rule of scoring.
_Maker = Callable[[pd.DataFrame, pd.DataFrame, Scoring], Iterator[dict[str, object]]]
_CATEGORIES = {title: short for short, title in SAFETY_CATEGORIES.items()}


class _Value(NamedTuple):
    """A measured number between its bounds, and the independent items behind it."""

    measured: float
    measured_low: float
    measured_high: float
    n: int


def measured_cells(run: EvaluationRun, scoring: Scoring, guard: Guard | None = None) -> pd.DataFrame:
    """Every number of a run that could be compared with a published one.

    Args:
        run: a finished evaluation of one model.
        scoring: by which rule.
        guard: from where on an arm counts as collapsed.

    Returns:
        ``quantity``, ``condition``, ``coefficient`` and ``group`` as in
        :func:`personalib.paper.published_cells.reference_cells`; ``measured`` from ``measured_low`` to
        ``measured_high`` (95 %), in points or percent; ``n``, the independent items; ``mass`` and ``perplexity`` in
        units of the unsteered model's, and ``collapsed``. Conditions are single elements pushed by features, the
        paper's personas pushed by theirs, and the model as it is. For option probabilities, which were published of
        one item, the bounds hold a single item's value, and the mean over items stands between them; ``values`` has
        what each item gave.

    Raises:
        DataError: the answers are not those of the plan in the run's manifest.
    """
    plan = parse_plan(run.manifest["plan"], f"{run.model}: the manifest's plan")
    wanted, whole = _conditions(plan, run.of(NEUTRAL)), health(run.answers, guard)
    parts = [pd.DataFrame(columns=[*CELL, *_Value._fields, "values", "mass", "perplexity", "collapsed"])]
    for name, make in _sources(run, plan).items():
        state = whole[whole["questionnaire"] == name].set_index("arm")
        rows = make(run.of(name), wanted, scoring)
        cells = pd.DataFrame(rows)
        if len(cells):
            parts.append(cells.join(state[["mass", "perplexity", "collapsed"]], on="arm").drop(columns="arm"))
    found = pd.concat([one for one in parts if len(one)] or parts, ignore_index=True)
    return found.drop_duplicates(list(CELL), ignore_index=True)


def used_questionnaires(run: EvaluationRun) -> dict[str, str]:
    """Which questionnaires of a run are compared, by name, and the template that is read."""
    plan = parse_plan(run.manifest["plan"], f"{run.model}: the manifest's plan")
    return {name: str(run.of(name)["template"].iloc[0]) for name in _sources(run, plan)}


def _sources(run: EvaluationRun, plan: EvaluationPlan) -> Mapping[str, _Maker]:
    """The first trait questionnaire, and the safety questionnaire that is most like the published one."""
    found: dict[str, _Maker] = {}
    trait = [one.name for one in plan.questionnaires if one.kind == "trait"]
    if trait:
        found[trait[0]] = _trait
    choices = [one for one in plan.questionnaires if one.kind == "choice" and _is_safety(run.of(one.name))]
    choices.sort(key=lambda one: (one.shots, one.reading != "words"))
    if choices:
        found[choices[0].name] = _safety
    return found


def _is_safety(answers: pd.DataFrame) -> bool:
    return set(answers["group"].map(_category)) <= set(SAFETY_CATEGORIES)


def _category(name: str) -> str:
    return _CATEGORIES.get(name.lower(), name)


def planned_arms(plan: EvaluationPlan) -> pd.DataFrame:
    """The arms of a plan in the order in which they are asked: what a dose alone does not tell is their coefficient.

    Returns:
        One row an arm, with its place as index: ``method`` (its label), ``key``, ``pole``, ``coefficient`` (0 for the
        model as it is, missing for words and doses) and ``condition``: the key of one element pushed by features, the
        name of a persona of the paper pushed by all of its features, or none for what nothing was published of.
    """
    rows: list[tuple[str, str, str, float, str | None]] = [("none", "none", POLES[0], 0.0, BASE)]
    for one in plan.arms:
        sizes: tuple[float, ...] = one.doses or one.coefficients or (np.nan,)
        for size, pole, key in product(sizes, one.poles, _keys(one)):
            amount = size if pole == POLES[0] else -size
            toward = pole if one.method == "prompt" else POLES[int(amount < 0)]
            rows.append((one.name, key, toward, amount if one.coefficients else np.nan, _condition(one, key)))
    return pd.DataFrame(rows, columns=[*_ARM, "coefficient", "condition"])


def _condition(plan: ArmsPlan, key: str) -> str | None:
    if plan.method != "sae" or plan.family != "elements":
        return None
    if not plan.personas:
        return key
    return persona_condition(key) if set(plan.personas[key]) == set(PERSONAS.get(key, ())) else None


def _keys(plan: ArmsPlan) -> list[str]:
    if plan.method == "random":
        return [f"random {number}" for number in range(plan.count)]
    if plan.personas or plan.keys:
        return list(dict.fromkeys(plan.personas or plan.keys))
    file = plan.contrast_file
    return [one.key for one in (supplied_contrasts(Path(file), plan.family) if file else contrasts(plan.family))]


def _conditions(plan: EvaluationPlan, neutral: pd.DataFrame) -> pd.DataFrame:
    """The arms that something was published of."""
    asked = neutral.drop_duplicates("arm").sort_values("arm")[list(_ARM)].reset_index(drop=True)
    planned = planned_arms(plan)
    if not asked.astype(str).equals(planned[list(_ARM)].astype(str)):
        raise DataError("the answers are not of the arms that the manifest's plan has; run the evaluation again")
    return planned.rename_axis("arm").reset_index().dropna(subset=["coefficient", "condition"])


def _trait(answers: pd.DataFrame, wanted: pd.DataFrame, scoring: Scoring) -> Iterator[dict[str, object]]:
    own = answers[answers["template"] == answers["template"].iloc[0]]
    items = per_item(own, by=("arm",), floor=scoring.floor)
    shares = 100 * items["high"]
    poles = (100.0 * (items["level"] == "high")).where(items["read"])
    items["value"] = poles if scoring.rule == "published" else shares
    for trait, part in items.groupby("group", sort=False):
        wide = part.pivot(index="item", columns="arm", values="value")
        for one in wanted.to_dict("records"):
            named = _named(one, str(trait))
            yield named | {"quantity": SCORE} | _level(wide[one["arm"]].to_numpy())._asdict()
            if one["arm"]:
                change = _change((wide[one["arm"]] - wide[0]).to_numpy())
                yield named | {"quantity": CHANGE} | change._asdict()
    yield from _letters(own, wanted)


def _letters(answers: pd.DataFrame, wanted: pd.DataFrame) -> Iterator[dict[str, object]]:
    """The probability of each letter over items in normal order, as far as one item can be expected to have it."""
    normal = answers[answers["order"] == "normal"]
    for one in wanted.to_dict("records"):
        rows = normal[normal["arm"] == one["arm"]]
        for letter, response in zip(POSITIONS, RESPONSE_ORDERS["normal"], strict=True):
            values = np.sort(100 * rows[f"p_{response}"].dropna().to_numpy(dtype=np.float64))
            value = _one_of(values)._asdict()
            yield _named(one, letter) | {"quantity": OPTIONS, "values": values} | value


def _safety(answers: pd.DataFrame, wanted: pd.DataFrame, scoring: Scoring) -> Iterator[dict[str, object]]:
    own = answers[answers["template"] == answers["template"].iloc[0]]
    items = item_scores("choice", own)
    guessed = scoring.unreadable == "guess" and "fallback" in items
    column = "fallback" if guessed else "value"
    groups = [(_category(str(name)), part) for name, part in items.groupby("group", sort=False)]
    for group, part in [*groups, (WHOLE, items)]:
        means = part.groupby(["arm", "cluster"], sort=False)[column].mean().unstack("arm")
        for one in wanted.to_dict("records"):
            yield _named(one, group) | {"quantity": SAFETY} | _level(means[one["arm"]].to_numpy())._asdict()


def _named(one: Mapping[str, object], group: str) -> dict[str, object]:
    return {"arm": one["arm"], "condition": one["condition"], "coefficient": one["coefficient"], "group": group}


def _level(values: Array) -> _Value:
    """The mean of independent values in 0..100: Wilson's bounds where each is 0 or 100, else Student's."""
    read = values[~np.isnan(values)]
    if not len(read):
        return _Value(np.nan, np.nan, np.nan, 0)
    if np.isin(read, (0.0, 100.0)).all() or np.ptp(read) == 0:
        found = proportion_interval(round(read.sum() / 100), len(read), level=LEVEL)
        mean = float(read.mean())
        return _Value(mean, min(100 * found.low, mean), max(100 * found.high, mean), len(read))
    means = paired_means(read[None, :], level=LEVEL)
    low, high = max(0.0, float(means.low[0])), min(100.0, float(means.high[0]))
    return _Value(float(means.estimate[0]), low, high, len(read))


def _change(changes: Array) -> _Value:
    """The mean of paired changes; where all are alike, as wide as that none or all of so many could be otherwise."""
    read = changes[~np.isnan(changes)]
    if not len(read):
        return _Value(np.nan, np.nan, np.nan, 0)
    if np.ptp(read) == 0:
        rare = 100 * proportion_interval(0, len(read), level=LEVEL).high
        return _Value(float(read[0]), max(-100.0, read[0] - rare), min(100.0, read[0] + rare), len(read))
    means = paired_means(read[None, :], level=LEVEL)
    low, high = max(-100.0, float(means.low[0])), min(100.0, float(means.high[0]))
    return _Value(float(means.estimate[0]), low, high, len(read))


def _one_of(values: Array) -> _Value:
    """The mean of sorted values, and where one more item of their kind would lie in 95 of 100 cases."""
    if not len(values):
        return _Value(np.nan, np.nan, np.nan, 0)
    place = int((1 - LEVEL) / 2 * (len(values) + 1))
    low, high = (0.0, 100.0) if place == 0 else (float(values[place - 1]), float(values[-place]))
    return _Value(float(values.mean()), low, high, len(values))
