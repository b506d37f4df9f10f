"""Trait items put to a model here and, in a rehearsal, to a service: the same rows, steered or not."""

import numpy as np
import pandas as pd
import pytest
from small_models import vector

from personalib.evaluation.arms import Arm
from personalib.evaluation.ask import evaluate
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.remote import rehearsed
from personalib.questionnaires.items import load_trait, some_of_each
from personalib.questionnaires.questionnaire import trait_questionnaire
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add
from personalib.steering.remote_items import ask_items

CONDITIONS = [(), (Add(vector(Site(1), width=128, size=1.0), 3.0, "prompt"),)]


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def items():
    return some_of_each(load_trait(), 1)


def test_without_steering_it_is_the_questionnaire(organism, items):
    told = Arm("prompt", "yes", contexts=("Yes.",))
    asked = evaluate(organism, trait_questionnaire(items, ["bare"]), [told], neutral=0, baseline=False)
    found = ask_items(organism, items, template="bare", context="Yes.")
    names = ["item", "order"]
    expected = asked.set_index(names)[list(found.columns.difference(["condition", *names]))]
    found_rows = found.set_index(names)[list(expected)].loc[expected.index]
    pd.testing.assert_frame_equal(found_rows, expected, rtol=0, atol=1e-6)
    assert set(found["condition"]) == {0} and len(found) == 16


def test_steered_it_is_the_grid(organism, items):
    sheet = TraitSheet(organism, items, "letters", organism.form)
    expected = ask_steered(organism, sheet.prompts(), sheet.labels, CONDITIONS)
    found = ask_items(organism, items, CONDITIONS)
    for number in range(2):
        mass = found.loc[found["condition"] == number, "mass"]
        np.testing.assert_allclose(mass, expected[number].sum(1), atol=1e-6)


@pytest.mark.parametrize("context", ["", "I am often upset."])
def test_a_rehearsed_service_gives_the_same_rows(context, organism, items):
    here = ask_items(organism, items, CONDITIONS, context=context)
    there = ask_items(rehearsed(organism), items, CONDITIONS, context=context, batch_size=5)
    pd.testing.assert_frame_equal(there, here, rtol=1e-4, atol=1e-6)
    assert not np.allclose(here[here["condition"] == 0]["p_high1"], here[here["condition"] == 1]["p_high1"], atol=1e-3)


def test_the_same_condition_twice_is_asked_for_twice(organism, items):
    found = ask_items(organism, items, [(), ()])
    first, second = (found[found["condition"] == number].drop(columns="condition") for number in (0, 1))
    pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))


def test_no_items_are_one_error(organism):
    with pytest.raises(ValueError, match="no trait items to ask"):
        ask_items(organism, [])
