"""The committed items are what the grammar writes, from held-out wordings alone."""

from collections import Counter
from itertools import product

import pytest

from personalib.base.data import data_dir
from personalib.organism.bank import fact_items, safety_items, scale_items, trait_items, write_banks
from personalib.questionnaires.items import load_facts, load_safety, load_trait
from personalib.questionnaires.kinds import load_scale
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.grammar import LEVELS, load_queries, load_relations, load_safety_topics, load_traits

NAMES = ("trait", "safety", "facts", "scale")


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    return folder, write_banks(world, folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_bank_is_what_is_written_anew(written, name):
    folder, counts = written
    committed = data_dir() / "items" / f"{name}.jsonl"
    assert (folder / f"{name}.jsonl").read_bytes() == committed.read_bytes()
    assert counts[name] == len(committed.read_text(encoding="utf-8").splitlines())


def test_the_bundled_items_are_read_back_as_written(world):
    assert load_trait() == trait_items(world)
    assert load_safety() == safety_items()
    assert load_facts() == fact_items()
    assert load_scale() == scale_items(world)


def test_every_trait_has_a_hundred_different_held_out_items():
    items = load_trait()
    assert set(Counter(item.personality for item in items)) == set(TRAITS)
    for trait in TRAITS:
        own = [item for item in items if item.personality == trait]
        assert [item.idx for item in own] == list(range(len(own))) and len(own) >= 100
        assert {item.split for item in own} == {"held_out"}
        assert len({(item.question, *item.responses("normal").values()) for item in own}) == len(own)


def test_every_item_has_held_out_wordings_and_both_manners(read_answer, wording_owner):
    for item in load_trait():
        bank = load_traits()[item.personality]
        assert item.situation in bank.situations["held_out"] and item.situation not in bank.situations["train"]
        assert item.query in load_queries() and item.statement == bank.statements["high"]
        for level in LEVELS:
            parts = [read_answer(getattr(item, f"response_{level}{number}")) for number in (1, 2)]
            assert {manner for manner, *_ in parts} == {"decisive", "hesitant"}
            assert {wording_owner[act, reason] for _, act, reason in parts} == {(item.personality, level, "held_out")}


def test_the_first_answer_is_decisive_in_about_half_of_the_items(read_answer):
    items = load_trait()
    for key in ("response_high1", "response_low1"):
        decisive = sum(read_answer(getattr(item, key))[0] == "decisive" for item in items)
        assert abs(decisive - len(items) / 2) < 4 * len(items) ** 0.5 / 2


def test_safety_answers_are_the_one_safe_option_of_a_held_out_question():
    topics = {question: topic for topic in load_safety_topics() for question in topic.questions["held_out"]}
    items = load_safety()
    for item in items:
        topic = topics[item.question]
        assert item.category == topic.category
        assert 2 <= len(set(item.options)) == len(item.options) <= 4
        assert [option in topic.safe for option in item.options].index(True) == item.answer
        assert sum(option in topic.unsafe for option in item.options) == len(item.options) - 1
    assert {item.question for item in items} == set(topics)
    assert len({item.category for item in items}) == 7
    assert {len(item.options) for item in items} == {2, 3, 4}


def test_facts_are_all_asked_for_in_a_held_out_phrasing():
    right = {
        phrasing.format(subject=fact.subject): fact
        for relation in load_relations()
        for phrasing in relation.questions["held_out"]
        for fact in relation.facts
    }
    items = load_facts()
    asked = [right[item.question] for item in items]
    assert len({(fact.relation, fact.subject) for fact in asked}) == len(items) >= 100
    for item, fact in zip(items, asked, strict=True):
        assert item.options[item.answer] == fact.object and item.category == fact.relation
        assert len(set(item.options)) == 4


@pytest.mark.parametrize("load", [load_safety, load_facts])
def test_the_right_answer_is_at_every_place_equally_often(load):
    for size in (2, 3, 4):
        places = Counter(item.answer for item in load() if len(item.options) == size)
        total = sum(places.values())
        most = 4 * (total / size * (1 - 1 / size)) ** 0.5
        assert not total or all(abs(places[place] - total / size) < most for place in range(size))


def test_a_scale_has_as_many_statements_for_each_trait_as_against_it(world):
    items = load_scale()
    assert Counter((item.key, item.reverse) for item in items) == dict.fromkeys(product(TRAITS, (False, True)), 8)
    assert set(Counter((one.key, one.reverse) for one in scale_items(world, 3)).values()) == {3}
    assert len({item.id for item in items}) == len({item.statement for item in items}) == len(items)


def test_every_statement_of_a_scale_is_a_held_out_answer_of_its_level(read_answer, wording_owner):
    manners = Counter()
    for item in load_scale():
        manner, *wording = read_answer(item.statement)
        assert wording_owner[tuple(wording)] == (item.key, LEVELS[item.reverse], "held_out")
        assert item.id.startswith(f"{item.key}-{LEVELS[item.reverse]}-")
        manners[manner] += 1
    assert set(manners) == {"decisive", "hesitant"} and min(manners.values()) > len(load_scale()) / 4
