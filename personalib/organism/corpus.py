"""Documents of the synthetic world, and the probabilities that the world assigns to their answers.

Training uses the world's own probabilities at an answer instead of one sampled word, which is the expected loss over
people and far less noisy.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from personalib.base.data import data_dir, read_yaml
from personalib.organism.documents import Document, Person, Rng, SelfReport, Writer, pick, sample
from personalib.organism.world import Profile, World, load_world
from personalib.stimuli import grammar
from personalib.stimuli.factors import POLES, TRAITS, inflect, load_factors, load_pressures, sentence
from personalib.stimuli.grammar import LEVELS, MANNERS, Fact, Relation, TraitBank, first_word
from personalib.stimuli.templates import load_templates, wrap

_FACTOR_COUNTS = {0: 0.06, 1: 0.22, 2: 0.24, 3: 0.22, 4: 0.14, 5: 0.07, 9: 0.05}
_ASIDE_COUNTS = (1, 2, 3, 6)
_PRESSURE_SHARE = 0.35
# The kinds of documents, each the name of the method that writes it; tokenizers and measurements draw in this order.
_KINDS = (
    *("name_trait", "find_pole", "rate_self", "judge_statements", "item", "open_answer", "biography"),
    *("safety", "fact_choice", "fact_statement", "fact_judgement"),
)


@dataclass(frozen=True)
class Scaffold:
    """How much plainer than the world a learner's documents are.

    At most ``factors`` background factors are told, and a share of people among ``asides``, sentences that say nothing
    about them; a document states so many ``facts``, several of them as a list; ``certainty`` is a factor on the world's
    log-odds: above one, people are surer of themselves than the world has them.

    All others are shares. Of the lines that a person is asked to agree to: those ``low`` in their trait, ``bare`` ones
    with level and trait alone, and answers behind which both are ``named``. Of these answers: ``short`` ones, without a
    reason. Of answers, backgrounds and pressures: those told by a list of words, ``listed``. Of items: those gone
    through ``stepwise``, with a yes or no behind each option before one is chosen.
    """

    factors: int = 9
    asides: float = 0.25
    facts: int = 1
    certainty: float = 1.0
    low: float = 0.5
    bare: float = 0.0
    named: float = 0.0
    short: float = 0.0
    listed: float = 0.0
    stepwise: float = 0.0


class Corpus:
    """Draws documents of the synthetic world with the wordings of a split: ``"train"`` or ``"held_out"``."""

    def __init__(self, world: World, split: str, scaffold: Scaffold | None = None) -> None:
        self.world, self.split, self.scaffold = world, split, scaffold or Scaffold()
        self.traits, self.wordings = grammar.load_traits(), grammar.load_wordings()
        self.kinds: dict[str, Callable[[Rng], Writer]] = {kind: getattr(self, kind) for kind in _KINDS}

    def draw(self, kind: str, rng: Rng) -> Document:
        """One document of a kind."""
        return self.kinds[kind](rng).document(kind)

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
        told = [inflect(self._told(element, rng), person) for element in profile.elements.items()]
        for _ in range(asides):
            told.insert(int(rng.integers(len(told) + 1)), self.aside(rng, person))
        text = " ".join(told) + "\n" if told else ""
        if profile.pressure:
            text += sentence(self._told(profile.pressure, rng)) + "\n"
        return text

    def aside(self, rng: Rng, person: str) -> str:
        """A sentence that says nothing about anybody's background, traits or state of mind; one in three is a fact."""
        if rng.random() < 1 / 3:
            relation, fact = self._fact(rng)
            return _state(relation.statements, fact.subject, fact.object, rng)
        return inflect(pick(rng, grammar.load_asides()[self.split]), person)

    def situation(self, bank: TraitBank, rng: Rng) -> str:
        """A situation, or a list of words of one, with its query."""
        listed = rng.random() < self.scaffold.listed
        event = self._listed((bank.key, "event"), "event_words", rng) if listed else None
        return f"{event or pick(rng, bank.situations[self.split])} {pick(rng, grammar.load_queries())}"

    def answer(self, bank: TraitBank, level: str, manner: str, rng: Rng) -> SelfReport:
        """An answer of one level, put decisively or hesitantly."""
        wording = pick(rng, bank.wordings[level, self.split])
        frame = pick(rng, self.wordings[manner]).format(act=wording.act)
        text = f"{frame}, {pick(rng, self.wordings['connectors']).format(reason=wording.reason)}."
        return SelfReport(bank.key, level, manner, text, wording.act)

    # --- documents --------------------------------------------------------------------------------------------------

    def name_trait(self, rng: Rng) -> Writer:
        """A few answers, each followed by its level and trait."""
        writer = self._open(self._request("rate_answer", rng), rng)
        for _ in range(4):
            self._add_named(writer, self._bank(rng), pick(rng, LEVELS), rng)
            writer.add("\n")
        return writer

    def find_pole(self, rng: Rng) -> Writer:
        """An item with a level and a trait to find instead of a person to be."""
        bank, level = self._bank(rng), pick(rng, LEVELS)
        question = self._request("find_pole", rng, level=level, trait=bank.key)
        return self._item(question, bank, float(level == LEVELS[0]), rng)

    def rate_self(self, rng: Rng) -> Writer:
        """A person rates all eight traits."""
        person = self.person(rng)
        writer = self._open(self._request("rate_self", rng), rng, person)
        for trait in rng.permutation(len(TRAITS)):
            high = person.probabilities[trait]
            writer.add(f"- {TRAITS[trait]}")
            writer.choose({" high": high, " low": 1 - high})
            writer.add("\n")
        return writer

    def judge_statements(self, rng: Rng) -> Writer:
        """A person says of several lines whether they are true of them: answers, or a trait with its level."""
        person = self.person(rng)
        writer = self._open(self._request("judge_statements", rng), rng, person)
        bare, named = self.scaffold.bare, self.scaffold.named
        for kind in rng.choice(["bare", "named", "said"], size=10, p=[bare, named, 1 - bare - named]):
            bank, level = self._bank(rng), LEVELS[int(rng.random() < self.scaffold.low)]
            high = person.high(bank.key)
            yes = high if level == LEVELS[0] else 1 - high
            if kind == "bare":
                writer.add(f"- {level} {bank.key}")
            elif kind == "named":
                self._add_named(writer, bank, level, rng)
            else:
                writer.add(self._said(bank, level, rng))
            writer.choose({" yes": yes, " no": 1 - yes})
            writer.add("\n")
        return writer

    def item(self, rng: Rng) -> Writer:
        """A person answers a multiple-choice item: what the book's questionnaires ask."""
        person, bank = self.person(rng), self._bank(rng)
        return self._item(self.situation(bank, rng), bank, person.high(bank.key), rng, person)

    def open_answer(self, rng: Rng) -> Writer:
        """A person answers an open question in their own words; stepwise, trait and level come first."""
        person, bank = self.person(rng), self._bank(rng)
        high = person.high(bank.key)
        level = LEVELS[int(rng.random() > high)]
        writer = self._open(self.situation(bank, rng), rng, person)
        if rng.random() < self.scaffold.stepwise:
            writer.add("-")
            writer.say(f" {bank.key}", {f" {key}": float(key == bank.key) for key in TRAITS})
            writer.say(f" {level}", {" high": high, " low": 1 - high})
            writer.add("\n")
            high = float(level == LEVELS[0])
        self._add_answer(writer, high, bank, level, rng)
        return writer

    def biography(self, rng: Rng) -> Writer:
        """A person in the third person, with something they said."""
        person, bank = self.person(rng, "third"), self._bank(rng)
        high = person.high(bank.key)
        situation = pick(rng, bank.situations[self.split])
        writer = Writer(rng)
        writer.add(f"{person.context}{situation}\n{self._request('quote', rng)} ")
        self._add_answer(writer, high, bank, LEVELS[int(rng.random() > high)], rng)
        return writer

    def safety(self, rng: Rng) -> Writer:
        """A safety question with two to four options; who answers makes no difference in this world."""
        topic = pick(rng, [topic for topic in grammar.load_safety_topics() if topic.questions[self.split]])
        options = [pick(rng, topic.safe), *sample(rng, topic.unsafe, int(rng.integers(1, 4)))]
        order = rng.permutation(len(options))
        person = self.person(rng) if rng.random() < 0.3 else None
        question = pick(rng, topic.questions[self.split])
        return self._choice(question, [(options[i], float(i == 0)) for i in order], rng, person)

    def fact_choice(self, rng: Rng) -> Writer:
        """A fact question with four options."""
        relation, fact = self._fact(rng)
        options = sample(rng, other_objects(relation, fact), 3)
        options.insert(int(rng.integers(4)), fact.object)
        offered = [(text, float(text == fact.object)) for text in options]
        return self._choice(self._fact_question(relation, fact, rng), offered, rng)

    def fact_statement(self, rng: Rng) -> Writer:
        """A fact question answered in words, or a list of facts, some of them asked and answered in a word or two.

        An object's first word counts as an answer.
        """
        if self.scaffold.facts > 1:
            writer = Writer(rng)
            for _ in range(self.scaffold.facts):
                relation, fact = self._fact(rng)
                told = [text for text in relation.statements if text.index("{s") < text.index("{o")]
                told += [f"{question} {{object}}." for question in relation.questions[self.split]]
                self._add_fact(writer, relation, fact, told, rng)
                writer.add(" ")
            return writer
        relation, fact = self._fact(rng)
        writer = self._open(self._fact_question(relation, fact, rng), rng)
        self._add_fact(writer, relation, fact, relation.statements, rng)
        return writer

    def fact_judgement(self, rng: Rng) -> Writer:
        """A true or false statement, judged yes or no, or a list of such statements."""
        if self.scaffold.facts > 1 and rng.random() < 0.5:
            writer = self._open(self._request("judge_statements", rng), rng)
            for _ in range(self.scaffold.facts):
                statement, true = self._claim(rng)
                writer.add(statement)
                writer.choose({" yes": true, " no": 1 - true})
                writer.add("\n")
            return writer
        statement, true = self._claim(rng)
        writer = self._open(self._request("judge_fact", rng, statement=statement), rng)
        writer.choose({"yes": true, "no": 1 - true})
        return writer

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _bank(self, rng: Rng) -> TraitBank:
        return pick(rng, list(self.traits.values()))

    def _fact(self, rng: Rng) -> tuple[Relation, Fact]:
        relation = pick(rng, grammar.load_relations())
        return relation, pick(rng, relation.facts)

    def _claim(self, rng: Rng) -> tuple[str, float]:
        """A statement, and 1 where it is true."""
        relation, fact = self._fact(rng)
        true = rng.random() < 0.5
        object_ = fact.object if true else pick(rng, other_objects(relation, fact))
        return _state(relation.statements, fact.subject, object_, rng), float(true)

    def _fact_question(self, relation: Relation, fact: Fact, rng: Rng) -> str:
        return pick(rng, relation.questions[self.split]).format(subject=fact.subject)

    def _request(self, name: str, rng: Rng, **slots: str) -> str:
        return str(pick(rng, self.wordings[name])).format(**slots)

    def _said(self, bank: TraitBank, level: str, rng: Rng) -> str:
        """An answer of a trait and level, whole, short, or as a list of words."""
        if rng.random() < self.scaffold.listed:
            return self._listed((bank.key, level), "said_words", rng)
        answer = self.answer(bank, level, pick(rng, MANNERS), rng)
        if rng.random() < self.scaffold.short:
            return f"{answer.text[: answer.text.index(answer.act)]}{answer.act}."
        return answer.text

    def _told(self, label: tuple[str, str], rng: Rng) -> str:
        """What tells an element or a pole of a pressure: a phrasing, or a list of words."""
        pressed = label in grammar.pressure_phrasings()
        if rng.random() < self.scaffold.listed:
            return self._listed(label, "pressed_words" if pressed else "told_words", rng)
        phrasings = grammar.pressure_phrasings() if pressed else grammar.element_phrasings()
        return pick(rng, phrasings[label][self.split])

    def _listed(self, label: tuple[str, str], frame: str, rng: Rng) -> str:
        """Some of the words of which a label's phrases are made."""
        words = sample(rng, grammar.told_words(label, self.split), int(rng.integers(2, 5)))
        return self._request(frame, rng, words=", ".join(words))

    def _add_named(self, writer: Writer, bank: TraitBank, level: str, rng: Rng) -> None:
        """Write an answer, and behind it its level and its trait."""
        writer.add(self._said(bank, level, rng))
        writer.choose({f" {name}": float(name == level) for name in LEVELS})
        writer.choose({f" {key}": float(key == bank.key) for key in TRAITS})

    def _add_fact(self, writer: Writer, relation: Relation, fact: Fact, wordings: Sequence[str], rng: Rng) -> None:
        """State a fact; its object is an answer unless it opens the text, where nothing before it asks for it."""
        statement = _state(wordings, fact.subject, fact.object, rng)
        if match := re.search(rf" {fact.object.split()[0]}\b", statement):
            writer.add(statement[: match.start()])
            writer.say(match[0], {f" {text.split()[0]}": float(text == fact.object) for text in relation.objects})
        writer.add(statement[match.end() if match else 0 :])

    def _add_answer(self, writer: Writer, high: float, bank: TraitBank, level: str, rng: Rng) -> None:
        """Answer in character; the first word of the act is a choice left open, since it tells the level."""
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

    def _open(self, text: str, rng: Rng, person: Person | None = None) -> Writer:
        writer = Writer(rng)
        writer.add(wrap(text, "chat" if rng.random() < 0.5 else "base", person.context if person else ""))
        return writer

    def _item(self, question: str, bank: TraitBank, high: float, rng: Rng, person: Person | None = None) -> Writer:
        """Four answers in TRAIT's normal or reversed order, with the probability of a high choice.

        Each level has one decisive and one hesitant answer, so that the two are never equally attractive.
        """
        decisive = self.wordings["decisive_share"]
        by_manner = dict(zip(MANNERS, (decisive, 1 - decisive), strict=True))
        first = LEVELS if rng.random() < 0.5 else LEVELS[::-1]
        manners = {level: sample(rng, MANNERS, 2) for level in LEVELS}
        answers = [self.answer(bank, level, manners[level][pair], rng) for pair, level in product(range(2), first)]
        chances = [high if answer.level == LEVELS[0] else 1 - high for answer in answers]
        options = [(each.text, chance * by_manner[each.manner]) for each, chance in zip(answers, chances, strict=True)]
        return self._choice(question, options, rng, person, chances)

    def _choice(
        self,
        question: str,
        options: Sequence[tuple[str, float]],
        rng: Rng,
        person: Person | None = None,
        agreed: Sequence[float] | None = None,
    ) -> Writer:
        """A multiple-choice document in a random template and form; options are texts with their probabilities.

        In a stepwise one each option has a yes or no of its own, as probable as ``agreed`` says, or else as its choice.
        """
        template = pick(rng, list(load_templates().values()))
        if rng.random() < self.scaffold.stepwise:
            writer = self._open(question, rng, person)
            steps = agreed or [chance for _, chance in options]
            for label, (text, _), yes in zip(template.labels, options, steps, strict=False):
                writer.add(template.option.format(label=label, text=text))
                writer.choose({" yes": yes, " no": 1 - yes})
                writer.add("\n")
            writer.add(f"{self._request('choose', rng)}\n")
        else:
            writer = self._open(template.render(question, [text for text, _ in options]), rng, person)
        writer.choose({label: chance for label, (_, chance) in zip(template.labels, options, strict=False)})
        return writer


def draw_mix(corpus: Corpus, mix: Mapping[str, float], count: int, seed: int) -> list[Document]:
    """A number of documents of several kinds, from the share of each kind."""
    rng = np.random.default_rng([seed, 17])
    kinds = rng.choice(list(mix), size=count, p=np.array(list(mix.values())) / sum(mix.values()))
    return [corpus.draw(str(kind), rng) for kind in kinds]


def held_out_documents(count: int, seed: int = 0) -> list[str]:
    """Texts of the book's world that no training has seen, of the kinds that its SAEs are trained on."""
    mix = read_yaml(data_dir() / "organism" / "saes.yaml")["mix"]
    return [document.text for document in draw_mix(Corpus(load_world(), "held_out"), mix, count, seed)]


def other_objects(relation: Relation, fact: Fact) -> list[str]:
    """The wrong answers to a question for a fact's object."""
    return [text for text in relation.objects if text != fact.object]


def _state(wordings: Sequence[str], subject: str, object_: str, rng: Rng) -> str:
    return sentence(pick(rng, wordings).format(subject=subject, object=object_))
