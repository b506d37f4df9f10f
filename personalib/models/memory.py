"""How much memory a grid of steered answers takes, estimated from a model's configuration before anything is loaded.

With its margin the total is an upper bound on what torch allocates on the device: what :mod:`personalib.steering.grid`
keeps, and what a block of Gemma 2 makes with plain ("eager") attention. On one H100 the count beyond the weights was
0.98 to 1.10 of the measured peak, before the margin, for Gemma 2 2B and 9B and prompts that share no beginning (see
``data/benchmarks/device.json``); for prompts that do, keys and values are counted on top. Left out are what loading
takes for a moment, the logits of whole answers, and an SAE that is run inside the model.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from personalib.base.data import DataError, choose
from personalib.models.placement import places
from personalib.models.registry import find_entry

# What may come on top of the count: rounding to pages of the allocator, and gaps between tensors of different sizes.
MARGIN = 0.1
# Room that the matrix products of CUDA's library and of oneDNN take for themselves.
WORKSPACE = 64 * 2**20
GB = 10**9
# Bytes of a number in float32: softmax and what is read from logits are computed in it, whatever the weights are in.
_FULL = 4
Steered = Literal["last", "prompt", "both"]


@dataclass(frozen=True)
class Workload:
    """What is run: the arguments of :func:`personalib.steering.grid.ask_steered` that memory hangs on.

    A number below one, and an unknown kind of steering, are a ValueError.

    Attributes:
        tokens: of the longest prompt.
        batch_size: rows of a forward pass, each a prompt under a condition.
        prompts: of the grid; by default enough to fill every batch.
        conditions: of the grid.
        steered: ``"last"`` where every condition steers the last token alone, for which keys and values are kept;
            ``"prompt"`` where none does; or ``"both"``.
        sae_width: features of an SAE that is in memory as well; 0 for none.
        alike: whether prompts may begin alike, for which keys and values are kept too.
    """

    tokens: int
    batch_size: int = 64
    prompts: int | None = None
    conditions: int = 1
    steered: Steered = "both"
    sae_width: int = 0
    alike: bool = True

    def __post_init__(self) -> None:
        counts = (self.tokens, self.batch_size, self.conditions, 1 if self.prompts is None else self.prompts)
        if min(counts) < 1 or self.sae_width < 0:
            raise ValueError(f"{self}; take at least one token, row, prompt and condition, and no width below 0")
        choose(self.steered, get_args(Steered), "kind of steering")

    @property
    def shared(self) -> int:
        """Prompts of a batch."""
        return min(self.batch_size, self.prompts or self.batch_size)

    @property
    def rows(self) -> int:
        """Rows of a forward pass: several conditions share one where the prompts are few."""
        return self.shared * min(self.conditions, self.batch_size // self.shared)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device when most of it is in use: weights of the model and the SAE, keys and values that are kept in
    the cache, and all else that a batch works with; and how many ``parameters`` there are, tied ones counted once.
    """

    parameters: int
    weights: int
    sae: int
    cache: int
    working: int

    @property
    def margin(self) -> int:
        """What is added for what cannot be counted: a tenth of all that comes and goes, and room for libraries."""
        return round(MARGIN * (self.cache + self.working)) + WORKSPACE

    @property
    def total(self) -> int:
        """The peak with its margin."""
        return self.share(1)

    def share(self, places: int) -> int:
        """The same on each of several devices with as many blocks, any of which may have the SAE or the busiest one."""
        return -(-(self.weights + self.cache) // places) + self.sae + self.working + self.margin

    def __str__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("weights", "sae", "cache", "working", "margin")}
        parts = [f"{name} {size / GB:.2f}" for name, size in sizes.items() if size]
        return f"{self.total / GB:.2f} GB ({', '.join(parts)})"


def estimate_memory(config: PreTrainedConfig, dtype: torch.dtype, workload: Workload) -> MemoryEstimate:
    """An upper bound on the memory of a grid; ``dtype`` is the number format of the weights, SAEs are in float32.

    A ValueError where transformers knows no causal language model of this configuration, and a DataError where the
    model has no attention.

    Example:
        >>> from transformers import Gemma2Config
        >>> small = Gemma2Config(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
        >>> print(estimate_memory(small, torch.float32, Workload(tokens=100, batch_size=8)))
        0.13 GB (weights 0.00, cache 0.01, working 0.04, margin 0.07)
    """
    model, sizes = _skeleton(config), _Sizes.of(config, dtype)
    tokens, shared, rows = workload.tokens, workload.shared, workload.rows
    peaks = []
    # A prompt of one token has nothing before it to keep.
    if workload.steered != "last" or tokens == 1:
        kept = sizes.cache(rows, tokens) if workload.alike and tokens > 1 else 0
        peaks.append((kept, sizes.prompt_pass(rows, tokens, shared)))
    if workload.steered != "prompt" and tokens > 1:
        peaks.append((sizes.cache(rows, tokens), sizes.last_token_pass(rows, tokens, shared)))
    cache, working = max(peaks, key=sum)
    # Tensors that are used twice are named once; constants such as rotation frequencies are kept in float32.
    parameters = sum(each.numel() for each in model.parameters())
    weights = parameters * dtype.itemsize + _FULL * sum(each.numel() for each in model.buffers())
    # Encoder, decoder, biases and thresholds.
    features = workload.sae_width
    sae = _FULL * (features * (2 * sizes.width + 2) + sizes.width) if features else 0
    return MemoryEstimate(parameters, weights, sae, cache, working)


class _Sizes(NamedTuple):
    """The sizes of a decoder; where its blocks differ, those of the largest. What its methods return is in bytes."""

    layers: int
    width: int  # of the residual stream
    hidden: int  # of the feed-forward part
    heads: int
    queries: int  # width of all heads together
    keys: int  # width of the heads of keys, and as many of the values
    head: int
    words: int
    size: int  # bytes of a number of the weights

    @classmethod
    def of(cls, config: PreTrainedConfig, dtype: torch.dtype) -> "_Sizes":
        text = config.get_text_config()
        heads, width = _largest(text, "num_attention_heads"), int(text.hidden_size)
        if heads is None:
            raise DataError(f"a model of the kind {config.model_type!r} has no attention; its memory is not estimated")
        head = _largest(text, "head_dim") or width // heads
        keys = head * (_largest(text, "num_key_value_heads") or heads)
        # GPT-2 and its like say nothing where the feed-forward part is four times as wide.
        hidden = _largest(text, "intermediate_size") or _largest(text, "ffn_hidden_size") or 4 * width
        layers, words = int(text.num_hidden_layers), int(text.vocab_size)
        return cls(layers, width, hidden, heads, heads * head, keys, head, words, dtype.itemsize)

    def prompt_pass(self, rows: int, tokens: int, shared: int) -> int:
        """The peak of a pass over whole prompts: so many rows, which are the prompts of a batch under conditions."""
        return self._carried(rows, tokens, shared) + self._read(rows, shared, self._block(rows, tokens))

    def last_token_pass(self, rows: int, tokens: int, shared: int) -> int:
        """The peak where the last token alone is steered, beside the keys and values of all rows."""
        # The first pass reads the prompts, and has their keys and values alone.
        later = self.cache(rows, tokens) - self.cache(shared, tokens)
        first = self._carried(shared, tokens, shared) + self._block(shared, tokens) - later
        # Keys and values are repeated for each head, and renewed.
        attending = 2 * rows * (tokens + 1) * (self.queries + self.keys) * self.size
        scores = rows * self.heads * (tokens + 1) * self._softmax
        step = max(attending + scores + 4 * rows * self.queries * self.size, self._block(rows, 1))
        return max(first, self._carried(rows, 1, shared) + self._read(rows, shared, step))

    def cache(self, rows: int, tokens: int) -> int:
        """Keys and values of all blocks, with room for the token that is run."""
        return rows * (tokens + 1) * 2 * self.keys * self.layers * self.size

    def _carried(self, rows: int, tokens: int, shared: int) -> int:
        """What lives as long as a pass does: residual streams, masks, rotations and token ids."""
        # Embeddings, the stream that is started with, and the one that a block reads; two of the unsteered prompts.
        streams = (3 * rows + 2 * shared) * tokens * self.width * self.size
        return streams + 2 * rows * tokens * (tokens + self.head) * self.size + 24 * (rows + shared) * tokens

    def _block(self, rows: int, tokens: int) -> int:
        """The peak within a block: in its attention, or in the feed-forward part beside the attention weights."""
        places, scores = rows * tokens, rows * self.heads * tokens**2
        attention = places * (self.width + 4 * self.queries + 2 * self.keys) * self.size + scores * self._softmax
        return max(attention, places * (self.width + 3 * self.hidden) * self.size + scores * self.size)

    def _read(self, rows: int, shared: int, block: int) -> int:
        """The larger of a block and the output, beside the logits of the pass before, which stay until replaced."""
        logits, in_full = rows * self.words * self.size, shared * self.words * _FULL
        # Before and after their cap; or as they are, with those of one condition as they are read.
        return logits + in_full + max(block, 2 * logits, logits + 3 * in_full)

    @property
    def _softmax(self) -> int:
        """Bytes for each score: half precision is copied to float32, and the softmax has a result of its own."""
        return self.size + 2 * _FULL if self.size < _FULL else 2 * self.size


def has_attention(config: PreTrainedConfig) -> bool:
    """Whether a model has attention heads, as that of a state space has not."""
    return _largest(config.get_text_config(), "num_attention_heads") is not None


def _largest(config: PreTrainedConfig, name: str) -> int | None:
    """A size of a configuration, of the largest block where each has its own; none where it is not told."""
    try:
        told = getattr(config, name, None)
    except RuntimeError:  # transformers: every block has its own
        told = [getattr(block, name, None) for block in config.per_layer_config]
    sizes = told if isinstance(told, list | tuple) else [told]
    return max((int(size) for size in sizes if size), default=None)


def count_on_disk(config: PreTrainedConfig, spread: Mapping[str, int | str]) -> int:
    """How many of a model's numbers a device map (see :class:`personalib.models.registry.Entry`) leaves on disk."""
    count = 0
    for name, each in _skeleton(config).named_parameters():
        holding = [path for path in spread if not path or f"{name}.".startswith(f"{path}.")]
        # What is said of a part within another one, is said of it.
        count += each.numel() if holding and spread[max(holding, key=len)] == "disk" else 0
    return count


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose weights have sizes and no values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def read_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model without its weights; a DataError where it is not here and could not be fetched."""
    entry = find_entry(name)
    try:
        return AutoConfig.from_pretrained(entry.source, revision=revision or entry.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        fix = "save_pretrained writes it" if Path(entry.source).is_dir() else entry.fetching()
        raise DataError(f"{name}: its configuration cannot be read: {said}; {fix}") from None


def free_memory(device: str | torch.device) -> int:
    """Bytes that are free now on a device, or on several together (see :func:`personalib.models.placement.places`).

    On a GPU those count that torch holds in this process without using them. A DataError where there is no such device,
    or its memory is not known.
    """
    return sum(map(_free, places(str(device))))


def _free(where: torch.device) -> int:
    try:
        if where.type == "cuda":
            unused = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
            return int(torch.cuda.mem_get_info(where)[0]) + unused
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"device {str(where)!r}: {str(error).splitlines()[0]}") from None
    if where.type != "cpu":
        raise DataError(f"device {str(where)!r}: how much memory is free is known of 'cpu' and 'cuda' only")
    return _free_on_host()


def _free_on_host(root: Path = Path("/")) -> int:
    """What the system can give without swapping; within a container, no more than its limit leaves."""
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        whole = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([whole, *_group_rooms(root)])


def _group_rooms(root: Path) -> Iterator[int]:
    """What the control groups of Linux (version 2) that hold this process may still take, from the innermost out.

    Within a container the innermost ones that are named may not be seen, and the outermost is the container's.
    """
    top, told = root / "sys" / "fs" / "cgroup", root / "proc" / "self" / "cgroup"
    lines = told.read_text().splitlines() if told.exists() else []
    inner = top / next((line.removeprefix("0::/") for line in lines if line.startswith("0::")), "")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(top) or not (folder / "memory.max").exists():
            continue
        limit, used, rows = ((folder / f"memory.{name}").read_text().split() for name in ("max", "current", "stat"))
        if limit != ["max"]:
            # Copies of files that nobody has read for a while count as used, and are given up for what needs the room.
            idle = int(dict(zip(rows[::2], rows[1::2], strict=True)).get("inactive_file", 0))
            yield max(0, int(limit[0]) - int(used[0]) + idle)
