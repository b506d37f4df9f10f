"""The published tables load, say what the paper says, and refuse to be anything else."""

import shutil
from pathlib import Path

import pytest

from personalib.base.data import DataError, data_dir
from personalib.features.published import sae_features
from personalib.paper import tables as reference


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the reference files that a test may spoil."""
    shutil.copytree(data_dir() / "reference", tmp_path / "reference")
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    return tmp_path / "reference"


def test_every_element_has_every_trait_at_both_coefficients() -> None:
    scores = reference.trait_scores()
    steered = scores[scores["element"] != "base"]
    assert steered.groupby(["coefficient", "element"]).size().eq(8).all()
    assert steered["element"].nunique() == 22
    assert (scores["element"] == "base").sum() == 8


def test_largest_change_is_the_one_the_paper_states() -> None:
    changes = reference.trait_changes(200)
    assert list(changes.columns) == list(reference.TRAITS)
    assert changes.loc["relaxed", "Agreeableness"] == pytest.approx(-52.5)
    assert changes.abs().max().max() == pytest.approx(52.5)


def test_unpublished_coefficient_is_refused() -> None:
    with pytest.raises(ValueError, match="published are 200 and 300"):
        reference.trait_changes(800)


def test_opposites_are_elements_of_one_factor() -> None:
    factors = reference.trait_scores().set_index("element")["factor"]
    for one, other in reference.OPPOSITES:
        assert set(factors.loc[[one]]) == set(factors.loc[[other]])


def test_safety_table_names_its_base_and_chance() -> None:
    table = reference.safety_accuracy()
    assert {"base", "chance"} <= set(table["condition"])
    assert set(table["category"]) == {*reference.SAFETY_CATEGORIES, "Avg"}
    assert not table.duplicated(["condition", "category"]).any()


def test_option_probabilities_are_four_letters_a_condition() -> None:
    table = reference.option_probabilities()
    assert table.groupby(["model", "coefficient"])["option"].agg("".join).eq("ABCD").all()
    assert table.groupby(["model", "coefficient"])["probability"].sum().le(1).all()


def test_features_count_as_in_the_trait_table() -> None:
    counts = sae_features().query("model == 'gemma-2b-it'").groupby("element").size()
    scores = reference.trait_scores().query("element != 'base'")
    assert counts.to_dict() == scores.groupby("element")["n_features"].first().to_dict()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("score", "points", "'score' is missing"),
        ("78.3", "783", "line 2: score is not in 0..100"),
        ("78.3", "high", "not the table it should be"),
    ],
)
def test_spoilt_file_is_one_clear_error(copied: Path, before: str, after: str, message: str) -> None:
    path = copied / "trait_gemma-2b-it.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        reference.trait_scores()
    assert str(path) in str(caught.value)


def test_missing_file_names_itself(copied: Path) -> None:
    (copied / "sae_features.csv").unlink()
    with pytest.raises(DataError, match=r"sae_features\.csv: no such file"):
        sae_features()


def test_pairs_from_different_factors_count_once() -> None:
    table = reference.unrelated_pairs(["poor", "young", "rich", "older"])
    pairs = {(one, other) for one in table for other in table if table.loc[one, other]}
    assert pairs == {("poor", "young"), ("poor", "older"), ("young", "rich"), ("rich", "older")}
