"""Running part of a model: changing the residual stream at a site, starting there, stopping there.

All of it by hooks that are gone afterwards, whatever happens in between, and for every architecture whose blocks
:func:`personalib.models.parts.blocks` knows.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from personalib.models.parts import Site, blocks, same, works

Inputs = Mapping[str, Any]
Cut = Callable[[PreTrainedModel], AbstractContextManager[None]]
# What architectures of transformers call their plain attention.
_EAGER = "eager_attention_forward"
# Tokens that are enough to see whether the last block can be cut short.
_TRIAL = 8


class _ReachedError(Exception):
    """The site was reached, and nothing above it is wanted."""


def depth(site: Site) -> int:
    """How many blocks lie below a site."""
    return site.layer + (site.stream == "resid_post")


@contextmanager
def changing(model: PreTrainedModel, site: Site, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While this is open, the residual stream at a site goes through a function."""
    block = blocks(model)[site.layer]

    def after(_: torch.nn.Module, __: Any, output: Any) -> Any:
        # Some architectures return a tuple whose first part is the residual stream, others the stream itself.
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    if site.stream == "resid_post":
        handle = block.register_forward_hook(after)
    else:
        handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def starting_at(model: PreTrainedModel, site: Site, stream: torch.Tensor, in_tuple: bool) -> Iterator[None]:
    """While this is open, the model starts at a site with a given residual stream; the blocks below it are left out.

    ``in_tuple`` says whether the model's blocks return the residual stream in a tuple; see :func:`returns_tuples`.
    """
    below = list(blocks(model))[: depth(site)]
    # A block has a forward of its own only where something else has put one there.
    kept = [(block, vars(block).get("forward")) for block in below]

    def skip(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if in_tuple else hidden_states

    try:
        for block in below:
            block.forward = skip
        with changing(model, site, lambda _: stream):
            yield
    finally:
        for block, forward in kept:
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


def stream_at(model: PreTrainedModel, inputs: Inputs, site: Site) -> torch.Tensor:
    """The residual stream at a site, shape ``(rows, tokens, d_model)``; no block above it is run."""
    met: list[torch.Tensor] = []

    def keep(stream: torch.Tensor) -> torch.Tensor:
        met.append(stream)
        raise _ReachedError

    with changing(model, site, keep), suppress(_ReachedError):
        # Without the output layer, which is not wanted either.
        model.base_model(**without_logits(inputs), use_cache=False)
    return met[0]


def returns_tuples(model: PreTrainedModel, inputs: Inputs) -> bool:
    """Whether the blocks of a model return the residual stream in a tuple."""
    met: list[bool] = []
    first = blocks(model)[0]
    handle = first.register_forward_hook(lambda _, __, output: met.append(isinstance(output, tuple)))
    try:
        stream_at(model, _some(inputs), Site(0))
    finally:
        handle.remove()
    return met[0]


@contextmanager
def last_token_only(model: PreTrainedModel) -> Iterator[None]:
    """While this is open, the feed-forward part of the last block is run for the last token alone.

    What the block leaves at any other token is then wrong, which is of no consequence where only the last one is read.
    """
    part = getattr(blocks(model)[-1], "mlp", None)
    if part is None:
        yield
        return
    # The part's output has one token, and is added to every token of the residual stream.
    handle = part.register_forward_pre_hook(lambda _, args: (args[0][:, -1:].contiguous(), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def last_query_only(model: PreTrainedModel) -> Iterator[None]:
    """While this is open, the attention of the last block looks back from the last token alone.

    As for :func:`last_token_only`, what the block leaves at other tokens is then wrong. It works where the architecture
    computes its attention by a function of its module, as it does with ``attn_implementation="eager"``.
    """
    parts = [part for part in blocks(model)[-1].modules() if hasattr(_home(part), _EAGER) and _attends(part)]
    if not parts:
        yield
        return
    [last, *_], home = parts, _home(parts[0])
    whole = getattr(home, _EAGER)

    def short(part: torch.nn.Module, query: torch.Tensor, *rest: Any, **others: Any) -> Any:
        if part is not last:
            return whole(part, query, *rest, **others)
        key, value, mask, *more = rest
        mask = None if mask is None else mask[..., -1:, :]
        found, weights = whole(part, query[:, :, -1:], key, value, mask, *more, **others)
        # One token for all of them, so that what follows finds the shape that it expects.
        return found.expand(-1, query.shape[2], -1, -1), weights

    setattr(home, _EAGER, short)
    try:
        yield
    finally:
        setattr(home, _EAGER, whole)


def ways_to_cut_short(model: PreTrainedModel, inputs: Inputs) -> tuple[Cut, ...]:
    """Which of :func:`last_token_only` and :func:`last_query_only` leave what follows the last token as it is."""
    some = _some(inputs)
    whole = model(**some, use_cache=False).logits[:, -1]

    # A matrix product over fewer rows may round otherwise; a token that came out wrong differs by far more.
    def right(way: Cut) -> bool:
        with way(model):
            return same(model(**some, use_cache=False).logits[:, -1], whole)

    # It fails in architectures that add in place, or call the part with keywords.
    return tuple(way for way in (last_token_only, last_query_only) if works(partial(right, way)))


def without_logits(inputs: Inputs) -> dict[str, Any]:
    """Model inputs for the blocks alone."""
    return {name: value for name, value in inputs.items() if name != "logits_to_keep"}


def repeated(inputs: Inputs, times: int) -> dict[str, Any]:
    """Model inputs with all rows so many times, one after the other."""
    return {
        name: value.repeat(times, 1) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def cut(inputs: Inputs, names: Sequence[str], start: int | None, end: int | None) -> dict[str, Any]:
    """Model inputs of which some are cut to a range of tokens."""
    return {name: value[:, start:end] if name in names else value for name, value in inputs.items()}


def _home(part: torch.nn.Module) -> Any:
    """The Python module that a part of a model is written in."""
    return sys.modules[type(part).__module__]


def _attends(part: torch.nn.Module) -> bool:
    """Whether a part calls its Python module's attention."""
    return _EAGER in inspect.unwrap(type(part).forward).__code__.co_names


def _some(inputs: Inputs) -> dict[str, Any]:
    """One row, and few of its tokens."""
    tensors = [name for name, value in inputs.items() if isinstance(value, torch.Tensor)]
    return {
        name: value[:1] if name in tensors else value for name, value in cut(inputs, tensors, -_TRIAL, None).items()
    }
