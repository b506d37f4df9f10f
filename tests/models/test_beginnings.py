"""What prompts begin with alike: how a batch is cut into parts, and that each row goes on from its own beginning."""

import numpy as np
import pytest
import torch
from small_models import CONFIGS, small

from personalib.models.batches import in_batches, inference, left_padded
from personalib.models.beginnings import Part, in_parts, run_parts
from personalib.models.hooks import Shortcuts, cached

SHARED = list(range(1, 21))
PAIRS = [[*SHARED, *range(30 + 10 * number, 36 + 10 * number), tail] for number in range(3) for tail in (70, 71)]
BATCHES = {
    "nothing alike": [[1, 2, 3], [4, 5, 6]],
    "of different lengths": [[1, 2, 3], [4, 5], [6]],
    "one row": [SHARED],
    "twice the same": [SHARED, SHARED],
    "of one token": [[1], [2], [1]],
    "one begins another": [SHARED, SHARED[:-3], [*SHARED, 40, 41]],
    "shorter than the rest": [[*SHARED, 40], [*SHARED, 41], [1], []],
    "pairs that all begin alike": PAIRS,
    "random": [np.random.default_rng(number).integers(1, 3, 5 + number).tolist() for number in range(12)],
}


def read(rows, parts):
    """What each row of the last part has read, from the first part on, with zeros for padding."""
    width = max(map(len, rows))
    padded = np.array([[0] * (width - len(row)) + list(row) for row in rows])
    known = np.empty((0, 0), int)
    for part in parts:
        columns = padded[part.rows, part.start : part.end]
        if part.start:
            places = np.arange(part.start) - np.array(part.shift)[:, None]
            before = np.take_along_axis(known[part.source], places.clip(min=0), 1)
            columns = np.concatenate([before, columns], 1)
        known = columns
    real = np.arange(width) >= width - np.array([len(row) for row in rows])[:, None]
    return np.where(real, known, 0), padded


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
def test_every_row_reads_its_own_tokens(rows):
    parts = in_parts(rows)
    found, padded = read(rows, parts)
    assert found.tolist() == padded.tolist()
    assert parts[-1].rows == list(range(len(rows))) and parts[0].start == 0


def test_what_is_alike_is_read_once():
    tokens = [len(part.rows) * (part.end - part.start) for part in in_parts(PAIRS)]
    assert tokens == [20, 3 * 6, 6]


@pytest.mark.parametrize("name", ["nothing alike", "one row", "of one token"])
def test_what_has_little_in_common_is_read_at_once(name):
    rows = BATCHES[name]
    assert in_parts(rows) == [Part.whole(len(rows), max(map(len, rows)))]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_go_on_from_a_cache_give_what_they_give_alone(name, times):
    model = small(name).model
    assert Shortcuts.of(model).sharing
    rows = [[token % 30 + 2 for token in row] for row in [*PAIRS, PAIRS[0][3:], PAIRS[0][:9], [1]]]
    batch, parts = left_padded(model, rows), in_parts(rows)
    assert len(parts) > 1 and any(map(any, (part.shift for part in parts)))
    with inference(model):
        found = run_parts(batch, parts, lambda _, some, cache: model(**some, **cached(cache)).logits[:, -1], times)[-1]
        alone = torch.cat([model(input_ids=torch.tensor([row]), use_cache=False).logits[:, -1] for row in rows])
    torch.testing.assert_close(found, alone.repeat(times, 1), rtol=0, atol=1e-5)


def test_rows_of_about_one_length_are_in_one_batch_with_what_begins_alike():
    rows = [[1, 2, 3, 4], [7, 8, 9, 9], [1, 2, 3, 5], [7, 8, 9, 4], [1, 2] * 8]
    assert list(in_batches(rows, 2, alike=True)) == [[4, 0], [2, 3], [1]]
    assert list(in_batches(rows, 2)) == [[4, 0], [1, 2], [3]]
