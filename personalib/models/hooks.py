"""Running part of a model: changing the residual stream at a site, starting and stopping there, and leaving out what an
architecture lets one leave out, which is found by trying: they differ in what they do with padding, with a cache that
is cut back, and with blocks that are not run.

Hooks are gone afterwards, whatever happens in between. Whatever does not come out as on one sequence alone, without
padding and without a cache, is not left out. In half precision rounding would hide a mistake: so what must not matter,
a token of padding or one that is taken back, is exchanged for another one, and any difference is a mistake.
"""

import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from personalib.models.batches import inference, left_padded, plain_generation, replaced, to_go_on_from
from personalib.models.beginnings import in_parts, run_parts
from personalib.models.parts import Site, blocks, close, same, works

Inputs = Mapping[str, Any]
Cut = Callable[[PreTrainedModel], AbstractContextManager[None]]
# What architectures of transformers call their plain attention.
_EAGER = "eager_attention_forward"
# Tokens that are enough to see whether the last block can be cut short.
_TRIAL = 8
# Tokens of the rows that are tried.
_LONG, _SHORT = 8, 3
# How many units in the last place of the largest logit may change with what must not matter, by bytes of a number:
# experts that read other tokens beside round otherwise, and in half precision not even that is seen.
_UNITS = {2: 0, 4: 16, 8: 16}
Streams = dict[Site, torch.Tensor]


class _ReachedError(Exception):
    """The site was reached, and nothing above it is wanted."""


def depth(site: Site) -> int:
    """How many blocks lie below a site."""
    return site.layer + (site.stream == "resid_post")


@contextmanager
def changing(model: PreTrainedModel, site: Site, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While this is open, the residual stream at a site goes through a function."""
    block = blocks(model)[site.layer]

    def after(_: torch.nn.Module, __: Any, output: Any) -> Any:
        # Some architectures return a tuple whose first part is the residual stream, others the stream itself.
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    behind = site.stream == "resid_post"
    with block.register_forward_hook(after) if behind else block.register_forward_pre_hook(before, with_kwargs=True):
        yield


@contextmanager
def starting_at(model: PreTrainedModel, site: Site, stream: torch.Tensor, in_tuple: bool) -> Iterator[None]:
    """While this is open, the model starts at a site with a given residual stream; the blocks below it are left out.

    ``in_tuple`` says whether the model's blocks return the residual stream in a tuple; see :func:`returns_tuples`.
    """

    def skip(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if in_tuple else hidden_states

    with ExitStack() as stack:
        for block in list(blocks(model))[: depth(site)]:
            stack.enter_context(replaced(block, "forward", skip))
        stack.enter_context(changing(model, site, lambda _: stream))
        yield


def stream_at(model: PreTrainedModel, inputs: Inputs, site: Site, cache: DynamicCache | None = None) -> torch.Tensor:
    """The residual stream at a site, shape ``(rows, tokens, d_model)``; no block above it is run.

    With a cache, the tokens come after those that it holds, and are added to it.
    """
    met: list[torch.Tensor] = []

    def keep(stream: torch.Tensor) -> torch.Tensor:
        met.append(stream)
        raise _ReachedError

    with changing(model, site, keep), suppress(_ReachedError):
        # Without the output layer, which is not wanted either.
        model.base_model(**without_logits(inputs), **cached(cache))
    return met[0]


def cached(cache: DynamicCache | None) -> dict[str, Any]:
    """What a model is told of a cache, or of none."""
    return {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}


def returns_tuples(model: PreTrainedModel, inputs: Inputs) -> bool:
    """Whether the blocks of a model return the residual stream in a tuple."""
    met: list[bool] = []
    with blocks(model)[0].register_forward_hook(lambda _, __, output: met.append(isinstance(output, tuple))):
        stream_at(model, _some(inputs), Site(0))
    return met[0]


@contextmanager
def last_token_only(model: PreTrainedModel) -> Iterator[None]:
    """While this is open, the feed-forward part of the last block is run for the last token alone.

    What the block leaves at any other token is then wrong, which is of no consequence where only the last one is read.
    """
    part = getattr(blocks(model)[-1], "mlp", None)
    if part is None:
        yield
        return
    # The part's output has one token, and is added to every token of the residual stream.
    with part.register_forward_pre_hook(lambda _, args: (args[0][:, -1:].contiguous(), *args[1:])):
        yield


@contextmanager
def last_query_only(model: PreTrainedModel) -> Iterator[None]:
    """While this is open, the attention of the last block looks back from the last token alone.

    As for :func:`last_token_only`, what the block leaves at other tokens is then wrong. It works where the architecture
    computes its attention by a function of its module, as it does with ``attn_implementation="eager"``.
    """
    parts = [part for part in blocks(model)[-1].modules() if _attends(part)]
    if not parts:
        yield
        return
    [last, *_], home = parts, _home(parts[0])
    whole = getattr(home, _EAGER)

    def short(part: torch.nn.Module, query: torch.Tensor, *rest: Any, **others: Any) -> Any:
        if part is not last:
            return whole(part, query, *rest, **others)
        key, value, mask, *more = rest
        mask = None if mask is None else mask[..., -1:, :]
        found, weights = whole(part, query[:, :, -1:], key, value, mask, *more, **others)
        # One token for all of them, so that what follows finds the shape that it expects.
        return found.expand(-1, query.shape[2], -1, -1), weights

    with replaced(home, _EAGER, short):
        yield


def ways_to_cut_short(model: PreTrainedModel, inputs: Inputs) -> tuple[Cut, ...]:
    """Which of :func:`last_token_only` and :func:`last_query_only` leave what follows the last token as it is."""
    some = _some(inputs)
    whole = model(**some, use_cache=False).logits[:, -1]

    # A matrix product over fewer rows may round otherwise; a token that came out wrong differs by far more.
    def right(way: Cut) -> bool:
        with way(model):
            return same(model(**some, use_cache=False).logits[:, -1], whole)

    # It fails in architectures that add in place, or call the part with keywords.
    return tuple(way for way in (last_token_only, last_query_only) if works(partial(right, way)))


def without_logits(inputs: Inputs) -> dict[str, Any]:
    """Model inputs for the blocks alone."""
    return {name: value for name, value in inputs.items() if name != "logits_to_keep"}


def cut(inputs: Inputs, names: Sequence[str], start: int | None, end: int | None) -> dict[str, Any]:
    """Model inputs of which some are cut to a range of tokens."""
    return {name: value[:, start:end] if name in names else value for name, value in inputs.items()}


def _home(part: torch.nn.Module) -> Any:
    """The Python module that a part of a model is written in."""
    return sys.modules[type(part).__module__]


def _attends(part: torch.nn.Module) -> bool:
    """Whether a part calls its Python module's attention."""
    return hasattr(_home(part), _EAGER) and _EAGER in inspect.unwrap(type(part).forward).__code__.co_names


def _some(inputs: Inputs) -> dict[str, Any]:
    """One row, and few of its tokens."""
    return {name: value[:1, -_TRIAL:] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


@dataclass(frozen=True)
class Shortcuts:
    """What comes out right of a model.

    Attributes:
        in_tuple: whether its blocks return the residual stream in a tuple.
        padding: rows of different lengths in a batch.
        starting: a run that starts at a site with a given residual stream.
        sharing: rows of different lengths whose beginnings are run in other rows; see :func:`in_parts`.
        cutting_back: a cache that all tokens were read into, and of which the last one is taken back.
        caching: tokens that are read one by one into the model's own cache, as for free answers.
        cuts: the ways in which its last block can be cut short where the last token alone is read.
    """

    in_tuple: bool
    padding: bool
    starting: bool
    sharing: bool
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
        known = int(model.get_input_embeddings().num_embeddings)
        ids = [((torch.arange(count) * 7 + 5) % known).tolist() for count in (_LONG, _SHORT)]
        alone = [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1] for row in ids
        ]
        inputs = left_padded(model, ids[:1])
        in_tuple = returns_tuples(model, inputs)
        trials: dict[str, Callable[[], bool]] = {
            "padding": lambda: _agree(_padded(model, ids), alone[1]),
            "starting": lambda: _starts(model, inputs, in_tuple),
            "sharing": lambda: _shares(model, ids[0], in_tuple),
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

    Beside the cache, the residual stream of the last token at each site is given, shape ``(rows, 1, d_model)``.
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


def _shares(model: PreTrainedModel, row: list[int], in_tuple: bool) -> bool:
    """Whether nothing changes where rows go on from beginnings in other rows, from the first block on and later."""
    rows = [row, [*row[:-2], row[0]], [*row[:-2], row[1]]]
    whole = model(**left_padded(model, rows), use_cache=False).logits[:, -1]
    sites = (site_above(0), *_trial_sites(model))
    return all(all(map(close, _gone_on(model, rows, site, in_tuple), whole)) for site in sites)


def _gone_on(model: PreTrainedModel, rows: list[list[int]], site: Site, in_tuple: bool) -> torch.Tensor:
    """The logits of the last tokens where every part of a batch is started at a site."""
    inputs, parts = left_padded(model, rows), in_parts(rows)

    def read(_: int, some: Inputs, cache: DynamicCache | None) -> torch.Tensor:
        return stream_at(model, some, site, cache)

    def go_on(number: int, some: Inputs, cache: DynamicCache | None) -> torch.Tensor:
        with starting_at(model, site, streams[number], in_tuple):
            logits: torch.Tensor = model(**some, **cached(cache)).logits[:, -1]
            return logits

    streams = run_parts(inputs, parts, read)
    return run_parts(inputs, parts, go_on)[-1]


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


def _hooks(parts: torch.nn.Module) -> tuple[int, ...]:
    """The hooks that somebody has put into blocks: torch gives each a number of its own."""
    return tuple(each for part in parts.modules() for each in (*part._forward_hooks, *part._forward_pre_hooks))
