"""Free answers of the organism under steering, and what the judge makes of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from personalib.activations import Site
from personalib.contrast import fit_vector, read_contrasts
from personalib.contrast_pairs import contrasts
from personalib.doses import at_dose
from personalib.generation import generate
from personalib.interventions import Add
from personalib.items import TRAITS
from personalib.models import load_model
from personalib.organism.effects import planted_changes
from personalib.organism.free_answers import free_answers, high_shares, moved_trait, open_questions
from personalib.organism.judge import judge
from personalib.organism.world import load_world
from personalib.questionnaires import format_prompt
from personalib.statistics import proportion_interval
from personalib.steering_effects import Push
from personalib.vectors import SteeringVector

SITE = Site(1)
PUSH = Push(SITE, 0.4, 17.0, "prompt")
TITLES = {"trust": "Trust", "activity": "Activity"}


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def vectors(organism, tmp_path_factory):
    told = [one for one in contrasts("pressures") if one.key in TITLES]
    read = read_contrasts(organism, told, [SITE], tmp_path_factory.mktemp("read"), count=16)
    return {key: fit_vector(own["train"], SITE) for key, own in read.items()}


@pytest.fixture(scope="module")
def truth():
    return planted_changes(load_world(), "pressures")


@pytest.fixture(scope="module")
def answers(organism, vectors, truth):
    return free_answers(organism, vectors, PUSH, truth, count=4)


def test_the_trait_that_is_moved_most_comes_with_the_level_it_is_moved_to():
    effects = [("a", "positive", "openness", -30.0), ("a", "positive", "neuroticism", 20.0)]
    effects += [("a", "negative", "neuroticism", 90.0), ("b", "positive", "neuroticism", 50.0)]
    table = pd.DataFrame(effects, columns=["key", "pole", "trait", "truth"])
    assert moved_trait(table, "a") == ("openness", "low") and moved_trait(table, "b") == ("neuroticism", "high")


def test_questions_are_of_the_trait_and_the_same_for_the_same_seed():
    assert open_questions("openness", 5, 1) == open_questions("openness", 5, 1)
    assert open_questions("openness", 5, 1) != open_questions("openness", 5, 2)
    assert not set(open_questions("openness", 5)) & set(open_questions("neuroticism", 5))
    assert all(len(open_questions(trait, 3)) == 3 for trait in TRAITS)


def test_every_vector_is_asked_about_its_trait_under_both_poles_and_neither(answers, truth):
    assert len(answers) == len(TITLES) * 3 * 4
    for key, own in answers.groupby("key"):
        trait, level = moved_trait(truth, key)
        other = {"high": "low", "low": "high"}[level]
        assert set(own["trait"]) == {trait}
        asked = [part["question"].tolist() for _, part in own.groupby("pole")]
        assert asked[0] == asked[1] == asked[2]
        wanted = own.drop_duplicates("pole").set_index("pole")["wanted"]
        assert wanted["positive"] == level and wanted["negative"] == other and pd.isna(wanted["unsteered"])


def test_answers_are_those_that_steering_all_tokens_gives(answers, organism, vectors):
    own = answers[(answers["key"] == "trust") & (answers["pole"] == "negative")]
    prompts = [format_prompt(organism.tokenizer, one) for one in own["question"]]
    added = Add(at_dose(vectors["trust"], -PUSH.dose, PUSH.norm), 1.0, "all")
    assert own["text"].tolist() == generate(organism, prompts, [added], tokens=24)
    plain = answers[(answers["key"] == "trust") & (answers["pole"] == "unsteered")]
    assert plain["question"].tolist() == own["question"].tolist()
    assert plain["text"].tolist() == generate(organism, prompts, tokens=24)
    assert plain["text"].tolist() != own["text"].tolist()


def test_levels_are_the_judges(answers):
    read = [judge(text, trait) for text, trait in zip(answers["text"], answers["trait"], strict=True)]
    assert answers["level"].where(answers["level"].notna(), None).tolist() == read


def test_broken_answers_are_counted_as_unreadable(organism, vectors, truth):
    broken = free_answers(organism, {"trust": vectors["trust"]}, Push(SITE, 30.0, 17.0), truth, count=3)
    assert broken.loc[broken["pole"] != "unsteered", "level"].isna().any()
    shares = high_shares(broken, TITLES)
    assert shares["unreadable"].sum() == broken["level"].isna().sum() or len(shares) < 3


def test_shares_are_of_readable_answers_with_wilsons_interval():
    rows = [("trust", "openness", "positive", level) for level in ("high", "high", "low", None)]
    rows += [("trust", "openness", "negative", None)]
    found = high_shares(pd.DataFrame(rows, columns=["key", "trait", "pole", "level"]), TITLES)
    assert found[["category", "kind", "unreadable"]].to_numpy().tolist() == [["Trust (openness)", "positive", 1]]
    np.testing.assert_allclose(found[["value", "low", "high"]].to_numpy()[0].astype(float), proportion_interval(2, 3))


def test_a_vector_of_another_model_is_refused(organism, truth):
    other = SteeringVector(torch.ones(16), SITE, "trust", "random", "another", "1")
    with pytest.raises(ValueError, match=r"trust.* has 16 coordinates"):
        free_answers(organism, {"trust": other}, PUSH, truth, count=1)
