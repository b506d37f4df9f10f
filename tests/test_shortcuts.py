"""What an architecture lets a run leave out is found by trying it."""

import pytest
import torch
from architectures import config
from small_models import CONFIGS, small, untouched
from transformers import AutoModelForCausalLM

from personalib.shortcuts import Shortcuts


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
