"""Models that are too large to hold: their traces are run by NDIF, the service of nnsight.

Only a model's configuration and tokenizer are loaded on this side. Its weights are a skeleton without numbers, which is
enough to name its parts. A trace is sent as its source with the tensors that it mentions, and what it saves comes back.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import nnsight
import websocket
import zstandard
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteError
from nnsight.tracing.backend import Backend
from transformers import AutoTokenizer

from personalib.base.data import DataError
from personalib.base.markdown import escaped
from personalib.models.chat_templates import settle_template
from personalib.models.files import check_files
from personalib.models.load import LanguageModel, load_model
from personalib.models.parts import Parts, tell_parts
from personalib.models.placement import AUTO
from personalib.models.registry import ORGANISM, Entry, find_entry
from personalib.models.remote_guard import Refusal, refuse_runs
from personalib.models.remote_results import Service

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


@dataclass(frozen=True, kw_only=True)
class RemoteModel(LanguageModel):
    """A model whose traces are run elsewhere.

    What reads activations (:func:`personalib.models.activations.capture`) and what scores options and given answers
    (:mod:`personalib.steering.grid`, and so :func:`personalib.evaluation.ask.evaluate`) takes it like any other model.
    Everything else in the library runs a model on this side, and this one refuses that.

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
    """Make a model ready to be run by a service, without its weights.

    Args:
        name: a name of the table of models, or of the hub, such as ``meta-llama/Llama-3.1-405B-Instruct``.
        revision: branch, tag or commit on the hub. A service holds each model under the revision that it was put there
            by, most often none, so that the commit in the table of models is left out.
        host: the service's address; by default that of nnsight's settings, ``NDIF_HOST`` or NDIF itself. With
            ``"rehearsal"`` the model is loaded on this side, and its traces are run as in :func:`rehearsed`.

    Returns:
        The model, which refuses to be run on this side. Its ``revision`` is the commit of the configuration that was
        read here; which commit the service has is not told.

    Raises:
        DataError: the model is in a folder, its configuration or tokenizer cannot be had, or its files are refused, see
            :func:`personalib.models.files.check_files`; for a rehearsal, see :func:`personalib.models.load.load_model`.

    Example:
        >>> model = load_remote_model("meta-llama/Llama-3.1-405B-Instruct")  # doctest: +SKIP
    """
    where = host or nnsight.CONFIG.API.HOST
    if where == REHEARSAL:
        own = load_model(name, revision, AUTO)
        return replace(rehearsed(own), refusal=refuse_runs(own.model, name))
    entry = find_entry(name)
    if entry.name == ORGANISM or Path(entry.source).is_dir():
        raise DataError(
            f"{name}: is on this machine, and no service has it; load it with load_model, or try a service's path on "
            f"this machine with NDIF_HOST={REHEARSAL}"
        )
    network = _skeleton(entry, name, revision)
    # The hub's cache keeps files in a folder that is named by their commit.
    found = try_to_load_from_cache(entry.source, "config.json", revision=revision)
    commit = Path(found).parent.name if isinstance(found, str) else revision or "main"
    refusal = refuse_runs(network._module, name)
    return RemoteModel(name, network._module, network.tokenizer, commit, network=network, host=where, refusal=refusal)


def _skeleton(entry: Entry, name: str, revision: str | None) -> Any:
    """A model without weights, in nnsight's hands."""
    try:
        check_files(entry.source, revision, name)
        tokenizer = AutoTokenizer.from_pretrained(entry.source, revision=revision, trust_remote_code=False)
        settle_template(tokenizer, entry, name)
        network = nnsight.TransformersModel(
            entry.source,
            task="text-generation",
            tokenizer=tokenizer,
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
    """A model of this side, to be run as a service would run it.

    Its traces are packed as they would be sent, unpacked where no local module can be imported, and run. It is the
    simulation of nnsight, which needs no key and no network.
    """
    own = language_model
    return RemoteModel(own.name, own.model, own.tokenizer, own.revision, network=traceable(own), host=None)


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
    """While this is open, traces of a model can be run by what it gives.

    The body of such a trace may mention nothing but torch, tensors, texts, numbers and their containers.

    Yields:
        The ``backend`` of a trace; none for a model that is run in place.

    Raises:
        DataError: there is no key for the service, it is not reached, or it does not do what was asked.

    Example:
        >>> with running(model) as backend:  # doctest: +SKIP
        ...     with traceable(model).trace(inputs, backend=backend):
        ...         logits = network.output.logits[:, -1].save()
    """
    if not isinstance(language_model, RemoteModel):
        yield None
    elif language_model.host is None:
        # The rehearsal takes folders out of the path and puts them back at its end.
        path, refusal = list(sys.path), language_model.refusal
        try:
            with refusal.lifted() if refusal else nullcontext():
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
        yield Service(network.to_model_key(), host=host, api_key=key, env=network._remoteable_get_env())
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
