"""Models that are too large to hold: their traces are run by NDIF, the service of nnsight.

On this side there are a model's configuration, its tokenizer and a skeleton without numbers. A trace is sent as its
source with the tensors that it mentions, and what it saves comes back as a pickle, which is read as tensors, never run.
"""

import io
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import nnsight
import torch
import websocket
import zstandard
from huggingface_hub.errors import HfHubHTTPError
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.response import ResponseModel
from nnsight.tracing.backend import Backend
from transformers import PreTrainedModel

from personalib.base.data import DataError
from personalib.base.markdown import escaped
from personalib.models.batches import replaced
from personalib.models.load import LanguageModel, hub_commit, load_model, read_tokenizer
from personalib.models.parts import Parts, tell_parts
from personalib.models.placement import AUTO
from personalib.models.registry import ORGANISM, Entry, find_entry

# The host by which a model is run on this side, as a service would run it.
REHEARSAL = "rehearsal"
# Seconds that a service may take to answer the first call.
_PATIENCE = 20.0
_ELSEWHERE = """Its weights were not loaded on this machine.
Traces were sent, and what they save came back; the service chose the number format and has the commit that it has."""
_REHEARSED = """No service was asked.
Each trace was packed as it would be sent, unpacked where nothing of this library can be imported, and run on this
machine, which has the weights."""
# What goes wrong on the way to a service, there, and with what comes back.
_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    pickle.UnpicklingError,
    zstandard.ZstdError,
    RemoteError,
    websocket.WebSocketException,
    httpx.HTTPError,
    HfHubHTTPError,
)
# What a result may be made of, beside numbers, texts and their containers.
_KNOWN = {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("nnsight.schema.response", "Status")}


class Refusal:
    """Put before every part of a model, it refuses to run it: without weights that fails within torch, or gives NaN."""

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        """Refuse to run a model, as a whole, in parts, or to generate; the name is for the message."""
        self.name, self.lifted = name, False
        # Code of the library runs parts by themselves too: blocks, the norm, the unembedding.
        for module in model.modules():
            module.register_forward_pre_hook(self)
        # It would prepare its own tensors first, and fail on them before any part is run.
        model.generate = self

    def __call__(self, *_: object, **__: object) -> None:
        """Refuse with a ``DataError``, unless lifted: a rehearsal runs the model in the service's place."""
        if not self.lifted:
            raise DataError(
                f"{self.name}: a remote model is not run on this side; what a service can do with it is to answer "
                "questions by options (personalib.evaluation.evaluate, personalib.steering.ask_steered) and to read "
                "the residual stream (personalib.models.capture); for anything else load the model with "
                "personalib.models.load_model, or leave the chapter's parameter remote out"
            )


@dataclass(frozen=True, kw_only=True)
class RemoteModel(LanguageModel):
    """A model whose traces are run elsewhere: it reads activations and scores options and given answers like any other
    one, and refuses everything that would run it on this side.

    Attributes:
        network: the model in nnsight's hands.
        host: the service's address; none for a rehearsal, see :func:`rehearsed`.
        refusal: what stops runs on this side; none for a model that is run there as well.
    """

    network: Any
    host: str | None
    refusal: Refusal | None = None

    @property
    def runner(self) -> str:
        """Who runs it, for files with results: the same weights may round differently there."""
        return self.host or REHEARSAL


def load_remote_model(name: str, revision: str | None = None, host: str | None = None) -> RemoteModel:
    """Make a model ready to be run by a service, without its weights; it refuses to be run on this side.

    Args:
        name: a name of the table of models, or of the hub, such as ``meta-llama/Llama-3.1-405B-Instruct``.
        revision: branch, tag or commit on the hub. A service holds a model under the revision that it was put there by,
            most often none, so that the commit in the table is left out; which commit it has is not told.
        host: the service's address; by default that of nnsight's settings, ``NDIF_HOST`` or NDIF itself. With
            ``"rehearsal"`` the model is loaded on this side, and its traces are run as in :func:`rehearsed`.

    Raises:
        DataError: the model is in a folder, its configuration or tokenizer cannot be had, or its files are refused; for
            a rehearsal, see :func:`personalib.models.load.load_model`.
    """
    where = host or nnsight.CONFIG.API.HOST
    if where == REHEARSAL:
        local = load_model(name, revision, AUTO)
        return replace(rehearsed(local), refusal=Refusal(local.model, name))
    entry = find_entry(name)
    if entry.name == ORGANISM or Path(entry.source).is_dir():
        raise DataError(
            f"{name}: is on this machine, and no service has it; load it with load_model, or try a service's path on "
            f"this machine with NDIF_HOST={REHEARSAL}"
        )
    network = _skeleton(entry, name, revision)
    commit = hub_commit(entry, revision) or revision or "main"
    refusal = Refusal(network._module, name)
    return RemoteModel(name, network._module, network.tokenizer, commit, network=network, host=where, refusal=refusal)


def _skeleton(entry: Entry, name: str, revision: str | None) -> Any:
    """A model without weights, in nnsight's hands."""
    try:
        network = nnsight.TransformersModel(
            entry.source,
            task="text-generation",
            tokenizer=read_tokenizer(entry, name, revision),
            revision=revision,
            trust_remote_code=False,
            # As it is loaded here; the service is told, so that its attention is computed the same way.
            attn_implementation="eager",
        )
        if entry.parts:
            tell_parts(network._module, Parts(**entry.parts.model_dump()))
    except DataError:
        raise
    except (OSError, ValueError, HfHubHTTPError) as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{name}: its configuration and tokenizer cannot be loaded from the hub, so no service can be asked: {said}"
        ) from None
    # Else nnsight would fetch the weights as soon as a trace is run here.
    network.dispatched = True
    return network


def rehearsed(language_model: LanguageModel) -> RemoteModel:
    """A model of this side, to be run as a service would run it, without a key and a network: its traces are packed as
    they would be sent, unpacked where no local module can be imported, and run.
    """
    one = language_model
    return RemoteModel(one.name, one.model, one.tokenizer, one.revision, network=traceable(one), host=None)


def runner_note(language_model: LanguageModel) -> str:
    """What a reader of a page has to know of who ran the model; Markdown, empty where this machine did."""
    if not isinstance(language_model, RemoteModel):
        return ""
    if language_model.host:
        title, body = f"The model of this page is run by {escaped(language_model.host)}", _ELSEWHERE
    else:
        title, body = "This was a rehearsal of a remote run", _REHEARSED
    return f"\n:::{{admonition}} {title}\n:class: important\n{body}\n:::\n"


def traceable(language_model: LanguageModel) -> Any:
    """The model in nnsight's hands, ready to be traced."""
    if isinstance(language_model, RemoteModel):
        return language_model.network
    return nnsight.TransformersModel(
        language_model.model, tokenizer=language_model.tokenizer, task="text-generation", dispatch=True
    )


@contextmanager
def running(language_model: LanguageModel) -> Iterator[Backend | None]:
    """While this is open, traces of a model can be run by the ``backend`` that it gives, if any.

    The body of such a trace may mention nothing but torch, tensors, texts, numbers and their containers. A DataError
    where there is no key for the service, it is not reached, or it does not do what was asked.
    """
    if not isinstance(language_model, RemoteModel):
        yield None
    elif language_model.host is None:
        # The rehearsal takes folders out of the path and puts them back at its end.
        path, refusal = list(sys.path), language_model.refusal
        try:
            with replaced(refusal, "lifted", True) if refusal else nullcontext():
                yield LocalSimulationBackend(language_model.network)
        finally:
            sys.path[:] = path
    else:
        with _service(language_model, language_model.host) as backend:
            yield backend


@contextmanager
def _service(remote_model: RemoteModel, host: str) -> Iterator[Backend]:
    # A file of secrets may end in a line break, which no header can hold.
    key = (os.environ.get("NDIF_API_KEY") or nnsight.CONFIG.API.APIKEY or "").strip()
    if not key:
        raise DataError(
            f"{remote_model.name}: {host} wants a key, and there is none; put it into the environment as NDIF_API_KEY, "
            "or call nnsight.CONFIG.set_default_api_key once on this machine (keys: https://login.ndif.us)"
        )
    if not (key.isascii() and key.isprintable()):
        raise DataError(f"{remote_model.name}: the key for {host} has characters that no key has; copy it again")
    usual, network = websocket.getdefaulttimeout(), remote_model.network
    websocket.setdefaulttimeout(_PATIENCE)
    try:
        yield _Service(network.to_model_key(), host=host, api_key=key, env=network._remoteable_get_env())
    except _FAILURES as error:
        # An error of a job is its whole traceback, whose last line tells what happened, and what comes after the
        # first line of an error of HTTP is where to read about it. Services repeat wrong keys.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = lines[0 if isinstance(error, httpx.HTTPError) else -1]
        raise DataError(
            f"{remote_model.name}: not run by {host}: {said.replace(key, '(the key)')}; nnsight.status() tells which "
            "models NDIF holds, NDIF_HOST names another service"
        ) from None
    finally:
        websocket.setdefaulttimeout(usual)


class _Service(RemoteBackend):
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
    """What torch has written; an ``UnpicklingError`` if it is no archive of tensors, holds more, or is damaged."""
    strict = SimpleNamespace(Unpickler=_Tensors, __name__="tensors")
    try:
        # By the reader that torch itself looks with: an archive with code would be handed on before it is unpickled.
        records = torch._C.PyTorchFileReader(io.BytesIO(content)).get_all_records()
        if "constants.pkl" in records or any(name.startswith("code/") for name in records):
            raise pickle.UnpicklingError("the result is a program of TorchScript and no tensors; it is not loaded")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=strict)
    except (RuntimeError, EOFError, AttributeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise pickle.UnpicklingError(f"the result is damaged, or no archive of tensors ({first})") from None
