"""What an architecture lets a run leave out is found by trying it."""

from dataclasses import replace

import pytest
import torch
from architectures import config
from small_models import CONFIGS, small, untouched, vector
from transformers import AutoModelForCausalLM

from personalib.models.hooks import _KNOWN, Shortcuts
from personalib.models.parts import Site
from personalib.steering.application import steer
from personalib.steering.interventions import Add


def other(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(kind), attn_implementation="eager").eval()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_decoders_with_plain_attention_allow_all_of_it(name):
    found = Shortcuts.of(small(name).model)
    assert found.padding and found.starting and found.cutting_back and found.caching


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "qwen3_5_text", "jamba"])
def test_what_a_recurrent_block_has_read_cannot_be_taken_back(kind):
    found = Shortcuts.of(other(kind))
    assert not found.cutting_back and found.starting


def test_positions_that_count_padding_need_rows_of_one_length():
    assert not Shortcuts.of(other("bart")).padding


def test_keys_that_later_blocks_take_from_earlier_ones_need_every_block():
    assert not Shortcuts.of(other("gemma3n_text")).starting


@pytest.mark.parametrize("kind", ["recurrent_gemma", "bart", "plbart", "jamba", "gemma3n_text"])
def test_half_precision_hides_no_mistake(kind):
    exact, rough = Shortcuts.of(other(kind)), Shortcuts.of(other(kind).bfloat16())
    assert replace(rough, cuts=()) == replace(exact, cuts=())


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_rounding_forbids_nothing_in_half_precision(kind):
    found = Shortcuts.of(other(kind).bfloat16())
    assert found.padding and found.starting and found.cutting_back and found.caching


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_no_room_on_the_device_is_not_taken_for_what_the_architecture_cannot_do(part):
    """The last block's own part, in a run for one token alone, as for a cache that is cut back or a block cut short."""
    model = small("llama").model
    whole = getattr(model.model.layers[-1], part).forward

    def full(hidden_states, *rest, **others):
        if hidden_states.shape[1] == 1:
            raise torch.OutOfMemoryError
        return whole(hidden_states, *rest, **others)

    getattr(model.model.layers[-1], part).forward = full
    with pytest.raises(torch.OutOfMemoryError):
        Shortcuts.of(model)


def test_hooks_that_come_and_go_leave_nothing_for_good():
    model = small("llama")
    for _ in range(3):
        with steer(model, [Add(vector(Site(1)), 1.0, "all")]):
            Shortcuts.of(model.model)
    # What was tried last, and with what.
    assert len(_KNOWN[model.model]) == 2


def test_it_is_tried_once_and_leaves_nothing_behind():
    model = small("llama").model
    kept = model.generation_config
    first, calls = Shortcuts.of(model), []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert Shortcuts.of(model) is first and not calls
    handle.remove()
    assert model.generation_config is kept and untouched(model) and not model.training
    model.double()
    assert Shortcuts.of(model) is not first
