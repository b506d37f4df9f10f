"""Examples in the documentation of functions are true."""

import doctest
from importlib import import_module

import pytest

MODULES = "base.correlations base.data base.intervals base.markdown base.plots base.statistics base.tables "
MODULES += "evaluation.plan features.saes models.memory models.parts models.prompts models.registry models.sampling "
MODULES += "paper.audit questionnaires.extraction stimuli.factors vectors.methods vectors.vector"


@pytest.mark.parametrize("module", MODULES.split())
def test_examples_in_the_documentation_are_true(module):
    result = doctest.testmod(import_module(f"personalib.{module}"))
    assert result.attempted > 0 and result.failed == 0
