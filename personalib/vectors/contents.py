"""What files of directions hold: GGUF, safetensors and pickles of bare tensors, opened so that none can run code."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors import SafetensorError, safe_open

from personalib.base.data import DataError

_OWN = "steering_vectors"
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.F64)
_LAYER = re.compile(r"0|[1-9][0-9]{0,5}")
_CODE = (
    "it holds Python objects, and loading them would run whatever code they name; where you trust it, load it with the "
    "tool that wrote it and keep its tensors alone, such as "
    "torch.save({'layer_activations': v.layer_activations, 'layer_type': v.layer_type}, path) of a steering-vectors "
    "object, or safetensors.torch.save_file"
)
# What the readers raise at a file that is cut short or of another kind.
_BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, EOFError, OverflowError)


class ControlVector(NamedTuple):
    """A control vector in GGUF.

    Attributes:
        hint: the kind of model that it names, such as ``"llama"``; empty where it names none.
        directions: by the number N of ``direction.N``, each of shape ``(d_model,)``.
    """

    hint: str
    directions: dict[int, torch.Tensor]


def container(path: Path) -> str:
    """What a file is by its first bytes: ``"gguf"``, ``"personalib"``, ``"safetensors"`` or ``"pickle"``.

    Raises:
        DataError: it is missing or empty.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a file of directions") from None
    if not head:
        raise DataError(f"{path}: is empty; fetch or write it again")
    if head[:4] == b"GGUF":
        return "gguf"
    # A safetensors file starts with the length of its JSON header, and then has the header.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "personalib" if _OWN in _header(path) else "safetensors"
    return "pickle"


def unpickled(path: Path) -> Any:
    """A tensor, or containers of tensors and plain values, from a file of ``torch.save``.

    Raises:
        DataError: it holds anything else, which is refused before it can run, or cannot be read.
    """
    try:
        # A pickle of another tool than torch is told of by a warning, before the error that refuses it.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(f"{path}: is refused: no pickle of bare tensors. If {_CODE}") from None
    # A damaged pickle is a program of chance: what its end raises cannot be listed, down to AssertionError.
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as GGUF, safetensors or a file of torch.save ({reason}); fetch or write it again"
        ) from None


def control_vector(path: Path) -> ControlVector:
    """The directions of a control vector, by the number in their names.

    Raises:
        DataError: it cannot be read, is no control vector, or has a tensor that is no ``direction.N`` of plain numbers.
    """
    try:
        reader = GGUFReader(path)
        kind, hint = _text(reader, "general.architecture"), _text(reader, "controlvector.model_hint")
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be read as GGUF ({error}); fetch or write it again") from None
    if kind != "controlvector":
        raise DataError(f"{path}: holds {kind or 'no architecture'} and no control vector; name one, not a model")
    found = {}
    for tensor in reader.tensors:
        start, _, number = tensor.name.partition(".")
        if start != "direction" or not _LAYER.fullmatch(number) or tensor.tensor_type not in _FLOATS:
            kind = tensor.tensor_type.name
            raise DataError(f"{path}: tensor {tensor.name} of {kind}; write direction.N as F32, with N counted from 0")
        # A copy: the reader's arrays are the file itself, read-only and in its order of bytes, of which torch has one.
        found[int(number)] = torch.from_numpy(np.array(tensor.data, tensor.data.dtype.newbyteorder("=")))
    return ControlVector(hint, found)


def named_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, in the order of their names.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, *_BROKEN) as error:
        raise DataError(f"{path}: cannot be read as safetensors ({error}); fetch or write it again") from None


def matrix(path: Path, content: Any) -> torch.Tensor:
    """What a file holds, as a tensor of shape ``(rows, d_model)``.

    Raises:
        DataError: it is none.
    """
    values = numbers(path, "the content", content)
    if values.ndim != 2 or not values.numel():
        shape = tuple(values.shape)
        raise DataError(f"{path}: shape {shape} is not (rows, d_model); a single vector goes into a safetensors file")
    return values


def numbers(path: Path, name: str, content: Any) -> torch.Tensor:
    """A part of what a file holds, as a dense tensor of floating-point numbers.

    Raises:
        DataError: it is none.
    """
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path}: {name} is a {type(content).__name__} and no tensor; pass the form that it is")
    # Four bits are kept in pairs, which torch cannot take apart.
    plain = content.is_floating_point() and content.dtype != torch.float4_e2m1fn_x2
    if content.layout != torch.strided or not plain or content.is_meta:
        raise DataError(f"{path}: {name} is {content.dtype} on {content.device}; save dense floating-point numbers")
    return content


def _header(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, *_BROKEN) as error:
        raise DataError(f"{path}: cannot be read as safetensors ({error}); fetch or write it again") from None


def _text(reader: GGUFReader, key: str) -> str:
    """A text of the file's header; empty where it has none."""
    field = reader.get_field(key)
    found = field.contents() if field else None
    return found if isinstance(found, str) else ""
