"""Steering vectors: directions as values, with everything that says where they belong."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from personalib.base.data import DataError, cut, parse_json
from personalib.base.storage import whole
from personalib.models.parts import Site

OPERATIONS = ("add",)
_KEY = "steering_vectors"
_FORMAT = "personalib.steering_vectors/1"
_INDEXING = "blocks are counted from 0; resid_pre.N is what block N reads, resid_post.N what it leaves"


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction in the residual stream at one site.

    It is a value: two can be added and subtracted, and one multiplied and divided by a number. What comes out is
    another vector; none is ever changed.

    Attributes:
        direction: shape ``(d_model,)``, float32 on the CPU, in the unit of the residual stream.
        site: where it was read and belongs.
        name: what it stands for, such as ``"pressures.trust"``.
        method: how it was made, such as ``"difference_of_means"``.
        model: name of the model it belongs to.
        revision: the model's commit, or a hash of its weights.
        texts: hash of the texts that it was fitted to; empty where there were none.
        operation: what steering does with it: ``"add"``.

    Raises:
        ValueError: the direction is no vector of finite numbers, or the operation is unknown.

    Example:
        >>> trust = SteeringVector(torch.tensor([3.0, 4.0]), Site(3), "trust", "difference_of_means", "toy", "1")
        >>> trust.norm, (trust / 2).norm, (trust - trust).norm
        (5.0, 2.5, 0.0)
    """

    direction: torch.Tensor
    site: Site
    name: str
    method: str
    model: str
    revision: str
    texts: str = ""
    operation: str = "add"

    def __post_init__(self) -> None:
        kept = self.direction.detach().to("cpu", torch.float32).clone().contiguous()
        if kept.ndim != 1 or not kept.numel() or not kept.isfinite().all():
            raise ValueError(f"{self.name}: shape {tuple(kept.shape)}; pass one vector of finite numbers")
        if self.operation not in OPERATIONS:
            raise ValueError(f"{self.name}: unknown operation {self.operation!r}; there is {', '.join(OPERATIONS)}")
        object.__setattr__(self, "direction", kept)

    @property
    def norm(self) -> float:
        """The Euclidean length."""
        return float(self.direction.double().norm())

    def unit(self) -> "SteeringVector":
        """The same direction with norm one, which is how the paper uses its RepE vectors.

        Raises:
            ValueError: it is zero and has no direction.
        """
        if not self.norm:
            raise ValueError(f"{self.name} is zero and has no direction")
        return replace(self, direction=self.direction.double() / self.norm)

    def cosine(self, other: "SteeringVector") -> float:
        """The cosine of the angle to another vector of the same site and model.

        Raises:
            ValueError: they do not belong together, or one is zero.
        """
        self.check_fits(other)
        return float(self.unit().direction.double() @ other.unit().direction.double())

    def projection(self, activations: ArrayLike) -> NDArray[np.float64]:
        """How far activations of shape ``(..., d_model)`` lie along the direction, in their own unit.

        Raises:
            ValueError: the vector is zero, or the activations have another width.
        """
        values = np.asarray(activations, dtype=np.float64)
        if values.shape[-1:] != self.direction.shape:
            raise ValueError(f"{self.name} has {len(self.direction)} coordinates, the activations {values.shape[-1:]}")
        return values @ self.unit().direction.double().numpy()

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combined(other, 1, "+")

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self._combined(other, -1, "-")

    def __mul__(self, factor: float) -> "SteeringVector":
        return replace(self, direction=self.direction * factor, name=f"{factor:g} * ({self.name})")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVector":
        return replace(self, direction=self.direction / divisor, name=f"({self.name}) / {divisor:g}")

    def __neg__(self) -> "SteeringVector":
        return replace(self, direction=-self.direction, name=f"-({self.name})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SteeringVector) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def save(self, path: Path) -> None:
        """Write it to a safetensors file, with everything about it in the header."""
        save_vectors([self], path)

    @classmethod
    def load(cls, path: Path) -> "SteeringVector":
        """Read a file of one vector.

        Raises:
            DataError: it cannot be read, or holds several.
        """
        found = load_vectors(path)
        if len(found) != 1:
            raise DataError(f"{path}: holds {len(found)} vectors; read them with load_vectors")
        return found[0]

    def header(self) -> dict[str, Any]:
        """Everything but the numbers, as plain values."""
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "direction"}
        return about | {"site": str(self.site), "norm": self.norm}

    def _combined(self, other: "SteeringVector", sign: int, symbol: str) -> "SteeringVector":
        if not isinstance(other, SteeringVector):
            return NotImplemented
        self.check_fits(other)
        return replace(
            self,
            direction=self.direction + sign * other.direction,
            name=f"({self.name}) {symbol} ({other.name})",
            method=self.method if self.method == other.method else f"{self.method}, {other.method}",
            texts=self.texts if self.texts == other.texts else texts_hash([self.texts, other.texts]),
        )

    def check_fits(self, other: "SteeringVector") -> None:
        """Notice a vector that cannot be added to this one.

        Raises:
            ValueError: site, model, revision, operation or width differ.
        """
        for what in ("site", "model", "revision", "operation"):
            own, theirs = getattr(self, what), getattr(other, what)
            if own != theirs:
                raise ValueError(f"{self.name} and {other.name} differ in {what}: {own} and {theirs}")
        if self.direction.shape != other.direction.shape:
            raise ValueError(
                f"{self.name} and {other.name} have {len(self.direction)} and {len(other.direction)} coordinates"
            )

    def _identity(self) -> tuple[Any, ...]:
        return (self.direction.numpy().tobytes(), *self.header().values())


def texts_hash(texts: Iterable[str]) -> str:
    """A hash of some texts in their order."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:12]


def save_vectors(vectors: Sequence[SteeringVector], path: Path) -> None:
    """Write several vectors to one safetensors file, whose tensors are named ``"0"``, ``"1"`` and so on.

    Raises:
        ValueError: there is none.
        DataError: there is no such folder.
    """
    if not vectors:
        raise ValueError("there is no vector to save")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}; make it first")
    header = {"format": _FORMAT, "layer_indexing": _INDEXING, "vectors": [one.header() for one in vectors]}
    # One entry, since safetensors writes several in an order of chance, and the same vectors shall be the same bytes.
    tensors = {str(number): one.direction for number, one in enumerate(vectors)}
    with whole(path) as partial:
        save_file(tensors, partial, {_KEY: json.dumps(header)})


def load_vectors(path: Path) -> list[SteeringVector]:
    """Read the vectors of a file that :func:`save_vectors` wrote.

    Raises:
        DataError: the file is missing, no safetensors, not of this form, or holds no vector.
    """
    try:
        with safe_open(path, "pt") as file:
            header = parse_json((file.metadata() or {}).get(_KEY, "{}"), f"{path}: cannot be read as steering vectors")
            if header.get("format") != _FORMAT:
                raise DataError(f"{path}: holds {cut(str(header.get('format', 'no format')))} and not {_FORMAT}")
            if not header["vectors"]:
                raise DataError(f"{path}: holds no vector; write it again with save_vectors")
            found = enumerate(header["vectors"])
            return [_from_header(file.get_tensor(str(number)), entry) for number, entry in found]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; save vectors with save_vectors") from None
    except DataError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read as steering vectors ({cut(str(error))})") from None


def export_gguf(vectors: Sequence[SteeringVector], path: Path, architecture: str, blocks: int) -> None:
    """Write vectors of one thing at several sites as a control vector of llama.cpp.

    llama.cpp adds ``direction.N`` to what block N leaves, for N of at least 1, with blocks counted from 0.

    Args:
        vectors: no two at the same site.
        path: the file.
        architecture: the model's kind, such as ``config.model_type``.
        blocks: how many blocks the model has.

    Raises:
        ValueError: there is none, two stand at one site or belong to different models, or one stands at block 0, which
            llama.cpp leaves out.
    """
    layers = [one.site.layer - (one.site.stream == "resid_pre") for one in vectors]
    if not layers or len(set(layers)) < len(layers):
        raise ValueError("pass one vector or more, no two at the same site")
    if min(layers) < 1 or max(layers) >= blocks:
        raise ValueError(f"llama.cpp adds to blocks 1 to {blocks - 1}; leave out those at other blocks: {layers}")
    for one in vectors[1:]:
        replace(one, site=vectors[0].site).check_fits(vectors[0])
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", architecture)
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for layer, one in sorted(zip(layers, vectors, strict=True), key=lambda pair: pair[0]):
        writer.add_tensor(f"direction.{layer}", one.direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _from_header(direction: torch.Tensor, entry: dict[str, Any]) -> SteeringVector:
    about = {name: value for name, value in entry.items() if name != "norm"}
    return SteeringVector(direction, **about | {"site": Site.parse(about["site"])})
