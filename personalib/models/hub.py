"""What of a model is on this machine already, in the cache of the Hugging Face hub."""

import json
from enum import StrEnum
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from personalib.base.data import DataError
from personalib.models.registry import Entry

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# One of them is enough for transformers to have a tokenizer, and which of them a model has depends on its kind.
_TOKENIZERS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


class Presence(StrEnum):
    """How much of a model is there."""

    WHOLE = "here"
    PART = "in part"
    NONE = "not here"


def model_presence(entry: Entry) -> Presence:
    """Whether a model's configuration, tokenizer and weights are on this machine, at the commit of its entry.

    A name that is that of no folder, and cannot be one of the hub either, is a DataError.
    """
    if entry.hub is None or Path(entry.hub).is_dir():
        return Presence.WHOLE
    weights = _cached(entry, _WEIGHTS)
    index = _cached(entry, _INDEX)
    files: list[Path | None] = [weights] if weights else []
    if not weights and index:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [_cached(entry, name) for name in names]
    tokenizer = next(filter(None, (_cached(entry, name) for name in _TOKENIZERS)), None)
    parts = [*files, _cached(entry, "config.json"), tokenizer]
    if files and all(parts):
        return Presence.WHOLE
    return Presence.PART if any(parts) else Presence.NONE


def how_to_have(entry: Entry) -> str:
    """What to do to have a model here: to fetch it, unless what was fetched are weights that are not read."""
    pickles = [name for name in _PICKLES if _cached(entry, name)]
    if pickles and not _cached(entry, _WEIGHTS) and not _cached(entry, _INDEX):
        return (
            f"it has no safetensors, only {pickles[0]}, which is not read since it may hold code; if {entry.hub} has "
            "none on the hub either, write it as safetensors into a folder (save_pretrained), and pass the folder"
        )
    return entry.fetching()


def _cached(entry: Entry, name: str) -> Path | None:
    assert entry.hub is not None
    try:
        found = try_to_load_from_cache(entry.hub, name, revision=entry.revision)
    except HFValidationError:
        raise DataError(
            f"{entry.hub}: no such folder, and no name of the hub or of the table (`python -m personalib models`)"
        ) from None
    return Path(found) if isinstance(found, str) else None
