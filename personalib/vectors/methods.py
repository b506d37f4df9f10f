"""Directions: from the activations of contrast pairs to one vector, by six methods.

Every method finds a unit vector u and returns u (u · δ), the part of the difference of means δ that lies along it. So
all have their sign from the labels, and one scale: adding the vector once carries the mean of the negative pole to the
mean of the positive one, as far as the direction goes.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from personalib.base.data import choose

Array = NDArray[np.float64]
DEFAULT_METHOD = "difference_of_means"
#: The token of a text that is read: the prompt's last, the last of the sentence, or the mean over the sentence.
Position = Literal["last", "sentence_last", "sentence_mean"]


def difference_of_means(positive: Array, negative: Array) -> Array:
    """The difference of the two poles' means, which is its own part along itself.

    Source:
        Rimsky et al., *Steering Llama 2 via Contrastive Activation Addition* (arXiv 2312.06681), equation 1; the
        cluster mean of RepE's published code is the same vector.
    """
    return positive.mean(0) - negative.mean(0)


def pca(positive: Array, negative: Array) -> Array:
    """The first principal component of the pairs' differences, each taken both ways round.

    Taken both ways, they have mean zero and nothing has to be centred away; RepE's shuffling within pairs tends to it.
    Whether the differences of arXiv 2410.10863 are centred is not stated there.

    Source:
        Zou et al., *Representation Engineering* (arXiv 2310.01405), section 3.1.2.
    """
    differences = positive - negative
    return _first_component(np.vstack([differences, -differences]))


def pca_centred(positive: Array, negative: Array) -> Array:
    """The first principal component of the pairs' differences about their mean, in use as repeng's ``pca_diff``.

    The mean is what the poles differ in; taken off, this is the direction in which *pairs* differ from each other most.
    """
    return _first_component(positive - negative)


def cluster_means(positive: Array, negative: Array) -> Array:
    """The difference of the two centres that k-means finds, without labels, in the pairs' deviations from their middle.

    Source:
        Zou et al. (arXiv 2310.01405), section 3.1.2, where k-means is named beside PCA. Their published code calls
        something else by that name (see :func:`difference_of_means`).
    """
    from sklearn.cluster import KMeans

    half = (positive - negative) / 2
    centres = KMeans(2, n_init=10, random_state=0).fit(np.vstack([half, -half])).cluster_centers_
    return centres[0] - centres[1]


def logistic_probe(positive: Array, negative: Array) -> Array:
    """The normal of a logistic regression, fitted on standardised coordinates."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(*_labelled(positive, negative))
    return probe[-1].coef_[0] / probe[0].scale_


def lda(positive: Array, negative: Array) -> Array:
    """The normal of Fisher's linear discriminant, its covariance shrunk by Ledoit and Wolf's rule."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(*_labelled(positive, negative)).coef_[0]


METHODS: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {method.__name__: method for method in (difference_of_means, pca, pca_centred, cluster_means, logistic_probe, lda)}
)


def direction(positive: NDArray[np.floating], negative: NDArray[np.floating], method: str = DEFAULT_METHOD) -> Array:
    """The direction from the negative to the positive pole by one of :data:`METHODS`, shape ``(d_model,)``.

    The activations are those of each pair's two texts, shape ``(pairs, d_model)``, and the direction is in their unit.

    Raises:
        ValueError: the method is unknown, the shapes differ, there are fewer than two pairs, an activation is not
            finite, the two poles have the same mean, or the method finds nothing that tells them apart.

    Example:
        >>> direction(np.array([[1.0, 2.0], [1.0, 4.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
        [0.0, 3.0]
    """
    choose(method, METHODS, "method")
    first, second = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"activations of shapes {first.shape} and {second.shape}; pass two or more pairs of both")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("an activation is not finite; run the model in float32 or bfloat16")
    difference = first.mean(0) - second.mean(0)
    if not difference.any():
        raise ValueError("the two poles have the same mean; there is no direction between them")
    if method == DEFAULT_METHOD:
        return difference
    normal = METHODS[method](first, second)
    norm = np.linalg.norm(normal)
    # A fit that stops where it starts, as at poles that hardly differ, leaves coefficients of zero.
    if not (np.isfinite(norm) and norm):
        raise ValueError(f"{method} finds no direction in {len(first)} pairs; pass more, or pairs that differ more")
    unit = normal / norm
    return unit * (unit @ difference)


def _first_component(rows: Array) -> Array:
    from sklearn.decomposition import PCA

    return PCA(n_components=1, svd_solver="full").fit(rows).components_[0]


def _labelled(positive: Array, negative: Array) -> tuple[Array, NDArray[np.int64]]:
    return np.vstack([positive, negative]), np.repeat([1, 0], len(positive))
