"""What of a model is on this machine already, in the cache of the Hugging Face hub."""

import json
from enum import StrEnum
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from personalib.registry import Entry
from personalib.saes import release_files

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Presence(StrEnum):
    """How much of a model is there."""

    WHOLE = "here"
    PART = "in part"
    NONE = "not here"


def model_presence(entry: Entry) -> Presence:
    """Whether a model's configuration, tokenizer and weights are on this machine, at the commit of its entry."""
    if entry.hub is None or Path(entry.hub).is_dir():
        return Presence.WHOLE
    weights = _cached(entry, _WEIGHTS)
    index = _cached(entry, _INDEX)
    files: list[Path | None] = [weights] if weights else []
    if not weights and index:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [_cached(entry, name) for name in names]
    parts = [*files, _cached(entry, "config.json"), _cached(entry, "tokenizer_config.json")]
    if files and all(parts):
        return Presence.WHOLE
    return Presence.PART if any(parts) else Presence.NONE


def sae_presence(release: str, sae_id: str) -> Presence:
    """Whether an SAE of a release of the hub is on this machine."""
    repository, names = release_files(release, sae_id)
    found = any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
    return Presence.WHOLE if found else Presence.NONE


def _cached(entry: Entry, name: str) -> Path | None:
    assert entry.hub is not None
    found = try_to_load_from_cache(entry.hub, name, revision=entry.revision)
    return Path(found) if isinstance(found, str) else None
