"""Results of a service, which come as pickles: read as tensors, and never run."""

import io
import pickle
from types import SimpleNamespace
from typing import Any

import torch
import zstandard
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.response import ResponseModel

# What a result may be made of, beside numbers, texts and their containers.
_KNOWN = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("nnsight.schema.response", "Status"),
}


class Service(RemoteBackend):
    """A service whose answers are read as tensors, and never run."""

    def finalize(self, content: bytes) -> Any:
        """The values of a result."""
        return _read(zstandard.ZstdDecompressor().decompress(content) if self.compress else content)

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        """A message about a job, which may have its result in it."""
        if isinstance(message, bytes):
            return ResponseModel(**_read(message))
        return ResponseModel.model_validate_json(message)


class _Tensors(pickle.Unpickler):
    """Rebuilds tensors, and nothing that could do anything else.

    The reader of torch that is as strict (``weights_only``) does not know the protocol that services write.
    """

    def find_class(self, module: str, name: str) -> Any:
        """What a result names."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"the result holds {module}.{name}, which is no tensor; it is not loaded")
        return super().find_class(module, name)


def _read(content: bytes) -> Any:
    """What torch has written.

    Raises:
        UnpicklingError: it is no archive of tensors, holds something else, or is damaged.
    """
    try:
        # By the reader that torch itself looks with: an archive with code would be handed on before it is unpickled.
        records = torch._C.PyTorchFileReader(io.BytesIO(content)).get_all_records()
        if "constants.pkl" in records or any(name.startswith("code/") for name in records):
            raise pickle.UnpicklingError("the result is a program of TorchScript and no tensors; it is not loaded")
        return _tensors(content)
    except (RuntimeError, EOFError, AttributeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise pickle.UnpicklingError(f"the result is damaged, or no archive of tensors ({first})") from None


def _tensors(content: bytes) -> Any:
    strict = SimpleNamespace(Unpickler=_Tensors, __name__="tensors")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=strict)
