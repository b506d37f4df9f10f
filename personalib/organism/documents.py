"""What documents of the synthetic world are made of: texts, and the choices that the world leaves open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from personalib.stimuli.factors import TRAITS

T = TypeVar("T")
Rng = np.random.Generator


@dataclass(frozen=True)
class Person:
    """Somebody as documents have them: the text that tells them, and their probability of a high answer by trait."""

    context: str
    probabilities: np.ndarray

    def high(self, trait: str) -> float:
        """The probability of a high answer in a trait."""
        return float(self.probabilities[TRAITS.index(trait)])


@dataclass(frozen=True)
class SelfReport:
    """What somebody of one level of a trait would say they do, decisively or hesitantly; ``act`` is what they do."""

    trait: str
    level: str
    manner: str
    text: str
    act: str


@dataclass(frozen=True)
class Answer:
    """A choice the world leaves open: the offset of its text in the document, and how probable each text is there."""

    start: int
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Document:
    """A text with its open choices."""

    kind: str
    text: str
    answers: tuple[Answer, ...]


class Writer:
    """Builds a document piece by piece and keeps the offsets of its answers."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.text, self.answers = "", []  # type: str, list[Answer]

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

    def document(self, kind: str) -> Document:
        """What has been written, as a document of a kind, with its last turn closed."""
        if self.text.startswith("<start_of_turn>"):
            self.text = self.text.rstrip("\n") + "<end_of_turn>\n"
        return Document(kind, self.text, tuple(self.answers))


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, uniformly; unlike ``rng.choice`` it keeps the type."""
    return options[int(rng.integers(len(options)))]


def sample(rng: Rng, options: Sequence[T], count: int) -> list[T]:
    """Several different options in random order."""
    return [options[index] for index in rng.permutation(len(options))[:count]]
