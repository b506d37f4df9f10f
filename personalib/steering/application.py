"""Steering a model by hand; for many conditions :mod:`personalib.steering.grid` gives the same numbers sooner."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from personalib.models.hooks import changing
from personalib.models.load import LanguageModel
from personalib.steering.interventions import Intervention, Where, at_positions, by_site, masks


@contextmanager
def steer(language_model: LanguageModel, interventions: Sequence[Intervention]) -> Iterator[None]:
    """While this is open, a model is steered; interventions at one site are applied in their order.

    What ``generate`` writes belongs to the answer, whatever the model keeps of what it has read, but for a prompt that
    is read in several chunks (``prefill_chunk_size``), of which the later ones count as the answer. Where a model is
    run by hand, a pass without a cache, or with an empty one, reads a prompt, and every token that is read after that,
    into a cache that holds something, belongs to the answer. Tokens of padding are known by the attention mask: one of
    another shape than ``(rows, tokens)`` is a ValueError, as is an intervention that was made for another model.

    Example:
        >>> with steer(language_model, [Add(vector, 2.0, "all")]):  # doctest: +SKIP
        ...     language_model.model.generate(**inputs, max_new_tokens=20)
    """
    for one in interventions:
        one.check_fits(language_model)
    model, passes = language_model.model, _Passes()
    with ExitStack() as stack:
        stack.enter_context(passes.followed(model))
        for site, several in by_site(interventions).items():
            stack.enter_context(changing(model, site, partial(passes.change, several)))
        yield


class _Passes:
    """What each token of the pass that is being run is."""

    def __init__(self) -> None:
        self._where: Where = {}
        # Of the pass that comes, if it is one of generate: all tokens up to it, and which are no padding.
        self._written: torch.Tensor | None = None
        self._prompt = 0
        self._inside = False

    @contextmanager
    def followed(self, model: PreTrainedModel) -> Iterator[None]:
        """While this is open, each pass is looked at before it is run."""
        name = "prepare_inputs_for_generation"
        prepare, kept = getattr(model, name), vars(model).get(name)

        def told(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            mask = kwargs.get("attention_mask")
            if kwargs.get("is_first_iteration"):
                self._prompt = input_ids.shape[1]
            # Before the first pass of generate it is called by hand, and the pass is taken as any other that is.
            if self._prompt:
                self._written = torch.ones_like(input_ids) if mask is None else mask
            return prepare(input_ids, *args, **kwargs)

        with ExitStack() as stack:
            # Some architectures go past their base model, and some users begin with it.
            for part in {model, model.base_model}:
                stack.callback(part.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(model.register_forward_hook(self._end, always_call=True).remove)
            # In front of the class's method, or of another one's that is open.
            vars(model)[name] = told
            stack.callback(vars(model).update, {name: kept}) if kept else stack.callback(vars(model).pop, name)
            yield

    def _begin(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the inputs of a pass, once."""
        if self._inside:
            return
        assert isinstance(model, PreTrainedModel)
        self._inside = model is not model.base_model
        # The class's, since nnsight puts a forward of its own on every module that it has seen.
        given = inspect.signature(type(model).forward).bind(model, *args, **kwargs).arguments
        # What a model takes beyond its named arguments is in here.
        given = given | given.get("kwargs", {})
        ids = given.get("input_ids")
        rows, tokens = (ids if ids is not None else given["inputs_embeds"]).shape[:2]
        written, self._written = self._written, None
        if written is not None:
            answer = torch.arange(written.shape[1], device=written.device) >= self._prompt
            self._where = masks(written[:, -tokens:].bool(), answer.expand(rows, -1)[:, -tokens:])
            return
        mask = given.get("attention_mask")
        if mask is None:
            mask = torch.ones(rows, tokens, device=model.device)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            raise ValueError("steer knows padding by an attention mask of shape (rows, tokens); pass such a one")
        real = mask[:, -tokens:].bool()
        self._where = masks(real, torch.full_like(real, _holds(given)))

    def _end(self, *_: Any) -> None:
        self._inside = False

    def change(self, interventions: Sequence[Intervention], stream: torch.Tensor) -> torch.Tensor:
        """The residual stream at a site after its interventions."""
        for one in interventions:
            stream = at_positions(one, self._where)(stream)
        return stream


def _holds(given: Mapping[str, Any]) -> bool:
    """Whether a pass goes on from what was read before."""
    cache = next(
        (given[name] for name in ("past_key_values", "cache_params", "state") if given.get(name) is not None), None
    )
    if not isinstance(cache, Cache):
        # The states of a recurrent model, in whatever form.
        return cache is not None
    states = [any(layer.has_previous_state.values()) for layer in cache.layers if hasattr(layer, "has_previous_state")]
    lengths = [layer.get_seq_length() for layer in cache.layers if hasattr(layer, "get_seq_length")]
    return any(states) or any(lengths)
