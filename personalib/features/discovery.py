"""Discovery: which features of an SAE stand for which background element.

The paper asks for features that are "highly active on the element, inactive on its opposite and on the other factors"
(arXiv 2410.10863, section 3.2) and publishes their indices without the procedure; this is a procedure. Features are
found on some phrasings, and scored on others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack
from tqdm.auto import tqdm

from personalib.base.data import choose
from personalib.base.statistics import Interval
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import CRITERIA, Scores, auroc, bootstrap_auroc, midranks, rank_auroc, score_features
from personalib.models.activations import Activations
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

Label = tuple[str, str]
Pooling = Literal["max", "mean", "last"]
# Numbers in a block of intermediate results: 32 MiB of float32.
_BLOCK = 2**23
# How many candidates are looked at for specificity, the best by the criterion first, and how many to add to another.
_CANDIDATES = 50
_PARTNERS = 20


@dataclass(frozen=True)
class FeatureTexts:
    """Texts with how much of each feature they have: ``pooled``, sparse, shape ``(texts, features)``."""

    texts: LabelledTexts
    pooled: csc_array

    def __post_init__(self) -> None:
        if self.pooled.shape[0] != len(self.texts.texts):
            raise ValueError(f"{len(self.texts.texts)} texts, but features of {self.pooled.shape[0]}")

    def column(self, features: Sequence[int]) -> NDArray[np.float64]:
        """How much of some features each text has in sum, shape ``(texts,)``."""
        return np.asarray(self.pooled[:, list(features)].sum(axis=1), dtype=float).ravel()


@dataclass(frozen=True)
class Settings:
    """How features are searched: candidates by a criterion, at most so many an element.

    ``specificity`` is the least AUROC against the texts of every single other element and the neutral ones, ``gain``
    the least that a further feature has to add, and ``level`` the largest p-value; labels are shuffled ``shuffles``
    times, and intervals are bootstrapped with ``resamples``.
    """

    criterion: str = "auroc"
    max_features: int = 3
    specificity: float = 0.75
    gain: float = 0.005
    level: float = 0.05
    shuffles: int = 39
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        choose(self.criterion, CRITERIA, "criterion")
        if self.max_features < 1 or self.shuffles < 1:
            raise ValueError("search for at least one feature, and shuffle the labels at least once")
        if 1 / (1 + self.shuffles) > self.level:
            least = int(np.ceil(1 / self.level)) - 1
            few = f"no p-value below {self.level:g} comes out of {self.shuffles} shuffles"
            raise ValueError(f"{few}; take {least} or more")


@dataclass(frozen=True)
class Finding:
    """What was found for an element.

    Attributes:
        label: factor and element.
        features: best first; none where no candidate was specific and better than chance.
        thresholds: of each feature, the activation from which on a text counts as telling the element.
        discovery: the first feature's scores on the texts that it was found on, by criterion.
        auroc: of the first feature on held-out phrasings against all other texts, with its interval.
        together: the same of all features in sum.
        opposite: that of the first feature against the other elements of the factor alone; NaN without any.
        rival: the other label that the first feature tells apart worst in held-out phrasings, by ``rival_auroc``.
        null: the best that the search with shuffled labels reached on held-out phrasings.
        p: how often a search with shuffled labels finds for any element anything as good on its own texts. It covers
            all features and all elements, and treats each phrase as one piece of evidence.
    """

    label: Label
    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    discovery: dict[str, float]
    auroc: Interval
    together: Interval
    opposite: float
    rival: Label
    rival_auroc: float
    null: float
    p: float


@dataclass(frozen=True)
class Discovery:
    """The result of a search: a finding for each element, and all scores on the texts of the search.

    ``candidates`` are the best feature by each criterion and element, with its AUROC on the texts of the search
    (``discovery``) and on held-out ones; ``shuffled`` is the best AUROC of each search with shuffled labels.
    """

    findings: tuple[Finding, ...]
    scores: Scores = field(repr=False)
    candidates: pd.DataFrame = field(repr=False)
    shuffled: NDArray[np.float64] = field(repr=False)

    def table(self) -> pd.DataFrame:
        """One row an element."""
        return pd.DataFrame([_row(finding) for finding in self.findings])


def pool_features(
    sae: SparseAutoencoder, activations: Activations, pooling: Pooling = "max", progress: str | None = None
) -> csc_array:
    """How much of each feature each text has, over its tokens, shape ``(texts, features)``.

    Activations are those captured with ``tokens="all"`` at the SAE's site. Memory holds the weights, a block of
    ``2**23`` numbers a few times over, and the entries above zero.
    """
    if pooling not in ("max", "mean", "last"):
        raise ValueError(f"pooling={pooling!r}; choose max, mean or last")
    values, offsets = activations.values(sae.site), activations.offsets
    rows = max(1, _BLOCK // sae.width)
    parts, text = [], 0
    with tqdm(total=len(offsets) - 1, desc=progress, disable=progress is None, unit="text") as bar:
        while text < len(offsets) - 1:
            end = max(text + 1, int(np.searchsorted(offsets, offsets[text] + rows, side="right")) - 1)
            block = torch.from_numpy(np.array(values[offsets[text] : offsets[end]], dtype=np.float32))
            starts = offsets[text:end] - offsets[text]
            parts.append(csr_array(_pooled(sae.encode(block).float().cpu().numpy(), starts, pooling)))
            bar.update(end - text)
            text = end
    return csc_array(vstack(parts, format="csc"))


def _pooled(features: NDArray[np.float32], starts: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    ends = np.append(starts[1:], len(features))
    if pooling == "last":
        return features[ends - 1]
    if pooling == "max":
        return np.maximum.reduceat(features, starts)
    means = np.add.reduceat(features, starts) / (ends - starts)[:, None]
    return means.astype(np.float32)


def discover(
    train: FeatureTexts, held_out: FeatureTexts, settings: Settings | None = None, progress: str | None = None
) -> Discovery:
    """Find for each element up to a few features on some texts, and score them on others.

    Texts that do not tell the same elements, or fewer than two, are a ValueError.
    """
    settings = settings or Settings()
    labels = [label for label in train.texts.classes if label != NEUTRAL]
    if len(labels) < 2 or set(train.texts.classes) != set(held_out.texts.classes):
        raise ValueError("both sets of texts have to tell the same elements, at least two of them")
    scores = score_features(train.pooled, train.texts.members(labels))
    null = _shuffled_search(train, held_out, labels, settings, progress)
    findings = [_find(number, labels, train, held_out, scores, null, settings) for number in range(len(labels))]
    return Discovery(tuple(findings), scores, _candidates(labels, scores, held_out), null.best.max(1))


def separations(texts: LabelledTexts, label: Label, column: NDArray[np.float64]) -> dict[Label, float]:
    """The AUROC of a value for each text, shape ``(texts,)``, between a label's texts and each other label's."""
    own = texts.codes == texts.classes.index(label)
    wins = ((column[own][:, None] > column) + 0.5 * (column[own][:, None] == column)).mean(0)
    means = np.bincount(texts.codes, wins) / np.bincount(texts.codes)
    return {other: float(value) for other, value in zip(texts.classes, means, strict=True) if other != label}


def superposition(texts: FeatureTexts) -> pd.DataFrame:
    """The feature that each element would get if its opposites were left out of the search (the paper's Table 3).

    An SAE that has one feature for a factor, whatever the element, gives opposite elements the same one: ``shared``.
    ``others`` is the feature's AUROC against the texts of other factors, ``opposites`` that against the factor's other
    elements. A factor of which only one element is told is left out.
    """
    rows = []
    labels = [label for label in texts.texts.classes if label != NEUTRAL]
    members = texts.texts.members(labels)
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


def confusion(texts: FeatureTexts, features: Mapping[Label, int]) -> pd.DataFrame:
    """The AUROC of each label's feature (rows) against the texts of each other label (columns), named in one word."""
    rows = {label: separations(texts.texts, label, texts.column([feature])) for label, feature in features.items()}
    values = [[row.get(other, np.nan) for other in texts.texts.classes] for row in rows.values()]
    return pd.DataFrame(values, index=[name(label) for label in rows], columns=[name(o) for o in texts.texts.classes])


def name(label: Label) -> str:
    """A label in one word: ``factor.element``, or ``neutral``."""
    return "neutral" if label == NEUTRAL else ".".join(label)


class _Null(NamedTuple):
    """Of each search with shuffled labels and each element the best AUROC, and that of its feature held out."""

    best: NDArray[np.float64]
    held_out: NDArray[np.float64]


def _shuffled_search(
    train: FeatureTexts, held_out: FeatureTexts, labels: Sequence[Label], settings: Settings, progress: str | None
) -> _Null:
    """The same search with labels dealt out anew to whole phrases, in both sets of texts alike."""
    rng = np.random.default_rng([settings.seed, 3])
    ranks, silent = midranks(train.pooled)
    later_ranks, later_silent = midranks(held_out.pooled)
    best, later = [], []
    for _ in tqdm(range(settings.shuffles), desc=progress, disable=progress is None, unit="shuffle"):
        dealt = _deal(train.texts, held_out.texts, rng)
        features, reached = _best_by_class(ranks, silent, _members(train.texts, dealt, labels))
        members = _members(held_out.texts, dealt, labels)
        best.append(reached)
        later.append(rank_auroc(later_ranks[:, features], later_silent[features], members).diagonal())
    return _Null(np.array(best), np.array(later))


def _best_by_class(
    ranks: csc_array, silent: NDArray[np.float64], members: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best feature of each class and its AUROC, block by block of features."""
    width = max(1, _BLOCK // members.shape[1])
    feature, best = np.zeros(members.shape[1], dtype=np.int64), np.full(members.shape[1], -np.inf)
    for start in range(0, ranks.shape[1], width):
        areas = rank_auroc(ranks[:, start : start + width], silent[start : start + width], members)
        areas = np.nan_to_num(areas, nan=0.0)  # a class that was dealt no text
        at = areas.argmax(1)
        value = areas[np.arange(len(at)), at]
        feature, best = np.where(value > best, at + start, feature), np.maximum(value, best)
    return feature, best


def _deal(train: LabelledTexts, held_out: LabelledTexts, rng: np.random.Generator) -> dict[str, Label]:
    """A random label for each phrase, each label as often as it is."""
    # Sorted, so that the order of the texts makes no difference.
    owner = dict(sorted(zip(train.phrases + held_out.phrases, train.labels + held_out.labels, strict=True)))
    labels = list(owner.values())
    return {phrase: labels[number] for phrase, number in zip(owner, rng.permutation(len(owner)), strict=True)}


def _members(texts: LabelledTexts, dealt: dict[str, Label], labels: Sequence[Label]) -> NDArray[np.bool_]:
    return np.array([[dealt[phrase] == label for label in labels] for phrase in texts.phrases])


def _find(
    number: int,
    labels: Sequence[Label],
    train: FeatureTexts,
    held_out: FeatureTexts,
    scores: Scores,
    null: _Null,
    settings: Settings,
) -> Finding:
    label, values = labels[number], scores.criterion(settings.criterion)[number]
    order = np.argsort(-values, kind="stable")[:_CANDIDATES]
    rivals = [_rival(train.texts, label, column)[1] for column in train.pooled[:, order].toarray().T]
    specific = [int(each) for each, rival in zip(order, rivals, strict=True) if rival >= settings.specificity]
    first = specific[0] if specific else int(order[0])
    p = float((1 + (null.best.max(1) >= scores.auroc[number, first]).sum()) / (1 + len(null.best)))
    features = _extend(first, specific, train, label, settings) if specific and p <= settings.level else []
    column = held_out.column([first])
    alone = _interval(held_out, label, column, settings)
    rival, rival_auroc = _rival(held_out.texts, label, column)
    return Finding(
        label=label,
        features=tuple(features),
        thresholds=tuple(float(scores.threshold[number, each]) for each in features),
        discovery={name: float(scores.criterion(name)[number, first]) for name in CRITERIA},
        auroc=alone,
        together=_interval(held_out, label, held_out.column(features), settings) if len(features) > 1 else alone,
        opposite=_opposite(held_out.texts, label, column),
        rival=rival,
        rival_auroc=rival_auroc,
        null=float(np.nanmax(null.held_out[:, number])),
        p=p,
    )


def _extend(first: int, candidates: Sequence[int], train: FeatureTexts, label: Label, settings: Settings) -> list[int]:
    """Add the candidate whose sum with those before is best, as long as it helps."""
    own = train.texts.members([label])
    features, total = [first], train.column([first])
    best = float(auroc(csc_array(total[:, None]), own)[0, 0])
    others = [each for each in candidates if each != first][:_PARTNERS]
    while others and len(features) < settings.max_features:
        sums = total[:, None] + train.pooled[:, others].toarray()
        values = auroc(csc_array(sums), own)[0]
        at = int(values.argmax())
        if values[at] < best + settings.gain:
            break
        best, total = float(values[at]), sums[:, at]
        features.append(others.pop(at))
    return features


def _rival(texts: LabelledTexts, label: Label, column: NDArray[np.float64]) -> tuple[Label, float]:
    """The other label that values tell apart worst from this one, and how well they do."""
    return min(separations(texts, label, column).items(), key=lambda item: item[1])


def _opposite(texts: LabelledTexts, label: Label, column: NDArray[np.float64]) -> float:
    """AUROC of values for a label against the texts of the other elements of its factor."""
    factor = np.array([other[0] == label[0] for other in texts.labels])
    return _auroc(column[factor], texts.members([label])[factor, 0])


def _auroc(column: NDArray[np.float64], own: NDArray[np.bool_]) -> float:
    if not own.any() or own.all():
        return float("nan")
    return float(auroc(csc_array(column[:, None]), own[:, None])[0, 0])


def _interval(texts: FeatureTexts, label: Label, column: NDArray[np.float64], settings: Settings) -> Interval:
    own = texts.texts.members([label])[:, 0]
    groups = np.unique(texts.texts.phrases, return_inverse=True)[1]
    return bootstrap_auroc(
        column[own], column[~own], groups[own], groups[~own], resamples=settings.resamples, seed=settings.seed
    )


def _candidates(labels: Sequence[Label], scores: Scores, held_out: FeatureTexts) -> pd.DataFrame:
    """The best feature of each element by each criterion."""
    members = held_out.texts.members(labels)
    rows = []
    for criterion in CRITERIA:
        for number, (factor, element) in enumerate(labels):
            feature = int(scores.criterion(criterion)[number].argmax())
            later = _auroc(held_out.column([feature]), members[:, number])
            own = float(scores.auroc[number, feature])
            rows.append([criterion, factor, element, feature, own, later])
    return pd.DataFrame(rows, columns=["criterion", "factor", "element", "feature", "discovery", "held_out"])


def _row(finding: Finding) -> dict[str, Any]:
    factor, element = finding.label
    return {
        "factor": factor,
        "element": element,
        "features": list(finding.features),
        **dict(zip(("auroc", "low", "high"), finding.auroc, strict=True)),
        "together": finding.together.estimate,
        "opposite": finding.opposite,
        "rival": finding.rival[1] or "neutral",
        **{key: getattr(finding, key) for key in ("rival_auroc", "null", "p")},
    }
