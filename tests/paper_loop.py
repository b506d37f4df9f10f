"""The loop of arXiv 2410.10863: a TransformerLens hook on one prompt at a time, and a softmax brought to Python.

The TransformerLens model is built from a model of transformers, with the same weights and without the hub.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
    convert_neox_weights,
)
from transformers import PretrainedConfig, PreTrainedModel

_OFF = -1.0  # what TransformerLens calls a soft cap that is none
Settings = dict[str, Any]


def hooked_transformer(model: PreTrainedModel) -> HookedTransformer:
    """A TransformerLens model with the weights of a model of transformers, of which none is folded or centred.

    It has no tokenizer: TransformerLens would load that anew by its name, and :func:`paper_loop` passes token ids.

    Raises:
        ValueError: the architecture is none of Gemma 2, Llama, GPT-2 and GPT-NeoX, or its rotary positions are of a
            kind that is not converted.
    """
    kind = model.config.model_type
    if kind not in _KINDS:
        raise ValueError(f"architecture {kind!r}; choose one of {', '.join(_KINDS)}")
    settings, convert = _KINDS[kind]
    parameter = next(model.parameters())
    config = HookedTransformerConfig(
        **settings(model.config),
        original_architecture=type(model).__name__,
        device=parameter.device.type,
        dtype=parameter.dtype,
        init_weights=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hooked = HookedTransformer(config)
    with torch.no_grad():
        weights = convert(model, config)
        hooked.load_and_process_state_dict(
            weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
    return hooked.eval().requires_grad_(False)


@torch.inference_mode()
def paper_loop(
    hooked: HookedTransformer,
    prompts_ids: Sequence[Sequence[int]],
    option_ids: Sequence[Sequence[int]],
    layer: int,
    vector: torch.Tensor,
    coefficient: float,
) -> list[list[float]]:
    """The probabilities of each prompt's options, with a vector added at every prompt token but the last.

    ``option_ids`` are the first tokens of each prompt's options; the vector, of the shape ``(d_model,)``, such as the
    sum of rows of an SAE's decoder, is added so often after the block ``layer``.
    """
    steering = (coefficient * vector).to(hooked.cfg.device, hooked.cfg.dtype)
    hooks = [(f"blocks.{layer}.hook_resid_post", partial(_steer, steering))]
    found = []
    for ids, options in zip(prompts_ids, option_ids, strict=True):
        tokens = torch.tensor([list(ids)], device=hooked.cfg.device)
        logits = hooked.run_with_hooks(tokens, fwd_hooks=hooks)
        chances = logits[0, -1].float().softmax(-1).tolist()
        found.append([chances[option] for option in options])
    return found


def _steer(steering: torch.Tensor, resid: torch.Tensor, hook: Any) -> torch.Tensor:
    resid[:, :-1, :] += steering
    return resid


def _gemma2(config: PretrainedConfig) -> Settings:
    window = {"sliding_attention": "local", "full_attention": "global"}
    return _llama(config) | {
        "act_fn": config.hidden_activation,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": [window[each] for each in config.layer_types],
        "attn_scores_soft_cap": config.attn_logit_softcapping or _OFF,
        "output_logits_soft_cap": config.final_logit_softcapping or _OFF,
        "use_normalization_before_and_after": True,
    }


def _llama(config: PretrainedConfig) -> Settings:
    return {
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": getattr(config, "hidden_act", None),
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_base": _rope(config)["rope_theta"],
    }


def _gpt2(config: PretrainedConfig) -> Settings:
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "d_vocab": config.vocab_size,
        "act_fn": config.activation_function,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _neox(config: PretrainedConfig) -> Settings:
    head = config.hidden_size // config.num_attention_heads
    rope = _rope(config)
    turned = int(head * rope["partial_rotary_factor"])
    if turned % 2:
        raise ValueError(f"{turned} of {head} coordinates of a head are rotary; TransformerLens needs an even number")
    return {
        "d_model": config.hidden_size,
        "d_head": head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "positional_embedding_type": "rotary",
        "rotary_base": rope["rope_theta"],
        "rotary_dim": turned,
        "normalization_type": "LN",
    }


def _rope(config: PretrainedConfig) -> Settings:
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise ValueError(f"rotary positions of type {rope['rope_type']!r}; only 'default' is converted")
    return rope


_KINDS: dict[str, tuple[Callable[[PretrainedConfig], Settings], Callable[..., dict[str, torch.Tensor]]]] = {
    "gemma2": (_gemma2, convert_gemma_weights),
    "llama": (_llama, convert_llama_weights),
    "gpt2": (_gpt2, convert_gpt2_weights),
    "gpt_neox": (_neox, convert_neox_weights),
}
