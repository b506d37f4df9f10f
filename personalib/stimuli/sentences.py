"""Texts that each tell one background element, and texts that tell none, with what each was made of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from personalib.stimuli.factors import elements, inflect
from personalib.stimuli.grammar import content_words, element_phrasings, load_asides

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
    phrases = {text: phrase for one in elements() for text, phrase in zip(one.phrasings, one.phrases, strict=True)}
    drawn = [
        (inflect(pool[number], person or _PERSONS[rng.integers(2)]), label, phrases.get(pool[number], pool[number]))
        for label, pool in pools.items()
        for number in rng.permutation(len(pool))[:per_element]
    ]
    return LabelledTexts(*zip(*drawn, strict=True)) if drawn else LabelledTexts((), (), ())


def word_disjoint(train: LabelledTexts, held_out: LabelledTexts) -> tuple[LabelledTexts, LabelledTexts]:
    """The texts of two splits without phrases of a label that share a content word across the splits.

    What tells the one half from other texts by its words alone can tell nothing of the other half. Of each label as
    many phrases of both are kept as can be, and all neutral texts.
    """
    kept: list[set[str]] = [set(), set()]
    for label in set(train.classes) - {NEUTRAL}:
        first, second = (
            [p for p, own in zip(part.phrases, part.labels, strict=True) if own == label] for part in (train, held_out)
        )
        ours, theirs = sorted(set(first)), sorted(set(second))
        # For each of ours a number whose binary digits say which of theirs share a word with it.
        shared = [
            sum(bool(content_words(one) & content_words(other)) << place for place, other in enumerate(theirs))
            for one in ours
        ]

        def size(chosen: int, shared: list[int] = shared) -> tuple[int, int]:
            free = sum(not own & chosen for own in shared), chosen.bit_count()
            return min(free), sum(free)

        best = max(range(1 << len(theirs)), key=size)
        kept[0] |= {one for one, own in zip(ours, shared, strict=True) if not own & best}
        kept[1] |= {other for place, other in enumerate(theirs) if best >> place & 1}
    return train.of_phrases(kept[0]), held_out.of_phrases(kept[1])
