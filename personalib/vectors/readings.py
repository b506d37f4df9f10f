"""Readings: how well a direction tells the two poles of a contrast apart, in texts that it was not fitted to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from personalib.base.data import choose
from personalib.base.statistics import Interval, clustered_interval
from personalib.models.parts import Site
from personalib.vectors.contrast import Halves, PairActivations, fit_vector
from personalib.vectors.methods import DEFAULT_METHOD, Array, direction
from personalib.vectors.vector import SteeringVector

_FOLDS = 4
#: Poles dealt anew to phrases, or within half of the pairs.
Null = Literal["dealt", "swapped"]


@dataclass(frozen=True)
class Reader:
    """A steering vector with a scale to read it on.

    ``middle`` is the projection half way between the means of the two poles and ``half`` half their distance; ``slope``
    and ``intercept`` are those of the log-odds of the positive pole along that scale; and ``validation`` is the share
    of the fit's own texts on their side where each is read without its phrase.
    """

    vector: SteeringVector
    middle: float
    half: float
    slope: float
    intercept: float
    validation: float = nan

    def position(self, activations: ArrayLike) -> Array:
        """Where activations of shape ``(..., d_model)`` lie: the negative pole at -1, the positive one at 1."""
        return (self.vector.projection(activations) - self.middle) / self.half

    def probability(self, activations: ArrayLike) -> Array:
        """The probability of the positive pole, as calibrated on phrases left out of the fit."""
        return expit(self.slope * self.position(activations) + self.intercept)


class Accuracy(NamedTuple):
    """How well texts are read.

    ``texts`` is the share of texts on their own side of the middle, with its interval over phrases; ``pairs`` that of
    pairs in the right order; and ``brier`` the mean squared error of the probability (a coin has 0.25).
    """

    texts: Interval
    pairs: float
    brier: float


def fit_reader(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> Reader:
    """A direction with its scale, from contrast pairs to train on.

    The probability is a logistic regression on positions that were read with the text's own phrase left out, since
    positions on the texts of the fit itself would make it too sure. A pole needs two phrases, or it is a ValueError.
    """
    from sklearn.linear_model import LogisticRegression

    vector, left_out = fit_vector(read, site, method), left_out_positions(read, site, method)
    middle, half = _scale(*(vector.projection(each) for each in read.at(site)))
    fitted = LogisticRegression(C=1.0).fit(left_out.reshape(-1, 1), np.tile([1, 0], len(read.pairs)))
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # Where phrases left out lie on the wrong side, nothing was learned that could be told: a coin.
    if slope <= 0:
        slope = intercept = 0.0
    return Reader(vector, middle, half, slope, intercept, float(_right(left_out).mean()))


def left_out_positions(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> Array:
    """Where each text lies between the poles by a direction that was fitted without its phrase.

    Shape ``(pairs, 2)``: the positive and the negative text, on the scale of :meth:`Reader.position`. A ValueError if
    a pole has fewer than two phrases, or hardly a pair is without some of them.
    """
    folds = np.column_stack([_folds(phrases) for phrases in read.phrases.T])
    rows = read.at(site)
    positions = np.full(folds.shape, np.nan)
    for fold in np.unique(folds):
        kept = (folds != fold).all(1)
        if kept.sum() < 2:
            raise ValueError(f"{len(read.pairs)} pairs leave {kept.sum()} without some phrases; pass more pairs")
        normal = direction(rows[0][kept], rows[1][kept], method)
        normal /= np.linalg.norm(normal)
        along = np.column_stack([each @ normal for each in rows])
        middle, half = _scale(*along[kept].T)
        positions = np.where(folds == fold, (along - middle) / half, positions)
    return positions


def validation_accuracy(read: PairActivations, site: Site, method: str = DEFAULT_METHOD) -> float:
    """The share of texts on their own side, each read without its phrase in the fit: layers can be chosen by it."""
    return float(_right(left_out_positions(read, site, method)).mean())


def accuracy(reader: Reader, read: PairActivations, seed: int = 0) -> Accuracy:
    """How well a reader reads pairs that share nothing with those of its fit; the seed is the interval's."""
    rows = np.stack(read.at(reader.vector.site), axis=1)
    positions, chances = reader.position(rows), reader.probability(rows)
    return Accuracy(
        clustered_interval(_right(positions).ravel(), read.phrases.ravel(), seed=seed),
        float((positions[:, 0] > positions[:, 1]).mean()),
        float(((chances - [1, 0]) ** 2).mean()),
    )


def layer_scan(
    readings: Mapping[str, Halves], sites: Sequence[Site], method: str = DEFAULT_METHOD, seed: int = 0
) -> pd.DataFrame:
    """Reading accuracy, one row a contrast and site.

    ``validation`` is that with phrases left out of the fit; ``accuracy`` with ``low`` and ``high``, ``pairs`` and
    ``brier`` are those of :class:`Accuracy` on held-out phrases and questions.
    """
    rows = []
    for key, halves in readings.items():
        for site in sites:
            reader = fit_reader(halves["train"], site, method)
            texts, pairs, brier = accuracy(reader, halves["held_out"], seed)
            rows.append([key, str(site), site.layer, reader.validation, *texts, pairs, brier])
    columns = ["contrast", "site", "layer", "validation", "accuracy", "low", "high", "pairs", "brier"]
    return pd.DataFrame(rows, columns=columns)


def judged(reader: Reader, read: PairActivations) -> pd.DataFrame:
    """What a reader says of each text: ``probability`` of the positive pole, and whether it is ``positive``."""
    chances = [reader.probability(each) for each in read.at(reader.vector.site)]
    return pd.DataFrame(
        {
            "contrast": read.name,
            "phrase": np.concatenate(list(read.phrases.T)),
            "probability": np.concatenate(chances),
            "positive": np.repeat([True, False], len(read.pairs)),
        }
    )


def reliability(texts: pd.DataFrame, bins: int = 5) -> pd.DataFrame:
    """How often texts of :func:`judged` of about the same probability are of the positive pole.

    One row a stretch of the probability that holds a text: the mean ``probability``, the ``share`` of positive texts
    with ``low`` and ``high`` (over phrases; NaN for a single one), and the numbers of ``texts`` and ``phrases``.
    """
    if texts.empty:
        raise ValueError("there is no text to judge by; pass the rows of judged()")
    rows = []
    for _, stretch in texts.groupby(np.minimum((texts["probability"] * bins).astype(int), bins - 1)):
        phrases = stretch["contrast"] + ": " + stretch["phrase"]
        share = clustered_interval(stretch["positive"].astype(float), phrases)
        rows.append([stretch["probability"].mean(), *share, len(stretch), phrases.nunique()])
    return pd.DataFrame(rows, columns=["probability", "share", "low", "high", "texts", "phrases"])


def null_accuracies(
    halves: Halves, site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0, null: Null = "dealt"
) -> Array:
    """Accuracies, shape ``(shuffles,)``, where there is nothing to read.

    ``"dealt"`` deals the poles anew to phrases, in both splits, and says where the procedure lies without an effect.
    Its spread is no basis for a p-value: where the true poles lie far apart, a direction along them reads one half of
    each dealt pole every time.

    ``"swapped"`` has directions of half-swapped pairs, read by the *true* held-out poles. It is the null that is often
    shown, and for means and components it is wide: a random direction has a little of the true one in it, up or down,
    and where the poles lie far apart that is enough to read nearly all texts rightly, or nearly all wrongly.
    """
    choose(null, get_args(Null), "null")
    rng, accuracies = np.random.default_rng([seed, 17 if null == "dealt" else 19]), []
    for _ in range(shuffles):
        if null == "dealt":
            train, held_out = (dealt_texts(halves[split], site, rng) for split in ("train", "held_out"))
        else:
            (first, second), held_out = halves["train"].at(site), halves["held_out"].at(site)
            swapped = (rng.permutation(len(first)) % 2 == 0)[:, None]
            train = np.where(swapped, second, first), np.where(swapped, first, second)
        # High and low texts count alike.
        normal = direction(*train, method)
        middle = (train[0].mean(0) + train[1].mean(0)) @ normal / 2
        high, low = (each @ normal for each in held_out)
        accuracies.append(((high > middle).mean() + (low < middle).mean()) / 2)
    return np.array(accuracies)


def dealt_texts(
    read: PairActivations, site: Site, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Activations of a random half of each pole's phrases, and as many of the other half: nothing tells them apart."""
    high = []
    for phrases in read.phrases.T:
        different = _different(phrases)
        chosen = rng.permutation(different)[: len(different) // 2 + rng.integers(len(different) % 2 + 1)]
        high.append(np.isin(phrases, chosen))
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
        only = str(different[0])
        raise ValueError(f"all pairs have the phrase {only!r} at one pole; take pairs of two or more phrases")
    return different


def _scale(positive: Array, negative: Array) -> tuple[float, float]:
    """The middle between two means, and half their distance."""
    high, low = float(positive.mean()), float(negative.mean())
    return (high + low) / 2, (high - low) / 2


def _right(positions: Array) -> NDArray[np.bool_]:
    """Which texts lie on their own side of the middle, shape ``(pairs, 2)``."""
    return np.column_stack([positions[:, 0] > 0, positions[:, 1] < 0])
