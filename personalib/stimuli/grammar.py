"""The grammar of the corpus: phrases, their combinations, and which of them are held out.

A *wording* is a combination of phrases (an act with a reason, a setting with an event, a lead with a noun phrase).
Some combinations are held out: training never sees them, and every measurement uses nothing else.
Held-out wordings are new sentences over words met in training; a phrase with a word of its own is not held out.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from personalib.base.data import DataError, Strict, data_dir, parse, read_yaml
from personalib.stimuli.factors import POLES, TRAITS, elements, load_pressures, read_stimuli

SPLITS = ("train", "held_out")
LEVELS = ("high", "low")
MANNERS = ("decisive", "hesitant")
_WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True)
class Wording:
    """An answer's content: what the person would do, and why."""

    act: str
    reason: str


@dataclass(frozen=True)
class TraitBank:
    """What the grammar can say about a trait.

    That is a self-description by level, full situation sentences by split, and answers by (level, split).
    """

    key: str
    title: str
    statements: Mapping[str, str]
    situations: Mapping[str, tuple[str, ...]]
    wordings: Mapping[tuple[str, str], tuple[Wording, ...]]


@dataclass(frozen=True)
class SafetyTopic:
    """Questions of one safety topic by split, with the options that fit all of them."""

    category: str
    questions: Mapping[str, tuple[str, ...]]
    safe: tuple[str, ...]
    unsafe: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One fact: a subject, the object that belongs to it, and the relation between them."""

    relation: str
    subject: str
    object: str


@dataclass(frozen=True)
class Relation:
    """A kind of fact, with question phrasings by split and the wrong objects to choose from."""

    key: str
    questions: Mapping[str, tuple[str, ...]]
    statements: tuple[str, ...]
    facts: tuple[Fact, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """The distinct objects, in order of first mention."""
        return tuple(dict.fromkeys(fact.object for fact in self.facts))


class _WrittenLevel(Strict):
    acts: tuple[str, ...]
    reasons: tuple[str, ...]


class _WrittenStatements(Strict):
    high: str
    low: str


class _WrittenBank(Strict):
    title: str
    statements: _WrittenStatements
    events: tuple[str, ...]
    high: _WrittenLevel
    low: _WrittenLevel


class _WrittenTopic(Strict):
    name: str
    questions: tuple[str, ...]
    safe: tuple[str, ...]
    unsafe: tuple[str, ...]


class _WrittenCategory(Strict):
    title: str
    topics: tuple[_WrittenTopic, ...]


class _WrittenRelation(Strict):
    title: str
    questions: tuple[str, ...]
    statement: str
    statements: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def digest(*parts: str) -> int:
    """A stable 64-bit hash of some phrases, so that no list of held-out phrases has to be stored."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big")


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return {word.lower() for word in _WORD.findall(text)}


def first_word(text: str) -> str:
    """The word that opens a text, without marks."""
    return _WORD.findall(text)[0]


def split_phrases(phrases: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Hold out one phrase in four, but none with a word that the remaining ones do not show."""
    return split_groups([phrases])[0]


def split_groups(groups: Sequence[Sequence[str]], known: str = "") -> list[dict[str, tuple[str, ...]]]:
    """Hold out one phrase in four of each group, whose words all stand in ``known`` or other phrases of any group."""
    counts = Counter(word for phrases in groups for phrase in phrases for word in words(phrase))
    counts.update(words(known))
    splits = []
    for phrases in groups:
        held_out: set[str] = set()
        for phrase in sorted(phrases, key=digest):
            if len(held_out) < len(phrases) // 4 and all(counts[word] > 1 for word in words(phrase)):
                held_out.add(phrase)
                counts.subtract(words(phrase))
        train = tuple(phrase for phrase in phrases if phrase not in held_out)
        splits.append({"train": train, "held_out": tuple(phrase for phrase in phrases if phrase in held_out)})
    return splits


def _split_pairs(first: Sequence[str], second: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    split: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    for pair in product(first, second):
        split[SPLITS[digest(*pair) % 5 == 0]].append(pair)
    return split


@cache
def load_wordings() -> dict[str, Any]:
    """Answer frames and request wordings, from ``data/stimuli/wordings.yaml``."""
    source = data_dir() / "stimuli" / "wordings.yaml"
    wordings = parse(dict[str, list[str] | float], read_yaml(source), str(source))
    for name in (*MANNERS, "connectors"):
        if not isinstance(wordings.get(name), list):
            raise DataError(f"{source}: {name}: write a list of texts")
    return wordings


@cache
def load_traits() -> dict[str, TraitBank]:
    """The eight trait banks in the order of ``TRAITS``."""
    big_five, dark = (
        read_stimuli(dict[str, _WrittenBank], f"traits_{name}", "traits") for name in ("big_five", "dark_triad")
    )
    entries = big_five | dark
    settings = read_stimuli(tuple[str, ...], "traits_dark_triad", "settings")
    if missing := set(TRAITS) - set(entries):
        raise DataError(f"{data_dir() / 'stimuli'}: no bank for the traits {sorted(missing)}")
    return {key: _trait_bank(key, entries[key], settings) for key in TRAITS}


def _trait_bank(key: str, entry: _WrittenBank, settings: Sequence[str]) -> TraitBank:
    situations = _split_pairs(settings, entry.events)
    wordings = {
        (level, split): tuple(Wording(*pair) for pair in pairs)
        for level, told in zip(LEVELS, (entry.high, entry.low), strict=True)
        for split, pairs in _split_pairs(told.acts, told.reasons).items()
    }
    sentences = {split: tuple(f"{place}, {event}." for place, event in pairs) for split, pairs in situations.items()}
    return TraitBank(key, entry.title, dict(entry.statements), sentences, wordings)


@cache
def load_queries() -> tuple[str, ...]:
    """The ways to ask what someone would do."""
    return read_stimuli(tuple[str, ...], "traits_dark_triad", "queries")


@cache
def load_asides() -> dict[str, tuple[str, ...]]:
    """Sentences (with person slots) that say nothing about a person, by split, from ``data/stimuli/asides.yaml``."""
    return split_phrases(read_stimuli(tuple[str, ...], "asides", "asides"))


@cache
def load_safety_topics() -> tuple[SafetyTopic, ...]:
    """The safety topics of all seven categories."""
    categories = read_stimuli(dict[str, _WrittenCategory], "safety", "categories")
    topics = [(category, topic) for category, entry in categories.items() for topic in entry.topics]
    known = " ".join(option for _, topic in topics for option in (*topic.safe, *topic.unsafe))
    questions = split_groups([topic.questions for _, topic in topics], known)
    return tuple(
        SafetyTopic(category, split, topic.safe, topic.unsafe)
        for (category, topic), split in zip(topics, questions, strict=True)
    )


@cache
def load_relations() -> tuple[Relation, ...]:
    """The kinds of facts; a question's phrasing is held out, its fact never is."""
    relations = read_stimuli(dict[str, _WrittenRelation], "facts", "relations")
    statements = {key: (entry.statement, *entry.statements) for key, entry in relations.items()}
    known = " ".join(text for texts in statements.values() for text in texts)
    questions = split_groups([entry.questions for entry in relations.values()], known)
    return tuple(
        Relation(key, split, statements[key], tuple(Fact(key, *pair) for pair in relations[key].pairs))
        for key, split in zip(relations, questions, strict=True)
    )


@cache
def element_phrasings() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Phrasings (with person slots) of each (factor, element), by split."""
    return {(element.factor, element.key): split_phrases(element.phrasings) for element in elements()}


@cache
def pressure_phrasings() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Instructions of each (pressure, pole), by split."""
    return {
        (pressure.key, pole): split_phrases(pressure.phrasings[pole]) for pressure in load_pressures() for pole in POLES
    }
