"""Contrast prompts that a user supplies, such as the paper's own, in the place of the book's.

A YAML file holds by key the texts toward each pole, and may hold the questions that follow them::

    contrasts:
      trust:
        positive: ["Believe that people mean well."]
        negative: ["Believe that people are out for themselves."]
    questions: ["What would you do?", "What comes first?", "Whom do you ask?", "What do you say?"]

Every text is used for fitting. None is held out, so such a contrast is no ground for validating a direction.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from personalib.base.data import DataError, Strict, parse, read_yaml, shown
from personalib.stimuli.contrast_pairs import Contrast, ContrastPair, Wording, contrast_set, contrasts, load_carriers
from personalib.stimuli.factors import POLES

# What a set of questions needs to be split into those to train on and those held out, see contrast_set.
_FEWEST = 4


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _checked(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(text.strip() for text in texts):
        raise ValueError("a text is empty; fill it in or remove it")
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"{shown(twice[0])} stands twice; remove one of them")
    return texts


_Texts = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_list), AfterValidator(_checked)]


class _Poles(Strict):
    positive: _Texts
    negative: _Texts

    @model_validator(mode="after")
    def _differ(self) -> "_Poles":
        if shared := set(self.positive) & set(self.negative):
            raise ValueError(f"{shown(min(shared))} stands under both poles; remove it from one of them")
        return self


class _Supplied(BaseModel):
    """A file, which may hold more than is read here, such as templates."""

    contrasts: dict[str, _Poles] = {}
    questions: Annotated[_Texts, Field(min_length=_FEWEST)] | None = None


def _read(path: Path) -> _Supplied:
    return parse(_Supplied, read_yaml(path), str(path))


@cache
def supplied_contrasts(path: Path, family: str) -> tuple[Contrast, ...]:
    """The contrasts of one of the ``contrast_pairs.FAMILIES`` that a file has texts for.

    A DataError if there is no such family, or no contrast of it in the file, or one is not as it should be.
    """
    known = {contrast.key: contrast for contrast in contrasts(family)}
    given = _read(path).contrasts
    if not given:
        raise DataError(f"{path}: contrasts: none are there; write, by key, a list of texts for each pole")
    if unknown := [key for key in given if key not in known]:
        raise DataError(f"{path}: contrasts.{unknown[0]}: no such key among the {family}; use {', '.join(known)}")
    found = []
    for key, poles in given.items():
        trained = {(pole, "train"): tuple(Wording(text, text) for text in texts) for pole, texts in poles}
        found.append(replace(known[key], wordings=trained | {(pole, "held_out"): () for pole in POLES}))
    return tuple(found)


@cache
def supplied_questions(path: Path) -> tuple[str, ...]:
    """The questions of a file, four or more different ones, or else the book's neutral ones."""
    questions = _read(path).questions
    return load_carriers() if questions is None else questions


def supplied_set(path: Path, contrast: Contrast, count: int, seed: int) -> list[ContrastPair]:
    """So many different contrast pairs of :func:`supplied_contrasts`, or all there are where these are fewer."""
    questions = supplied_questions(path)
    positive, negative = (len(contrast.wordings[pole, "train"]) for pole in POLES)
    there = positive * negative * (len(questions) - len(questions) // _FEWEST)
    return contrast_set(contrast, min(count, there), seed, "train", questions)
