"""Discovery: which features of an SAE stand for which background element.

The paper asks for features that are "highly active on the element, inactive on its opposite and on the other factors"
(arXiv 2410.10863, section 3.2) and publishes their indices without the procedure; this is a procedure. Features are
found on some phrases, and scored on others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack
from tqdm.auto import tqdm

from personalib.base.data import choose
from personalib.base.statistics import Interval
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import CRITERIA, Scores, auroc, bootstrap_auroc, midranks, rank_auroc, score_features
from personalib.models.activations import Activations
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts, word_disjoint

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

    def of(self, texts: LabelledTexts) -> "FeatureTexts":
        """The same of some of the texts."""
        return FeatureTexts(texts, csc_array(self.pooled.tocsr()[places(self.texts, texts)]))


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

    ``features`` stand best first, and there are none where no candidate was specific and better than chance; a text
    with at least its threshold of a feature counts as telling the element. ``discovery`` has the first feature's scores
    on the texts of the search by criterion.

    On held-out phrasings, ``auroc`` is that of the first feature against all other texts and ``together`` of all
    features in sum; ``opposite`` that of the first against the other elements of the factor alone, NaN without any;
    ``rival`` the other label that it tells apart worst, by ``rival_auroc``; and ``null`` the best that the search with
    shuffled labels reached. ``p`` is how often such a search finds for any element anything as good on its own texts:
    it covers all features and elements, and treats each phrase as one piece of evidence.
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
        rows = [
            {
                "factor": finding.label[0],
                "element": finding.label[1],
                "features": list(finding.features),
                **dict(zip(("auroc", "low", "high"), finding.auroc, strict=True)),
                "together": finding.together.estimate,
                "opposite": finding.opposite,
                "rival": finding.rival[1] or "neutral",
                **{key: getattr(finding, key) for key in ("rival_auroc", "null", "p")},
            }
            for finding in self.findings
        ]
        return pd.DataFrame(rows)


def pool_features(sae: SparseAutoencoder, activations: Activations, pooling: Pooling = "max") -> csc_array:
    """How much of each feature each text has, over its tokens, shape ``(texts, features)``.

    Activations are those captured with ``tokens="all"`` at the SAE's site. Memory holds the weights, a block of
    ``2**23`` numbers a few times over, and the entries above zero.
    """
    choose(pooling, get_args(Pooling), "pooling")
    values, offsets = activations.values(sae.site), activations.offsets
    rows = max(1, _BLOCK // sae.width)
    parts, text = [], 0
    while text < len(offsets) - 1:
        end = max(text + 1, int(np.searchsorted(offsets, offsets[text] + rows, side="right")) - 1)
        features = sae.features(values[offsets[text] : offsets[end]])
        parts.append(csr_array(pooled(features, offsets[text:end] - offsets[text], pooling), dtype=np.float32))
        text = end
    return csc_array(vstack(parts, format="csc"))


def pooled(values: NDArray[np.floating], starts: NDArray[np.int64], pooling: Pooling) -> NDArray[np.floating]:
    """Values of tokens, shape ``(tokens, columns)``, pooled over each text, whose first tokens are at ``starts``."""
    ends = np.append(starts[1:], len(values))
    if pooling == "last":
        return values[ends - 1]
    if pooling == "max":
        return np.maximum.reduceat(values, starts)
    return np.add.reduceat(values, starts) / (ends - starts)[:, None]


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
    shuffled, null = _shuffled_search(train, held_out, labels, settings, progress)
    findings = []
    for number, label in enumerate(labels):
        first, specific = _candidates(train, label, scores.criterion(settings.criterion)[number], settings)
        p = float((1 + (shuffled >= scores.auroc[number, first]).sum()) / (1 + settings.shuffles))
        features = _extend(first, specific, train, label, settings) if specific and p <= settings.level else []
        column = held_out.column([first])
        alone = _interval(held_out, label, column, settings)
        rival, rival_auroc = _rival(held_out.texts, label, column)
        findings.append(
            Finding(
                label=label,
                features=tuple(features),
                thresholds=tuple(float(scores.threshold[number, each]) for each in features),
                discovery={name: float(scores.criterion(name)[number, first]) for name in CRITERIA},
                auroc=alone,
                together=_interval(held_out, label, held_out.column(features), settings) if features[1:] else alone,
                opposite=_opposite(held_out.texts, label, column),
                rival=rival,
                rival_auroc=rival_auroc,
                null=float(null[number]),
                p=p,
            )
        )
    return Discovery(tuple(findings), scores, _best_candidates(labels, scores, held_out), shuffled)


def _separations(texts: LabelledTexts, label: Label, column: NDArray[np.float64]) -> dict[Label, float]:
    """The AUROC of a value for each text between a label's texts and each other label's."""
    own = texts.codes == texts.classes.index(label)
    wins = ((column[own][:, None] > column) + 0.5 * (column[own][:, None] == column)).mean(0)
    means = np.bincount(texts.codes, wins) / np.bincount(texts.codes)
    return {other: float(value) for other, value in zip(texts.classes, means, strict=True) if other != label}


def places(texts: LabelledTexts, some: LabelledTexts) -> list[int]:
    """Where some of the texts stand among all of them."""
    where = {text: place for place, text in enumerate(texts.texts)}
    return [where[text] for text in some.texts]


def disjoint(texts: Mapping[str, LabelledTexts], seed: int = 0) -> dict[str, dict[str, LabelledTexts]]:
    """Fewer texts by split, which tell how much of a score comes from words that the splits share.

    In ``"words"`` they share no content word of an element (:func:`~personalib.stimuli.sentences.word_disjoint`).
    ``"phrases"`` has the same held-out texts, and of each element as many phrases for the search, drawn from all: so
    only shared words make a difference between the two. An element without such texts is left out, and without two
    elements there is nothing.
    """
    halves = word_disjoint(texts["train"], texts["held_out"])
    rng, drawn, kept, later = np.random.default_rng([seed, 17]), set[str](), set[str](), set[str]()
    labels = [label for label in halves[0].classes if label != NEUTRAL and label in halves[1].classes]
    for label in labels:
        every, own, held_out = (_phrases(each, label) for each in (texts["train"], *halves))
        drawn.update(every[place] for place in rng.permutation(len(every))[: len(own)])
        kept.update(own)
        later.update(held_out)
    chosen = {"phrases": drawn, "words": kept} if len(labels) > 1 else {}
    others = texts["held_out"].of_phrases(later)
    return {name: {"train": texts["train"].of_phrases(each), "held_out": others} for name, each in chosen.items()}


def _phrases(texts: LabelledTexts, label: Label) -> list[str]:
    return sorted({phrase for phrase, own in zip(texts.phrases, texts.labels, strict=True) if own == label})


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
    rows = {label: _separations(texts.texts, label, texts.column([feature])) for label, feature in features.items()}
    named = {name(label): {name(other): value for other, value in row.items()} for label, row in rows.items()}
    return pd.DataFrame(named).T.reindex(columns=[name(label) for label in texts.texts.classes])


def name(label: Label) -> str:
    """A label in one word: ``factor.element``, or ``neutral``."""
    return "neutral" if label == NEUTRAL else ".".join(label)


def _shuffled_search(
    train: FeatureTexts, held_out: FeatureTexts, labels: Sequence[Label], settings: Settings, progress: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same search with labels dealt out anew to whole phrases, in both sets of texts alike.

    The best AUROC of each search, and the best that the features found for each label reached on held-out texts.
    """
    rng = np.random.default_rng([settings.seed, 3])
    ranks, silent = midranks(train.pooled)
    later_ranks, later_silent = midranks(held_out.pooled)
    best, later = [], []
    for _ in tqdm(range(settings.shuffles), desc=progress, disable=progress is None, unit="shuffle"):
        dealt = _deal(train.texts, held_out.texts, rng)
        features, reached = _best_by_class(ranks, silent, _members(train.texts, dealt, labels))
        members = _members(held_out.texts, dealt, labels)
        best.append(reached.max())
        later.append(rank_auroc(later_ranks[:, features], later_silent[features], members).diagonal())
    return np.array(best), np.fmax.reduce(later, axis=0)


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


def _candidates(
    train: FeatureTexts, label: Label, values: NDArray[np.float64], settings: Settings
) -> tuple[int, list[int]]:
    """The first feature by a label's values that is specific, or else the first of all; and all specific ones."""
    order = np.argsort(-values, kind="stable")[:_CANDIDATES]
    rivals = [_rival(train.texts, label, column)[1] for column in train.pooled[:, order].toarray().T]
    specific = [int(each) for each, rival in zip(order, rivals, strict=True) if rival >= settings.specificity]
    return (specific[0] if specific else int(order[0])), specific


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
    return min(_separations(texts, label, column).items(), key=lambda item: item[1])


def _opposite(texts: LabelledTexts, label: Label, column: NDArray[np.float64]) -> float:
    """AUROC of values for a label against the texts of the other elements of its factor; NaN without any."""
    factor = np.array([other[0] == label[0] for other in texts.labels])
    return float(auroc(csc_array(column[factor, None]), texts.members([label])[factor])[0, 0])


def _interval(texts: FeatureTexts, label: Label, column: NDArray[np.float64], settings: Settings) -> Interval:
    own = texts.texts.members([label])[:, 0]
    groups = np.unique(texts.texts.phrases, return_inverse=True)[1]
    return bootstrap_auroc(
        column[own], column[~own], groups[own], groups[~own], resamples=settings.resamples, seed=settings.seed
    )


def _best_candidates(labels: Sequence[Label], scores: Scores, held_out: FeatureTexts) -> pd.DataFrame:
    """The best feature of each element by each criterion."""
    members, parts = held_out.texts.members(labels), []
    for criterion in CRITERIA:
        best = scores.criterion(criterion).argmax(1)
        part = pd.DataFrame(labels, columns=["factor", "element"]).assign(
            feature=best,
            discovery=scores.auroc[range(len(labels)), best],
            held_out=auroc(csc_array(held_out.pooled[:, best]), members).diagonal(),
        )
        part.insert(0, "criterion", criterion)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
