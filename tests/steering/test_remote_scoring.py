"""One trace gives what the grid scorer gives: run in place, and rehearsed as a service would run it."""

from itertools import product

import numpy as np
import pytest
import torch
from sae_lens import SAE
from small_models import CONFIGS, LABELS, small, small_sae, vector

from personalib.base.records import ItemError
from personalib.features.saes import SparseAutoencoder
from personalib.models.parts import Site
from personalib.models.remote import rehearsed
from personalib.steering.application import steer
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp
from personalib.steering.remote_scoring import ask_remote

PROMPTS = ["w1 w2 w3 w4 w5 w6 ", "w7 ", "w8 w9 w10 ", "w2 w2 w11 w12 "]
POSITIONS = ["last", "prompt", "prompt_except_last", "all"]
BELOW, ABOVE = Site(1), Site(2, "resid_pre")


def kinds(site, positions):
    return {
        "add": Add(vector(site), 1.5, positions),
        "ablate": Ablate(vector(site, 1), 0.8, positions),
        "clamp": Clamp(small_sae(site), (0, 5, 17), 2.0, positions),
    }


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_at_every_position_is_what_the_grid_gives(name):
    """Several prompts in a batch, so that all but the longest are padded on the left."""
    model, sites = small(name), [Site(0, "resid_pre"), Site(0), Site(2, "resid_pre"), Site(1)]
    conditions = [[], [Ablate(vector(Site(2)), 1.0, "all")]]
    for number, (positions, kind) in enumerate(product(POSITIONS, ("add", "ablate", "clamp"))):
        conditions.append([kinds(sites[number % 4], positions)[kind]])
    expected = ask_steered(model, PROMPTS, LABELS, conditions)
    assert all(np.abs(one - expected[0]).max() > 1e-3 for one in expected[1:])
    remote = rehearsed(model)
    for condition, wanted in zip(conditions, expected, strict=True):
        close(ask_remote(model, PROMPTS, LABELS, condition), wanted)
        close(ask_remote(remote, PROMPTS, LABELS, condition), wanted)


def test_several_at_one_site_and_at_several_keep_their_order():
    model = small("gemma2")
    several = [
        Add(vector(ABOVE), 2.0, "prompt"),
        Ablate(vector(BELOW, 1), 1.0, "all"),
        Add(vector(BELOW, 2), 1.0, "last"),
        Clamp(small_sae(ABOVE), (3,), 4.0, "prompt_except_last"),
    ]
    [wanted, turned] = ask_steered(model, PROMPTS, LABELS, [several, several[::-1]])
    assert np.abs(wanted - turned).max() > 1e-3
    close(ask_remote(rehearsed(model), PROMPTS, LABELS, several), wanted)
    close(ask_remote(rehearsed(model), PROMPTS, LABELS, several[::-1]), turned)


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("centred", [False, True])
def test_a_clamp_normalises_as_its_sae_does(normalisation, centred):
    model, sae = small("llama"), small_sae(Site(1), normalisation=normalisation, centred=centred)
    condition = [Clamp(sae, (1, 2, 1), 1.5, "all")]
    [plain, wanted] = ask_steered(model, PROMPTS, LABELS, [[], condition])
    assert np.abs(plain - wanted).max() > 1e-4
    close(ask_remote(rehearsed(model), PROMPTS, LABELS, condition), wanted)


def other_sae(architecture, **more):
    config = {
        "architecture": architecture,
        "d_in": 24,
        "d_sae": 48,
        "metadata": {"hook_name": "blocks.1.hook_resid_post"},
    }
    made, generator = SAE.from_dict(config | more).eval(), torch.Generator().manual_seed(3)
    for values in made.parameters():
        values.requires_grad_(False).normal_(generator=generator)
    return SparseAutoencoder(made, architecture, "", Site(1), None, None, "none", False, None)


@pytest.mark.parametrize("shifted", [False, True])
def test_jumprelu_has_a_threshold_of_its_own(shifted):
    model, sae = small("qwen2"), other_sae("jumprelu", apply_b_dec_to_input=shifted)
    condition = [Clamp(sae, tuple(range(20)), 0.0, "prompt")]
    [plain, wanted] = ask_steered(model, PROMPTS, LABELS, [[], condition])
    assert np.abs(plain - wanted).max() > 1e-4
    close(ask_remote(model, PROMPTS, LABELS, condition), wanted)


def test_it_is_what_a_model_steered_by_hand_gives():
    model, prompt = small("falcon"), PROMPTS[0]
    condition = [Ablate(vector(Site(1)), 0.5, "prompt"), Clamp(small_sae(Site(0)), (4,), 2.0, "prompt_except_last")]
    with steer(model, condition), torch.inference_mode():
        logits = model.model(**model.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    wanted = logits.softmax(-1)[model.tokenizer.convert_tokens_to_ids(LABELS)]
    close(ask_remote(rehearsed(model), [prompt], LABELS, condition), wanted[None])


def test_batches_change_nothing():
    model, condition = small("gpt2"), [Add(vector(Site(0)), 2.0, "last")]
    whole = ask_remote(model, PROMPTS, LABELS, condition)
    close(ask_remote(model, PROMPTS, LABELS, condition, batch_size=1), whole)
    close(ask_remote(model, PROMPTS, LABELS, condition, batch_size=3), whole)
    assert whole.shape == (4, 4) and not np.allclose(whole[0], whole[1])


def test_half_precision_is_near_the_grid():
    model = small("llama")
    model.model.to(torch.bfloat16)
    condition = list(kinds(Site(1), "all").values())
    [plain, wanted] = ask_steered(model, PROMPTS, LABELS, [[], condition])
    found = ask_remote(rehearsed(model), PROMPTS, LABELS, condition)
    assert np.abs(found - wanted).max() < 0.02 < np.abs(plain - wanted).max()


def test_no_prompts_give_no_answers():
    assert ask_remote(small("llama"), [], LABELS).shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"interventions": [Add(vector(Site(1)), 1.0, "response")]}, ValueError, "positions 'response' steer tokens"),
        ({"interventions": [Add(vector(Site(3)), 1.0)]}, ValueError, "24 coordinates at resid_post.3"),
        (
            {"interventions": [Clamp(other_sae("topk", k=4), (0,), 1.0)]},
            ValueError,
            "topk is a topk SAE, whose features",
        ),
        ({"interventions": [Clamp(other_sae("gated"), (0,), 1.0)]}, ValueError, "gated is a gated SAE, whose features"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"labels": ["A", "A"]}, ItemError, "both start with token"),
    ],
)
def test_what_cannot_be_sent_is_one_error(change, error, problem):
    with pytest.raises(error, match=problem):
        ask_remote(small("llama"), **{"prompts": PROMPTS, "labels": LABELS} | change)
