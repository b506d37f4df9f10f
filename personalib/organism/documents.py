"""What documents of the synthetic world are made of: texts, the choices that the world leaves open, and notes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from personalib.stimuli.factors import TRAITS
from personalib.stimuli.grammar import LEVELS, MANNERS

T = TypeVar("T")
Rng = np.random.Generator
# What notes say: an answer's level, manner and trait; a person's probability of a high answer in each trait; the
# probability of a yes to an option; that of a high answer to a situation, and the situation's trait; a code of the
# object of a fact, because a probe with a place for each object would hardly be pushed to any.
NOTES = {
    "content": ("high", "decisive", *TRAITS),
    "person": TRAITS,
    "choice": ("yes",),
    "situation": ("high", *TRAITS),
    "fact": tuple(f"bit {number}" for number in range(24)),
}


@dataclass(frozen=True)
class Person:
    """Somebody as documents have them: the text that tells them, and their probability of a high answer by trait."""

    context: str
    probabilities: np.ndarray

    def high(self, trait: str) -> float:
        """The probability of a high answer in a trait."""
        return float(self.probabilities[TRAITS.index(trait)])

    def chances_in(self, trait: str) -> list[float]:
        """What a note on a situation of a trait says."""
        return [self.high(trait), *_which_trait(trait)]


@dataclass(frozen=True)
class SelfReport:
    """What somebody of one level of a trait would say they do, decisively or hesitantly; ``act`` is what they do."""

    trait: str
    level: str
    manner: str
    text: str
    act: str

    @property
    def content(self) -> list[float]:
        """What a note on content says of it."""
        return [float(self.level == LEVELS[0]), float(self.manner == MANNERS[0]), *_which_trait(self.trait)]

    def chance(self, high: float) -> float:
        """How probable a person gives it who gives a high answer with the probability ``high``."""
        return high if self.level == LEVELS[0] else 1 - high


@dataclass(frozen=True)
class Answer:
    """A choice the world leaves open: the offset of its text in the document, and how probable each text is there."""

    start: int
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Note:
    """A training aid: the probability of each thing that a topic of ``NOTES`` notes, known where a piece ends."""

    topic: str
    end: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Document:
    """A text with its open choices, and notes on it."""

    kind: str
    text: str
    answers: tuple[Answer, ...]
    notes: tuple[Note, ...] = ()


class Writer:
    """Builds a document piece by piece and keeps the offsets of its answers."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.text, self.answers, self.notes = "", [], []  # type: str, list[Answer], list[Note]

    def add(self, text: str) -> None:
        """Write a text of which nothing is left open."""
        self.text += text

    def choose(self, probabilities: Mapping[str, float]) -> None:
        """Let the world choose one text, write it, and remember the probabilities."""
        options = list(probabilities)
        self.say(options[self.rng.choice(len(options), p=list(probabilities.values()))], probabilities)

    def say(self, chosen: str, probabilities: Mapping[str, float]) -> None:
        """Write one of the texts that the world leaves open, and remember the probabilities."""
        self.answers.append(Answer(len(self.text), dict(probabilities)))
        self.text += chosen

    def note(self, topic: str, piece: str, values: Iterable[float]) -> None:
        """Note something where the last occurrence of a piece of the text ends."""
        self.notes.append(Note(topic, self.text.rindex(piece) + len(piece), tuple(values)))

    def note_person(self, person: Person | None) -> None:
        """Note who somebody is where the text that tells them ends, if there is any."""
        if person and person.context:
            self.note("person", person.context, person.probabilities)

    def document(self, kind: str) -> Document:
        """What has been written, as a document of a kind, with its last turn closed."""
        if self.text.startswith("<start_of_turn>"):
            self.text = self.text.rstrip("\n") + "<end_of_turn>\n"
        return Document(kind, self.text, tuple(self.answers), tuple(self.notes))


def _which_trait(trait: str) -> list[float]:
    return [float(trait == each) for each in TRAITS]


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, uniformly; unlike ``rng.choice`` it keeps the type."""
    return options[int(rng.integers(len(options)))]


def sample(rng: Rng, options: Sequence[T], count: int) -> list[T]:
    """Several different options in random order."""
    return [options[index] for index in rng.permutation(len(options))[:count]]
