"""The published tables load, say what the paper says, and refuse to be anything else."""

import shutil

import pytest

from personalib.base.data import DataError, data_dir
from personalib.features.published import sae_features
from personalib.paper import tables as reference
from personalib.paper.cells import CELL, CHANGE, OPTIONS, SAFETY, SCORE, reference_cells, reference_models
from personalib.stimuli.factors import TRAITS, load_factors

ELEMENTS = {f"{one.key}.{element.key}" for one in load_factors() for element in one.elements}
KEYS = {"base", "persona N", "persona P", *ELEMENTS}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the reference files that a test may spoil."""
    shutil.copytree(data_dir() / "reference", tmp_path / "reference")
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    return tmp_path / "reference"


def test_every_element_has_every_trait_at_both_coefficients():
    scores = reference.trait_scores()
    steered = scores[scores["element"] != "base"]
    assert steered.groupby(["coefficient", "element"]).size().eq(8).all()
    assert steered["element"].nunique() == 22
    assert (scores["element"] == "base").sum() == 8


def test_changes_are_in_the_order_of_the_traits_and_the_largest_is_the_papers():
    changes = reference.trait_changes(200)
    assert list(changes.columns) == list(reference.TRAITS)
    assert changes.loc["relaxed", "Agreeableness"] == pytest.approx(-52.5) == -changes.abs().max().max()
    with pytest.raises(ValueError, match="published are 200 and 300"):
        reference.trait_changes(800)


def test_conditions_have_every_category_and_every_letter_once():
    safety, options = reference.safety_accuracy(), reference.option_probabilities()
    assert {"base", "chance"} <= set(safety["condition"])
    assert set(safety["category"]) == {*reference.SAFETY_CATEGORIES, "Avg"}
    assert not safety.duplicated(["condition", "category"]).any()
    by_condition = options.groupby(["model", "coefficient"])
    assert by_condition["option"].agg("".join).eq("ABCD").all() and by_condition["probability"].sum().le(1).all()


def test_opposites_are_of_one_factor_and_personas_of_all_but_one():
    factors = reference.trait_scores().set_index("element")["factor"]
    assert all(set(factors.loc[[one]]) == set(factors.loc[[other]]) for one, other in reference.OPPOSITES)
    for keys in reference.PERSONAS.values():
        assert set(keys) <= ELEMENTS and len({key.split(".")[0] for key in keys}) == len(keys) == 8


def test_features_count_as_in_the_trait_table():
    counts = sae_features().query("model == 'gemma-2b-it'").groupby("element").size()
    scores = reference.trait_scores().query("element != 'base'")
    assert counts.to_dict() == scores.groupby("element")["n_features"].first().to_dict()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("score", "points", "'score' is missing"),
        ("78.3", "783", "line 2: score is not in 0..100"),
        ("78.3", "high", "not the table it should be"),
        (None, None, "no such file"),
    ],
)
def test_a_spoilt_or_missing_file_is_one_clear_error(copied, before, after, message):
    path = copied / "trait_gemma-2b-it.csv"
    if before is None:
        path.unlink()
    else:
        path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        reference.trait_scores()
    assert str(path) in str(caught.value)


def test_pairs_from_different_factors_count_once():
    table = reference.unrelated_pairs(["poor", "young", "rich", "older"])
    pairs = {(one, other) for one in table for other in table if table.loc[one, other]}
    assert pairs == {("poor", "young"), ("poor", "older"), ("young", "rich"), ("rich", "older")}


# Cells


@pytest.mark.parametrize("model", ["gemma-2b-it", "google/gemma-2b-it", "/models/gemma-2b-it/"])
def test_every_number_is_there_once_under_known_keys(model):
    cells = reference_cells(model)
    counts = cells["quantity"].value_counts()
    personas = (reference.persona_scores()["model"] == "gemma-2b-it").sum()
    assert (counts[SCORE], len(reference.trait_scores()), personas) == (360 + 12, 360, 12)
    assert counts[SAFETY] == (reference.safety_accuracy()["condition"] != "chance").sum()
    assert counts[OPTIONS] == (reference.option_probabilities()["model"] == "gemma-2b-it").sum()
    assert not cells.duplicated(list(CELL)).any() and set(cells["condition"]) <= KEYS
    assert set(cells.loc[cells["quantity"] == SCORE, "group"]) == set(TRAITS)
    assert set(cells.loc[cells["quantity"] == SAFETY, "group"]) == {*reference.SAFETY_CATEGORIES, "Avg"}


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
    # The sizes of SafetyBench's categories are inferred, and sum to the questionnaire.
    base = cells[(cells["quantity"] == SAFETY) & (cells["condition"] == "base")].set_index("group")["published_n"]
    assert base.drop("Avg").sum() == pytest.approx(base["Avg"], abs=4) and base["Avg"] == 11435


def test_the_large_model_has_personas_and_option_probabilities():
    cells = reference_cells("google/gemma-2-9b-it")
    assert cells["quantity"].value_counts().to_dict() == {OPTIONS: 32, SCORE: 21, CHANGE: 18}
    assert cells.loc[cells["coefficient"] == 0, "condition"].eq("base").all()
    assert set(cells.loc[cells["quantity"] == CHANGE, "coefficient"]) == {200.0, 400.0, 800.0}


def test_a_change_of_a_persona_is_held_against_the_models_own_base():
    small, large = (reference_cells(f"gemma-2{size}-it").set_index(list(CELL))["published"] for size in ("b", "-9b"))
    change = small[CHANGE, "persona N", 200.0, "narcissism"]
    assert change == pytest.approx(68.1 - small[SCORE, "base", 0.0, "narcissism"])
    assert large[CHANGE, "persona P", 800.0, "psychopathy"] == pytest.approx(3.7 - 5.7)


def test_a_model_without_numbers_is_one_message_that_names_those_with():
    with pytest.raises(DataError, match="organism: nothing was published of this model") as caught:
        reference_cells("organism")
    assert all(name in str(caught.value) for name in reference_models())
