"""Checkpoints of training: tensors, and numbers and texts beside them, in one safetensors file without a pickle."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from personalib.base.data import DataError, cut
from personalib.base.storage import whole

T = TypeVar("T")


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors, on any device, and what else there is, as JSON can hold it, so that a kill leaves the old file.

    Where it cannot be written, that is a DataError, and the old one is kept, too.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole(path) as partial:
        save_file(kept, partial, {name: json.dumps(value) for name, value in state.items()})


def load_checkpoint(
    path: Path, take: Callable[[Mapping[str, torch.Tensor], Mapping[str, Any]], T], device: str = "cpu"
) -> T:
    """What ``take`` makes of a checkpoint's tensors and state; it may refuse what they are about with a DataError.

    It is a DataError, too, where the file is damaged, or holds something else than ``take`` expects.
    """
    try:
        with safe_open(path, "pt", device=device) as file:
            state = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return take(tensors, state)
    except DataError:
        raise
    except Exception as error:  # whatever torch and safetensors make of other names, sizes and kinds
        problem = cut(" ".join(str(error).split()))
        raise DataError(f"{path}: cannot be read ({problem}); remove it to begin anew") from None
