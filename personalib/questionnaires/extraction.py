"""Extraction: which option an answer in words names, if it names one.

An answer that names none, or more than one, is unreadable: it is counted as such, and never guessed.
"""

import re
from collections.abc import Sequence

# Up to the end of its part of the sentence, what follows is turned down.
_TURNED_DOWN = re.compile(r"(?:\b(?:not|never|neither|nor|cannot)\b|n['’]t\b)[^.,;:!?\n]*$", re.IGNORECASE)
# After a label A or I there may come a reason; any other word makes it an article, or a pronoun.
_WORD = r"\s+(?!(?:because|since|as|for|but|it|and|or|so|if|is)\b)[a-z]"
_ENGLISH = {"A": re.compile(_WORD), "I": re.compile(rf",?{_WORD}|,\s+as\b")}
_WORD_OF_CHOICE = r"(?i:answer|option|choice|choose|number|letter)(?:\s+(?i:is|would be))?\s*:?\s*[(*\"']*"


def chosen_option(answer: str, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """The place of the option that an answer chooses; None where it does not say so clearly.

    Three ways of saying it are looked for, in this order: a label that stands alone or before a mark at the beginning,
    such as "B" or "(B) Wait."; a label after a word of choice, such as "the answer is B"; and an option's own text. The
    first way that names anything decides. If it names two different options, or turns one down, the answer is
    unreadable.

    Example:
        >>> chosen_option("I think the answer is (B).", ["A", "B"], ["Run.", "Wait."])
        1
    """
    names = [label.strip() for label in labels]
    # "1.5" and "10:30" name no option "1" or "10".
    label = rf"({'|'.join(map(re.escape, names))})(?![\w']|[.,:]\d)"
    first = re.match(rf"\W*{label}(?=\W*$|\s*[.):,\n])", answer)
    if first and not (first[1] == "I" and _is_english(first, answer)):
        another = re.match(rf"[^\w\n]+(?:(?:and|or)[^\w\n]+)?{label}", answer[first.end() :])
        return None if another or _lists_several(answer, names, options) else names.index(first[1])
    said = [one for one in re.finditer(_WORD_OF_CHOICE + label, answer) if not _is_english(one, answer)]
    if said:
        named = {one[1] for one in said}
        clear = len(named) == 1 and not any(_TURNED_DOWN.search(answer[: one.start()]) for one in said)
        return names.index(named.pop()) if clear else None
    return _quoted(answer, options)


def _is_english(label: re.Match[str], answer: str) -> bool:
    """Whether an "A" or "I" is no label but a word, as in "My answer is A good plan" or "The option I choose is B"."""
    return label[1] in _ENGLISH and _ENGLISH[label[1]].match(answer[label.end() :]) is not None


def _lists_several(answer: str, names: Sequence[str], options: Sequence[str]) -> bool:
    """Whether an answer repeats more than one option with its label."""
    pairs = [
        rf"(?<!\w){re.escape(name)}\W+{re.escape(plain(option))}"
        for name, option in zip(names, options, strict=False)
        if plain(option)
    ]
    return sum(re.search(pair, answer, re.IGNORECASE) is not None for pair in pairs) > 1


def _quoted(answer: str, options: Sequence[str]) -> int | None:
    """The only option whose text stands in the answer; one that is part of another does not count beside it."""
    text, own = " ".join(answer.lower().split()), [plain(option) for option in options]
    found = [place for place, option in enumerate(own) if option and _is_said(option, text)]
    whole = [place for place in found if not any(other != place and own[place] in own[other] for other in found)]
    return whole[0] if len(whole) == 1 else None


def _is_said(option: str, text: str) -> bool:
    """Whether an option stands in a text in whole words and is not turned down."""
    places = re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", text)
    return any(not _TURNED_DOWN.search(text[: one.start()]) for one in places)


def plain(text: str) -> str:
    """Small letters and single spaces, without the marks at both ends."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")
