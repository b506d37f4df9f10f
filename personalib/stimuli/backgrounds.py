"""Backgrounds: persons as combinations of attributes, drawn so that every element is covered, and told in sentences.

The first stage of the paper's method (arXiv 2410.10863, section 3): keywords, and the *fixed* text made of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from personalib.base.data import DataError, Strict, cut, data_dir, parse, read_yaml
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


@dataclass(frozen=True)
class Constraint:
    """Two elements that one person does not have, each as (factor key, element key), and why.

    Where there are words, only keywords of ``other`` with one of them are meant.
    """

    one: tuple[str, str]
    other: tuple[str, str]
    words: tuple[str, ...]
    why: str

    def broken_by(self, elements: Mapping[str, str], keywords: Mapping[str, str] | None = None) -> bool:
        """Whether these attributes break it; without keywords, whether they do whatever the keywords are."""
        if elements.get(self.one[0]) != self.one[1] or elements.get(self.other[0]) != self.other[1]:
            return False
        if not self.words:
            return True
        return keywords is not None and bool(set(re.findall(r"\w+", keywords[self.other[0]])) & set(self.words))


class _Written(Strict):
    """A constraint as the file has it."""

    one: str
    other: str
    why: str
    words: tuple[str, ...] = ()


@cache
def load_constraints(path: Path | None = None) -> tuple[Constraint, ...]:
    """The constraints from ``data/stimuli/constraints.yaml`` or another file of its form.

    Raises:
        DataError: an entry is not a constraint, or names an element that there is not.
    """
    source = path or data_dir() / "stimuli" / "constraints.yaml"
    known = {f"{element.factor}.{element.key}": (element.factor, element.key) for element in elements()}
    constraints = []
    for number, entry in enumerate(parse(list[Any], read_yaml(source) or [], str(source)), start=1):
        place = f"{source}, entry {number}"
        written = parse(_Written, entry, place)
        if unknown := {written.one, written.other} - set(known):
            named = cut(", ".join(sorted(unknown)))
            raise DataError(f"{place}: no element {named}; write factor.element as in backgrounds.yaml")
        constraints.append(Constraint(known[written.one], known[written.other], written.words, written.why))
    return tuple(constraints)


def draw_backgrounds(
    count: int,
    seed: int,
    phrasings: Mapping[tuple[str, str], Sequence[str]] | None = None,
    constraints: Sequence[Constraint] | None = None,
) -> list[Background]:
    """Different, plausible combinations of attributes in which every element of a factor is told equally often.

    Each factor's elements are dealt out like cards, so that their counts differ by one at the most; persons that break
    a constraint exchange elements until nobody does, which leaves the counts as they are. The same seed gives the same
    backgrounds. Keywords are chosen from the phrasings by (factor key, element key); these, and the constraints, are
    the stimuli's by default.

    Raises:
        ValueError: ``count`` is not positive, or so many do not exist under the constraints.
    """
    if count < 1:
        raise ValueError(f"{count} backgrounds were asked for; ask for at least one")
    rng = np.random.default_rng(seed)
    rules = load_constraints() if constraints is None else constraints
    dealt = _separate(_deal(count, rng), rules, rng)
    choices = phrasings or {(element.factor, element.key): element.phrasings for element in elements()}
    seen: set[tuple[str, ...]] = set()
    return [Background(idx, own, _keywords(own, choices, rules, seen, rng)) for idx, own in enumerate(dealt)]


def coverage(backgrounds: Iterable[Background]) -> pd.DataFrame:
    """By titles of ``factor`` and ``element``, the ``count`` of who has it, and its ``share`` of its factor's."""
    counts = Counter(pair for one in backgrounds for pair in one.elements.items())
    rows = [
        {"factor": factor.title, "element": element.title, "count": counts[factor.key, element.key]}
        for factor in load_factors()
        for element in factor.elements
    ]
    table = pd.DataFrame(rows)
    totals = table.groupby("factor")["count"].transform("sum")
    return table.assign(share=(table["count"] / totals.where(totals > 0)).fillna(0.0))


def joint_coverage(backgrounds: Iterable[Background]) -> pd.DataFrame:
    """How often each two elements of different factors meet in a person, as a symmetric table by element title.

    Its diagonal holds the counts of single elements.
    """
    told = [(element.factor, element.key) for element in elements()]
    members = np.array([[background.elements.get(f) == e for f, e in told] for background in backgrounds], dtype=int)
    members = members.reshape(-1, len(told))
    names = [element.title for element in elements()]
    return pd.DataFrame(members.T @ members, index=names, columns=names)


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


def _keywords(
    elements: Mapping[str, str],
    choices: Mapping[tuple[str, str], Sequence[str]],
    rules: Sequence[Constraint],
    seen: set[tuple[str, ...]],
    rng: np.random.Generator,
) -> dict[str, str]:
    """A keyword for each element, not the same ones as anybody before."""
    for _ in range(_ATTEMPTS):
        words = {pair[0]: choices[pair][int(rng.integers(len(choices[pair])))] for pair in elements.items()}
        told = tuple(words.values())
        if told not in seen and not any(rule.broken_by(elements, words) for rule in rules):
            seen.add(told)
            return words
    raise ValueError(f"no new keywords were found after {len(seen)} backgrounds; ask for fewer, or give more phrasings")
