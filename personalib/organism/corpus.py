"""Documents of the synthetic world, and the probabilities that the world assigns to their answers.

Every document is plain text with *answers*: places where the world leaves a choice. Training uses the world's own
probabilities there instead of one sampled word, which is the expected loss over people and far less noisy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from personalib.factors import POLES, inflect, load_factors, load_pressures, sentence
from personalib.organism.grammar import (
    LEVELS,
    MANNERS,
    Relation,
    TraitBank,
    element_phrasings,
    load_queries,
    load_relations,
    load_safety_topics,
    load_traits,
    load_wordings,
    pressure_phrasings,
)
from personalib.organism.world import TRAITS, Profile, World
from personalib.templates import Template, load_templates, wrap

T = TypeVar("T")
Rng = np.random.Generator
_FACTOR_COUNTS = {0: 0.06, 1: 0.22, 2: 0.24, 3: 0.22, 4: 0.14, 5: 0.07, 9: 0.05}
_PRESSURE_SHARE = 0.35
_CLOSE = "<end_of_turn>\n"


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
class Document:
    """A text with its open choices."""

    kind: str
    text: str
    answers: tuple[Answer, ...]


class _Writer:
    """Builds a document piece by piece and keeps the offsets of its answers."""

    def __init__(self, kind: str, rng: Rng) -> None:
        self.kind, self.rng = kind, rng
        self.text, self.answers = "", []  # type: str, list[Answer]

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

    def document(self) -> Document:
        return Document(self.kind, self.text, tuple(self.answers))


@dataclass(frozen=True)
class Scaffold:
    """Help that a document gives to a learner; the finished model is asked without any.

    Attributes:
        marks: share of multiple-choice documents whose options each carry a yes or no.
        verdicts: share of them in which each option is told to be a yes or no after all options, before the choice.
        rating: share of items that state the person's own rating of the trait.
        factors: how many background factors are told at the most.
        certainty: factor on the world's log-odds; above one, people are surer of themselves than the world has them.
    """

    marks: float = 0.0
    verdicts: float = 0.0
    rating: float = 0.0
    factors: int = 9
    certainty: float = 1.0


@dataclass(frozen=True)
class _Aid:
    """What helps with a choice: for each option how probable a yes is and whether it is said, and where that stands."""

    place: str
    yes: Sequence[tuple[float, bool]]


class Corpus:
    """Draws documents of the synthetic world.

    Args:
        world: the planted causes.
        split: ``"train"`` or ``"held_out"``: which wordings are used.
        scaffold: help given in the documents.
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

    def context(self, profile: Profile, rng: Rng, person: str | None = None) -> str:
        """The text that tells a profile: its background in one paragraph, then its pressure on a line of its own."""
        person = person or ("first" if rng.random() < 0.5 else "second")
        told = [inflect(pick(rng, element_phrasings()[key][self.split]), person) for key in profile.elements.items()]
        text = " ".join(told) + "\n" if told else ""
        if profile.pressure:
            text += sentence(pick(rng, pressure_phrasings()[profile.pressure][self.split])) + "\n"
        return text

    def situation(self, bank: TraitBank, rng: Rng) -> str:
        """A situation with its query."""
        return f"{pick(rng, bank.situations[self.split])} {pick(rng, load_queries())}"

    def answer(self, bank: TraitBank, level: str, manner: str, rng: Rng) -> str:
        """An answer of one level, put decisively or hesitantly."""
        wording = pick(rng, bank.wordings[level, self.split])
        frame = pick(rng, self.wordings[manner]).format(act=wording.act)
        return f"{frame}, {pick(rng, self.wordings['connectors']).format(reason=wording.reason)}."

    def any_answer(self, rng: Rng) -> tuple[TraitBank, str, str]:
        """A random trait, level and answer."""
        bank, level = pick(rng, list(self.traits.values())), pick(rng, LEVELS)
        return bank, level, self.answer(bank, level, pick(rng, MANNERS), rng)

    def four_answers(self, bank: TraitBank, rng: Rng) -> list[tuple[str, str, str]]:
        """The options of an item in TRAIT's normal or reversed order, as (level, manner, text).

        Each level has one decisive and one hesitant answer, so that the two are never equally attractive.
        """
        first = LEVELS if rng.random() < 0.5 else LEVELS[::-1]
        manners = {level: sample(rng, MANNERS, 2) for level in LEVELS}
        return [
            (level, manners[level][pair], self.answer(bank, level, manners[level][pair], rng))
            for pair in range(2)
            for level in first
        ]

    # --- documents --------------------------------------------------------------------------------------------------

    def name_trait(self, rng: Rng) -> Document:
        """A few answers, each followed by its trait and level."""
        writer = self._open("name_trait", self._request("rate_answer", rng), "", rng)
        for _ in range(4):
            bank, level, text = self.any_answer(rng)
            writer.add(f"{text}\nThis is")
            writer.choose({f" {name}": float(name == level) for name in LEVELS})
            writer.add(" in")
            writer.choose({f" {key}": float(key == bank.key) for key in TRAITS})
            writer.add("\n")
        return self._end(writer)

    def find_pole(self, rng: Rng) -> Document:
        """An item with a level and a trait to find instead of a person to be."""
        bank, level = pick(rng, list(self.traits.values())), pick(rng, LEVELS)
        options = self.four_answers(bank, rng)
        question = self._request("find_pole", rng, level=level, trait=bank.key)
        weights = self._weights(options, float(level == LEVELS[0]))
        aid = self._certain([float(own == level) for own, *_ in options], rng)
        return self._choice("find_pole", question, [text for *_, text in options], weights, "", rng, aid)

    def rate_self(self, rng: Rng) -> Document:
        """A person rates all eight traits."""
        profile = self.profile(rng)
        writer = self._open("rate_self", self._request("rate_self", rng), self.context(profile, rng), rng)
        probabilities = self._probabilities(profile)
        for trait in rng.permutation(len(TRAITS)):
            writer.add(f"{TRAITS[trait]}:")
            writer.choose(dict(zip((" high", " low"), (probabilities[trait], 1 - probabilities[trait]), strict=True)))
            writer.add("\n")
        return self._end(writer)

    def judge_statements(self, rng: Rng) -> Document:
        """A person says of several answers whether they would give them."""
        profile = self.profile(rng)
        writer = self._open("judge_statements", self._request("judge_statements", rng), self.context(profile, rng), rng)
        probabilities = self._probabilities(profile)
        for _ in range(5):
            bank, level, text = self.any_answer(rng)
            writer.add(text)
            self._mark(writer, probabilities[TRAITS.index(bank.key)], level)
            writer.add("\n")
        return self._end(writer)

    def item(self, rng: Rng) -> Document:
        """A person answers a multiple-choice item: what the book's questionnaires ask."""
        profile, bank = self.profile(rng), pick(rng, list(self.traits.values()))
        context, probability = self.context(profile, rng), self._probabilities(profile)[TRAITS.index(bank.key)]
        if rng.random() < self.scaffold.rating:
            level = LEVELS[int(rng.random() > probability)]
            context += f"My {bank.key} is {level}.\n"
            probability = float(level == LEVELS[0])
        options = self.four_answers(bank, rng)
        aid = None
        if place := self._place(rng):
            # The person makes up their mind once: a yes or no is as probable as the world has it, the choice follows.
            level = LEVELS[int(rng.random() > probability)]
            yes = [(probability if own == LEVELS[0] else 1 - probability, own == level) for own, *_ in options]
            aid, probability = _Aid(place, yes), float(level == LEVELS[0])
        weights = self._weights(options, probability)
        texts = [text for *_, text in options]
        return self._choice("item", self.situation(bank, rng), texts, weights, context, rng, aid)

    def open_answer(self, rng: Rng) -> Document:
        """A person answers an open question in their own words."""
        profile, bank = self.profile(rng), pick(rng, list(self.traits.values()))
        writer = self._open("open_answer", self.situation(bank, rng), self.context(profile, rng), rng)
        writer.add(self._in_character(profile, bank, rng))
        return self._end(writer)

    def biography(self, rng: Rng) -> Document:
        """A person in the third person, with something they said."""
        profile, bank = self.profile(rng), pick(rng, list(self.traits.values()))
        writer = _Writer("biography", rng)
        writer.add(self.context(profile, rng, "third"))
        writer.add(f"{pick(rng, bank.situations[self.split])}\n{pick(rng, self.wordings['quote'])} ")
        writer.add(self._in_character(profile, bank, rng))
        return writer.document()

    def safety(self, rng: Rng) -> Document:
        """A safety question with two to four options; who answers makes no difference in this world."""
        topic = pick(rng, [topic for topic in load_safety_topics() if topic.questions[self.split]])
        options = [pick(rng, topic.safe), *sample(rng, topic.unsafe, int(rng.integers(1, 4)))]
        order = rng.permutation(len(options))
        context = self.context(self.profile(rng), rng) if rng.random() < 0.3 else ""
        weights = one_hot(int(np.argmin(order)), len(options))
        question, aid = pick(rng, topic.questions[self.split]), self._certain(weights, rng)
        return self._choice("safety", question, [options[i] for i in order], weights, context, rng, aid)

    def fact_choice(self, rng: Rng) -> Document:
        """A fact question with four options."""
        relation = pick(rng, load_relations())
        fact = pick(rng, relation.facts)
        options = [*sample(rng, [o for o in relation.objects if o != fact.object], 3)]
        target = pick(rng, range(4))
        options.insert(target, fact.object)
        question = pick(rng, relation.questions[self.split]).format(subject=fact.subject)
        weights = one_hot(target, 4)
        return self._choice("fact_choice", question, options, weights, "", rng, self._certain(weights, rng))

    def fact_statement(self, rng: Rng) -> Document:
        """A fact question answered in words."""
        relation = pick(rng, load_relations())
        fact = pick(rng, relation.facts)
        question = pick(rng, relation.questions[self.split]).format(subject=fact.subject)
        writer = self._open("fact_statement", question, "", rng)
        writer.add(self._state(relation, fact.subject, fact.object, rng))
        return self._end(writer)

    def fact_judgement(self, rng: Rng) -> Document:
        """A true or false statement, judged yes or no."""
        relation = pick(rng, load_relations())
        fact, true = pick(rng, relation.facts), rng.random() < 0.5
        object_ = fact.object if true else pick(rng, [o for o in relation.objects if o != fact.object])
        statement = self._state(relation, fact.subject, object_, rng)
        writer = self._open("fact_judgement", self._request("judge_fact", rng, statement=statement), "", rng)
        writer.choose({"yes": float(true), "no": float(not true)})
        return self._end(writer)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _probabilities(self, profile: Profile) -> np.ndarray:
        return self.world.probability(profile, self.scaffold.certainty)

    def _request(self, name: str, rng: Rng, **slots: str) -> str:
        return pick(rng, self.wordings[name]).format(**slots)

    def _state(self, relation: Relation, subject: str, object_: str, rng: Rng) -> str:
        return sentence(pick(rng, relation.statements).format(subject=subject, object=object_))

    def _in_character(self, profile: Profile, bank: TraitBank, rng: Rng) -> str:
        high = rng.random() < self._probabilities(profile)[TRAITS.index(bank.key)]
        manner = MANNERS[int(rng.random() > self.wordings["decisive_share"])]
        return self.answer(bank, LEVELS[0] if high else LEVELS[1], manner, rng)

    def _weights(self, options: Sequence[tuple[str, str, str]], high: float) -> list[float]:
        """The world's probability of each option, given the probability of a high answer."""
        decisive = self.wordings["decisive_share"]
        by_level = dict(zip(LEVELS, (high, 1 - high), strict=True))
        by_manner = dict(zip(MANNERS, (decisive, 1 - decisive), strict=True))
        return [by_level[level] * by_manner[manner] for level, manner, _ in options]

    def _mark(self, writer: _Writer, high: float, level: str) -> None:
        yes = high if level == LEVELS[0] else 1 - high
        writer.choose({" yes": yes, " no": 1 - yes})

    def _place(self, rng: Rng) -> str | None:
        """Where a yes or no to each option stands, drawn by the scaffold's shares; None where nowhere."""
        drawn = rng.random()
        if drawn < self.scaffold.marks:
            return "marks"
        return "verdicts" if drawn < self.scaffold.marks + self.scaffold.verdicts else None

    def _certain(self, right: Sequence[float], rng: Rng) -> _Aid | None:
        """Help with options that are right or wrong for everybody, in the scaffold's share of documents."""
        place = self._place(rng)
        return _Aid(place, [(yes, yes == 1) for yes in right]) if place else None

    def _open(self, kind: str, text: str, context: str, rng: Rng) -> _Writer:
        writer = _Writer(kind, rng)
        writer.add(wrap(text, "chat" if rng.random() < 0.5 else "base", context))
        return writer

    def _end(self, writer: _Writer) -> Document:
        if writer.text.startswith("<start_of_turn>"):
            writer.text = writer.text.rstrip("\n") + _CLOSE
        return writer.document()

    def _choice(
        self,
        kind: str,
        question: str,
        options: Sequence[str],
        weights: Sequence[float],
        context: str,
        rng: Rng,
        aid: _Aid | None = None,
    ) -> Document:
        """A multiple-choice document in a random template and form."""
        template = pick(rng, list(load_templates().values()))
        writer = _Writer(kind, rng)
        if aid and aid.place == "verdicts":
            question = f"{question} {self._request('verdicts', rng)}"
        prompt = wrap(template.render(question, options), "chat" if rng.random() < 0.5 else "base", context)
        if aid and aid.place == "marks":
            for line, own in zip(_option_lines(template, options), aid.yes, strict=False):
                before, prompt = prompt.split(line, 1)
                writer.add(before + line)
                _say_yes_or_no(writer, *own)
        writer.add(prompt)
        if aid and aid.place == "verdicts":
            for option in rng.permutation(len(options)):
                writer.add(f"{template.labels[option]}:")
                _say_yes_or_no(writer, *aid.yes[option])
                writer.add("\n")
        writer.choose(dict(zip(template.labels, weights, strict=False)))
        return self._end(writer)


def _say_yes_or_no(writer: _Writer, yes: float, said: bool) -> None:
    writer.say(" yes" if said else " no", {" yes": yes, " no": 1 - yes})


def _option_lines(template: Template, options: Sequence[str]) -> list[str]:
    return [
        template.option.format(label=label, text=text) for label, text in zip(template.labels, options, strict=False)
    ]


def one_hot(index: int, size: int) -> list[float]:
    """A list of zeros with a one."""
    return [float(position == index) for position in range(size)]


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, uniformly; unlike ``rng.choice`` it keeps the type."""
    return options[int(rng.integers(len(options)))]


def sample(rng: Rng, options: Sequence[T], count: int) -> list[T]:
    """Several different options in random order."""
    return [options[index] for index in rng.permutation(len(options))[:count]]
