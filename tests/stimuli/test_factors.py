"""The vocabulary of causes: all of it is there, and reads as English in every person."""

import re

import pytest

from personalib.base.data import DataError
from personalib.stimuli.factors import (
    PERSONS,
    POLES,
    elements,
    inflect,
    load_facets,
    load_factors,
    load_pressures,
    sentence,
)

# The paper's 22 elements, and `unfamiliar`, the pole that its ninth factor lacks.
ELEMENTS = {
    "gender": ["female", "male"],
    "age": ["young", "older"],
    "education": ["uneducated", "middle_school", "bachelor"],
    "socioeconomic_status": ["rich", "poor"],
    "ideology": ["conservatism", "liberalism", "communism", "nationalism", "anarchism", "fascism"],
    "emotional_intelligence": ["stable", "volatile"],
    "professional_commitment": ["initiative", "inactive"],
    "family_background": ["relaxed", "strained"],
    "ai_familiarity": ["familiar", "unfamiliar"],
}
# The dark-triad facets of an earlier set of contrast pairs in the paper's code release.
FACETS = (
    "cynical_worldview lack_of_morality strategic_manipulativeness high_impulsivity thrill_seeking low_empathy "
    "low_anxiety grandiosity entitlement dominance superiority"
)
PRESSURES = "achievement_striving activity assertiveness competence deliberation gregariousness trust"
KEYS = [element.key for element in elements()]


def test_the_nine_factors_have_the_papers_elements_and_the_missing_pole():
    found = {factor.key: [element.key for element in factor.elements] for factor in load_factors()}
    assert found == ELEMENTS
    assert len(KEYS) == len(set(KEYS)) == 22 + 1
    assert all(element.factor == factor.key for factor in load_factors() for element in factor.elements)
    assert all(element.title for element in elements()) and all(factor.title for factor in load_factors())


def test_every_element_has_forty_phrasings_of_its_own():
    assert min(len(element.phrasings) for element in elements()) >= 40
    told = [phrasing for element in elements() for phrasing in element.phrasings]
    assert len(told) == len(set(told))


@pytest.mark.parametrize("person", PERSONS)
def test_every_phrasing_renders_in_every_person(person):
    for text in (inflect(phrasing, person) for element in elements() for phrasing in element.phrasings):
        assert not re.search(r"[{}\[\]|]", text), text
        assert not re.search(r"\s\s|\s[.,;]|^\s|\s$|\.\.", text), text
        assert text[0].isupper() and text[-1] in ".?!", text


def test_pronouns_and_verbs_agree_with_the_person_everywhere():
    told = {
        person: " ".join(inflect(phrasing, person) for element in elements() for phrasing in element.phrasings)
        for person in PERSONS
    }
    for person in ("second", "third"):
        assert not re.findall(r"\b(I|[Mm]e|[Mm]y|[Mm]yself|am|mine|I'm)\b", told[person])
    assert {word for word in re.findall(r"\bI (\w+)", told["first"]) if word.endswith("s")} <= {"was", "always"}
    assert not re.search(r"\bI (are|were)\b", told["first"])
    assert not re.search(r"\b[Yy]ou (is|am|has|was)\b", told["second"])
    assert not re.search(r"\b[Tt]his person (am|are|have|were|do|go|live|think|describe)\b", told["third"])


@pytest.mark.parametrize(
    ("clause", "person", "text"),
    [
        ("{I} {am} {my} own guide", "first", "I am my own guide."),
        ("{I} {am} {my} own guide", "second", "You are your own guide."),
        ("{I} {was} there and {have} time", "second", "You were there and have time."),
        ("{I} {was} there and {have} time", "third", "This person was there and has time."),
        ("friends see {me} by {myself}", "first", "Friends see me by myself."),
        ("friends see {me} by {myself}", "third", "Friends see them by themselves."),
        ("{I} [live] and [go|goes] on", "first", "I live and go on."),
        ("{I} [live] and [go|goes] on", "second", "You live and go on."),
        ("{I} [live] and [go|goes] on", "third", "This person lives and goes on."),
        ("{I} [study] what {I} [buy]", "third", "This person studies what this person buys."),
        ("{I} [watch], [pass], [fix] and [do]", "third", "This person watches, passes, fixes and does."),
        ("{I} [wait] already.", "first", "I wait already."),
    ],
)
def test_inflection(clause, person, text):
    assert inflect(clause, person) == text


def test_a_sentence_keeps_its_own_end_and_the_case_of_its_words():
    texts = ("go to Rome", "why?", "stop!", "done.")
    assert [sentence(text) for text in texts] == ["Go to Rome.", "Why?", "Stop!", "Done."]


def test_an_unknown_person_or_slot_is_an_error():
    with pytest.raises(KeyError):
        inflect("{I} [go|goes]", "fourth")
    for clause in ("{you} [go|goes]", "{I} {", "{I:>9999999999}", "{I.__class__}", "{{I}}"):
        with pytest.raises(DataError, match=r"has braces that are no slot; use \{I\} \{me\}"):
            inflect(clause, "first")


@pytest.mark.parametrize(("load", "keys"), [(load_pressures, PRESSURES), (load_facets, FACETS)])
def test_pressures_and_facets_have_two_poles_with_twelve_phrasings(load, keys):
    assert " ".join(pressure.key for pressure in load()) == keys
    for pressure in load():
        assert set(pressure.phrasings) == set(POLES)
        for pole in POLES:
            phrasings = pressure.phrasings[pole]
            assert len(set(phrasings)) == len(phrasings) >= 12
            assert not any(re.search(r"[{}\[\]]|\s\s", phrasing) for phrasing in phrasings)
        assert not set(pressure.phrasings["positive"]) & set(pressure.phrasings["negative"])


def test_each_lead_takes_each_complement_and_clauses_stand_alone(write_stimuli):
    write_stimuli(
        "backgrounds.yaml",
        "leads: ['{I} {am} {x}', 'call {me} {x}']\n"
        "factors: {pet: {title: Pet, elements: "
        "{cat: {title: Cat, complements: [a cat, a tom], clauses: ['{I} purr']}}}}",
    )
    (factor,) = load_factors.__wrapped__()
    leads = [("{I} {am} a cat", "call {me} a cat"), ("{I} {am} a tom", "call {me} a tom")]
    assert factor.elements[0].phrasings == (*leads[0], *leads[1], "{I} purr")


@pytest.mark.parametrize(
    ("load", "name", "contents"),
    [
        (
            load_factors,
            "backgrounds",
            ("", "{leads}", "{leads}\nfactors: [age]", "{leads}\nfactors: {age: {title: Age}}", "factors: {}"),
        ),
        (load_factors, "backgrounds", ("{leads}\nfactors: {a: {title: A, elements: {b: {title: B, clauses: []}}}}",)),
        (load_pressures, "pressures", ("", "{leads}\npressures: {trust: {title: Trust, positive: [go]}}")),
        (load_pressures, "pressures", ("{leads}\npressures: [trust]",)),
    ],
)
def test_a_bad_file_is_named_with_its_section(write_stimuli, load, name, contents):
    for content in contents:
        write_stimuli(f"{name}.yaml", content.replace("{leads}", "leads: ['{x}']"))
        with pytest.raises(DataError, match=rf"{name}\.yaml: (leads|factors|pressures): "):
            load.__wrapped__()
