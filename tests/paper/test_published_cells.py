"""Every published number is one cell, under keys that an evaluation has too."""

import pytest

from personalib.base.data import DataError
from personalib.features.published import bare_name
from personalib.paper.cells import CELL, CHANGE, OPTIONS, SAFETY, SCORE, reference_cells, reference_models
from personalib.paper.tables import (
    PERSONAS,
    SAFETY_CATEGORIES,
    option_probabilities,
    persona_scores,
    safety_accuracy,
    trait_scores,
)
from personalib.stimuli.factors import TRAITS, load_factors

ELEMENTS = {f"{one.key}.{element.key}" for one in load_factors() for element in one.elements}
KEYS = {"base", "persona N", "persona P", *ELEMENTS}


@pytest.mark.parametrize("model", ["gemma-2b-it", "google/gemma-2b-it", "/models/gemma-2b-it/"])
def test_every_number_is_there_once_under_known_keys(model):
    cells = reference_cells(model)
    counts = cells["quantity"].value_counts()
    personas = (persona_scores()["model"] == "gemma-2b-it").sum()
    assert (counts[SCORE], len(trait_scores()), personas) == (360 + 12, 360, 12)
    assert counts[SAFETY] == (safety_accuracy()["condition"] != "chance").sum()
    assert counts[OPTIONS] == (option_probabilities()["model"] == "gemma-2b-it").sum()
    assert not cells.duplicated(list(CELL)).any() and set(cells["condition"]) <= KEYS
    assert set(cells.loc[cells["quantity"] == SCORE, "group"]) == set(TRAITS)
    assert set(cells.loc[cells["quantity"] == SAFETY, "group"]) == {*SAFETY_CATEGORIES, "Avg"}


def test_bounds_hold_their_number_and_are_as_wide_as_the_items_make_them():
    cells = reference_cells("gemma-2b-it")
    bounded = cells[cells["quantity"] != OPTIONS]
    assert (bounded["published_low"] <= bounded["published"]).all()
    assert (bounded["published"] <= bounded["published_high"]).all()
    width = (bounded["published_high"] - bounded["published_low"]) / 2
    assert width[bounded["published"].between(45, 55) & (bounded["quantity"] == SCORE)].mean() == pytest.approx(
        3.1, abs=0.05
    )
    whole = (bounded["quantity"] == SAFETY) & (bounded["group"] == "Avg")
    assert width[whole].max() < 1 < width[(bounded["quantity"] == SAFETY) & ~whole].min()
    assert cells.loc[cells["quantity"] == OPTIONS, "published_low"].isna().all()


def test_inferred_category_sizes_sum_to_the_questionnaire():
    cells = reference_cells("gemma-2b-it")
    base = cells[(cells["quantity"] == SAFETY) & (cells["condition"] == "base")].set_index("group")["published_n"]
    assert base.drop("Avg").sum() == pytest.approx(base["Avg"], abs=4) and base["Avg"] == 11435


def test_the_large_model_has_personas_and_option_probabilities():
    cells = reference_cells("google/gemma-2-9b-it")
    assert cells["quantity"].value_counts().to_dict() == {OPTIONS: 32, SCORE: 21, CHANGE: 18}
    assert cells.loc[cells["coefficient"] == 0, "condition"].eq("base").all()
    assert set(cells.loc[cells["quantity"] == CHANGE, "coefficient"]) == {200.0, 400.0, 800.0}


def test_a_change_of_a_persona_is_held_against_the_models_own_base():
    cells = reference_cells("gemma-2b-it").set_index(["quantity", "condition", "coefficient", "group"])["published"]
    change = cells[CHANGE, "persona N", 200.0, "narcissism"]
    assert change == pytest.approx(68.1 - cells[SCORE, "base", 0.0, "narcissism"])
    large = reference_cells("gemma-2-9b-it").set_index(["quantity", "condition", "coefficient", "group"])["published"]
    assert large[CHANGE, "persona P", 800.0, "psychopathy"] == pytest.approx(3.7 - 5.7)


def test_the_papers_personas_are_elements_of_every_factor_but_one():
    for keys in PERSONAS.values():
        assert set(keys) <= ELEMENTS and len({key.split(".")[0] for key in keys}) == len(keys) == 8


def test_a_model_without_numbers_is_one_message_that_names_those_with():
    with pytest.raises(DataError, match="organism: nothing was published of this model") as caught:
        reference_cells("organism")
    assert all(name in str(caught.value) for name in reference_models())


def test_a_name_loses_its_owner_and_its_folder():
    assert [bare_name(one) for one in ("a/b", "b", "/x/y/b", "b/")] == ["b"] * 4
