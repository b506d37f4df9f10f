"""What may be left out when a model is run, found by trying: architectures differ in what they do with padding, with a
cache that is cut back, and with blocks that are not run.

Whatever does not come out as on one sequence alone, without padding and without a cache, is not left out: the answers
are the same then, and take longer. In half precision rounding would hide a mistake. So what must not matter, a token of
padding or one that is taken back, is exchanged for another one: any difference beyond the last places is a mistake.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from personalib.models.batches import inference, left_padded, plain_generation, to_go_on_from
from personalib.models.hooks import (
    Cut,
    Inputs,
    changing,
    cut,
    returns_tuples,
    starting_at,
    stream_at,
    ways_to_cut_short,
    without_logits,
)
from personalib.models.parts import Site, blocks, close, same, works

# Tokens of the rows that are tried.
_LONG, _SHORT = 8, 3
# How many units in the last place of the largest logit may change with what must not matter, by bytes of a number:
# experts that read other tokens beside round otherwise, and in half precision not even that is seen.
_UNITS = {2: 0, 4: 16, 8: 16}
Streams = dict[Site, torch.Tensor]


@dataclass(frozen=True)
class Shortcuts:
    """What comes out right of a model.

    Attributes:
        in_tuple: whether its blocks return the residual stream in a tuple.
        padding: rows of different lengths in a batch.
        starting: a run that starts at a site with a given residual stream.
        cutting_back: a cache that all tokens were read into, and of which the last one is taken back.
        caching: tokens that are read one by one into the model's own cache, as for free answers.
        cuts: the ways in which its last block can be cut short where the last token alone is read.
    """

    in_tuple: bool
    padding: bool
    starting: bool
    cutting_back: bool
    caching: bool
    cuts: tuple[Cut, ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Shortcuts":
        """What comes out right of a model, tried once as long as nothing is changed that it may hang on."""
        key = model.dtype, model.device, model.config._attn_implementation, _hooks(blocks(model))
        if model not in _KNOWN or _KNOWN[model][0] != key:
            with inference(model):
                _KNOWN[model] = key, cls._tried(model)
        return _KNOWN[model][1]

    @classmethod
    def _tried(cls, model: PreTrainedModel) -> "Shortcuts":
        ids = [((torch.arange(count) * 7 + 5) % _vocabulary(model)).tolist() for count in (_LONG, _SHORT)]
        alone = [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1] for row in ids
        ]
        inputs = left_padded(model, ids[:1])
        in_tuple = returns_tuples(model, inputs)
        trials: dict[str, Callable[[], bool]] = {
            "padding": lambda: _agree(_padded(model, ids), alone[1]),
            "starting": lambda: _starts(model, inputs, in_tuple),
            "cutting_back": lambda: all(_agree(own, alone[0]) for own in _cut_back_and_read(model, ids[0], in_tuple)),
            "caching": lambda: close(_read_on(model, ids[0]), alone[0]),
        }
        right = {name: works(trial) for name, trial in trials.items()}
        return cls(in_tuple, **right, cuts=ways_to_cut_short(model, inputs))

    def short(self, model: PreTrainedModel) -> ExitStack:
        """While this is open, the last block is cut short."""
        stack = ExitStack()
        for one in self.cuts:
            stack.enter_context(one(model))
        return stack


# Of each model what was tried last: whoever hooks it anew each time would leave something for good.
_KNOWN: WeakKeyDictionary[PreTrainedModel, tuple[Hashable, Shortcuts]] = WeakKeyDictionary()


def site_above(level: int) -> Site:
    """A site that so many blocks lie below."""
    return Site(level - 1) if level else Site(0, "resid_pre")


def read_but_last(
    model: PreTrainedModel, inputs: Inputs, sites: Iterable[Site], stack: ExitStack
) -> tuple[DynamicCache, Streams]:
    """Read rows of at least two tokens into a cache, and take the last one back; the stack is closed after the run.

    Returns:
        The cache, and the residual stream of the last token at each site, shape ``(rows, 1, d_model)``.
    """
    # Without the model's config every layer keeps all its tokens, so that the cache can be cut back.
    cache, streams = DynamicCache(), {}  # type: DynamicCache, Streams
    with stack:
        for site in sites:
            stack.enter_context(changing(model, site, partial(_keep_last, streams, site)))
        model.base_model(**without_logits(inputs), past_key_values=cache, use_cache=True)
    cut_back(cache, inputs["input_ids"].shape[1] - 1)
    return cache, streams


def cut_back(cache: DynamicCache, length: int) -> None:
    """Take from each layer what it holds beyond so many tokens; layers that were left out hold no more."""
    for layer in cache.layers:
        layer.crop(min(0, length - layer.get_seq_length()))


def _keep_last(streams: Streams, site: Site, stream: torch.Tensor) -> torch.Tensor:
    streams[site] = stream[:, -1:].clone()
    return stream


def _agree(found: Sequence[torch.Tensor], alone: torch.Tensor) -> bool:
    """Whether logits are those of one sequence alone, and the same whatever stands where it must not matter."""
    return all(close(one, alone) and same(one, found[0], _UNITS) for one in found)


def _padded(model: PreTrainedModel, rows: Sequence[list[int]]) -> list[torch.Tensor]:
    """The logits of the last token of a padded row, with two tokens in the place of padding."""
    inputs: dict[str, Any] = left_padded(model, rows)
    other = inputs["input_ids"].where(inputs["attention_mask"].bool(), 1)
    return [model(**inputs | {"input_ids": ids}, use_cache=False).logits[1, -1] for ids in (inputs["input_ids"], other)]


def _starts(model: PreTrainedModel, inputs: Inputs, in_tuple: bool) -> bool:
    """Whether nothing changes where the run starts in the middle, and where it starts at the last block."""
    whole = model(**inputs, use_cache=False).logits[0, -1]
    for site in _trial_sites(model):
        with starting_at(model, site, stream_at(model, inputs, site), in_tuple):
            if not same(model(**inputs, use_cache=False).logits[0, -1], whole, _UNITS):
                return False
    return True


def _cut_back_and_read(model: PreTrainedModel, row: list[int], in_tuple: bool) -> list[list[torch.Tensor]]:
    """The logits of the last token where it alone is run, on a cache of the others: in the middle, and at the last
    block, since a cache may change; each after the same token was taken back, and after another one.
    """
    inputs: Inputs = left_padded(model, [row])
    sites, last = _trial_sites(model), cut(inputs, ("input_ids", "position_ids"), -1, None)
    _, streams = read_but_last(model, inputs, sites, ExitStack())
    found: list[list[torch.Tensor]] = [[] for _ in sites]
    for token in (row[-1], row[0]):
        cache, _ = read_but_last(model, left_padded(model, [[*row[:-1], token]]), (), ExitStack())
        for site, own in zip(sites, found, strict=True):
            with starting_at(model, site, streams[site], in_tuple):
                own.append(model(**last, past_key_values=cache, use_cache=True).logits[0, -1])
            cut_back(cache, len(row) - 1)
    return found


def _read_on(model: PreTrainedModel, row: list[int]) -> torch.Tensor:
    """The logits of the last token where it is read alone after the others, as ``generate`` does it."""
    settings = {"max_new_tokens": 2, "use_cache": True, "return_dict_in_generate": True, "output_logits": True}
    with plain_generation(model):
        made = model.generate(
            **to_go_on_from(model, left_padded(model, [row[:-1]])),
            logits_processor=[lambda _, scores: _only(scores, row[-1])],
            **settings,
        )
    found: torch.Tensor = made.logits[1][0]
    return found


def _only(scores: torch.Tensor, token: int) -> torch.Tensor:
    chosen = torch.full_like(scores, -torch.inf)
    chosen[:, token] = 0.0
    return chosen


def _trial_sites(model: PreTrainedModel) -> list[Site]:
    deep = len(blocks(model))
    return [site_above(level) for level in dict.fromkeys((deep // 2, deep - 1))]


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().num_embeddings)


def _hooks(parts: torch.nn.Module) -> tuple[int, ...]:
    """The hooks that somebody has put into blocks: torch gives each a number of its own."""
    return tuple(each for part in parts.modules() for each in (*part._forward_hooks, *part._forward_pre_hooks))
