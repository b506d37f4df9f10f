"""What a search for features is compared with: a trained probe, single coordinates, random directions.

Each gets the same texts, is fitted or chosen on those of the search, and is scored on held-out phrasings.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csc_array
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from personalib.features.scores import auroc
from personalib.models.activations import Activations
from personalib.models.parts import Site
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

BASELINES = ("probe", "coordinate", "random")


def baselines(
    train: LabelledTexts,
    train_activations: Activations,
    held_out: LabelledTexts,
    held_out_activations: Activations,
    site: Site,
    directions: int = 512,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC on held-out phrasings without an SAE.

    Args:
        train: texts to learn from.
        train_activations: theirs, captured with ``tokens="all"``.
        held_out: texts to score on.
        held_out_activations: theirs.
        site: where to look.
        directions: how many random directions there are to choose from, as many as an SAE has features.
        seed: of the random directions.

    Returns:
        One row an element and baseline: ``factor``, ``element``, ``baseline``, ``auroc``. ``probe`` is a logistic
        regression on the mean over tokens, the upper bound; ``coordinate`` the best single coordinate of the residual
        stream, up or down, at its most over tokens; ``random`` the same of random directions.
    """
    labels = [label for label in train.classes if label != NEUTRAL]
    own, later = train.members(labels), held_out.members(labels)
    means = _pool(train_activations, site, None), _pool(held_out_activations, site, None)
    width = means[0].shape[1]
    random = np.random.default_rng([seed, 13]).standard_normal((width, directions // 2))
    random /= np.linalg.norm(random, axis=0)
    found = {
        "probe": [_probe(*means, own[:, number], later[:, number]) for number in range(len(labels))],
        "coordinate": _best(train_activations, held_out_activations, site, np.eye(width), own, later),
        "random": _best(train_activations, held_out_activations, site, random, own, later),
    }
    return pd.DataFrame(
        [
            {"factor": factor, "element": element, "baseline": name, "auroc": value}
            for name, values in found.items()
            for (factor, element), value in zip(labels, values, strict=True)
        ]
    )


def _pool(activations: Activations, site: Site, directions: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The mean over a text's tokens; or the most and, with its sign turned, the least along some directions."""
    values, starts = np.asarray(activations.values(site), dtype=float), activations.offsets[:-1]
    if directions is None:
        return np.add.reduceat(values, starts) / np.diff(activations.offsets)[:, None]
    along = values @ directions
    return np.hstack([np.maximum.reduceat(along, starts), -np.minimum.reduceat(along, starts)])


def _probe(
    train: NDArray[np.float64], held_out: NDArray[np.float64], own: NDArray[np.bool_], later: NDArray[np.bool_]
) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    scores = probe.fit(train, own).decision_function(held_out)
    return float(auroc(_positive(scores[:, None]), later[:, None])[0, 0])


def _best(
    train: Activations,
    held_out: Activations,
    site: Site,
    directions: NDArray[np.float64],
    own: NDArray[np.bool_],
    later: NDArray[np.bool_],
) -> list[float]:
    """The AUROC on held-out texts of the direction and sign that is best on the others, for each class."""
    chosen = auroc(_positive(_pool(train, site, directions)), own).argmax(1)
    scores = auroc(_positive(_pool(held_out, site, directions)), later)
    return [float(scores[number, column]) for number, column in enumerate(chosen)]


def _positive(values: NDArray[np.float64]) -> csc_array:
    """Values moved above zero: ranks do not mind, and zeros would count as silence."""
    return csc_array(values - values.min(0) + 1.0)
