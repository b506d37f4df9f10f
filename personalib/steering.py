"""Steering: answers of a model while a vector is added to its residual stream.

What steering cannot change is run once and not again for each condition: the blocks below the steered one; and where
only the last token is steered, everything before it, since no earlier token sees the last one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from personalib.activations import Site, blocks
from personalib.models import LanguageModel
from personalib.questionnaires import encode_prompts, inference, left_padded, option_tokens
from personalib.vectors import SteeringVector

Positions = Literal["last", "prompt", "prompt_except_last"]
POSITIONS = ("last", "prompt", "prompt_except_last")


def ask_steered(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    conditions: Sequence[SteeringVector | None],
    *,
    positions: Positions = "last",
    batch_size: int = 64,
    progress: str | None = None,
) -> NDArray[np.float64]:
    """The probability of each option's first token right after each prompt, while a vector is added.

    Equal to running every condition from the start, to float tolerance.

    Args:
        language_model: the model.
        prompts: texts up to the answer.
        labels: what the options are called, the same for all prompts.
        conditions: what is added; None adds nothing.
        positions: to which tokens: ``"last"``, the last of the prompt, the paper's rule for contrast vectors;
            ``"prompt_except_last"``, its rule for SAE features; or ``"prompt"``, all of them. The tokenizer's special
            tokens are among them.
        batch_size: prompts a forward pass.
        progress: text of a progress bar; None shows none.

    Returns:
        Shape ``(conditions, prompts, labels)``, over the whole vocabulary.

    Raises:
        ValueError: the positions are unknown, no prompt would be run, or a vector has another width than the model or
            stands at a block that it does not have.
        ItemError: labels cannot be told apart by their first token.

    Source:
        arXiv 2410.10863, sections 3.2 and 3.3, and its code release.
    """
    if positions not in POSITIONS:
        raise ValueError(f"unknown positions {positions!r}; choose one of {', '.join(POSITIONS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; run at least one prompt at a time")
    for vector in conditions:
        check_fits(language_model, vector)
    rows = encode_prompts(language_model.tokenizer, prompts)
    options = option_tokens(language_model.tokenizer, prompts, [labels] * len(prompts), rows)
    queue = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
    found, model = np.empty((len(conditions), len(prompts), len(labels))), language_model.model
    total = len(conditions) * len(prompts)
    with inference(model), tqdm(total=total, desc=progress, disable=progress is None, unit="answer") as bar:
        for start in range(0, len(queue), batch_size):
            batch = queue[start : start + batch_size]
            inputs = left_padded(model, [rows[number] for number in batch])
            wanted = torch.tensor([options[number] for number in batch], device=model.device)
            runs = _last_token_runs if positions == "last" else _prompt_runs
            for number, logits in runs(model, inputs, conditions, positions):
                found[number, batch] = logits.float().softmax(-1).gather(1, wanted).double().cpu().numpy()
                bar.update(len(batch))
    return found


def check_fits(language_model: LanguageModel, vector: SteeringVector | None) -> None:
    """Notice a vector of another model.

    Raises:
        ValueError: it has another width than the model, or stands at a block that the model does not have.
    """
    if vector is None:
        return
    width, depth = language_model.model.config.get_text_config().hidden_size, len(blocks(language_model.model))
    known = vector.site.stream in ("resid_pre", "resid_post")
    if len(vector.direction) != width or not known or not 0 <= vector.site.layer < depth:
        raise ValueError(
            f"{vector.name} has {len(vector.direction)} coordinates at {vector.site}, and {language_model.name} has "
            f"{width} and blocks 0 to {depth - 1}; the vector was made for {vector.model}"
        )


Inputs = dict[str, Any]
Runs = Iterator[tuple[int, torch.Tensor]]


def _last_token_runs(
    model: PreTrainedModel, inputs: Inputs, conditions: Sequence[SteeringVector | None], _: str
) -> Runs:
    """Each condition's number and the logits after the last token, of which alone anything is run anew."""
    # Without the model's config every layer keeps all its tokens, so that the cache can be cut back.
    cache = DynamicCache()
    last = {name: value[:, -1:] if name in ("input_ids", "position_ids") else value for name, value in inputs.items()}
    if inputs["input_ids"].shape[1] > 1:
        before = {name: value[:, :-1] for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        # Without the output layer, whose logits for every token would be the largest thing in memory.
        model.base_model(**before, past_key_values=cache, use_cache=True)
    for number, vector in enumerate(conditions):
        with adding(model, vector):
            yield number, model(**last, past_key_values=cache, use_cache=True).logits[:, -1]
        cache.crop(-1)


def _prompt_runs(
    model: PreTrainedModel, inputs: Inputs, conditions: Sequence[SteeringVector | None], positions: str
) -> Runs:
    """Each condition's number and the logits after the last token; blocks below a site are run once for the site."""
    by_site: dict[Site | None, list[int]] = defaultdict(list)
    for number, vector in enumerate(conditions):
        by_site[None if vector is None else vector.site].append(number)
    for site, numbers in by_site.items():
        if site is None:
            logits = model(**inputs, use_cache=False).logits[:, -1]
            yield from ((number, logits) for number in numbers)
            continue
        below, in_tuple = _stream(model, inputs, site)
        for number in numbers:
            vector = conditions[number]
            assert vector is not None
            steered = below + vector.direction.to(below.device, below.dtype)
            if positions == "prompt_except_last":
                steered[:, -1] = below[:, -1]
            with _from(model, site, steered, in_tuple):
                yield number, model(**inputs, use_cache=False).logits[:, -1]


def _stream(model: PreTrainedModel, inputs: Inputs, site: Site) -> tuple[torch.Tensor, bool]:
    """The residual stream at a site, shape (rows, tokens, d_model), and whether blocks return it in a tuple."""
    met: list[torch.Tensor] = []
    in_tuple: list[bool] = []
    form = blocks(model)[0].register_forward_hook(lambda _, __, output: in_tuple.append(isinstance(output, tuple)))

    def keep(stream: torch.Tensor) -> torch.Tensor:
        met.append(stream)
        return stream

    with _changing(model, site, keep), form:
        model.base_model(**{name: value for name, value in inputs.items() if name != "logits_to_keep"}, use_cache=False)
    return met[0], in_tuple[0]


@contextmanager
def adding(model: PreTrainedModel, vector: SteeringVector | None) -> Iterator[None]:
    """While this is open, a vector is added at its site to every token that the model runs; None adds nothing."""
    with ExitStack() as stack:
        if vector is not None:
            added = vector.direction.to(model.device, model.dtype)
            stack.enter_context(_changing(model, vector.site, lambda stream: stream + added))
        yield


@contextmanager
def _from(model: PreTrainedModel, site: Site, stream: torch.Tensor, in_tuple: bool) -> Iterator[None]:
    """While this is open, the model starts at a site with a given residual stream; the blocks below it are left out."""
    below = list(blocks(model))[: site.layer + (site.stream == "resid_post")]
    # A block has a forward of its own only where something else has put one there.
    kept = [(block, vars(block).get("forward")) for block in below]

    def skip(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if in_tuple else hidden_states

    try:
        for block in below:
            block.forward = skip
        with _changing(model, site, lambda _: stream):
            yield
    finally:
        for block, forward in kept:
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


@contextmanager
def _changing(model: PreTrainedModel, site: Site, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
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
