"""Word pairs: the paper's check of social bias.

D is how much a model's preference for a word over its opposite changes when it is steered: the difference of their two
logits, steered minus unsteered (arXiv 2410.10863, code release). The difference of two logits is that of two
log-probabilities, whatever the rest of the vocabulary does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from personalib.base.data import DataError, Strict, data_dir, read_section, shown
from personalib.questionnaires.questions import Question


@dataclass(frozen=True)
class WordPair:
    """A word and its opposite.

    Attributes:
        title: name for readers.
        element: the background element that the word belongs to, such as ``"gender.female"``.
    """

    key: str
    title: str
    element: str
    words: tuple[str, str]


class _Written(Strict):
    """A pair as the file has it."""

    title: str
    element: str
    words: tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]]

    @field_validator("words")
    @classmethod
    def _differ(cls, words: tuple[str, str]) -> tuple[str, str]:
        if words[0] == words[1]:
            raise ValueError(f"{shown(words[0])} is no opposite of itself; write two different words")
        return words


@cache
def load_word_pairs(path: Path | None = None) -> tuple[WordPair, ...]:
    """The word pairs from ``data/stimuli/word_pairs.yaml`` or another file of its form.

    Raises:
        DataError: the file is not of this form.
    """
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    written = read_section(dict[str, _Written], source, "pairs")
    return tuple(WordPair(key, one.title, one.element, one.words) for key, one in written.items())


@cache
def load_openings(path: Path | None = None) -> tuple[str, ...]:
    """What comes before a word, from the same file.

    Raises:
        DataError: the file holds no list of openings.
    """
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    if openings := read_section(tuple[str, ...], source, "openings"):
        return openings
    raise DataError(f"{source}: openings: none are there; write some")


def pair_questions(
    pairs: Sequence[WordPair] | None = None,
    openings: Sequence[str] | None = None,
    request: str = "Describe this person.",
) -> list[Question]:
    """Each pair after each opening of an answer."""
    return [
        Question(
            item=f"{pair.key}:{number}",
            group=pair.key,
            template="pairs",
            order="normal",
            text=request,
            labels=(f" {pair.words[0]}", f" {pair.words[1]}"),
            roles=("attribute", "opposite"),
            opening=opening,
        )
        for pair, (number, opening) in product(
            load_word_pairs() if pairs is None else pairs,
            enumerate(load_openings() if openings is None else openings),
        )
    ]
