"""Blocks and the last norm of many architectures are found, and what is not what it seems is refused."""

import pytest
import torch
import transformers
from small_models import CONFIGS, small
from transformers import AutoModelForCausalLM

from personalib.models.parts import Parts, blocks, blocks_path, check_parts, final_norm, tell_parts

SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
OLD_SIZES = {"vocab_size": 64, "n_embd": 24, "n_layer": 3, "n_head": 2}
OTHERS = {
    **dict.fromkeys(("Mistral", "Qwen3", "Olmo", "Olmo2", "Cohere", "Granite", "Mixtral", "Gemma3Text"), SIZES),
    "Phi3": SIZES | {"pad_token_id": 0},
    "OPT": SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 24},
    "GPTBigCode": OLD_SIZES,
    "GPTJ": OLD_SIZES | {"rotary_dim": 4},
    # Its blocks are in no usual place.
    "Mpt": {"vocab_size": 64, "d_model": 24, "n_layers": 3, "n_heads": 2},
}


def other(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**OTHERS[name])).eval()


@pytest.mark.parametrize("name", sorted([*CONFIGS, *OTHERS]))
def test_the_parts_of_many_architectures_are_found(name):
    model = small(name).model if name in CONFIGS else other(name)
    check_parts(model)
    assert len(blocks(model)) == 3 and (name in CONFIGS or "norm" in type(final_norm(model)).__name__.lower())


def test_parts_in_no_usual_place_are_found_by_what_they_are():
    assert blocks_path(other("Mpt")) == "transformer.blocks"


class Renamed(torch.nn.Module):
    """A model whose blocks are in two lists of one length."""

    def __init__(self):
        super().__init__()
        inner = small("llama").model
        self.config, self.device = inner.config, torch.device("cpu")
        self.stack, self.last, self.tail = inner.model.layers, inner.model.norm, inner.lm_head
        self.decoys = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in self.stack)
        self.rotary, self.embed = inner.model.rotary_emb, inner.model.embed_tokens

    def get_output_embeddings(self):
        return self.tail

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        stream = self.embed(input_ids)
        places = torch.arange(input_ids.shape[1])[None]
        for block in self.stack:
            stream = block(stream, position_ids=places, position_embeddings=self.rotary(stream, places))
        return transformers.modeling_outputs.CausalLMOutput(logits=self.tail(self.last(stream)))


def test_what_stands_in_the_place_of_the_last_norm_is_found():
    """OPT of 350 million parameters has its norms within the blocks, and a narrower embedding."""
    sizes = OTHERS["OPT"] | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
    model = AutoModelForCausalLM.from_config(transformers.OPTConfig(**sizes)).eval()
    check_parts(model)
    assert final_norm(model) is model.model.decoder.project_out


def test_a_residual_stream_that_is_changed_between_blocks_is_noticed():
    model = small("llama").model
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]), prepend=True)
    with pytest.raises(ValueError, match=r"block 1 of model\.layers does not read what block 0 leaves"):
        check_parts(model)


def test_what_is_not_clear_has_to_be_told_and_is_checked():
    model = Renamed().eval()
    with pytest.raises(ValueError, match=r"not found \(2 lists have as many parts.*parts: \{blocks: …, norm: …\}"):
        blocks_path(model)
    tell_parts(model, Parts("stack", "last"))
    check_parts(model)
    assert blocks(model) is model.stack and final_norm(model) is model.last
    tell_parts(model, Parts("decoys", "last"))
    with pytest.raises(ValueError, match="block 0 of decoys is never run"):
        check_parts(model)


def test_a_norm_that_is_not_the_last_is_noticed():
    model = small("llama").model
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.normal_()
    tell_parts(model, Parts("model.layers", "model.layers.0.input_layernorm"))
    with pytest.raises(ValueError, match="the output of LlamaForCausalLM is not its last block through norm"):
        check_parts(model)


@pytest.mark.parametrize("parts", [Parts("model.norm", "model.norm"), Parts("model.layers", "model.nothing")])
def test_a_part_that_is_not_there_is_named(parts):
    wrong = parts.blocks if parts.blocks == "model.norm" else parts.norm
    with pytest.raises(ValueError, match=f"has no '{wrong}' of that kind"):
        tell_parts(small("llama").model, parts)


def test_a_cap_on_the_logits_counts():
    model = small("gemma2", final_logit_softcapping=2.0).model
    check_parts(model)
    model.config.final_logit_softcapping = None
    with torch.inference_mode():
        assert model(torch.arange(6)[None]).logits.abs().max() > 2


def test_numbers_that_overflow_are_told_as_such():
    model = small("llama").model
    model.get_output_embeddings().weight.data *= 1e30
    model.get_input_embeddings().weight.data *= 1e30
    with pytest.raises(ValueError, match=r"NaN or infinite; its numbers overflow in float16; load it in bfloat16"):
        check_parts(model.half())
