"""How much memory a grid of steered answers takes, estimated from a model's configuration before anything is loaded.

With its margin the total is an upper bound on what torch allocates on the device. It follows what
:mod:`personalib.steering.grid` keeps and what a block of Gemma 2 makes on its way with the plain ("eager") attention,
which is how all models are loaded here. ``tests/benchmarks/device_shapes.py`` compares it with measured peaks: at the
sizes of Gemma 2 of 2B and 9B the count beyond the weights was 0.99 to 1.15 of the peak, before the margin, see
``data/benchmarks/device.json``. What loading takes for a moment is not part of it, nor are all the logits of
:func:`personalib.steering.grid.answer_losses`.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from personalib.base.data import DataError
from personalib.models.memory_parts import Shape, key_value_cache, last_token_work, prompt_work, sae_weights
from personalib.models.placement import places
from personalib.models.registry import find_entry

# What may come on top of the count: rounding to pages of the allocator, and gaps between tensors of different sizes.
MARGIN = 0.1
# Room that the matrix products of CUDA's library and of oneDNN take for themselves.
WORKSPACE = 64 * 2**20
GB = 10**9
# Where the search for the largest batch ends.
_LARGEST = 1024


class _GroupFiles(NamedTuple):
    """Where a control group of Linux tells its limit and its use, and the row of memory.stat of idle file pages."""

    limit: str
    used: str
    idle: str


_FIRST_GROUP = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND_GROUP = _GroupFiles("memory.max", "memory.current", "inactive_file")
Steered = Literal["last", "prompt", "both"]


@dataclass(frozen=True)
class Workload:
    """What is run: the arguments of :func:`personalib.steering.grid.ask_steered` that memory hangs on.

    Attributes:
        tokens: of the longest prompt.
        batch_size: rows of a forward pass, each a prompt under a condition.
        prompts: of the grid; by default enough to fill every batch.
        conditions: of the grid.
        steered: ``"last"`` where every condition steers the last token alone, for which keys and values are kept;
            ``"prompt"`` where none does; or ``"both"``.
        sae_width: features of an SAE that is in memory as well; 0 for none.
        clamps: whether features of that SAE are clamped, so that it is run inside the model.

    Raises:
        ValueError: a number is below one, what is steered is unknown, or features are clamped without an SAE.
    """

    tokens: int
    batch_size: int = 64
    prompts: int | None = None
    conditions: int = 1
    steered: Steered = "both"
    sae_width: int = 0
    clamps: bool = False

    def __post_init__(self) -> None:
        counts = (self.tokens, self.batch_size, self.conditions, 1 if self.prompts is None else self.prompts)
        if min(counts) < 1 or self.sae_width < 0:
            raise ValueError(f"{self}; take at least one token, row, prompt and condition, and no width below 0")
        if self.steered not in get_args(Steered):
            raise ValueError(f"steered={self.steered!r}; choose one of {', '.join(get_args(Steered))}")
        if self.clamps and not self.sae_width:
            raise ValueError("clamps needs an SAE; pass its number of features as sae_width")

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
    """Bytes on the device, of each kind and at the moment when most of it is in use.

    Attributes:
        parameters: how many numbers the model's weights are, tied ones counted once.
        weights: of the model.
        sae: weights of the SAE.
        cache: keys and values that are kept.
        working: everything else that a batch needs at its peak.
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
        """The peak with its margin on each of several devices over which the blocks are spread evenly.

        Any of them may be the one that has the SAE, or the busiest block.
        """
        return -(-(self.weights + self.cache) // places) + self.sae + self.working + self.margin

    def fits(self, device: str | torch.device) -> bool:
        """Whether a device has as much free now; see :func:`free_memory`."""
        return self.total <= free_memory(device)

    def __str__(self) -> str:
        kinds = ("weights", "sae", "cache", "working", "margin")
        parts = [f"{name} {getattr(self, name) / GB:.2f}" for name in kinds if getattr(self, name)]
        return f"{self.total / GB:.2f} GB ({', '.join(parts)})"


def estimate_memory(config: PreTrainedConfig, dtype: torch.dtype, workload: Workload) -> MemoryEstimate:
    """An upper bound on the memory of a grid.

    Args:
        config: of the model; see :func:`read_config`.
        dtype: number format of the weights. SAEs are in float32.
        workload: what is run.

    Raises:
        ValueError: transformers knows no causal language model of this configuration.
        DataError: the model has no attention.

    Example:
        >>> from transformers import Gemma2Config
        >>> small = Gemma2Config(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
        >>> print(estimate_memory(small, torch.float32, Workload(tokens=100, batch_size=8)))
        0.13 GB (weights 0.00, cache 0.01, working 0.04, margin 0.07)
    """
    return _estimate(config, _count(config), dtype, workload)


def largest_batch(
    config: PreTrainedConfig, dtype: torch.dtype, workload: Workload, device: str | torch.device = "cpu"
) -> int:
    """The largest ``batch_size`` that fits a device now, at the most 1,024; 0 if not even one row does.

    Args:
        config: of the model.
        dtype: number format of the weights.
        workload: what is run; its batch size does not count.
        device: such as ``"cuda"``.

    Raises:
        ValueError, DataError: see :func:`estimate_memory` and :func:`free_memory`.
    """
    room, numbers = free_memory(device), _count(config)
    return bisect_right(
        range(1, _LARGEST + 1),
        room,
        key=lambda size: _estimate(config, numbers, dtype, replace(workload, batch_size=size)).total,
    )


def free_memory(device: str | torch.device) -> int:
    """Bytes that are free now, on a GPU with those that torch holds in this process without using them.

    Args:
        device: one, or what several are together; see :func:`personalib.models.placement.places`.

    Raises:
        DataError: there is no such device, or its memory is not known.
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


def count_parameters(config: PreTrainedConfig) -> int:
    """How many numbers the weights of a model are, tied ones counted once; none of them is made.

    Raises:
        ValueError: transformers knows no causal language model of this configuration.
    """
    return _count(config)[0]


def count_on_disk(config: PreTrainedConfig, spread: Mapping[str, int | str]) -> int:
    """How many of these numbers a map leaves on disk, from where a part is read whenever it is run.

    Args:
        config: of the model.
        spread: devices by name of module, see :class:`personalib.models.registry.Entry`.

    Raises:
        ValueError: transformers knows no causal language model of this configuration.
    """
    found = 0
    for name, each in _skeleton(config).named_parameters():
        holding = [path for path in spread if not path or f"{name}.".startswith(f"{path}.")]
        # What is said of a part within another one, is said of it.
        found += each.numel() if holding and spread[max(holding, key=len)] == "disk" else 0
    return found


def read_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model without its weights.

    Args:
        name: see :func:`personalib.models.load.load_model`.
        revision: branch, tag or commit on the hub; by default the one of the table.

    Raises:
        DataError: it is not on this machine and could not be fetched.
    """
    entry = find_entry(name)
    try:
        return AutoConfig.from_pretrained(entry.source, revision=revision or entry.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        fix = "save_pretrained writes it" if Path(entry.source).is_dir() else entry.fetching()
        raise DataError(f"{name}: its configuration cannot be read: {said}; {fix}") from None


def _estimate(
    config: PreTrainedConfig, numbers: tuple[int, int], dtype: torch.dtype, workload: Workload
) -> MemoryEstimate:
    """The estimate of a model of so many parameters and further numbers."""
    shape = Shape.of(config, dtype)
    width = workload.sae_width if workload.clamps else 0
    tokens, shared, rows = workload.tokens, workload.shared, workload.rows
    options = []
    # A prompt of one token has nothing before it to keep.
    if workload.steered != "last" or tokens == 1:
        options.append((0, prompt_work(shape, rows, tokens, shared, width)))
    if workload.steered != "prompt" and tokens > 1:
        cache = key_value_cache(shape, rows, tokens)
        options.append((cache, last_token_work(shape, rows, tokens, shared, width)))
    cache, working = max(options, key=sum)
    parameters, others = numbers
    weights = parameters * dtype.itemsize + 4 * others
    return MemoryEstimate(parameters, weights, sae_weights(shape, workload.sae_width), cache, working)


def _count(config: PreTrainedConfig) -> tuple[int, int]:
    """Numbers among the weights, and among the constants beside them such as rotation frequencies."""
    model = _skeleton(config)
    # Both lists name a tensor that is used twice only once.
    return sum(each.numel() for each in model.parameters()), sum(each.numel() for each in model.buffers())


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose weights have sizes and no values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _free_on_host(root: Path = Path("/")) -> int:
    """What the system can give without swapping; within a container, no more than its limit leaves."""
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        whole = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rooms = (_group_room(folder, files) for folder, files in _groups(root))
    return min([whole, *(room for room in rooms if room is not None)])


def _groups(root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """The control groups of Linux that hold this process, from the innermost out, each of which may have a limit.

    Within a container the innermost ones that are named may not be seen, and the outermost is the container's.
    """
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys" / "fs" / "cgroup" / ("memory" if controllers else "")
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top):
                yield folder, _FIRST_GROUP if controllers else _SECOND_GROUP


def _group_room(folder: Path, files: _GroupFiles) -> int | None:
    """What a control group may still take; none where it has no limit or is not seen."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in (files.limit, files.used))
        if limit == "max":
            return None
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    # Copies of files that nobody has read for a while count as used, and are given up for what needs the room.
    return max(0, int(limit) - int(used) + int(rows.get(files.idle, 0)))
