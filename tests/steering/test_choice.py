"""A push is the one that does most nearly what words do, of those under which nothing of the family collapses."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.steering import choice as pushes
from personalib.steering.choice import choose_push, told_effects
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.doses import site_norms
from personalib.steering.effects import Push, measure, told_arms
from personalib.steering.guards import Guard
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.vectors.contrast import fit_vector, read_contrasts

SITES = {"early": Site(1), "late": Site(3)}
POSITIONS, DOSES = ("last", "prompt"), (0.15, 0.5)
# Of this nothing but the dose can be wrong.
ANYTHING = Guard(0.0, np.inf)


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def sheet(organism):
    return TraitSheet(organism, some_of_each(validation_split(load_trait())[0], 1))


@pytest.fixture(scope="module")
def family():
    return [one for one in contrasts("pressures") if one.key in ("trust", "activity")]


@pytest.fixture(scope="module")
def candidates(organism, family, tmp_path_factory):
    """Contrast vectors by name of their site."""
    folder = tmp_path_factory.mktemp("read")
    read = read_contrasts(organism, family, list(SITES.values()), folder, count=16)
    return {name: {key: fit_vector(own["train"], site) for key, own in read.items()} for name, site in SITES.items()}


@pytest.fixture(scope="module")
def norms(organism, sheet, tmp_path_factory):
    return site_norms(organism, sheet.prompts(), list(SITES.values()), tmp_path_factory.mktemp("norms"))


@pytest.fixture(scope="module")
def told(sheet, family):
    return told_effects(sheet, family, POLES)


def choose(sheet, candidates, told, norms, guard=ANYTHING, **how):
    return choose_push(sheet, candidates, told, norms, **({"positions": POSITIONS, "doses": DOSES} | how), guard=guard)


@pytest.fixture(scope="module")
def chosen(sheet, candidates, told, norms):
    return choose(sheet, candidates, told, norms)


@pytest.fixture(scope="module")
def one_by_one(sheet, candidates, norms):
    """The effects of each push of the table, measured by itself."""
    found = []
    for where, name, dose in product(POSITIONS, candidates, DOSES):
        push = Push(SITES[name], dose, norms[SITES[name]], where)
        arms = [arm for pole in POLES for arm in push.arms("", candidates[name], pole)]
        found.append(measure(sheet, arms))
    return found


def named(push, source):
    return source, push.positions, push.dose


# Words


def test_told_effects_are_those_of_words_to_train_on(sheet, family, told):
    own, held_out = (measure(sheet, told_arms(family, split, POLES), neutral=1) for split in ("train", "held_out"))
    assert list(told.columns) == ["key", "pole", "trait", "told"]
    assert list(zip(told["key"], told["pole"], told["trait"], strict=True)) == list(
        product([one.key for one in family], POLES, TRAITS)
    )
    np.testing.assert_allclose(told["told"], own["effect"], rtol=0, atol=1e-9)
    assert np.abs(told["told"] - held_out["effect"]).max() > 1


def test_the_positive_poles_are_told_unless_both_are_named(sheet, family, told):
    own = told_effects(sheet, family[:1])
    expected = told[(told["key"] == family[0].key) & (told["pole"] == "positive")].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected, rtol=0, atol=1e-2)


# The table


def test_a_push_under_which_a_vector_overflows_has_no_perplexity():
    rows = {"arm": [0, 1], "effect": [1.0, np.nan], "told": 1.0, "mass": [1.0, 0.0], "perplexity": [1.0, np.nan]}
    found = pushes._row(Push(Site(1), 0.2, 1.0, "last"), pd.DataFrame(rows | {"collapsed": [False, True]}))
    assert np.isnan(found["perplexity"]) and found["mass"] == 0 and found["collapsed"] == 0.5


def test_there_is_a_row_for_each_candidate_positions_and_dose(chosen, candidates):
    table = chosen.table
    assert list(zip(table["positions"], table["source"], table["dose"], strict=True)) == list(
        product(POSITIONS, candidates, DOSES)
    )
    assert table["site"].tolist() == [str(SITES[name]) for name in table["source"]]
    assert table["layer"].tolist() == [SITES[name].layer for name in table["source"]]


def test_fidelity_is_what_is_left_of_the_told_effects(chosen, one_by_one, told):
    wanted = told.set_index(["key", "pole", "trait"])["told"]
    for own, expected in zip(chosen.table.to_dict("records"), one_by_one, strict=True):
        missed = total = 0.0
        for each in expected.to_dict("records"):
            target = wanted[each["key"], each["pole"], each["trait"]]
            missed, total = missed + (each["effect"] - target) ** 2, total + target**2
        assert own["fidelity"] == pytest.approx(1 - missed / total, abs=1e-3)
        assert own["effect"] == pytest.approx(np.sqrt((expected["effect"] ** 2).mean()), abs=1e-2)
    assert chosen.table["fidelity"].nunique() == len(chosen.table)


def test_the_worst_vector_says_how_healthy_a_push_is(chosen, one_by_one):
    for own, expected in zip(chosen.table.to_dict("records"), one_by_one, strict=True):
        assert own["mass"] == pytest.approx(expected["mass"].min(), rel=1e-4)
        assert own["perplexity"] == pytest.approx(expected["perplexity"].max(), rel=1e-3)


# The choice


def test_the_best_of_what_has_not_collapsed_is_chosen(chosen):
    table = chosen.table
    assert (table["collapsed"] == 0).all()
    [best] = table[table["chosen"]].to_dict("records")
    assert best["fidelity"] == table["fidelity"].max()
    assert (best["source"], best["positions"], best["dose"]) == named(chosen.push, chosen.source)


def test_the_push_stands_at_the_site_of_its_source(chosen, norms):
    site = SITES[chosen.source]
    assert (chosen.push.site, chosen.push.norm) == (site, norms[site])


def test_a_push_under_which_one_vector_collapses_is_out(sheet, candidates, told, norms, chosen):
    """The guard is drawn so closely that the worst vector of the best push fails it, and not that of every other."""
    table = chosen.table
    [best] = table[table["chosen"]].to_dict("records")
    healthier = table[table["mass"] > best["mass"]]
    assert len(healthier)
    guard = Guard((best["mass"] + healthier["mass"].min()) / 2, np.inf)
    again = choose(sheet, candidates, told, norms, guard)
    [out] = again.table[table["chosen"].to_numpy()].to_dict("records")
    assert 0 < out["collapsed"] <= 1 and not out["chosen"]
    left = again.table[again.table["collapsed"] == 0]
    assert again.table.loc[again.table["chosen"], "fidelity"].tolist() == [left["fidelity"].max()]
    assert named(again.push, again.source) != named(chosen.push, chosen.source)
    np.testing.assert_allclose(again.table["fidelity"], table["fidelity"], atol=1e-6)


def test_the_share_of_vectors_that_collapse_is_counted(sheet, candidates, told, norms):
    """One way up one vector is let through and the other is not."""
    own = {"late": candidates["late"]}
    push = Push(SITES["late"], 0.5, norms[SITES["late"]])
    arms = [arm for pole in POLES for arm in push.arms("", own["late"], pole)]
    worse = np.sort(measure(sheet, arms).drop_duplicates("arm")["perplexity"])[::-1]
    assert worse[0] > 1 and worse[0] > worse[1]
    guard = Guard(0.0, max(1.0, (worse[0] + worse[1]) / 2))
    found = choose(sheet, own, told, norms, guard, positions=("prompt",), doses=(0.05, 0.5))
    assert found.table["collapsed"].tolist() == [0.0, 0.25]
    assert found.push.dose == 0.05


def test_only_told_poles_are_pushed_toward(sheet, candidates, told, norms, one_by_one):
    up = told[told["pole"] == "positive"]
    found = choose(sheet, {"early": candidates["early"]}, up, norms, positions=("last",))
    for own, both in zip(found.table.to_dict("records"), one_by_one[: len(DOSES)], strict=True):
        expected = both[both["pole"] == "positive"]["effect"].to_numpy()
        assert own["fidelity"] == pytest.approx(
            1 - ((expected - up["told"]) ** 2).sum() / (up["told"] ** 2).sum(), abs=1e-3
        )


def test_where_everything_collapses_there_is_one_error(sheet, candidates, told, norms):
    with pytest.raises(ValueError, match="some vector collapses under every push; try doses below 40"):
        choose(sheet, {"late": candidates["late"]}, told, norms, None, positions=("prompt",), doses=(40.0, 80.0))


def test_where_no_item_is_answered_even_without_a_push_there_is_one_clear_error(organism, family, candidates, norms):
    """A model of chance gives each of thousands of tokens a little."""
    torch.manual_seed(0)
    config = deepcopy(organism.model.config)
    sheet = TraitSheet(
        replace(organism, name="chance", model=AutoModelForCausalLM.from_config(config).eval()),
        some_of_each(load_trait(), 1),
    )
    told = told_effects(sheet, family)
    assert told["told"].isna().all()
    with pytest.raises(ValueError, match="answer"):
        choose_push(sheet, candidates, told, norms, doses=(0.1,))


def test_the_guard_is_the_usual_one_unless_another_is_given(sheet, candidates, told, norms, one_by_one):
    found = choose(sheet, candidates, told, norms, None, doses=(*DOSES[:1],))
    expected = [own.drop_duplicates("arm")["collapsed"].mean() for own in one_by_one[::2]]
    assert found.table["collapsed"].tolist() == expected
