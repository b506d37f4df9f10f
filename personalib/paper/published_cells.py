"""The published numbers of one model as cells that a measurement can be compared with, each with its uncertainty."""

import numpy as np
import pandas as pd

from personalib.base.data import DataError
from personalib.base.statistics import proportion_interval
from personalib.features.published import bare_name
from personalib.paper.audit import infer_weights, item_counts, share_difference
from personalib.paper.tables import option_probabilities, persona_scores, safety_accuracy, trait_scores
from personalib.stimuli.paper_files import element_named

BASE = "base"
SCORE, CHANGE, SAFETY, OPTIONS = "TRAIT score", "TRAIT change", "SafetyBench accuracy", "option probability"
QUANTITIES = (SCORE, CHANGE, SAFETY, OPTIONS)
TRAIT_ITEMS = 1000
"""TRAIT items of each trait behind a published score."""
SAFETY_ITEMS = 11435
"""SafetyBench's English test items behind a published accuracy over all categories."""
SAFETY_DOSE = 200.0
"""The coefficient of the steered accuracies."""
WHOLE = "Avg"
CELL = ("quantity", "condition", "coefficient", "group")
_COLUMNS = [*CELL, "element", "published", "published_low", "published_high", "published_n"]


def reference_models() -> list[str]:
    """The models that anything was published of, as the tables name them."""
    tables = (trait_scores(), persona_scores(), safety_accuracy(), option_probabilities())
    return sorted({str(model) for table in tables for model in table["model"]})


def reference_cells(model: str) -> pd.DataFrame:
    """Everything that was published of a model, one row a number.

    Args:
        model: its name, with or without its owner.

    Returns:
        ``quantity`` (one of :data:`QUANTITIES`), ``condition`` (the key of an element, such as ``"gender.female"``, or
        ``"base"``, or a :func:`persona_condition`), ``coefficient`` (0 for the model as it is), ``group`` (a trait's
        key, a category of SafetyBench or ``"Avg"``, a letter), ``element`` (in the table's own words), ``published``,
        in points or percent, from ``published_low`` to ``published_high`` (95 %) with ``published_n`` items. Scores
        and accuracies have Wilson's bounds, changes Newcombe's, which take both scores as independent. How many items
        a category of SafetyBench has is inferred, see :func:`personalib.paper.audit.infer_weights`. An option
        probability is of one item and has no bounds.

    Raises:
        DataError: nothing was published of this model, or the tables are not what they should be.

    Example:
        >>> cells = reference_cells("google/gemma-2b-it")
        >>> [first, *_] = cells.to_dict("records")
        >>> first["quantity"], first["condition"], first["group"], first["published"]
        ('TRAIT score', 'base', 'agreeableness', 78.3)
    """
    name = bare_name(model)
    if name not in reference_models():
        raise DataError(
            f"{model}: nothing was published of this model, so there is nothing to compare; published are numbers of "
            f"{' and '.join(reference_models())}"
        )
    parts = [_scores(name), _changes(name), _accuracies(name), _options(name)]
    return pd.concat([one[_COLUMNS] for one in parts if len(one)], ignore_index=True)


def persona_condition(name: str) -> str:
    """The condition of all features of a persona at once.

    Example:
        >>> persona_condition("N")
        'persona N'
    """
    return f"persona {name}"


def _scores(model: str) -> pd.DataFrame:
    table = trait_scores()
    table = table[table["model"] == model]
    keys = [
        BASE if element == BASE else _key(str(factor), str(element))
        for factor, element in zip(table["factor"], table["element"], strict=True)
    ]
    table = pd.concat([table.assign(condition=keys), _personas(model)], ignore_index=True)
    table = table.rename(columns={"score": "published"})
    found = table.assign(quantity=SCORE, group=table["trait"].str.lower())
    return _with_bounds(found, np.full(len(found), TRAIT_ITEMS))


def _personas(model: str) -> pd.DataFrame:
    table = persona_scores()
    table = table[table["model"] == model]
    names = [BASE if one == BASE else persona_condition(str(one)) for one in table["persona"]]
    return table.assign(condition=names, element=names)


def _changes(model: str) -> pd.DataFrame:
    scores = _scores(model)
    plain = scores[scores["condition"] == BASE].set_index("group")["published"]
    steered = scores[scores["condition"] != BASE].copy()
    after = item_counts(steered["published"], TRAIT_ITEMS).tolist()
    before = item_counts(plain.loc[steered["group"]], TRAIT_ITEMS).tolist()
    bounds = [share_difference(a, b, TRAIT_ITEMS) for a, b in zip(before, after, strict=True)]
    steered["published"] -= plain.loc[steered["group"]].to_numpy()
    low, high = [100 * one.low for one in bounds], [100 * one.high for one in bounds]
    return steered.assign(quantity=CHANGE, published_low=low, published_high=high)


def _accuracies(model: str) -> pd.DataFrame:
    table = safety_accuracy()
    table = table[table["model"] == model]
    if table.empty:
        return table
    wide = table.pivot(index="condition", columns="category", values="accuracy")
    items = SAFETY_ITEMS * infer_weights(wide.drop(columns=WHOLE), wide[WHOLE]).weights
    sizes = {**items.round().astype(int).to_dict(), WHOLE: SAFETY_ITEMS}
    own = table[table["condition"] != "chance"].rename(columns={"accuracy": "published", "category": "group"})
    keys = [BASE if one == BASE else _key_of(str(one)) for one in own["condition"]]
    found = own.assign(quantity=SAFETY, element=own["condition"], condition=keys)
    found["coefficient"] = np.where(found["condition"] == BASE, 0.0, SAFETY_DOSE)
    return _with_bounds(found, found["group"].map(sizes).to_numpy())


def _options(model: str) -> pd.DataFrame:
    table = option_probabilities()
    table = table[table["model"] == model]
    plain = table["coefficient"] == 0
    keys = [BASE if base else _key_of(str(one)) for one, base in zip(table["feature"], plain, strict=True)]
    return table.assign(
        quantity=OPTIONS,
        condition=keys,
        group=table["option"],
        element=table["feature"].mask(plain, BASE),
        published=100 * table["probability"],
        published_low=np.nan,
        published_high=np.nan,
        published_n=1,
    )


def _with_bounds(table: pd.DataFrame, items: np.ndarray) -> pd.DataFrame:
    shares = [
        proportion_interval(round(value / 100 * count), int(count))
        for value, count in zip(table["published"], items, strict=True)
    ]
    # Rounded to whole items, a share may lie a little beside its published value.
    low = np.minimum([100 * one.low for one in shares], table["published"])
    high = np.maximum([100 * one.high for one in shares], table["published"])
    return table.assign(published_low=low, published_high=high, published_n=items)


def _key(factor: str, element: str) -> str:
    found = element_named(factor, element)
    if found is None:
        raise DataError(f"data/reference: {factor}, {element}: no such element; restore the tables")
    return f"{found.factor}.{found.key}"


def _key_of(element: str) -> str:
    """The key of an element that a table names without its factor, in full or by its beginning."""
    known = trait_scores().drop_duplicates("element")
    for factor, title in zip(known["factor"], known["element"], strict=True):
        if title != BASE and title.lower().startswith(element.lower()):
            return _key(str(factor), str(title))
    raise DataError(f"data/reference: {element}: no such element; restore the tables")
