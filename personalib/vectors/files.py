"""Files of directions: those of other tools read as steering vectors, and ours written for other tools."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from personalib.base.data import DataError
from personalib.base.storage import whole
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.vectors.axbench import concepts_of, read_axbench
from personalib.vectors.contents import container, unpickled
from personalib.vectors.file_writers import (
    write_gguf,
    write_named_tensors,
    write_persona_vectors,
    write_steering_vectors,
)
from personalib.vectors.forms import (
    Rows,
    read_gguf,
    read_named_tensors,
    read_persona_vectors,
    read_steering_vectors,
)
from personalib.vectors.origin import check_fits
from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors

FORMS = ("personalib", "gguf", "persona-vectors", "steering-vectors", "axbench", "safetensors")


def form_of(path: Path, concepts: Path | None = None) -> str:
    """The form of a file, one of ``FORMS``, by what it holds.

    A matrix of ``torch.save`` does not say what its rows are. It is taken for AxBench's where its concepts are given or
    lie beside it, or it is named ``weight.pt`` or ``…_weight.pt`` as there; and else for persona-vectors'.

    Args:
        path: the file.
        concepts: the ``metadata.jsonl`` of AxBench, where one belongs to it.

    Raises:
        DataError: it is missing, empty, refused or of no known form.
    """
    kind = container(path)
    if kind != "pickle":
        return kind
    content = unpickled(path)
    if not isinstance(content, torch.Tensor):
        return "steering-vectors"
    weights = path.stem == "weight" or path.stem.endswith("_weight")
    return "axbench" if concepts or weights or concepts_of(path) else "persona-vectors"


def read_directions(
    path: Path,
    form: str = "auto",
    *,
    language_model: LanguageModel | None = None,
    site: Site | None = None,
    concepts: Path | None = None,
    rows: Rows = "blocks",
) -> list[SteeringVector]:
    """Read directions of any form as steering vectors.

    No file can run code: pickles are opened for bare tensors only.

    Args:
        path: the file.
        form: one of ``FORMS``, or ``"auto"`` to tell it by what the file holds.
        language_model: the model that they are for; its width and blocks are checked, and its name goes into them.
        site: see :func:`read_axbench` and :func:`read_named_tensors`; the other forms tell it themselves.
        concepts: see :func:`read_axbench`.
        rows: see :func:`read_named_tensors`.

    Raises:
        DataError: the file is missing, empty, refused, not of this form, or not of this model.
        ValueError: there is no such form, or it does not take what was given.

    Example:
        >>> read_directions(Path("evil_response_avg_diff.pt"))[5].method  # doctest: +SKIP
        'read from evil_response_avg_diff.pt (persona-vectors, sha256 9f2c…): row N is hidden state N of …'
    """
    if form not in ("auto", *FORMS):
        raise ValueError(f"unknown form {form!r}; there is auto, {', '.join(FORMS)}")
    kind, found = container(path), form_of(path, concepts) if form == "auto" else form
    expected = found if found in ("personalib", "gguf", "safetensors") else "pickle"
    # A file of ours is safetensors too, but without sites in its names.
    if kind != expected:
        raise DataError(f"{path}: is {kind} and not {found}; leave the form out, or name the right one")
    _check_choices(found, site, concepts, rows)
    if found == "axbench":
        return read_axbench(path, language_model, site=site, concepts=concepts)
    if found == "safetensors":
        return read_named_tensors(path, language_model, site=site, rows=rows)
    return _PLAIN[found](path, language_model)


def write_directions(
    vectors: Sequence[SteeringVector], path: Path, form: str, language_model: LanguageModel | None = None
) -> None:
    """Write steering vectors to one file of a form.

    Only ``"personalib"`` keeps everything about them. ``"gguf"``, ``"persona-vectors"`` and ``"steering-vectors"`` hold
    one thing at several sites, so one name; ``"safetensors"`` names each tensor ``NAME.SITE``.

    Args:
        vectors: the vectors.
        path: the file.
        form: one of ``WRITTEN_FORMS``.
        language_model: their model, to check against and to count its blocks.

    Raises:
        ValueError: there is no such form, or it cannot hold these vectors.
        DataError: there is no such folder, the file cannot be written, or the vectors are not of this model.

    Example:
        >>> write_directions(load_vectors(Path("trust.safetensors")), Path("trust.gguf"), "gguf")  # doctest: +SKIP
    """
    if form not in WRITTEN_FORMS:
        raise ValueError(f"unknown form {form!r}; what can be written is {', '.join(WRITTEN_FORMS)}")
    if not vectors:
        raise ValueError("there is no vector to write")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}; make it first")
    if language_model:
        check_fits(path, [(one.site, len(one.direction)) for one in vectors], language_model)
    with whole(path) as partial:
        _WRITERS[form](vectors, partial, language_model)


def _check_choices(form: str, site: Site | None, concepts: Path | None, rows: Rows) -> None:
    """Notice what would be left unused in silence."""
    if site and form not in ("axbench", "safetensors"):
        raise ValueError(f"{form} tells the site of each direction itself; leave the site out")
    if concepts and form != "axbench":
        raise ValueError(f"{form} has no file of concepts; leave it out, or read the file as axbench")
    if rows not in ("blocks", "hidden_states"):
        raise ValueError(f"unknown rows {rows!r}; there is blocks, hidden_states")
    if rows != "blocks" and form != "safetensors":
        raise ValueError(f"{form} says itself what its rows are; leave rows out")


def _read_own(path: Path, language_model: LanguageModel | None) -> list[SteeringVector]:
    found = load_vectors(path)
    if language_model:
        check_fits(path, [(one.site, len(one.direction)) for one in found], language_model)
    return found


def _write_own(vectors: Sequence[SteeringVector], path: Path, _: LanguageModel | None) -> None:
    save_vectors(vectors, path)


# The forms that say themselves what their numbers mean, and how each form is written.
_PLAIN: dict[str, Callable[[Path, LanguageModel | None], list[SteeringVector]]] = {
    "personalib": _read_own,
    "gguf": read_gguf,
    "persona-vectors": read_persona_vectors,
    "steering-vectors": read_steering_vectors,
}
_WRITERS: dict[str, Callable[[Sequence[SteeringVector], Path, LanguageModel | None], None]] = {
    "personalib": _write_own,
    "gguf": write_gguf,
    "persona-vectors": write_persona_vectors,
    "steering-vectors": write_steering_vectors,
    "safetensors": write_named_tensors,
}
WRITTEN_FORMS = tuple(_WRITERS)
