"""Items become questionnaires that are scored as their kind is."""

import doctest
import importlib

import pytest

from personalib.questionnaires.items import load_facts, load_trait
from personalib.questionnaires.questionnaire import choice_questionnaire, trait_questionnaire
from personalib.questionnaires.questions import choice_questions, trait_questions


def test_trait_items_are_asked_in_both_orders():
    items = load_trait()[:3]
    made = trait_questionnaire(items, ("letters", "bare"), name="mine")
    assert (made.name, made.kind, made.reading) == ("mine", "trait", "options")
    assert list(made.questions) == trait_questions(items, ("letters", "bare")) and len(made.questions) == 3 * 2 * 2


def test_choices_are_asked_in_the_order_of_the_item():
    items = load_facts()[:4]
    made = choice_questionnaire(items)
    assert made.kind == "choice" and list(made.questions) == choice_questions(items)


def test_a_template_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="unknown template 'nope'"):
        trait_questionnaire(load_trait()[:1], ("nope",))


@pytest.mark.parametrize("module", ["extraction", "questions", "scales", "scores"])
def test_examples_in_the_documentation_are_true(module):
    assert doctest.testmod(importlib.import_module(f"personalib.questionnaires.{module}")).failed == 0
