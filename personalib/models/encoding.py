"""Texts as token ids, and batches of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from personalib.base.data import DataError
from personalib.models.chat_templates import ChatPrompt


class Encoded(NamedTuple):
    """A text's token ids, the ``places`` of those that count, and the characters that each of these stands for."""

    ids: list[int]
    places: list[int]
    spans: list[tuple[int, int]]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts that a model goes on from; a ``DataError`` where a text has half of a character.

    A chat has those of ``apply_chat_template(tokenize=True)``. Any other text begins with the special tokens that the
    tokenizer puts before a text, unless it begins with them already; none come after it.
    """
    return [[*before, *row] for before, row, _ in _tokenised(tokenizer, texts, located=False)]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], spans: Sequence[tuple[int, int]] | None = None
) -> list[Encoded]:
    """Texts as token ids, as in :func:`encode_prompts`, and which of them count.

    Args:
        tokenizer: of the model that reads.
        texts: what is read.
        spans: for each text the characters that count, from and up to; all by default.

    Raises:
        ValueError: there is not one span a text, or a text has no token that counts.
        DataError: a text has half of a character; or see :func:`check_located`, where there are spans.
    """
    if spans is not None:
        check_located(tokenizer)
        if len(spans) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(spans)} spans; pass one span a text")
    special = set(tokenizer.all_special_ids)
    encoded = []
    for number, (before, row, offsets) in enumerate(_tokenised(tokenizer, texts, located=tokenizer.is_fast)):
        text = texts[number]
        start, end = spans[number] if spans is not None else (0, len(text))
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start] if start < end else []
        counted = [i for i in (inside if tokenizer.is_fast else range(len(row))) if row[i] not in special]
        if not counted:
            raise ValueError(f"text {number} has no token between characters {start} and {end}: {text[:60]!r}")
        places = [len(before) + i for i in counted]
        encoded.append(Encoded([*before, *row], places, [offsets[i] for i in counted] if offsets else []))
    return encoded


def check_located(tokenizer: PreTrainedTokenizerBase) -> None:
    """Notice a tokenizer written in Python, which does not tell the characters of a token, with a ``DataError``."""
    if not tokenizer.is_fast:
        raise DataError(
            f"{tokenizer.name_or_path}: its tokenizer ({type(tokenizer).__name__}) is written in Python, and does not "
            "tell which characters a token stands for; read whole prompts (position last), or take a model with a "
            "tokenizer.json"
        )


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], located: bool
) -> Iterator[tuple[list[int], list[int], list[tuple[int, int]]]]:
    """For each text the special tokens before it, its own token ids, and their characters if they are asked for."""
    for number, text in enumerate(texts):
        _check_characters(number, text)
    made = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=located) if texts else {}
    usual = _beginning(tokenizer, texts)
    for number, text in enumerate(texts):
        row = made["input_ids"][number]
        begun = isinstance(text, ChatPrompt) or row[: len(usual)] == usual
        yield [] if begun else usual, row, made["offset_mapping"][number] if located else []


def _beginning(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """The special tokens that a tokenizer puts before a text, such as the one for its beginning."""
    for text in ("a", *texts):
        whole, own = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        if own:
            starts = range(len(whole) - len(own) + 1)
            return next((whole[:start] for start in starts if whole[start : start + len(own)] == own), [])
    return []


def _check_characters(number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = ascii(text[max(0, error.start - 20) : error.start + 20])
        raise DataError(
            f"text {number} has half of a character (a lone surrogate) at character {error.start}: {around}; write the "
            "whole character, or leave it out"
        ) from None


def length_batches(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts, longest first, so that little is padded and one that is too large fails at once."""
    batch: list[int] = []
    for index in sorted(range(len(encoded)), key=lambda index: -len(encoded[index].ids)):
        if batch and (len(batch) + 1) * len(encoded[batch[0]].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def padded(rows: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """A batch for a model, padded on the right, shapes (rows, tokens): no token of a decoder looks at later ones."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }
