"""A report chooses on some items and measures on others, and its numbers are those of direct calls."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.agreement import random_correlation, truth_correlation
from personalib.evaluation.arms import prompted_arms, random_arms
from personalib.evaluation.ask import evaluate
from personalib.evaluation.choice import choose_push
from personalib.evaluation.estimates import ALL
from personalib.evaluation.estimates import effects as effects_of
from personalib.evaluation.study import Study
from personalib.evaluation.study_report import report
from personalib.features.saes import load_sae
from personalib.models.parts import Site
from personalib.organism.world import load_world, planted_changes
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.questionnaires.questions import trait_questionnaire
from personalib.steering.settings import Guard
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES, TRAITS

SITES = [Site(1), Site(3)]
SAE = "resid_post.1/width_512"
ELEMENTS = ("gender.female", "age.young", "ideology.fascism")
PAIRS, RANDOMS = 16, 4
HOW = {"positions": ("prompt",), "doses": (0.15, 0.4)}


@pytest.fixture(scope="module")
def questionnaire():
    """Two items of each of three traits."""
    items = some_of_each(validation_split(load_trait())[1], 2)
    return trait_questionnaire([one for one in items if one.personality in TRAITS[:3]])


@pytest.fixture(scope="module")
def saes():
    return {SAE: load_sae(sae_id=SAE)}


@pytest.fixture(scope="module")
def elements(organism, few, work):
    told = [one for one in contrasts("elements") if one.key in ELEMENTS]
    return Study.read(organism, told, few, work, sites=SITES[:1], pairs=PAIRS)


@pytest.fixture(scope="module")
def repe(study):
    """What is chosen of contrast vectors."""
    return choose_push(study, {str(site): study.contrast_vectors(site) for site in SITES}, **HOW)


@pytest.fixture(scope="module")
def written(study, questionnaire, saes, work):
    """The numbers and the effects of two pressures."""
    truth = planted_changes(load_world(), "pressures")
    return report(study, questionnaire, saes, work, **HOW, randoms=RANDOMS, truth=truth, seed=3)


@pytest.fixture(scope="module")
def of_elements(elements, questionnaire, saes, work):
    truth = planted_changes(load_world(), "elements")
    how = {"positions": ("prompt",), "doses": (0.15,), "randoms": RANDOMS}
    return report(elements, questionnaire, saes, work, **how, truth=truth)


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


def test_steering_is_compared_with_telling_on_the_same_items(written):
    numbers, effects = written
    assert "prompt" not in numbers["told_correlation"], "it would agree with itself"
    told = effects[effects["method"] == "prompt"].rename(columns={"effect": "truth"})
    told = told[["key", "pole", "group", "truth"]]
    for method in ("repe", "sae"):
        own = truth_correlation(effects[effects["method"] == method], told, 3)
        assert numbers["told_correlation"][method] == own.estimate
        assert numbers["told_interval"][method] == [own.low, own.high]


def test_shares_are_those_of_the_effects(written):
    numbers, effects = written
    for method, own in effects.groupby("method"):
        assert numbers["significant"][method] == (own["p_fdr"] < 0.05).mean()
        assert numbers["collapsed"][method] == own["collapsed"].mean()
        assert (numbers["mass"][method], numbers["perplexity"][method]) == (own["mass"].min(), own["perplexity"].max())


def test_pushes_are_chosen_on_the_items_of_the_study(written, study, saes, repe):
    numbers, candidates = written[0], {SAE: study.prompt_feature_vectors(saes[SAE])}
    sae = choose_push(study, candidates, **HOW)
    for method, own in (("repe", repe), ("sae", sae)):
        assert numbers["push"][method] == {"source": own.source, "positions": own.push.positions, "dose": own.push.dose}


def test_effects_are_of_the_chosen_pushes_on_the_other_items(written, study, questionnaire, repe):
    """Vectors toward both poles, words that chose nothing, and random directions at the vectors' push."""
    numbers, effects = written
    vectors = study.contrast_vectors(repe.push.site)
    arms = repe.push.arms("repe", vectors, POLES)
    arms += prompted_arms(study.contrasts, "held_out", POLES)
    arms += random_arms(repe.push, next(iter(vectors.values())), RANDOMS, 3)
    expected = effects_of(evaluate(study.language_model, questionnaire, arms, seed=3))
    expected = expected[expected["group"] != ALL].reset_index(drop=True)
    own = effects[effects["method"] != "sae"].reset_index(drop=True)
    same = ["method", "key", "pole", "dose", "group", "n", "missing", "collapsed"]
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


def test_what_is_planted_is_not_known_of_another_model(study, few, work):
    """The same weights under another name, without SAEs, and measured on one item of each trait."""
    own = replace(study, language_model=replace(study.language_model, name="somebody"))
    numbers, effects = report(own, few, {}, work, positions=("last",), doses=(0.2,), randoms=2)
    assert numbers["truth_correlation"] is None and numbers["truth_interval"] is None
    assert {"repe", "random"} <= set(numbers["told_correlation"])
    assert list(numbers["push"]) == ["repe"] and numbers["push"]["repe"]["dose"] == 0.2
    assert effects["method"].unique().tolist() == ["repe", "prompt", "random"]
    # One item of a trait says nothing about the spread.
    assert effects["effect"].notna().all() and effects["p_fdr"].isna().all()
    assert set(numbers["significant"].values()) == {0.0}
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_the_guard_holds_for_the_choice_and_for_the_effects(study, questionnaire, work):
    """It is drawn so closely that the dose that would be chosen is out."""
    how = {"positions": ("prompt",), "doses": (0.3, 0.5)}
    candidates = {str(site): study.contrast_vectors(site) for site in SITES}
    usual = choose_push(study, candidates, **how, guard=Guard(facts=np.inf))
    tried = usual.table[usual.table["source"] == usual.source].set_index("dose")["perplexity"]
    assert usual.push.dose == 0.5 and tried[0.3] < tried[0.5]
    guard = Guard(0.5, tried.mean(), np.inf)
    numbers, effects = report(study, questionnaire, {}, work, **how, guard=guard, randoms=2)
    assert (numbers["push"]["repe"]["source"], numbers["push"]["repe"]["dose"]) == (usual.source, 0.3)
    health = effects["mass"], effects["perplexity"]
    assert effects["collapsed"].tolist() == guard.collapsed(*health).tolist() != Guard().collapsed(*health).tolist()


def test_an_sae_of_a_site_that_the_study_does_not_have_is_refused(study, questionnaire, work):
    elsewhere = replace(load_sae(sae_id=SAE), site=Site(4))
    with pytest.raises(ValueError, match=r"reads resid_post\.4, and the study resid_post\.1, resid_post\.3; let it"):
        report(study, questionnaire, {"elsewhere": elsewhere}, work, **HOW)
