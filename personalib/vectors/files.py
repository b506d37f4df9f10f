"""Files of directions: those of other tools read as steering vectors, and ours written for other tools.

No file can run code. What the numbers of each form mean stands in :mod:`personalib.vectors.forms`.
"""

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors import SafetensorError, safe_open

from personalib.base.data import DataError, choose
from personalib.base.provenance import file_hash
from personalib.base.storage import whole
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.vectors import forms
from personalib.vectors.forms import UNKNOWN, Contents, Row, Rows
from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors

FORMS = ("personalib", "gguf", "persona-vectors", "steering-vectors", "axbench", "safetensors")
# What the forms do not say themselves.
_TAKES = {"axbench": ("site", "concepts"), "safetensors": ("site", "rows")}
_OURS = "steering_vectors"
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.F64)
_LAYER = re.compile(r"0|[1-9][0-9]{0,5}")
_CODE = (
    "it holds Python objects, and loading them would run whatever code they name; where you trust it, load it with the "
    "tool that wrote it and keep its tensors alone, such as "
    "torch.save({'layer_activations': v.layer_activations, 'layer_type': v.layer_type}, path) of a steering-vectors "
    "object, or safetensors.torch.save_file"
)
# What the readers raise at a file that is cut short or of another kind.
_BROKEN = (
    OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, EOFError, OverflowError, SafetensorError
)  # fmt: skip
_WRITERS: dict[str, Callable[[Sequence[SteeringVector], Path, LanguageModel | None], None]] = {
    "personalib": lambda vectors, path, _: save_vectors(vectors, path),
    "gguf": forms.to_gguf,
    "persona-vectors": forms.to_persona_vectors,
    "steering-vectors": forms.to_steering_vectors,
    "safetensors": forms.to_named_tensors,
}
WRITTEN_FORMS = tuple(_WRITERS)


def form_of(path: Path, concepts: Path | None = None) -> str:
    """The form of a file, one of ``FORMS``, by what it holds; a DataError where it is missing, empty or refused.

    A matrix of ``torch.save`` does not say what its rows are. It is taken for AxBench's where its concepts are given or
    lie beside it, or it is named ``weight.pt`` or ``…_weight.pt`` as there; and else for persona-vectors'.
    """
    kind = container(path)
    if kind != "pickle":
        return kind
    if not isinstance(_unpickled(path), torch.Tensor):
        return "steering-vectors"
    weights = path.stem == "weight" or path.stem.endswith("_weight")
    return "axbench" if concepts or weights or forms.concepts_of(path) else "persona-vectors"


def read_directions(
    path: Path,
    form: str = "auto",
    *,
    language_model: LanguageModel | None = None,
    site: Site | None = None,
    concepts: Path | None = None,
    rows: Rows = "blocks",
) -> list[SteeringVector]:
    """Read directions of any form as steering vectors, whose ``method`` records the file, its hash and its form.

    The form is one of ``FORMS``, or ``"auto"`` to tell it by what the file holds. Width and blocks of a model are
    checked, and its name goes into the vectors. The ``site`` is where AxBench's directions, or single named tensors,
    belong, and ``concepts`` is AxBench's ``metadata.jsonl`` where it is not beside or in ``../generate``. Row N of a
    named tensor is resid_post.N (``"blocks"``), or as in persona-vectors (``"hidden_states"``).

    Raises:
        DataError: the file is missing, empty, refused, not of this form, or not of this model.
        ValueError: the form does not take what was given.
    """
    choose(form, ("auto", *FORMS), "form")
    kind = container(path)
    form = form_of(path, concepts) if form == "auto" else form
    # A file of ours is safetensors too, but without sites in its names.
    if kind != (form if form in ("personalib", "gguf", "safetensors") else "pickle"):
        raise DataError(f"{path}: is {kind} and not {form}; leave the form out, or name the right one")
    _check_choices(form, site, concepts, rows)
    if form == "personalib":
        vectors = load_vectors(path)
        _check_fits(path, [(vector.site, len(vector.direction)) for vector in vectors], language_model)
        return vectors
    if form == "gguf":
        contents = _control_vector(path)
    elif form == "persona-vectors":
        contents = forms.from_persona_vectors(path, _unpickled(path), language_model)
    elif form == "steering-vectors":
        contents = forms.from_steering_vectors(path, _unpickled(path))
    elif form == "axbench":
        contents = forms.from_axbench(path, _unpickled(path), site, concepts)
    else:
        with _readable(path, "safetensors"), safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        contents = forms.from_named_tensors(path, tensors, language_model, site, rows)
    return _vectors(path, form, contents, language_model)


def write_directions(
    vectors: Sequence[SteeringVector], path: Path, form: str, language_model: LanguageModel | None = None
) -> None:
    """Write steering vectors to one file of a form, one of ``WRITTEN_FORMS``.

    Only ``"personalib"`` keeps everything about them. ``"gguf"``, ``"persona-vectors"`` and ``"steering-vectors"`` hold
    one thing at several sites, so one name; ``"safetensors"`` names each tensor ``NAME.SITE``. A model is checked
    against, and its blocks are counted. A ValueError where the form cannot hold these vectors, a DataError where the
    file cannot be written or the vectors are not of this model.
    """
    choose(form, WRITTEN_FORMS, "form to write")
    if not vectors:
        raise ValueError("there is no vector to write")
    _check_fits(path, [(vector.site, len(vector.direction)) for vector in vectors], language_model)
    with whole(path) as partial:
        _WRITERS[form](vectors, partial, language_model)


def container(path: Path) -> str:
    """What a file is by its first bytes: ``"gguf"``, ``"personalib"``, ``"safetensors"`` or ``"pickle"``."""
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
        with _readable(path, "safetensors"), safe_open(path, "pt") as file:
            return "personalib" if _OURS in (file.metadata() or {}) else "safetensors"
    return "pickle"


def _check_choices(form: str, site: Site | None, concepts: Path | None, rows: Rows) -> None:
    """Notice what would be left unused in silence."""
    choose(rows, get_args(Rows), "rows")
    given = {"site": site, "concepts": concepts, "rows": rows != "blocks"}
    if unused := [name for name, value in given.items() if value and name not in _TAKES.get(form, ())]:
        raise ValueError(f"{form} takes no {unused[0]}; leave it out, or name the form that the file is of")


def _unpickled(path: Path) -> Any:
    """A tensor, or containers of tensors and plain values; anything else is refused before it can run."""
    try:
        # A pickle of another tool than torch is told of by a warning, before the error that refuses it.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(f"{path}: is refused: no pickle of bare tensors. If {_CODE}") from None
    # A damaged pickle is a random program: what its end raises cannot be listed, down to AssertionError.
    except Exception as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as GGUF, safetensors or a file of torch.save ({reason}); fetch or write it again"
        ) from None


def _control_vector(path: Path) -> Contents:
    """A control vector of llama.cpp or repeng: GGUF tensors ``direction.N``, where N is ``resid_post.N``.

    Both add ``direction.N`` to what block N leaves, with blocks counted from 0; llama.cpp refuses N = 0, which repeng
    may write. llama.cpp's own ``cvector-generator`` fits ``direction.N`` to what block N-1 leaves, one block before
    the place where llama.cpp adds it; the site is where it is added.
    """
    with _readable(path, "GGUF"):
        reader = GGUFReader(path)
        fields = (reader.get_field(key) for key in ("general.architecture", "controlvector.model_hint"))
        kind, hint = (field.contents() if field else "" for field in fields)
    if kind != "controlvector":
        raise DataError(f"{path}: holds {kind or 'no architecture'} and no control vector; name one, not a model")
    rows = []
    for tensor in reader.tensors:
        start, _, number = tensor.name.partition(".")
        if start != "direction" or not _LAYER.fullmatch(number) or tensor.tensor_type not in _FLOATS:
            kind = tensor.tensor_type.name
            raise DataError(f"{path}: tensor {tensor.name} of {kind}; write direction.N as F32, with N counted from 0")
        # A copy: the reader's arrays are the file itself, read-only and in its order of bytes, of which torch has one.
        values = torch.from_numpy(np.array(tensor.data, tensor.data.dtype.newbyteorder("=")))
        rows.append(Row(path.stem, Site(int(number)), values))
    model = hint if hint and isinstance(hint, str) else UNKNOWN
    return Contents(sorted(rows, key=lambda row: row.site), f"direction.N, {forms.BLOCKS}", model)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be read as {kind} ({error}); fetch or write it again") from None


def _vectors(path: Path, form: str, contents: Contents, language_model: LanguageModel | None) -> list[SteeringVector]:
    """The rows of a file as vectors that record where they come from."""
    rows, convention, name = contents
    if not rows:
        raise DataError(f"{path}: holds no direction; fetch or write it again")
    for row in rows:
        place, shape = f"{path}: {row.name} at {row.site}", rows[0].values.shape
        if row.values.ndim != 1 or not row.values.numel():
            raise DataError(f"{place} has shape {tuple(row.values.shape)}; give each layer one vector (d_model,)")
        if row.values.shape != shape:
            raise DataError(f"{place} has {len(row.values)} coordinates, others {shape[0]}; keep one model's in a file")
        # As float32, which they become: torch tells it of no smaller than 16 bits, and 64 may be too large.
        if not row.values.float().isfinite().all():
            raise DataError(f"{place} holds numbers that are not finite as float32; make the direction again")
    _check_fits(path, [(row.site, len(row.values)) for row in rows], language_model)
    revision = UNKNOWN
    if language_model:
        name, revision = language_model.name, language_model.revision or language_model.digest()
    method = f"read from {path.name} ({form}, sha256 {file_hash(path)[:12]}): {convention}"
    return [SteeringVector(row.values, row.site, row.name, method, name, revision) for row in rows]


def _check_fits(path: Path, places: list[tuple[Site, int]], language_model: LanguageModel | None) -> None:
    """Notice directions of another model, by site and width of each."""
    if not language_model:
        return
    width, depth = language_model.model.config.get_text_config().hidden_size, len(blocks(language_model.model))
    for site, coordinates in places:
        if coordinates != width or site.layer >= depth:
            raise DataError(
                f"{path}: {coordinates} coordinates at {site}, and {language_model.name} has {width} and blocks 0 to "
                f"{depth - 1}; name the model that it was made for"
            )
