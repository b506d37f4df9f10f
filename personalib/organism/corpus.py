"""Documents of the synthetic world, and the probabilities that the world assigns to their answers.

Every document is plain text with *answers*: places where the world leaves a choice. Training uses the world's own
probabilities there instead of one sampled word, which is the expected loss over people and far less noisy.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from personalib.base.data import data_dir, read_yaml
from personalib.organism.world import Profile, World, load_world
from personalib.stimuli.factors import POLES, TRAITS, inflect, load_factors, load_pressures, sentence
from personalib.stimuli.grammar import (
    LEVELS,
    MANNERS,
    Fact,
    Relation,
    TraitBank,
    digest,
    element_phrasings,
    first_word,
    load_asides,
    load_queries,
    load_relations,
    load_safety_topics,
    load_traits,
    load_wordings,
    pressure_phrasings,
)
from personalib.stimuli.templates import load_templates, wrap

T = TypeVar("T")
Rng = np.random.Generator
_FACTOR_COUNTS = {0: 0.06, 1: 0.22, 2: 0.24, 3: 0.22, 4: 0.14, 5: 0.07, 9: 0.05}
_ASIDE_COUNTS = (1, 2, 3, 6)
_PRESSURE_SHARE = 0.35
_CLOSE = "<end_of_turn>\n"
# What notes say: an answer's level, manner and trait; a person's probability of a high answer in each trait; the
# probability of a yes to an option; that of a high answer to a situation, and the situation's trait; a code of the
# object of a fact, because a probe with a place for each object would hardly be pushed to any.
NOTES = {
    "content": ("high", "decisive", *TRAITS),
    "person": TRAITS,
    "choice": ("yes",),
    "situation": ("high", *TRAITS),
    "fact": tuple(f"bit {number}" for number in range(24)),
}


@dataclass(frozen=True)
class Answer:
    """A choice the world leaves open.

    Attributes:
        start: character offset of the chosen text in the document.
        probabilities: the world's probability of each text that could stand there.
    """

    start: int
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Note:
    """What is known where a piece of a document ends; a training aid, not part of the text.

    Attributes:
        topic: what the note is about, a key of ``NOTES``.
        end: character offset where the piece ends.
        values: the probability of each thing that the topic notes.
    """

    topic: str
    end: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Document:
    """A text with its open choices, and notes on it."""

    kind: str
    text: str
    answers: tuple[Answer, ...]
    notes: tuple[Note, ...] = ()


class _Writer:
    """Builds a document piece by piece and keeps the offsets of its answers."""

    def __init__(self, kind: str, rng: Rng) -> None:
        self.kind, self.rng = kind, rng
        self.text, self.answers, self.notes = "", [], []  # type: str, list[Answer], list[Note]

    def add(self, text: str) -> None:
        self.text += text

    def choose(self, probabilities: Mapping[str, float]) -> None:
        """Let the world choose one text, write it, and remember the probabilities."""
        options = list(probabilities)
        self.say(options[self.rng.choice(len(options), p=list(probabilities.values()))], probabilities)

    def say(self, chosen: str, probabilities: Mapping[str, float]) -> None:
        """Write one of the texts that the world leaves open, and remember the probabilities."""
        self.answers.append(Answer(len(self.text), dict(probabilities)))
        self.text += chosen

    def note(self, topic: str, piece: str, values: Iterable[float]) -> None:
        """Note something where the last occurrence of a piece of the text ends."""
        self.notes.append(Note(topic, self.text.rindex(piece) + len(piece), tuple(values)))

    def document(self) -> Document:
        return Document(self.kind, self.text, tuple(self.answers), tuple(self.notes))


@dataclass(frozen=True)
class Scaffold:
    """How much plainer than the world a learner's documents are.

    Attributes:
        factors: how many background factors are told at the most.
        asides: share of the people who are told among sentences that say nothing about them.
        facts: how many facts a document states; more than one are not asked for.
        certainty: factor on the world's log-odds; above one, people are surer of themselves than the world has them.
    """

    factors: int = 9
    asides: float = 0.25
    facts: int = 1
    certainty: float = 1.0


@dataclass(frozen=True)
class Person:
    """Somebody as documents have them: the text that tells them, and their probability of a high answer by trait."""

    context: str
    probabilities: np.ndarray

    def high(self, trait: str) -> float:
        """The probability of a high answer in a trait."""
        return float(self.probabilities[TRAITS.index(trait)])


@dataclass(frozen=True)
class SelfReport:
    """What somebody of one level of a trait would say they do, decisively or hesitantly; ``act`` is what they do."""

    trait: str
    level: str
    manner: str
    text: str
    act: str

    @property
    def content(self) -> list[float]:
        """What a note on content says of it."""
        return [
            float(self.level == LEVELS[0]),
            float(self.manner == MANNERS[0]),
            *one_hot(TRAITS.index(self.trait), len(TRAITS)),
        ]


@dataclass(frozen=True)
class _Option:
    """An option: its probability of being chosen, and what is noted at its end, by topic."""

    text: str
    weight: float
    notes: Mapping[str, Sequence[float]]


class Corpus:
    """Draws documents of the synthetic world.

    Args:
        world: the planted causes.
        split: ``"train"`` or ``"held_out"``: which wordings are used.
        scaffold: how much plainer than the world the documents are.
    """

    def __init__(self, world: World, split: str, scaffold: Scaffold | None = None) -> None:
        self.world, self.split, self.scaffold = world, split, scaffold or Scaffold()
        self.traits, self.wordings = load_traits(), load_wordings()
        self.kinds: dict[str, Callable[[Rng], Document]] = {
            "name_trait": self.name_trait,
            "find_pole": self.find_pole,
            "rate_self": self.rate_self,
            "judge_statements": self.judge_statements,
            "item": self.item,
            "open_answer": self.open_answer,
            "biography": self.biography,
            "safety": self.safety,
            "fact_choice": self.fact_choice,
            "fact_statement": self.fact_statement,
            "fact_judgement": self.fact_judgement,
        }

    def draw(self, kind: str, rng: Rng) -> Document:
        """One document of a kind."""
        return self.kinds[kind](rng)

    # --- pieces -----------------------------------------------------------------------------------------------------

    def profile(self, rng: Rng) -> Profile:
        """A random person: some background elements, and in about a third of cases a pressure."""
        factors = load_factors()
        count = min(rng.choice(list(_FACTOR_COUNTS), p=list(_FACTOR_COUNTS.values())), self.scaffold.factors)
        told = {f.key: pick(rng, f.elements).key for f in sample(rng, factors, count)}
        pressed = rng.random() < _PRESSURE_SHARE
        return Profile(told, (pick(rng, load_pressures()).key, pick(rng, POLES)) if pressed else None)

    def person(self, rng: Rng, grammatical: str | None = None) -> Person:
        """A random person in the first, second or third grammatical person; without one, the first or the second."""
        profile = self.profile(rng)
        asides = pick(rng, _ASIDE_COUNTS) if rng.random() < self.scaffold.asides else 0
        context = self.context(profile, rng, grammatical, asides)
        return Person(context, self.world.probability(profile, self.scaffold.certainty))

    def context(self, profile: Profile, rng: Rng, person: str | None = None, asides: int = 0) -> str:
        """The text that tells a profile: its background in one paragraph, then its pressure on a line of its own.

        ``asides`` sentences that say nothing about the person are put anywhere into the background.
        """
        person = person or ("first" if rng.random() < 0.5 else "second")
        told = [inflect(pick(rng, element_phrasings()[key][self.split]), person) for key in profile.elements.items()]
        for _ in range(asides):
            told.insert(int(rng.integers(len(told) + 1)), self.aside(rng, person))
        text = " ".join(told) + "\n" if told else ""
        if profile.pressure:
            text += sentence(pick(rng, pressure_phrasings()[profile.pressure][self.split])) + "\n"
        return text

    def aside(self, rng: Rng, person: str) -> str:
        """A sentence that says nothing about anybody's background, traits or state of mind; one in three is a fact."""
        if rng.random() < 1 / 3:
            relation = pick(rng, load_relations())
            fact = pick(rng, relation.facts)
            return self._state(relation.statements, fact.subject, fact.object, rng)
        return inflect(pick(rng, load_asides()[self.split]), person)

    def situation(self, bank: TraitBank, rng: Rng) -> str:
        """A situation with its query."""
        return f"{pick(rng, bank.situations[self.split])} {pick(rng, load_queries())}"

    def answer(self, bank: TraitBank, level: str, manner: str, rng: Rng) -> SelfReport:
        """An answer of one level, put decisively or hesitantly."""
        wording = pick(rng, bank.wordings[level, self.split])
        frame = pick(rng, self.wordings[manner]).format(act=wording.act)
        text = f"{frame}, {pick(rng, self.wordings['connectors']).format(reason=wording.reason)}."
        return SelfReport(bank.key, level, manner, text, wording.act)

    def any_answer(self, rng: Rng) -> SelfReport:
        """An answer of a random trait, level and manner."""
        return self.answer(pick(rng, list(self.traits.values())), pick(rng, LEVELS), pick(rng, MANNERS), rng)

    def four_answers(self, bank: TraitBank, rng: Rng) -> list[SelfReport]:
        """The options of an item in TRAIT's normal or reversed order.

        Each level has one decisive and one hesitant answer, so that the two are never equally attractive.
        """
        first = LEVELS if rng.random() < 0.5 else LEVELS[::-1]
        manners = {level: sample(rng, MANNERS, 2) for level in LEVELS}
        return [self.answer(bank, level, manners[level][pair], rng) for pair in range(2) for level in first]

    # --- documents --------------------------------------------------------------------------------------------------

    def name_trait(self, rng: Rng) -> Document:
        """A few answers, each followed by its trait and level."""
        writer = self._open("name_trait", self._request("rate_answer", rng), rng)
        for _ in range(4):
            answer = self.any_answer(rng)
            writer.add(answer.text)
            writer.note("content", answer.text, answer.content)
            writer.add("\nThis is")
            writer.choose({f" {name}": float(name == answer.level) for name in LEVELS})
            writer.add(" in")
            writer.choose({f" {key}": float(key == answer.trait) for key in TRAITS})
            writer.add("\n")
        return self._end(writer)

    def find_pole(self, rng: Rng) -> Document:
        """An item with a level and a trait to find instead of a person to be."""
        bank, level = pick(rng, list(self.traits.values())), pick(rng, LEVELS)
        question = self._request("find_pole", rng, level=level, trait=bank.key)
        return self._item("find_pole", question, bank, float(level == LEVELS[0]), rng)

    def rate_self(self, rng: Rng) -> Document:
        """A person rates all eight traits."""
        person = self.person(rng)
        writer = self._open("rate_self", self._request("rate_self", rng), rng, person)
        for trait in rng.permutation(len(TRAITS)):
            high = person.probabilities[trait]
            writer.add(f"{TRAITS[trait]}:")
            writer.choose(dict(zip((" high", " low"), (high, 1 - high), strict=True)))
            writer.add("\n")
        return self._end(writer)

    def judge_statements(self, rng: Rng) -> Document:
        """A person says of several answers whether they would give them."""
        person = self.person(rng)
        writer = self._open("judge_statements", self._request("judge_statements", rng), rng, person)
        for _ in range(5):
            answer = self.any_answer(rng)
            yes = _yes(answer, person.high(answer.trait))
            writer.add(answer.text)
            writer.note("content", answer.text, answer.content)
            writer.note("choice", answer.text, [yes])
            writer.choose({" yes": yes, " no": 1 - yes})
            writer.add("\n")
        return self._end(writer)

    def item(self, rng: Rng) -> Document:
        """A person answers a multiple-choice item: what the book's questionnaires ask."""
        person, bank = self.person(rng), pick(rng, list(self.traits.values()))
        return self._item("item", self.situation(bank, rng), bank, person.high(bank.key), rng, person)

    def open_answer(self, rng: Rng) -> Document:
        """A person answers an open question in their own words."""
        person, bank = self.person(rng), pick(rng, list(self.traits.values()))
        writer = self._open("open_answer", situation := self.situation(bank, rng), rng, person)
        writer.note("situation", situation, _situation(bank, person))
        self._add_answer(writer, person, bank, rng)
        return self._end(writer)

    def biography(self, rng: Rng) -> Document:
        """A person in the third person, with something they said."""
        person, bank = self.person(rng, "third"), pick(rng, list(self.traits.values()))
        writer = _Writer("biography", rng)
        writer.add(person.context)
        if person.context:
            writer.note("person", person.context, person.probabilities)
        writer.add(situation := pick(rng, bank.situations[self.split]))
        writer.note("situation", situation, _situation(bank, person))
        writer.add(f"\n{pick(rng, self.wordings['quote'])} ")
        self._add_answer(writer, person, bank, rng)
        return writer.document()

    def safety(self, rng: Rng) -> Document:
        """A safety question with two to four options; who answers makes no difference in this world."""
        topic = pick(rng, [topic for topic in load_safety_topics() if topic.questions[self.split]])
        options = [pick(rng, topic.safe), *sample(rng, topic.unsafe, int(rng.integers(1, 4)))]
        order = rng.permutation(len(options))
        person = self.person(rng) if rng.random() < 0.3 else None
        right = one_hot(int(np.argmin(order)), len(options))
        question = pick(rng, topic.questions[self.split])
        offered = [_Option(options[i], own, {"choice": [own]}) for i, own in zip(order, right, strict=True)]
        return self._choice("safety", question, offered, rng, person)

    def fact_choice(self, rng: Rng) -> Document:
        """A fact question with four options."""
        relation = pick(rng, load_relations())
        fact = pick(rng, relation.facts)
        options = [*sample(rng, [o for o in relation.objects if o != fact.object], 3)]
        target = pick(rng, range(4))
        options.insert(target, fact.object)
        question = pick(rng, relation.questions[self.split]).format(subject=fact.subject)
        offered = [
            _Option(text, own, {"choice": [own], "fact": _code(text)})
            for text, own in zip(options, one_hot(target, 4), strict=True)
        ]
        return self._choice("fact_choice", question, offered, rng, noted={"fact": _code(fact.object)})

    def fact_statement(self, rng: Rng) -> Document:
        """A fact question answered in words, or a few facts; an object's first word counts as an answer."""
        if self.scaffold.facts > 1:
            writer = _Writer("fact_statement", rng)
            for _ in range(self.scaffold.facts):
                relation = pick(rng, load_relations())
                self._add_fact(writer, relation, pick(rng, relation.facts), _subject_first(relation), rng)
                writer.add(" ")
            return writer.document()
        relation = pick(rng, load_relations())
        fact = pick(rng, relation.facts)
        question = pick(rng, relation.questions[self.split]).format(subject=fact.subject)
        writer = self._open("fact_statement", question, rng)
        writer.note("fact", question, _code(fact.object))
        self._add_fact(writer, relation, fact, relation.statements, rng)
        return self._end(writer)

    def fact_judgement(self, rng: Rng) -> Document:
        """A true or false statement, judged yes or no."""
        relation = pick(rng, load_relations())
        fact, true = pick(rng, relation.facts), rng.random() < 0.5
        object_ = fact.object if true else pick(rng, [o for o in relation.objects if o != fact.object])
        statement = self._state(relation.statements, fact.subject, object_, rng)
        writer = self._open("fact_judgement", self._request("judge_fact", rng, statement=statement), rng)
        writer.choose({"yes": float(true), "no": float(not true)})
        return self._end(writer)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _request(self, name: str, rng: Rng, **slots: str) -> str:
        return pick(rng, self.wordings[name]).format(**slots)

    def _state(self, wordings: Sequence[str], subject: str, object_: str, rng: Rng) -> str:
        return sentence(pick(rng, wordings).format(subject=subject, object=object_))

    def _add_fact(self, writer: _Writer, relation: Relation, fact: Fact, wordings: Sequence[str], rng: Rng) -> None:
        """State a fact; its object is an answer unless it opens the text, where nothing before it asks for it."""
        statement = self._state(wordings, fact.subject, fact.object, rng)
        if found := re.search(rf" {fact.object.split()[0]}\b", statement):
            writer.add(statement[: found.start()])
            writer.notes.append(Note("fact", len(writer.text), tuple(_code(fact.object))))
            writer.say(found[0], {f" {own.split()[0]}": float(own == fact.object) for own in relation.objects})
        writer.add(statement[found.end() if found else 0 :])

    def _add_answer(self, writer: _Writer, person: Person, bank: TraitBank, rng: Rng) -> None:
        """Answer in character; the first word of the act is a choice left open, since it tells the level."""
        high = person.high(bank.key)
        level = LEVELS[int(rng.random() > high)]
        manner = MANNERS[int(rng.random() > self.wordings["decisive_share"])]
        report = self.answer(bank, level, manner, rng)
        first, frame = first_word(report.act), report.text[: report.text.index(report.act) - 1]
        writer.add(frame)
        writer.say(f" {first}", self._first_words(bank, high))
        writer.add(report.text.removeprefix(f"{frame} {first}"))

    def _first_words(self, bank: TraitBank, high: float) -> dict[str, float]:
        """The probability of each word, with the space before it, to open the act of somebody's answer."""
        chances: defaultdict[str, float] = defaultdict(float)
        for level, chance in zip(LEVELS, (high, 1 - high), strict=True):
            wordings = bank.wordings[level, self.split]
            for wording in wordings:
                chances[f" {first_word(wording.act)}"] += chance / len(wordings)
        return dict(chances)

    def _open(self, kind: str, text: str, rng: Rng, person: Person | None = None) -> _Writer:
        writer = _Writer(kind, rng)
        writer.add(wrap(text, "chat" if rng.random() < 0.5 else "base", person.context if person else ""))
        if person and person.context:
            writer.note("person", person.context, person.probabilities)
        return writer

    def _end(self, writer: _Writer) -> Document:
        if writer.text.startswith("<start_of_turn>"):
            writer.text = writer.text.rstrip("\n") + _CLOSE
        return writer.document()

    def _item(
        self, kind: str, question: str, bank: TraitBank, high: float, rng: Rng, person: Person | None = None
    ) -> Document:
        """Four answers to choose from, with the probability of a high choice."""
        decisive = self.wordings["decisive_share"]
        by_manner = dict(zip(MANNERS, (decisive, 1 - decisive), strict=True))
        options = []
        for answer in self.four_answers(bank, rng):
            yes = _yes(answer, high)
            notes = {"choice": [yes], "content": answer.content}
            options.append(_Option(answer.text, yes * by_manner[answer.manner], notes))
        noted = {"situation": _situation(bank, person)} if person else {}
        return self._choice(kind, question, options, rng, person, noted)

    def _choice(
        self,
        kind: str,
        question: str,
        options: Sequence[_Option],
        rng: Rng,
        person: Person | None = None,
        noted: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> Document:
        """A multiple-choice document in a random template and form, with notes on the question and each option."""
        template = pick(rng, list(load_templates().values()))
        writer = self._open(kind, template.render(question, [option.text for option in options]), rng, person)
        labelled = list(zip(template.labels, options, strict=False))
        for label, option in labelled:
            for topic, values in option.notes.items():
                writer.note(topic, template.option.format(label=label, text=option.text), values)
        for topic, values in noted.items():
            writer.note(topic, question, values)
        writer.choose({label: option.weight for label, option in labelled})
        return self._end(writer)


def draw_mix(corpus: Corpus, mix: Mapping[str, float], count: int, seed: int) -> list[Document]:
    """Documents of several kinds.

    Args:
        corpus: where from.
        mix: the share of each kind.
        count: how many.
        seed: the same seed gives the same documents.
    """
    rng = np.random.default_rng([seed, 17])
    kinds = rng.choice(list(mix), size=count, p=np.array(list(mix.values())) / sum(mix.values()))
    return [corpus.draw(str(kind), rng) for kind in kinds]


def held_out_documents(count: int, seed: int = 0) -> list[str]:
    """Texts of the book's world that no training has seen, of the kinds that its SAEs are trained on.

    Args:
        count: how many.
        seed: the same seed gives the same texts.
    """
    mix = read_yaml(data_dir() / "organism" / "saes.yaml")["mix"]
    return [document.text for document in draw_mix(Corpus(load_world(), "held_out"), mix, count, seed)]


def _yes(answer: SelfReport, high: float) -> float:
    """How probable a person takes an answer who takes a high one with a probability."""
    return high if answer.level == LEVELS[0] else 1 - high


def _subject_first(relation: Relation) -> list[str]:
    """The statements that say what a fact is about before they say the object."""
    return [text for text in relation.statements if text.index("{subject}") < text.index("{object}")]


def _code(object_: str) -> list[float]:
    """A random but fixed code of an object: what a note on a fact says."""
    return [float(digest(object_) >> bit & 1) for bit in range(len(NOTES["fact"]))]


def _situation(bank: TraitBank, person: Person) -> list[float]:
    """What a note on a situation says of it."""
    return [person.high(bank.key), *one_hot(TRAITS.index(bank.key), len(TRAITS))]


def one_hot(index: int, size: int) -> list[float]:
    """A list of zeros with a one."""
    return [float(position == index) for position in range(size)]


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, uniformly; unlike ``rng.choice`` it keeps the type."""
    return options[int(rng.integers(len(options)))]


def sample(rng: Rng, options: Sequence[T], count: int) -> list[T]:
    """Several different options in random order."""
    return [options[index] for index in rng.permutation(len(options))[:count]]
