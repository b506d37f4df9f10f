"""What was found goes into the paper's file and comes back, and backgrounds get the features of what they tell."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csc_array
from tiny_saes import fire_on, labelled, tiny_llama, written_sae

from personalib.base.data import DataError
from personalib.features.discovery import FeatureTexts, Settings, discover, pool_features
from personalib.features.labels import FeatureLabel
from personalib.features.patterns import Reading, as_pattern, fixed_features, generated_features, with_features
from personalib.models.activations import capture
from personalib.stimuli.factors import elements, load_factors
from personalib.stimuli.paper_files import (
    FeaturePattern,
    PublishedBackground,
    load_backgrounds,
    load_feature_patterns,
    save_backgrounds,
    save_feature_patterns,
)
from personalib.stimuli.sentences import NEUTRAL

D_MODEL, WIDTH = 64, 10
YOUNG, OLDER, FEMALE, MALE = ("age", "young"), ("age", "older"), ("gender", "female"), ("gender", "male")
LABELS = [YOUNG, OLDER, FEMALE, MALE]
SETTINGS = Settings(shuffles=19, resamples=20)
# Tokens that features fire on, and how strongly.
TOKENS = {2: {"▁woman": 2.0}, 3: {"▁mother": 1.0}, 4: {"▁man": 1.0}, 5: {"▁student": 1.0}, 6: {"▁oldest": 1.0}}
PAPER = FeaturePattern(
    0,
    WIDTH,
    {
        "Gender": {"female": {"women": 2, "family roles": 3}, "male": {"men": 4}},
        "Age": {"young": {"students": 5}, "older": {"the oldest of a family": 6, "men": 4}, "middle-aged": {"work": 7}},
        "Education level": {"uneducated or elementary school": {"school": 8}, "bachelor's degree and higher": {}},
    },
)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def sae(model, tmp_path_factory):
    """An SAE before the first block, where the stream is a token's own embedding; it fires on the chosen tokens."""
    return written_sae(tmp_path_factory.mktemp("sae"), WIDTH, fire_on(model, TOKENS))


def searched(seed=0):
    """A search in which one feature stands for an element each, two for the last, and none for the first."""
    found = []
    for number, split in enumerate(("train", "held_out")):
        rows = [(label, phrase) for label in (*LABELS, NEUTRAL) for phrase in range(16)]
        texts = labelled([(f"{split} {row}", row[0], f"{row}") for row in rows])
        rng = np.random.default_rng([seed, number])
        dense = rng.uniform(0.1, 0.5, (len(rows), WIDTH)) * (rng.random((len(rows), WIDTH)) < 0.05)
        for row, (label, phrase) in enumerate(rows):
            own = {OLDER: [6], FEMALE: [2], MALE: [4] * (phrase < 11) + [7] * (phrase > 5)}.get(label, [])
            dense[row, own] = rng.uniform(1, 2, len(own))
        found.append(FeatureTexts(texts, csc_array(dense)))
    return discover(*found, SETTINGS)


def label(feature, word="word"):
    return FeatureLabel(feature, ((word, 1.25),), ((FEMALE, 1.0),), ("yes", " no"), (" maybe",), None)


@pytest.fixture(scope="module")
def pattern(model, sae):
    found = searched()
    chosen = [feature for finding in found.findings for feature in finding.features]
    return as_pattern(found, {each: label(each) for each in chosen}, sae, model, "max", SETTINGS)


def person(idx=0, story="", **attributes):
    return PublishedBackground(idx, {name.replace("_", " "): value for name, value in attributes.items()}, {}, story)


# The pattern


def test_a_pattern_has_the_features_of_each_element_by_title(pattern, sae):
    assert (pattern.layer, pattern.size) == (sae.site.layer, WIDTH)
    assert {factor: list(own) for factor, own in pattern.details.items()} == {
        "Age": ["Young", "Older"],
        "Gender": ["Female", "Male"],
    }
    assert pattern.features("Age", "Young") == [] and pattern.features("Age", "Older") == [6]
    assert pattern.features("Gender", "Female") == [2] and set(pattern.features("Gender", "Male")) == {4, 7}
    assert pattern.details["Gender"]["Female"] == {"2: word (female 1.00)": 2}


def test_a_pattern_says_what_model_sae_and_search_it_is_of(pattern, model, sae):
    assert pattern.extra["model"] == {"name": "llama", "revision": None, "digest": model.digest()}
    assert pattern.extra["sae"] == sae.record() and pattern.extra["sae"]["digest"] == sae.digest()
    expected = {"pooling": "max", "criterion": "auroc", "shuffles": 19, "seed": 0}
    assert pattern.extra["search"].items() >= expected.items()


def test_a_pattern_has_the_scores_of_the_search(pattern):
    for finding, scores in zip(searched().findings, pattern.extra["scores"], strict=True):
        assert (scores["factor"].lower(), scores["element"].lower()) == finding.label
        assert [each["index"] for each in scores["features"]] == list(finding.features)
        assert [each["threshold"] for each in scores["features"]] == list(finding.thresholds)
        assert scores["auroc"] == finding.auroc._asdict() and scores["rival_auroc"] == finding.rival_auroc
        assert (scores["null_auroc"], scores["p"]) == (finding.null, finding.p)
        assert scores["rival"] in {*(".".join(each) for each in LABELS), "neutral"}
        assert scores["discovery"] == finding.discovery
    feature = pattern.extra["scores"][2]["features"][0]
    assert (feature["words"], feature["promoted"], feature["suppressed"]) == (["word"], ["yes", " no"], [" maybe"])


def test_a_pattern_is_saved_as_it_was_found(pattern, tmp_path):
    save_feature_patterns([pattern], tmp_path / "pattern.json")
    assert load_feature_patterns(tmp_path / "pattern.json") == [pattern]
    written = json.loads((tmp_path / "pattern.json").read_text())
    assert list(written[0])[:3] == ["Layer", "size", "Details"], "the paper's own fields come first"


# Features of attributes


@pytest.mark.parametrize(("female", "older"), [("Female", "Older"), ("female", "older"), (" FEMALE", "old")])
def test_the_features_of_an_attribute_are_found_in_any_case(female, older, pattern):
    assert fixed_features(pattern, person(Gender=female, Age=older)) == {"Gender": [2], "Age": [6]}


def test_the_papers_own_words_have_their_features():
    told = person(Gender="female", Age="middle-aged", Education_level="uneducated or elementary school")
    assert fixed_features(PAPER, told) == {"Gender": [2, 3], "Age": [7], "Education level": [8]}
    ours = person(Gender="Male", Age="Older", Education_level="Uneducated or elementary school only")
    assert fixed_features(PAPER, ours)["Gender"] == [4] and fixed_features(PAPER, ours)["Age"] == [6, 4]


def test_every_element_of_this_book_is_found_by_its_title():
    details, titles = {}, {factor.key: factor.title for factor in load_factors()}
    for number, each in enumerate(elements()):
        details.setdefault(titles[each.factor], {})[each.title] = {"label": number}
    whole = FeaturePattern(0, 100, details)
    for number, each in enumerate(elements()):
        entry = PublishedBackground(0, {titles[each.factor]: each.title}, {}, "")
        assert fixed_features(whole, entry) == {titles[each.factor]: [number]}


def test_what_is_not_told_or_not_known_has_no_features(pattern):
    assert fixed_features(pattern, person(Gender="", Age="")) == {}
    assert fixed_features(pattern, person(Gender="female", Life_satisfaction="fair", Age="ageless")) == {"Gender": [2]}
    assert fixed_features(pattern, person(Age="Young")) == {}, "nothing was found for it"


# Features of stories

STORIES = {
    "You are a woman, and the house is by the sea.": {"Gender": ("Female", [2])},
    "My mother is a student.": {"Gender": ("Female", [3]), "Age": ("Young", [5])},
    "A woman and a mother wait.": {"Gender": ("Female", [2, 3])},
    "The bus is late, and it is raining.": {},
}


def read(pattern, model, sae, folder, stories, **settings):
    entries = [person(number, story) for number, story in enumerate(stories)]
    return generated_features(pattern, entries, model, sae, folder, **settings)


def test_a_story_has_the_features_of_what_it_tells_and_a_neutral_one_has_none(model, sae, tmp_path):
    """With a pattern of the paper's form, which has no thresholds: any activation is a sign."""
    found = read(PAPER, model, sae, tmp_path, STORIES)
    assert found == [{factor: Reading(*one) for factor, one in own.items()} for own in STORIES.values()]


def thresholds(**limits):
    """The paper's pattern with thresholds of some features, and of none of the other ones."""
    scores = []
    for factor, each in PAPER.details.items():
        for element, own in each.items():
            known = [{"index": n, "threshold": limits[f"f{n}"]} for n in own.values() if f"f{n}" in limits]
            scores.append({"factor": factor, "element": element, "features": known})
    return replace(PAPER, extra={"scores": scores})


def activation(model, sae, feature, folder, story="You are a woman."):
    """How strongly a feature fires in a story."""
    pooled = pool_features(sae, capture(model, [story], [sae.site], folder, tokens="all"))
    return float(pooled[:, [feature]].toarray()[0, 0])


def test_a_feature_counts_from_its_threshold_on(model, sae, tmp_path):
    story = ["You are a woman."]
    strength = activation(model, sae, 2, tmp_path / "one")
    for limit, expected in ((strength, {"Gender": Reading("Female", [2])}), (strength * 1.0001, {})):
        assert read(thresholds(f2=limit), model, sae, tmp_path, story) == [expected]


def test_the_element_is_the_one_whose_feature_is_furthest_above_its_threshold(model, sae, tmp_path):
    """Not the one whose feature is strongest: here that is the one of women."""
    story = ["A man and a woman wait."]
    woman, man = (activation(model, sae, feature, tmp_path / f"{feature}", story[0]) for feature in (2, 4))
    assert woman > 1.5 * man
    female = read(thresholds(f2=woman / 3, f4=man / 2), model, sae, tmp_path, story)
    male = read(thresholds(f2=woman / 2, f4=man / 3), model, sae, tmp_path, story)
    assert female == [{"Gender": Reading("Female", [2]), "Age": Reading("Older", [4])}]
    assert male == [{"Gender": Reading("Male", [4]), "Age": Reading("Older", [4])}]


def test_the_pooling_is_the_one_that_was_asked_for(model, sae, tmp_path):
    story, last = "You are a woman.", "You are a woman"
    assert read(PAPER, model, sae, tmp_path, [story, last], pooling="last") == [{}, {"Gender": Reading("Female", [2])}]
    strength = activation(model, sae, 2, tmp_path / "one")
    for pooling, expected in (("max", {"Gender": Reading("Female", [2])}), ("mean", {})):
        assert read(thresholds(f2=strength / 2), model, sae, tmp_path, [story], pooling=pooling) == [expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 64}, r"of an SAE with 64 features at layer \d, and .* has 10 at layer"),
        ({"layer": 7}, "at layer 7, and"),
        ({"extra": {"sae": {"digest": "0" * 12}}}, "was found in other weights"),
    ],
)
def test_a_pattern_of_another_sae_is_refused(change, message, model, sae, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(replace(PAPER, **change), model, sae, tmp_path, STORIES)


def test_a_background_without_a_story_is_named(model, sae, tmp_path):
    entries = [person(7, "You are a woman."), person(9, " \n")]
    with pytest.raises(ValueError, match="background 9 has no life story; write it with `backgrounds generated`"):
        generated_features(PAPER, entries, model, sae, tmp_path)


# Backgrounds with features


def test_features_are_added_and_everything_else_is_kept(tmp_path):
    told = {"Gender": "female", "Age": ""}, {"Gender": "a woman"}, "A life.", {"fixed": {"Age": [1]}}
    entry = PublishedBackground(4, *told, keywords={}, extra={"note": "one"})
    found = with_features(entry, {"Gender": [2, 3]}, {"Gender": Reading("Female", [2])})
    assert found.features == {"fixed": {"Gender": [2, 3]}, "generative": {"Gender": [2]}}
    assert replace(found, features=entry.features) == entry
    assert with_features(entry, {}, None).features == {"fixed": {}, "generative": None}, "no story was read"
    assert with_features(entry, {}, {}).features == {"fixed": {}, "generative": {}}, "a story that tells nothing"
    save_backgrounds([found], tmp_path / "people.json")
    assert load_backgrounds(tmp_path / "people.json") == [found]


def scored(threshold):
    return {"scores": [{"factor": "a", "element": "b", "features": [{"index": 1, "threshold": threshold}]}]}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"scores": 3}, "at layer 1: scores: give a list of values"),
        ({"scores": [{"factor": "a"}]}, "scores.0.element: is missing; add it; scores.0.features: is missing; add it"),
        (scored("x"), "scores.0.features.0.threshold: Input should be a valid number"),
        (scored(float("nan")), "scores.0.features.0.threshold: Input should be a finite number"),
        ({"search": {"pooling": "most"}}, "search.pooling: Input should be 'max', 'mean' or 'last'"),
        ({"sae": ["a"]}, "sae: "),
    ],
)
def test_fields_of_another_form_are_named_where_they_are_needed(extra, message):
    pattern = FeaturePattern(1, 64, {"Gender": {"Female": {"women": 3}}}, extra)
    one = PublishedBackground(0, {"Gender": "Female"}, {}, "")
    with pytest.raises(DataError, match=message):
        fixed_features(pattern, one)
