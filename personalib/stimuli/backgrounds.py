"""Backgrounds: persons as combinations of attributes, drawn so that every element is covered, and told in sentences.

The first stage of the paper's method (arXiv 2410.10863, section 3): keywords, and the *fixed* text made of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pydantic.dataclasses
from pydantic import BeforeValidator

from personalib.base.data import STRICT, data_dir, parse, read_yaml, shown
from personalib.stimuli.factors import elements, inflect, load_factors

_ATTEMPTS = 1000


@dataclass(frozen=True)
class Background:
    """What a person is like: by factor key an element, and the keyword, a clause with person slots, that tells it.

    ``idx`` is the number within its file, and ``generated`` a life story, where one was written.
    """

    idx: int
    elements: Mapping[str, str]
    keywords: Mapping[str, str] = field(default_factory=dict)
    generated: str = ""

    def sentences(self, person: str = "second") -> dict[str, str]:
        """The fixed background by factor key: each attribute in a sentence of its own."""
        return {factor: inflect(clause, person) for factor, clause in self.keywords.items()}

    def paragraph(self, person: str = "second") -> str:
        """The fixed background as one paragraph."""
        return " ".join(self.sentences(person).values())


def _attribute(told: Any) -> Any:
    """An element's (factor key, element key), where a file has it as ``factor.element``."""
    if isinstance(told, tuple):
        return told
    known = {f"{element.factor}.{element.key}": (element.factor, element.key) for element in elements()}
    if str(told) not in known:
        raise ValueError(f"there is no element {shown(told)}; write factor.element as in backgrounds.yaml")
    return known[str(told)]


_Attribute = Annotated[tuple[str, str], BeforeValidator(_attribute)]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Constraint:
    """Two elements that one person does not have, each as (factor key, element key), and why.

    Where there are words, only keywords of ``other`` with one of them are meant.
    """

    one: _Attribute
    other: _Attribute
    why: str
    words: tuple[str, ...] = ()

    def broken_by(self, elements: Mapping[str, str], keywords: Mapping[str, str] | None = None) -> bool:
        """Whether these attributes break it; without keywords, whether they do whatever the keywords are."""
        if elements.get(self.one[0]) != self.one[1] or elements.get(self.other[0]) != self.other[1]:
            return False
        if not self.words:
            return True
        return keywords is not None and bool(set(re.findall(r"\w+", keywords[self.other[0]])) & set(self.words))


@cache
def load_constraints() -> tuple[Constraint, ...]:
    """The constraints, from ``data/stimuli/constraints.yaml``; a DataError names an entry that is none."""
    source = data_dir() / "stimuli" / "constraints.yaml"
    entries = parse(list[Any], read_yaml(source) or [], str(source))
    return tuple(parse(Constraint, entry, f"{source}, entry {number}") for number, entry in enumerate(entries, start=1))


def draw_backgrounds(
    count: int,
    seed: int,
    phrasings: Mapping[tuple[str, str], Sequence[str]] | None = None,
    constraints: Sequence[Constraint] | None = None,
) -> list[Background]:
    """Different, plausible combinations of attributes in which every element of a factor is told equally often.

    Each factor's elements are dealt out like cards, so that their counts differ by one at the most; persons that break
    a constraint exchange elements until nobody does. The same seed gives the same backgrounds. Keywords are chosen from
    the phrasings by (factor key, element key); these, and the constraints, are the stimuli's by default. A ``count``
    that is not positive, or beyond what the constraints allow, is a ValueError.
    """
    if count < 1:
        raise ValueError(f"{count} backgrounds were asked for; ask for at least one")
    rng = np.random.default_rng(seed)
    rules = load_constraints() if constraints is None else constraints
    dealt = _separate(_deal(count, rng), rules, rng)
    choices = phrasings or {(element.factor, element.key): element.phrasings for element in elements()}
    seen: set[tuple[str, ...]] = set()
    drawn = []
    for idx, own in enumerate(dealt):
        # A keyword for each element, not the same ones as anybody before.
        for _ in range(_ATTEMPTS):
            words = {pair[0]: choices[pair][int(rng.integers(len(choices[pair])))] for pair in own.items()}
            told = tuple(words.values())
            if told not in seen and not any(rule.broken_by(own, words) for rule in rules):
                break
        else:
            raise ValueError(
                f"no new keywords were found after {len(seen)} backgrounds; ask for fewer, or give more phrasings"
            )
        seen.add(told)
        drawn.append(Background(idx, own, words))
    return drawn


def coverage(backgrounds: Iterable[Background]) -> pd.DataFrame:
    """By titles of ``factor`` and ``element``, the ``count`` of who has it, and its ``share`` of its factor's."""
    counts = Counter(pair for one in backgrounds for pair in one.elements.items())
    table = pd.DataFrame(
        {"factor": factor.title, "element": element.title, "count": counts[factor.key, element.key]}
        for factor in load_factors()
        for element in factor.elements
    )
    totals = table.groupby("factor")["count"].transform("sum")
    return table.assign(share=(table["count"] / totals.where(totals > 0)).fillna(0.0))


def joint_coverage(backgrounds: Iterable[Background]) -> pd.DataFrame:
    """How often each two elements of different factors meet in a person, as a symmetric table by element title.

    Its diagonal holds the counts of single elements.
    """
    members = pd.DataFrame(
        [[one.elements.get(element.factor) == element.key for element in elements()] for one in backgrounds],
        columns=[element.title for element in elements()],
        dtype=int,
    )
    return members.T @ members


def _deal(count: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """Each factor's elements in equal numbers and random order."""
    hands: list[dict[str, str]] = [{} for _ in range(count)]
    for factor in load_factors():
        order = rng.permutation(len(factor.elements))
        cards = np.resize(order, count)
        for hand, card in zip(hands, rng.permutation(cards), strict=True):
            hand[factor.key] = factor.elements[card].key
    return hands


def _separate(
    hands: list[dict[str, str]], rules: Sequence[Constraint], rng: np.random.Generator
) -> list[dict[str, str]]:
    """Exchange elements between persons until no constraint is broken whatever the keywords are."""
    for hand in hands:
        for rule in rules:
            attempts = 0
            while rule.broken_by(hand):
                if (attempts := attempts + 1) > _ATTEMPTS:
                    raise ValueError(
                        f"no {len(hands)} backgrounds in equal numbers keep {'.'.join(rule.one)} and "
                        f"{'.'.join(rule.other)} apart; ask for another number, or loosen the constraints"
                    )
                _exchange(hand, hands[rng.integers(len(hands))], (rule.one, rule.other)[attempts % 2][0], rules)
    return hands


def _exchange(hand: dict[str, str], other: dict[str, str], factor: str, rules: Sequence[Constraint]) -> None:
    """Exchange a factor's element between two persons, unless one of them would break a constraint by it."""
    mine, theirs = hand | {factor: other[factor]}, other | {factor: hand[factor]}
    if not any(rule.broken_by(each) for rule in rules for each in (mine, theirs)):
        hand[factor], other[factor] = other[factor], hand[factor]
