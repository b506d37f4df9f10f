"""What prompts begin with alike: it is run once, and each prompt goes on from a cache of it."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from personalib.models.batches import repeated

T = TypeVar("T")
# What a further forward pass takes, as a share of the tokens of the batch.
_PASS = 1 / 32


@dataclass(frozen=True)
class Part:
    """Some columns of a batch that is padded on the left, for those of its rows that differ up to their end.

    Attributes:
        rows: which rows of the batch.
        start: the first of the columns.
        end: the column after the last of them.
        source: for each row, the place of the row of the part before that begins like it; none in the first part.
        shift: how many tokens that one has more up to the start.
    """

    rows: list[int]
    start: int
    end: int
    source: list[int]
    shift: list[int]

    @classmethod
    def whole(cls, rows: int, columns: int) -> "Part":
        """All of a batch at once."""
        return cls(list(range(rows)), 0, columns, [], [])

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Its model inputs; the attention mask is that of all tokens up to its end."""
        mask = "attention_mask"
        return {
            name: value[self.rows, 0 if name == mask else self.start : self.end] if _is_table(value) else value
            for name, value in batch.items()
        }

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Its rows and columns of a table of the whole batch, shape ``(rows, tokens)``."""
        return table[self.rows, self.start : self.end]

    def lay_out(self, cache: DynamicCache, times: int = 1) -> None:
        """Turn the cache of the part before into that of what comes before this one, both for rows so many times.

        Layers that were left out get as many tokens of nothing, since the first one tells how many there are.
        """
        if not cache.layers:
            cache.layers.append(DynamicLayer())
        columns = (torch.arange(self.start) - torch.tensor(self.shift * times)[:, None]).clamp(min=0)
        for layer in cache.layers:
            if layer.get_seq_length() < self.start:
                nothing = torch.zeros(1, 1, 1, 1)
                layer.lazy_initialization(nothing, nothing)
                layer.keys = layer.values = nothing.expand(1, 1, self.start, 1)
                continue
            before = len(layer.keys) // times
            places = [time * before + source for time in range(times) for source in self.source]
            layer.keys, layer.values = layer.keys[places], layer.values[places]
            if any(self.shift):
                index = columns.to(layer.keys.device)[:, None, :, None]
                layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
                layer.values = layer.values.gather(2, index.expand_as(layer.values))


def run_parts(
    batch: Mapping[str, Any],
    parts: Sequence[Part],
    run: Callable[[int, dict[str, Any], DynamicCache | None], T],
    times: int = 1,
) -> list[T]:
    """What a function gives for each part: it runs the part's number and inputs, all rows so many times, on a cache."""
    cache = DynamicCache() if len(parts) > 1 else None
    found = []
    for number, part in enumerate(parts):
        if number and cache is not None:
            part.lay_out(cache, times)
        found.append(run(number, repeated(part.inputs(batch), times), cache))
    return found


def in_parts(rows: Sequence[Sequence[int]]) -> list[Part]:
    """A batch of token ids in parts, of which each goes on from the one before; the last one has all rows.

    What several rows begin with stands in one row of an earlier part, so that the fewest tokens are run; padding that
    only the longest rows need is run for them alone.
    """
    texts = [tuple(row) for row in rows]
    width = max(map(len, texts))
    tails = _tails(texts, width)
    numbers, end, parts = list(range(len(texts))), width, list[Part]()
    for tail in tails[1:]:
        start, beginnings = width - tail, _beginnings(texts, tail)
        own = [texts[number][: max(0, len(texts[number]) - tail)] for number in numbers]
        source = [bisect_left(beginnings, each) for each in own]
        shift = [len(beginnings[place]) - len(each) for place, each in zip(source, own, strict=True)]
        parts.append(Part(numbers, start, end, source, shift))
        numbers, end = [numbers[own.index(each)] for each in beginnings], start
    return [Part(numbers, 0, end, [], []), *reversed(parts)]


def _tails(texts: Sequence[tuple[int, ...]], width: int) -> tuple[int, ...]:
    """At how many tokens from the end a batch is cut, from none on, so that the least is run."""
    leaving = (len(text) - _common(before, text) for before, text in pairwise(sorted(set(texts))))
    # The least from a cut to the first column, and where it is cut.
    ways: dict[int, tuple[float, tuple[int, ...]]] = {width: (0.0, ())}
    for tail in sorted({0, 1, *leaving} - {width}, reverse=True):
        count = len(_beginnings(texts, tail)) if tail else len(texts)
        costs = ((count * (further - tail) + cost, (tail, *cuts)) for further, (cost, cuts) in ways.items())
        least, cuts = min(costs)
        ways[tail] = least + _PASS * len(texts) * width, cuts
    return ways[0][1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))


def _beginnings(texts: Sequence[tuple[int, ...]], tail: int) -> list[tuple[int, ...]]:
    """What texts begin with before so many last tokens, in order, without what another one begins with."""
    ordered = sorted({text[: max(0, len(text) - tail)] for text in texts})
    return [each for each, after in pairwise([*ordered, ()]) if after[: len(each)] != each]


def _is_table(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 1
