"""Texts that each tell one background element, and texts that tell none, with what each was made of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from personalib.stimuli.factors import inflect, load_leads
from personalib.stimuli.grammar import element_phrasings, load_asides

# The label of a text that tells no element.
NEUTRAL = ("", "")
_PERSONS = ("first", "second")


@dataclass(frozen=True)
class LabelledTexts:
    """Sentences, the (factor, element) that each tells, or :data:`NEUTRAL`, and the phrase that tells it.

    Texts of one phrase are no independent evidence, so intervals resample phrases and not texts.
    """

    texts: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    phrases: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.phrases):
            raise ValueError("pass one label and one phrase for each text")

    @cached_property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The different labels in order of first mention."""
        return tuple(dict.fromkeys(self.labels))

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """For each text the place of its label among the classes, shape ``(texts,)``."""
        return np.array([self.classes.index(label) for label in self.labels], dtype=np.int64)

    def of_phrases(self, phrases: Collection[str]) -> "LabelledTexts":
        """The texts that are made of some phrases, and all neutral ones."""
        rows = zip(self.texts, self.labels, self.phrases, strict=True)
        kept = [row for row in rows if row[2] in phrases or row[1] == NEUTRAL]
        return LabelledTexts(*zip(*kept, strict=True)) if kept else LabelledTexts((), (), ())

    def members(self, labels: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
        """Which texts have which label, shape ``(texts, labels)``."""
        return np.array([[own == label for label in labels] for own in self.labels])


def element_texts(split: str, per_element: int = 60, seed: int = 0, person: str | None = None) -> LabelledTexts:
    """Sentences about a person, each telling one background element and nothing else; and neutral ones beside them.

    They are of the phrasings of a split, ``"train"`` or ``"held_out"``, at most so many for each element, and in the
    first or the second person at random where none is asked for. The same seed gives the same texts.
    """
    rng = np.random.default_rng([seed, 11])
    pools = {label: by_split[split] for label, by_split in element_phrasings().items()}
    pools[NEUTRAL] = load_asides()[split]
    drawn = [
        (inflect(pool[number], person or _PERSONS[rng.integers(2)]), label, clause_phrase(pool[number]))
        for label, pool in pools.items()
        for number in rng.permutation(len(pool))[:per_element]
    ]
    return LabelledTexts(*zip(*drawn, strict=True)) if drawn else LabelledTexts((), (), ())


def clause_phrase(clause: str) -> str:
    """A clause without the lead that it may begin with."""
    lead = max((lead for lead in load_leads() if clause.startswith(lead)), key=len, default="")
    return clause.removeprefix(lead)
