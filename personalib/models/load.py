"""Language models by name: the organism, one of the table of models, a folder, or any other of the Hugging Face hub.

Weights are read from safetensors only, and no code that comes with them is run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from personalib.base.data import DataError, cut
from personalib.models.chat_templates import settle_template, template_facts
from personalib.models.files import check_files
from personalib.models.loaded import note_loaded
from personalib.models.parts import Parts, check_parts, tell_parts
from personalib.models.placement import AUTO, device_map, is_spread, usual_device
from personalib.models.registry import ORGANISM as ORGANISM
from personalib.models.registry import Entry, find_entry, load_registry

# What transformers raises for files that it cannot read.
_UNREADABLE = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError)


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, the name it was asked for by, and the commit, if it came from the hub."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str | None = None

    @property
    def entry(self) -> Entry:
        """What the table of models knows of it; see :func:`personalib.models.registry.find_entry`."""
        return find_entry(self.name)

    @property
    def form(self) -> str:
        """How it is asked: ``"chat"``, or ``"base"`` for a model that was not instructed or has no chat template."""
        return self.entry.form if self.tokenizer.chat_template else "base"

    def digest(self) -> str:
        """A hash of the weights, for a model without a revision."""
        return weights_digest(self.model)


def weights_digest(module: torch.nn.Module) -> str:
    """A hash of a module's weights: names, number formats, shapes and values.

    Raises:
        DataError: the weights are not on this side, as those of a remote model.
    """
    found = hashlib.sha256()
    for name, value in sorted(_weights(module).items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def _weights(module: torch.nn.Module) -> dict[str, Any]:
    if not any(one.is_meta for one in module.parameters()):
        return module.state_dict()
    if not hasattr(module, "hf_device_map"):
        raise DataError("a remote model has no weights on this side to be known by; name it by its revision")
    # Those behind the GPU are brought by accelerate where they are needed.
    return dict(get_state_dict_offloaded_model(module))


def load_model(
    name: str = ORGANISM,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer, and check that its parts are where they are looked for.

    Args:
        name: ``"organism"``, another name of the table (see :func:`personalib.models.registry.load_registry`), a
            folder, a name on the hub such as ``google/gemma-2b-it``, or a YAML file with an entry of one's own.
        revision: branch, tag or commit on the hub; by default the one of the table.
        device: where to, such as ``"cuda"``; ``"balanced"`` for all GPUs together; ``"device_map"`` for the places of
            its entry; ``"auto"`` for what :func:`personalib.models.placement.usual_device` finds.
        dtype: number format of the weights; by default that of the table, or else the one that they are kept in.

    Raises:
        DataError: there is no such model, it has no safetensors, access to it was not granted, there is no such
            device, its embedding is on disk, some of its weights are in no file, its chat template cannot be used, or
            its parts are not found; see :func:`personalib.models.parts.check_parts`.
    """
    entry = find_entry(name)
    kept = entry.dtype and getattr(torch, entry.dtype)
    device = usual_device(name) if device == AUTO else device
    spread = device_map(entry, device)
    model, tokenizer = _read(entry, name, revision or entry.revision, dtype or kept or "auto", spread)
    if not spread:
        model = _moved(model, device)
    if model.device.type == "meta":
        raise DataError(f"{name}: device_map puts its embedding where nothing is run; give it a device")
    try:
        _answer_plainly(model)
        if entry.parts:
            tell_parts(model, Parts(**entry.parts.model_dump()))
        check_parts(model.eval())
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    found = LanguageModel(name, model, tokenizer, _commit(entry, revision or entry.revision))
    _note(found, template_facts(tokenizer, entry))
    return found


def _moved(model: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        # torch says so with an assertion where it was built without CUDA.
        raise DataError(f"device {device!r}: {str(error).splitlines()[0]}") from None


def _note(loaded: LanguageModel, template: Mapping[str, Any]) -> None:
    """Note what was loaded, with what its chat template is told."""
    model = loaded.model
    facts = {"revision": loaded.revision, "dtype": str(model.dtype).removeprefix("torch."), "device": _told(model)}
    note_loaded("model", name=loaded.name, **facts, **({"template": json.dumps(template)} if template else {}))


def _answer_plainly(model: PreTrainedModel) -> None:
    """Have a model return its logits alone, whatever its configuration says of what training needs."""
    for config in (model.config, model.config.get_text_config()):
        config.return_dict = True
        for name in ("output_router_logits", "output_hidden_states", "output_attentions"):
            if getattr(config, name, False):
                setattr(config, name, False)


def _told(model: PreTrainedModel) -> str:
    """The device of a model in words, with the name of a GPU."""
    where = "several devices, " * is_spread(model) + str(model.device)
    return f"{where} ({torch.cuda.get_device_name(model.device)})" if model.device.type == "cuda" else where


def _commit(entry: Entry, revision: str | None) -> str | None:
    """The commit of a model of the hub: the name of the snapshot that it was loaded from; none for a folder."""
    if Path(entry.source).is_dir():
        return None
    found = try_to_load_from_cache(entry.source, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _read(
    entry: Entry, name: str, revision: str | None, dtype: torch.dtype | str, spread: str | dict[str, int | str] | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        check_files(entry.source, revision, name)
        tokenizer = AutoTokenizer.from_pretrained(entry.source, revision=revision, trust_remote_code=False)
        settle_template(tokenizer, entry, name)
        model, about = AutoModelForCausalLM.from_pretrained(
            entry.source,
            revision=revision,
            dtype=dtype,
            device_map=spread,
            use_safetensors=True,
            trust_remote_code=False,
            # Gemma 2 caps the attention's logits, which other implementations leave out.
            attn_implementation="eager",
            output_loading_info=True,
        )
    except DataError:
        raise
    # Places that there are not, weights of another shape, files of another kind, formats that need another package.
    except (*_UNREADABLE, SafetensorError, HfHubHTTPError) as error:
        raise DataError(f"{name}: {_reason(entry, revision, error)}") from None
    _check_whole(name, about)
    return model, tokenizer


def _check_whole(name: str, about: Mapping[str, Any]) -> None:
    """Notice weights that transformers has made up, from what it tells of loading."""
    absent = sorted(map(str, {*about["missing_keys"], *about["mismatched_keys"]}))
    if absent:
        raise DataError(
            f"{name}: {len(absent)} of its weights are in no file, such as {absent[0]}, and would be of chance; save "
            "the whole model (save_pretrained of the causal language model)"
        )


def _reason(entry: Entry, revision: str | None, error: Exception) -> str:
    """Why a model cannot be loaded, and what to do."""
    said = cut(" ".join(str(error).split()) or type(error).__name__)
    if Path(entry.source).is_dir():
        return f"cannot be loaded (the folder): {said}"
    if entry.name not in load_registry():
        return f"cannot be loaded (no folder; on the hub): {said}"
    if isinstance(try_to_load_from_cache(entry.source, "config.json", revision=revision), str):
        return f"cannot be loaded: {said}; if files of it are missing, {entry.fetching()}"
    return f"cannot be loaded: {entry.hub} is not on this machine, and could not be fetched; {entry.fetching()}"
