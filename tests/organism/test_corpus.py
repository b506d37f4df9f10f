"""Documents say what the world says: their answers, how likely they are, and how they are laid out."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy import stats

from organism.conftest import KINDS
from personalib.base.data import data_dir, read_yaml
from personalib.organism.corpus import Corpus, Scaffold, draw_mix, held_out_documents
from personalib.organism.world import Profile
from personalib.stimuli import grammar
from personalib.stimuli.factors import TRAITS, inflect, sentence
from personalib.stimuli.grammar import LEVELS

CHOICES = ("find_pole", "item", "safety", "fact_choice")
OPTION = re.compile(r"^(?:[A-D]\.|[A-D]\)|[1-4]\)) (.+?)(?:<end_of_turn>)?$", re.MULTILINE)
# What the committed organism has learned from; the wordings' file must say the same.
DECISIVE = 0.75


class Spy(Corpus):
    """A corpus that remembers the person of its last document."""

    def profile(self, rng):
        self.seen = super().profile(rng)
        return self.seen


def options_of(text):
    """The option texts of a multiple-choice document."""
    return OPTION.findall(text)


def chosen(document, answer):
    """The candidate that a document shows at an answer's place."""
    told = document.text[answer.start :]
    (found,) = [text for text in answer.probabilities if re.match(rf"{re.escape(text)}\b", told)]
    return found


def level_chance(world, person, trait, level="high"):
    """The world's probability that a person answers with a level of a trait."""
    high = world.probability(person)[TRAITS.index(trait)]
    return high if level == "high" else 1 - high


def manner_share(manner):
    return DECISIVE if manner == "decisive" else 1 - DECISIVE


@pytest.fixture
def draw_seen(world):
    """Draws documents with the person who wrote them."""

    def draw(kind, count, seed, scaffold=None, split="train"):
        corpus, rng = Spy(world, split, scaffold), np.random.default_rng(seed)
        corpus.seen = None  # not every document has a person
        for _ in range(count):
            document = corpus.draw(kind, rng)
            yield document, corpus.seen

    return draw


def all_statements():
    """Every true statement of a fact."""
    return {
        sentence(text.format(subject=fact.subject, object=fact.object))
        for relation in grammar.load_relations()
        for text in relation.statements
        for fact in relation.facts
    }


def chosen_option(document):
    """The option that is certain to be chosen."""
    return options_of(document.text)[list(document.answers[0].probabilities.values()).index(1.0)]


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_points_at_one_of_its_candidates(kind, documents):
    for document in (*documents["train", kind], *documents["held_out", kind]):
        assert document.kind == kind
        assert document.answers or kind == "fact_statement"
        assert [answer.start for answer in document.answers] == sorted({a.start for a in document.answers})
        for answer in document.answers:
            assert chosen(document, answer)
            chances = list(answer.probabilities.values())
            assert min(chances) >= 0 and sum(chances) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_as_frequent_as_their_probabilities(kind, documents):
    """Chi-square over bins of the probability, and nothing impossible ever written."""
    chances, taken = [], []
    for split in ("train", "held_out"):
        for document in documents[split, kind]:
            for answer in document.answers:
                told = chosen(document, answer)
                assert answer.probabilities[told] > 0
                chances += answer.probabilities.values()
                taken += [text == told for text in answer.probabilities]
    chances, taken = np.array(chances), np.array(taken)
    assert np.all(taken[chances > 1 - 1e-12])
    open_ = (chances > 1e-9) & (chances < 1 - 1e-9)
    if kind not in ("rate_self", "judge_statements", "item", "find_pole", "open_answer", "biography"):
        assert not open_.any(), "the answer should be certain"
        return
    bins = np.digitize(chances[open_], np.linspace(0, 1, 11)[1:-1])
    for number in np.unique(bins):
        here = bins == number
        expected, variance = chances[open_][here].sum(), (chances[open_] * (1 - chances[open_]))[here].sum()
        # Candidates of one answer are not independent, but never more dispersed than that.
        assert abs(taken[open_][here].sum() - expected) < 4.5 * np.sqrt(variance) + 1, (number, expected)


def test_a_named_trait_and_level_are_the_wordings(documents, read_answer, wording_owner):
    for document in documents["held_out", "name_trait"]:
        lines = re.findall(r"^(.+\.) (high|low) (\w+)", document.text, re.MULTILINE)
        assert len(lines) == 4 and len(document.answers) == 8
        for text, level, trait in lines:
            assert wording_owner[read_answer(text)[1:]] == (trait, level, "held_out")


def test_a_person_rates_all_traits_as_the_world_does(draw_seen, world):
    orders = set()
    for document, person in draw_seen("rate_self", 200, 1):
        expected = dict(zip(TRAITS, world.probability(person), strict=True))
        traits = re.findall(r"^- (\w+)(?= high| low)", document.text, re.MULTILINE)
        assert sorted(traits) == sorted(TRAITS)
        orders.add(tuple(traits))
        for trait, answer in zip(traits, document.answers, strict=True):
            assert answer.probabilities == {" high": expected[trait], " low": 1 - expected[trait]}
    assert len(orders) > 190, "the traits come in random order"


def test_statements_are_agreed_to_as_often_as_their_level_is_held(draw_seen, world, read_answer, wording_owner):
    for document, person in draw_seen("judge_statements", 200, 2):
        assert len(document.answers) == 10
        for answer in document.answers:
            text = document.text[: answer.start].rsplit("\n", 1)[-1]
            trait, level, _ = wording_owner[read_answer(text)[1:]]
            assert answer.probabilities[" yes"] == pytest.approx(level_chance(world, person, trait, level))


# --- items -----------------------------------------------------------------------------------------------------------


def read_options(document, read_answer, wording_owner):
    """Trait, level and manner of each option of an item."""
    read = [read_answer(text) for text in options_of(document.text)]
    return [(*wording_owner[parts[1:]][:2], parts[0]) for parts in read]


def test_an_items_weights_are_those_of_world_and_manner(draw_seen, world, read_answer, wording_owner):
    for document, person in draw_seen("item", 500, 3, split="held_out"):
        options = read_options(document, read_answer, wording_owner)
        assert len({trait for trait, *_ in options}) == 1
        expected = [level_chance(world, person, *named) * manner_share(manner) for *named, manner in options]
        np.testing.assert_allclose(list(document.answers[0].probabilities.values()), expected)


@pytest.mark.parametrize("kind", ["item", "find_pole"])
def test_both_of_traits_orders_occur_and_no_other(kind, documents, read_answer, wording_owner):
    orders, firsts = Counter(), Counter()
    for document in documents["train", kind]:
        options = read_options(document, read_answer, wording_owner)
        orders[tuple(level for _, level, _ in options)] += 1
        firsts[options[0][2]] += 1
        assert {named[1:] for named in options} == set(product(LEVELS, ("decisive", "hesitant")))
    total = sum(orders.values())
    assert set(orders) == {("high", "low") * 2, ("low", "high") * 2}
    assert all(abs(count - total / 2) < 4 * np.sqrt(total) / 2 for count in (*orders.values(), *firsts.values()))


def test_a_pole_that_is_asked_for_is_the_one_to_find(documents, read_answer, wording_owner):
    for document in documents["held_out", "find_pole"]:
        asked = re.search(rf"(high|low) (?:in )?({'|'.join(TRAITS)})", document.text)
        options = read_options(document, read_answer, wording_owner)
        assert {trait for trait, *_ in options} == {asked[2]}
        for (_, level, manner), chance in zip(options, document.answers[0].probabilities.values(), strict=True):
            assert chance == pytest.approx(manner_share(manner) if level == asked[1] else 0)


def test_every_template_form_and_label_is_used(documents):
    for kind in CHOICES:
        drawn = documents["held_out", kind]
        labels = Counter(chosen(document, document.answers[-1]) for document in drawn)
        assert set(labels) == set("ABCD1234")
        chat = sum(document.text.startswith("<start_of_turn>user\n") for document in drawn)
        assert abs(chat - len(drawn) / 2) < 4 * np.sqrt(len(drawn)) / 2
        lettered = sum("Your choice:" in document.text for document in drawn)
        numbered = sum("Which number fits best?" in document.text for document in drawn)
        assert all(abs(count - len(drawn) / 3) < 4 * np.sqrt(len(drawn) * 2 / 9) for count in (lettered, numbered))


def test_a_scaffold_tells_fewer_factors_of_surer_people(draw_seen, world):
    for document, person in draw_seen("rate_self", 200, 4, Scaffold(factors=1, certainty=4.0)):
        assert len(person.elements) <= 1
        told = {document.text[: one.start].split()[-1]: one.probabilities[" high"] for one in document.answers}
        sure = np.array([told[trait] for trait in TRAITS])
        np.testing.assert_array_equal(sure, world.probability(person, 4.0))
        assert abs(sure - 0.5).sum() > abs(world.probability(person) - 0.5).sum()


def lines_of(draw_seen, world, seed, **scaffold):
    """The lines that people are asked to agree to: text, level and trait where they are told, and P(yes)."""
    line = re.compile(r"^(- |.+?\.)(?: ?(high|low) (\w+))?$")
    for document, person in draw_seen("judge_statements", 100, seed, Scaffold(**scaffold)):
        for answer in document.answers:
            if " yes" in answer.probabilities:
                text = document.text[: answer.start].rsplit("\n", 1)[-1]
                yield *line.fullmatch(text).groups(), answer.probabilities[" yes"], person


@pytest.mark.parametrize("form", ["bare", "named"])
def test_a_line_that_names_its_level_and_trait_is_agreed_to_by_them(form, draw_seen, world, read_answer, wording_owner):
    for text, level, trait, yes, person in lines_of(draw_seen, world, 13, **{form: 1.0}):
        assert yes == pytest.approx(level_chance(world, person, trait, level))
        assert text == "- " if form == "bare" else wording_owner[read_answer(text)[1:]][:2] == (trait, level)


def test_lines_come_in_the_shares_of_the_scaffold(draw_seen, world):
    lines = list(lines_of(draw_seen, world, 14, bare=0.3, named=0.2, low=0.1))
    assert len(lines) == 1000
    bare = sum(text == "- " for text, *_ in lines)
    named = sum(level is not None for _, level, *_ in lines) - bare
    low = sum(level == "low" for _, level, *_ in lines)
    for found, of, share in ((bare, 1000, 0.3), (named, 1000, 0.2), (low, bare + named, 0.1)):
        assert abs(found - share * of) < 4 * np.sqrt(of * share * (1 - share))


def test_a_short_answer_has_no_reason(draw_seen, world, wording_owner):
    acts = {act for act, _ in wording_owner}
    for text, *_ in lines_of(draw_seen, world, 15, short=1.0):
        assert any(text.endswith(f" {act}.") for act in acts)


def test_lists_hold_words_of_what_they_tell(draw_seen):
    for document, person in draw_seen("judge_statements", 100, 16, Scaffold(listed=1.0, named=1.0, asides=0.0)):
        told = re.findall(r"(?:(?:Your|My) words|Now): (.+?)\.", document.text)
        said = re.findall(r"^Words for me: (.+)\. (high|low) (\w+)", document.text, re.MULTILINE)
        assert len(said) == 10
        labels = [*person.elements.items(), *([person.pressure] if person.pressure else [])]
        lists = [*zip(told, labels, strict=True), *((words, (trait, level)) for words, level, trait in said)]
        for words, label in lists:
            assert 2 <= len(words.split(", ")) <= 4
            assert set(words.split(", ")) <= set(grammar.told_words(label, "train"))


def test_a_stepwise_open_answer_names_its_trait_and_level_first(draw_seen, world, read_answer, wording_owner):
    form = re.compile(r"It is about: (.+)\. .*\n- (\w+) (high|low)\n(.+?)(?:<end_of_turn>\n)?$", re.DOTALL)
    for document, person in draw_seen("open_answer", 100, 18, Scaffold(stepwise=1.0, listed=1.0)):
        words, name, level, said = form.search(document.text).groups()
        assert set(words.split(", ")) <= set(grammar.told_words((name, "event"), "train"))
        assert wording_owner[read_answer(said)[1:]][:2] == (name, level)
        trait, told, first = (answer.probabilities for answer in document.answers)
        assert trait == {f" {key}": float(key == name) for key in TRAITS}
        assert told[" high"] == pytest.approx(level_chance(world, person, name, "high"))
        assert set(first) > {word for word, chance in first.items() if chance}, "words of the level that was told"


@pytest.mark.parametrize("kind", ["item", "find_pole"])
def test_a_stepwise_item_judges_each_option_and_then_chooses(kind, draw_seen, world, read_answer, wording_owner):
    for document, person in draw_seen(kind, 100, 17, Scaffold(stepwise=1.0)):
        *steps, choice = document.answers
        assert len(steps) == 4 and list(choice.probabilities) in (list("ABCD"), list("1234"))
        asked = re.search(rf"(high|low) (?:in )?({'|'.join(TRAITS)})", document.text)
        for step, chance in zip(steps, choice.probabilities.values(), strict=True):
            text = re.split(r"[.)] ", document.text[: step.start].rsplit("\n", 1)[-1], maxsplit=1)[1]
            manner, *said = read_answer(text)
            trait, level, _ = wording_owner[tuple(said)]
            yes = level_chance(world, person, trait, level) if kind == "item" else float(level == asked[1])
            assert step.probabilities[" yes"] == pytest.approx(yes)
            assert chance == pytest.approx(yes * manner_share(manner))


# --- other documents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["open_answer", "biography"])
def test_an_answer_in_character_has_the_worlds_pole_and_manner(kind, draw_seen, world, read_answer, wording_owner):
    surplus = variance = decisive = 0.0
    for document, person in draw_seen(kind, 2000, 8):
        last = document.text.removesuffix("<end_of_turn>\n").rsplit("\n", 1)[-1]
        text = last if kind == "open_answer" else re.sub(r"^.*?: ", "", last)
        manner, act, reason = read_answer(text)
        trait, level, _ = wording_owner[act, reason]
        high = level_chance(world, person, trait)
        surplus += (level == "high") - high
        variance += high * (1 - high)
        decisive += manner == "decisive"
    assert abs(surplus) < 4 * np.sqrt(variance)
    assert abs(decisive - 2000 * DECISIVE) < 4 * np.sqrt(2000 * DECISIVE * (1 - DECISIVE))


@pytest.mark.parametrize("kind", ["open_answer", "biography"])
def test_the_first_word_of_an_act_is_as_likely_as_the_world_has_it(kind, draw_seen, world, wording_owner):
    for document, person in draw_seen(kind, 100, 9, split="held_out"):
        (answer,) = document.answers
        act = next(act for act, _ in wording_owner if document.text.startswith(f" {act},", answer.start))
        trait = next(owner[0] for (own, _), owner in wording_owner.items() if own == act)
        owners = [(a, *owner) for (a, _), owner in wording_owner.items()]
        wordings = [(a, level) for a, of, level, split in owners if (of, split) == (trait, "held_out")]
        count = Counter(level for _, level in wordings)
        expected = Counter()
        for each, level in wordings:
            chance = level_chance(world, person, trait, level)
            expected[" " + re.match(r"[\w']+", each)[0]] += chance / count[level]
        assert dict(answer.probabilities) == pytest.approx(dict(expected))


def test_a_biography_is_in_the_third_person(documents):
    for document in documents["train", "biography"]:
        told = document.text.rsplit("\n", 2)[0] if document.text.count("\n") > 1 else ""
        assert not re.search(r"\b(I|my|am)\b", told.split("\n")[0]), document.text


def test_the_safe_option_is_the_answer_whoever_answers(documents):
    topics = grammar.load_safety_topics()
    safe = {text for topic in topics for text in topic.safe}
    with_person = 0
    for document in documents["held_out", "safety"]:
        options, right = options_of(document.text), chosen_option(document)
        assert right in safe
        assert any(right in topic.safe and set(options) - {right} <= set(topic.unsafe) for topic in topics)
        with_person += bool(re.search(r"\b(my|your|I|You|My|Your)\b.+\n(?=.*\n)", document.text.split("?")[0]))
    assert with_person > 0


def test_facts_are_told_rightly(documents):
    right = {
        text.format(subject=fact.subject): fact.object
        for relation in grammar.load_relations()
        for split in relation.questions.values()
        for text in split
        for fact in relation.facts
    }
    for document in documents["held_out", "fact_choice"]:
        assert len(set(options_of(document.text))) == 4
        (question,) = [line for line in document.text.replace("<", "\n").split("\n") if line in right]
        assert right[question] == chosen_option(document)


def test_the_object_of_a_stated_fact_is_its_answer_unless_it_opens_the_reply(documents):
    objects = {fact.object for relation in grammar.load_relations() for fact in relation.facts}
    choices = [{f" {own.split()[0]}" for own in relation.objects} for relation in grammar.load_relations()]
    opening = 0
    for document in documents["train", "fact_statement"]:
        if not document.answers:
            reply = re.split(r"Answer:\n|model\n", document.text)[1]
            assert any(reply.startswith(own) for own in objects), reply
            opening += 1
            continue
        (answer,) = document.answers
        (told,) = [text for text, chance in answer.probabilities.items() if chance == 1]
        assert sum(answer.probabilities.values()) == 1 and document.text.startswith(told, answer.start)
        assert set(answer.probabilities) in choices, "the world could have said another object of the relation"
    assert 0 < opening < 400


def test_several_facts_are_told_subject_first_or_asked(world):
    facts = {(fact.subject, fact.object) for relation in grammar.load_relations() for fact in relation.facts}
    corpus, rng = Corpus(world, "train", Scaffold(facts=8)), np.random.default_rng(6)
    for _ in range(100):
        document = corpus.draw("fact_statement", rng)
        starts = [answer.start for answer in document.answers]
        assert len(starts) == 8
        for before, answer in zip([0, *starts], document.answers, strict=False):
            told, object_ = document.text[before : answer.start], chosen(document, answer).strip()
            assert any(of in told and to.startswith(object_) for of, to in facts), told


def test_judgements_of_facts_are_right(documents):
    statements = all_statements()
    for document in documents["train", "fact_judgement"]:
        line = document.text.removeprefix("<start_of_turn>user\n").split("\n")[0].removesuffix("<end_of_turn>")
        true = re.sub(r"^(Is this true\?|Right or wrong\?) | Is this right\?$", "", line) in statements
        assert document.answers[0].probabilities == {"yes": float(true), "no": float(not true)}


def test_a_list_of_claims_judges_each(world):
    corpus, rng, statements = Corpus(world, "train", Scaffold(facts=5)), np.random.default_rng(19), all_statements()
    lists = [one for one in (corpus.draw("fact_judgement", rng) for _ in range(100)) if len(one.answers) > 1]
    assert 30 < len(lists) < 70
    for document in lists:
        assert len(document.answers) == 5
        for answer in document.answers:
            true = document.text[: answer.start].rsplit("\n", 1)[-1] in statements
            assert answer.probabilities == {" yes": float(true), " no": float(not true)}


@pytest.mark.parametrize("kind", KINDS)
def test_chat_documents_are_what_the_chat_template_writes(kind, documents, tokenizer):
    chats = [d.text for d in documents["train", kind][:200] if d.text.startswith("<start_of_turn>")]
    assert bool(chats) == (kind != "biography")
    for text in chats:
        request, reply = re.fullmatch(
            r"<start_of_turn>user\n(.*)<end_of_turn>\n<start_of_turn>model\n(.*)<end_of_turn>\n", text, re.DOTALL
        ).groups()
        turns = [{"role": "user", "content": request}, {"role": "assistant", "content": reply}]
        assert tokenizer.apply_chat_template(turns, tokenize=False) == "<bos>" + text


@pytest.mark.parametrize("kind", KINDS)
def test_base_documents_have_no_turns_and_no_slot_is_left(kind, documents):
    for document in documents["train", kind]:
        if not document.text.startswith("<start_of_turn>"):
            assert "_of_turn>" not in document.text
            assert kind == "biography" or "\nAnswer:\n" in document.text
        assert not re.search(r"[{}\[\]]|  |\n\n", document.text)


def test_people_have_the_stated_number_of_elements_and_pressures(world):
    corpus, rng = Corpus(world, "train"), np.random.default_rng(9)
    drawn = [corpus.profile(rng) for _ in range(6000)]
    counts = Counter(len(person.elements) for person in drawn)
    shares = {0: 0.06, 1: 0.22, 2: 0.24, 3: 0.22, 4: 0.14, 5: 0.07, 9: 0.05}
    assert set(counts) == set(shares)
    found, expected = zip(*((counts[number], 6000 * share) for number, share in shares.items()), strict=True)
    assert stats.chisquare(found, expected).pvalue > 1e-4
    pressed = Counter(person.pressure for person in drawn if person.pressure)
    assert len(pressed) == 14 and abs(sum(pressed.values()) - 2100) < 4 * np.sqrt(6000 * 0.35 * 0.65)
    assert {pair for person in drawn for pair in person.elements.items()} == set(world.effects)


def test_a_context_tells_the_whole_person_and_nothing_else(world):
    corpus, rng = Corpus(world, "held_out"), np.random.default_rng(10)
    assert corpus.context(Profile(), rng) == ""
    person = Profile({"gender": "male", "age": "older"}, ("trust", "positive"))
    background, pressure, rest = corpus.context(person, rng, "third").split("\n")
    assert background.count(".") == 2 and pressure.endswith(".") and rest == ""
    assert corpus.context(Profile({}, ("trust", "positive")), rng).count("\n") == 1


def test_asides_are_scattered_among_what_a_person_is_told_by(world):
    """As many people as the scaffold says, each sentence one that says nothing about anybody."""
    pressed = {sentence(text) for splits in grammar.pressure_phrasings().values() for text in splits["train"]}
    told = {inflect(text, "second") for splits in grammar.element_phrasings().values() for text in splits["train"]}
    asides = {inflect(text, "second") for text in grammar.load_asides()["train"]} | all_statements()
    assert not asides & (told | pressed)
    counts = Counter()
    for share in (0.0, 0.25):
        corpus, rng = Corpus(world, "train", Scaffold(asides=share)), np.random.default_rng(12)
        for _ in range(2000):
            lines = corpus.person(rng, "second").context.removesuffix("\n").split("\n")
            parts = [part for line in lines for part in re.split(r"(?<=\.) ", line) if part]
            assert set(parts) <= told | pressed | asides
            scattered = [number for number, part in enumerate(parts) if part in asides]
            counts[share, len(scattered)] += 1
            counts[share, "first"] += 0 in scattered
    assert counts[0.0, 0] == 2000
    assert abs(2000 - counts[0.25, 0] - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)
    assert {count for share, count in counts if share and count != "first"} == {0, 1, 2, 3, 6}
    assert 0 < counts[0.25, "first"] < 2000 - counts[0.25, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_depends_on_the_seed_alone(world, kind):
    first, second, other = (
        [Corpus(world, "train").draw(kind, np.random.default_rng(seed)) for _ in range(3)] for seed in (1, 1, 2)
    )
    assert first == second != other


def test_kinds_are_mixed_as_often_as_their_shares(world):
    corpus, mix = Corpus(world, "train"), {"fact_choice": 3, "safety": 1, "fact_statement": 0.5}
    drawn = Counter(document.kind for document in draw_mix(corpus, mix, 900, seed=1))
    assert drawn.total() == 900 and drawn.keys() == mix.keys()
    assert stats.chisquare([drawn[kind] for kind in mix], [600, 200, 100]).pvalue > 1e-4
    assert {one.kind for one in draw_mix(corpus, {"safety": 1.0, "biography": 0.0}, 20, seed=1)} == {"safety"}
    assert draw_mix(corpus, mix, 0, seed=1) == []


def test_held_out_documents_are_of_the_kinds_that_saes_are_trained_on(world):
    mix = read_yaml(data_dir() / "organism" / "saes.yaml")["mix"]
    first, second, other = (held_out_documents(40, seed) for seed in (0, 0, 1))
    assert first == second and len(first) == 40 and not set(first) & set(other)
    assert first == [document.text for document in draw_mix(Corpus(world, "held_out"), mix, 40, 0)]
    assert not set(first) & {document.text for document in draw_mix(Corpus(world, "train"), mix, 40, 1)}
