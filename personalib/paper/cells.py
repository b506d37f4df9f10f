"""Published numbers of a model as cells, and what a finished evaluation measured in them, each with its uncertainty."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.data import DataError
from personalib.base.statistics import paired_means, proportion_interval
from personalib.evaluation.ask import NEUTRAL
from personalib.evaluation.estimates import health
from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, parse_plan
from personalib.evaluation.planned_arms import family_of
from personalib.evaluation.runs import EvaluationRun
from personalib.features.published import bare_name
from personalib.paper import tables
from personalib.paper.audit import infer_weights, item_counts, share_difference
from personalib.paper.protocol import Scoring
from personalib.questionnaires.items import RESPONSE_ORDERS
from personalib.questionnaires.scores import POSITIONS, item_scores, per_item
from personalib.steering.settings import Guard
from personalib.stimuli.factors import POLES
from personalib.stimuli.paper_files import element_named

BASE, WHOLE, LEVEL = "base", "Avg", 0.95
SCORE, CHANGE, SAFETY, OPTIONS = "TRAIT score", "TRAIT change", "SafetyBench accuracy", "option probability"
QUANTITIES = (SCORE, CHANGE, SAFETY, OPTIONS)
CELL = ("quantity", "condition", "coefficient", "group")
# TRAIT items of each trait behind a published score; SafetyBench's English test items behind an accuracy over all
# categories, and the coefficient of those that are steered.
TRAIT_ITEMS, SAFETY_ITEMS, SAFETY_DOSE = 1000, 11435, 200.0
_COLUMNS = [*CELL, "element", "published", "published_low", "published_high", "published_n"]
_ARM = ("method", "key", "pole")
_CATEGORIES = {title: short for short, title in tables.SAFETY_CATEGORIES.items()}
_Cells = Iterator[dict[str, object]]
# Makes cells of answers, given the arms that are wanted and the rule of scoring.
_Maker = Callable[[pd.DataFrame, pd.DataFrame, Scoring], _Cells]


# --- published -------------------------------------------------------------------------------------------------------


def reference_models() -> list[str]:
    """The models that anything was published of, as the tables name them."""
    readers = (tables.trait_scores, tables.persona_scores, tables.safety_accuracy, tables.option_probabilities)
    return sorted({str(model) for read in readers for model in read()["model"]})


def reference_cells(model: str) -> pd.DataFrame:
    """Everything that was published of a model, named with or without its owner; a DataError where nothing was.

    Returns:
        One row a number, its columns
        ``quantity`` (one of ``QUANTITIES``), ``condition`` (the key of an element, such as ``"gender.female"``, or
        ``"base"``, or ``"persona N"``, all features of a persona at once), ``coefficient`` (0 for the model as it is),
        ``group`` (a trait's key, a category of SafetyBench or ``"Avg"``, a letter), ``element`` (in the table's own
        words), ``published``, in points or percent, from ``published_low`` to ``published_high`` (95 %) with
        ``published_n`` items. Scores and accuracies have Wilson's bounds, changes Newcombe's, which take both scores as
        independent. How many items a category of SafetyBench has is inferred, see
        :func:`personalib.paper.audit.infer_weights`. An option probability is of one item and has no bounds.
    """
    name = bare_name(model)
    if name not in reference_models():
        raise DataError(
            f"{model}: nothing was published of this model, so there is nothing to compare; published are numbers of "
            f"{' and '.join(reference_models())}"
        )
    scores = _scores(name)
    parts = [scores, _changes(scores), _accuracies(name), _options(name)]
    return pd.concat([part[_COLUMNS] for part in parts if len(part)], ignore_index=True)


def _scores(model: str) -> pd.DataFrame:
    elements, personas = (table[table["model"] == model] for table in (tables.trait_scores(), tables.persona_scores()))
    keys = [
        BASE if element == BASE else _key(str(element), str(factor))
        for factor, element in zip(elements["factor"], elements["element"], strict=True)
    ]
    names = [BASE if name == BASE else f"persona {name}" for name in personas["persona"]]
    parts = [elements.assign(condition=keys), personas.assign(condition=names, element=names)]
    scores = pd.concat(parts, ignore_index=True).rename(columns={"score": "published"})
    return _with_bounds(scores.assign(quantity=SCORE, group=scores["trait"].str.lower()), [TRAIT_ITEMS] * len(scores))


def _changes(scores: pd.DataFrame) -> pd.DataFrame:
    plain = scores[scores["condition"] == BASE].set_index("group")["published"]
    steered = scores[scores["condition"] != BASE].copy()
    unsteered = plain.loc[steered["group"]].to_numpy()
    before, after = (item_counts(values, TRAIT_ITEMS).tolist() for values in (unsteered, steered["published"]))
    bounds = pd.DataFrame([share_difference(a, b, TRAIT_ITEMS) for a, b in zip(before, after, strict=True)])
    steered[["published_low", "published_high"]] = 100 * bounds[["low", "high"]].to_numpy()
    return steered.assign(quantity=CHANGE, published=steered["published"] - unsteered)


def _accuracies(model: str) -> pd.DataFrame:
    table = tables.safety_accuracy()
    table = table[table["model"] == model]
    if table.empty:
        return table
    wide = table.pivot(index="condition", columns="category", values="accuracy")
    items = SAFETY_ITEMS * infer_weights(wide.drop(columns=WHOLE), wide[WHOLE]).weights
    sizes = {**items.round().astype(int).to_dict(), WHOLE: SAFETY_ITEMS}
    cells = table[table["condition"] != "chance"].rename(columns={"accuracy": "published", "category": "group"})
    keys = [BASE if name == BASE else _key(str(name)) for name in cells["condition"]]
    cells = cells.assign(quantity=SAFETY, element=cells["condition"], condition=keys)
    cells["coefficient"] = np.where(cells["condition"] == BASE, 0.0, SAFETY_DOSE)
    return _with_bounds(cells, cells["group"].map(sizes).tolist())


def _options(model: str) -> pd.DataFrame:
    table = tables.option_probabilities()
    table = table[table["model"] == model]
    plain = table["coefficient"] == 0
    keys = [BASE if base else _key(str(name)) for name, base in zip(table["feature"], plain, strict=True)]
    cells = table.assign(quantity=OPTIONS, condition=keys, group=table["option"], published=100 * table["probability"])
    element = table["feature"].mask(plain, BASE)
    return cells.assign(element=element, published_low=np.nan, published_high=np.nan, published_n=1)


def _with_bounds(cells: pd.DataFrame, items: list[int]) -> pd.DataFrame:
    rows = zip(cells["published"], items, strict=True)
    shares = [proportion_interval(round(value / 100 * count), count) for value, count in rows]
    # Rounded to whole items, a share may lie a little beside its published value.
    low = np.minimum([100 * share.low for share in shares], cells["published"])
    high = np.maximum([100 * share.high for share in shares], cells["published"])
    return cells.assign(published_low=low, published_high=high, published_n=items)


def _key(element: str, factor: str | None = None) -> str:
    """The key of an element by its title, or the title's beginning, in its factor or in any."""
    for title in [factor] if factor else tables.trait_scores()["factor"].unique():
        if known := element_named(str(title), element):
            return f"{known.factor}.{known.key}"
    raise DataError(f"data/reference: {factor or 'any factor'}, {element}: no such element; restore the tables")


# --- measured --------------------------------------------------------------------------------------------------------


class _Value(NamedTuple):
    """A measured number between its bounds, and the independent items behind it."""

    measured: float
    measured_low: float
    measured_high: float
    n: int


def measured_cells(run: EvaluationRun, scoring: Scoring, guard: Guard | None = None) -> pd.DataFrame:
    """Every number of a finished evaluation of one model that could be compared with a published one.

    Returns:
        ``quantity``, ``condition``, ``coefficient`` and ``group`` as in :func:`reference_cells`; ``measured`` from
        ``measured_low`` to ``measured_high`` (95 %), in points or percent; ``n``, the independent items; ``mass`` and
        ``perplexity`` in units of the unsteered model's, and ``collapsed``, by the guard. Conditions are single
        elements pushed by features, the paper's personas pushed by theirs, and the model as it is. For option
        probabilities, which were published of one item, the bounds hold a single item's value, and the mean over items
        stands between them; ``values`` has what each item gave. Answers that are not of the manifest's plan are a
        DataError.
    """
    plan = _plan(run)
    wanted, whole = _conditions(plan, run.of(NEUTRAL)), health(run.answers, guard)
    parts = []
    for name, make in _sources(run, plan).items():
        state = whole[whole["questionnaire"] == name].set_index("arm")[["mass", "perplexity", "collapsed"]]
        cells = pd.DataFrame(make(run.of(name), wanted, scoring))
        if len(cells):
            parts.append(cells.join(state, on="arm").drop(columns="arm"))
    if not parts:
        return pd.DataFrame(columns=[*CELL, *_Value._fields, "values", "mass", "perplexity", "collapsed"])
    return pd.concat(parts).drop_duplicates(list(CELL), ignore_index=True)


def used_questionnaires(run: EvaluationRun) -> dict[str, str]:
    """Which questionnaires of a run are compared, by name, and the template that is read."""
    return {name: str(run.of(name)["template"].iloc[0]) for name in _sources(run, _plan(run))}


def _plan(run: EvaluationRun) -> EvaluationPlan:
    return parse_plan(run.manifest["plan"], f"{run.model}: the manifest's plan")


def _sources(run: EvaluationRun, plan: EvaluationPlan) -> dict[str, _Maker]:
    """The first trait questionnaire, and the safety questionnaire that is most like the published one."""
    traits = [each.name for each in plan.questionnaires if each.kind == "trait"]
    choices = sorted(
        (each for each in plan.questionnaires if each.kind == "choice"),
        key=lambda each: (each.shots, each.reading != "words"),
    )
    safety = [
        each.name for each in choices if set(run.of(each.name)["group"].map(_category)) <= set(tables.SAFETY_CATEGORIES)
    ]
    return dict.fromkeys(traits[:1], _trait) | dict.fromkeys(safety[:1], _safety)


def _category(name: str) -> str:
    return _CATEGORIES.get(name.lower(), name)


def planned_arms(plan: EvaluationPlan) -> pd.DataFrame:
    """The arms of a plan in the order in which they are asked.

    Returns:
        One row an arm, with its place as index: ``method`` (its label), ``key``, ``pole``, ``coefficient`` (0 for the
        model as it is, missing for words and doses) and ``condition``: the key of one element pushed by features, the
        name of a persona of the paper pushed by all of its features, or none for what nothing was published of.
    """
    rows: list[tuple[str, str, str, float, str | None]] = [("none", "none", POLES[0], 0.0, BASE)]
    for arm in plan.arms:
        sizes: tuple[float, ...] = arm.doses or arm.coefficients or (np.nan,)
        for size, pole, key in product(sizes, arm.poles, _keys(arm)):
            amount = size if pole == POLES[0] else -size
            toward = pole if arm.method == "prompt" else POLES[int(amount < 0)]
            rows.append((arm.name, key, toward, amount if arm.coefficients else np.nan, _condition(arm, key)))
    return pd.DataFrame(rows, columns=[*_ARM, "coefficient", "condition"])


def _condition(plan: ArmsPlan, key: str) -> str | None:
    if plan.method != "sae" or plan.family != "elements":
        return None
    if not plan.personas:
        return key
    return f"persona {key}" if set(plan.personas[key]) == set(tables.PERSONAS.get(key, ())) else None


def _keys(plan: ArmsPlan) -> list[str]:
    if plan.method == "random":
        return [f"random {number}" for number in range(plan.count)]
    return list(dict.fromkeys(plan.personas or plan.keys)) or list(family_of(plan))


def _conditions(plan: EvaluationPlan, neutral: pd.DataFrame) -> pd.DataFrame:
    """The arms that something was published of."""
    asked = neutral.drop_duplicates("arm").sort_values("arm")[list(_ARM)].reset_index(drop=True)
    planned = planned_arms(plan)
    if not asked.astype(str).equals(planned[list(_ARM)].astype(str)):
        raise DataError("the answers are not of the arms that the manifest's plan has; run the evaluation again")
    return planned.rename_axis("arm").reset_index().dropna(subset=["coefficient", "condition"])


def _trait(answers: pd.DataFrame, wanted: pd.DataFrame, scoring: Scoring) -> _Cells:
    first = answers[answers["template"] == answers["template"].iloc[0]]
    items = per_item(first, by=("arm",), floor=scoring.floor)
    poles = (100.0 * (items["level"] == "high")).where(items["read"])
    items["value"] = poles if scoring.rule == "published" else 100 * items["high"]
    for trait, part in items.groupby("group", sort=False):
        wide = part.pivot(index="item", columns="arm", values="value")
        for arm in wanted.to_dict("records"):
            yield _cell(arm, SCORE, str(trait), _level(wide[arm["arm"]]))
            if arm["arm"]:
                yield _cell(arm, CHANGE, str(trait), _change(wide[arm["arm"]] - wide[0]))
    # The probability of each letter over items in normal order, as far as one item can be expected to have it.
    normal = first[first["order"] == "normal"]
    for arm in wanted.to_dict("records"):
        rows = normal[normal["arm"] == arm["arm"]]
        for letter, response in zip(POSITIONS, RESPONSE_ORDERS["normal"], strict=True):
            values = np.sort(100 * rows[f"p_{response}"].dropna().to_numpy(dtype=np.float64))
            yield _cell(arm, OPTIONS, letter, _one_of(values)) | {"values": values}


def _safety(answers: pd.DataFrame, wanted: pd.DataFrame, scoring: Scoring) -> _Cells:
    items = item_scores("choice", answers[answers["template"] == answers["template"].iloc[0]])
    column = "fallback" if scoring.unreadable == "guess" and "fallback" in items else "value"
    groups = [(_category(str(name)), part) for name, part in items.groupby("group", sort=False)]
    for group, part in [*groups, (WHOLE, items)]:
        means = part.groupby(["arm", "cluster"], sort=False)[column].mean().unstack("arm")
        for arm in wanted.to_dict("records"):
            yield _cell(arm, SAFETY, group, _level(means[arm["arm"]]))


def _cell(arm: Mapping[str, object], quantity: str, group: str, value: _Value) -> dict[str, object]:
    named = {name: arm[name] for name in ("arm", "condition", "coefficient")}
    return {**named, "quantity": quantity, "group": group, **value._asdict()}


def _level(values: pd.Series) -> _Value:
    """The mean of independent values in 0..100: Wilson's bounds where each is 0 or 100, else Student's."""
    read = values.dropna().to_numpy()
    if not len(read) or not (np.isin(read, (0.0, 100.0)).all() or np.ptp(read) == 0):
        return _mean(read, 0.0)
    share = proportion_interval(round(read.sum() / 100), len(read), level=LEVEL)
    mean = float(read.mean())
    return _Value(mean, min(100 * share.low, mean), max(100 * share.high, mean), len(read))


def _change(changes: pd.Series) -> _Value:
    """The mean of paired changes; where all are alike, as wide as that none or all of so many could be otherwise."""
    read = changes.dropna().to_numpy()
    if not len(read) or np.ptp(read) != 0:
        return _mean(read, -100.0)
    rare = 100 * proportion_interval(0, len(read), level=LEVEL).high
    return _Value(float(read[0]), max(-100.0, read[0] - rare), min(100.0, read[0] + rare), len(read))


def _mean(read: NDArray[np.float64], least: float) -> _Value:
    """The mean with Student's bounds between the least possible value and 100; missing without any value."""
    if not len(read):
        return _Value(np.nan, np.nan, np.nan, 0)
    mean = paired_means(read[None, :], level=LEVEL)
    low, high = max(least, float(mean.low[0])), min(100.0, float(mean.high[0]))
    return _Value(float(mean.estimate[0]), low, high, len(read))


def _one_of(values: NDArray[np.float64]) -> _Value:
    """The mean of sorted values, and where one more item of their kind would lie in 95 of 100 cases."""
    if not len(values):
        return _mean(values, 0.0)
    place = int((1 - LEVEL) / 2 * (len(values) + 1))
    low, high = (0.0, 100.0) if place == 0 else (float(values[place - 1]), float(values[-place]))
    return _Value(float(values.mean()), low, high, len(values))
