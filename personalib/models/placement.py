"""Where a model's weights are: on one device, or spread over several GPUs, and main memory and disk behind them.

A model that is spread is run by accelerate, which brings each block's inputs to where its weights are.
"""

import ctypes
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from personalib.base.data import DataError
from personalib.models.registry import ORGANISM, Entry, find_entry

AUTO = "auto"
BALANCED = "balanced"
MAPPED = "device_map"
# What a GPU needs beyond the weights of a model that is to run on it alone, as a share of them.
_ROOM = 0.2
# Of glibc's mallopt: from which size on memory is mapped by itself, what may lie free at the end, and how much is taken
# at a time, in bytes.
_MAP_FROM, _FREE_AT_END, _TAKEN = (-3, 2**30), (-1, 2**31 - 1), (-2, 2**26)


def keep_freed_memory() -> None:
    """Let the process keep what it frees, so that the next forward pass finds it.

    Else every pass has its memory mapped and cleared anew, which takes a quarter of the time on a CPU. What a process
    holds stays at its peak. Where the C library is another one than glibc nothing changes.
    """
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, size in (_MAP_FROM, _FREE_AT_END, _TAKEN):
            set_option(option, size)


def usual_device(name: str) -> str:
    """Where a model runs if nothing is said.

    ``"cpu"`` for the organism, and where there is no GPU; ``"cuda"``; ``"balanced"`` where there are several GPUs and
    each is too small for the weights; or ``"device_map"`` where the model's entry has places of its own.
    """
    entry = find_entry(name)
    if isinstance(entry.device_map, Mapping):
        return MAPPED
    if name == ORGANISM or not torch.cuda.is_available():
        return "cpu"
    several = torch.cuda.device_count() > 1
    return BALANCED if several and (entry.device_map == BALANCED or _too_large(entry)) else "cuda"


def device_map(entry: Entry, device: str) -> str | dict[str, int | str] | None:
    """What transformers takes as ``device_map`` for a model that is spread: over all GPUs that this process sees, or as
    its entry has it; None for a model on one device. A DataError without a GPU to spread over, or a map in the entry.
    """
    if device == BALANCED:
        if not torch.cuda.is_available():
            raise DataError(f"device {device!r}: there is no GPU here to spread {entry.name} over; take 'cpu'")
        return BALANCED
    if device == MAPPED:
        if not entry.device_map:
            raise DataError(
                f"device {device!r}: {entry.name} has no places of its own; give them as device_map in a YAML file, "
                f"and pass that file as the model, or take {BALANCED!r}"
            )
        return entry.device_map if isinstance(entry.device_map, str) else dict(entry.device_map)
    return None


def is_spread(model: PreTrainedModel) -> bool:
    """Whether a model's weights are in more than one place."""
    return len(set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))) > 1


def places(device: str) -> tuple[torch.device, ...]:
    """The devices that a name stands for: all GPUs where a model is spread, and main memory for places of its own."""
    gpus = tuple(torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    if device in (BALANCED, MAPPED):
        return (*gpus, torch.device("cpu")) if device == MAPPED or not gpus else gpus
    try:
        return (torch.device(device),)
    except RuntimeError as error:
        raise DataError(f"device {device!r}: {str(error).splitlines()[0]}") from None


def _too_large(entry: Entry) -> bool:
    """Whether the weights of a model are too much for any one GPU, where their size is known."""
    if entry.gigabytes is None:
        return False
    free = max(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return entry.gigabytes * 1e9 * (1 + _ROOM) > free
