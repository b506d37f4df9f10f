"""A user's own contrast prompts are what a direction is fitted to, or one clear error."""

import pytest
import torch

from personalib.base.data import DataError
from personalib.evaluation.plan import ArmsPlan
from personalib.evaluation.planned_arms import ArmMaker
from personalib.models.parts import Site
from personalib.stimuli.contrast_files import supplied_contrasts, supplied_questions, supplied_set
from personalib.stimuli.contrast_pairs import load_carriers
from personalib.vectors.contrast import fit_vector, read_pairs

SITE = Site(1)
TEXTS = {"positive": ["Trust everybody.", "People mean well."], "negative": ["Trust nobody."]}
QUESTIONS = [f"What would you do on day {number}?" for number in range(8)]


def test_the_pairs_are_of_the_texts_and_questions_of_the_file(write_yaml):
    path = write_yaml(contrasts={"trust": TEXTS}, questions=QUESTIONS)
    [one] = supplied_contrasts(path, "pressures")
    assert (one.family, one.key, one.title) == ("pressures", "trust", "Trust")
    pairs = supplied_set(path, one, 500, 0)
    assert len(pairs) == len(set(pairs)) == 2 * 1 * 6
    assert {pair.positive.text for pair in pairs} == set(TEXTS["positive"])
    assert {pair.question for pair in pairs} < set(QUESTIONS)
    assert len(supplied_set(path, one, 3, 0)) == 3


def test_without_questions_the_books_neutral_ones_follow_and_a_text_may_stand_alone(write_yaml):
    path = write_yaml(contrasts={"trust": {"positive": "Trust everybody.", "negative": "Trust nobody."}})
    [pair, *_] = supplied_set(path, *supplied_contrasts(path, "pressures"), 4, 0)
    assert (pair.positive.text, pair.negative.text) == ("Trust everybody.", "Trust nobody.")
    assert pair.question in supplied_questions(path) == load_carriers()


def test_a_plan_fits_its_direction_to_the_file_and_others_to_the_books(organism, write_yaml, tmp_path):
    path = write_yaml(contrasts={"trust": TEXTS}, questions=QUESTIONS)
    maker = ArmMaker(organism, ["Who are you?"], tmp_path / "work", pairs=8)
    common = {"method": "repe", "family": "pressures", "site": str(SITE), "coefficients": (2.0,)}
    own = ArmsPlan(**common, contrast_file=str(path))
    books = ArmsPlan(**common, keys=("trust",), label="book")
    [mine, theirs] = maker.arms([own, books])
    assert (mine.key, mine.method, theirs.method) == ("trust", "repe", "book")
    [one] = supplied_contrasts(path, "pressures")
    wanted = fit_vector(read_pairs(organism, one, supplied_set(path, one, 8, 0), [SITE], tmp_path / "again"), SITE)
    got, other = (arm.condition[0].vector.direction for arm in (mine, theirs))
    torch.testing.assert_close(got, wanted.unit().direction)
    assert not torch.allclose(got, other)
    with pytest.raises(ValueError, match="pressures have no 'activity'; choose among trust"):
        maker.arms([own.model_copy(update={"keys": ("activity",)})])


def test_a_file_is_for_contrast_vectors_alone():
    with pytest.raises(ValueError, match="a file of contrasts is for method 'repe'"):
        ArmsPlan(method="prompt", contrast_file="own.yaml")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"templates": {}}, "contrasts: none are there"),
        ({"contrasts": {}}, "contrasts: none are there"),
        ({"contrasts": ["trust"]}, r"contrasts: Input should be a valid dictionary"),
        ({"contrasts": {"trusst": TEXTS}}, r"contrasts\.trusst: no such key among the pressures; use .*trust"),
        ({"contrasts": {"trust": {"positive": ["x"]}}}, r"contrasts\.trust\.negative: is missing; add it"),
        ({"contrasts": {"trust": TEXTS | {"both": ["x"]}}}, r"contrasts\.trust\.both: there is no such field"),
        ({"contrasts": {"trust": TEXTS | {"negative": []}}}, r"contrasts\.trust\.negative: it is empty"),
        ({"contrasts": {"trust": TEXTS | {"negative": [" "]}}}, r"trust\.negative: a text is empty"),
        ({"contrasts": {"trust": TEXTS | {"negative": ["a", 3]}}}, r"trust\.negative\.1: is 3; write a text"),
        ({"contrasts": {"trust": TEXTS | {"negative": ["a", "a"]}}}, r"trust\.negative: 'a' stands twice"),
        ({"contrasts": {"trust": TEXTS | {"negative": TEXTS["positive"]}}}, r"trust: .* stands under both poles"),
    ],
)
def test_a_bad_file_is_one_error_that_names_file_key_and_fix(write_yaml, content, problem):
    path = write_yaml(**content)
    with pytest.raises(DataError, match=problem) as caught:
        supplied_contrasts(path, "pressures")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("questions", [["One?"], [], "One?", ["a?", "a?", "b?", "c?"]])
def test_bad_questions_are_named(write_yaml, questions):
    with pytest.raises(DataError, match=r"own\.yaml: questions:"):
        supplied_questions(write_yaml(contrasts={"trust": TEXTS}, questions=questions))
