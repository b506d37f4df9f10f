"""A model that a service runs gives what a local one gives, rehearsed: the same interventions inside a trace."""

from itertools import product

import numpy as np
import pytest
import torch
from small_models import CONFIGS, LABELS, other_sae, small, small_sae, vector

from personalib.base.records import ItemError
from personalib.models.parts import Site
from personalib.models.remote import rehearsed
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp

PROMPTS = ["w1 w2 w3 w4 w5 w6 ", "w7 ", "w8 w9 w10 ", "w2 w2 w11 w12 "]
EXCHANGES = [("w1 w2 w3 ", "w4 w5"), ("w7 ", "w8 w9 w10 w11"), ("w2 w2 ", "w3 w1")]
POSITIONS = ["last", "prompt", "prompt_except_last", "all"]
BELOW, ABOVE = Site(1), Site(2, "resid_pre")


def kinds(site, positions):
    return [
        Add(vector(site), 1.5, positions),
        Ablate(vector(site, 1), 0.8, positions),
        Clamp(small_sae(site), (0, 5, 17), 2.0, positions),
    ]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_at_every_position_is_what_a_local_model_gives(name):
    """Several prompts in a batch, so that all but the longest are padded on the left."""
    model, sites = small(name), [Site(0, "resid_pre"), Site(0), Site(2, "resid_pre"), Site(1)]
    conditions = [[], [Ablate(vector(Site(2)), 1.0, "all")]]
    for number, (positions, kind) in enumerate(product(POSITIONS, range(3))):
        conditions.append([kinds(sites[number % 4], positions)[kind]])
    expected = ask_steered(model, PROMPTS, LABELS, conditions)
    assert all(np.abs(one - expected[0]).max() > 1e-3 for one in expected[1:])
    close(ask_steered(rehearsed(model), PROMPTS, LABELS, conditions), expected)


@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_losses_of_answers_are_what_a_local_model_gives(name):
    """Also under what steers the answer alone."""
    model = small(name)
    conditions = [[], *([one] for positions in ("response", "last", "prompt") for one in kinds(BELOW, positions))]
    for skip, size in ((0, 16), (1, 2)):
        losses, counts = answer_losses(rehearsed(model), EXCHANGES, conditions, skip=skip, batch_size=size)
        expected, of_each = answer_losses(model, EXCHANGES, conditions, skip=skip)
        close(losses, expected)
        assert counts.tolist() == of_each.tolist()
    assert all(np.abs(one - expected[0]).max() > 1e-3 for one in expected[1:])


def test_several_at_one_site_and_at_several_keep_their_order():
    model = small("gemma2")
    several = [
        Add(vector(ABOVE), 2.0, "prompt"),
        Ablate(vector(BELOW, 1), 1.0, "all"),
        Add(vector(BELOW, 2), 1.0, "last"),
        Clamp(small_sae(ABOVE), (3,), 4.0, "prompt_except_last"),
    ]
    expected = ask_steered(model, PROMPTS, LABELS, [several, several[::-1]])
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    close(ask_steered(rehearsed(model), PROMPTS, LABELS, [several, several[::-1]]), expected)


@pytest.mark.parametrize("size", [1, 3])
def test_batches_change_nothing(size):
    model, conditions = rehearsed(small("gpt2")), [[Add(vector(Site(0)), 2.0, "last")]]
    whole = ask_steered(model, PROMPTS, LABELS, conditions)
    close(ask_steered(model, PROMPTS, LABELS, conditions, batch_size=size), whole)
    assert whole.shape == (1, 4, 4) and not np.allclose(whole[0, 0], whole[0, 1])


def test_half_precision_is_near_a_local_model(llama):
    llama.model.to(torch.bfloat16)
    conditions = [[], kinds(Site(1), "all")]
    [plain, steered] = ask_steered(llama, PROMPTS, LABELS, conditions)
    found = ask_steered(rehearsed(llama), PROMPTS, LABELS, conditions)
    assert np.abs(found[1] - steered).max() < 0.02 < np.abs(plain - steered).max()


def test_an_overflow_is_missing_where_a_condition_makes_it_and_else_an_error(llama):
    found = ask_steered(rehearsed(llama), PROMPTS, LABELS, [[], [Add(vector(BELOW), 3e38)]])
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    with torch.no_grad():
        llama.model.lm_head.weight.mul_(float("inf"))
    with pytest.raises(ItemError, match=r"text 1 of 4 .*NaN or infinite"):
        ask_steered(rehearsed(llama), PROMPTS, LABELS, [[]])


def test_no_prompts_give_no_answers():
    assert ask_steered(rehearsed(small("llama")), [], LABELS, [[]]).shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ([Add(vector(Site(1)), 1.0, "response")], "positions 'response' steer tokens"),
        ([Add(vector(Site(3)), 1.0)], "24 coordinates at resid_post.3"),
        ([Clamp(other_sae("topk", BELOW), (0,), 1.0)], "topk is a topk SAE, whose features"),
        ([Clamp(other_sae("gated", BELOW), (0,), 1.0)], "gated is a gated SAE, whose features"),
    ],
)
def test_what_cannot_be_sent_is_one_error(condition, problem):
    with pytest.raises(ValueError, match=problem):
        ask_steered(rehearsed(small("llama")), PROMPTS, LABELS, [[], condition])
