"""Drawn persons are balanced, plausible, all different, and the same again from the same seed."""

from itertools import combinations

import pytest

from personalib.base.data import DataError
from personalib.stimuli.backgrounds import (
    Background,
    Constraint,
    coverage,
    draw_backgrounds,
    joint_coverage,
    load_constraints,
)
from personalib.stimuli.factors import load_factors

TIGHT = Constraint(("gender", "female"), ("age", "young"), "a test")


@pytest.fixture(scope="module")
def drawn():
    return draw_backgrounds(1000, seed=3)


def told(background):
    return (*background.elements.values(), *background.keywords.values())


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_elements_of_a_factor_are_told_equally_often(count):
    by_factor = coverage(draw_backgrounds(count, seed=1)).groupby("factor")
    counts, shares = by_factor["count"], by_factor["share"]
    assert (counts.sum() == count).all() and (counts.max() - counts.min() <= 1).all()
    assert shares.sum().to_numpy() == pytest.approx(1)


def test_all_persons_differ_and_have_every_factor(drawn):
    assert len({told(one) for one in drawn}) == len(drawn)
    assert [one.idx for one in drawn] == list(range(1000))
    keys = [factor.key for factor in load_factors()]
    assert all(list(one.elements) == list(one.keywords) == keys for one in drawn)


def test_a_keyword_is_a_phrasing_of_its_element(drawn):
    phrasings = {(e.factor, e.key): set(e.phrasings) for factor in load_factors() for e in factor.elements}
    used = {pair: {one.keywords[pair[0]] for one in drawn if one.elements[pair[0]] == pair[1]} for pair in phrasings}
    assert all(used[pair] <= phrasings[pair] for pair in phrasings)
    assert all(len(found) > 40 for found in used.values()), "keywords vary"


def test_nobody_breaks_a_constraint(drawn):
    for rule in load_constraints():
        assert not any(rule.broken_by(one.elements, one.keywords) for one in drawn), rule
    broken = draw_backgrounds(1000, seed=3, constraints=())
    for rule in load_constraints():
        assert any(rule.broken_by(one.elements, one.keywords) for one in broken), f"never needed: {rule}"


def test_a_constraint_on_words_leaves_the_other_keywords(drawn):
    rule = next(rule for rule in load_constraints() if rule.words)
    both = [one for one in drawn if one.elements[rule.one[0]] == rule.one[1]]
    assert any(one.elements[rule.other[0]] == rule.other[1] for one in both)


def test_pairs_of_elements_meet_unless_kept_apart(drawn):
    table = joint_coverage(drawn)
    titles = {(e.factor, e.key): e.title for factor in load_factors() for e in factor.elements}
    apart = {frozenset((rule.one, rule.other)) for rule in load_constraints() if not rule.words}
    for first, second in combinations(titles, 2):
        met = table.loc[titles[first], titles[second]]
        assert met == table.loc[titles[second], titles[first]]
        never = first[0] == second[0] or frozenset((first, second)) in apart
        assert (met == 0) == never, (first, second, met)
    assert table.loc["Female", "Female"] == 500


def test_the_same_seed_gives_the_same_persons_and_another_others(drawn):
    assert draw_backgrounds(1000, seed=3) == drawn
    assert draw_backgrounds(1000, seed=4) != drawn


def test_counts_survive_a_constraint_that_leaves_one_way():
    """With women old and men young there are no other persons of equal numbers."""
    people = draw_backgrounds(40, seed=0, constraints=[TIGHT])
    assert {(one.elements["gender"], one.elements["age"]) for one in people} == {("female", "older"), ("male", "young")}


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="at least one"):
        draw_backgrounds(0, seed=0)
    tightest = [TIGHT, Constraint(("gender", "male"), ("age", "young"), "nobody is young then")]
    with pytest.raises(ValueError, match=r"keep .*age\.young apart"):
        draw_backgrounds(10, seed=0, constraints=tightest)
    few = {(e.factor, e.key): e.phrasings[:1] for factor in load_factors() for e in factor.elements}
    with pytest.raises(ValueError, match="ask for fewer"):
        draw_backgrounds(5000, seed=0, phrasings=few)


def test_a_background_reads_as_sentences_in_each_person():
    one = Background(0, {"gender": "female"}, {"gender": "{I} {am} a woman", "age": "{my} hair is grey"})
    assert one.paragraph("first") == "I am a woman. My hair is grey."
    assert one.paragraph() == "You are a woman. Your hair is grey."
    assert one.sentences("third") == {"gender": "This person is a woman.", "age": "Their hair is grey."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {one: age.young, why: x}", "entry 1: other: is missing"),
        ("- {one: age.young, other: age.ancient, why: x}", r"entry 1: other: there is no element 'age\.ancient'"),
        ("- {one: 3, other: age.older, why: x}", "entry 1"),
    ],
)
def test_a_wrong_constraint_is_named(write_stimuli, text, message):
    write_stimuli("constraints.yaml", text)
    with pytest.raises(DataError, match=rf"constraints\.yaml, {message}"):
        load_constraints.__wrapped__()
