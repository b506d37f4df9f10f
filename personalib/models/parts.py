"""The parts of a decoder: its blocks, the norm after them, and the unembedding; found by their usual places, or else by
what they are, and checked by a run of the model when it is loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from personalib.models.batches import left_padded, overflow_advice

# Where architectures of transformers keep their blocks, and the norm after them.
_BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "model.language_model.layers")
_NORMS = (
    *("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm"),
    # What a model without a norm there has instead, as OPT of 350 million parameters.
    *("model.language_model.norm", "model.decoder.project_out"),
)
# Places that somebody has told, for models whose parts are in none of the usual ones.
_TOLD: WeakKeyDictionary[torch.nn.Module, "Parts"] = WeakKeyDictionary()
# Tokens of the probing run.
_PROBE = 6
# How far the output may be from what the parts give, as a share of its size, by bytes of a number.
_TOLERANCE = {2: 0.05, 4: 1e-3, 8: 1e-6}
# How many units in the last place of the largest logit count as rounding where the same is computed over other rows, by
# bytes of a number: half precision has so few places that many of its units would hide a mistake.
_ROUNDING = {2: 2, 4: 16, 8: 16}
_ADVICE = "name the places in a YAML file, under parts: {blocks: …, norm: …}, and pass that file as the model"


class Site(NamedTuple):
    """A place in the residual stream: before (``resid_pre``) or after (``resid_post``) a block, counted from 0.

    >>> str(Site.parse("resid_post.3"))
    'resid_post.3'
    """

    layer: int
    stream: str = "resid_post"

    def __str__(self) -> str:
        return f"{self.stream}.{self.layer}"

    @property
    def order(self) -> tuple[int, bool]:
        """By which sites are sorted as a model comes by."""
        return self.layer, self.stream == "resid_post"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """A site from its name; a ``ValueError`` for anything else."""
        stream, _, layer = text.partition(".")
        if stream not in ("resid_pre", "resid_post") or not layer.isdecimal():
            raise ValueError(f"{text!r} is no site; write resid_pre.N or resid_post.N, with blocks counted from 0")
        return cls(int(layer), stream)


class Parts(NamedTuple):
    """Names of a model's modules: the list of its blocks, such as ``model.layers``, and the norm after the last one."""

    blocks: str
    norm: str


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The blocks of a decoder, in order; a ``ValueError`` where they are not found."""
    found = model.get_submodule(blocks_path(model))
    assert isinstance(found, torch.nn.ModuleList)
    return found


def blocks_path(model: PreTrainedModel) -> str:
    """The name of the module that holds the blocks of a decoder; a ``ValueError`` where they are not found."""
    if model in _TOLD:
        return _TOLD[model].blocks
    for path in _BLOCKS:
        if isinstance(_module(model, path), torch.nn.ModuleList):
            return path
    deep = model.config.get_text_config().num_hidden_layers
    lists = [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == deep and len({type(one) for one in part}) == 1
    ]
    if len(lists) == 1:
        return lists[0]
    where = f"{len(lists)} lists have as many parts as it has blocks" if lists else f"not in {', '.join(_BLOCKS)}"
    raise ValueError(f"the blocks of {type(model).__name__} are not found ({where}); {_ADVICE}")


def final_norm(model: PreTrainedModel) -> torch.nn.Module:
    """The norm between the last block and the unembedding; a ``ValueError`` where it is not found."""
    told = (_TOLD[model].norm,) if model in _TOLD else _NORMS
    for path in told:
        if (found := _module(model, path)) is not None:
            return found
    # Beside the blocks, what comes after them.
    home = model.get_submodule(blocks_path(model).rpartition(".")[0])
    beside = [part for name, part in home.named_children() if "norm" in type(part).__name__.lower()]
    if len(beside) == 1:
        return beside[0]
    raise ValueError(
        f"the last norm of {type(model).__name__} is not found, not in {', '.join(told)}; where there is none, name "
        f"what stands between its last block and its unembedding instead: {_ADVICE}"
    )


def tell_parts(model: PreTrainedModel, parts: Parts) -> None:
    """Say where the parts of a model are; a ``ValueError`` where there is no such part, or the blocks are no list."""
    for kind, path in parts._asdict().items():
        found = _module(model, path)
        if found is None or (kind == "blocks" and not isinstance(found, torch.nn.ModuleList)):
            lists = [name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
            known = f"; lists of modules are {', '.join(lists[:5]) or 'not in it'}" if kind == "blocks" else ""
            raise ValueError(f"parts, {kind}: {type(model).__name__} has no {path!r} of that kind{known}")
    _TOLD[model] = parts


@torch.inference_mode()
def check_parts(model: PreTrainedModel) -> None:
    """Run a model on a few tokens, and see that its parts are what they are taken for.

    Every block has to give the residual stream, which the next one reads as it is; the last one's, put through norm and
    unembedding, has to give the output; and that has to be the same where the model is told that all tokens are real,
    and where each stands. A ``ValueError`` where it is not so, or not finite, says what to pass.
    """
    ids = torch.arange(_PROBE, device=model.device)[None] % model.config.get_text_config().vocab_size
    with _watched(blocks(model)) as (read, left):
        try:
            logits = model(input_ids=ids, use_cache=False).logits
        except torch.OutOfMemoryError:
            raise
        # Such as a model that waits for a picture, or for what an encoder has read.
        except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{type(model).__name__} cannot read {_PROBE} tokens by themselves: {error}") from None
    wanted = (1, _PROBE, model.config.get_text_config().hidden_size)
    if not torch.isfinite(logits).all():
        raise ValueError(f"the output of {type(model).__name__} is NaN or infinite; {overflow_advice(model)}")
    _check_streams(blocks_path(model), read, left, wanted)
    norm = final_norm(model)
    # The norm may have another width, as where two streams come together only after the last block.
    if not works(lambda: _proportional(_through_output(model, norm, left[-1][0]), logits)):
        raise ValueError(
            f"the output of {type(model).__name__} is not its last block through norm and unembedding; {_ADVICE}"
        )
    if not close(model(**left_padded(model, ids.tolist()), use_cache=False).logits[:, -1], logits[:, -1]):
        raise ValueError(
            f"{type(model).__name__} answers otherwise when it is told that no token is padding, and where each "
            "stands; its prompts cannot be put into one batch, and no setting changes that"
        )


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of logits are the same but for rounding in their number format; never where one is NaN."""
    first, second = one.flatten().float(), other.to(one.device).flatten().float()
    size = (second - second.mean()).norm()
    return bool((first - second).norm() <= _TOLERANCE[other.element_size()] * size)


def same(one: torch.Tensor, other: torch.Tensor, units: Mapping[int, int] = _ROUNDING) -> bool:
    """Whether logits are the same but for so many units in the last place of the largest, by bytes of a number."""
    allowed = units[other.element_size()] * torch.finfo(other.dtype).eps * other.abs().max()
    return bool((one - other).abs().max() <= allowed)


def works(trial: Callable[[], bool]) -> bool:
    """Whether something comes out right when it is tried. What an architecture does not know may fail in any way."""
    try:
        return trial()
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return False


_Met = list[list[torch.Tensor]]


@contextmanager
def _watched(parts: torch.nn.ModuleList) -> Iterator[tuple[_Met, _Met]]:
    """What each part reads and what it leaves, each time that it is run, while this is open."""
    places = {part: place for place, part in enumerate(parts)}
    read: _Met = [[] for _ in parts]
    left: _Met = [[] for _ in parts]

    def before(part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read[places[part]].append(args[0] if args else kwargs["hidden_states"])

    def after(part: torch.nn.Module, _: Any, output: Any) -> None:
        left[places[part]].append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.register_forward_pre_hook(before, with_kwargs=True))
            stack.enter_context(part.register_forward_hook(after))
        yield read, left


def _check_streams(path: str, read: _Met, left: _Met, wanted: tuple[int, int, int]) -> None:
    """See that each block reads the residual stream that the one before it leaves."""
    for number, (above, own) in enumerate(zip(read, left, strict=True)):
        if not own:
            raise ValueError(f"block {number} of {path} is never run; {_ADVICE}")
        if len(own) > 1:
            raise ValueError(f"block {number} of {path} is run {len(own)} times for a token; it is no single site")
        for verb, [stream] in (("reads", above), ("gives", own)):
            if not isinstance(stream, torch.Tensor) or tuple(stream.shape) != wanted:
                kind = tuple(stream.shape) if isinstance(stream, torch.Tensor) else type(stream).__name__
                raise ValueError(
                    f"block {number} of {path} {verb} {kind}, not {wanted}: its residual stream is not one vector a "
                    f"token, which cannot be steered; or if other parts are its blocks, {_ADVICE}"
                )
        if number and not torch.equal(above[0].to(left[number - 1][0]), left[number - 1][0]):
            raise ValueError(
                f"block {number} of {path} does not read what block {number - 1} leaves: something between them "
                "changes the residual stream, and a site of it would be two"
            )


def _through_output(model: PreTrainedModel, norm: torch.nn.Module, stream: torch.Tensor) -> torch.Tensor:
    # Where a model is spread, its output comes back to where its inputs are, and that of a part does not.
    logits: torch.Tensor = model.get_output_embeddings()(norm(stream)).to(model.device).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _proportional(made: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether two tensors are the same but for a factor above zero, by which some architectures scale their logits."""
    one, other = made.flatten(), logits.float().flatten()
    factor = (one @ other) / (one @ one)
    error = (factor * one - other).norm() / other.norm()
    return bool(factor > 0 and error <= _TOLERANCE[logits.element_size()])


def _module(model: torch.nn.Module, name: str) -> torch.nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
