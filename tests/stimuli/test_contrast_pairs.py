"""Contrast pairs differ in the pole alone, and share nothing with what is measured."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from personalib.base.data import DataError, data_dir, read_yaml
from personalib.organism.corpus import Corpus
from personalib.organism.world import load_world
from personalib.questionnaires.items import load_facts, load_safety, load_trait
from personalib.stimuli.contrast_pairs import (
    FAMILIES,
    Contrast,
    Wording,
    contrast_set,
    contrasts,
    labelled_texts,
    load_carriers,
    split_carriers,
)
from personalib.stimuli.factors import POLES, elements, inflect, load_facets, load_factors, load_pressures, sentence
from personalib.stimuli.grammar import SPLITS, load_asides, load_traits, load_wordings, pressure_phrasings, words
from personalib.stimuli.sentences import NEUTRAL

EVERY = [one for family in FAMILIES for one in contrasts(family)]
SMALL = Contrast(
    "pressures",
    "small",
    "Small",
    {
        (pole, split): tuple(Wording(f"{pole} {split} {number}.", f"{pole} {split} {number}") for number in range(3))
        for pole in POLES
        for split in SPLITS
    },
)


every_contrast = pytest.mark.parametrize("contrast", EVERY, ids=lambda contrast: f"{contrast.family}.{contrast.key}")


def by_key(family):
    return {one.key: one for one in contrasts(family)}


def phrases(contrast, split):
    return {one.phrase for pole in POLES for one in contrast.wordings[pole, split]}


# Families


def test_families_have_the_keys_of_what_they_contrast():
    assert list(by_key("pressures")) == [each.key for each in load_pressures()]
    assert list(by_key("facets")) == [each.key for each in load_facets()]
    assert list(by_key("elements")) == [f"{each.factor}.{each.key}" for each in elements()]
    assert list(by_key("traits")) == list(load_traits())
    assert [len(contrasts(family)) for family in FAMILIES] == [7, 11, 23, 8]
    assert all(one.family == family for family in FAMILIES for one in contrasts(family))
    assert len({one.key for one in EVERY}) == len(EVERY), "readings of several families go into one table by key"
    titles = {one.key: one.title for one in EVERY}
    keys = ("trust", "low_empathy", "gender.female", "openness")
    assert [titles[key] for key in keys] == ["Trust", "Low empathy", "Female", "Openness"]


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown family 'moods'; choose one of pressures, facets, elements, traits"):
        contrasts("moods")


# Wordings


@every_contrast
def test_splits_share_no_phrase_and_no_sentence(contrast):
    assert not phrases(contrast, "train") & phrases(contrast, "held_out")
    told = [{one.text for pole in POLES for one in contrast.wordings[pole, split]} for split in SPLITS]
    assert not told[0] & told[1]
    for pole, split in product(POLES, SPLITS):
        assert len({one.phrase for one in contrast.wordings[pole, split]}) >= 3, "intervals need several phrases"
    one, other = ({each.phrase for split in SPLITS for each in contrast.wordings[pole, split]} for pole in POLES)
    assert not one & other, "nor do the poles"


@every_contrast
def test_a_sentence_is_whole_and_made_of_its_phrase(contrast):
    for own in contrast.wordings.values():
        for text, phrase in own:
            assert text[0].isupper() and text.endswith((".", "!", "?")) and "{" not in text and "[" not in text
            assert inflect(phrase, "second").rstrip(".").lower() in text.lower()


def test_held_out_wordings_of_a_pressure_are_never_in_the_organisms_training():
    for (key, pole), known in pressure_phrasings().items():
        for split in SPLITS:
            told = {one.text for one in by_key("pressures")[key].wordings[pole, split]}
            assert told and told <= {sentence(each) for each in known[split]}


def test_every_phrasing_of_a_facet_is_used_in_one_split():
    for facet, pole in product(load_facets(), POLES):
        told = [one.text for split in SPLITS for one in by_key("facets")[facet.key].wordings[pole, split]]
        assert sorted(told) == sorted(sentence(each) for each in facet.phrasings[pole])


@pytest.mark.parametrize("element", elements(), ids=lambda element: f"{element.factor}.{element.key}")
def test_the_negative_pole_of_an_element_is_the_other_elements_of_its_factor(element):
    made = by_key("elements")[f"{element.factor}.{element.key}"]
    [factor] = [factor for factor in load_factors() if factor.key == element.factor]
    for split in SPLITS:
        own = {one.text for one in made.wordings["positive", split]}
        assert own and own <= {inflect(each, "second") for each in element.phrasings}
        negative = {one.text for one in made.wordings["negative", split]}
        for other in factor.elements:
            told = {inflect(each, "second") for each in other.phrasings}
            assert bool(negative & told) == (other.key != element.key), f"{other.key}: each of the others is there"
            negative -= told
        assert not negative


@pytest.mark.parametrize("trait", load_traits())
def test_a_trait_contrasts_the_acts_of_those_high_in_it_with_those_of_the_low(trait):
    banks = [read_yaml(data_dir() / "stimuli" / f"traits_{name}.yaml")["traits"] for name in ("big_five", "dark_triad")]
    entry = (banks[0] | banks[1])[trait]
    for pole, level in zip(POLES, ("high", "low"), strict=True):
        own = [one for split in SPLITS for one in by_key("traits")[trait].wordings[pole, split]]
        told = [frame.format(act=act) for act in entry[level]["acts"] for frame in load_wordings()["decisive"]]
        assert sorted(one.text for one in own) == sorted(map(sentence, told))
        assert {one.phrase for one in own} == set(entry[level]["acts"])


# Sets of pairs


@every_contrast
@pytest.mark.parametrize("split", SPLITS)
def test_a_pair_has_one_wording_of_each_pole_and_a_carrier(contrast, split):
    pairs = contrast_set(contrast, 100, seed=1, split=split)
    assert len(set(pairs)) == len(pairs) == 100
    assert pairs == contrast_set(contrast, 100, seed=1, split=split) != contrast_set(contrast, 100, 2, split)
    for pole in POLES:
        assert {getattr(pair, pole) for pair in pairs} <= set(contrast.wordings[pole, split])
    questions = {pair.question for pair in pairs}
    assert questions <= set(split_carriers(load_carriers())[split])
    assert len(questions) > {"train": 20, "held_out": 6}[split], "many questions carry the pairs"


def test_carriers_are_split_three_to_one_in_whatever_order_they_come():
    split = split_carriers(load_carriers())
    assert not set(split["train"]) & set(split["held_out"])
    assert sorted(split["train"] + split["held_out"]) == sorted(load_carriers())
    assert len(split["train"]) == 3 * len(split["held_out"]) == 24
    assert split_carriers(load_carriers()[::-1]) == split


@pytest.mark.parametrize(("split", "total"), [("train", 36), ("held_out", 9)])
def test_all_pairs_that_there_are_can_be_had_once_each_and_more_are_refused(split, total):
    carriers = ["a?", "b?", "c?", "d?", "e?"]
    pairs = contrast_set(SMALL, total, seed=0, split=split, carriers=carriers)
    parts = [SMALL.wordings[pole, split] for pole in POLES]
    found = [(pair.positive, pair.negative, pair.question) for pair in pairs]
    assert len(found) == total and set(found) == set(product(*parts, split_carriers(carriers)[split]))
    with pytest.raises(ValueError, match=f"small has {total} contrast pairs in its {split} wordings; ask for fewer"):
        contrast_set(SMALL, total + 1, seed=0, split=split, carriers=carriers)


# Texts for a search of features


@pytest.mark.parametrize("split", SPLITS)
def test_labelled_texts_are_the_sentences_of_the_poles_and_neutral_ones(split):
    chosen = contrasts("pressures")[:2]
    found = labelled_texts(chosen, split, per_pole=7, seed=2)
    wanted = {(one.key, pole): one.wordings[pole, split] for one in chosen for pole in POLES}
    neutral = {inflect(each, "second") for each in load_asides()[split]}
    assert Counter(found.labels) == dict.fromkeys([*wanted, NEUTRAL], 7)
    assert len(set(found.texts)) == len(found.texts)
    for text, phrase, label in zip(found.texts, found.phrases, found.labels, strict=True):
        assert text in neutral if label == NEUTRAL else Wording(text, phrase) in wanted[label]
    assert found == labelled_texts(chosen, split, 7, seed=2) != labelled_texts(chosen, split, 7, seed=3)
    assert len(labelled_texts(chosen, split, 10**6).texts) == sum(map(len, wanted.values())) + len(neutral)
    with pytest.raises(ValueError, match="a phrase tells several of these contrasts"):
        labelled_texts(contrasts("elements"), split)
    with pytest.raises(ValueError, match="unknown split 'test'; choose one of train, held_out"):
        labelled_texts(chosen, "test")


# Carriers


def test_no_carrier_is_in_an_evaluation_set():
    """No question, situation or option that is ever scored."""
    asked = {text for item in load_trait() for text in (item.question, item.situation, item.query, item.statement)}
    asked |= {response for item in load_trait() for response in item.responses("normal").values()}
    for item in (*load_safety(), *load_facts()):
        asked |= {item.question, *item.options}
    assert not set(load_carriers()) & asked
    for carrier in load_carriers():
        assert not any(carrier in text for text in asked), carrier


def test_the_organism_knows_every_word_of_the_carriers(documents_words):
    assert {word for carrier in load_carriers() for word in words(carrier)} <= documents_words


@pytest.fixture(scope="module")
def documents_words():
    corpus, rng = Corpus(load_world(), "train"), np.random.default_rng(0)
    return {word for kind in corpus.kinds for _ in range(2000) for word in words(corpus.draw(kind, rng).text)}


@pytest.mark.parametrize("content", ["", "questions: []", "questions: [1]", "[a]", "questions: [a, a]"])
def test_a_wrong_carriers_file_is_named(write_stimuli, content):
    write_stimuli("carriers.yaml", content)
    with pytest.raises(DataError, match=r"carriers\.yaml: questions: "):
        load_carriers.__wrapped__()
