"""Contrast prompts that a user supplies, such as the paper's own, in the place of the book's.

A YAML file holds, by pressure, facet or element, the texts toward each pole, and may hold the questions that follow
them::

    contrasts:
      trust:
        positive: ["Believe that people mean well."]
        negative: ["Believe that people are out for themselves."]
    questions: ["What would you do?", "What comes first?", "Whom do you ask?", "What do you say?"]

Every text is used for fitting. None is held out, so such a contrast is no ground for validating a direction.
"""

from functools import cache
from pathlib import Path
from typing import Any

from personalib.base.data import DataError, read_yaml
from personalib.stimuli.contrast_pairs import Contrast, ContrastPair, Wording, contrast_set, contrasts, load_carriers
from personalib.stimuli.factors import POLES

# What a set of questions needs to be split into those to train on and those held out, see contrast_set.
_FEWEST = 4


@cache
def supplied_contrasts(path: Path, family: str) -> tuple[Contrast, ...]:
    """The contrasts of a family that a file has texts for.

    Args:
        path: the file.
        family: one of ``contrast_pairs.FAMILIES``.

    Raises:
        DataError: the file has no contrasts of the family, or one is not as it should be; the message names file, key
            and fix.
        ValueError: there is no such family.
    """
    known = {one.key: one for one in contrasts(family)}
    given = _section(path)
    unknown = [key for key in given if key not in known]
    if unknown:
        raise DataError(f"{path}: contrasts.{unknown[0]}: no such key among the {family}; use {', '.join(known)}")
    return tuple(_contrast(path, known[key], content) for key, content in given.items())


@cache
def supplied_questions(path: Path) -> tuple[str, ...]:
    """The questions of a file, and the book's neutral ones where it has none.

    Raises:
        DataError: they are no list of four or more different texts.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or "questions" not in content:
        return load_carriers()
    found = _texts(f"{path}: questions", content["questions"])
    if len(found) < _FEWEST:
        raise DataError(f"{path}: questions: {len(found)} are too few to hold some out; write {_FEWEST} or more")
    return found


def supplied_set(path: Path, contrast: Contrast, count: int, seed: int) -> list[ContrastPair]:
    """Different contrast pairs of supplied texts, and all there are where these are fewer.

    Args:
        path: the file that has the questions.
        contrast: of :func:`supplied_contrasts`.
        count: how many pairs at the most.
        seed: the same seed gives the same pairs.
    """
    questions = supplied_questions(path)
    positive, negative = (len(contrast.wordings[pole, "train"]) for pole in POLES)
    there = positive * negative * (len(questions) - len(questions) // _FEWEST)
    return contrast_set(contrast, min(count, there), seed, "train", questions)


def _section(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    given = content.get("contrasts") if isinstance(content, dict) else None
    if not isinstance(given, dict) or not given:
        raise DataError(f"{path}: contrasts: none are there; write, by key, a list of texts for each pole")
    return {str(key): value for key, value in given.items()}


def _contrast(path: Path, known: Contrast, content: Any) -> Contrast:
    place = f"{path}: contrasts.{known.key}"
    if not isinstance(content, dict) or set(content) != set(POLES):
        raise DataError(f"{place}: write a list of texts under each of {' and '.join(POLES)}, and nothing else")
    told = {pole: _texts(f"{place}.{pole}", content[pole]) for pole in POLES}
    if shared := set(told[POLES[0]]) & set(told[POLES[1]]):
        raise DataError(f"{place}: {min(shared)!r} stands under both poles; remove it from one of them")
    wordings: dict[tuple[str, str], tuple[Wording, ...]] = {(pole, "held_out"): () for pole in POLES}
    wordings |= {(pole, "train"): tuple(Wording(text, text) for text in told[pole]) for pole in POLES}
    return Contrast(known.family, known.key, known.title, wordings)


def _texts(place: str, value: Any) -> tuple[str, ...]:
    """Different texts, none of them empty; a single text is a list of one."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise DataError(f"{place}: write one or more texts, each in quotes")
    if twice := [one for one in texts if texts.count(one) > 1]:
        raise DataError(f"{place}: {twice[0]!r} stands twice; remove one of them")
    return tuple(texts)
