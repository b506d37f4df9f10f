"""Readings: how well a direction tells the two poles of a contrast apart, in texts that it was not fitted to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from personalib.base.statistics import Interval, clustered_interval
from personalib.models.parts import Site
from personalib.vectors.contrast import Halves, PairActivations, fit_vector
from personalib.vectors.methods import DEFAULT_METHOD, direction
from personalib.vectors.vector import SteeringVector

_FOLDS = 4
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """A steering vector with a scale to read it on.

    Attributes:
        vector: the direction.
        middle: the projection half way between the means of the two poles.
        half: half the distance between them.
        slope, intercept: of the log-odds of the positive pole along that scale.
    """

    vector: SteeringVector
    middle: float
    half: float
    slope: float
    intercept: float

    def position(self, activations: ArrayLike) -> Array:
        """Where activations lie between the poles: the negative one at -1, the positive one at 1.

        Args:
            activations: shape ``(..., d_model)``.

        Returns:
            Shape ``(...,)``.
        """
        return (self.vector.projection(activations) - self.middle) / self.half

    def probability(self, activations: ArrayLike) -> Array:
        """The probability of the positive pole, as calibrated on phrases left out of the fit."""
        return expit(self.slope * self.position(activations) + self.intercept)


class Accuracy(NamedTuple):
    """How well texts are read.

    Attributes:
        texts: share of texts on their own side of the middle, with its interval over phrases.
        pairs: share of pairs whose positive text lies further to the positive side than its negative one.
        brier: mean squared error of the probability of the positive pole; a coin has 0.25.
    """

    texts: Interval
    pairs: float
    brier: float


def fit_reader(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> Reader:
    """A direction with its scale, from contrast pairs to train on.

    The probability is a logistic regression on positions that were read with the text's own phrase left out, since
    positions on the texts of the fit itself would make it too sure.

    Raises:
        KeyError: nothing was read at the site.
        ValueError: the pairs have fewer than two phrases of a pole.
    """
    return _calibrated(fit_vector(read, site, method), read, left_out_positions(read, site, method))


def _calibrated(vector: SteeringVector, read: PairActivations, left_out: Array) -> Reader:
    """A reader of a vector, its probability from positions of phrases that were left out."""
    from sklearn.linear_model import LogisticRegression

    middle, half = _scale(*(vector.projection(each) for each in read.at(vector.site)))
    positions = left_out.ravel()
    fitted = LogisticRegression(C=1.0).fit(positions[:, None], np.tile([1, 0], len(read.pairs)))
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # Where phrases left out lie on the wrong side, nothing was learned that could be told: a coin.
    return Reader(vector, middle, half, slope, intercept) if slope > 0 else Reader(vector, middle, half, 0.0, 0.0)


def left_out_positions(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> Array:
    """Where each text lies between the poles by a direction that was fitted without its phrase.

    Args:
        read: contrast pairs.
        site: where.
        method: of the direction.

    Returns:
        Shape ``(pairs, 2)``: of the positive and of the negative text, on the scale of :meth:`Reader.position`.

    Raises:
        ValueError: a pole has fewer than two phrases, or hardly a pair is without some of them.
    """
    folds = np.column_stack([_folds(own) for own in read.phrases.T])
    rows = read.at(site)
    found = np.full(folds.shape, np.nan)
    for fold in np.unique(folds):
        kept = (folds != fold).all(1)
        if kept.sum() < 2:
            raise ValueError(f"{len(read.pairs)} pairs leave {kept.sum()} without some phrases; pass more pairs")
        normal = direction(rows[0][kept], rows[1][kept], method)
        normal /= np.linalg.norm(normal)
        along = np.column_stack([each @ normal for each in rows])
        middle, half = _scale(*along[kept].T)
        found = np.where(folds == fold, (along - middle) / half, found)
    return found


def validation_accuracy(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> float:
    """The share of texts on their own side of the middle, each read without its phrase in the fit.

    It needs no held-out text, so that layers can be chosen by it.
    """
    return float(_right(left_out_positions(read, site, method)).mean())


def accuracy(reader: Reader, read: PairActivations, seed: int = 0) -> Accuracy:
    """How well a reader reads other pairs.

    Args:
        reader: from :func:`fit_reader`.
        read: pairs that share nothing with those of the fit.
        seed: of the interval.
    """
    rows = read.at(reader.vector.site)
    positions = np.column_stack([reader.position(each) for each in rows])
    chances = np.column_stack([reader.probability(each) for each in rows])
    return Accuracy(
        clustered_interval(_right(positions).ravel(), read.phrases.ravel(), seed=seed),
        float((positions[:, 0] > positions[:, 1]).mean()),
        float(((chances - [1, 0]) ** 2).mean()),
    )


def layer_scan(
    readings: Mapping[str, Halves], sites: Sequence[Site], method: str = DEFAULT_METHOD, seed: int = 0
) -> pd.DataFrame:
    """Reading accuracy of each contrast at each site.

    Returns:
        One row a contrast and site: ``contrast``, ``site``, ``layer``, ``validation`` (phrases left out of the fit),
        and on held-out phrases and questions ``accuracy`` with ``low`` and ``high``, ``pairs`` and ``brier``.
    """
    rows = []
    for key, halves in readings.items():
        for site in sites:
            left_out = left_out_positions(halves["train"], site, method)
            reader = _calibrated(fit_vector(halves["train"], site, method), halves["train"], left_out)
            found = accuracy(reader, halves["held_out"], seed)
            rows.append(
                {
                    "contrast": key,
                    "site": str(site),
                    "layer": site.layer,
                    "validation": float(_right(left_out).mean()),
                    "accuracy": found.texts.estimate,
                    "low": found.texts.low,
                    "high": found.texts.high,
                    "pairs": found.pairs,
                    "brier": found.brier,
                }
            )
    return pd.DataFrame(rows)


def null_accuracies(
    halves: Halves, site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> Array:
    """The same reading where there is nothing to read: poles are dealt anew to whole phrases, in both splits.

    It says where the procedure lies without an effect. Its spread is no basis for a p-value: where the true poles lie
    far apart, a direction along them reads one half of each dealt pole every time.

    Args:
        halves: pairs to train on and held-out ones.
        site: where.
        method: of the direction.
        shuffles: how often.
        seed: deals the poles.

    Returns:
        The accuracy on held-out texts of each shuffle, both poles counted alike, shape ``(shuffles,)``.
    """
    rng = np.random.default_rng([seed, 17])
    found = []
    for _ in range(shuffles):
        first, second = dealt_texts(halves["train"], site, rng)
        normal = direction(first, second, method)
        middle = (first.mean(0) + second.mean(0)) @ normal / 2
        high, low = dealt_texts(halves["held_out"], site, rng)
        found.append(((high @ normal > middle).mean() + (low @ normal < middle).mean()) / 2)
    return np.array(found)


def swapped_accuracies(
    halves: Halves, site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> Array:
    """Directions of pairs half of which are swapped, read on held-out texts by their *true* poles.

    It is the null that is often shown, and for means and components it is wide: a random direction has a little of
    the true one in it, up or down, and where the poles lie far apart that is enough to read nearly all texts rightly,
    or nearly all wrongly.

    Returns:
        Shape ``(shuffles,)``.
    """
    rng = np.random.default_rng([seed, 19])
    first, second = halves["train"].at(site)
    high, low = halves["held_out"].at(site)
    found = []
    for _ in range(shuffles):
        swapped = (rng.permutation(len(first)) % 2 == 0)[:, None]
        positive, negative = np.where(swapped, second, first), np.where(swapped, first, second)
        normal = direction(positive, negative, method)
        middle = (positive.mean(0) + negative.mean(0)) @ normal / 2
        found.append(((high @ normal > middle).mean() + (low @ normal < middle).mean()) / 2)
    return np.array(found)


def dealt_texts(
    read: PairActivations, site: Site, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Texts with their poles dealt anew to whole phrases, so that there is nothing to tell them apart by.

    Args:
        read: contrast pairs.
        site: where.
        rng: deals the poles.

    Returns:
        The activations of one random half of the phrases, and as many of the other; each half has half of the phrases
        of a pole.
    """
    high = []
    for own in read.phrases.T:
        different = _different(own)
        chosen = rng.permutation(different)[: len(different) // 2 + rng.integers(len(different) % 2 + 1)]
        high.append(np.isin(own, chosen))
    rows, chosen = np.vstack(read.at(site)), np.concatenate(high)
    count = min(chosen.sum(), (~chosen).sum())
    return rng.permutation(rows[chosen])[:count], rng.permutation(rows[~chosen])[:count]


def _folds(phrases: NDArray[np.str_]) -> NDArray[np.int64]:
    """A fold for each phrase, as equal in number as can be."""
    different = _different(phrases)
    return np.searchsorted(different, phrases) % min(_FOLDS, len(different))


def _different(phrases: NDArray[np.str_]) -> NDArray[np.str_]:
    """The different phrases of a pole, at least two."""
    different = np.unique(phrases)
    if len(different) < 2:
        raise ValueError(
            f"all pairs have the phrase {str(different[0])!r} at one pole; take pairs of two or more phrases"
        )
    return different


def _scale(positive: Array, negative: Array) -> tuple[float, float]:
    """The middle between two means, and half their distance."""
    high, low = float(positive.mean()), float(negative.mean())
    return (high + low) / 2, (high - low) / 2


def _right(positions: Array) -> NDArray[np.bool_]:
    """Which texts lie on their own side of the middle, shape ``(pairs, 2)``."""
    return np.column_stack([positions[:, 0] > 0, positions[:, 1] < 0])
