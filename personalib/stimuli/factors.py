"""The vocabulary of causes: long-term background factors, short-term pressures, and facets of the dark triad.

Nine background factors with their elements, and seven pressures with two poles each (arXiv 2410.10863, section 3);
eleven facets beside them, from an earlier set of contrast pairs in the paper's code release.
Each comes with many phrasings of our own; slots make one phrasing serve the first, second and third person.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from personalib.base.data import DataError, Strict, choose, data_dir, read_section, shown

TRAITS = (
    "openness",
    "conscientiousness",
    "extraversion",
    "agreeableness",
    "neuroticism",
    "psychopathy",
    "machiavellianism",
    "narcissism",
)
POLES = ("positive", "negative")
_SLOTS = ("I", "me", "my", "myself", "am", "was", "have")
PERSONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "first": dict(zip(_SLOTS, _SLOTS, strict=True)),
        "second": dict(zip(_SLOTS, ("you", "you", "your", "yourself", "are", "were", "have"), strict=True)),
        "third": dict(zip(_SLOTS, ("this person", "them", "their", "themselves", "is", "was", "has"), strict=True)),
    }
)
T = TypeVar("T")
_SLOT = re.compile(r"\{(\w+)\}")
_VERB = re.compile(r"\[([^\]|]+)(?:\|([^\]]+))?\]")


@dataclass(frozen=True)
class Element:
    """One value of a background factor, such as *female* for gender; phrasings are clauses with person slots.

    ``phrases`` holds of each phrasing the phrase that it is made of, without its lead.
    """

    key: str
    title: str
    factor: str
    phrasings: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """A long-term background factor and its mutually exclusive elements."""

    key: str
    title: str
    elements: tuple[Element, ...]


@dataclass(frozen=True)
class Pressure:
    """A short-term pressure, or a facet, with full instructions for each of the two :data:`POLES`.

    ``phrases`` holds of each phrasing the phrase that it is made of, without its lead.
    """

    key: str
    title: str
    phrasings: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, tuple[str, ...]]


class _WrittenElement(Strict):
    title: str
    complements: tuple[str, ...]
    clauses: tuple[str, ...]


class _WrittenFactor(Strict):
    title: str
    elements: dict[str, _WrittenElement]


class _WrittenPoles(Strict):
    title: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


def inflect(clause: str, person: str) -> str:
    """A clause as a sentence in the ``"first"``, ``"second"`` or ``"third"`` person.

    A clause has the slots ``{I} {me} {my} {myself} {am} {was} {have}`` and ``[verb]`` or ``[go|goes]``; it is a
    DataError if it has another slot, or other braces.

    >>> inflect("{I} {am} a woman and [live] with {my} sister", "third")
    'This person is a woman and lives with their sister.'
    """
    third = person == "third"
    text = _VERB.sub(lambda match: (match[2] or _add_s(match[1])) if third else match[1], clause)
    slots = PERSONS[person]
    filled = _SLOT.sub(lambda match: slots.get(match[1], match[0]), text)
    if "{" in filled or "}" in filled:
        known = " ".join(f"{{{slot}}}" for slot in slots)
        raise DataError(f"{shown(clause)} has braces that are no slot; use {known}, and no other braces")
    return sentence(filled)


def sentence(clause: str) -> str:
    """Capitalise a clause and close it with a full stop."""
    return clause[:1].upper() + clause[1:] + ("" if clause.endswith((".", "?", "!")) else ".")


def _add_s(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


def read_stimuli(kind: type[T], name: str, section: str) -> T:
    """One section of a file in ``data/stimuli``; a DataError names what is missing or does not fit."""
    return read_section(kind, data_dir() / "stimuli" / f"{name}.yaml", section)


@cache
def load_factors() -> tuple[Factor, ...]:
    """The nine background factors, from ``data/stimuli/backgrounds.yaml``."""
    leads = read_stimuli(tuple[str, ...], "backgrounds", "leads")

    def element(factor: str, key: str, entry: _WrittenElement) -> Element:
        phrases = tuple(phrase for phrase in entry.complements for _ in leads) + entry.clauses
        return Element(key, entry.title, factor, _fill(leads, entry.complements) + entry.clauses, phrases)

    return tuple(
        Factor(key, entry.title, tuple(element(key, name, value) for name, value in entry.elements.items()))
        for key, entry in read_stimuli(dict[str, _WrittenFactor], "backgrounds", "factors").items()
    )


@cache
def load_leads() -> tuple[str, ...]:
    """How sentences about somebody begin, such as "You are"; a noun phrase makes each a clause."""
    return tuple(lead.removesuffix("{x}") for lead in read_stimuli(tuple[str, ...], "backgrounds", "leads"))


@cache
def load_pressures() -> tuple[Pressure, ...]:
    """The seven pressures, from ``data/stimuli/pressures.yaml``."""
    return _load_poles("pressures")


@cache
def load_facets() -> tuple[Pressure, ...]:
    """The eleven facets of the dark triad, from ``data/stimuli/facets.yaml``, which have the form of pressures."""
    return _load_poles("facets")


def _load_poles(family: str) -> tuple[Pressure, ...]:
    leads, loaded = read_stimuli(tuple[str, ...], family, "leads"), []
    for key, entry in read_stimuli(dict[str, _WrittenPoles], family, family).items():
        told = {"positive": entry.positive, "negative": entry.negative}
        phrasings = {pole: _fill(leads, phrases) for pole, phrases in told.items()}
        phrases = {pole: tuple(phrase for phrase in phrases for _ in leads) for pole, phrases in told.items()}
        loaded.append(Pressure(key, entry.title, MappingProxyType(phrasings), MappingProxyType(phrases)))
    return tuple(loaded)


def _fill(leads: tuple[str, ...], phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(lead.replace("{x}", phrase) for phrase in phrases for lead in leads)


def check_background(background: Mapping[str, str]) -> None:
    """Raise a DataError, which lists those there are, unless each key is a factor and its value an element of it."""
    factors = {factor.key: factor for factor in load_factors()}
    for key, element in background.items():
        factor = factors[choose(key, factors, "background factor")]
        choose(element, (known.key for known in factor.elements), f"element of {key}")


def elements() -> tuple[Element, ...]:
    """All elements of all factors, in file order."""
    return tuple(element for factor in load_factors() for element in factor.elements)
