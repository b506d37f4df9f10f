"""Keys of answers: hashes of everything that an answer depends on."""

from functools import cache
from importlib.metadata import version

import torch

from personalib.answer_store import digest
from personalib.interventions import Clamp, Condition, Intervention
from personalib.models import LanguageModel
from personalib.provenance import files_hash, package_dir

# The modules that compute an answer. A change in any of them makes every answer a new one.
_MODULES = ("block_hooks", "generation", "grid", "interventions", "questionnaires", "steering")


def model_key(language_model: LanguageModel) -> str:
    """A hash of a model, its tokenizer, number format and kind of device, and of the code that runs it."""
    model, tokenizer = language_model.model, language_model.tokenizer
    return digest(
        language_model.revision or language_model.digest(),
        str(sorted(tokenizer.get_vocab().items())) if language_model.revision is None else "",
        str(model.dtype),
        model.device.type,
        _code_key(),
    )


def condition_key(condition: Condition) -> str:
    """A hash of what is done to the residual stream, where, how often and at which tokens."""
    return digest(*(part for one in condition for part in _parts(one)))


def _parts(one: Intervention) -> list[str | bytes]:
    where: list[str | bytes] = [type(one).__name__, str(one.site), one.positions]
    if isinstance(one, Clamp):
        return [*where, repr((one.features, one.value)), one.sae.digest()]
    vector = one.vector.direction.detach().cpu().to(torch.float64).contiguous()
    return [*where, repr(one.coefficient), vector.numpy().tobytes()]


@cache
def _code_key() -> str:
    files = [package_dir() / f"{name}.py" for name in _MODULES]
    return digest(files_hash(package_dir(), files), *(version(name) for name in ("torch", "transformers")))
