"""Steering a model by hand: while a ``with`` block is open, whatever the model reads and writes is steered.

For experiments with many conditions there is :mod:`personalib.grid`, which gives the same numbers sooner.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from personalib.activations import Site
from personalib.block_hooks import changing
from personalib.interventions import Intervention, intervene, masks
from personalib.models import LanguageModel


@contextmanager
def steer(language_model: LanguageModel, interventions: Sequence[Intervention]) -> Iterator[None]:
    """While this is open, a model is steered.

    Positions are told from how the model is run. A pass without a cache, or with an empty one, reads a prompt; tokens
    of padding are known by the attention mask. Every token that is read after that, into a cache that holds something,
    belongs to the answer. So ``generate`` is steered as it says, whatever the length of the prompts in a batch; a
    model that generates without a cache would take its own answer for part of the prompt, and one that reads a long
    prompt in several chunks (``prefill_chunk_size``) the later chunks for the answer.

    Args:
        language_model: the model.
        interventions: what is done; those at one site in this order.

    Raises:
        ValueError: an intervention was made for another model, or the model is run with something else than an
            attention mask of shape ``(rows, tokens)``.

    Example:
        >>> with steer(language_model, [Add(vector, 2.0, "all")]):  # doctest: +SKIP
        ...     language_model.model.generate(**inputs, max_new_tokens=20)
    """
    for one in interventions:
        one.check_fits(language_model)
    model, passes = language_model.model, _Passes()
    by_site: dict[Site, list[Intervention]] = {}
    for one in interventions:
        by_site.setdefault(one.site, []).append(one)
    begin = model.base_model.register_forward_pre_hook(passes.begin, with_kwargs=True)
    try:
        with ExitStack() as stack:
            for site, own in by_site.items():
                stack.enter_context(changing(model, site, partial(passes.change, own)))
            yield
    finally:
        begin.remove()


class _Passes:
    """What each token of the pass that is being run is."""

    def __init__(self) -> None:
        self._where: dict[str, torch.Tensor] = {}

    def begin(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the inputs of a pass."""
        assert isinstance(model, PreTrainedModel)
        # The class's, since nnsight puts a forward of its own on every module that it has seen.
        given = inspect.signature(type(model).forward).bind(model, *args, **kwargs).arguments
        # What a model takes beyond its named arguments is in here.
        given = given | given.get("kwargs", {})
        ids = given.get("input_ids")
        rows, tokens = (ids if ids is not None else given["inputs_embeds"]).shape[:2]
        cache = given.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        mask = given.get("attention_mask")
        if mask is None:
            mask = torch.ones(rows, past + tokens, device=model.device)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            raise ValueError(
                "steer knows padding by an attention mask of shape (rows, tokens); pass such a one, and generate "
                "without a static cache, which makes masks of its own"
            )
        real = mask[:, -tokens:].bool()
        self._where = masks(real, torch.full_like(real, past > 0))

    def change(self, interventions: Sequence[Intervention], stream: torch.Tensor) -> torch.Tensor:
        """The residual stream at a site after its interventions."""
        for one in interventions:
            stream = intervene(stream, one, self._where)
        return stream
