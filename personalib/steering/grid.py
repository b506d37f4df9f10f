"""The grid scorer: prompts times conditions, without running anew what no condition changes.

- The blocks below the lowest steered site are run once for each batch of prompts, however many conditions there are.
- What prompts of a batch begin with alike is run once, and each goes on from a cache of it.
- Where only the last token of the prompt is steered, everything before it is run once: no earlier token sees it.
- Of the last block, what is not needed for the token that is read is left out.
- Several conditions share a forward pass where the prompts are few.

The answers are those of running every condition from the start, to float tolerance, within the memory of a batch of
``batch_size`` rows, with keys and values where something is shared, whatever the number of conditions.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from personalib.models.batches import check_finite, check_rows, in_batches, inference, left_padded, repeated
from personalib.models.beginnings import Part, in_parts, run_parts
from personalib.models.hooks import (
    Inputs,
    Shortcuts,
    cached,
    changing,
    cut,
    cut_back,
    depth,
    read_but_last,
    site_above,
    starting_at,
    stream_at,
    without_logits,
)
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.models.prompts import encode_prompts, option_tokens
from personalib.models.remote import RemoteModel
from personalib.steering.interventions import Condition, Intervention, Where, at_positions, masks
from personalib.steering.remote import check_sendable, traced_log_chances

Array = NDArray[np.float64]
Scored = Iterator[tuple[int, torch.Tensor]]


def ask_steered(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    conditions: Sequence[Condition],
    *,
    batch_size: int = 64,
    progress: str | None = None,
    done: Callable[[int], object] | None = None,
    names: Sequence[str] | None = None,
) -> Array:
    """The probability of each option's first token right after each prompt, under each condition.

    Args:
        language_model: the model; one that a service runs gets a job for each batch and condition, and may not be tried
            for how it takes padding: where an architecture is known not to bear it, take a batch size of 1.
        prompts: texts up to the answer.
        labels: what the options are called, the same for all prompts.
        conditions: interventions of each condition; none is the model as it is.
        batch_size: rows of a forward pass, each a prompt under a condition.
        progress: text of a progress bar; None shows none.
        done: told how many answers were read, each time some are.
        names: what errors call the prompts; their texts by default.

    Returns:
        Shape ``(conditions, prompts, labels)``, over the whole vocabulary; NaN where a condition overflows.

    Raises:
        ValueError: no prompt would be run, an intervention was made for another model, would steer the answer alone, of
            which nothing is read back in here, or cannot be sent to a service.
        ItemError: labels cannot be told apart by their first token, or the model overflows without steering.
        DataError: a service does not answer; see :func:`personalib.models.remote.running`.

    Source:
        arXiv 2410.10863, sections 3.2 and 3.3, and its code release, for what is computed.
    """
    _check(language_model, conditions, batch_size)
    used = {one.positions for condition in conditions for one in condition}
    if "response" in used:
        raise ValueError(
            "positions 'response' steer tokens of the answer after they are read back in, and only the first "
            "token of the answer is scored; choose last, prompt, prompt_except_last, before_options or all"
        )
    model = language_model.model
    rows = _rows(language_model, prompts)
    options = option_tokens(language_model.tokenizer, prompts, [labels] * len(prompts), rows)
    before = _before_options(language_model, prompts, labels[0]) if "before_options" in used else [0] * len(prompts)
    found = np.empty((len(conditions), len(prompts), len(labels)))
    total = len(conditions) * len(prompts)
    with inference(model), tqdm(total=total, desc=progress, disable=progress is None, unit="answer") as bar:
        for batch in _batches(language_model, rows, batch_size):
            inputs: Inputs = left_padded(model, [rows[place] for place in batch], _device(language_model))
            real = _real(inputs)
            where = masks(real, torch.zeros_like(real), torch.tensor([before[n] for n in batch], device=real.device))
            tokens = torch.tensor([[options[place]] for place in batch], device=real.device)
            read = slice(-1, None)
            for number, logs in _log_chances(language_model, inputs, where, conditions, read, tokens, batch_size):
                # In double precision before the exponential, so that rare words keep a probability.
                values = logs[:, 0].double().exp().cpu().numpy()
                found[number, batch] = _readable(model, names or prompts, batch, values, conditions[number])
                bar.update(len(batch))
                if done:
                    done(len(batch))
    return found


def _before_options(language_model: LanguageModel, prompts: Sequence[str], label: str) -> list[int]:
    """How many tokens of each prompt stand before the last line that opens with the first option's label, or all."""
    line = re.compile(rf"\n{re.escape(label.strip())}\W")
    before = [text[: max((one.start() + 1 for one in line.finditer(text)), default=len(text))] for text in prompts]
    return [len(row) for row in encode_prompts(language_model.tokenizer, before)]


def prompt_batches(language_model: LanguageModel, prompts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """The places of prompts that :func:`ask_steered` reads together, as it does where it is given no others."""
    yield from _batches(language_model, _rows(language_model, prompts), batch_size)


def _batches(language_model: LanguageModel, rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Numbers of rows that are read together: those that begin alike, where they share what is run of it."""
    # A service's model cannot be tried.
    if isinstance(language_model, RemoteModel):
        return in_batches(rows, batch_size)
    known = Shortcuts.of(language_model.model)
    return in_batches(rows, batch_size, known.padding, alike=known.padding and known.sharing)


def _rows(language_model: LanguageModel, prompts: Sequence[str]) -> list[list[int]]:
    """The tokens of prompts that can be read."""
    rows = encode_prompts(language_model.tokenizer, prompts)
    check_rows(language_model.model, prompts, rows)
    return rows


def answer_losses(
    language_model: LanguageModel,
    exchanges: Sequence[tuple[str, str]],
    conditions: Sequence[Condition],
    *,
    skip: int = 0,
    batch_size: int = 16,
) -> tuple[Array, NDArray[np.int64]]:
    """How surprising given answers are after their prompts, under each condition.

    Some tokens at the beginning of each answer may be skipped: they are part of it all the same, and not counted.
    Batches are smaller than for :func:`ask_steered`, since all logits on answers are in memory. Beside what is an error
    there, an answer whose tokens melt into the prompt's, or of which none is left to count, is a ValueError.

    Returns:
        The negative log-likelihood of each answer in nats, summed over its tokens that count, shape
        ``(conditions, exchanges)``, NaN where a condition overflows; and how many those are, shape ``(exchanges,)``.
    """
    _check(language_model, conditions, batch_size)
    texts = [prompt for prompt, _ in exchanges]
    prompts = encode_prompts(language_model.tokenizer, texts)
    rows = encode_prompts(language_model.tokenizer, [prompt + answer for prompt, answer in exchanges])
    check_rows(language_model.model, [prompt + answer for prompt, answer in exchanges], rows)
    lengths = np.array([len(row) - len(prompt) for row, prompt in zip(rows, prompts, strict=True)], dtype=np.int64)
    _check_answers(rows, prompts, exchanges, skip)
    losses, model = np.empty((len(conditions), len(exchanges))), language_model.model
    with inference(model):
        for batch in _batches(language_model, rows, batch_size):
            inputs: Inputs = left_padded(model, [rows[number] for number in batch], _device(language_model))
            kept = int(lengths[batch].max()) - skip
            counted = _last(inputs, lengths[batch] - skip)[:, -kept:]
            where = masks(_real(inputs), _last(inputs, lengths[batch]))
            # A token is told by the logits of the one before it.
            read, tokens = slice(-kept - 1, -1), inputs["input_ids"][:, -kept:, None]
            for number, logs in _log_chances(language_model, inputs, where, conditions, read, tokens, batch_size):
                values = -(logs[..., 0].double() * counted).sum(1).cpu().numpy()
                losses[number, batch] = _readable(model, texts, batch, values, conditions[number])
    return losses, lengths - skip


def _log_chances(
    language_model: LanguageModel,
    inputs: Inputs,
    where: Where,
    conditions: Sequence[Condition],
    read: slice,
    tokens: torch.Tensor,
    batch_size: int,
) -> Scored:
    """The number of each condition with the log-probabilities of some tokens at the places that are read.

    ``tokens`` and what is given have the shape ``(rows, places, tokens)``.
    """
    if isinstance(language_model, RemoteModel):
        sent = dict(inputs) | ({"logits_to_keep": -read.start} if "logits_to_keep" in inputs else {})
        for number, condition in enumerate(conditions):
            yield number, traced_log_chances(language_model, sent, where, condition, read, tokens)
        return
    model = language_model.model
    known = Shortcuts.of(model)
    parts = [Part.whole(*inputs["input_ids"].shape)]
    if read.stop is None and known.padding and known.sharing:
        parts = in_parts([ids[real].tolist() for ids, real in zip(inputs["input_ids"], _real(inputs), strict=True)])
    grid = _Grid(model, inputs, where, max(1, batch_size // len(tokens)), known, parts)
    # What is read after the last token alone may leave out more.
    scored = (
        grid.last_logits(conditions)
        if read.stop is None
        else grid.logits(conditions, -read.start, range(len(conditions)))
    )
    for number, logits in scored:
        yield number, logits[:, read].float().log_softmax(-1).gather(-1, tokens)


def _device(language_model: LanguageModel) -> torch.device:
    return torch.device("cpu") if isinstance(language_model, RemoteModel) else language_model.model.device


def _check_answers(
    rows: Sequence[list[int]], prompts: Sequence[list[int]], exchanges: Sequence[tuple[str, str]], skip: int
) -> None:
    """Notice answers whose tokens melt into the prompt's, or of which none is left to count."""
    for row, prompt, (_, answer) in zip(rows, prompts, exchanges, strict=True):
        if not prompt or len(row) <= len(prompt) + skip or row[: len(prompt)] != prompt:
            raise ValueError(
                f"the answer {answer[:40]!r} has no {skip + 1} tokens of its own after its prompt; end the prompt with "
                "a line break, or take longer answers"
            )


@dataclass(frozen=True)
class _Grid:
    """One batch of prompts under any number of conditions, of which so many share a forward pass."""

    model: PreTrainedModel
    inputs: Inputs
    where: Where
    together: int
    form: Shortcuts
    parts: Sequence[Part]

    def last_logits(self, conditions: Sequence[Condition]) -> Scored:
        """The number of each condition with the logits after the last token, shape ``(rows, 1, vocabulary)``."""
        numbers, at_last = range(len(conditions)), []
        # Conditions that steer the last token alone share what is before it, if there is anything.
        if self.form.cutting_back and self.inputs["input_ids"].shape[1] > 1:
            at_last = [each for each in numbers if {one.positions for one in conditions[each]} == {"last"}]
        if at_last:
            yield from self._last_token(conditions, at_last)
        yield from self.logits(conditions, 1, sorted({*numbers} - {*at_last}))

    def logits(self, conditions: Sequence[Condition], kept: int, numbers: Iterable[int]) -> Scored:
        """The logits after the last tokens, shape ``(rows, kept, vocabulary)``, under some conditions.

        Those that steer from the same depth on share what lies below.
        """
        groups, plain = _by_depth(conditions, numbers, self.form.starting)
        if groups:
            # Conditions that change nothing run along where the least has to be run.
            groups[max(groups)] += plain
        elif plain:
            logits = self._run(kept, 1, [nullcontext] * len(self.parts))
            yield from ((number, logits) for number in plain)
        wheres = [{name: part.of(tokens) for name, tokens in self.where.items()} for part in self.parts]
        for site, streams, level in self._streams(groups):
            for chunk in _chunks(groups[level], self.together):
                parts = zip(streams, wheres, strict=True)
                steered = [partial(self._steered, conditions, chunk, site, *part) for part in parts]
                yield from zip(chunk, self._run(kept, len(chunk), steered).chunk(len(chunk)), strict=True)

    def _run(self, kept: int, times: int, opened: Sequence[Callable[[], AbstractContextManager[Any]]]) -> torch.Tensor:
        """The logits after the last tokens of all rows, so many times, where something is open for each part."""
        short = self.form.short if kept == 1 else nullcontext

        def run(number: int, inputs: dict[str, Any], cache: DynamicCache | None) -> torch.Tensor:
            with opened[number](), short(self.model):
                if number < len(self.parts) - 1:
                    self.model.base_model(**without_logits(inputs), **cached(cache))
                    return torch.empty(0)
                more = {"logits_to_keep": kept} if "logits_to_keep" in inputs else {}
                logits: torch.Tensor = self.model(**inputs | more, **cached(cache)).logits[:, -kept:]
                return logits

        return run_parts(self.inputs, self.parts, run, times)[-1]

    def _streams(self, levels: Iterable[int]) -> Iterator[tuple[Site, list[torch.Tensor], int]]:
        """The unsteered residual stream of each part at some depths; no block is run twice, and those of one depth are
        kept at a time.
        """
        start: tuple[Site, list[torch.Tensor]] | None = None

        def run(number: int, inputs: dict[str, Any], cache: DynamicCache | None) -> torch.Tensor:
            with ExitStack() as stack:
                if start is not None:
                    below, streams = start
                    stack.enter_context(starting_at(self.model, below, streams[number], self.form.in_tuple))
                return stream_at(self.model, inputs, site, cache)

        for level in sorted(levels):
            site = site_above(level)
            start = site, run_parts(self.inputs, self.parts, run)
            yield *start, level

    def _last_token(self, conditions: Sequence[Condition], numbers: Sequence[int]) -> Scored:
        """Conditions that steer the last token alone: it is the only one that is run for each of them."""
        model, before = self.model, self.inputs["input_ids"].shape[1] - 1
        groups, _ = _by_depth(conditions, numbers)
        cache, streams = read_but_last(model, self.inputs, map(site_above, groups), self.form.short(model))
        last = cut(self.inputs, ("input_ids", "position_ids"), -1, None)
        together = min(self.together, max(map(len, groups.values())))
        if together > 1:
            cache.reorder_cache(torch.arange(len(last["input_ids"]), device=model.device).repeat(together))
        everything = {name: torch.ones_like(last["input_ids"], dtype=torch.bool) for name in self.where}
        for level, own in groups.items():
            for chunk in _chunks(own, together):
                # The cache has rows for a full chunk, so a smaller one is filled up.
                full = [*chunk, *[chunk[-1]] * (together - len(chunk))]
                with self._steered(conditions, full, site_above(level), streams[site_above(level)], everything):
                    logits = model(**repeated(last, len(full)), past_key_values=cache, use_cache=True).logits[:, -1:]
                cut_back(cache, before)
                yield from zip(chunk, logits.chunk(len(full)), strict=False)

    def _steered(
        self, conditions: Sequence[Condition], chunk: Sequence[int], site: Site, stream: torch.Tensor, where: Where
    ) -> ExitStack:
        """The model started at a site, with the rows of each condition steered as it says there and above."""
        above: dict[Site, list[int]] = defaultdict(list)
        parts = []
        for place, number in enumerate(chunk):
            part = stream
            for one in sorted(conditions[number], key=lambda one: one.site.order):
                if depth(one.site) == depth(site):
                    part = at_positions(one, where)(part)
                elif place not in above[one.site]:
                    above[one.site].append(place)
            parts.append(part)
        stack = ExitStack()
        stack.enter_context(starting_at(self.model, site, torch.cat(parts), self.form.in_tuple))
        for other, places in above.items():
            own = {place: [one for one in conditions[chunk[place]] if one.site == other] for place in places}
            stack.enter_context(changing(self.model, other, partial(_change_parts, own, len(chunk), where)))
        return stack


def _change_parts(own: dict[int, list[Intervention]], count: int, where: Where, stream: torch.Tensor) -> torch.Tensor:
    """The residual stream of several conditions, each after its own interventions."""
    parts = list(stream.chunk(count))
    for place, interventions in own.items():
        for one in interventions:
            parts[place] = at_positions(one, where)(parts[place])
    return torch.cat(parts)


def _check(language_model: LanguageModel, conditions: Sequence[Condition], batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; run at least one prompt at a time")
    for one in (one for condition in conditions for one in condition):
        one.check_fits(language_model)
    if isinstance(language_model, RemoteModel):
        check_sendable(conditions)


def _readable(
    model: PreTrainedModel, texts: Sequence[str], places: Sequence[int], values: Array, condition: Condition
) -> Array:
    """Values of some texts, NaN where a condition makes them overflow; without a condition that is an error."""
    if not condition:
        check_finite(model, texts, places, list(values))
    return np.where(np.isfinite(values), values, np.nan)


def _chunks(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    yield from (list(numbers[start : start + size]) for start in range(0, len(numbers), size))


def _by_depth(
    conditions: Sequence[Condition], numbers: Iterable[int], starting: bool = True
) -> tuple[dict[int, list[int]], list[int]]:
    """Numbers of conditions by how many blocks need not be run for any of them; and those that steer nothing."""
    groups: dict[int, list[int]] = defaultdict(list)
    plain: list[int] = []
    for number in numbers:
        level = min((depth(one.site) for one in conditions[number]), default=None)
        (plain if level is None else groups[level * starting]).append(number)
    return groups, plain


def _real(inputs: Inputs) -> torch.Tensor:
    return inputs["attention_mask"].bool()


def _last(inputs: Inputs, lengths: NDArray[np.int64]) -> torch.Tensor:
    """Which tokens are among the last so many of their row."""
    ids = inputs["input_ids"]
    behind = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    return behind[None] <= torch.from_numpy(lengths).to(ids.device)[:, None]
