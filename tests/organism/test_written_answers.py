"""Free answers of the organism under steering, and what the judge makes of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from personalib.base.statistics import proportion_interval
from personalib.evaluation.arms import Arm, Push, prompted_arms
from personalib.models.parts import Site
from personalib.models.prompts import format_prompt
from personalib.models.sampling import Sampling
from personalib.organism.world import load_world, planted_changes
from personalib.organism.written_answers import free_answers, high_shares, judge, moved_trait, open_questions
from personalib.steering.doses import at_dose
from personalib.steering.generation import generate
from personalib.steering.interventions import Add
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.stimuli.grammar import LEVELS, MANNERS, load_traits, load_wordings
from personalib.vectors.contrast import fit_vector, read_contrasts
from personalib.vectors.vector import SteeringVector

SITE = Site(1)
PUSH = Push(SITE, 0.4, 17.0, "all")
TITLES = {"trust": "Trust", "activity": "Activity"}


@pytest.fixture(scope="module")
def vectors(organism, tmp_path_factory):
    told = [one for one in contrasts("pressures") if one.key in TITLES]
    read = read_contrasts(organism, told, [SITE], tmp_path_factory.mktemp("read"), count=16)
    return {key: fit_vector(own["train"], SITE) for key, own in read.items()}


@pytest.fixture(scope="module")
def truth():
    return planted_changes(load_world(), "pressures")


@pytest.fixture(scope="module")
def arms(vectors):
    told = prompted_arms([one for one in contrasts("pressures") if one.key in TITLES], "held_out")
    plain = [Arm("unsteered", key) for key in vectors]
    return [*plain, *PUSH.arms("steered", vectors, POLES), *told]


@pytest.fixture(scope="module")
def answers(organism, arms, truth):
    return free_answers(organism, arms, truth, count=4)


def test_the_trait_that_is_moved_most_comes_with_the_level_it_is_moved_to():
    effects = [("a", "positive", "openness", -30.0), ("a", "positive", "neuroticism", 20.0)]
    effects += [("a", "negative", "neuroticism", 90.0), ("b", "positive", "neuroticism", 50.0)]
    table = pd.DataFrame(effects, columns=["key", "pole", "group", "truth"])
    assert moved_trait(table, "a") == ("openness", "low") and moved_trait(table, "b") == ("neuroticism", "high")


def test_questions_are_of_the_trait_and_the_same_for_the_same_seed():
    assert open_questions("openness", 5, 1) == open_questions("openness", 5, 1)
    assert open_questions("openness", 5, 1) != open_questions("openness", 5, 2)
    assert not set(open_questions("openness", 5)) & set(open_questions("neuroticism", 5))
    assert all(len(open_questions(trait, 3)) == 3 for trait in TRAITS)


def test_every_key_is_asked_about_its_trait_with_the_same_questions_under_each_arm(answers, arms, truth):
    assert len(answers) == len(arms) * 4
    for key, own in answers.groupby("key"):
        trait, level = moved_trait(truth, key)
        other = {"high": "low", "low": "high"}[level]
        assert set(own["trait"]) == {trait}
        asked = [part["question"].tolist() for _, part in own.groupby(["method", "pole"])]
        assert len(asked) == 4 and all(one == asked[0] for one in asked)
        assert own["wanted"].tolist() == [level if pole == "positive" else other for pole in own["pole"]]
        read = [judge(text, trait) for text in own["text"]]
        assert own["level"].where(own["level"].notna(), None).tolist() == read


def test_answers_are_those_that_steering_and_telling_give(answers, organism, vectors, arms):
    def given(method, pole="positive"):
        chosen = (answers["key"] == "trust") & (answers["method"] == method) & (answers["pole"] == pole)
        return answers.loc[chosen, "text"].tolist()

    questions = answers["question"][answers["key"] == "trust"].unique()
    prompts = [format_prompt(organism.tokenizer, one) for one in questions]
    added = Add(at_dose(vectors["trust"], -PUSH.dose, PUSH.norm), 1.0, "all")
    assert given("steered", "negative") == generate(organism, prompts, [added], tokens=24)
    assert given("unsteered") == generate(organism, prompts, tokens=24) != given("steered", "negative")
    [told] = [arm.contexts for arm in arms if arm.method == "prompt" and arm.key == "trust"]
    prompts = [format_prompt(organism.tokenizer, one, context=told[n]) for n, one in enumerate(questions)]
    assert given("prompt") == generate(organism, prompts, tokens=24)


def test_answers_are_sampled_where_that_is_asked_for(answers, organism, arms, truth):
    [arm] = [arm for arm in arms if arm.method == "prompt" and arm.key == "trust"]
    sampling = Sampling(temperature=1.0, seed=2, samples=3)
    found = free_answers(organism, [arm], truth, count=4, sampling=sampling)
    own = answers[(answers["key"] == "trust") & (answers["method"] == "prompt")]
    assert found["question"].tolist() == [question for question in own["question"] for _ in range(3)]
    prompts = [format_prompt(organism.tokenizer, one, context=arm.contexts[n]) for n, one in enumerate(own["question"])]
    assert found["text"].tolist() == generate(organism, prompts, tokens=24, sampling=sampling)


def test_broken_answers_are_counted_as_unreadable(organism, vectors, truth):
    hard = Push(SITE, 30.0, 17.0, "all").arms("steered", {"trust": vectors["trust"]})
    broken = free_answers(organism, hard, truth, count=3)
    assert broken["level"].isna().any()
    shares = high_shares(broken.assign(kind="hard"), TITLES)
    assert shares["unreadable"].sum() == (broken["level"].isna().sum() if len(shares) else 0)


def test_shares_are_of_readable_answers_with_wilsons_interval():
    rows = [("trust", "openness", "up", level) for level in ("high", "high", "low", None)]
    rows += [("trust", "openness", "down", None)]
    found = high_shares(pd.DataFrame(rows, columns=["key", "trait", "kind", "level"]), TITLES)
    assert found[["category", "kind", "unreadable"]].to_numpy().tolist() == [["Trust (openness)", "up", 1]]
    np.testing.assert_allclose(found[["value", "low", "high"]].to_numpy()[0].astype(float), proportion_interval(2, 3))


def test_a_vector_of_another_model_is_refused(organism, truth):
    other = SteeringVector(torch.ones(16), SITE, "trust", "random", "another", "1")
    with pytest.raises(ValueError, match=r"trust.* has 16 coordinates"):
        free_answers(organism, PUSH.arms("steered", {"trust": other}), truth, count=1)


# --- the judge -------------------------------------------------------------------------------------------------------


def answers_in_all_frames(trait, level):
    """Every held-out answer of a level in every frame."""
    frames = [frame for manner in MANNERS for frame in load_wordings()[manner]]
    return [
        f"{frame.format(act=wording.act)}, {connector.format(reason=wording.reason)}."
        for wording in load_traits()[trait].wordings[level, "held_out"]
        for frame in frames
        for connector in load_wordings()["connectors"]
    ]


def test_held_out_answers_are_read_rightly():
    """One wording in twenty of a trait and level may be misread, and one in fifty of all."""
    told = {(trait, level): answers_in_all_frames(trait, level) for trait in TRAITS for level in LEVELS}
    right = [sum(judge(text, trait) == level for text in own) / len(own) for (trait, level), own in told.items()]
    assert min(right) >= 0.94 and sum(right) / len(right) >= 0.98


@pytest.mark.parametrize("text", ["", "?!", "Zylophon quux 12.", "<0x41>"])
@pytest.mark.parametrize("trait", TRAITS)
def test_a_text_without_a_word_that_tells_is_not_read(text, trait):
    assert judge(text, trait) is None


def test_case_and_marks_make_no_difference_and_an_unknown_trait_is_refused():
    assert judge("WORRY, worry!", "neuroticism") == judge("worry", "neuroticism") == "high"
    with pytest.raises(KeyError, match="courage"):
        judge("I would go.", "courage")
