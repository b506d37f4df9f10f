"""Keys of answers: hashes of everything that an answer depends on."""

import json
from functools import cache
from importlib.metadata import version

import torch

from personalib.base.provenance import digest, files_hash, package_dir
from personalib.models.load import LanguageModel
from personalib.models.remote import RemoteModel
from personalib.steering.interventions import Clamp, Condition, Intervention

# The modules that compute an answer. A change in any of them makes every answer a new one.
_MODULES = ("models/*.py", "steering/*.py", "features/saes.py", "stimuli/templates.py", "evaluation/blocks.py")


def model_key(language_model: LanguageModel) -> str:
    """A hash of a model, its tokenizer, number format, kind of device or service, and of the code that runs it."""
    model = language_model.model
    return digest(
        language_model.revision or language_model.digest(),
        _form(language_model) if language_model.revision is None else "",
        str(model.dtype),
        model.device.type,
        # The same weights may round differently at a service.
        language_model.runner if isinstance(language_model, RemoteModel) else "",
        _code_key(),
    )


def _form(language_model: LanguageModel) -> str:
    """What weights do not say: the configuration, and how texts are encoded."""
    tokenizer, model = language_model.tokenizer, language_model.model
    encoder = tokenizer.get_vocab()
    if tokenizer.is_fast:
        # Padding and truncation are set by whoever used it last.
        encoder = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    about = model.config.to_dict() | {"_name_or_path": None, "transformers_version": None}
    ends = model.generation_config.eos_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    return json.dumps([encoder, about, ends], sort_keys=True, default=str)


def condition_key(condition: Condition) -> str:
    """A hash of what is done to the residual stream, where, how often and at which tokens."""
    return digest(*(part for one in condition for part in _parts(one)))


def _parts(one: Intervention) -> list[str | bytes]:
    where: list[str | bytes] = [type(one).__name__, str(one.site), one.positions]
    if isinstance(one, Clamp):
        use = one.sae.network.cfg.to_dict(), one.sae.normalisation, one.sae.centred
        return [*where, repr((one.features, float(one.value), use)), one.sae.digest()]
    vector = one.vector.direction.detach().cpu().to(torch.float64).contiguous()
    return [*where, repr(float(one.coefficient)), vector.numpy().tobytes()]


@cache
def _code_key() -> str:
    files = [path for pattern in _MODULES for path in package_dir().glob(pattern)]
    return digest(files_hash(package_dir(), files), *(version(name) for name in ("torch", "transformers", "sae-lens")))
