"""A study knows what a choice needs: readings, norms, what saying it does, and vectors."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.agreement import cluster
from personalib.evaluation.arms import prompted_arms
from personalib.evaluation.ask import evaluate, prompts
from personalib.evaluation.estimates import ALL, effects
from personalib.evaluation.study import Study, prompted_effects, searched_vectors, told_poles
from personalib.features.saes import load_sae
from personalib.features.vectors import feature_vector, prompt_features
from personalib.models.activations import capture
from personalib.models.parts import Site
from personalib.steering.doses import site_norms
from personalib.stimuli.contrast_pairs import SPLITS, contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.vectors.contrast import all_sites, fit_vector, read_contrasts
from personalib.vectors.contrast import prompts as pair_prompts

SITES = [Site(1), Site(3)]
SAE = "resid_post.1/width_512"
PAIRS = 16
PRESSURES, ELEMENTS = (
    [one for one in contrasts(family) if one.key in keys]
    for family, keys in (
        ("pressures", ("trust", "activity")),
        ("elements", ("gender.female", "age.young", "ideology.fascism")),
    )
)


@pytest.fixture(scope="module")
def sae():
    return load_sae(sae_id=SAE)


@pytest.fixture(scope="module")
def elements(organism, few, tmp_path_factory):
    """Two factors of two elements."""
    told = [
        one for one in contrasts("elements") if one.key in ("gender.female", "gender.male", "age.young", "age.older")
    ]
    return Study.read(organism, told, few, tmp_path_factory.mktemp("elements"), sites=SITES[:1], pairs=6)


# What is read


def test_a_study_reads_norms_and_pairs_at_the_same_sites(study, organism, few, tmp_path):
    assert study.norms == site_norms(organism, prompts(organism, few), SITES, tmp_path / "norms")
    assert list(study.readings) == [one.key for one in study.contrasts] and study.form == "chat"
    expected = read_contrasts(organism, study.contrasts, SITES, tmp_path, count=PAIRS, seed=2)
    for key, halves in study.readings.items():
        assert set(halves) == set(SPLITS)
        for split, own in halves.items():
            assert own.sites == tuple(SITES) and own.pairs == expected[key][split].pairs and len(own.pairs) == PAIRS
            for site in SITES:
                np.testing.assert_allclose(own.positive[site], expected[key][split].positive[site], atol=1e-4)


def test_a_study_looks_at_what_all_blocks_but_the_last_leave(organism, few, tmp_path):
    own = Study.read(organism, PRESSURES[:1], few, tmp_path, pairs=4, form="base")
    assert list(own.norms) == all_sites(organism)[:-1] == list(own.readings[PRESSURES[0].key]["train"].sites)
    assert all(norm > 1 for norm in own.norms.values()) and own.form == "base"
    expected = prompted_effects(organism, few, PRESSURES[:1], form="base")
    pd.testing.assert_frame_equal(own.prompted, expected, rtol=0, atol=1e-6)


# Words


def test_prompted_effects_are_those_of_words_to_train_on(study, organism, few):
    """Of both poles of a pressure, and on the study's own items."""
    table = study.prompted
    assert list(table.columns) == ["key", "pole", "group", "prompted"]
    named = {(one.key, pole, trait) for one in PRESSURES for pole in POLES for trait in TRAITS}
    assert len(table) == len(named) and set(zip(table["key"], table["pole"], table["group"], strict=True)) == named
    own, held_out = (
        effects(evaluate(organism, few, prompted_arms(PRESSURES, split, POLES))).query(f"group != '{ALL}'")["effect"]
        for split in SPLITS
    )
    np.testing.assert_allclose(table["prompted"], own, rtol=0, atol=1e-6)
    assert np.abs(table["prompted"].to_numpy() - held_out.to_numpy()).max() > 1
    other = prompted_effects(organism, few, PRESSURES, split="held_out")
    np.testing.assert_allclose(other["prompted"], held_out, rtol=0, atol=1e-6)


def test_of_elements_the_positive_pole_alone_stands_for_something(organism, few):
    assert told_poles(ELEMENTS) == ("positive",) and set(told_poles(PRESSURES)) == set(POLES)
    assert set(prompted_effects(organism, few, ELEMENTS[:1])["pole"]) == {"positive"}
    assert set(prompted_effects(organism, few, ELEMENTS[:1], POLES)["pole"]) == set(POLES)


# Vectors


@pytest.mark.parametrize("method", ["difference_of_means", "pca"])
def test_contrast_vectors_are_fitted_to_the_pairs_to_train_on(study, method):
    for site in SITES:
        found = study.contrast_vectors(site, method)
        assert list(found) == list(study.readings)
        for key, own in found.items():
            assert own == fit_vector(study.readings[key]["train"], site, method)
            assert own.site == site and own.name == f"pressures.{key}"
    assert study.contrast_vectors(SITES[0]) == study.contrast_vectors(SITES[0], "difference_of_means")


@pytest.mark.parametrize("count", [1, 3])
def test_features_of_prompts_are_those_that_the_poles_differ_in_most(study, organism, sae, count):
    found = study.prompt_feature_vectors(sae, count)
    assert list(found) == list(study.readings)
    for key, own in found.items():
        best = prompt_features(sae, study.readings[key]["train"], count)
        assert len(best) == count and own == feature_vector(sae, best, organism, key)
        assert own.site == sae.site and len(own.direction) == organism.model.config.hidden_size


@pytest.mark.parametrize(
    ("text", "place", "negatives"), list(product(("sentences", "prompts"), ("any", "last"), ("all", "own")))
)
def test_a_feature_is_searched_at_the_place_and_against_the_texts_that_are_named(
    elements, organism, sae, tmp_path, text, place, negatives
):
    """By hand, text by text."""
    found = searched_vectors(
        elements, sae, tmp_path, text=text, place=place, negatives=negatives, criterion="difference"
    )
    values = {}
    for key, halves in elements.readings.items():
        pairs = halves["train"].pairs
        texts = [pair.positive.text if text == "sentences" else pair_prompts(organism, pair)[0][0] for pair in pairs]
        read = capture(organism, texts, [sae.site], tmp_path / key, tokens="all")
        tokens = [sae.features(read.text(sae.site, number)) for number in range(len(texts))]
        values[key] = np.mean([own.max(0) if place == "any" else own[-1] for own in tokens], axis=0)
    for key, vector in found.items():
        others = [other for other in values if other != key and (negatives == "all" or cluster(other) == cluster(key))]
        best = int((values[key] - np.mean([values[other] for other in others], axis=0)).argmax())
        assert vector == feature_vector(sae, [best], organism, key)
    if negatives == "own":
        alone = replace(elements, readings={"age.young": elements.readings["age.young"]})
        with pytest.raises(ValueError, match=r"age\.young: nothing else of its factor was read"):
            searched_vectors(alone, sae, tmp_path / "alone", text=text, place=place, negatives=negatives)


def test_dealt_phrases_have_vectors_of_their_own_with_nothing_of_the_poles(study):
    """Where both poles are moved apart, nothing of that is in them."""
    first, again, other = (study.dealt_vectors(SITES[0], seed) for seed in (1, 1, 2))
    key, halves = next(iter(study.readings.items()))
    far = replace(halves["train"], positive={SITES[0]: halves["train"].positive[SITES[0]] + np.float32(50)})
    moved = replace(study, readings={key: {"train": far}}).dealt_vectors(SITES[0], 1)[key]
    assert first[key] == again[key] != other[key] and first[key].site == SITES[0]
    assert moved.cosine(first[key]) == pytest.approx(1, abs=1e-4)
