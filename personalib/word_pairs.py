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

from personalib.data import DataError, data_dir, read_yaml
from personalib.questions import Question


@dataclass(frozen=True)
class WordPair:
    """A word and its opposite.

    Attributes:
        key: name in files and code.
        title: name for readers.
        element: the background element that the word belongs to, such as ``"gender.female"``.
        words: the word and its opposite.
    """

    key: str
    title: str
    element: str
    words: tuple[str, str]


@cache
def load_word_pairs(path: Path | None = None) -> tuple[WordPair, ...]:
    """The word pairs from ``data/stimuli/word_pairs.yaml`` or another file of its form.

    Raises:
        DataError: the file is not of this form.
    """
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    try:
        found = [
            WordPair(key, entry["title"], entry["element"], _two(entry["words"]))
            for key, entry in read_yaml(source)["pairs"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{source}: a pair needs a title, an element and two words ({error!r})") from None
    return tuple(found)


@cache
def load_openings(path: Path | None = None) -> tuple[str, ...]:
    """What comes before a word, from the same file.

    Raises:
        DataError: the file holds no list of openings.
    """
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    content = read_yaml(source)
    openings = content.get("openings") if isinstance(content, dict) else None
    if not isinstance(openings, list) or not openings or not all(isinstance(each, str) for each in openings):
        raise DataError(f"{source}: write a list of texts under 'openings'")
    return tuple(openings)


def pair_questions(
    pairs: Sequence[WordPair] | None = None,
    openings: Sequence[str] | None = None,
    request: str = "Describe this person.",
) -> list[Question]:
    """Each pair after each opening of an answer.

    Example:
        >>> pair = WordPair("age", "Age", "age.young", ("young", "old"))
        >>> pair_questions([pair], ["This person is"])[0].labels
        (' young', ' old')
    """
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


def _two(words: object) -> tuple[str, str]:
    if not isinstance(words, list) or len(words) != 2 or not all(isinstance(one, str) and one for one in words):
        raise ValueError(f"{words!r} are not two texts; put words such as no in quotes")
    one, other = words
    if one == other:
        raise ValueError(f"{one!r} is no opposite of itself")
    return one, other
