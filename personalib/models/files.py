"""A model's files before they are loaded: what would be unpickled, or silently left out, is refused."""

from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from personalib.base.data import DataError, read_json, shown


def check_files(source: str, revision: str | None, name: str) -> None:
    """Notice an adapter beside the weights, and weights that are no safetensors although their index is called so.

    Raises:
        DataError: there is one or the other; or the index is not as it should be.
        OSError: there is no configuration.
    """
    if find_adapter_config_file(source, revision=revision):
        raise DataError(
            f"{name}: is an adapter, or has one beside its weights (adapter_config.json), which would be left out; "
            "merge it into the weights (merge_and_unload of peft, then save_pretrained) and pass the folder, or name "
            "the base model for the model without it"
        )
    config, _ = PretrainedConfig.get_config_dict(source, revision=revision)
    index = config.get("transformers_weights") or SAFE_WEIGHTS_INDEX_NAME
    names = [index]
    if str(index).endswith(".json"):
        names = _indexed(source, revision, index)
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
