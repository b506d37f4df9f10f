"""Options scored under steering in a single trace, here or by a service that holds the model.

Every intervention is one thing in tensors: some features of the residual stream are held at a value. A feature is what
is read of the stream along some coordinates, where it is above a floor, and a change of it is written along others.
"""

# Annotations are sent with a function, and should be words where it arrives.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from personalib.features.saes import SparseAutoencoder
from personalib.models.batches import check_finite, check_rows, in_batches, left_padded
from personalib.models.encoding import encode_prompts
from personalib.models.hooks import Inputs
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks_path
from personalib.models.prompts import option_tokens
from personalib.models.remote import running, traceable
from personalib.steering.interventions import Ablate, Add, Clamp, Condition, Intervention, masks

# SAEs whose features each depend on their own row of the encoder alone.
_APART = ("standard", "jumprelu")
Edit = dict[str, Any]
Step = tuple[str, str, list[Edit]]


def ask_remote(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    interventions: Condition = (),
    *,
    batch_size: int = 64,
    progress: str | None = None,
) -> NDArray[np.float64]:
    r"""The probability of each option's first token right after each prompt, under a condition, one trace a batch.

    Of what the model gives, the options' logarithms alone come back. Prompts of different length share a trace: whether
    that comes out right is not tried as it is for a model that is here, so for an architecture of which {doc}`/models`
    says otherwise take a ``batch_size`` of 1.

    Args:
        language_model: a :class:`personalib.models.remote.RemoteModel`; or any other, which is then run in place.
        prompts: texts up to the answer.
        labels: what the options are called, the same for all prompts.
        interventions: the condition; none is the model as it is. The tokenizer's special tokens are among the tokens
            of a prompt.
        batch_size: prompts of a trace, each of which is one job of a service.
        progress: text of a progress bar; None shows none.

    Returns:
        Shape ``(prompts, labels)``, over the whole vocabulary, in the order of the prompts.

    Raises:
        ValueError: no prompt would be run, an intervention was made for another model, would steer the answer alone,
            or cannot be sent.
        ItemError: labels cannot be told apart by their first token, or see
            :func:`personalib.models.batches.check_rows`.
        DataError: see :func:`personalib.models.remote.running`.

    Example:
        >>> ask_remote(model, ["Well?\n"], ["A", "B"], [Add(vector, 2.0)]).shape  # doctest: +SKIP
        (1, 2)
    """
    _check(language_model, interventions, batch_size)
    rows = encode_prompts(language_model.tokenizer, prompts)
    check_rows(language_model.model, prompts, rows)
    options = option_tokens(language_model.tokenizer, prompts, [labels] * len(prompts), rows)
    found = np.empty((len(prompts), len(labels)))
    network = traceable(language_model)
    with tqdm(total=len(prompts), desc=progress, disable=progress is None, unit="answer") as bar:
        for batch in in_batches(rows, batch_size):
            inputs: Inputs = left_padded(language_model.model, [rows[number] for number in batch], "cpu")
            tokens = torch.tensor([options[number] for number in batch])
            steps = _steps(language_model, interventions, inputs["attention_mask"].bool())
            chances = _chances(language_model, network, inputs, tokens, steps)
            # In double precision before the exponential, so that rare words keep a probability.
            found[batch] = chances.double().exp().cpu().numpy()
            if not interventions:
                check_finite(language_model.model, prompts, batch, list(found[batch]))
            bar.update(len(batch))
    return found


@torch.no_grad()
def _chances(
    language_model: LanguageModel, network: Any, inputs: Inputs, tokens: torch.Tensor, steps: Sequence[Step]
) -> torch.Tensor:
    """The logarithms of the options' probabilities after the last token, shape (rows, options)."""
    held = _holding()
    # A service has torch, and nothing of this library: the body names no module function of it, and no class.
    with running(language_model) as backend, network.trace(inputs, use_cache=False, backend=backend):
        for part, stream, edits in steps:
            block = network.get(part)
            met = block.input if stream == "resid_pre" else block.output
            value = met[0] if isinstance(met, tuple) else met
            for edit in edits:
                value = held(value, edit)
            if stream == "resid_pre":
                block.input = value
            else:
                block.output = (value, *met[1:]) if isinstance(met, tuple) else value
        # A service may keep gradients, which would come along.
        logits = network.output.logits[:, -1].detach().float()
        chosen = logits.log_softmax(1).gather(1, tokens.to(logits.device)).save()
    found: torch.Tensor = chosen
    return found


def _holding() -> Callable[[torch.Tensor, Edit], torch.Tensor]:
    """What changes the residual stream; made in here, since a function of a function is sent as its source."""

    def held(stream: torch.Tensor, edit: Edit) -> torch.Tensor:
        one = {name: each.to(stream.device) if hasattr(each, "to") else each for name, each in edit.items()}
        seen = stream.to(torch.promote_types(stream.dtype, one["read"].dtype))
        scale = torch.ones_like(seen[..., :1])
        if one["centred"]:
            seen = seen - seen.mean(-1, keepdim=True)
        if one["normalisation"] == "constant_norm_rescale":
            scale = seen.norm(dim=-1, keepdim=True) / seen.shape[-1] ** 0.5
            seen = seen / scale
        if one["normalisation"] == "layer_norm":
            seen = seen - seen.mean(-1, keepdim=True)
            scale = seen.std(-1, keepdim=True)
            # The constant of sae-lens, which it leaves out on the way back.
            seen = seen / (scale + 1e-5)
        feature = seen @ one["read"].to(seen.dtype) + one["bias"]
        feature = torch.where(feature > one["floor"], feature, 0.0)
        change = ((one["value"] - feature) @ one["write"].to(seen.dtype)) * scale
        return torch.where(one["where"][..., None], stream + change.to(stream.dtype), stream)

    return held


def _steps(language_model: LanguageModel, interventions: Condition, real: torch.Tensor) -> list[Step]:
    """What is done at each site, in the order in which a model comes by."""
    where = masks(real, torch.zeros_like(real))
    by_site: dict[Site, list[Edit]] = {}
    for one in interventions:
        by_site.setdefault(one.site, []).append(_tensors(one) | {"where": where[one.positions]})
    order = sorted(by_site, key=lambda site: (site.layer, site.stream == "resid_post"))
    path = blocks_path(language_model.model)
    return [(f"{path}.{site.layer}", site.stream, by_site[site]) for site in order]


def _tensors(one: Intervention) -> Edit:
    """An intervention as features that are held at a value."""
    if isinstance(one, Clamp):
        # A feature that is named twice is held once.
        return _clamped(one.sae, list(dict.fromkeys(one.features))) | {"value": float(one.value)}
    plain = {"bias": torch.zeros(1), "floor": float("-inf"), "centred": False, "normalisation": "none"}
    if isinstance(one, Add):
        # A feature that is nothing of the stream, and always zero until it is held at one.
        vector = one.coefficient * one.vector.direction
        return plain | {"read": torch.zeros(len(vector), 1), "write": vector[None], "value": 1.0}
    assert isinstance(one, Ablate)
    unit = one.vector.unit().direction
    return plain | {"read": unit[:, None], "write": one.coefficient * unit[None], "value": 0.0}


def _clamped(sae: SparseAutoencoder, features: list[int]) -> Edit:
    """The part of an SAE that some features need, which is small enough to be sent."""
    network: Any = sae.network
    read = network.W_enc.detach()[:, features]
    bias = network.b_enc.detach()[features]
    if network.cfg.apply_b_dec_to_input:
        bias = bias - network.b_dec.detach() @ read
    floor = torch.zeros(len(features))
    if network.cfg.architecture() == "jumprelu":
        # What ReLU has set to zero stays there, whatever the threshold.
        floor = network.threshold.detach()[features].clamp(min=0.0)
    made = {"read": read, "bias": bias, "floor": floor, "write": sae.directions[features]}
    kept: Edit = {name: value.cpu().clone() for name, value in made.items()}
    return kept | {"centred": sae.centred, "normalisation": sae.normalisation}


def _check(language_model: LanguageModel, interventions: Condition, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; run at least one prompt at a time")
    for one in interventions:
        one.check_fits(language_model)
        if one.positions == "response":
            raise ValueError(
                "positions 'response' steer tokens of the answer after they are read back in, and only its first token "
                "is scored; choose last, prompt, prompt_except_last or all"
            )
        kind = one.sae.network.cfg.architecture() if isinstance(one, Clamp) else None
        if isinstance(one, Clamp) and kind not in _APART:
            raise ValueError(
                f"{one.sae.name} is a {kind} SAE, whose features depend on one another, and all of it would have to be "
                f"sent; clamp features of a {' or '.join(_APART)} SAE, or add their direction (feature_vector, Add)"
            )
