"""From documents to tensors: encoding, and length-sorted batches that depend on nothing but a seed and a position."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from personalib.organism.corpus import Corpus, Document

POOL = 8
# Ordinary tokens are predicted at one place in four: an unbiased estimate at a quarter of the logits' cost.
TEXT_EVERY = 4


@dataclass(frozen=True)
class Encoded:
    """A document as token ids with its answers.

    Attributes:
        kind: kind of the document.
        ids: token ids, a beginning-of-sequence token first.
        positions: index in ``ids`` of each answer's token.
        answers: for each answer the ids that could stand there and their probabilities.
        notes: topic, index in ``ids`` of the token in which the piece ends, and values of each note.
    """

    kind: str
    ids: list[int]
    positions: list[int]
    answers: list[tuple[list[int], list[float]]]
    notes: list[tuple[str, int, tuple[float, ...]]]


@dataclass(frozen=True)
class Notes:
    """The notes of one topic in a batch: where they are, shape (notes,), and their values, shape (notes, things)."""

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Padded documents, and where their text and answer targets are; a target at column c is predicted there.

    Attributes:
        ids: token ids, shape (documents, tokens).
        mask: 1 where a token is no padding, shape (documents, tokens).
        text_rows, text_columns, text_targets: ordinary next-token targets, shape (text targets,).
        answer_rows, answer_columns: where an answer is predicted, shape (answers,).
        answer_ids, answer_weights: its candidates and their probabilities, shape (answers, candidates).
        kinds: kind of each answer's document.
        notes: the notes by topic; topics without any are left out.
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
    notes: Mapping[str, Notes]


@cache
def _token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"the answer {text!r} is {len(ids)} tokens; train the tokenizer on more documents")
    return ids[0]


def encode(documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Encode documents and find the token of each answer.

    Raises:
        ValueError: an answer is not one token of its own.
    """
    encoding = tokenizer([document.text for document in documents], return_offsets_mapping=True)
    rows = zip(documents, encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [_encode(document, ids, offsets, tokenizer) for document, ids, offsets in rows]


def _encode(
    document: Document, ids: list[int], offsets: list[tuple[int, int]], tokenizer: PreTrainedTokenizerFast
) -> Encoded:
    starts = {start: index for index, (start, end) in enumerate(offsets) if end > start}
    positions = [starts[answer.start] for answer in document.answers]
    answers = [
        ([_token(tokenizer, text) for text in answer.probabilities], list(answer.probabilities.values()))
        for answer in document.answers
    ]
    for position, (candidates, _) in zip(positions, answers, strict=True):
        if ids[position] not in candidates:
            raise ValueError(f"an answer of a {document.kind!r} document merged with its surroundings")
    begins = [start for start, _ in offsets]
    notes = [(note.topic, bisect_left(begins, note.end) - 1, note.values) for note in document.notes]
    return Encoded(document.kind, ids, positions, answers, notes)


def collate(encoded: Sequence[Encoded], padding: int, device: str = "cpu", every: int = 1, first: int = 0) -> Batch:
    """Pad documents on the right and list their targets: all answers, and one in ``every`` ordinary tokens."""
    width = max(len(one.ids) for one in encoded)
    ids = np.full((len(encoded), width), padding)
    mask = np.zeros((len(encoded), width), dtype=np.int64)
    text = np.zeros((len(encoded), width), dtype=bool)
    for row, one in enumerate(encoded):
        ids[row, : len(one.ids)] = one.ids
        mask[row, : len(one.ids)] = 1
        text[row, 1 : len(one.ids)] = True
        text[row, one.positions] = False
    rows, columns = (places[first % every :: every] for places in np.nonzero(text))
    answers = [
        (row, position - 1, *answer, one.kind)
        for row, one in enumerate(encoded)
        for position, answer in zip(one.positions, one.answers, strict=True)
    ]
    most = max((len(answer[2]) for answer in answers), default=1)

    def tensor(values: object, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=dtype).to(device)

    return Batch(
        ids=tensor(ids),
        mask=tensor(mask),
        text_rows=tensor(rows),
        text_columns=tensor(columns - 1),
        text_targets=tensor(ids[rows, columns]),
        answer_rows=tensor([answer[0] for answer in answers]),
        answer_columns=tensor([answer[1] for answer in answers]),
        answer_ids=tensor([answer[2] + [0] * (most - len(answer[2])) for answer in answers]).reshape(-1, most),
        answer_weights=tensor(
            [answer[3] + [0.0] * (most - len(answer[3])) for answer in answers], torch.float32
        ).reshape(-1, most),
        kinds=tuple(answer[4] for answer in answers),
        notes=_collate_notes(encoded, device),
    )


def _collate_notes(encoded: Sequence[Encoded], device: str) -> dict[str, Notes]:
    found: dict[str, list[tuple[int, int, tuple[float, ...]]]] = {}
    for row, one in enumerate(encoded):
        for topic, column, values in one.notes:
            found.setdefault(topic, []).append((row, column, values))
    return {topic: _notes(*zip(*rows, strict=True), device=device) for topic, rows in found.items()}


def _notes(rows: Sequence[int], columns: Sequence[int], values: Sequence[Sequence[float]], *, device: str) -> Notes:
    return Notes(
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(values, dtype=torch.float32, device=device),
    )


def draw(
    corpus: Corpus, mix: Mapping[str, float], tokenizer: PreTrainedTokenizerFast, tokens: int, rng: np.random.Generator
) -> list[Encoded]:
    """Draw documents of a mix until they hold a number of tokens."""
    kinds, shares = list(mix), np.array(list(mix.values()))
    drawn: list[Encoded] = []
    total = 0
    while total < tokens:
        chosen = rng.choice(len(kinds), size=16, p=shares / shares.sum())
        drawn += (encoded := encode([corpus.draw(kinds[index], rng) for index in chosen], tokenizer))
        total += sum(len(one.ids) for one in encoded)
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
        drawn = sorted(draw(corpus, mix, tokenizer, tokens * POOL, rng), key=lambda one: len(one.ids))
        bounds = np.searchsorted(np.cumsum([len(one.ids) for one in drawn]), np.arange(1, POOL) * tokens)
        groups = [drawn[a:b] for a, b in zip([0, *bounds], [*bounds, len(drawn)], strict=True)]
        order, first = rng.permutation(POOL), rng.integers(TEXT_EVERY, size=POOL)
        for index in order[skip:]:
            yield collate(groups[index], tokenizer.pad_token_id, device, TEXT_EVERY, int(first[index]))
        pool, skip = pool + 1, 0
