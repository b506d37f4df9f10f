"""Answers in free words, steered or not."""

import warnings
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from personalib.models.batches import (
    check_finite,
    check_rows,
    in_batches,
    inference,
    left_padded,
    plain_generation,
    to_go_on_from,
)
from personalib.models.chat_templates import ANSWER_AT_ONCE, may_reason, spoken
from personalib.models.hooks import Inputs, Shortcuts
from personalib.models.load import LanguageModel
from personalib.models.prompts import encode_prompts
from personalib.models.sampling import GREEDY, Sampling
from personalib.steering.application import steer
from personalib.steering.interventions import Intervention

# Where an answer ends, beside the model's own end: of a turn in the templates that are known here, and of a line.
_STOPS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")


def generate(
    language_model: LanguageModel,
    prompts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    tokens: int = 40,
    one_line: bool = True,
    sampling: Sampling = GREEDY,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[str]:
    """Answers to prompts in free words. Every token is steered as the positions of each intervention say.

    Nothing but the tokens that end an answer is taken from the model's own ``generation_config``. With one seed, a
    prompt has the same answers at any batch size, in any order and company: each sample draws from random numbers of
    its own, in double precision. Only the model's rounding differs with the shape of a batch, and changes a token where
    the two likeliest, or a random number and the border between two tokens, are as near to each other as that.

    Args:
        language_model: the model.
        prompts: texts up to the answer.
        interventions: what is done to the residual stream; none for the model as it is.
        tokens: how many tokens an answer has at the most.
        one_line: whether an answer ends with its first line.
        sampling: how tokens are chosen, and how many answers a prompt has.
        batch_size: answers that are written at a time.
        progress: text of a progress bar; None shows none.

    Returns:
        The answers without special tokens and the reasoning before them, cut at the end of the turn; all samples of a
        prompt before the next one's. One whose reasoning does not end, or for which a push makes the model overflow, is
        empty, which a warning says.

    Raises:
        ValueError: answers or batches would have no room for a token or prompt, a prompt has no token, or an
            intervention was made for another model.
        ItemError: the model overflows without steering.
    """
    made = written_tokens(
        language_model,
        prompts,
        interventions,
        tokens=tokens,
        one_line=one_line,
        sampling=sampling,
        batch_size=batch_size,
        progress=progress,
    )
    asked = (prompt for prompt in prompts for _ in range(sampling.samples))
    texts = [spoken(language_model.tokenizer, row, prompt) for row, prompt in zip(made, asked, strict=True)]
    if None in texts:
        warnings.warn(
            f"{language_model.name}: {texts.count(None)} of {len(texts)} answers are reasoning that does not end in "
            f"{tokens} tokens, and are left empty; allow more tokens, or {ANSWER_AT_ONCE}",
            stacklevel=2,
        )
    return [((text or "").split("\n")[0] if one_line else text or "").strip() for text in texts]


def written_tokens(
    language_model: LanguageModel,
    prompts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    tokens: int,
    one_line: bool,
    sampling: Sampling = GREEDY,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[list[int]]:
    """The tokens of :func:`generate`'s answers, before the one that ends an answer; one that does not end has all."""
    if tokens < 1 or batch_size < 1:
        raise ValueError(f"tokens={tokens}, batch_size={batch_size}; take at least one of each")
    model = language_model.model
    encoded = encode_prompts(language_model.tokenizer, prompts)
    if not all(encoded):
        number = encoded.index([])
        raise ValueError(f"prompt {number} has no token; write something, or use a tokenizer with a start token")
    check_rows(model, prompts, encoded, tokens)
    form = Shortcuts.of(model)
    rows = list(product(encoded, range(sampling.samples)))
    found: dict[int, list[int] | None] = {}
    stops = _stop_tokens(language_model, one_line)
    with (
        inference(model),
        steer(language_model, interventions),
        plain_generation(model),
        tqdm(total=len(rows), desc=progress, disable=progress is None, unit="answer") as bar,
    ):
        for batch in in_batches([row for row, _ in rows], batch_size, form.padding):
            choice = _Choice([rows[number] for number in batch], sampling)
            chosen = [rows[number][0] for number in batch]
            made = _continued(model, chosen, choice, stops, tokens, form.caching)
            if not interventions:
                values = [np.array(np.nan if row is None else 0.0) for row in made]
                check_finite(model, prompts, [number // sampling.samples for number in batch], values)
            found |= zip(batch, made, strict=True)
            bar.update(len(batch))
    if overflowed := list(found.values()).count(None):
        warnings.warn(
            f"{language_model.name}: {overflowed} of {len(rows)} answers are left empty, since the push makes the "
            f"model overflow in {str(model.dtype).removeprefix('torch.')}; push less",
            stacklevel=3,
        )
    return [found[number] or [] for number in range(len(rows))]


class _Choice(LogitsProcessor):
    """The next token of each row of a batch, as the only one that is left possible.

    Attributes:
        sound: how many tokens of each row were chosen before its logits overflowed; infinity where none did.
    """

    def __init__(self, rows: Sequence[tuple[list[int], int]], sampling: Sampling) -> None:
        """Take each row's prompt, and the number of its sample."""
        self._sampling = sampling
        self._lengths = torch.tensor([[len(prompt)] for prompt, _ in rows])
        self._streams = [sampling.stream(prompt, sample) for prompt, sample in rows]
        self.sound = np.full(len(rows), np.inf)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        overflow = ~scores.amax(dim=-1, keepdim=True).isfinite()
        written = input_ids.shape[1] - int(self._lengths.max())
        self.sound = np.minimum(self.sound, np.where(overflow.flatten().cpu().numpy(), written, np.inf))
        scores = scores.masked_fill(overflow, 0.0)
        if self._sampling.greedy:
            return scores
        # Apple's GPUs have no double precision.
        ids, logits = (each.cpu() if each.device.type == "mps" else each for each in (input_ids, scores))
        seen = self._seen(ids, logits) if self._sampling.frequency_penalty else None
        reached = self._sampling.probabilities(logits, seen).cumsum(dim=-1)
        random = torch.tensor([[stream.random()] for stream in self._streams], dtype=torch.float64, device=ids.device)
        chosen = torch.searchsorted(reached, random * reached[:, -1:], right=True).clamp(max=logits.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.to(scores.device), 0.0)

    def _seen(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """How often each token stands in each row so far, padding aside."""
        padding = int(self._lengths.max()) - self._lengths.to(ids.device)
        own = (torch.arange(ids.shape[1], device=ids.device) >= padding).double()
        return torch.zeros_like(logits, dtype=torch.float64).scatter_add_(1, ids, own)


def _continued(
    model: PreTrainedModel, rows: Sequence[list[int]], choice: _Choice, stops: Sequence[int], tokens: int, caching: bool
) -> list[list[int] | None]:
    """The tokens that follow each row, before the one that ends an answer; none where it overflows up to there."""
    inputs: Inputs = left_padded(model, rows)
    made = model.generate(
        **to_go_on_from(model, inputs),
        logits_processor=LogitsProcessorList([choice]),
        max_new_tokens=tokens,
        eos_token_id=list(stops) or None,
        # What stands after the end of a row is never looked at, and every model embeds this token.
        pad_token_id=0,
        use_cache=caching,
    )
    found = [_until(row, stops) for row in made[:, inputs["input_ids"].shape[1] :].tolist()]
    return [row if len(row) < sound else None for row, sound in zip(found, choice.sound.tolist(), strict=True)]


def _stop_tokens(language_model: LanguageModel, one_line: bool) -> list[int]:
    tokenizer = language_model.tokenizer
    known = tokenizer.get_vocab()
    own = language_model.model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    # Reasoning has several lines.
    line = ["\n"] if one_line and not may_reason(tokenizer) else []
    marks = [known[mark] for mark in (*_STOPS, *line) if mark in known]
    return list(dict.fromkeys(each for each in (*ends, tokenizer.eos_token_id, *marks) if each is not None))


def _until(row: list[int], stops: Sequence[int]) -> list[int]:
    """The tokens before the first one that ends an answer."""
    return row[: next((place for place, token in enumerate(row) if token in stops), len(row))]
