"""What features have in common: one feature for two opposite elements (the paper's Table 3), and what is confused."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csc_array

from personalib.features.discovery import FeatureTexts, Label, separations
from personalib.features.scores import auroc
from personalib.stimuli.sentences import NEUTRAL


def superposition(texts: FeatureTexts) -> pd.DataFrame:
    """The feature that each element would get if its opposites were left out of the search.

    An SAE that has one feature for a factor, whatever the element, gives opposite elements the same one.

    Args:
        texts: the texts of the search with their features.

    Returns:
        One row an element: ``factor``, ``element``, ``feature``; ``others``, its AUROC against the texts of other
        factors; ``opposites``, its AUROC against the factor's other elements; ``shared``, whether one of those gets
        the same feature. A factor of which only one element is told is left out.
    """
    rows = []
    labels = [label for label in texts.texts.classes if label != NEUTRAL]
    members = texts.members(labels)
    by_row = texts.pooled.tocsr()
    for number, (factor, element) in enumerate(labels):
        opposites = [place for place, label in enumerate(labels) if label[0] == factor and place != number]
        if not opposites:
            continue
        own, opposed = members[:, number], members[:, opposites].any(1)
        others = auroc(csc_array(by_row[~opposed]), own[~opposed, None])[0]
        feature = int(others.argmax())
        within = auroc(csc_array(by_row[own | opposed][:, [feature]]), own[own | opposed, None])[0, 0]
        rows.append([factor, element, feature, float(others[feature]), float(within)])
    table = pd.DataFrame(rows, columns=["factor", "element", "feature", "others", "opposites"])
    return table.assign(shared=table.duplicated(["factor", "feature"], keep=False).astype(bool))


def shared_share(table: pd.DataFrame) -> float:
    """The share of elements that share their feature with an opposite."""
    return float(np.mean(table["shared"]))


def confusion(texts: FeatureTexts, features: Mapping[Label, int]) -> pd.DataFrame:
    """How well the feature of each label tells its texts from those of each other label.

    Args:
        texts: texts with their features.
        features: a feature for each label.

    Returns:
        The AUROC, rows the labels of the features and columns all labels of the texts, each as ``factor.element`` or
        ``neutral``; a label against itself is missing.
    """
    rows = {
        name(label): {
            name(other): value for other, value in separations(texts.texts, label, texts.column([feature])).items()
        }
        for label, feature in features.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=[name(label) for label in texts.texts.classes])


def name(label: Label) -> str:
    """A label in one word."""
    return "neutral" if label == NEUTRAL else ".".join(label)
