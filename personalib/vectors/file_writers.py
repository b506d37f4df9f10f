"""Steering vectors written as other tools read them, one function a form."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from personalib.models.load import LanguageModel
from personalib.models.parts import blocks
from personalib.vectors.vector import SteeringVector, export_gguf

# The first block whose output a form has a place for; the other forms hold every site.
_FIRST_BLOCK = {"gguf": 1, "steering-vectors": 0}


def placed(vectors: Sequence[SteeringVector], form: str) -> list[SteeringVector]:
    """Those of some vectors that a form has a place for.

    llama.cpp adds nothing at block 0, and steering-vectors nothing before it, where persona-vectors has the embeddings.
    """
    first = _FIRST_BLOCK.get(form)
    return [one for one in vectors if first is None or _block(one) >= first]


def write_gguf(vectors: Sequence[SteeringVector], path: Path, language_model: LanguageModel | None = None) -> None:
    """Write a control vector of llama.cpp and repeng; see :func:`personalib.vectors.vector.export_gguf`.

    Without a model, the kind of model that the file names is the vectors' own model, and no block counts as missing.

    Raises:
        ValueError: the vectors are not one thing at several sites, or one stands at block 0, which llama.cpp refuses.
    """
    _check_one_thing(vectors)
    depth, kind = 1 + max(one.site.layer for one in vectors), vectors[0].model
    if language_model:
        depth, kind = len(blocks(language_model.model)), language_model.model.config.model_type
    export_gguf(vectors, path, kind, depth)


def write_persona_vectors(
    vectors: Sequence[SteeringVector], path: Path, language_model: LanguageModel | None = None
) -> None:
    """Write a tensor of shape ``(layers + 1, d_model)`` as persona-vectors has it, to a file of ``torch.save``.

    Row 0, the embeddings, is zero where no vector stands at ``resid_pre.0``: that tool never adds it. Ours at the last
    block is as it was read, before the final norm; that tool's own is read after it, but added at the same place.

    Args:
        vectors: one at each block.
        path: the file.
        language_model: the model; without it, the last block that has a vector counts as the last.

    Raises:
        ValueError: the vectors are not one thing at several sites, or a block has none.
    """
    _check_one_thing(vectors)
    found = {_block(one) + 1: one.direction for one in vectors}
    depth = len(blocks(language_model.model)) if language_model else max(found)
    missing = [number - 1 for number in range(1, depth + 1) if number not in found]
    if missing or not depth:
        raise ValueError(
            f"{vectors[0].name}: no vector at the output of blocks {missing or [0]}, and persona-vectors has them all: "
            "fit those too, or write another form"
        )
    found.setdefault(0, torch.zeros_like(vectors[0].direction))
    _save(torch.stack([found[number] for number in range(depth + 1)]), path)


def write_steering_vectors(vectors: Sequence[SteeringVector], path: Path, _: LanguageModel | None = None) -> None:
    """Write the two fields of a ``SteeringVector`` of the package steering-vectors to a file of ``torch.save``.

    There, ``SteeringVector(**torch.load(path, weights_only=True))`` is the vector.

    Raises:
        ValueError: the vectors are not one thing at several sites, or one stands before the first block.
    """
    _check_one_thing(vectors)
    found = {_block(one): one.direction for one in vectors}
    if min(found) < 0:
        raise ValueError(f"{vectors[0].name}: resid_pre.0 is no block's output; leave that vector out")
    _save({"layer_activations": dict(sorted(found.items())), "layer_type": "decoder_block"}, path)


def write_named_tensors(vectors: Sequence[SteeringVector], path: Path, _: LanguageModel | None = None) -> None:
    """Write a safetensors file with a tensor ``NAME.SITE`` a vector.

    Raises:
        ValueError: two have one name and site.
    """
    found = {f"{one.name}.{one.site}": one.direction for one in vectors}
    if len(found) < len(vectors):
        raise ValueError("two vectors have one name and site; give them different names, or write them apart")
    save_file(found, path)


def _save(content: Any, path: Path) -> None:
    """By way of memory: torch does not say that a disk is full."""
    buffer = BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _check_one_thing(vectors: Sequence[SteeringVector]) -> None:
    """Notice vectors that a form without names would mix up."""
    first = vectors[0]
    names = sorted({one.name for one in vectors})
    if len(names) > 1:
        raise ValueError(f"a file of this form holds one direction, not {', '.join(names)}; write a file for each")
    for one in vectors[1:]:
        replace(one, site=first.site).check_fits(first)
    if len({_block(one) for one in vectors}) < len(vectors):
        raise ValueError(f"{first.name}: two vectors at one place; resid_pre.N is resid_post.(N-1), so keep one")


def _block(vector: SteeringVector) -> int:
    """The block whose output a vector's site is; -1 before the first. ``resid_pre.N`` is ``resid_post.(N-1)``."""
    return vector.site.layer - (vector.site.stream == "resid_pre")
