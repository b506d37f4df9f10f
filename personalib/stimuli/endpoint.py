"""The endpoint writer: any server that speaks OpenAI's chat completions, asked for JSON that follows a schema.

The address and the key come from the environment, ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``, and go nowhere else: not
into a journal, a message or a representation.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel

from personalib.base.data import parse_json
from personalib.stimuli.assignments import Assignment
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.writers import Unusable, WriterError, read_draft

_KEY, _ADDRESS, _OFFICIAL = "OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1"
# A part of a key shorter than this tells nothing, and a word such as "none" may be a key.
_SHORTEST = 8


@dataclass(frozen=True)
class EndpointWriter:
    """Writes through a server's chat completions.

    A request that meets a refused connection, a time-out, 408, 409, 429 or a server error is sent again after a pause
    that doubles, or that the server asks for, at most ``client.max_retries`` times. :func:`connect` makes a client from
    the environment; ``max_tokens`` limits an answer.
    """

    client: openai.OpenAI = field(repr=False)
    model: str
    temperature: float = 1.0
    max_tokens: int = 1000

    @property
    def identity(self) -> str:
        """What determines what it writes; of the address nothing that could be secret."""
        return f"{self._place()}, {self.model}, temperature {self.temperature:g}"

    def write(self, assignment: Assignment, background: Background, attempt: int, problems: Sequence[str]) -> BaseModel:
        """A draft from the server, or the error for an answer, or a server, that cannot be used."""
        return read_draft(self._read(self._ask(assignment, background, problems)), assignment, background)

    def _ask(self, assignment: Assignment, background: Background, problems: Sequence[str]) -> str:
        """The body of the server's reply."""
        form = assignment.form(background)
        schema: Any = {"name": form.__name__, "strict": True, "schema": form.model_json_schema()}
        # Its own models know the limit by its new name only, most other servers by the old one.
        limit = "max_completion_tokens" if self._place().startswith("api.openai.com") else "max_tokens"
        try:
            reply = self.client.chat.completions.with_raw_response.create(
                model=self.model,
                # One user turn: not every chat template behind such a server knows a system turn.
                messages=[{"role": "user", "content": assignment.request(background, problems)}],
                temperature=self.temperature,
                response_format={"type": "json_schema", "json_schema": schema},
                extra_body={limit: self.max_tokens},
            )
        except openai.APIError as error:
            message = self._explain(error)
        else:
            return self._redacted(reply.http_response.content.decode("utf-8", errors="replace"))
        # Out of the handler, so that the error does not hold the request, and in it the key.
        raise WriterError(message)

    def _read(self, body: str) -> str:
        """The text of a reply, or Unusable where it is no chat completion, or its answer is cut off or refused."""
        try:
            choice = parse_json(body, "the reply")["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            written, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError):
            problem = f"what {self._place()} sends is no chat completion; look at the journal, and at {_ADDRESS}"
            raise Unusable(problem, body) from None
        if finish == "length":
            raise Unusable(f"cut off after {self.max_tokens} tokens; be brief", str(written))
        if not isinstance(written, str) or not written:
            raise Unusable(f"refused: {refusal or 'no text came'}", body)
        return written

    def _explain(self, error: openai.APIError) -> str:
        """What happened and what to do, without the key, which some servers repeat."""
        place, tries = self._place(), self.client.max_retries + 1
        said = self._redacted(error.message)[:300]
        if isinstance(error, openai.APITimeoutError):
            return f"{place} did not answer in time, {tries} times; run again later to go on"
        if isinstance(error, openai.APIConnectionError):
            return f"{place} cannot be reached after {tries} attempts; start the server there, or set {_ADDRESS}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            # Servers repeat parts of a wrong key in ways of their own, so their words are left out.
            return f"{place} does not accept the key in {_KEY} for the model {self.model!r}"
        if isinstance(error, openai.NotFoundError):
            return f"{place} has no model {self.model!r}, or {_ADDRESS} needs another path such as /v1: {said}"
        if isinstance(error, openai.RateLimitError):
            if error.code == "insufficient_quota":
                return f"{place} says that the account has no quota left; add some, then run again to go on"
            return f"{place} asks for fewer requests, {tries} times; run again later, or with fewer workers, to go on"
        if isinstance(error, openai.InternalServerError):
            return f"{place} failed {tries} times, last with {said!r}; run again later to go on"
        return f"{place} refused the request: {said}"

    def _redacted(self, text: str) -> str:
        """A text without the key or a longer part of it."""
        key = self.client.api_key
        for start in range(len(key) - _SHORTEST + 1):
            text = text.replace(key, "[key]").replace(key[start : start + _SHORTEST], "[key]")
        return text

    def _place(self) -> str:
        """Host, port and path of the server."""
        parts = urlsplit(str(self.client.base_url))
        return (parts.hostname or "?") + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")


def connect(timeout: float = 120.0, retries: int = 6) -> openai.OpenAI:
    """A connection to the server that the environment names, by default OpenAI's own; the timeout is in seconds.

    A WriterError where the key is missing or empty, or the address is no address or holds a password.
    """
    key, address = os.environ.get(_KEY, "").strip(), os.environ.get(_ADDRESS, "").strip() or _OFFICIAL
    if not key:
        raise WriterError(f"set {_KEY} in the environment; for a server that needs none, any word will do")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise WriterError(f"{_KEY} holds a space, a line break or another character that no key has; copy it again")
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise WriterError(f"{_ADDRESS} is no address such as http://localhost:8000/v1")
    if "@" in parts.netloc:
        raise WriterError(f"{_ADDRESS} holds a user or a password; leave them out, and put the key into {_KEY}")
    return openai.OpenAI(api_key=key, base_url=address, timeout=timeout, max_retries=retries)
