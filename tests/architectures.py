"""Every causal architecture of transformers, tiny and with random weights: does the library compute what it should?

Each is steered at every choice of positions and compared with a hook written out by hand, on one sequence alone,
without padding and without a cache: the answers of ``ask_steered``, ``answer_losses``, ``generate`` and ``capture``
have to be those, or the model has to be refused when it is loaded.

    python tests/architectures.py [NAME…] [--out book/architectures.csv]

prints a line an architecture as it is tried, and writes the table that the book shows; with names, their rows of it.
"""

import argparse
import csv
import sys
import tempfile
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from small_models import LABELS, VOCABULARY, hooked, steered_alone, vector, words
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from personalib.base.data import DataError
from personalib.models.activations import capture
from personalib.models.hooks import Shortcuts
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.prompts import encode_prompts
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import POSITIONS, Add

DEPTH, WIDTH, HEADS = 4, 32, 4
# By the names that configurations have for them; a configuration gets those that it knows.
SIZES = {
    "vocab_size": len(VOCABULARY),
    "initializer_range": 0.4,
    "num_nextn_predict_layers": 0,
    "init_std": 0.4,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "emb_dim", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "attention_hidden_size", "lru_width"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), DEPTH),
    **dict.fromkeys(("num_decoder_layers", "num_blocks"), DEPTH),
    **dict.fromkeys(("num_encoder_layers", "encoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads", "num_kv_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads"), HEADS // 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "d_head", "attention_head_size", "dim_head"), 8),
    **dict.fromkeys(("v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "index_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "laurel_rank", "hc_lowrank", "gated_norm_rank"), 16),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("ffn_dim", "ffn_hidden_size", "expert_ffn_hidden_size", "dff", "d_inner", "dim_ff"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "dense_intermediate_size"), 48),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "feed_forward_size", "router_hidden_size"), 48),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("topk_group", "n_group", "num_expert_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads", "linear_num_heads", "n_mamba_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    "mamba_d_ssm": 2 * WIDTH,
    "index_n_heads": 2,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "context_length": 128,
    "max_seq_len": 128,
    "sliding_window": 8,
    "window_size": 8,
    "local_attention": 8,
    "attention_window_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
# What the sizes above do not settle, by architecture.
OWN: dict[str, dict[str, object]] = {
    "mamba2": {"head_dim": 16},
    "mixtral": {"output_router_logits": True},
    "zaya": {"num_experts_per_tok": 1},
    # Its cache has a window and its mask has none, which is the same up to the longest text that it reads.
    "moshi": {"sliding_window": 128},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * (DEPTH // 2), "hybrid_layer_ids": [1, 3], "attention_head_dim": 16},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "attn_layer_period": 2, "attn_layer_offset": 1},
    "reformer": {"is_decoder": True, "attn_layers": ["local"] * DEPTH, "axial_pos_embds": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (DEPTH // 2), "num_dense_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]]},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * (DEPTH // 2),
        "activation_sparsity_pattern": [0.0] * DEPTH,
        "vocab_size_per_layer_input": len(VOCABULARY),
    },
}
# Architectures that cannot be built tiny, or are none that reads text alone, with the reason.
LEFT_OUT: dict[str, str] = {"blt": "reads bytes in patches, by a model of their entropy"}


class Row(NamedTuple):
    """One architecture of the table."""

    architecture: str
    model_class: str
    outcome: str
    why: str = ""


def config(kind: str) -> PreTrainedConfig:
    """The configuration of a tiny model of an architecture."""
    return shrunk(CONFIG_MAPPING[kind], OWN.get(kind, {}))


def shrunk(form: type[PreTrainedConfig], own: dict[str, object]) -> PreTrainedConfig:
    """A configuration with every size that it knows made small, and those inside it too."""
    known = set(getattr(form, "__dataclass_fields__", {})) | set(form.__init__.__annotations__)
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in known and "num_key_value_heads" in known:
        # Latent attention has keys and values for each head.
        sizes["num_key_value_heads"] = HEADS
    # Tokens that a model gives a meaning have to be in the vocabulary.
    fields = getattr(form, "__dataclass_fields__", {})
    marks = {
        name: len(VOCABULARY) - 1
        for name in fields
        if name not in SIZES and name.endswith(("_token_id", "_token_index")) and isinstance(fields[name].default, int)
    }
    inner = {
        name: shrunk(sub, {}) for name, sub in form.sub_configs.items() if "text" in name and isinstance(sub, type)
    }
    return form(**(sizes | marks | inner | own))


def build(kind: str, folder: Path) -> Path:
    """A tiny model of an architecture with random weights, saved with a tokenizer of whole words."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(kind), attn_implementation="eager").eval()
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() > 1 and not values.any():
                values.normal_(std=0.4)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


PROMPTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11\n", "w5 w6 w7\n", "w9 w3\n"]
ANSWERS = ["w3 w4 w5", "w8 w1", "w2 w2 w7 w8"]


def differences(folder: Path) -> list[str]:
    """What differs from the model run by hand; empty where everything agrees.

    Raises:
        DataError: the model is refused when it is loaded.
    """
    # The tokenizer of some architectures would split the words.
    loaded = replace(load_model(str(folder)), tokenizer=words())
    push = vector(Site(1), width=loaded.model.config.get_text_config().hidden_size)
    found = []
    for positions in POSITIONS:
        one = Add(push, 1.0, positions)
        for what in (_answers, _losses, _texts):
            try:
                found += [f"{what.__name__[1:]} at {positions}"] * (not what(loaded, one))
            except Exception as error:
                found.append(f"{what.__name__[1:]} at {positions}: {type(error).__name__}: {str(error)[:60]}")
                if "-v" in sys.argv:
                    traceback.print_exc()
    found += ["activations"] * (not _streams(loaded, folder / "activations"))
    return found + [f"{name} in bfloat16" for name in _hidden(loaded.model)]


def _hidden(model) -> list[str]:
    """The shortcuts that come out right in bfloat16 alone, where rounding hides what is wrong."""
    exact = Shortcuts.of(model)
    try:
        rough = Shortcuts.of(model.bfloat16())
    except RuntimeError:
        # Some have parts that read float32 alone.
        return []
    names = ("padding", "starting", "cutting_back", "caching")
    return [name for name in names if getattr(rough, name) and not getattr(exact, name)]


def _answers(loaded, one) -> bool:
    if one.positions == "response":
        return True
    rows, ids = encode_prompts(loaded.tokenizer, PROMPTS), loaded.tokenizer.convert_tokens_to_ids(LABELS)
    got = ask_steered(loaded, PROMPTS, LABELS, [(), (one,), (one, one)])
    for own, condition in zip(got, [(), (one,), (one, one)], strict=True):
        want = [steered_alone(loaded.model, row, len(row), condition)[-1].softmax(-1)[list(ids)] for row in rows]
        if not np.allclose(own, torch.stack(want).numpy(), atol=2e-5):
            return False
    return True


def _losses(loaded, one) -> bool:
    exchanges = list(zip(PROMPTS, ANSWERS, strict=True))
    [[got], _] = answer_losses(loaded, exchanges, [(one,)])
    want = []
    for prompt, answer in exchanges:
        [start, row] = encode_prompts(loaded.tokenizer, [prompt, prompt + answer])
        logits = steered_alone(loaded.model, row, len(start), (one,)).log_softmax(-1)
        want.append(-sum(logits[place - 1, row[place]].item() for place in range(len(start), len(row))))
    return np.allclose(got, want, rtol=1e-4, atol=1e-4)


def _texts(loaded, one) -> bool:
    want, length = [], 6
    for row in encode_prompts(loaded.tokenizer, PROMPTS):
        made = list(row)
        while len(made) < len(row) + length:
            made.append(int(steered_alone(loaded.model, made, len(row), (one,))[-1].argmax()))
            if made[-1] == loaded.tokenizer.pad_token_id:
                break
        want.append(loaded.tokenizer.decode(made[len(row) :], skip_special_tokens=True).strip())
    return generate(loaded, PROMPTS, [one], tokens=length) == want


@torch.inference_mode()
def _streams(loaded, folder: Path) -> bool:
    site = Site(1)
    got = capture(loaded, PROMPTS, [site], folder, tokens="all")
    for number, row in enumerate(encode_prompts(loaded.tokenizer, PROMPTS)):
        met: list[torch.Tensor] = []
        handle = hooked(loaded.model, site, lambda stream, met=met: met.append(stream) or stream)
        loaded.model(torch.tensor([row]), use_cache=False)
        handle.remove()
        # Without the token at the beginning, which does not count.
        if not np.allclose(got.text(site, number), met[0][0, 1:].float().numpy(), rtol=1e-3, atol=1e-4):
            return False
    return True


def tried(kind: str) -> Row:
    """One architecture, built, loaded and compared."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    if kind in LEFT_OUT:
        return Row(kind, name, "not tried", LEFT_OUT[kind])
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = build(kind, Path(folder) / kind)
        except Exception as error:
            if "-v" in sys.argv:
                traceback.print_exc()
            return Row(kind, name, "not tried", f"not built tiny: {' '.join(str(error).split())[:160]}")
        try:
            found = differences(made)
        except DataError as error:
            return Row(kind, name, "refused", str(error).partition(": ")[2])
        except Exception as error:
            if "-v" in sys.argv:
                traceback.print_exc()
            return Row(kind, name, "fails", f"{type(error).__name__}: {str(error)[:160]}")
    return Row(kind, name, "fails" if found else "agrees", "; ".join(found))


def main() -> None:
    """Try the architectures that are named, or all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures, as transformers calls them; all by default")
    parser.add_argument("--out", type=Path, help="the table that is written")
    parser.add_argument("-v", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for kind in arguments.names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        rows.append(tried(kind))
        print(*rows[-1], sep=" | ", flush=True)  # noqa: T201
    if arguments.out:
        write(arguments.out, rows, whole=not arguments.names)


def write(path: Path, rows: list[Row], whole: bool) -> None:
    """Write the table, or only these rows of the one that is there."""
    found = {row.architecture: row for row in rows}
    if not whole and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            found = {row["architecture"]: Row(**row) for row in csv.DictReader(file)} | found
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([Row._fields, *(found[name] for name in sorted(found))])


if __name__ == "__main__":
    main()
