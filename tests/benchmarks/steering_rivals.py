"""The same grid as other packages run it: TransformerLens in the paper's loop, steering-vectors, and repeng.

What is lent to them, so that they are measured at their best: batches of the grid, with ``logits_to_keep`` and without
a cache; token ids and tensors made beforehand; and to repeng a name that NumPy 2 removed.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from steering_case import Array, Case

from personalib.models.batches import inference

# Which tokens each of them steers here. Repeng knows of none but all that are no padding.
POSITIONS = {"paper_loop": "prompt_except_last", "steering_vectors": "prompt_except_last", "repeng": "prompt"}
Run = Callable[[int], Array]


def make(name: str, case: Case, prompts: int) -> Run:
    """What answers the grid under the first so many vectors, in another package's way.

    ``prompts`` is how many the paper's loop is run on.
    """
    if name == "paper_loop":
        return _paper(case, prompts)
    return {"steering_vectors": _steering_vectors, "repeng": _repeng}[name](case)


def _paper(case: Case, prompts: int) -> Run:
    """One prompt at a time, with all logits, of which the last are brought to Python as a list."""
    from paper_loop import hooked_transformer, paper_loop  # its folder is put on the path by steering_case

    hooked = hooked_transformer(case.language_model.model)
    rows, options = case.rows[:prompts], case.options[:prompts]

    def run(count: int) -> Array:
        vectors = [each.direction for each in case.vectors[:count]]
        return np.array([paper_loop(hooked, rows, options, case.layer, each, 1.0) for each in vectors])

    return run


def _steering_vectors(case: Case) -> Run:
    """Batches, with a hook that adds in place at a slice of the tokens, padding among them, which nothing reads."""
    vectors = import_module("steering_vectors")
    model, batches = case.language_model.model, case.batches()
    own = [vectors.SteeringVector({case.layer: each.direction}).to(model.device, model.dtype) for each in case.vectors]

    def run(count: int) -> Array:
        found = case.empty(count)
        with inference(model):
            for batch in batches:
                for number, vector in enumerate(own[:count]):
                    # min_token_index is 0 by default, and may not stand beside token_indices.
                    with vector.apply(model, token_indices=slice(0, -1), min_token_index=None):
                        logits = model(**batch.inputs, use_cache=False).logits[:, -1]
                    found[number, batch.numbers] = batch.chances(logits)
        return found

    return run


def _repeng(case: Case) -> Run:
    """Batches, with the block in a module that adds to all tokens but padding; it is taken out again after each run."""
    package = _import_repeng()
    model, batches = case.language_model.model, case.batches()
    kind = model.config.model_type
    own = [package.ControlVector(kind, {case.layer: each.direction.numpy()}) for each in case.vectors]

    def run(count: int) -> Array:
        found = case.empty(count)
        controlled = package.ControlModel(model, [case.layer])
        try:
            with inference(model):
                for batch in batches:
                    for number, vector in enumerate(own[:count]):
                        controlled.set_control(vector, 1.0)
                        logits = controlled(**batch.inputs, use_cache=False).logits[:, -1]
                        controlled.reset()
                        found[number, batch.numbers] = batch.chances(logits)
        finally:
            controlled.unwrap()
        return found

    return run


def _import_repeng() -> Any:
    """The package, whose annotations name ``numpy.float_``; NumPy 1 called float64 so."""
    lent = not hasattr(np, "float_")
    if lent:
        np.float_ = np.float64  # type: ignore[attr-defined]
    try:
        return import_module("repeng")
    finally:
        if lent:
            del np.float_  # type: ignore[attr-defined]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
