"""Texts as token ids, and batches of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """A text's token ids, and the tokens that count: not the special ones, and none outside a span.

    Attributes:
        ids: of all tokens.
        places: which of them count.
        spans: of each that counts, the characters of the text that it stands for, from and up to.
    """

    ids: list[int]
    places: list[int]
    spans: list[tuple[int, int]]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], spans: Sequence[tuple[int, int]] | None = None
) -> list[Encoded]:
    """Texts as token ids.

    Args:
        tokenizer: it adds a beginning-of-sequence token unless a text has one.
        texts: what is read.
        spans: for each text the characters that count, from and up to; all by default.

    Raises:
        ValueError: there is not one span a text, or a text has no token that counts.
    """
    if spans is not None and len(spans) != len(texts):
        raise ValueError(f"{len(texts)} texts and {len(spans)} spans; pass one span a text")
    special = set(tokenizer.all_special_ids)
    encoded = []
    for number, text in enumerate(texts):
        start, end = spans[number] if spans is not None else (0, len(text))
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        made = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not begun)
        ids, offsets = made["input_ids"], made["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start] if start < end else []
        counted = [i for i in inside if ids[i] not in special]
        if not counted:
            raise ValueError(f"text {number} has no token between characters {start} and {end}: {text[:60]!r}")
        encoded.append(Encoded(ids, counted, [offsets[i] for i in counted]))
    return encoded


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
    """A batch for a model, each of shape (rows, tokens).

    Rows are padded on the right: no token of a decoder looks at what comes after it, so padding changes nothing.
    """
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }
