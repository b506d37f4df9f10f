"""Extraction: which option an answer in words names, if it names one.

An answer that names none, or more than one, is unreadable: it is counted as such, and never guessed.
"""

import re
from collections.abc import Sequence


def chosen_option(answer: str, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """The place of the option that an answer chooses; None where it does not say so clearly.

    Three ways of saying it are looked for, in this order: a label that stands alone or before a mark at the beginning,
    such as "B" or "(B) Wait."; a label after a word of choice, such as "the answer is B"; and an option's own text. The
    first way that names anything decides, and if it names two different options, the answer is unreadable.

    Args:
        answer: in words.
        labels: what the options are called.
        options: their texts.

    Example:
        >>> chosen_option("I think the answer is (B).", ["A", "B"], ["Run.", "Wait."])
        1
        >>> chosen_option("A good idea.", ["A", "B"], ["Run.", "Wait."]) is None
        True
    """
    names = "|".join(re.escape(label.strip()) for label in labels)
    ways = (
        rf"^\W*({names})(?=\W*$|\s*[.):,\n])",
        rf"(?:answer|option|choice|choose|number|letter)(?:\s+(?:is|would be))?\s*:?\s*[(*\"']*({names})(?![\w'])",
    )
    for way in ways:
        named = set(re.findall(way, answer))
        if named:
            places = [place for place, label in enumerate(labels) if label.strip() in named]
            return places[0] if len(places) == 1 else None
    return _quoted(answer, options)


def _quoted(answer: str, options: Sequence[str]) -> int | None:
    """The only option whose text stands in the answer; one that is part of another does not count beside it."""
    text = _plain(answer)
    found = [place for place, option in enumerate(options) if _plain(option) in text]
    whole = [
        place
        for place in found
        if not any(other != place and _plain(options[place]) in _plain(options[other]) for other in found)
    ]
    return whole[0] if len(whole) == 1 else None


def _plain(text: str) -> str:
    """Small letters and single spaces, without the marks at both ends."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")
