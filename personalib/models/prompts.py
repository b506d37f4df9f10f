"""Prompts as a model expects them, and the probability of each option right after one."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalib.base.records import ItemError
from personalib.models.batches import check_finite, check_rows, in_batches, inference, left_padded
from personalib.models.chat_templates import chat_prompt
from personalib.models.encoding import encode_prompts
from personalib.models.shortcuts import Shortcuts
from personalib.stimuli.templates import wrap


def format_prompt(tokenizer: PreTrainedTokenizerBase, text: str, *, form: str = "chat", context: str = "") -> str:
    r"""A request as the model expects it: a turn in the model's own chat template, or plain text.

    Args:
        tokenizer: whose chat template is used.
        text: the user's request.
        form: ``"chat"``, or another form of ``data/stimuli/templates.yaml`` such as ``"base"``.
        context: sentences that come first, such as a background; a line break is added where one is missing.

    Returns:
        Plain text, or a :class:`~personalib.models.chat_templates.ChatPrompt`, which has its special tokens already.

    Raises:
        ValueError: the form is ``"chat"`` and the tokenizer has no chat template, or one that cannot be used.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
        >>> format_prompt(tokenizer, "What now?", form="base", context="I am a woman.")
        'I am a woman.\nWhat now?\nAnswer:\n'
    """
    if form != "chat":
        return wrap(text, form, context)
    if tokenizer.chat_template is None:
        raise ValueError(f"{tokenizer.name_or_path!r} has no chat template; use form='base' with a base model")
    lead = context if not context or context.endswith("\n") else context + "\n"
    return chat_prompt(tokenizer, lead + text)


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[Sequence[str]],
    *,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[NDArray[np.float64]]:
    """The probability of each option's first token right after each prompt, over the whole vocabulary.

    The options' sum is the *answer mass*: how much of the model's next token is an answer at all.

    Args:
        model: any causal language model of transformers.
        tokenizer: the model's.
        prompts: texts up to the answer, encoded as in :func:`personalib.models.encoding.encode_prompts`.
        labels: for each prompt, what its options are called.
        batch_size: prompts of a forward pass, which does not change what comes out.
        progress: text of a progress bar; None shows none.

    Returns:
        One array a prompt, shape ``(options,)``, in the order of the labels.

    Raises:
        ValueError: there are not as many lists of labels as prompts.
        ItemError: see :func:`option_tokens` and :mod:`personalib.models.batches`.
    """
    if len(prompts) != len(labels):
        raise ValueError(f"{len(prompts)} prompts and {len(labels)} lists of labels; pass one list a prompt")
    rows = encode_prompts(tokenizer, prompts)
    check_rows(model, prompts, rows)
    options = option_tokens(tokenizer, prompts, labels, rows)
    answers: dict[int, NDArray[np.float64]] = {}
    with (
        inference(model),
        tqdm(total=len(rows), desc=progress, disable=progress is None, unit="prompt") as bar,
    ):
        for batch in in_batches(rows, batch_size, Shortcuts.of(model).padding):
            chosen = _probabilities(model, [rows[index] for index in batch], [options[index] for index in batch])
            check_finite(model, prompts, batch, chosen)
            answers.update(zip(batch, chosen, strict=True))
            bar.update(len(batch))
    return [answers[index] for index in range(len(rows))]


def option_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[Sequence[str]],
    rows: Sequence[list[int]],
) -> list[list[int]]:
    """The first token of each label after its prompt, found by encoding the prompt with and without the label.

    Args:
        tokenizer: of the model that will be asked.
        prompts: texts up to the answer.
        labels: for each prompt, what its options are called, as they would be written right after it.
        rows: the prompts' token ids, from :func:`personalib.models.encoding.encode_prompts`.

    Raises:
        ItemError: a label melts into the prompt's last token, or two labels start with the same token.
    """
    written = [prompt + label for prompt, options in zip(prompts, labels, strict=True) for label in options]
    continued = iter(encode_prompts(tokenizer, written))
    return [
        _first_tokens(prompt, row, [(label, next(continued)) for label in options])
        for prompt, options, row in zip(prompts, labels, rows, strict=True)
    ]


def _first_tokens(prompt: str, row: list[int], continued: Sequence[tuple[str, list[int]]]) -> list[int]:
    """The first token of each label after a prompt, given the tokens of both together."""
    labels: dict[int, str] = {}
    for label, longer in continued:
        if not row or len(longer) <= len(row) or longer[: len(row)] != row:
            raise ItemError(
                f"label {label!r} is not a token of its own after the prompt ending in {prompt[-24:]!r}; "
                "end the prompt with a line break, or choose labels that the tokenizer keeps apart"
            )
        token = longer[len(row)]
        if token in labels:
            raise ItemError(
                f"labels {labels[token]!r} and {label!r} both start with token {token} after the prompt ending "
                f"in {prompt[-24:]!r}; choose labels that differ in their first token"
            )
        labels[token] = label
    return list(labels)


def _probabilities(
    model: PreTrainedModel, rows: Sequence[list[int]], options: Sequence[list[int]]
) -> list[NDArray[np.float64]]:
    """The next-token probabilities of each row's options."""
    logits = model(**left_padded(model, rows), use_cache=False).logits[:, -1]
    chances = logits.float().softmax(dim=-1)
    wanted = torch.nn.utils.rnn.pad_sequence([torch.tensor(own) for own in options], batch_first=True)
    picked = chances.gather(1, wanted.to(chances.device)).double().cpu().numpy()
    return [row[: len(own)] for row, own in zip(picked, options, strict=True)]
