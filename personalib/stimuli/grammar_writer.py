"""The grammar writer: life stories from the phrases in ``data/stimuli/stories.yaml``, offline and from a seed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from personalib.base.data import DataError, Strict, data_dir, parse, read_yaml
from personalib.base.provenance import file_hash
from personalib.stimuli.assignments import PARTS, WORDS, Assignment, Part
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.factors import elements, inflect, load_leads

Rng = np.random.Generator


@dataclass(frozen=True)
class GrammarWriter:
    """Writes life stories by choosing and joining phrases; seed, background and attempt determine the story.

    Each attribute is told by its keyword and continued by a reason or a consequence from one part of a life, so that
    the five parts are about equally long; sentences that tell no attribute fill up a story that would be too short.
    """

    seed: int = 0

    @property
    def identity(self) -> str:
        """What determines what it writes, the phrases among it."""
        return f"grammar {file_hash(_source())[:8]}, seed {self.seed}"

    def write(self, assignment: Assignment, background: Background, attempt: int, problems: Sequence[str]) -> BaseModel:
        """A life story, or a ValueError where something else is asked for, or the keywords alone are too long."""
        if assignment.name != "life story":
            raise ValueError(f"the grammar writer writes life stories, not {assignment.name}; use another writer")
        rng = np.random.default_rng([self.seed, background.idx, attempt])
        keywords = {factor: _keyword(background, factor, rng) for factor in background.elements}
        sentences, clauses = _tell(background, keywords, assignment.person, rng)
        _lengthen(sentences, assignment.person, rng)
        _shorten(sentences, background, rng)
        parts = {part: " ".join(one.text for one in own) for part, own in sentences.items()}
        told = {factor: inflect(clause, assignment.person).removesuffix(".") for factor, clause in clauses.items()}
        return assignment.form(background).model_validate({**parts, "told": told})


class _Sentence(NamedTuple):
    """A sentence, and without its continuation where it has one."""

    text: str
    shorter: str = ""


_Phrases = dict[Part, Annotated[tuple[str, ...], Field(min_length=1)]]


class _Stories(Strict):
    fillers: _Phrases
    continuations: dict[str, dict[str, Annotated[_Phrases, Field(min_length=1)]]]


@cache
def load_stories() -> _Stories:
    """The phrases, from ``data/stimuli/stories.yaml``; a DataError names a part or an element that lacks some."""
    source = _source()
    stories = parse(_Stories, read_yaml(source), str(source))
    if missing := [part for part in PARTS if part not in stories.fillers]:
        raise DataError(f"{source}: fillers.{missing[0]}: is missing; write some phrases")
    told = {(factor, key) for factor, by_element in stories.continuations.items() for key in by_element}
    if wrong := told ^ {(element.factor, element.key) for element in elements()}:
        raise DataError(f"{source}: {'.'.join(min(wrong))} needs continuations, or there is no such element")
    return stories


def _source() -> Path:
    return data_dir() / "stimuli" / "stories.yaml"


def _keyword(background: Background, factor: str, rng: Rng) -> str:
    """The background's own clause, or one of the stimuli's where it has none."""
    if factor in background.keywords:
        return background.keywords[factor].rstrip(". ")
    wanted = (factor, background.elements[factor])
    return _pick(rng, next(element.phrasings for element in elements() if (element.factor, element.key) == wanted))


def _tell(
    background: Background, clauses: Mapping[str, str], person: str, rng: Rng
) -> tuple[dict[str, list[_Sentence]], dict[str, str]]:
    """The sentences that tell an attribute, each in that of its parts that has the fewest so far, and their clauses."""
    sentences: dict[str, list[_Sentence]] = {part: [] for part in PARTS}
    told, factors = {}, list(background.elements)
    leads = [load_leads()[number] for number in 1 + rng.permutation(len(load_leads()) - 1)]
    for factor in (factors[number] for number in rng.permutation(len(factors))):
        phrases = load_stories().continuations[factor][background.elements[factor]]
        part = min(phrases, key=lambda name: (len(sentences[name]), rng.random()))
        continuation = _pick(rng, phrases[part])
        told[factor] = _with_lead(clauses[factor], continuation, leads)
        text = inflect(told[factor] + continuation, person)
        sentences[part].append(_Sentence(text, inflect(told[factor], person)))
    return sentences, told


def _with_lead(clause: str, continuation: str, leads: list[str]) -> str:
    """A clause with another lead where it is a lead and a noun phrase, so that few sentences begin alike.

    The plainest lead goes before a reason: a reason for what somebody is, is no reason for what others call them.
    """
    phrases = [clause.removeprefix(lead) for lead in load_leads() if clause.startswith(lead)]
    if not phrases or not re.match(r"(?:an?|the|someone|somebody) ", phrases[0]):
        return clause
    if re.match(r", (?:because|since) ", continuation) or not leads:
        return load_leads()[0] + phrases[0]
    return leads.pop() + phrases[0]


def _lengthen(sentences: Mapping[str, list[_Sentence]], person: str, rng: Rng) -> None:
    """Add sentences that tell no attribute until no part is empty and the story is long enough."""
    fillers = {part: [own[i] for i in rng.permutation(len(own))] for part, own in load_stories().fillers.items()}
    while not all(sentences.values()) or sum(map(_count, sentences.values())) < WORDS[0]:
        left = [part for part in PARTS if fillers[part]]
        part = min(left, key=lambda name: (_count(sentences[name]), rng.random()))
        sentences[part].append(_Sentence(inflect(fillers[part].pop(), person)))


def _shorten(sentences: Mapping[str, list[_Sentence]], background: Background, rng: Rng) -> None:
    """Leave out continuations, first where a part has most of them, until the story is short enough."""
    while (count := sum(map(_count, sentences.values()))) > WORDS[1]:
        if not any(one.shorter for own in sentences.values() for one in own):
            raise ValueError(f"background {background.idx}: its keywords alone take {count} words; shorten them")
        part = max(PARTS, key=lambda name: (sum(bool(one.shorter) for one in sentences[name]), rng.random()))
        number = next(i for i, one in enumerate(sentences[part]) if one.shorter)
        sentences[part][number] = _Sentence(sentences[part][number].shorter)


def _count(sentences: Sequence[_Sentence]) -> int:
    """The words of some sentences."""
    return sum(len(one.text.split()) for one in sentences)


def _pick(rng: Rng, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
