"""How well each feature of an SAE tells each class of texts from all others, by several published criteria.

Features are sparse: most are silent on most texts. All scores are computed on the entries that are not zero, so that a
hundred thousand features and ten thousand texts fit into little memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.stats import rankdata

from personalib.base.statistics import Interval

CRITERIA = ("auroc", "mean_difference", "max_difference", "f1", "mutual_information")
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of every class and feature, each of shape ``(classes, features)``; the higher the better.

    Attributes:
        auroc: probability that a text of the class has more of the feature than one of another class, ties halved.
        mean_difference: mean over the class minus mean over all other texts.
        max_difference: the most that a text of the class has minus the most that any other text has.
        f1: harmonic mean of precision and recall at the threshold where it is best.
        threshold: that threshold; a text with at least so much of the feature counts as of the class.
        mutual_information: in bits, between whether a feature is above zero and whether a text is of the class.
    """

    auroc: Matrix
    mean_difference: Matrix
    max_difference: Matrix
    f1: Matrix
    threshold: Matrix
    mutual_information: Matrix

    def criterion(self, name: str) -> Matrix:
        """The scores by a criterion.

        Raises:
            ValueError: there is no such criterion.
        """
        if name not in CRITERIA:
            raise ValueError(f"unknown criterion {name!r}; choose one of {', '.join(CRITERIA)}")
        found: Matrix = getattr(self, name)
        return found


def score_features(pooled: csc_array, members: NDArray[np.bool_]) -> Scores:
    """Score features by all criteria.

    Args:
        pooled: how much of each feature each text has, never negative, shape ``(texts, features)``.
        members: which texts are of which class, shape ``(texts, classes)``.

    Raises:
        ValueError: there is a negative entry, or a class with no text or with all.
    """
    _check(pooled, members)
    best, threshold = _best_f1(pooled, members)
    return Scores(
        auroc=auroc(pooled, members),
        mean_difference=_mean_difference(pooled, members),
        max_difference=_max_difference(pooled, members),
        f1=best,
        threshold=threshold,
        mutual_information=_mutual_information(pooled, members),
    )


def auroc(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    """The area under the ROC curve of each class against all other texts, shape ``(classes, features)``.

    Source:
        Mann and Whitney, *Annals of Mathematical Statistics* 18 (1947): it is their U over the number of pairs.
    """
    ranks, silent = midranks(pooled)
    return rank_auroc(ranks, silent, members)


def midranks(pooled: csc_array) -> tuple[csc_array, Matrix]:
    """Ranks of the texts in each feature, with the mean rank for ties.

    Returns:
        how far the rank of each entry is above the one of silence, as sparse as the entries; and for each feature the
        rank of silence, shape ``(features,)``.
    """
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
        found: Matrix = (sums - sizes * (sizes + 1) / 2) / (sizes * (len(members) - sizes))
    return found


def bootstrap_auroc(
    positive: Matrix,
    negative: Matrix,
    positive_groups: NDArray[np.int64],
    negative_groups: NDArray[np.int64],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The area under the ROC curve with a percentile bootstrap interval that resamples groups of texts.

    Args:
        positive: values of the class's texts, shape ``(n,)``.
        negative: values of the other texts, shape ``(m,)``.
        positive_groups: number of the group of each text of the class; whole groups are drawn.
        negative_groups: the same of the other texts.
        level: share of such intervals that hold the true value.
        resamples: how many bootstrap samples are drawn.
        seed: of the random generator.
    """
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rng = np.random.default_rng(seed)
    left, right = _weights(positive_groups, resamples, rng), _weights(negative_groups, resamples, rng)
    drawn = ((left @ wins) * right).sum(1) / (left.sum(1) * right.sum(1))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(wins.mean()), float(low), float(high))


def _weights(groups: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Matrix:
    """How often each text is in each bootstrap sample of groups, shape ``(resamples, texts)``."""
    number = np.unique(groups, return_inverse=True)[1]
    count = int(number.max()) + 1
    found: Matrix = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, number].astype(float)
    return found


def _mean_difference(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    sums = (pooled.T @ members.astype(float)).T
    sizes = members.sum(0)[:, None]
    total = np.asarray(pooled.sum(axis=0))
    found: Matrix = sums / sizes - (total - sums) / (len(members) - sizes)
    return found


def _max_difference(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    rows = pooled.tocsr()
    found = np.empty((members.shape[1], pooled.shape[1]))
    for number, own in enumerate(members.T):
        most, other = (rows[mask].max(axis=0).toarray().ravel() for mask in (own, ~own))
        found[number] = most - other
    return found


def _best_f1(pooled: csc_array, members: NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """The best F1 and its threshold; thresholds are the values that occur, and silence never counts as a yes."""
    shape = (members.shape[1], pooled.shape[1])
    best, threshold = np.zeros(shape), np.full(shape, np.inf)
    sizes = members.sum(0)
    for feature in np.flatnonzero(np.diff(pooled.indptr)):
        entries = slice(pooled.indptr[feature], pooled.indptr[feature + 1])
        order = np.argsort(-pooled.data[entries], kind="stable")
        values = pooled.data[entries][order]
        found = members[pooled.indices[entries][order]].cumsum(0)
        # A threshold lets in all texts of the same value, so only the last of them counts.
        ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        f1 = 2 * found[ends] / (ends[:, None] + 1 + sizes)
        at = f1.argmax(0)
        best[:, feature] = f1[at, np.arange(len(sizes))]
        threshold[:, feature] = values[ends[at]]
    return best, threshold


def _mutual_information(pooled: csc_array, members: NDArray[np.bool_]) -> Matrix:
    fires = csc_array((np.ones_like(pooled.data), pooled.indices, pooled.indptr), shape=pooled.shape)
    both = (fires.T @ members.astype(float)).T
    sizes, fired, texts = members.sum(0)[:, None], np.diff(pooled.indptr)[None], len(members)
    found = np.zeros_like(both)
    for joint, label, active in (
        (both, sizes, fired),
        (sizes - both, sizes, texts - fired),
        (fired - both, texts - sizes, fired),
        (texts - sizes - fired + both, texts - sizes, texts - fired),
    ):
        expected = label * active / texts
        with np.errstate(divide="ignore", invalid="ignore"):
            found += np.where(joint > 0, joint / texts * np.log2(joint / expected), 0.0)
    return np.maximum(found, 0.0)


def _check(pooled: csc_array, members: NDArray[np.bool_]) -> None:
    sizes = members.sum(0)
    if pooled.shape[0] != len(members):
        raise ValueError(f"{pooled.shape[0]} texts with features and {len(members)} with labels; pass the same texts")
    if (sizes == 0).any() or (sizes == len(members)).any():
        raise ValueError("a class has no text, or all of them; each needs some texts and others beside them")
    if len(pooled.data) and pooled.data.min() <= 0:
        raise ValueError("entries have to be above zero, and zeros are left out; shift values that can be negative")
