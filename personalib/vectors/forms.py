"""Directions of other tools as steering vectors, one function a form.

Each form counts layers its own way. Ours: blocks from 0, ``resid_pre.N`` is what block N reads and ``resid_post.N``
what it leaves. Every vector's ``method`` records the file, its hash, the form, and what its numbers were taken to mean.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from personalib.base.data import DataError
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.vectors.contents import control_vector, matrix, named_tensors, numbers, unpickled
from personalib.vectors.origin import UNKNOWN, Origin, Row
from personalib.vectors.vector import SteeringVector

Rows = Literal["blocks", "hidden_states"]
_BLOCKS = "layer N is resid_post.N"
_HIDDEN = (
    "row N is hidden state N of transformers: resid_pre.0, then resid_post.(N-1), the last read after the final norm"
)
_PLACE = re.compile(r"(?:(?P<name>.+)\.)?(?P<site>resid_(?:pre|post)\.[0-9]+)", re.DOTALL)


def read_persona_vectors(path: Path, language_model: LanguageModel | None = None) -> list[SteeringVector]:
    """Read a ``.pt`` file of persona-vectors: a tensor of shape ``(layers + 1, d_model)``, a row a hidden state.

    Row 0 is the embeddings, ``resid_pre.0``, and row N is ``resid_post.(N-1)``, where that tool adds it. Transformers
    gives the last hidden state after the final norm, so the last row was read in another space than it is added to.

    Raises:
        DataError: it is no such tensor, or not of this model.

    Source:
        Chen et al., *Persona Vectors* (arXiv 2507.21509), and its code: ``generate_vec.py``, ``activation_steer.py``.

    Example:
        >>> read_persona_vectors(Path("evil_response_avg_diff.pt"))[5].site  # doctest: +SKIP
        Site(layer=4, stream='resid_post')
    """
    values = matrix(path, unpickled(path))
    if len(values) < 2:
        raise DataError(
            f"{path}: one row is no stack of hidden states; save it as safetensors, and pass its site there"
        )
    rows = list(_stacked(path, path.stem, values, "hidden_states", language_model))
    return Origin(path, "persona-vectors", _HIDDEN).vectors(rows, language_model)


def read_gguf(path: Path, language_model: LanguageModel | None = None) -> list[SteeringVector]:
    """Read a control vector of llama.cpp or repeng: GGUF tensors ``direction.N``, where N is ``resid_post.N``.

    Both add ``direction.N`` to what block N leaves, with blocks counted from 0; llama.cpp refuses N = 0, which repeng
    may write. llama.cpp's own ``cvector-generator`` fits ``direction.N`` to what block N-1 leaves, one block before
    the place where llama.cpp adds it; the site is where it is added.

    Raises:
        DataError: it is no control vector, or not of this model.

    Example:
        >>> [str(one.site) for one in read_gguf(Path("happy.gguf"))]  # doctest: +SKIP
        ['resid_post.1', 'resid_post.2']
    """
    found = control_vector(path)
    rows = [Row(path.stem, Site(number), values) for number, values in sorted(found.directions.items())]
    return Origin(path, "gguf", f"direction.N, {_BLOCKS}", found.hint or UNKNOWN).vectors(rows, language_model)


def read_steering_vectors(path: Path, language_model: LanguageModel | None = None) -> list[SteeringVector]:
    """Read what a user of the package steering-vectors saved: ``layer_activations``, a vector of each layer's number.

    The file holds that mapping by itself, or with ``layer_type`` beside it. Layer N is ``resid_post.N``. The package
    has no file form, and a pickle of its object is refused: the error says how to save its tensors.

    Raises:
        DataError: it is no such mapping, of other parts than whole blocks, or not of this model.
    """
    rows = [Row(path.stem, Site(number), values) for number, values in _layers(path, unpickled(path)).items()]
    return Origin(path, "steering-vectors", _BLOCKS).vectors(rows, language_model)


def read_named_tensors(
    path: Path,
    language_model: LanguageModel | None = None,
    *,
    site: Site | None = None,
    rows: Rows = "blocks",
) -> list[SteeringVector]:
    """Read a safetensors file of named tensors, each of shape ``(d_model,)`` or ``(layers, d_model)``.

    Args:
        path: the file.
        language_model: the model, to check against.
        site: where single vectors belong, of shape ``(d_model,)`` or ``(1, d_model)``, unless their name ends in a
            site, as ``trust.resid_post.3`` does. A tensor of several rows has layers in them, and takes no site.
        rows: what row N of several is: ``"blocks"``, ``resid_post.N``; or ``"hidden_states"``, as persona-vectors has.

    Raises:
        DataError: a tensor is no direction, has no site or several rows and a site, or it is not of this model.
    """
    found: list[Row] = []
    for name, values in named_tensors(path).items():
        checked = numbers(path, name, values)
        if checked.ndim == 2 and len(checked) > 1:
            _check_no_site(path, name, len(checked), site)
            found += _stacked(path, name, checked, rows, language_model)
        else:
            # A vector may be kept as a batch of one, which is no stack of layers.
            found.append(_single(path, name, checked.squeeze(0), site))
    convention = f"names and {site or 'no other site'}; of several rows " + (_BLOCKS if rows == "blocks" else _HIDDEN)
    return Origin(path, "safetensors", convention).vectors(found, language_model)


def _single(path: Path, name: str, values: torch.Tensor, site: Site | None) -> Row:
    """A tensor that is one direction, at the site in its name or else at the given one."""
    if stated := _PLACE.fullmatch(name):
        return Row(stated["name"] or path.stem, Site.parse(stated["site"]), values)
    if site is None:
        raise DataError(f"{path}: nothing tells the site of {name}; pass a site, such as resid_post.3")
    return Row(name or path.stem, site, values)


def _check_no_site(path: Path, name: str, rows: int, site: Site | None) -> None:
    """Notice a site that rows of several layers would leave unused."""
    stated = _PLACE.fullmatch(name)
    if stated or site:
        place, where = (stated["site"], "its name") if stated else (site, "the call")
        raise DataError(
            f"{path}: {name} has {rows} rows, which are layers and not all at {place}; leave the site out of {where}, "
            "or save the one row"
        )


def _stacked(
    path: Path, name: str, values: torch.Tensor, rows: Rows, language_model: LanguageModel | None
) -> Iterator[Row]:
    """A row a layer."""
    after = rows == "hidden_states"
    if language_model:
        expected = len(blocks(language_model.model)) + after
        if len(values) != expected:
            raise DataError(f"{path}: {name} has {len(values)} rows; as {rows}, {language_model.name} has {expected}")
    for number, own in enumerate(values):
        yield Row(name, Site(number - after) if number >= after else Site(0, "resid_pre"), own)


def _layers(path: Path, content: Any) -> dict[int, torch.Tensor]:
    """The vectors of a mapping of layers, in order."""
    inner = content.get("layer_activations", content) if isinstance(content, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(type(key) is int and key >= 0 for key in inner):
        raise DataError(f"{path}: holds no mapping of layers, counted from 0, to vectors; save layer_activations")
    if content.get("layer_type", "decoder_block") != "decoder_block":
        raise DataError(f"{path}: is of {content['layer_type']}; only decoder_block is the residual stream")
    # Some methods keep a batch of one.
    return {key: numbers(path, f"layer {key}", inner[key]).squeeze(0) for key in sorted(inner)}
