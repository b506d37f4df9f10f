"""Contrast pairs: two sentences that differ in the pole of one thing, before the same neutral question.

All families of such things have one form, so that every method can be tried on each. The paper fits its RepE directions
on TRAIT's own questions (arXiv 2410.10863, code release); here the questions that carry a pair share no item with
anything that is measured later.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from personalib.base.data import DataError, choose, data_dir
from personalib.stimuli import factors, grammar
from personalib.stimuli.factors import POLES, Element, Pressure, inflect, sentence
from personalib.stimuli.grammar import LEVELS, SPLITS, TraitBank, digest
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

# A pole, and what is told toward it by split.
_Told = tuple[str, Mapping[str, Sequence["Wording"]]]
FAMILIES = ("pressures", "facets", "elements", "traits")


class Wording(NamedTuple):
    """A sentence, and the phrase that it is made of; sentences of one phrase are no independent evidence."""

    text: str
    phrase: str


@dataclass(frozen=True)
class Contrast:
    """What a direction is fitted to: sentences by pole and split; the two splits share no phrase.

    It is of one of the :data:`FAMILIES`; a key is such as ``"trust"`` or ``"gender.female"``.
    """

    family: str
    key: str
    title: str
    wordings: Mapping[tuple[str, str], tuple[Wording, ...]]


@dataclass(frozen=True)
class ContrastPair:
    """A sentence toward each pole of a contrast, and the neutral question that follows it."""

    positive: Wording
    negative: Wording
    question: str


@cache
def load_carriers() -> tuple[str, ...]:
    """The neutral questions, all different, from ``data/stimuli/carriers.yaml``."""
    questions = factors.read_stimuli(tuple[str, ...], "carriers", "questions")
    if not questions or len(set(questions)) < len(questions):
        raise DataError(f"{data_dir() / 'stimuli' / 'carriers.yaml'}: questions: write some, each of them once")
    return questions


def contrasts(family: str) -> tuple[Contrast, ...]:
    """All contrasts of a family; a DataError lists the families where there is no such one."""
    choose(family, FAMILIES, "family")
    if family == "pressures":
        return tuple(_pressure_contrast(pressure) for pressure in factors.load_pressures())
    if family == "facets":
        return tuple(_pressure_contrast(facet, "facets") for facet in factors.load_facets())
    if family == "elements":
        return tuple(_element_contrast(element) for element in factors.elements())
    return tuple(_trait_contrast(bank) for bank in grammar.load_traits().values())


def _pressure_contrast(pressure: Pressure, family: str = "pressures") -> Contrast:
    """Instructions toward the positive pole of a pressure or facet, against those toward the negative one."""

    def told(pole: str) -> _Told:
        phrases = dict(zip(pressure.phrasings[pole], pressure.phrases[pole], strict=True))
        if family == "pressures":
            by_split = grammar.pressure_phrasings()[pressure.key, pole]
        else:  # A facet was never in the organism's training, which so need not show its words.
            by_split = grammar.split_by_phrase(phrases, " ".join(phrases), one_in=2)
        return pole, _wordings(by_split, sentence, phrases.__getitem__)

    return _contrast(family, pressure.key, pressure.title, map(told, POLES))


def _element_contrast(element: Element) -> Contrast:
    """Sentences that tell a background element, against those that tell another element of the same factor."""

    def told(other: Element) -> _Told:
        phrases = dict(zip(other.phrasings, other.phrases, strict=True))
        by_split = grammar.element_phrasings()[other.factor, other.key]
        return POLES[other.key != element.key], _wordings(
            by_split, partial(inflect, person="second"), phrases.__getitem__
        )

    same_factor = (other for other in factors.elements() if other.factor == element.factor)
    return _contrast("elements", f"{element.factor}.{element.key}", element.title, map(told, same_factor))


def _trait_contrast(bank: TraitBank) -> Contrast:
    """What somebody high in a trait says they would do, against what somebody low in it says.

    The acts are those of the corpus; held-out ones are those of the book's trait items, so a direction that is judged
    by its effect on these items is fitted to none of them.
    """
    frames = grammar.load_wordings()["decisive"]

    def told(pole: str, level: str) -> _Told:
        acts = {split: dict.fromkeys(wording.act for wording in bank.wordings[level, split]) for split in SPLITS}
        return pole, {
            split: tuple(Wording(sentence(frame.format(act=act)), act) for act in own for frame in frames)
            for split, own in acts.items()
        }

    return _contrast("traits", bank.key, bank.title, map(told, POLES, LEVELS))


def _wordings(
    by_split: Mapping[str, Sequence[str]], tell: Callable[[str], str], phrase_of: Callable[[str], str]
) -> dict[str, tuple[Wording, ...]]:
    return {split: tuple(Wording(tell(text), phrase_of(text)) for text in texts) for split, texts in by_split.items()}


def _contrast(family: str, key: str, title: str, told: Iterable[_Told]) -> Contrast:
    wordings: dict[tuple[str, str], tuple[Wording, ...]] = {(pole, split): () for pole in POLES for split in SPLITS}
    for pole, by_split in told:
        for split in SPLITS:
            wordings[pole, split] += tuple(by_split[split])
    return Contrast(family, key, title, wordings)


def split_carriers(questions: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Three questions in four to train on, and the fourth held out."""
    order = sorted(questions, key=digest)
    held_out = len(order) // 4
    return {"train": tuple(order[held_out:]), "held_out": tuple(order[:held_out])}


def contrast_set(
    contrast: Contrast, count: int, seed: int, split: str = "train", carriers: Sequence[str] | None = None
) -> list[ContrastPair]:
    """So many different contrast pairs; the same seed gives the same ones.

    The splits share neither a phrase nor a question; ``carriers`` are the questions of both, by default the stimuli's.

    Raises:
        ValueError: there are not so many different pairs, fewer than four questions, or no such split.
    """
    choose(split, SPLITS, "split")
    if carriers is not None and len(carriers) < 4:
        raise ValueError(f"{len(carriers)} questions cannot be split; pass four or more carriers")
    questions = split_carriers(load_carriers() if carriers is None else carriers)[split]
    positive, negative = (contrast.wordings[pole, split] for pole in POLES)
    shape = len(positive), len(negative), len(questions)
    total = int(np.prod(shape))
    if count > total:
        raise ValueError(f"{contrast.key} has {total} contrast pairs in its {split} wordings; ask for fewer")
    chosen = np.random.default_rng(seed).choice(total, count, replace=False)
    places = zip(*np.unravel_index(chosen, shape), strict=True)
    return [ContrastPair(positive[first], negative[second], questions[third]) for first, second, third in places]


def labelled_texts(contrasts: Sequence[Contrast], split: str, per_pole: int = 60, seed: int = 0) -> LabelledTexts:
    """The sentences of contrasts for a search of features: a label is the key of a contrast and a pole.

    With them come neutral sentences, of which, as of each pole, there are at most ``per_pole``. The same seed gives the
    same texts.

    Raises:
        ValueError: there is no such split, or contrasts share phrases, as elements of one factor do: a text has one
            label (for elements, take :func:`~personalib.stimuli.sentences.element_texts`).
    """
    choose(split, SPLITS, "split")
    pools = {(one.key, pole): one.wordings[pole, split] for one in contrasts for pole in POLES}
    pools[NEUTRAL] = tuple(Wording(inflect(each, "second"), each) for each in grammar.load_asides()[split])
    rng = np.random.default_rng([seed, 29])
    drawn = [
        (*pool[number], label) for label, pool in pools.items() for number in rng.permutation(len(pool))[:per_pole]
    ]
    texts, phrases, labels = zip(*drawn, strict=True)
    if len(set(zip(phrases, labels, strict=True))) > len(set(phrases)):
        raise ValueError("a phrase tells several of these contrasts; pass contrasts that share none, or element_texts")
    return LabelledTexts(texts, labels, phrases)
