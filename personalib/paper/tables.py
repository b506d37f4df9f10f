"""The published numbers of arXiv 2410.10863, checked; ``data/reference/README.md`` says where each comes from."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from personalib.base.data import DataError, data_dir
from personalib.features.published import read_table

BIG_FIVE = ("Openness", "Conscientiousness", "Extraversion", "Agreeableness", "Neuroticism")
DARK_TRIAD = ("Machiavellianism", "Narcissism", "Psychopathy")
TRAITS = BIG_FIVE + DARK_TRIAD
"""The Big Five, then the dark triad, in the order of the book's tables and figures."""

SAFETY_CATEGORIES = {
    "OFF": "offensiveness",
    "UB": "unfairness and bias",
    "PH": "physical health",
    "MH": "mental health",
    "IA": "illegal activities",
    "EM": "ethics and morality",
    "PP": "privacy and property",
}
"""SafetyBench's categories by the abbreviation that the files use; ``Avg`` is the accuracy over all items."""

OPPOSITES = (
    ("female", "male"),
    ("young", "older"),
    ("poor", "rich"),
    ("Conservatism", "Liberalism"),
    ("stable", "volatile"),
    ("initiative", "inactive"),
    ("relaxed", "strained"),
)
"""Pairs of elements that stand at opposite ends of one background factor."""

#: The elements of the paper's two personas, by their keys.
PERSONAS = {
    "N": (
        "gender.female",
        "age.older",
        "education.uneducated",
        "socioeconomic_status.poor",
        "ideology.conservatism",
        "emotional_intelligence.volatile",
        "professional_commitment.inactive",
        "family_background.strained",
    ),
    "P": (
        "gender.male",
        "age.young",
        "education.bachelor",
        "socioeconomic_status.rich",
        "ideology.nationalism",
        "emotional_intelligence.stable",
        "professional_commitment.initiative",
        "family_background.relaxed",
    ),
}


def trait_scores() -> pd.DataFrame:
    """TRAIT scores of gemma-2b-it, unsteered and with the SAE features of each background element added.

    One row for each trait and condition: ``model, sae, layer, coefficient, factor, element, n_features``, ``trait`` and
    ``score`` in 0..100. The unsteered rows have the element ``base`` and the coefficient 0.
    """
    columns = {"coefficient": float, "element": str, "n_features": int, "trait": str, "score": float}
    return _read("trait_gemma-2b-it.csv", columns).drop_duplicates(ignore_index=True)


def persona_scores() -> pd.DataFrame:
    """TRAIT scores of both models with the features of all elements of a persona added, for the dark triad alone.

    One row for each trait and condition: ``model, coefficient, persona`` (a name of :data:`PERSONAS`, or ``base`` for
    the unsteered model), ``trait`` and ``score`` in 0..100.
    """
    columns = {"model": str, "coefficient": float, "persona": str, "trait": str, "score": float}
    return _read("trait_personas.csv", columns)


def trait_changes(coefficient: float) -> pd.DataFrame:
    """Change of the TRAIT scores from the unsteered model, in points, at a published coefficient: 200 or 300.

    Elements in file order are the rows, :data:`TRAITS` the columns; another coefficient is a ValueError.
    """
    scores = trait_scores()
    steered = scores[(scores["coefficient"] == coefficient) & (scores["element"] != "base")]
    if steered.empty:
        published = " and ".join(f"{value:g}" for value in sorted(set(scores["coefficient"]) - {0.0}))
        raise ValueError(f"no scores at coefficient {coefficient:g}; published are {published}")
    wide = steered.pivot(index="element", columns="trait", values="score")
    return wide.loc[steered["element"].unique(), list(TRAITS)] - base_scores()


def base_scores() -> pd.Series:
    """TRAIT scores of the unsteered gemma-2b-it, by trait."""
    scores = trait_scores()
    return scores[scores["element"] == "base"].set_index("trait")["score"].loc[list(TRAITS)]


def unrelated_pairs(elements: Iterable[str]) -> pd.DataFrame:
    """Which pairs of elements belong to different factors: a square table, true above the diagonal, once a pair."""
    names = list(elements)
    factors = trait_scores().drop_duplicates("element").set_index("element")["factor"].loc[names].to_numpy()
    return pd.DataFrame(np.triu(factors[:, None] != factors), index=names, columns=names)


def safety_accuracy() -> pd.DataFrame:
    """SafetyBench accuracy (%) of gemma-2b-it by condition and category, with a condition ``chance``."""
    table = _read("safetybench_gemma-2b-it.csv", {"condition": str, "category": str, "accuracy": float})
    return table.assign(condition=table["condition"].replace({"Base": "base", "chance**": "chance"}))


def option_probabilities() -> pd.DataFrame:
    """Next-token probabilities of the letters A to D on one TRAIT item while the coefficient grows, one row a letter:
    ``model, feature, coefficient, option`` and ``probability``.
    """
    columns = {"model": str, "feature": str, "coefficient": float, "option": str, "probability": float}
    return _read("option_probabilities.csv", columns, top=1)


def _read(name: str, columns: Mapping[str, type], top: float = 100) -> pd.DataFrame:
    """A table whose last column is in 0..top."""
    table, column = read_table(name, columns), list(columns)[-1]
    outside = table.index[~table[column].between(0, top)]
    if len(outside):
        path = data_dir() / "reference" / name
        raise DataError(f"{path}: line {outside[0] + 2}: {column} is not in 0..{top:g}")
    return table
