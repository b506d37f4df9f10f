"""Batches of prompts, as a model reads them."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedModel

from personalib.base.records import ItemError

# How many lengths that differ by little there are up to twice a length.
_LENGTHS = 4


def check_rows(model: PreTrainedModel, texts: Sequence[str], rows: Sequence[Sequence[int]], more: int = 0) -> None:
    """Notice texts that a model cannot read, given with their token ids; ``more`` tokens are written after each.

    One longer than what the model was made for, or with a token that it has no embedding of, is an ItemError.
    """
    longest = context(model)
    # Some tokenizers have more tokens than their model, such as those of pictures; what matters is whether one is read.
    known = model.get_input_embeddings().num_embeddings
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        place = f"text {number + 1} of {len(texts)} ({text[:60]!r})"
        # The last token that is written is not read.
        if longest and longest < len(row) + max(more - 1, 0):
            longer, fewer = (f" and {more} to be written", ", write fewer tokens") if more else ("", "")
            raise ItemError(
                f"{place}: {len(row)} tokens{longer}, and the model reads {longest} at the most "
                f"(max_position_embeddings of its config.json); shorten it{fewer}, or take a model of longer context"
            )
        if max(row, default=0) >= known:
            raise ItemError(
                f"{place}: token {max(row)} of the tokenizer, and the model embeds {known}; the two do not belong "
                "together: resize the model's embedding and train it, or use its own tokenizer"
            )


def context(model: PreTrainedModel) -> int | None:
    """How many tokens a model was made to read; none where it does not say."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def in_batches(
    rows: Sequence[Sequence[int]], size: int, padded: bool = True, alike: bool = False
) -> Iterator[list[int]]:
    """Numbers of rows in batches, longest first, so that little is padded and one that is too large fails at once.

    Rows of different lengths share a batch if they may be padded; see :class:`personalib.models.hooks.Shortcuts`. With
    ``alike``, those of about one length are together with what begins like them.
    """

    def place(number: int) -> tuple[int, Sequence[int]]:
        row = rows[number]
        return (-round(_LENGTHS * math.log2(len(row) or 1)), row) if alike else (-len(row), ())

    queue = sorted(range(len(rows)), key=place)
    for _, some in groupby(queue, key=lambda number: None if padded else len(rows[number])):
        numbers = list(some)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def length_batches(rows: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows, as in :func:`in_batches`, in batches of so many tokens with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _padded(rows: Sequence[Sequence[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of one length, and which of them are real; padding is never attended to, so any id serves."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    together = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    return together(ids), together(masks)


def right_padded(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Model inputs of token ids, padded on the right: no token of a decoder looks at later ones."""
    ids, mask = _padded(rows, "right")
    return {"input_ids": ids, "attention_mask": mask}


def left_padded(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], device: str | torch.device | None = None
) -> dict[str, torch.Tensor | int]:
    """Model inputs of token ids, padded on the left, so that every row ends at the last position.

    Positions count from each row's first real token. They are where the model is, or on another device.
    """
    ids, mask = (each.to(device or model.device) for each in _padded(rows, "left"))
    inputs: dict[str, torch.Tensor | int] = {"input_ids": ids, "attention_mask": mask}
    optional: dict[str, torch.Tensor | int] = {
        "position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0),
        "logits_to_keep": 1,
    }
    # Models with relative positions take no position_ids, and a few compute all logits. The class's, since nnsight puts
    # a forward of its own on every module that it has seen.
    accepted = inspect.signature(type(model).forward).parameters
    return inputs | {name: value for name, value in optional.items() if name in accepted}


def repeated(inputs: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Model inputs with all rows so many times, one after the other."""
    return {
        name: value.repeat(times, 1) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def to_go_on_from(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generate`` takes of model inputs: recurrent models that know no padding refuse a mask."""
    accepted = inspect.signature(model.forward).parameters
    return {name: inputs[name] for name in ("input_ids", "attention_mask") if name in accepted}


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While this is open, an object or a Python module has another attribute of its own."""
    absent, kept = name not in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if absent:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)


def plain_generation(model: PreTrainedModel) -> AbstractContextManager[None]:
    """While this is open, ``generate`` has no settings of the model: it fills in those for whatever is not said."""
    return replaced(model, "generation_config", GenerationConfig())


def check_finite(
    model: PreTrainedModel, texts: Sequence[str], places: Sequence[int], values: Sequence[NDArray[Any]]
) -> None:
    """Notice numbers of a model as it is, unsteered, that overflowed: ``values`` of the texts at some places.

    Where something is NaN or infinite, an ItemError says what to do.
    """
    for place, own in zip(places, values, strict=True):
        if not np.isfinite(own).all():
            raise ItemError(
                f"text {place + 1} of {len(texts)} ({texts[place][:60]!r}): what {type(model).__name__} gives is "
                f"NaN or infinite; {overflow_advice(model)}"
            )


def overflow_advice(model: PreTrainedModel) -> str:
    """What to do where a model's numbers are NaN or infinite."""
    kept = str(model.dtype).removeprefix("torch.")
    if model.dtype == torch.float32:
        return f"its weights are in {kept}, which holds any usual number; see whether the weights are damaged"
    return f"its numbers overflow in {kept}; load it in bfloat16 or float32 (dtype)"


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """No gradients and no dropout; the model's mode is put back afterwards."""
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
