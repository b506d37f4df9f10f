"""Language models by name: the organism, a folder, or a model of the Hugging Face hub.

Weights are read from safetensors only, and no code that comes with them is run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from personalib.data import DataError, data_dir

ORGANISM = "organism"


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        name: the name it was asked for by.
        revision: the commit that a model of the hub came from.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str | None = None

    def digest(self) -> str:
        """A hash of the weights, for a model without a revision."""
        return weights_digest(self.model)


def weights_digest(module: torch.nn.Module) -> str:
    """A hash of a module's weights: names, number formats, shapes and values."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def load_model(
    name: str = ORGANISM, revision: str | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: ``"organism"``, a folder, or a name on the hub such as ``google/gemma-2b-it``.
        revision: branch, tag or commit on the hub.
        device: where to, such as ``"cuda"``.
        dtype: number format of the weights.

    Raises:
        DataError: there is no such model, it has no safetensors, access to it was not granted, or there is no such
            device.
    """
    source = str(data_dir() / "organism") if name == ORGANISM else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            # Gemma 2 caps the attention's logits, which other implementations leave out.
            attn_implementation="eager",
        )
    except (OSError, ValueError, SafetensorError) as error:
        kind = "the folder" if Path(source).is_dir() else "no folder; on the hub"
        raise DataError(f"{name}: cannot be loaded ({kind}): {' '.join(str(error).split())}") from None
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        # torch says so with an assertion where it was built without CUDA.
        raise DataError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    return LanguageModel(name, model.eval(), tokenizer, getattr(model.config, "_commit_hash", None))
