"""An evaluation of a model that a service runs is that of a local model, rehearsed."""

import pandas as pd
import pytest
from small_models import small, vector

from personalib.base.data import DataError
from personalib.evaluation.arms import Arm
from personalib.evaluation.ask import evaluate
from personalib.evaluation.keys import model_key
from personalib.evaluation.shards import Asker
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.remote import rehearsed
from personalib.questionnaires.items import load_trait, some_of_each
from personalib.questionnaires.questions import trait_questionnaire
from personalib.steering.interventions import Add


def test_answers_and_losses_are_those_of_a_local_model(tmp_path):
    """Steered, told and as it is; a second run sends nothing."""
    model, asked = load_model(), trait_questionnaire(some_of_each(load_trait(), 1))
    push = Add(vector(Site(1), width=128, size=1.0), 3.0, "prompt")
    arms = [Arm("repe", "trust", (push,)), Arm("prompt", "trust", contexts=("I am often upset.",))]
    here = evaluate(model, asked, arms, neutral=2)
    there = evaluate(rehearsed(model), asked, arms, neutral=2, store=tmp_path, batch_size=5)
    pd.testing.assert_frame_equal(there, here, rtol=1e-3, atol=1e-6)
    assert here.groupby("arm")["p_high1"].mean().nunique() == 3
    model.model.forward = None
    pd.testing.assert_frame_equal(evaluate(rehearsed(model), asked, arms, neutral=2, store=tmp_path), there)


def test_who_runs_a_model_is_part_of_what_answers_are_known_by():
    assert model_key(small("gpt2")) != model_key(rehearsed(small("gpt2")))


def test_workers_do_not_ask_a_service():
    with pytest.raises(DataError, match="gpt2 is run by a service, and not by workers; leave the engine out"):
        Asker.of(rehearsed(small("gpt2")), [()], "key", 8)
