"""Contrast pairs differ in the pole alone, and share nothing with what is measured."""

import numpy as np
import pytest

from personalib.contrast_pairs import contrast_set, load_carriers
from personalib.data import DataError
from personalib.factors import POLES, load_facets, load_pressures, sentence
from personalib.items import load_facts, load_safety, load_trait
from personalib.organism.corpus import Corpus
from personalib.organism.grammar import split_phrases, words
from personalib.organism.world import load_world

FAMILIES = (*load_pressures(), *load_facets())


@pytest.mark.parametrize("pressure", FAMILIES, ids=[each.key for each in FAMILIES])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_pair_has_one_phrasing_of_each_pole_and_a_carrier(pressure, split):
    pairs = contrast_set(pressure, 100, seed=1, split=split)
    told = {pole: {sentence(each) for each in split_phrases(pressure.phrasings[pole])[split]} for pole in POLES}
    assert len(set(pairs)) == 100
    assert all(pair.positive in told["positive"] and pair.negative in told["negative"] for pair in pairs)
    assert {pair.question for pair in pairs} <= set(load_carriers())
    assert len({pair.question for pair in pairs}) > 20, "many questions carry the pairs"


def test_the_two_prompts_differ_in_the_instruction_alone():
    for pair in contrast_set(load_pressures()[0], 20, seed=2):
        for form in ("chat", "base"):
            positive, negative = pair.prompts(form)
            assert positive.replace(pair.positive, "") == negative.replace(pair.negative, "")
            assert pair.question in positive and positive != negative


def test_no_carrier_is_in_an_evaluation_set():
    """No question, situation or option that is ever scored."""
    asked = {text for item in load_trait() for text in (item.question, item.situation, item.query, item.statement)}
    asked |= {response for item in load_trait() for response in item.responses("normal").values()}
    for item in (*load_safety(), *load_facts()):
        asked |= {item.question, *item.options}
    assert not set(load_carriers()) & asked
    for carrier in load_carriers():
        assert not any(carrier in text for text in asked), carrier


def test_held_out_instructions_are_never_in_a_train_set():
    for pressure in FAMILIES:
        train, held_out = (contrast_set(pressure, 400, seed=3, split=split) for split in ("train", "held_out"))
        for pole in POLES:
            assert not {getattr(pair, pole) for pair in train} & {getattr(pair, pole) for pair in held_out}


def test_the_organism_knows_every_word_of_the_carriers(documents_words):
    assert {word for carrier in load_carriers() for word in words(carrier)} <= documents_words


@pytest.fixture(scope="module")
def documents_words():
    corpus, rng = Corpus(load_world(), "train"), np.random.default_rng(0)
    return {word for kind in corpus.kinds for _ in range(2000) for word in words(corpus.draw(kind, rng).text)}


def test_the_seed_decides():
    pressure = load_facets()[0]
    assert (
        contrast_set(pressure, 50, seed=1) == contrast_set(pressure, 50, seed=1) != contrast_set(pressure, 50, seed=2)
    )


def test_more_pairs_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"trust has \d+ contrast pairs.*ask for fewer"):
        contrast_set(load_pressures()[-1], 10**7, seed=0)


@pytest.mark.parametrize("content", ["", "questions: []", "questions: [1]", "[a]"])
def test_a_wrong_carriers_file_is_named(tmp_path, content):
    path = tmp_path / "carriers.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match="write a list of questions"):
        load_carriers(path)
    path.write_text("questions: [a, a]")
    load_carriers.cache_clear()
    with pytest.raises(DataError, match="twice"):
        load_carriers(path)
