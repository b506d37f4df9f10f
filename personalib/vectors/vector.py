"""Steering vectors: directions as values, with everything that says where they belong."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from personalib.base.data import DataError, Strict, cut, parse, parse_json
from personalib.base.storage import whole
from personalib.models.parts import Site

_KEY = "steering_vectors"
_FORMAT = "personalib.steering_vectors/1"
_INDEXING = "blocks are counted from 0; resid_pre.N is what block N reads, resid_post.N what it leaves"


class _Entry(Strict):
    """What a file says of one vector."""

    site: str
    name: str
    method: str
    model: str
    revision: str
    texts: str = ""
    norm: float
    # Written by earlier versions, which knew no other.
    operation: Literal["add"] = "add"


class _Header(Strict):
    format: Literal["personalib.steering_vectors/1"]
    layer_indexing: str = _INDEXING
    vectors: tuple[_Entry, ...]


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction in the residual stream at one site, a value with the algebra of vectors.

    ``direction`` has shape ``(d_model,)``, float32 on the CPU, in the unit of the residual stream; numbers that are not
    finite are a ValueError. ``method`` says how it was made, ``revision`` is the model's commit or a hash of its
    weights, and ``texts`` a hash of the texts that it was fitted to, empty without any.

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

    def __post_init__(self) -> None:
        kept = self.direction.detach().to("cpu", torch.float32).clone().contiguous()
        if kept.ndim != 1 or not kept.numel() or not kept.isfinite().all():
            raise ValueError(f"{self.name}: shape {tuple(kept.shape)}; pass one vector of finite numbers")
        object.__setattr__(self, "direction", kept)

    @property
    def norm(self) -> float:
        """The Euclidean length."""
        return float(self.direction.double().norm())

    def unit(self) -> "SteeringVector":
        """The same direction with norm one, which is how the paper uses its RepE vectors; a ValueError for zero."""
        if not self.norm:
            raise ValueError(f"{self.name} is zero and has no direction")
        return replace(self, direction=self.direction.double() / self.norm)

    def cosine(self, other: "SteeringVector") -> float:
        """The cosine of the angle to another vector of the same site and model; a ValueError if one is zero."""
        self.check_fits(other)
        return float(self.unit().direction.double() @ other.unit().direction.double())

    def projection(self, activations: ArrayLike) -> NDArray[np.float64]:
        """How far activations of shape ``(..., d_model)`` lie along the direction; a ValueError for another width."""
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
        """Read a file of one vector; a DataError where it cannot be read, or holds several."""
        vectors = load_vectors(path)
        if len(vectors) != 1:
            raise DataError(f"{path}: holds {len(vectors)} vectors; read them with load_vectors")
        return vectors[0]

    def header(self) -> dict[str, Any]:
        """Everything but the numbers, as plain values."""
        about = {name: getattr(self, name) for name in ("name", "method", "model", "revision", "texts")}
        return {"site": str(self.site)} | about | {"norm": self.norm}

    def check_fits(self, other: "SteeringVector") -> None:
        """Refuse a vector of another site, model, revision or width by a ValueError."""
        for what in ("site", "model", "revision"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise ValueError(f"{self.name} and {other.name} differ in {what}: {mine} and {theirs}")
        mine, theirs = len(self.direction), len(other.direction)
        if mine != theirs:
            raise ValueError(f"{self.name} and {other.name} have {mine} and {theirs} coordinates")

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

    def _identity(self) -> tuple[Any, ...]:
        return (self.direction.numpy().tobytes(), *self.header().values())


def texts_hash(texts: Iterable[str]) -> str:
    """A hash of some texts in their order."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:12]


def save_vectors(vectors: Sequence[SteeringVector], path: Path) -> None:
    """Write vectors to one safetensors file, whose tensors are named ``"0"``, ``"1"`` and so on.

    A ValueError without any, a DataError where the file cannot be written.
    """
    if not vectors:
        raise ValueError("there is no vector to save")
    header = {"format": _FORMAT, "layer_indexing": _INDEXING, "vectors": [vector.header() for vector in vectors]}
    # One entry, since safetensors writes several in a random order, and the same vectors shall be the same bytes.
    tensors = {str(number): vector.direction for number, vector in enumerate(vectors)}
    with whole(path) as partial:
        save_file(tensors, partial, {_KEY: json.dumps(header)})


def load_vectors(path: Path) -> list[SteeringVector]:
    """Read a file that :func:`save_vectors` wrote; a DataError where it is missing, broken or of another form."""
    place = f"{path}: cannot be read as steering vectors"
    try:
        with safe_open(path, "pt") as file:
            header = parse(_Header, parse_json((file.metadata() or {}).get(_KEY, "{}"), place), place)
            tensors = [file.get_tensor(str(number)) for number in range(len(header.vectors))]
        if not tensors:
            raise DataError(f"{path}: holds no vector; write it again with save_vectors")
        entries = [entry.model_dump(exclude={"site", "norm", "operation"}) for entry in header.vectors]
        sites = [Site.parse(entry.site) for entry in header.vectors]
        return [SteeringVector(*read, **about) for *read, about in zip(tensors, sites, entries, strict=True)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; save vectors with save_vectors") from None
    except DataError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{place} ({cut(str(error))})") from None
