"""How well each feature of an SAE tells each class of texts from all others, by several published criteria.

Features are sparse: most are silent on most texts. All scores are computed on the entries that are not zero, so that a
hundred thousand features and ten thousand texts fit into little memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.stats import rankdata

from personalib.base.data import choose
from personalib.base.statistics import Interval

CRITERIA = ("auroc", "mean_difference", "max_difference", "f1", "mutual_information")
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of every class and feature against all other texts, shape ``(classes, features)``; the higher the better.

    The differences are those of means and of maxima; ``f1`` is that at its best ``threshold``, from which on a text
    counts as of the class; and ``mutual_information`` is in bits, between whether a feature is above zero and the
    class.
    """

    auroc: Matrix
    mean_difference: Matrix
    max_difference: Matrix
    f1: Matrix
    threshold: Matrix
    mutual_information: Matrix

    def criterion(self, name: str) -> Matrix:
        """The scores by a criterion, one of ``CRITERIA``."""
        return getattr(self, choose(name, CRITERIA, "criterion"))


def score_features(pooled: csc_array, members: NDArray[np.bool_]) -> Scores:
    """Score features by all criteria.

    ``pooled`` is how much of each feature each text has, never negative, shape ``(texts, features)``, and ``members``
    which texts are of which class, shape ``(texts, classes)``. A class with no text or with all is a ValueError.
    """
    sizes = members.sum(0)
    if pooled.shape[0] != len(members):
        raise ValueError(f"{pooled.shape[0]} texts with features and {len(members)} with labels; pass the same texts")
    if (sizes == 0).any() or (sizes == len(members)).any():
        raise ValueError("a class has no text, or all of them; each needs some texts and others beside them")
    if len(pooled.data) and pooled.data.min() <= 0:
        raise ValueError("entries have to be above zero, and zeros are left out; shift values that can be negative")
    f1, threshold = _best_f1(pooled, members)
    return Scores(
        auroc=auroc(pooled, members),
        mean_difference=_mean_difference(pooled, members),
        max_difference=_max_difference(pooled, members),
        f1=f1,
        threshold=threshold,
        mutual_information=_mutual_information(pooled, members),
    )


def auroc(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    """The area under the ROC curve of each class against all other texts, shape ``(classes, features)``.

    It is Mann and Whitney's U over the number of pairs.
    """
    return rank_auroc(*midranks(pooled), members)


def midranks(pooled: csc_array) -> tuple[csc_array, Matrix]:
    """How far each entry's rank in its feature is above the one of silence, and that rank, shape ``(features,)``."""
    texts, features = pooled.shape
    counts = np.diff(pooled.indptr)
    silent = (texts - counts + 1) / 2
    ranks = np.empty(len(pooled.data))
    for feature in np.flatnonzero(counts):
        entries = slice(pooled.indptr[feature], pooled.indptr[feature + 1])
        ranks[entries] = rankdata(pooled.data[entries]) + texts - counts[feature] - silent[feature]
    return csc_array((ranks, pooled.indices, pooled.indptr), shape=(texts, features)), silent


def rank_auroc(ranks: csc_array, silent: Matrix, members: NDArray[np.bool_]) -> Matrix:
    """The area under the ROC curve from the result of :func:`midranks`, shape ``(classes, features)``."""
    sizes = members.sum(0).astype(float)[:, None]
    sums = (ranks.T @ members.astype(float)).T + sizes * silent
    with np.errstate(invalid="ignore"):  # a class without texts has no area
        return (sums - sizes * (sizes + 1) / 2) / (sizes * (len(members) - sizes))


def bootstrap_auroc(
    positive: Matrix,
    negative: Matrix,
    positive_groups: NDArray[np.int64],
    negative_groups: NDArray[np.int64],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The area under the ROC curve with its 95 % percentile bootstrap interval, which resamples whole groups of texts.

    The values, and the numbers of the texts' groups, are those of the class's texts and of all others, one a text.
    """
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rng = np.random.default_rng(seed)
    left, right = _weights(positive_groups, resamples, rng), _weights(negative_groups, resamples, rng)
    drawn = ((left @ wins) * right).sum(1) / (left.sum(1) * right.sum(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(wins.mean()), float(low), float(high))


def _weights(groups: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Matrix:
    """How often each text is in each bootstrap sample of groups, shape ``(resamples, texts)``."""
    number = np.unique(groups, return_inverse=True)[1]
    count = int(number.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, number].astype(float)


def _mean_difference(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    sums = (pooled.T @ members.astype(float)).T
    sizes = members.sum(0)[:, None]
    return sums / sizes - (np.asarray(pooled.sum(axis=0)) - sums) / (len(members) - sizes)


def _max_difference(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    rows = pooled.tocsr()
    most = [[rows[mask].max(axis=0).toarray().ravel() for mask in (own, ~own)] for own in members.T]
    return -np.diff(np.array(most), axis=1)[:, 0]


def _best_f1(pooled: csc_array, members: NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """The best F1 and its threshold; thresholds are the values that occur, and silence never counts as a yes."""
    shape = (members.shape[1], pooled.shape[1])
    best, threshold = np.zeros(shape), np.full(shape, np.inf)
    sizes = members.sum(0)
    for feature in np.flatnonzero(np.diff(pooled.indptr)):
        entries = slice(pooled.indptr[feature], pooled.indptr[feature + 1])
        order = np.argsort(-pooled.data[entries], kind="stable")
        values = pooled.data[entries][order]
        hits = members[pooled.indices[entries][order]].cumsum(0)
        # A threshold lets in all texts of the same value, so only the last of them counts.
        ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        f1 = 2 * hits[ends] / (ends[:, None] + 1 + sizes)
        at = f1.argmax(0)
        best[:, feature] = f1[at, np.arange(len(sizes))]
        threshold[:, feature] = values[ends[at]]
    return best, threshold


def _mutual_information(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    fires = csc_array((np.ones_like(pooled.data), pooled.indices, pooled.indptr), shape=pooled.shape)
    both = (fires.T @ members.astype(float)).T
    sizes, fired, texts = members.sum(0)[:, None], np.diff(pooled.indptr)[None], len(members)
    bits = np.zeros_like(both)
    for joint, label, active in (
        (both, sizes, fired),
        (sizes - both, sizes, texts - fired),
        (fired - both, texts - sizes, fired),
        (texts - sizes - fired + both, texts - sizes, texts - fired),
    ):
        expected = label * active / texts
        with np.errstate(divide="ignore", invalid="ignore"):
            bits += np.where(joint > 0, joint / texts * np.log2(joint / expected), 0.0)
    return np.maximum(bits, 0.0)
