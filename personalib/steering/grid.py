"""The grid scorer: prompts times conditions, without running anew what no condition changes.

- The blocks below the lowest steered site are run once for each batch of prompts, however many conditions there are.
- Where only the last token of the prompt is steered, everything before it is run once: no earlier token sees it.
- Of the last block, what is not needed for the token that is read is left out.
- Several conditions share a forward pass where the prompts are few.

The answers are those of running every condition from the start, to float tolerance, within the memory of a batch of
``batch_size`` rows whatever the number of conditions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from personalib.models.batches import check_finite, check_rows, in_batches, inference, left_padded
from personalib.models.encoding import encode_prompts
from personalib.models.hooks import Inputs, changing, cut, depth, repeated, starting_at, stream_at
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.models.prompts import option_tokens
from personalib.models.shortcuts import Shortcuts, cut_back, read_but_last, site_above
from personalib.steering.interventions import Condition, Intervention, intervene, masks

Array = NDArray[np.float64]
Where = dict[str, torch.Tensor]
Scored = Iterator[tuple[int, torch.Tensor]]


def ask_steered(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    conditions: Sequence[Condition],
    *,
    batch_size: int = 64,
    progress: str | None = None,
) -> Array:
    r"""The probability of each option's first token right after each prompt, under each condition.

    Args:
        language_model: the model.
        prompts: texts up to the answer.
        labels: what the options are called, the same for all prompts.
        conditions: interventions of each condition; none is the model as it is. The tokenizer's special tokens are
            among the tokens of a prompt.
        batch_size: rows of a forward pass, each a prompt under a condition.
        progress: text of a progress bar; None shows none.

    Returns:
        Shape ``(conditions, prompts, labels)``, over the whole vocabulary; NaN where a condition overflows.

    Raises:
        ValueError: no prompt would be run, an intervention was made for another model, or one would steer the answer
            alone, of which nothing is read back in here.
        ItemError: labels cannot be told apart by their first token, or the model overflows without steering.

    Source:
        arXiv 2410.10863, sections 3.2 and 3.3, and its code release, for what is computed.

    Example:
        >>> ask_steered(model, ["Well?\n"], ["A", "B"], [(), (Add(vector, 2.0),)]).shape  # doctest: +SKIP
        (2, 1, 2)
    """
    found = np.empty((len(conditions), len(prompts), len(labels)))
    total = len(conditions) * len(prompts)
    with tqdm(total=total, desc=progress, disable=progress is None, unit="answer") as bar:
        for batch, numbers, chances in steered_batches(
            language_model, prompts, labels, conditions, batch_size=batch_size, done=bar.update
        ):
            found[np.ix_(numbers, batch)] = chances
    return found


def steered_batches(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    conditions: Sequence[Condition],
    *,
    batch_size: int = 64,
    wanted: Callable[[Sequence[int]], Sequence[int]] | None = None,
    done: Callable[[int], object] | None = None,
) -> Iterator[tuple[list[int], list[int], Array]]:
    """The answers of :func:`ask_steered` batch by batch, for work that is kept as it is done.

    Args:
        language_model: the model.
        prompts: texts up to the answer.
        labels: what the options are called, the same for all prompts.
        conditions: interventions of each condition.
        batch_size: rows of a forward pass.
        wanted: the numbers of the conditions that are run on a batch, given the places of its prompts; all by default.
            The prompts that share a batch are the same whatever is wanted.
        done: told how many answers were read, each time some are.

    Yields:
        The places of a batch's prompts, the numbers of the conditions that were run, and the probabilities, shape
        ``(those conditions, batch, labels)``.

    Raises:
        ValueError, ItemError: see :func:`ask_steered`.
    """
    _check(language_model, conditions, batch_size)
    _check_reads(conditions)
    model, rows = language_model.model, encode_prompts(language_model.tokenizer, prompts)
    check_rows(model, prompts, rows)
    options = option_tokens(language_model.tokenizer, prompts, [labels] * len(prompts), rows)
    form = Shortcuts.of(model)
    for batch in in_batches(rows, batch_size, form.padding):
        numbers = list(range(len(conditions)) if wanted is None else wanted(batch))
        if not numbers:
            continue
        found = np.empty((len(numbers), len(batch), len(labels)))
        # The mode must not leak to whoever goes on between two batches.
        with inference(model):
            inputs: Inputs = left_padded(model, [rows[place] for place in batch])
            tokens = torch.tensor([options[place] for place in batch], device=model.device)
            grid = _Grid(model, inputs, _prompt_masks(inputs), max(1, batch_size // len(batch)), form)
            for number, logits in grid.last_logits([conditions[each] for each in numbers]):
                # In double precision before the exponential, so that rare words keep a probability.
                chances = logits.float().log_softmax(1).gather(1, tokens).double().exp().cpu().numpy()
                found[number] = _readable(model, prompts, batch, chances, conditions[numbers[number]])
                if done:
                    done(len(batch))
        yield batch, numbers, found


def answer_losses(
    language_model: LanguageModel,
    exchanges: Sequence[tuple[str, str]],
    conditions: Sequence[Condition],
    *,
    skip: int = 0,
    batch_size: int = 16,
    progress: str | None = None,
) -> tuple[Array, NDArray[np.int64]]:
    """How surprising given answers are under each condition.

    Args:
        language_model: the model.
        exchanges: prompts, each with its answer.
        conditions: interventions of each condition, which steer the tokens of prompt and answer that they name.
        skip: how many tokens at the beginning of each answer are not counted; they are part of the answer all the same.
        batch_size: rows of a forward pass. All their logits on the answers are in memory, so it is smaller than for
            :func:`ask_steered`.
        progress: text of a progress bar; None shows none.

    Returns:
        The negative log-likelihood of each answer in nats, summed over its tokens that count, shape
        ``(conditions, exchanges)``, NaN where a condition overflows; and how many those are, shape ``(exchanges,)``.

    Raises:
        ValueError: see :func:`ask_steered`; or an answer's tokens melt into the prompt's, or none is left to count.
        ItemError: see :func:`personalib.models.batches.check_rows`, or the model overflows without steering.
    """
    _check(language_model, conditions, batch_size)
    texts = [prompt for prompt, _ in exchanges]
    prompts = encode_prompts(language_model.tokenizer, texts)
    rows = encode_prompts(language_model.tokenizer, [prompt + answer for prompt, answer in exchanges])
    check_rows(language_model.model, [prompt + answer for prompt, answer in exchanges], rows)
    lengths = np.array([len(row) - len(prompt) for row, prompt in zip(rows, prompts, strict=True)], dtype=np.int64)
    _check_answers(rows, prompts, exchanges, skip)
    found, model = np.empty((len(conditions), len(exchanges))), language_model.model
    with inference(model), tqdm(total=found.size, desc=progress, disable=progress is None, unit="answer") as bar:
        form = Shortcuts.of(model)
        for batch in in_batches(rows, batch_size, form.padding):
            inputs: Inputs = left_padded(model, [rows[number] for number in batch])
            where = masks(_real(inputs), _last(inputs, lengths[batch]))
            grid = _Grid(model, inputs, where, max(1, batch_size // len(batch)), form)
            kept, counted = int(lengths[batch].max()) - skip, _last(inputs, lengths[batch] - skip)
            for number, logits in grid.logits(conditions, kept + 1):
                losses = _losses(logits, inputs["input_ids"][:, -kept:], counted[:, -kept:])
                found[number, batch] = _readable(model, texts, batch, losses, conditions[number])
                bar.update(len(batch))
    return found, lengths - skip


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
    """One batch of prompts under any number of conditions.

    Attributes:
        model: the model.
        inputs: of :func:`~personalib.models.batches.left_padded`.
        where: which tokens each of the positions means.
        together: how many conditions share a forward pass.
        form: what may be left out of a run.
    """

    model: PreTrainedModel
    inputs: Inputs
    where: Where
    together: int
    form: Shortcuts

    def last_logits(self, conditions: Sequence[Condition]) -> Scored:
        """The number of each condition with the logits after the last token, shape ``(rows, vocabulary)``."""
        at_last, others = self._parted(conditions)
        if at_last:
            yield from self._last_token(conditions, at_last)
        for number, logits in self._prompt(conditions, others, 1):
            yield number, logits[:, -1]

    def logits(self, conditions: Sequence[Condition], kept: int) -> Scored:
        """The number of each condition with the logits after the last tokens, ``(rows, kept, vocabulary)``."""
        return self._prompt(conditions, range(len(conditions)), kept)

    def _parted(self, conditions: Sequence[Condition]) -> tuple[list[int], list[int]]:
        """The conditions that steer the last token alone and leave something before it to share, and the others."""
        at_last: list[int] = []
        others: list[int] = []
        shared = self.form.cutting_back and self.inputs["input_ids"].shape[1] > 1
        for number, condition in enumerate(conditions):
            alone = shared and condition and all(one.positions == "last" for one in condition)
            (at_last if alone else others).append(number)
        return at_last, others

    def _prompt(self, conditions: Sequence[Condition], numbers: Iterable[int], kept: int) -> Scored:
        """Conditions that steer any tokens; those that steer from the same depth on share what lies below."""
        groups, plain = _by_depth(conditions, numbers, self.form.starting)
        short = self.form.short if kept == 1 else nullcontext
        inputs = dict(self.inputs) | ({"logits_to_keep": kept} if "logits_to_keep" in self.inputs else {})
        if groups:
            # Conditions that change nothing run along where the least has to be run.
            groups[max(groups)] += plain
        elif plain:
            with short(self.model):
                logits = self.model(**inputs, use_cache=False).logits[:, -kept:]
            yield from ((number, logits) for number in plain)
        for site, stream, level in self._streams(groups):
            for chunk in _chunks(groups[level], self.together):
                several = repeated(inputs, len(chunk))
                with self._steered(conditions, chunk, site, stream, self.where), short(self.model):
                    logits = self.model(**several, use_cache=False).logits[:, -kept:]
                yield from zip(chunk, logits.chunk(len(chunk)), strict=True)

    def _streams(self, levels: Iterable[int]) -> Iterator[tuple[Site, torch.Tensor, int]]:
        """The unsteered residual stream at some depths; no block is run twice, and one stream is kept at a time."""
        start = None
        for level in sorted(levels):
            site = site_above(level)
            with ExitStack() as stack:
                if start is not None:
                    stack.enter_context(starting_at(self.model, *start, self.form.in_tuple))
                stream = stream_at(self.model, self.inputs, site)
            start = site, stream
            yield site, stream, level

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
                    logits = model(**repeated(last, len(full)), past_key_values=cache, use_cache=True).logits[:, -1]
                cut_back(cache, before)
                yield from zip(chunk, logits.chunk(len(full)), strict=False)

    def _steered(
        self,
        conditions: Sequence[Condition],
        chunk: Sequence[int],
        site: Site,
        stream: torch.Tensor,
        where: Where,
    ) -> ExitStack:
        """The model started at a site, with the rows of each condition steered as it says there and above."""
        above: dict[Site, list[int]] = defaultdict(list)
        parts = []
        for place, number in enumerate(chunk):
            part = stream
            for one in sorted(conditions[number], key=_order):
                if depth(one.site) == depth(site):
                    part = intervene(part, one, where)
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
            parts[place] = intervene(parts[place], one, where)
    return torch.cat(parts)


def _check_reads(conditions: Sequence[Condition]) -> None:
    """Notice a condition that nothing of what is read would see."""
    if any(one.positions == "response" for condition in conditions for one in condition):
        raise ValueError(
            "positions 'response' steer tokens of the answer after they are read back in, and only the first "
            "token of the answer is scored; choose last, prompt, prompt_except_last or all"
        )


def _check(language_model: LanguageModel, conditions: Sequence[Condition], batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; run at least one prompt at a time")
    for condition in conditions:
        for one in condition:
            one.check_fits(language_model)


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


def _order(one: Intervention) -> tuple[int, bool]:
    """The order in which a model comes by: what block N leaves is changed before what block N + 1 reads."""
    return depth(one.site), one.site.stream == "resid_pre"


def _real(inputs: Inputs) -> torch.Tensor:
    return inputs["attention_mask"].bool()


def _prompt_masks(inputs: Inputs) -> Where:
    real = _real(inputs)
    return masks(real, torch.zeros_like(real))


def _last(inputs: Inputs, lengths: NDArray[np.int64]) -> torch.Tensor:
    """Which tokens are among the last so many of their row."""
    ids = inputs["input_ids"]
    behind = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    return behind[None] <= torch.from_numpy(lengths).to(ids.device)[:, None]


def _losses(logits: torch.Tensor, ids: torch.Tensor, answer: torch.Tensor) -> Array:
    """The negative log-likelihood of the last tokens that belong to the answer, from the logits before and at them."""
    chances = logits[:, :-1].float().log_softmax(-1).gather(2, ids[..., None])[..., 0]
    return -(chances.double() * answer).sum(1).cpu().numpy()
