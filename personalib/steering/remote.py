"""A condition inside nnsight's trace, for a model that a service runs: the interventions are those of a local run."""

from collections.abc import Sequence
from typing import Any

import torch

from personalib.models.hooks import Inputs
from personalib.models.parts import blocks_path
from personalib.models.remote import RemoteModel, running
from personalib.steering.interventions import Change, Clamp, Condition, Where, at_positions, by_site

# The name of a block, "resid_pre" or "resid_post", and what is done there.
Step = tuple[str, str, list[Change]]


def check_sendable(conditions: Sequence[Condition]) -> None:
    """Notice a condition that cannot be sent to a service, since an SAE would have to be sent as a whole."""
    for one in (one for condition in conditions for one in condition):
        if isinstance(one, Clamp) and not one.separable:
            raise ValueError(
                f"{one.sae.name} is a {one.sae.network.cfg.architecture()} SAE, whose features depend on one another, "
                "and all of it would have to be sent; clamp features of a standard or jumprelu SAE, or add their "
                "direction (feature_vector, Add)"
            )


def traced_log_chances(
    model: RemoteModel, inputs: Inputs, where: Where, condition: Condition, read: slice, tokens: torch.Tensor
) -> torch.Tensor:
    """The log-probabilities of some tokens at the places that are read, of shape ``(rows, places, tokens)``.

    It is one trace under a condition, of a batch on the CPU, and one job of a service; nothing else comes back.
    Errors are those of :func:`personalib.models.remote.running`.
    """
    network: Any = model.network
    steps = _steps(model, condition, where)
    # A service has torch, and nothing of this library: the body names no module function of it, and no class.
    with running(model) as backend, network.trace(inputs, use_cache=False, backend=backend):
        for part, stream, changes in steps:
            block = network.get(part)
            met = block.input if stream == "resid_pre" else block.output
            value = met[0] if isinstance(met, tuple) else met
            for change in changes:
                value = change(value)
            if stream == "resid_pre":
                block.input = value
            else:
                block.output = (value, *met[1:]) if isinstance(met, tuple) else value
        # A service may keep gradients, which would come along.
        logits = network.output.logits[:, read].detach().float()
        chosen = logits.log_softmax(-1).gather(-1, tokens.to(logits.device)).save()
    log_chances: torch.Tensor = chosen
    return log_chances


def _steps(model: RemoteModel, condition: Condition, where: Where) -> list[Step]:
    """What is done at each site, in the order in which a model comes by."""
    path = blocks_path(model.model)
    return [
        (f"{path}.{site.layer}", site.stream, [at_positions(one, where) for one in several])
        for site, several in by_site(condition).items()
    ]
