"""Features as steering vectors: what an SAE finds and what contrast pairs give are compared and used alike."""

import warnings
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csc_array

from personalib.base.data import choose
from personalib.features.discovery import Discovery, Label
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import auroc
from personalib.models.load import LanguageModel
from personalib.stimuli.factors import POLES
from personalib.vectors.contrast import PairActivations
from personalib.vectors.geometry import Vectors, matrix, units
from personalib.vectors.methods import Array
from personalib.vectors.vector import SteeringVector

# Weights of a unit vector below this are rounding errors.
_NOTHING = 1e-9


def feature_vector(
    sae: SparseAutoencoder, features: Sequence[int], language_model: LanguageModel, name: str
) -> SteeringVector:
    """What one or several features of an SAE write to the residual stream: the sum of their rows of the decoder.

    An unknown feature, or an SAE of another model, is a ValueError.

    Source:
        arXiv 2410.10863, section 3.2 and its code release: an element with several features adds their sum.
    """
    sae.check_fits(language_model)
    if not features or not all(0 <= each < sae.width for each in features):
        raise ValueError(f"{name}: features {list(features)}; {sae.name} has features 0 to {sae.width - 1}")
    return SteeringVector(
        sae.directions[list(features)].sum(0),
        sae.site,
        name,
        f"sae_features {sae.name} {', '.join(map(str, features))}",
        language_model.name,
        language_model.revision or language_model.digest(),
    )


def prompt_features(
    sae: SparseAutoencoder,
    read: PairActivations,
    count: int = 1,
    *,
    pole: str = POLES[0],
    criterion: Literal["difference", "auroc"] = "difference",
) -> list[int]:
    """The :func:`best_features` that stand for a pole of contrast pairs where a prompt ends.

    A KeyError where nothing was read at the SAE's site, a ValueError for more features than it has.
    """
    choose(pole, POLES, "pole")
    if not 0 < count <= sae.width:
        raise ValueError(f"count={count}; {sae.name} has {sae.width} features, take 1 to as many")
    poles = [sae.features(each) for each in read.at(sae.site)]
    own, other = poles if pole == POLES[0] else poles[::-1]
    return best_features(own, other, count, criterion)


def best_features(own: NDArray[np.floating], other: NDArray[np.floating], count: int, criterion: str) -> list[int]:
    """The features, best first, that are more active on some texts than on others, each of shape ``(texts, features)``.

    They are ordered by the ``"difference"`` of mean activations; or by ``"auroc"``, how well a feature tells the texts
    apart, with ties broken by the difference.
    """
    choose(criterion, ("difference", "auroc"), "criterion")
    first = difference = own.mean(0) - other.mean(0)
    if criterion == "auroc":
        labels = np.repeat([True, False], [len(own), len(other)])[:, None]
        first = auroc(csc_array(np.vstack([own, other])), labels)[0]
    # The last key is the first that is sorted by.
    return [int(each) for each in np.lexsort((-difference, -first))[:count]]


def pole_vector(
    discovery: Discovery,
    sae: SparseAutoencoder,
    language_model: LanguageModel,
    positive: Label,
    negatives: Sequence[Label],
) -> SteeringVector:
    """The best feature of one label minus the mean of those of others, as a direction between two poles.

    The best by AUROC on the texts of the search, found to be specific or not: a comparison needs one for every label.
    Where two labels share their best feature, the negative one gets its second. An unknown label, no negative one, and
    the positive one among these are a ValueError.
    """
    labels = [finding.label for finding in discovery.findings]
    missing = [".".join(label) for label in (positive, *negatives) if label not in labels]
    if positive in negatives:
        raise ValueError(f"{'.'.join(positive)} is on both sides; leave it out of the negatives")
    if missing or not negatives:
        known = ", ".join(".".join(label) for label in labels)
        raise ValueError(f"the search knows no {', '.join(missing) or 'negative label'}; it has {known}")
    auroc = discovery.scores.auroc
    best = int(auroc[labels.index(positive)].argmax())
    others = [int(np.delete(auroc[labels.index(label)], best).argmax()) for label in negatives]
    # Without the one that was deleted, the numbers of those behind it are one less.
    others = [each + (each >= best) for each in others]
    up, *down = (
        feature_vector(sae, [each], language_model, ".".join(label))
        for each, label in zip([best, *others], [positive, *negatives], strict=True)
    )
    return up - reduce(add, down) / len(down)


def sparse_reconstruction(
    vectors: Vectors, sae: SparseAutoencoder, counts: Sequence[int] = (1, 2, 3, 5, 10, 20), seed: int = 0
) -> pd.DataFrame:
    """How much of each vector a few features explain by orthogonal matching pursuit, with weights of either sign.

    One row a vector and count of ``features``: ``explained`` is the share of the vector's squared norm, ``chance`` the
    same by as many of as many random directions, ``random`` the mean of random vectors by the SAE's own features, and
    ``chosen`` the features picked, in the order of their weight. A vector at another site, or zero, is a ValueError.

    Source:
        Pati, Rezaiifar and Krishnaprasad, *Orthogonal Matching Pursuit* (1993).
    """
    for name, vector in vectors.items():
        if vector.site != sae.site:
            raise ValueError(f"{name} stands at {vector.site}, and {sae.name} reads {sae.site}")
        if not vector.norm:
            raise ValueError(f"{name} is zero and made of nothing; leave it out")
    rng = np.random.default_rng([seed, 23])
    dictionary, targets = units(sae.directions.double().cpu().numpy()), units(matrix(vectors))
    chance = units(rng.standard_normal(dictionary.shape))
    noise = units(rng.standard_normal((20, dictionary.shape[1])))
    rows = []
    for count in counts:
        random = float(_explained(noise, dictionary, count)[0].mean())
        parts = zip(*_explained(targets, dictionary, count), _explained(targets, chance, count)[0], strict=True)
        for name, (share, weights, by_chance) in zip(vectors, parts, strict=True):
            chosen = [int(each) for each in np.argsort(-np.abs(weights)) if abs(weights[each]) > _NOTHING]
            rows.append([name, count, share, by_chance, random, chosen])
    return pd.DataFrame(rows, columns=["name", "features", "explained", "chance", "random", "chosen"])


def _explained(targets: Array, dictionary: Array, count: int) -> tuple[Array, Array]:
    """The share of each unit target that the best few rows explain, shape (targets,), and all weights."""
    from sklearn.linear_model import orthogonal_mp

    with warnings.catch_warnings():
        # It warns where fewer rows than asked for explain everything, which is a result and no problem.
        warnings.simplefilter("ignore", RuntimeWarning)
        weights = orthogonal_mp(dictionary.T, targets.T, n_nonzero_coefs=count).reshape(len(dictionary), -1).T
    return 1 - ((targets - weights @ dictionary) ** 2).sum(1), weights
