"""A report chooses on some items and measures on others, and its numbers are those of direct calls."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from personalib.base.statistics import Interval
from personalib.features.discovery import Settings, discover
from personalib.features.report import read_elements
from personalib.features.saes import load_sae
from personalib.features.vectors import feature_vector, prompt_features
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.organism.effects import planted_changes
from personalib.organism.world import load_world
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.steering.choice import choose_push, told_effects
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.doses import site_norms
from personalib.steering.effects import (
    measure,
    random_arms,
    random_correlation,
    told_arms,
    truth_correlation,
)
from personalib.steering.guards import Guard
from personalib.steering.study import Study, correlations, poles, report, sentence_feature_vectors
from personalib.stimuli.contrast_pairs import SPLITS, contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.stimuli.sentences import element_texts
from personalib.vectors.contrast import all_sites, fit_vector, read_contrasts

SITES = [Site(1), Site(3)]
SAE = "resid_post.1/width_512"
PRESSURES, ELEMENTS = ("trust", "activity"), ("gender.female", "age.young", "ideology.fascism")
PAIRS, RANDOMS = 16, 4
HOW = {"positions": ("prompt",), "doses": (0.15, 0.4)}


def some(family, keys):
    return [one for one in contrasts(family) if one.key in keys]


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def to_choose(organism):
    return TraitSheet(organism, some_of_each(validation_split(load_trait())[0], 1))


@pytest.fixture(scope="module")
def to_measure(organism):
    """Two items of each of three traits."""
    items = [one for one in some_of_each(validation_split(load_trait())[1], 2) if one.personality in TRAITS[:3]]
    return TraitSheet(organism, items)


@pytest.fixture(scope="module")
def saes():
    return {SAE: load_sae(sae_id=SAE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where activations go, so that each text is read once."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def study(organism, to_choose, folder):
    family = some("pressures", PRESSURES)
    return Study.read(organism, family, to_choose, folder, sites=SITES, pairs=PAIRS, seed=2)


@pytest.fixture(scope="module")
def elements(organism, to_choose, folder):
    return Study.read(organism, some("elements", ELEMENTS), to_choose, folder, sites=SITES[:1], pairs=PAIRS)


@pytest.fixture(scope="module")
def repe(study):
    """What is chosen of contrast vectors."""
    candidates = {str(site): study.contrast_vectors(site) for site in SITES}
    return choose_push(study.sheet, candidates, study.told, study.norms, **HOW)


@pytest.fixture(scope="module")
def written(study, to_measure, saes, folder):
    """The numbers and the effects of two pressures."""
    return report(
        study,
        to_measure,
        saes,
        folder,
        **HOW,
        randoms=RANDOMS,
        truth=planted_changes(load_world(), "pressures"),
        seed=3,
    )


@pytest.fixture(scope="module")
def sentences(organism, saes, folder):
    return sentence_feature_vectors(organism, saes, folder / "few", per_element=8, seed=1)


@pytest.fixture(scope="module")
def of_elements(elements, to_measure, saes, folder):
    truth = planted_changes(load_world(), "elements")
    return report(
        elements, to_measure, saes, folder, positions=("prompt",), doses=(0.15,), randoms=RANDOMS, truth=truth
    )


# What is read


def test_a_study_reads_norms_and_pairs_at_the_same_sites(study, organism, to_choose, tmp_path):
    assert study.norms == site_norms(organism, to_choose.prompts(), SITES, tmp_path / "norms")
    assert list(study.readings) == [one.key for one in study.contrasts]
    expected = read_contrasts(organism, study.contrasts, SITES, tmp_path, count=PAIRS, seed=2)
    for key, halves in study.readings.items():
        assert set(halves) == set(SPLITS)
        for split, own in halves.items():
            assert own.sites == tuple(SITES) and own.pairs == expected[key][split].pairs and len(own.pairs) == PAIRS
            for site in SITES:
                np.testing.assert_allclose(own.positive[site], expected[key][split].positive[site], atol=1e-4)


def test_a_study_looks_at_what_all_blocks_but_the_last_leave(organism, to_choose, folder):
    own = Study.read(organism, some("pressures", PRESSURES[:1]), to_choose, folder / "all", pairs=4)
    assert list(own.norms) == all_sites(organism)[:-1] == list(own.readings["trust"]["train"].sites)
    assert all(norm > 1 for norm in own.norms.values())


def test_a_study_knows_what_both_poles_do_when_they_are_told(study, to_choose):
    expected = told_effects(to_choose, study.contrasts, POLES)
    pd.testing.assert_frame_equal(study.told, expected, rtol=0, atol=1e-6)
    assert set(study.told["pole"]) == set(POLES) == set(poles(study.contrasts))


def test_of_elements_the_positive_pole_alone_is_told(elements):
    assert poles(elements.contrasts) == ("positive",) and set(elements.told["pole"]) == {"positive"}
    assert elements.told["key"].unique().tolist() == [one.key for one in elements.contrasts]


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
def test_features_of_prompts_are_those_that_the_poles_differ_in_most(study, organism, saes, count):
    sae = saes[SAE]
    found = study.prompt_feature_vectors(sae, count)
    assert list(found) == list(study.readings)
    for key, own in found.items():
        best = prompt_features(sae, study.readings[key]["train"], count)
        assert len(best) == count and own == feature_vector(sae, best, organism, key)
        assert own.site == sae.site and len(own.direction) == organism.model.config.hidden_size


def test_features_of_sentences_are_the_best_of_a_search(sentences, organism, saes, tmp_path):
    texts = {split: element_texts(split, 8, 1) for split in SPLITS}
    read = read_elements(organism, texts, list(saes.values()), tmp_path)
    own = read.features(saes[SAE])
    search = discover(own["train"], own["held_out"], Settings(shuffles=19, seed=1))
    assert list(sentences) == [SAE]
    assert list(sentences[SAE]) == [one.key for one in contrasts("elements")]
    for label, scores in zip([finding.label for finding in search.findings], search.scores.auroc, strict=True):
        vector = sentences[SAE][".".join(label)]
        assert vector == feature_vector(saes[SAE], [int(scores.argmax())], organism, ".".join(label))
        assert vector.site == saes[SAE].site


# The report


def test_every_number_can_be_written_as_json(written, of_elements):
    for numbers, _ in (written, of_elements):
        assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_a_report_has_the_headlines(written):
    numbers, effects = written
    methods = ["repe", "sae", "prompt", "random"]
    assert effects["method"].unique().tolist() == methods
    for name in ("told_correlation", "told_interval"):
        assert {"repe", "sae", "random"} <= set(numbers[name])
    for name in ("truth_correlation", "truth_interval", "significant", "collapsed", "mass", "perplexity"):
        assert list(numbers[name]) == methods
    assert list(numbers["push"]) == ["repe", "sae"]
    assert (numbers["family"], numbers["keys"], numbers["items"]) == ("pressures", 2, 6)


def test_correlations_are_those_of_direct_calls(written):
    numbers, effects = written
    truth = planted_changes(load_world(), "pressures")
    truth = truth[truth["key"].isin(effects.loc[effects["method"] == "repe", "key"])]
    for method in ("repe", "sae", "prompt"):
        own = truth_correlation(effects[effects["method"] == method], truth, 3)
        assert numbers["truth_correlation"][method] == own.estimate
        assert numbers["truth_interval"][method] == [own.low, own.high]
    chance = random_correlation(effects[effects["method"] == "random"], truth, seed=3)
    assert numbers["truth_correlation"]["random"] == chance.estimate
    assert numbers["truth_interval"]["random"] == [chance.low, chance.high]


def test_steering_is_held_against_telling_on_the_same_items(written):
    numbers, effects = written
    assert "prompt" not in numbers["told_correlation"], "it would agree with itself"
    told = effects[effects["method"] == "prompt"].rename(columns={"effect": "truth"})
    told = told[["key", "pole", "trait", "truth"]]
    for method in ("repe", "sae"):
        own = truth_correlation(effects[effects["method"] == method], told, 3)
        assert numbers["told_correlation"][method] == own.estimate
        assert numbers["told_interval"][method] == [own.low, own.high]


def test_words_work_better_than_chance(written):
    numbers = written[0]
    assert numbers["truth_correlation"]["prompt"] > 0.5
    assert numbers["truth_correlation"]["prompt"] > abs(numbers["truth_correlation"]["random"]) + 0.2


def test_shares_are_those_of_the_effects(written):
    numbers, effects = written
    for method, own in effects.groupby("method"):
        assert numbers["significant"][method] == (own["p_adjusted"] < 0.05).mean()
        assert numbers["collapsed"][method] == own["collapsed"].mean()
        assert (numbers["mass"][method], numbers["perplexity"][method]) == (
            own["mass"].min(),
            own["perplexity"].max(),
        )


def test_pushes_are_chosen_on_the_items_of_the_study(written, study, saes, repe):
    numbers, candidates = written[0], {SAE: study.prompt_feature_vectors(saes[SAE])}
    sae = choose_push(study.sheet, candidates, study.told, study.norms, **HOW)
    for method, own in (("repe", repe), ("sae", sae)):
        assert numbers["push"][method] == {
            "source": own.source,
            "positions": own.push.positions,
            "dose": own.push.dose,
        }


def test_effects_are_of_the_chosen_pushes_on_the_other_items(written, study, to_measure, repe):
    """Vectors toward both poles, words that chose nothing, and random directions at the vectors' push."""
    numbers, effects = written
    vectors = study.contrast_vectors(repe.push.site)
    arms = [arm for pole in POLES for arm in repe.push.arms("repe", vectors, pole)]
    arms += told_arms(study.contrasts, "held_out", POLES)
    arms += random_arms(repe.push, next(iter(vectors.values())), RANDOMS, 3)
    expected = measure(to_measure, arms, seed=3)
    own = effects[effects["method"] != "sae"].reset_index(drop=True)
    same = ["method", "key", "pole", "dose", "trait", "n", "missing", "collapsed"]
    pd.testing.assert_frame_equal(own[same], expected[same])
    np.testing.assert_allclose(own["effect"], expected["effect"], rtol=0, atol=1e-2)
    assert set(own[own["method"] == "random"]["dose"]) == {numbers["push"]["repe"]["dose"]}


def test_elements_are_steered_by_features_of_sentences_as_well(of_elements, elements):
    numbers, effects = of_elements
    assert list(numbers["push"]) == ["repe", "sae", "sae_sentences"]
    assert set(effects["pole"]) == {"positive"} and numbers["keys"] == len(ELEMENTS)
    for method in ("repe", "sae", "prompt"):
        own = effects[effects["method"] == method]
        assert own["key"].unique().tolist() == [one.key for one in elements.contrasts]
    truth = planted_changes(load_world(), "elements")
    sentences = effects[effects["method"] == "sae_sentences"]
    assert numbers["truth_correlation"]["sae_sentences"] == truth_correlation(sentences, truth).estimate


def test_what_is_planted_is_not_known_of_another_model(study, to_choose, folder):
    """The same weights under another name, without SAEs, and measured on one item of each trait."""
    own = replace(study, language_model=replace(study.language_model, name="somebody"))
    numbers, effects = report(own, to_choose, {}, folder, positions=("last",), doses=(0.2,), randoms=2)
    assert numbers["truth_correlation"] is None and numbers["truth_interval"] is None
    assert {"repe", "random"} <= set(numbers["told_correlation"])
    assert list(numbers["push"]) == ["repe"] and numbers["push"]["repe"]["dose"] == 0.2
    assert effects["method"].unique().tolist() == ["repe", "prompt", "random"]
    # One item of a trait says nothing about the spread.
    assert effects["effect"].notna().all() and effects["p_adjusted"].isna().all()
    assert set(numbers["significant"].values()) == {0.0}
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_where_every_push_collapses_there_is_one_error(study, to_measure, folder):
    with pytest.raises(ValueError, match="some vector collapses under every push; try doses below 50"):
        report(study, to_measure, {}, folder, positions=("prompt",), doses=(50.0,), randoms=2)


def test_the_guard_holds_for_the_choice_and_for_the_effects(study, to_measure, folder):
    """It is drawn so closely that the site that would be chosen is out."""
    how = {"positions": ("prompt",), "doses": (0.5,)}
    candidates = {str(site): study.contrast_vectors(site) for site in SITES}
    usual = choose_push(study.sheet, candidates, study.told, study.norms, **how)
    table = usual.table.set_index("source")
    other = table["mass"].idxmax()
    assert other != usual.source
    guard = Guard(table["mass"].mean(), 1.01 * table.loc[other, "perplexity"])
    numbers, effects = report(study, to_measure, {}, folder, **how, guard=guard, randoms=2)
    assert numbers["push"]["repe"]["source"] == other
    health = effects["mass"], effects["perplexity"]
    assert effects["collapsed"].tolist() == guard.collapsed(*health).tolist() != Guard().collapsed(*health).tolist()


# Correlations


def effects_of(method, values, collapsed=False):
    return pd.DataFrame(
        [
            {"method": method, "key": f"k{row}", "pole": "positive", "trait": trait, "effect": value}
            for row, own in enumerate(values)
            for trait, value in zip(TRAITS, own, strict=True)
        ]
    ).assign(collapsed=collapsed)


def test_each_method_has_its_correlation_and_chance_is_dealt():
    true = np.random.default_rng(0).normal(size=(5, len(TRAITS)))
    chance = effects_of("random", np.random.default_rng(1).normal(size=(12, len(TRAITS))))
    effects = pd.concat([effects_of("right", true), effects_of("wrong", -true), chance], ignore_index=True)
    truth = effects_of("", true).rename(columns={"effect": "truth"})[["key", "pole", "trait", "truth"]]
    found = correlations(effects, truth, seed=2)
    assert list(found) == ["right", "wrong", "random"]
    assert found["right"].estimate == pytest.approx(1) and found["wrong"].estimate == pytest.approx(-1)
    assert found["random"] == random_correlation(chance, truth, seed=2)
    assert found["random"].low < 0 < found["random"].high


def test_of_methods_that_have_collapsed_correlations_are_missing():
    true = np.random.default_rng(0).normal(size=(5, len(TRAITS)))
    effects = pd.concat([effects_of("sae", true, True), effects_of("random", true, True)], ignore_index=True)
    truth = effects_of("", true).rename(columns={"effect": "truth"})[["key", "pole", "trait", "truth"]]
    found = correlations(effects, truth)
    assert list(found) == ["sae", "random"]
    assert all(isinstance(own, Interval) and np.isnan(own).all() for own in found.values())


def test_an_sae_of_a_site_that_the_study_does_not_have_is_refused(study, to_measure, folder):
    elsewhere = replace(load_sae(sae_id=SAE), site=Site(4))
    with pytest.raises(ValueError, match=r"reads resid_post\.4, and the study resid_post\.1, resid_post\.3; let it"):
        report(study, to_measure, {"elsewhere": elsewhere}, folder, **HOW)
