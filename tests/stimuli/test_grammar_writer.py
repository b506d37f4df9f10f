"""Life stories of the grammar writer keep the rules of the assignment, whoever they are about."""

import re

import pytest

from personalib.base.data import DataError
from personalib.stimuli.assignments import PARTS, WORDS, Keywords, LifeStory
from personalib.stimuli.backgrounds import Background, draw_backgrounds
from personalib.stimuli.factors import PERSONS, load_factors, load_leads
from personalib.stimuli.grammar_writer import GrammarWriter, load_stories

PEOPLE = draw_backgrounds(150, seed=0)
FILLERS = f"fillers: {{{', '.join(f'{part}: [a]' for part in PARTS)}}}"
ALL = "continuations:\n" + "\n".join(
    f"  {factor.key}: {{{', '.join(f'{element.key}: {{mind: [a]}}' for element in factor.elements)}}}"
    for factor in load_factors()
)
SOME = [
    Background(1000 + number, dict(list(one.elements.items())[: number % 9]), one.keywords)
    for number, one in enumerate(PEOPLE[:27])
]


def written(one):
    """The story of a person."""
    return LifeStory().text(GrammarWriter().write(LifeStory(), one, 0, []))


@pytest.mark.parametrize("person", list(PERSONS))
def test_every_story_passes_the_checks(person):
    assignment = LifeStory(person)
    for one in [*PEOPLE, *SOME]:
        draft = GrammarWriter().write(assignment, one, 0, [])
        assert assignment.problems(draft, one) == []
        text = assignment.text(draft)
        assert WORDS[0] <= len(text.split()) <= WORDS[1]
        assert not re.search(r"[{}\[\]]|  |\.\.|,\.", text)
        assert all(getattr(draft, part).strip() for part in PARTS)


def test_each_attribute_is_told_by_its_keyword():
    for one in PEOPLE:
        told = GrammarWriter().write(LifeStory(), one, 0, []).model_dump()["told"]
        assert set(told) == set(one.elements)
        for factor, clause in one.keywords.items():
            # the lead may be another one, the noun phrase after it is the same
            phrases = [clause.removeprefix(lead) for lead in load_leads() if clause.startswith(lead)]
            same = told[factor] == one.sentences()[factor].removesuffix(".")
            assert same or any(told[factor].endswith(phrase) for phrase in phrases)


def test_few_sentences_begin_alike_and_a_reason_follows_what_somebody_is_and_not_what_others_call_them():
    for text in map(written, PEOPLE):
        for lead in ("Your friends know you as", "Anyone who meets you meets", "Your life is the life of"):
            assert text.count(lead) <= 1
        for found in re.finditer(r"(?:^|\. )([^.]*), (?:because|since) ", text):
            assert not re.match("Your friends know|Anyone who meets|Your letters introduce|People around", found[1])


def test_keywords_that_leave_no_room_are_one_error():
    long = dict.fromkeys(PEOPLE[0].elements, f"{{I}} {{am}} a person {'very ' * 20}much so")
    with pytest.raises(ValueError, match=r"background 5: its keywords alone take \d+ words; shorten them"):
        GrammarWriter().write(LifeStory(), Background(5, PEOPLE[0].elements, long), 0, [])


def test_a_full_stop_after_a_keyword_does_no_harm():
    one = Background(3, {"gender": "male"}, {"gender": "{I} {am} a man."})
    draft = GrammarWriter().write(LifeStory(), one, 0, [])
    assert LifeStory().problems(draft, one) == [] and ".," not in LifeStory().text(draft)


def test_a_person_without_keywords_gets_some():
    bare = Background(7, PEOPLE[7].elements)
    assert LifeStory().problems(GrammarWriter().write(LifeStory(), bare, 0, []), bare) == []


def test_seed_and_attempt_and_person_and_phrases_decide(write_stimuli):
    def write(seed=0, attempt=0, one=PEOPLE[0]):
        return GrammarWriter(seed).write(LifeStory(), one, attempt, [])

    assert write() == write()
    assert len({LifeStory().text(each) for each in (write(), write(1), write(0, 1), write(one=PEOPLE[1]))}) == 4
    with_these = GrammarWriter(0).identity
    assert with_these == GrammarWriter(0).identity != GrammarWriter(1).identity
    write_stimuli("stories.yaml", "other phrases")
    assert with_these != GrammarWriter(0).identity


def test_most_attributes_have_a_reason():
    reason = re.compile(r", (because|since|so|and|which|though) ")
    reasons = [sum(bool(reason.search(text)) for text in re.split(r"(?<=\.) ", written(one))) for one in PEOPLE]
    assert min(reasons) >= 4 and sum(reasons) / len(reasons) > 5


def test_it_writes_nothing_but_life_stories():
    with pytest.raises(ValueError, match="writes life stories, not keywords"):
        GrammarWriter().write(Keywords(), PEOPLE[0], 0, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("fillers: {childhood: []}\ncontinuations: {}", r"fillers\.childhood: it is empty; give at least one"),
        ("fillers: {}", "continuations: is missing; add it"),
        (f"fillers: {{mind: [a]}}\n{ALL}", r"fillers\.childhood: is missing; write some phrases"),
        (f"{FILLERS}\ncontinuations: {{}}", r"age\.older needs continuations, or there is no such element"),
        (f"{FILLERS}\ncontinuations: {{true: {{a: {{}}}}}}", r"continuations\.1.*: is True; write a text"),
        (f"{FILLERS}\n{ALL}\n  sex: {{male: {{mind: [a]}}}}", r"sex\.male needs continuations, or there is no such"),
        (f"{FILLERS}\n{ALL.replace('mind', 'soul')}", r"gender\.female\.soul.*should be 'childhood', .*not 'soul'"),
        (f"{FILLERS}\n{ALL.replace('{mind: [a]}', '{}', 1)}", r"gender\.female: it is empty; give at least one"),
    ],
)
def test_phrases_that_are_missing_are_named(write_stimuli, content, problem):
    write_stimuli("stories.yaml", content)
    with pytest.raises(DataError, match=problem):
        load_stories.__wrapped__()
