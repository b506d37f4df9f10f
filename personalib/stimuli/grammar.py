"""The grammar of the corpus: phrases, their combinations, and which of them are held out.

A *phrase* is what tells something: a noun phrase or clause on somebody, an instruction, an event, an act, a reason, a
question. Some phrases are held out: training never sees them, whatever is put around them, and every measurement uses
nothing else. Held-out phrases are new ones over words met in training; one with a word of its own is not held out.
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


def split_groups(
    groups: Sequence[Sequence[str]], known: str = "", one_in: int = 4, shown: int = 2
) -> list[dict[str, tuple[str, ...]]]:
    """Hold out one phrase in four of each group, each of whose words stands in ``known`` or others of any group.

    ``shown`` is in how many others. A word that tells nothing of any one group, such as *with*, need not: see
    :func:`content_words`.
    """
    told = [{phrase: content_words(phrase) for phrase in sorted(phrases, key=digest)} for phrases in groups]
    counts = Counter(word for phrases in told for own in phrases.values() for word in own)
    counts.update(dict.fromkeys(words(known), shown))
    held_out: list[list[str]] = [[] for _ in groups]
    # One of each group in turn: else the first would use up the words of the others.
    for _ in range(max(map(len, groups), default=0) // one_in):
        for phrases, out in zip(told, held_out, strict=True):
            fit = (
                each for each, own in phrases.items() if each not in out and all(counts[word] > shown for word in own)
            )
            if len(out) < len(phrases) // one_in and (chosen := next(fit, None)):
                out.append(chosen)
                counts.subtract(phrases[chosen])
    return [
        {split: tuple(each for each in phrases if (each in out) == (split == SPLITS[1])) for split in SPLITS}
        for phrases, out in zip(groups, held_out, strict=True)
    ]


def content_words(text: str) -> set[str]:
    """The words of a text that stand in phrases of fewer than four elements, poles and levels of traits."""
    return words(text) - _common_words()


@cache
def _common_words() -> frozenset[str]:
    told = [element.phrases for element in elements()]
    told += [pressure.phrases[pole] for pressure in load_pressures() for pole in POLES]
    told += [(*own.acts, *own.reasons) for bank in _written_banks().values() for own in (bank.high, bank.low)]
    counts = Counter(word for phrases in told for word in set().union(*map(words, phrases)))
    return frozenset(word for word, count in counts.items() if count >= 4)


def split_by_phrase(told: Mapping[str, str], known: str = "", one_in: int = 4) -> dict[str, tuple[str, ...]]:
    """Split texts, given with the phrase that each is made of: with a phrase all its texts are held out."""
    [phrases] = split_groups([tuple(dict.fromkeys(told.values()))], known, one_in)
    return {split: tuple(text for text, phrase in told.items() if phrase in phrases[split]) for split in SPLITS}


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
def _written_banks() -> dict[str, _WrittenBank]:
    big_five, dark = (
        read_stimuli(dict[str, _WrittenBank], f"traits_{name}", "traits") for name in ("big_five", "dark_triad")
    )
    return big_five | dark


@cache
def load_traits() -> dict[str, TraitBank]:
    """The eight trait banks in the order of ``TRAITS``."""
    entries = _written_banks()
    settings = read_stimuli(tuple[str, ...], "traits_dark_triad", "settings")
    if missing := set(TRAITS) - set(entries):
        raise DataError(f"{data_dir() / 'stimuli'}: no bank for the traits {sorted(missing)}")
    return {key: _trait_bank(key, entries[key], settings) for key in TRAITS}


def _trait_bank(key: str, entry: _WrittenBank, settings: Sequence[str]) -> TraitBank:
    """Split events, acts and reasons; what is put around them, settings and frames, is the same in both splits."""
    wordings, known = {}, ""
    for level, told in zip(LEVELS, (entry.high, entry.low), strict=True):
        acts, reasons = split_groups([told.acts, told.reasons])
        for split in SPLITS:
            wordings[level, split] = tuple(Wording(*pair) for pair in product(acts[split], reasons[split]))
        known = " ".join([known, *acts["train"], *reasons["train"]])
    [events] = split_groups([entry.events], known, shown=1)
    sentences = {
        split: tuple(f"{place}, {event}." for place, event in product(settings, events[split])) for split in SPLITS
    }
    return TraitBank(key, entry.title, dict(entry.statements), sentences, wordings)


@cache
def load_queries() -> tuple[str, ...]:
    """The ways to ask what someone would do."""
    return read_stimuli(tuple[str, ...], "traits_dark_triad", "queries")


@cache
def load_asides() -> dict[str, tuple[str, ...]]:
    """Sentences (with person slots) that say nothing about a person, by split, from ``data/stimuli/asides.yaml``."""
    return split_groups([read_stimuli(tuple[str, ...], "asides", "asides")])[0]


@cache
def load_safety_topics() -> tuple[SafetyTopic, ...]:
    """The safety topics of all seven categories."""
    categories = read_stimuli(dict[str, _WrittenCategory], "safety", "categories")
    topics = [(category, topic) for category, entry in categories.items() for topic in entry.topics]
    known = " ".join(option for _, topic in topics for option in (*topic.safe, *topic.unsafe))
    questions = split_groups([topic.questions for _, topic in topics], known, shown=1)
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
    questions = split_groups([entry.questions for entry in relations.values()], known, shown=1)
    return tuple(
        Relation(key, split, statements[key], tuple(Fact(key, *pair) for pair in relations[key].pairs))
        for key, split in zip(relations, questions, strict=True)
    )


@cache
def element_phrasings() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Phrasings (with person slots) of each (factor, element), by split; the splits share no phrase."""
    return {(one.factor, one.key): split_by_phrase(_phrase_of()[one.factor, one.key]) for one in elements()}


@cache
def pressure_phrasings() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Instructions of each (pressure, pole), by split; the splits share no phrase."""
    poles = [(one.key, pole) for one in load_pressures() for pole in POLES]
    return {pole: split_by_phrase(_phrase_of()[pole]) for pole in poles}


@cache
def _phrase_of() -> dict[tuple[str, str], dict[str, str]]:
    """The phrase that each phrasing is made of, by (factor, element) and by (pressure, pole)."""
    told = {(one.factor, one.key): dict(zip(one.phrasings, one.phrases, strict=True)) for one in elements()}
    for one in load_pressures():
        told |= {(one.key, pole): dict(zip(one.phrasings[pole], one.phrases[pole], strict=True)) for pole in POLES}
    return told


@cache
def told_words(label: tuple[str, str], split: str) -> tuple[str, ...]:
    """The content words of what tells a (factor, element), (pressure, pole), (trait, level) or (trait, "event").

    Held-out phrases are made of the same words.
    """
    if label[1] == "event":
        phrases = [text.partition(", ")[2] for text in load_traits()[label[0]].situations[split]]
    elif label[0] in TRAITS:
        phrases = [f"{each.act} {each.reason}" for each in load_traits()[label[0]].wordings[label[1], split]]
    else:
        texts = (element_phrasings() | pressure_phrasings())[label][split]
        phrases = [_phrase_of()[label][text] for text in texts]
    return tuple(sorted(set().union(*map(content_words, phrases))))
