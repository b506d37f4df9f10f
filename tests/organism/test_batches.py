"""A batch holds each document's targets, and depends on nothing but the seed and its position."""

from collections import Counter
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
import torch

from personalib.base.data import data_dir
from personalib.organism.batches import POOL, TEXT_EVERY, Batch, batches, collate, draw, encode
from personalib.organism.corpus import Corpus
from personalib.organism.documents import Document
from personalib.organism.tokenizer import load_tokenizer

MIX = {"item": 0.5, "rate_self": 0.3, "fact_statement": 0.2}
TOKENS = 700


@pytest.fixture(scope="module")
def corpus(world):
    return Corpus(world, "train")


@pytest.fixture(scope="module")
def tokenizer():
    """The organism's own tokenizer: one that knows every word."""
    return load_tokenizer(data_dir() / "organism")


@pytest.fixture(scope="module")
def encoded(corpus, tokenizer):
    rng = np.random.default_rng(0)
    return encode([corpus.draw(kind, rng) for kind in corpus.kinds for _ in range(3)], tokenizer)


def stream(corpus, tokenizer, start=0, seed=(0, 2, 0)):
    return batches(corpus, MIX, tokenizer, TOKENS, seed, start)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def answers_of(batch):
    """Each answer's row, column, and probability by candidate id, as a multiset."""
    places = zip(batch.answer_rows.tolist(), batch.answer_columns.tolist(), strict=True)
    chances = [
        frozenset((token, weight) for token, weight in zip(*pair, strict=True) if weight)
        for pair in zip(batch.answer_ids.tolist(), batch.answer_weights.tolist(), strict=True)
    ]
    return Counter((*place, chance) for place, chance in zip(places, chances, strict=True))


def texts_of(batch):
    """Each text target's row, column and token."""
    return list(zip(batch.text_rows.tolist(), batch.text_columns.tolist(), batch.text_targets.tolist(), strict=True))


def test_an_encoded_document_has_its_own_choices_where_they_are(corpus, tokenizer):
    rng = np.random.default_rng(1)
    for kind in corpus.kinds:
        document = corpus.draw(kind, rng)
        (one,) = encode([document], tokenizer)
        assert one.ids == tokenizer.encode(document.text) and one.ids[0] == tokenizer.bos_token_id
        assert len(one.positions) == len(one.answers) == len(document.answers)
        for position, (candidates, chances), answer in zip(one.positions, one.answers, document.answers, strict=True):
            assert tokenizer.decode(one.ids[1:position]) == document.text[: answer.start]
            assert tokenizer.decode(one.ids[position : position + 1]) in answer.probabilities
            texts = [tokenizer.decode([candidate]) for candidate in candidates]
            assert dict(zip(texts, chances, strict=True)) == dict(answer.probabilities)


def test_padding_is_on_the_right_and_masked(encoded, tokenizer):
    batch = collate(encoded, tokenizer.pad_token_id)
    assert batch.ids.shape == batch.mask.shape == (len(encoded), max(len(one.ids) for one in encoded))
    for row, one in enumerate(encoded):
        assert batch.ids[row].tolist() == one.ids + [tokenizer.pad_token_id] * (batch.ids.shape[1] - len(one.ids))
        assert batch.mask[row].tolist() == [1] * len(one.ids) + [0] * (batch.ids.shape[1] - len(one.ids))


def test_targets_are_those_of_each_document_by_itself(encoded, tokenizer):
    batch = collate(encoded, tokenizer.pad_token_id)
    texts = [
        (row, position - 1, one.ids[position])
        for row, one in enumerate(encoded)
        for position in range(1, len(one.ids))
        if position not in one.positions
    ]
    answers = Counter(
        (row, position - 1, frozenset((token, np.float32(p).item()) for token, p in zip(*answer, strict=True) if p))
        for row, one in enumerate(encoded)
        for position, answer in zip(one.positions, one.answers, strict=True)
    )
    assert texts_of(batch) == texts
    assert answers_of(batch) == answers
    assert batch.kinds == tuple(one.kind for one in encoded for _ in one.positions)


@pytest.mark.parametrize("every", [1, 2, 4, 7])
def test_every_answer_stays_and_each_text_target_comes_once_in_a_round(encoded, tokenizer, every):
    whole = collate(encoded, tokenizer.pad_token_id)
    parts = [collate(encoded, tokenizer.pad_token_id, every=every, first=first) for first in range(every)]
    assert all(answers_of(part) == answers_of(whole) for part in parts)
    assert sorted(target for part in parts for target in texts_of(part)) == sorted(texts_of(whole))
    assert max(len(part.text_rows) for part in parts) - min(len(part.text_rows) for part in parts) <= 1


def test_documents_without_answers_make_a_batch_without_answers(corpus, tokenizer):
    drawn = [Document("plain", text, ()) for text in ("The bus is late.", "The window is open, and it is raining.")]
    batch = collate(encode(drawn, tokenizer), tokenizer.pad_token_id)
    assert batch.answer_ids.shape == batch.answer_weights.shape == (0, 1)
    assert batch.kinds == () and len(batch.text_rows)


def test_a_drawing_has_the_mixs_shares_and_at_least_the_tokens(corpus, tokenizer):
    drawn = draw(corpus, {"fact_statement": 3, "find_pole": 1}, tokenizer, 20_000, np.random.default_rng(3))
    total, last = sum(len(one.ids) for one in drawn), sum(len(one.ids) for one in drawn[-16:])
    assert total >= 20_000 > total - last
    share = sum(one.kind == "find_pole" for one in drawn) / len(drawn)
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(drawn))


@pytest.mark.parametrize("start", [0, 1, 5, POOL - 1, POOL, POOL + 3, 2 * POOL + 1])
def test_a_resumed_stream_goes_on_exactly_where_it_stopped(corpus, tokenizer, start):
    unbroken = islice(stream(corpus, tokenizer), start, start + 3)
    resumed = islice(stream(corpus, tokenizer, start), 3)
    assert all(same(one, other) for one, other in zip(unbroken, resumed, strict=True))


def test_batches_differ_from_each_other_and_between_seeds(corpus, tokenizer):
    first = list(islice(stream(corpus, tokenizer), POOL + 2))
    other = list(islice(stream(corpus, tokenizer, seed=(0, 2, 1)), POOL + 2))
    assert not any(same(one, two) for index, one in enumerate(first) for two in first[:index])
    assert not any(same(one, two) for one, two in zip(first, other, strict=True))


def test_a_pool_is_all_drawn_documents_sorted_by_length_in_batches_of_about_the_tokens(corpus, tokenizer):
    pool = list(islice(stream(corpus, tokenizer), POOL))
    drawn = draw(corpus, MIX, tokenizer, TOKENS * POOL, np.random.default_rng([0, 2, 0, 0]))
    rows = [tuple(ids[mask.bool()].tolist()) for one in pool for ids, mask in zip(one.ids, one.mask, strict=True)]
    assert Counter(rows) == Counter(tuple(one.ids) for one in drawn)
    longest = max(len(one.ids) for one in drawn)
    sizes = [int(one.mask.sum()) for one in pool]
    # the last of the sorted batches takes what was drawn beyond the budget: fewer than 16 documents
    assert sum(size <= TOKENS + longest for size in sizes) >= POOL - 1
    assert min(sizes) >= TOKENS - longest
    assert sum(int((one.mask == 0).sum()) for one in pool) < 0.2 * sum(one.mask.numel() for one in pool)


def test_one_text_target_in_four_is_kept_and_all_answers(corpus, tokenizer):
    for batch in islice(stream(corpus, tokenizer), 4):
        ordinary = int(batch.mask.sum()) - len(batch.mask) - len(batch.answer_rows)
        assert abs(len(batch.text_rows) - ordinary / TEXT_EVERY) <= 1
        assert set(batch.kinds) <= set(MIX)
        rows = zip(batch.answer_rows.tolist(), batch.kinds, strict=True)
        assert set(Counter(row for row, kind in rows if kind == "rate_self").values()) <= {8}
