"""The forms in which tools keep directions: what a file of each says, and what is written for it, one function a form.

Each form counts layers its own way. Ours: blocks from 0, ``resid_pre.N`` is what block N reads and ``resid_post.N``
what it leaves.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from gguf import GGUFWriter
from pydantic import BaseModel, NonNegativeInt
from safetensors.torch import save_file

from personalib.base.data import DataError, parse, parse_json, read_json, read_text
from personalib.models.load import LanguageModel
from personalib.models.parts import Site, blocks
from personalib.vectors.vector import SteeringVector

Rows = Literal["blocks", "hidden_states"]
UNKNOWN = "unknown"
BLOCKS = "layer N is resid_post.N"
_HIDDEN = (
    "row N is hidden state N of transformers: resid_pre.0, then resid_post.(N-1), the last read after the final norm"
)
_PLACE = re.compile(r"(?:(?P<name>.+)\.)?(?P<site>resid_(?:pre|post)\.[0-9]+)", re.DOTALL)
# The first block whose output a form has a place for, where llama.cpp and steering-vectors add; others hold every site.
_FIRST_BLOCK = {"gguf": 1, "steering-vectors": 0}


class Row(NamedTuple):
    """A direction as it stands in a file."""

    name: str
    site: Site
    values: torch.Tensor


class Contents(NamedTuple):
    """The directions of a file, what its numbers of layers were taken to mean, and the model that it names."""

    rows: list[Row]
    convention: str
    model: str = UNKNOWN


class _Concept(BaseModel, strict=True):
    concept: str
    concept_id: NonNegativeInt


# Reading


def from_persona_vectors(path: Path, content: Any, language_model: LanguageModel | None) -> Contents:
    """Persona-vectors: a tensor of shape ``(layers + 1, d_model)``, a row a hidden state.

    Row 0 is the embeddings, ``resid_pre.0``, and row N is ``resid_post.(N-1)``, where that tool adds it. Transformers
    gives the last hidden state after the final norm, so the last row was read in another space than it is added to.

    Source:
        Chen et al., *Persona Vectors* (arXiv 2507.21509), and its code: ``generate_vec.py``, ``activation_steer.py``.
    """
    values = _matrix(path, content)
    if len(values) < 2:
        raise DataError(f"{path}: one row is no stack of hidden states; save it as safetensors, and pass its site")
    return Contents(_stacked(path, path.stem, values, "hidden_states", language_model), _HIDDEN)


def from_steering_vectors(path: Path, content: Any) -> Contents:
    """What a user of the package steering-vectors saved: ``layer_activations``, a vector of each layer's number.

    The file holds that mapping by itself, or with ``layer_type`` beside it. Layer N is ``resid_post.N``.
    """
    layers = content.get("layer_activations", content) if isinstance(content, Mapping) else None
    if not isinstance(layers, Mapping) or not layers or not all(type(key) is int and key >= 0 for key in layers):
        raise DataError(f"{path}: holds no mapping of layers, counted from 0, to vectors; save layer_activations")
    if content.get("layer_type", "decoder_block") != "decoder_block":
        raise DataError(f"{path}: is of {content['layer_type']}; only decoder_block is the residual stream")
    # Some methods keep a batch of one.
    vectors = {key: _numbers(path, f"layer {key}", layers[key]).squeeze(0) for key in sorted(layers)}
    return Contents([Row(path.stem, Site(key), values) for key, values in vectors.items()], BLOCKS)


def from_axbench(path: Path, content: Any, site: Site | None, concepts: Path | None) -> Contents:
    """The weights of AxBench's rank-one methods: a tensor of shape ``(concepts, d_model)``, and the files beside it.

    The site is that of the ``layer`` of ``config.json`` unless one is given; names are those of ``metadata.jsonl``.

    Source:
        Wu et al., *AxBench* (arXiv 2501.17148), and its code: weights are added to the output of ``model.layers[N]``.
    """
    values = _matrix(path, content)
    layer, model = trained_on(path.with_name("config.json"))
    place = site or layer
    if place is None:
        raise DataError(f"{path}: no config.json beside it tells its layer; pass a site, such as resid_post.20")
    names = concept_names(concepts or concepts_of(path) or path.with_name("metadata.jsonl"))
    counts = f"{len(values)} rows and {len(names)} concepts"
    if len(names) != len(values):
        raise DataError(f"{path}: {counts}; pass the metadata.jsonl of its training")
    rows = [Row(name, place, row) for name, row in zip(names, values, strict=True)]
    return Contents(rows, f"row N is concept N, at {place}", model)


def from_named_tensors(
    path: Path, content: Mapping[str, torch.Tensor], language_model: LanguageModel | None, site: Site | None, rows: Rows
) -> Contents:
    """Tensors by name, each of shape ``(d_model,)`` or ``(layers, d_model)``.

    Single vectors belong to the site that their name ends in, as ``trust.resid_post.3`` does, or else to the given one.
    A tensor of several rows has layers in them, and takes no site.
    """
    directions: list[Row] = []
    for name, tensor in content.items():
        values, stated = _numbers(path, name, tensor), _PLACE.fullmatch(name)
        place = Site.parse(stated["site"]) if stated else site
        if values.ndim == 2 and len(values) > 1:
            if place:
                raise DataError(
                    f"{path}: {name} has {len(values)} rows, which are layers and not all at {place}; leave the site "
                    f"out of {'its name' if stated else 'the call'}, or save the one row"
                )
            directions += _stacked(path, name, values, rows, language_model)
        elif place is None:
            raise DataError(f"{path}: nothing tells the site of {name}; pass a site, such as resid_post.3")
        else:
            # A vector may be kept as a batch of one, which is no stack of layers.
            directions.append(Row((stated["name"] if stated else name) or path.stem, place, values.squeeze(0)))
    convention = f"names and {site or 'no other site'}; of several rows " + (BLOCKS if rows == "blocks" else _HIDDEN)
    return Contents(directions, convention)


def concepts_of(path: Path) -> Path | None:
    """The ``metadata.jsonl`` of weights of AxBench, beside them or in ``../generate``; None without one."""
    # The folder's place and not the file's: a bare name has no folder above, and a hub's cache keeps links to files.
    above = path.parent.resolve().parent
    places = (path.with_name("metadata.jsonl"), above / "generate" / "metadata.jsonl")
    return next((each for each in places if each.is_file()), None)


def trained_on(path: Path) -> tuple[Site | None, str]:
    """Site and model that AxBench's ``config.json`` names."""
    config = parse(dict[str, Any], read_json(path), str(path)) if path.is_file() else {}
    layer = config.get("layer")
    return (Site(layer) if type(layer) is int and layer >= 0 else None), str(config.get("model_name") or UNKNOWN)


def concept_names(path: Path) -> list[str]:
    """The names of AxBench's concepts in the order of their rows, one JSON object a line.

    Lines without ``concept_id`` are in the order of the rows.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; pass the metadata.jsonl that names the concepts")
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(read_text(path).splitlines(), start=1)]
    concepts = []
    for row, (place, line) in enumerate((place, line) for place, line in lines if line.strip()):
        entry = parse(dict[str, Any], parse_json(line, place), place)
        concepts.append(parse(_Concept, {"concept_id": row} | entry, place))
    names = {concept.concept_id: concept.concept for concept in concepts}
    if sorted(names) != list(range(len(concepts))):
        raise DataError(f"{path}: concept_id does not number the rows from 0; give each row one concept")
    return [names[row] for row in range(len(names))]


def _stacked(
    path: Path, name: str, values: torch.Tensor, rows: Rows, language_model: LanguageModel | None
) -> list[Row]:
    """A direction a layer."""
    before = int(rows == "hidden_states")
    if language_model and len(values) != (expected := len(blocks(language_model.model)) + before):
        raise DataError(f"{path}: {name} has {len(values)} rows; as {rows}, {language_model.name} has {expected}")
    places = [Site(0, "resid_pre")][:before] + [Site(layer) for layer in range(len(values) - before)]
    return [Row(name, place, row) for place, row in zip(places, values, strict=True)]


def _matrix(path: Path, content: Any) -> torch.Tensor:
    values = _numbers(path, "the content", content)
    if values.ndim != 2 or not values.numel():
        shape = tuple(values.shape)
        raise DataError(f"{path}: shape {shape} is not (rows, d_model); a single vector goes into a safetensors file")
    return values


def _numbers(path: Path, name: str, content: Any) -> torch.Tensor:
    """A part of what a file holds, as a dense tensor of floating-point numbers."""
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path}: {name} is a {type(content).__name__} and no tensor; pass the form that it is")
    # Four bits are kept in pairs, which torch cannot take apart.
    plain = content.is_floating_point() and content.dtype != torch.float4_e2m1fn_x2
    if content.layout != torch.strided or not plain or content.is_meta:
        raise DataError(f"{path}: {name} is {content.dtype} on {content.device}; save dense floating-point numbers")
    return content


# Writing


def placed(vectors: Sequence[SteeringVector], form: str) -> list[SteeringVector]:
    """Those of some vectors that a form has a place for (see ``_FIRST_BLOCK``)."""
    first = _FIRST_BLOCK.get(form)
    return [vector for vector in vectors if first is None or _block(vector) >= first]


def to_gguf(vectors: Sequence[SteeringVector], path: Path, language_model: LanguageModel | None) -> None:
    """A control vector of llama.cpp and repeng, which add ``direction.N`` to what block N leaves, for N of at least 1.

    Without a model, the kind of model that the file names is the vectors' own.
    """
    by_block = _by_block(vectors, "gguf")
    kind = language_model.model.config.model_type if language_model else vectors[0].model
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", kind)
    writer.add_uint32("controlvector.layer_count", len(by_block))
    for layer, direction in by_block.items():
        writer.add_tensor(f"direction.{layer}", direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_persona_vectors(vectors: Sequence[SteeringVector], path: Path, language_model: LanguageModel | None) -> None:
    """A tensor of shape ``(layers + 1, d_model)`` as persona-vectors has it, in a file of ``torch.save``.

    Row 0, the embeddings, is zero where no vector stands at ``resid_pre.0``: that tool never adds it. Ours at the last
    block is as it was read, before the final norm; that tool's own is read after it, but added at the same place.
    Without a model, the last block that has a vector counts as the last.
    """
    by_block = _by_block(vectors, "persona-vectors")
    depth = len(blocks(language_model.model)) if language_model else max(by_block) + 1
    missing = [block for block in range(depth) if block not in by_block]
    if missing or not depth:
        raise ValueError(
            f"{vectors[0].name}: no vector at the output of blocks {missing or [0]}, and persona-vectors has them all: "
            "fit those too, or write another form"
        )
    embeddings = by_block.get(-1, torch.zeros_like(vectors[0].direction))
    _save(torch.stack([embeddings, *(by_block[block] for block in range(depth))]), path)


def to_steering_vectors(vectors: Sequence[SteeringVector], path: Path, _: LanguageModel | None) -> None:
    """The two fields of a ``SteeringVector`` of the package steering-vectors, in a file of ``torch.save``.

    There, ``SteeringVector(**torch.load(path, weights_only=True))`` is the vector.
    """
    _save({"layer_activations": _by_block(vectors, "steering-vectors"), "layer_type": "decoder_block"}, path)


def to_named_tensors(vectors: Sequence[SteeringVector], path: Path, _: LanguageModel | None) -> None:
    """A safetensors file with a tensor ``NAME.SITE`` a vector."""
    tensors = {f"{vector.name}.{vector.site}": vector.direction for vector in vectors}
    if len(tensors) < len(vectors):
        raise ValueError("two vectors have one name and site; give them different names, or write them apart")
    save_file(tensors, path)


def _save(content: Any, path: Path) -> None:
    """By way of memory: torch does not say that a disk is full."""
    buffer = BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _by_block(vectors: Sequence[SteeringVector], form: str) -> dict[int, torch.Tensor]:
    """The directions by the block whose output they belong to, in order, if a form without names can hold them all."""
    first = vectors[0]
    names = sorted({vector.name for vector in vectors})
    if len(names) > 1:
        raise ValueError(f"a file of this form holds one direction, not {', '.join(names)}; write a file for each")
    for vector in vectors[1:]:
        replace(vector, site=first.site).check_fits(first)
    kept = placed(vectors, form)
    if homeless := [str(vector.site) for vector in vectors if vector not in kept]:
        missing = f"{form} has no place for {', '.join(homeless)}, since it begins behind block {_FIRST_BLOCK[form]}"
        raise ValueError(f"{first.name}: {missing}; leave those out")
    directions = {_block(vector): vector.direction for vector in sorted(vectors, key=_block)}
    if len(directions) < len(vectors):
        raise ValueError(f"{first.name}: two vectors at one place; resid_pre.N is resid_post.(N-1), so keep one")
    return directions


def _block(vector: SteeringVector) -> int:
    """The block whose output a vector's site is; -1 before the first. ``resid_pre.N`` is ``resid_post.(N-1)``."""
    return vector.site.layer - (vector.site.stream == "resid_pre")
