"""What a writer is asked, the form of its answer, and what is found wrong with one."""

import pytest
from pydantic import ValidationError

from personalib.stimuli.assignments import PARTS, WORDS, Keywords, LifeStory, contradictions, load_giveaways
from personalib.stimuli.backgrounds import Background, draw_backgrounds
from personalib.stimuli.factors import load_factors

MAN = Background(1, {"gender": "male", "age": "older"}, {"gender": "{I} {am} a man", "age": "{my} hair is grey"})
QUOTES = {"gender": "you are a man", "age": "Your hair is grey"}


def story(**changed):
    """A draft of 110 words about MAN that has nothing wrong with it, but for what is changed."""
    parts = dict.fromkeys(PARTS, " ".join(["Your days went by"] * 5) + ".")
    parts["mind"] += " You are a man and you know it. Your hair is grey."
    return LifeStory().form(MAN).model_validate(parts | {"told": QUOTES} | changed)


def test_a_good_story_has_no_problems():
    draft = story()
    assert LifeStory().problems(draft, MAN) == []
    finished = LifeStory().finish(draft, MAN)
    assert finished.generated == LifeStory().text(draft) == " ".join(getattr(draft, part) for part in PARTS)
    assert (finished.idx, finished.elements, finished.keywords) == (MAN.idx, MAN.elements, MAN.keywords)


@pytest.mark.parametrize("count", [WORDS[0] - 1, WORDS[0], WORDS[1], WORDS[1] + 1])
def test_the_length_is_in_words(count):
    others = sum(len(getattr(story(), part).split()) for part in PARTS if part != "work")
    draft = story(work=" ".join(["your"] * (count - others)))
    expected = [] if WORDS[0] <= count <= WORDS[1] else [f"the story has {count} words; it needs 100 to 150"]
    assert LifeStory().problems(draft, MAN) == expected


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"told": QUOTES | {"age": "you have lived long"}}, "words that should tell age are not in the story"),
        ({"work": "I " * 40 + "my " * 5}, "not told in the second person"),
        ({"childhood": "I'm sorry, but I cannot help with that, you see. " * 2}, 'no story: "i\'m sorry"'),
        ({"childhood": "As an AI language model your childhood was short. " * 2}, "no story: 'as an ai language mo"),
        ({"told": QUOTES | {"age": "your"}}, "quote at least two words of the story for age"),
        ({"told": QUOTES | {"age": "…"}}, "quote at least two words of the story for age"),
        ({"told": QUOTES | {"gender": "you are a ma"}}, "words that should tell gender are not in the story"),
        ({"work": " ".join(["your day"] * 10) + " You became a young woman of the town."}, "gender should be male"),
    ],
)
def test_what_is_wrong_with_a_story_is_said(changed, problem):
    found = LifeStory().problems(story(**changed), MAN)
    assert any(problem in one for one in found), found


@pytest.mark.parametrize(
    "text", ["You are known as an AI model builder.", "You cannot help laughing.", "You say: I cannot write this well."]
)
def test_a_story_may_speak_of_help_and_models_and_quotes_differ_in_capitals_and_marks(text):
    told = {"gender": "You are a man, and you know it", "age": "your hair is grey"}
    assert LifeStory().problems(story(childhood=f"{text} {'Your days went by. ' * 4}", told=told), MAN) == []


@pytest.mark.parametrize(
    ("text", "told", "person"),
    [
        ("Maria, a middle-aged woman, lives alone.", {"gender": "male"}, "third"),
        ("Maria, a middle-aged woman, lives alone.", {"age": "young"}, "third"),
        ("You are a woman.", {"gender": "male"}, "second"),
        ("You're a quiet, honest woman.", {"gender": "male"}, "second"),
        ("You’re a woman.", {"gender": "male"}, "second"),
        ("Everybody knows you as a strong woman.", {"gender": "male"}, "second"),
        ("I am an only daughter.", {"gender": "male"}, "first"),
        ("This person became a retired nurse.", {"age": "young"}, "third"),
        ("You are twenty years old.", {"age": "older"}, "second"),
        ("You were rich from the first day.", {"socioeconomic_status": "poor"}, "second"),
        ("You are a convinced communist.", {"ideology": "liberalism"}, "second"),
        ("You are moody.", {"emotional_intelligence": "stable"}, "second"),
    ],
)
def test_a_description_of_the_person_may_contradict(text, told, person):
    [(factor, element)] = told.items()
    (found,) = contradictions(text, Background(0, told), person)
    assert found.startswith(f"{factor} should be {element}, but the text says")
    assert contradictions(text, Background(0, {"professional_commitment": "inactive"}), person) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Your sister is a lawyer. You met a woman in Rome, and live with women and girls.", {"gender": "male"}),
        ("Your best friend is a woman, and you are married to a woman.", {"gender": "male"}),
        ("You left, because your grandmother called, as the old lady next door said.", {"gender": "male"}),
        ("You are a young father whose daughter is the joy of the house.", {"gender": "male"}),
        ("The lake is man-made.", {"gender": "female"}),
        ("You became a nurse at twenty, twenty years ago.", {"age": "older"}),
        ("You are twenty years older than your sister.", {"age": "older"}),
        ("You are a senior in high school, and your neighbour is a retired nurse.", {"age": "young"}),
        ("Your eyesight is poor. The soup is poor too.", {"socioeconomic_status": "rich"}),
        ("You have a rich inner life, and worked as a maid for a rich family.", {"socioeconomic_status": "poor"}),
        ("You are rich in friends.", {"socioeconomic_status": "poor"}),
        ("Your choir is composed of volatile people.", {"emotional_intelligence": "stable"}),
        ("Your uncle is a professor.", {"education": "uneducated"}),
        ("Your father is a conservative, and you are no fascist.", {"ideology": "liberalism"}),
    ],
)
def test_other_people_and_things_may_be_what_the_person_is_not(text, told):
    assert contradictions(text, Background(0, told)) == []


def test_the_giveaways_are_of_elements_that_there_are_and_do_not_contradict_the_stimuli():
    elements = {factor.key: {element.key for element in factor.elements} for factor in load_factors()}
    for factor, own in load_giveaways().items():
        assert set(own) <= elements[factor]
    for one in draw_backgrounds(200, seed=5):
        for person in ("first", "second", "third"):
            assert contradictions(one.paragraph(person), one, person) == []


def test_the_form_has_the_told_factors_and_nothing_else():
    form = LifeStory().form(MAN)
    assert set(form.model_fields) == {*PARTS, "told"}
    schema = form.model_json_schema()
    assert schema["additionalProperties"] is False and set(schema["required"]) == {*PARTS, "told"}
    told = schema["$defs"]["Told"]
    assert set(told["required"]) == {"gender", "age"} and told["additionalProperties"] is False
    good = story().model_dump()
    for bad in (good | {"name": "Ada"}, good | {"told": {"gender": "a man"}}, good | {"mind": " "}, good | {"mind": 3}):
        with pytest.raises(ValidationError):
            form.model_validate(bad)


@pytest.mark.parametrize("person", ["first", "second", "third"])
def test_the_request_names_every_attribute_and_the_length(person):
    text = LifeStory(person).request(MAN, [])
    assert "gender: Male" in text and "age: Older" in text and "100 to 150 words" in text
    assert f"the {person} person" in text and MAN.sentences(person)["age"] in text
    again = LifeStory(person).request(MAN, ["the story has 90 words", "it is dull"])
    assert again.startswith(text) and "- the story has 90 words\n- it is dull" in again
    assert "{" not in text


def test_keywords_are_noun_phrases_that_make_clauses():
    draft = Keywords().form(MAN).model_validate({"gender": "a tall man", "age": "someone with grey hair"})
    assert Keywords().problems(draft, MAN) == []
    assert Keywords().finish(draft, MAN).paragraph("first") == "I am a tall man. I am someone with grey hair."
    assert "gender: Male" in Keywords().request(MAN, []) and "grey." not in Keywords().request(MAN, [])


@pytest.mark.parametrize(
    ("gender", "problem"),
    [
        ("He is a man", "write a noun phrase"),
        ("a {I}", "write a noun phrase"),
        ("a tall woman", "gender should be male"),
        ("a " + "very " * 30 + "tall man", "write a noun phrase"),
    ],
)
def test_other_keywords_will_not_do(gender, problem):
    draft = Keywords().form(MAN).model_validate({"gender": gender, "age": "someone with grey hair"})
    assert any(problem in one for one in Keywords().problems(draft, MAN))
