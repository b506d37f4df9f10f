"""Files in the paper's form come through unchanged; what is wrong with one is named."""

import json
from dataclasses import replace

import pytest

from personalib.base.data import DataError
from personalib.stimuli.backgrounds import draw_backgrounds
from personalib.stimuli.paper_files import (
    element_named,
    load_backgrounds,
    load_feature_patterns,
    publish,
    save_backgrounds,
    save_feature_patterns,
    with_fixed_text,
    with_story,
)

# The layout of the paper's files, with texts and numbers of our own.
NOBODY = {
    "idx": 0,
    "attributes": {"Gender": "", "Age": ""},
    "fixed_bg": {"Gender": "it is not told", "Age": "it is not told"},
    "generative_bg": "",
    "features": {"fixed": {}, "generative": None},
}
SOMEBODY = {
    "idx": 1,
    "attributes": {"Gender": "female", "Age": "older", "Education level": "uneducated or elementary school"},
    "fixed_bg": {"Gender": "a woman – née Ånd", "Age": "of age", "Education level": "little school"},
    "generative_bg": "A life.",
    "features": {"fixed": {"Gender": [3, 5], "Age": [7]}, "generative": None},
}
EARLY = {
    "idx": 2,
    "features": {"Gender": "male", "Age": "middle-aged", "Life satisfaction": "fair"},
    "fixed_bg": {"Gender": "a man", "Age": "between ages"},
    "generative_bg": "Another life.",
}
PATTERN = {"Layer": 12, "size": 64, "Details": {"Gender": {"female": {"women": 3, "girls": 5}}, "Age": {"older": {}}}}


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="file.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file


def test_a_new_story_drops_the_features_of_the_old_one(write):
    entry = load_backgrounds(write([SOMEBODY | {"features": {"fixed": {"Age": [7]}, "generative": [1, 2]}}]))[0]
    told = with_story(entry, "Another life.")
    features = {"fixed": {"Age": [7]}, "generative": None}
    assert told == replace(entry, generative_bg="Another life.", features=features)
    assert with_story(load_backgrounds(write([EARLY]))[0], "A life.").features is None


def test_a_background_file_is_saved_as_it_was_loaded(write, tmp_path):
    entries = [NOBODY, SOMEBODY, SOMEBODY | {"idx": 3, "note": {"by": "a reader"}}]
    source, target = write(entries), tmp_path / "out.json"
    save_backgrounds(load_backgrounds(source), target)
    assert json.loads(target.read_text()) == entries
    assert [list(entry) for entry in json.loads(target.read_text())] == [list(entry) for entry in entries]
    assert "Ånd" in target.read_text(), "readable, not escaped"


@pytest.mark.parametrize("none", [None, float("nan")])
def test_keywords_that_are_none_are_left_out(write, tmp_path, none):
    source, target = write([SOMEBODY | {"keywords": none, "note": None}]), tmp_path / "out.json"
    [one] = load_backgrounds(source)
    assert one.background().keywords == {}
    save_backgrounds([one], target)
    assert json.loads(target.read_text()) == [SOMEBODY | {"note": None}]


def test_the_first_files_have_attributes_under_another_name(write):
    (one,) = load_backgrounds(write([EARLY | {"idx": 2.0}]))
    assert one.idx == 2 and type(one.idx) is int, "a table may hold it so"
    assert one.attributes == EARLY["features"] and one.features is None
    assert one.background().elements == {"gender": "male"}, "what this book does not have is left out"


def test_an_entry_is_a_person_in_this_books_words(write):
    nobody, somebody = (one.background() for one in load_backgrounds(write([NOBODY, SOMEBODY])))
    assert nobody.elements == {} and nobody.generated == ""
    assert somebody.elements == {"gender": "female", "age": "older", "education": "uneducated"}
    assert somebody.generated == "A life." and somebody.idx == 1


@pytest.mark.parametrize(
    ("factor", "value", "key"),
    [
        ("Gender", "female", "female"),
        ("AI familiarity", "familiar", "familiar"),
        ("Social ideology", " fascism ", "fascism"),
        ("Age", "middle-aged", None),
        ("Age", "", None),
        ("Life satisfaction", "young", None),
        ("Family background", "s", "strained"),
    ],
)
def test_elements_are_found_by_title(factor, value, key):
    found = element_named(factor, value)
    assert (found.key if found else None) == key


def test_drawn_backgrounds_come_back_whole(tmp_path):
    drawn = draw_backgrounds(30, seed=2)
    save_backgrounds(map(publish, drawn), tmp_path / "drawn.json")
    assert [one.background() for one in load_backgrounds(tmp_path / "drawn.json")] == drawn


def test_feature_patterns_are_saved_as_they_were_loaded_with_fields_that_the_paper_does_not_have(write, tmp_path):
    extra = {
        "sae": {"release": "gemma-2b-it-res-jb", "revision": None, "centred": False},
        "scores": [{"factor": "Gender", "features": [{"index": 3, "threshold": 0.1 + 0.2, "words": ["naïve"]}]}],
    }
    source, target = write([PATTERN | extra, PATTERN]), tmp_path / "out.json"
    first, second = load_feature_patterns(source)
    assert first.extra == extra and second.extra == {} and first.details == second.details
    assert (first.layer, first.size) == (12, 64)
    assert first.features("Gender", "female") == [3, 5] and first.features("Age", "older") == []
    save_feature_patterns([first, second], target)
    assert json.loads(target.read_text()) == [PATTERN | extra, PATTERN]
    assert list(json.loads(target.read_text())[0]) == ["Layer", "size", "Details", "sae", "scores"]
    assert load_feature_patterns(target) == [first, second]


def test_a_pattern_without_details_is_empty(write):
    (pattern,) = load_feature_patterns(write([{"Layer": 1, "size": 8, "note": "none yet"}]))
    assert pattern.details == {} and pattern.extra == {"note": "none yet"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not valid JSON: line 1"),
        ({"idx": 0}, "row 1: attributes: is missing; add it"),
        ([1], "row 1: is not an object"),
        ([NOBODY, SOMEBODY | {"idx": "one"}], "row 2, field 'idx': is 'one'; write a whole number"),
        ([SOMEBODY | {"idx": "1"}], "row 1, field 'idx': is '1'; write a whole number"),
        ([SOMEBODY | {"attributes": {"Gender": 3}}], r"row 1: attributes\.Gender: is 3; write a text"),
        ([SOMEBODY | {"fixed_bg": "text"}], "row 1: fixed_bg: Input should be a valid dictionary"),
        ([SOMEBODY | {"features": [1]}], "row 1: features: Input should be a valid dictionary"),
        ([SOMEBODY | {"keywords": ["a woman"]}], "row 1: keywords: Input should be a valid dictionary"),
        ([SOMEBODY | {"keywords": {"Gender": "{I} {am} {x}"}}], r"row 1: keywords\.Gender: '{I} {am} {x}' has braces"),
        ([SOMEBODY | {"generative_bg": 5}], "row 1: generative_bg: is 5; write a text"),
    ],
)
def test_a_wrong_background_file_is_named(write, content, message):
    with pytest.raises(DataError, match=message):
        load_backgrounds(write(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Layer": "12"}, "row 1, field 'Layer': is '12'; write a whole number"),
        ({"size": None}, "row 1, field 'size': is missing"),
        ({"Details": {"Gender": {"female": 3}}}, r"Details\.Gender\.female: Input should be a valid dictionary"),
        ({"Details": None}, "Details: Input should be a valid dictionary"),
        ({"Details": {"Gender": {"female": {"women": True}}}}, "women: Input should be a valid integer, not True"),
        *(
            ({"Details": {"Gender": {"female": {"women": each}}}}, f"'female': {each} is no feature of an SAE with 64")
            for each in (64, -1)
        ),
    ],
)
def test_a_wrong_feature_pattern_is_named(write, change, message):
    with pytest.raises(DataError, match=message):
        load_feature_patterns(write([PATTERN | change]))
    with pytest.raises(DataError, match="row 2: is not an object"):
        load_feature_patterns(write([PATTERN, 1]))


def test_fixed_text_needs_keywords(write):
    (one,) = load_backgrounds(write([SOMEBODY]))
    with pytest.raises(DataError, match="background 1 has no keyword for Gender, Age, Education level"):
        with_fixed_text(one, "first")
