"""What may be left out when a model is run, found by trying: architectures differ in what they do with padding, with a
cache that is cut back, and with blocks that are not run.

Whatever does not come out as on one sequence alone, without padding and without a cache, is not left out: the answers
are the same then, and take longer.
"""

from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from personalib.batches import inference, left_padded, plain_generation, to_go_on_from
from personalib.block_hooks import (
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
from personalib.model_parts import Site, blocks, close

# Tokens of the rows that are tried.
_LONG, _SHORT = 8, 3
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
        known, way = _KNOWN.setdefault(model, {}), model.config._attn_implementation
        key = model.dtype, model.device, way, _hooks(blocks(model))
        if key not in known:
            with inference(model):
                known[key] = cls._tried(model)
        return known[key]

    @classmethod
    def _tried(cls, model: PreTrainedModel) -> "Shortcuts":
        ids = [((torch.arange(count) * 7 + 5) % _vocabulary(model)).tolist() for count in (_LONG, _SHORT)]
        alone = [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1] for row in ids
        ]
        inputs = left_padded(model, ids[:1])
        in_tuple = returns_tuples(model, inputs)
        found: dict[str, Callable[[], list[tuple[torch.Tensor, torch.Tensor]]]] = {
            "padding": lambda: [(model(**left_padded(model, ids), use_cache=False).logits[1, -1], alone[1])],
            "starting": lambda: [(each, alone[0]) for each in _started(model, inputs, in_tuple)],
            "cutting_back": lambda: [(each, alone[0]) for each in _cut_back_and_read(model, inputs, in_tuple)],
            "caching": lambda: [(_read_on(model, ids[0]), alone[0])],
        }
        right = {name: _agrees(pairs) for name, pairs in found.items()}
        return cls(in_tuple, **right, cuts=ways_to_cut_short(model, inputs))

    def short(self, model: PreTrainedModel) -> ExitStack:
        """While this is open, the last block is cut short."""
        stack = ExitStack()
        for one in self.cuts:
            stack.enter_context(one(model))
        return stack


_KNOWN: WeakKeyDictionary[PreTrainedModel, dict[Hashable, Shortcuts]] = WeakKeyDictionary()


def site_above(level: int) -> Site:
    """A site that so many blocks lie below."""
    return Site(level - 1) if level else Site(0, "resid_pre")


def read_but_last(
    model: PreTrainedModel, inputs: Inputs, sites: Iterable[Site], stack: ExitStack
) -> tuple[DynamicCache, Streams]:
    """Read all tokens into a cache, and take the last one back.

    Args:
        model: the model.
        inputs: rows of at least two tokens.
        sites: where the residual stream of the last token is kept.
        stack: closed after the run.

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


def _agrees(pairs: Callable[[], list[tuple[torch.Tensor, torch.Tensor]]]) -> bool:
    """Whether what is tried comes out right. What an architecture does not know may fail in any way."""
    try:
        return all(close(one, other) for one, other in pairs())
    except Exception:
        return False


def _started(model: PreTrainedModel, inputs: Inputs, in_tuple: bool) -> list[torch.Tensor]:
    """The logits of the last token where the run starts in the middle, and where it starts at the last block."""
    found = []
    for site in _trial_sites(model):
        stream = stream_at(model, inputs, site)
        with starting_at(model, site, stream, in_tuple):
            found.append(model(**inputs, use_cache=False).logits[0, -1])
    return found


def _cut_back_and_read(model: PreTrainedModel, inputs: Inputs, in_tuple: bool) -> list[torch.Tensor]:
    """The logits of the last token where it alone is run, on a cache of the others; twice, since a cache may change."""
    sites, found = _trial_sites(model), []
    cache, streams = read_but_last(model, inputs, sites, ExitStack())
    last = cut(inputs, ("input_ids", "position_ids"), -1, None)
    for site in sites:
        with starting_at(model, site, streams[site], in_tuple):
            found.append(model(**last, past_key_values=cache, use_cache=True).logits[0, -1])
        cut_back(cache, inputs["input_ids"].shape[1] - 1)
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
