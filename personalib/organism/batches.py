"""From documents to tensors: encoding, and length-sorted batches that depend on nothing but a seed and a position."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from personalib.organism.corpus import Corpus
from personalib.organism.documents import Document

POOL = 8
# Ordinary tokens are predicted at one place in four: an unbiased estimate at a quarter of the logits' cost.
TEXT_EVERY = 4


@dataclass(frozen=True)
class Encoded:
    """A document as token ids, a beginning-of-sequence token first.

    ``positions`` are those of the answers' tokens, ``answers`` the ids that could stand there and their probabilities.
    """

    kind: str
    ids: list[int]
    positions: list[int]
    answers: list[tuple[list[int], list[float]]]


@dataclass(frozen=True)
class Batch:
    """Padded documents, and where their text and answer targets are; a target at column c is predicted there.

    ``ids`` and ``mask`` (1 where a token is no padding) have the shape (documents, tokens), those of text
    (text targets,), ``answer_rows`` and ``answer_columns`` (answers,), ``answer_ids``, the candidates of each answer,
    and ``answer_weights``, their probabilities, (answers, candidates). ``kinds`` are those of the answers' documents.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    text_rows: torch.Tensor
    text_columns: torch.Tensor
    text_targets: torch.Tensor
    answer_rows: torch.Tensor
    answer_columns: torch.Tensor
    answer_ids: torch.Tensor
    answer_weights: torch.Tensor
    kinds: tuple[str, ...]


@cache
def _token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"the answer {text!r} is {len(ids)} tokens; train the tokenizer on more documents")
    return ids[0]


def encode(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Encode documents and find the token of each answer; one that is not one token of its own is a ValueError."""
    encoding = tokenizer([document.text for document in documents], return_offsets_mapping=True)
    encoded = []
    for document, ids, offsets in zip(documents, encoding["input_ids"], encoding["offset_mapping"], strict=True):
        starts = {start: index for index, (start, end) in enumerate(offsets) if end > start}
        positions = [starts[answer.start] for answer in document.answers]
        chances = [answer.probabilities for answer in document.answers]
        answers = [([_token(tokenizer, text) for text in own], list(own.values())) for own in chances]
        if any(ids[place] not in own for place, (own, _) in zip(positions, answers, strict=True)):
            raise ValueError(f"an answer of a {document.kind!r} document merged with its surroundings")
        encoded.append(Encoded(document.kind, ids, positions, answers))
    return encoded


def collate(encoded: Sequence[Encoded], padding: int, device: str = "cpu", every: int = 1, first: int = 0) -> Batch:
    """Pad documents on the right and list their targets: all answers, and one in ``every`` ordinary tokens."""
    ids = _padded([each.ids for each in encoded], padding, torch.long)
    mask = _padded([[1] * len(each.ids) for each in encoded], 0, torch.long)
    text = mask.bool()
    text[:, 0] = False
    for row, each in enumerate(encoded):
        text[row, each.positions] = False
    rows, columns = (places[first % every :: every] for places in text.nonzero(as_tuple=True))
    answers = [
        (row, position - 1, *answer, each.kind)
        for row, each in enumerate(encoded)
        for position, answer in zip(each.positions, each.answers, strict=True)
    ]
    return Batch(
        ids=ids.to(device),
        mask=mask.to(device),
        text_rows=rows.to(device),
        text_columns=(columns - 1).to(device),
        text_targets=ids[rows, columns].to(device),
        answer_rows=torch.tensor([answer[0] for answer in answers], dtype=torch.long, device=device),
        answer_columns=torch.tensor([answer[1] for answer in answers], dtype=torch.long, device=device),
        answer_ids=_padded([answer[2] for answer in answers], 0, torch.long).to(device),
        answer_weights=_padded([answer[3] for answer in answers], 0.0, torch.float32).to(device),
        kinds=tuple(answer[4] for answer in answers),
    )


def _padded(rows: Sequence[Sequence[float]], padding: float, dtype: torch.dtype) -> torch.Tensor:
    """Rows as one table, padded on the right to the longest; one column where there is no row."""
    width = max(map(len, rows), default=1)
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], dtype=dtype).reshape(-1, width)


def draw(
    corpus: Corpus, mix: Mapping[str, float], tokenizer: PreTrainedTokenizerFast, tokens: int, rng: np.random.Generator
) -> list[Encoded]:
    """Draw documents of a mix until they hold a number of tokens."""
    kinds, shares = list(mix), np.array(list(mix.values()))
    drawn: list[Encoded] = []
    while sum(len(each.ids) for each in drawn) < tokens:
        chosen = rng.choice(len(kinds), size=16, p=shares / shares.sum())
        drawn += encode([corpus.draw(kinds[index], rng) for index in chosen], tokenizer)
    return drawn


def batches(
    corpus: Corpus,
    mix: Mapping[str, float],
    tokenizer: PreTrainedTokenizerFast,
    tokens: int,
    seed: Sequence[int],
    start: int = 0,
    device: str = "cpu",
) -> Iterator[Batch]:
    """An endless stream of batches of about ``tokens`` tokens, from position ``start`` on.

    A batch depends on nothing but the seed and its position, so a resumed run sees the batches of an unbroken one.
    """
    pool, skip = divmod(start, POOL)
    while True:
        rng = np.random.default_rng([*seed, pool])
        drawn = sorted(draw(corpus, mix, tokenizer, tokens * POOL, rng), key=lambda each: len(each.ids))
        bounds = np.searchsorted(np.cumsum([len(each.ids) for each in drawn]), np.arange(1, POOL) * tokens)
        groups = [drawn[a:b] for a, b in zip([0, *bounds], [*bounds, len(drawn)], strict=True)]
        order, first = rng.permutation(POOL), rng.integers(TEXT_EVERY, size=POOL)
        for index in order[skip:]:
            yield collate(groups[index], tokenizer.pad_token_id, device, TEXT_EVERY, int(first[index]))
        pool, skip = pool + 1, 0
