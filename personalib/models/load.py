"""Language models by name: the organism, one of the table of models, a folder, or any other of the Hugging Face hub.

Weights are read from safetensors only, and no code that comes with them is run: what would be unpickled, or silently
left out, is refused.
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
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from personalib.base.data import DataError, cut, read_json, shown
from personalib.models.chat_templates import settle_template, template_facts
from personalib.models.loaded import note_loaded
from personalib.models.parts import Parts, check_parts, tell_parts
from personalib.models.placement import AUTO, device_map, is_spread, keep_freed_memory, usual_device
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

    Weights that are not on this side, as those of a remote model, are a DataError.
    """
    weights: Mapping[str, Any] = module.state_dict()
    if any(one.is_meta for one in module.parameters()):
        if not hasattr(module, "hf_device_map"):
            raise DataError("a remote model has no weights on this side to be known by; name it by its revision")
        # Those behind the GPU are brought by accelerate where they are needed.
        weights = get_state_dict_offloaded_model(module)
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def load_model(
    name: str = ORGANISM, revision: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
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
    keep_freed_memory()
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
    commit = hub_commit(entry, revision or entry.revision)
    facts = template_facts(tokenizer, entry)
    note_loaded(
        "model",
        name=name,
        revision=commit,
        dtype=str(model.dtype).removeprefix("torch."),
        device=_told(model),
        **({"template": json.dumps(facts)} if facts else {}),
    )
    return LanguageModel(name, model, tokenizer, commit)


def _moved(model: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        # torch says so with an assertion where it was built without CUDA.
        raise DataError(f"device {device!r}: {str(error).splitlines()[0]}") from None


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


def hub_commit(entry: Entry, revision: str | None) -> str | None:
    """The commit of a model of the hub: the name of the snapshot that its configuration is in; none for a folder."""
    if Path(entry.source).is_dir():
        return None
    found = try_to_load_from_cache(entry.source, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def read_tokenizer(entry: Entry, name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model whose files are safe to read, with its chat template settled.

    An adapter beside the weights, an index that names other files than safetensors, and a chat template that cannot be
    used are a DataError; no configuration is an OSError.
    """
    _check_files(entry.source, revision, name)
    tokenizer = AutoTokenizer.from_pretrained(entry.source, revision=revision, trust_remote_code=False)
    settle_template(tokenizer, entry, name)
    return tokenizer


def _read(
    entry: Entry, name: str, revision: str | None, dtype: torch.dtype | str, spread: str | dict[str, int | str] | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = read_tokenizer(entry, name, revision)
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
    # What is in no file, transformers has made up.
    absent = sorted(map(str, {*about["missing_keys"], *about["mismatched_keys"]}))
    if absent:
        raise DataError(
            f"{name}: {len(absent)} of its weights are in no file, such as {absent[0]}, and would be of chance; save "
            "the whole model (save_pretrained of the causal language model)"
        )
    return model, tokenizer


def _reason(entry: Entry, revision: str | None, error: Exception) -> str:
    """Why a model cannot be loaded, and what to do."""
    said = cut(" ".join(str(error).split()) or type(error).__name__)
    if Path(entry.source).is_dir():
        return f"cannot be loaded (the folder): {said}"
    if entry.name not in load_registry():
        return f"cannot be loaded (no folder; on the hub): {said}"
    if hub_commit(entry, revision):
        return f"cannot be loaded: {said}; if files of it are missing, {entry.fetching()}"
    return f"cannot be loaded: {entry.hub} is not on this machine, and could not be fetched; {entry.fetching()}"


def _check_files(source: str, revision: str | None, name: str) -> None:
    """Notice an adapter beside the weights, and weights that are no safetensors although their index is called so."""
    if find_adapter_config_file(source, revision=revision):
        raise DataError(
            f"{name}: is an adapter, or has one beside its weights (adapter_config.json), which would be left out; "
            "merge it into the weights (merge_and_unload of peft, then save_pretrained) and pass the folder, or name "
            "the base model for the model without it"
        )
    config, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    index = config.get("transformers_weights") or SAFE_WEIGHTS_INDEX_NAME
    names = _indexed(source, revision, index) if str(index).endswith(".json") else [index]
    strange = [one for one in names if not str(one).endswith(".safetensors")]
    if strange:
        raise DataError(
            f"{name}: its weights are said to be in {shown(strange[0])}, which is no safetensors file and may hold "
            "code; write them as safetensors into a folder (save_pretrained), and pass the folder"
        )


def _indexed(source: str, revision: str | None, index: str) -> list[object]:
    """The files that an index names; none where there is no index."""
    path = cached_file(
        source,
        index,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return []
    content = read_json(path)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict):
        raise DataError(f"{path}: no index of weights; save the model again (save_pretrained)")
    return list(dict.fromkeys(named.values()))
