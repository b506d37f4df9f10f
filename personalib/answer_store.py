"""The answers of an evaluation on disk: small files, each written whole, known by what determines every answer.

An answer is kept under a *key*, a hash of everything that it depends on. What is asked again is found again; a changed
input has another key, so that a stale answer is never served. A killed run leaves whole files only.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from personalib.data import DataError
from personalib.locks import alone

_SCHEMA = pa.schema([("key", pa.string()), ("values", pa.list_(pa.float64())), ("text", pa.string())])


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        values: the probability of each option, or what else was measured.
        text: the answer in words, where that was asked for.
    """

    values: tuple[float, ...] = ()
    text: str | None = None


class AnswerStore:
    """A folder of answers. Reading is open to all; a second process that would write is refused.

    Args:
        folder: where; it is made when the first answer is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def replies(self) -> dict[str, Reply]:
        """All answers so far, by key.

        Raises:
            DataError: a file is not one of answers.
        """
        found: dict[str, Reply] = {}
        for path in self._files():
            part = self._part(path, _SCHEMA.names)
            rows = zip(part["key"], part["values"], part["text"], strict=True)
            found |= {key: Reply(tuple(values), text) for key, values, text in rows}
        return found

    def keys(self) -> set[str]:
        """The keys of all answers so far, without the answers.

        Raises:
            DataError: see :meth:`replies`.
        """
        return {str(key) for path in self._files() for key in self._part(path, ["key"])["key"]}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have the folder to oneself.

        Raises:
            DataError: another process writes to it, or it cannot be written to.
        """
        with alone(self.folder, "is evaluating"):
            for path in self.folder.glob("*.partial"):
                path.unlink()
            yield

    def add(self, replies: Mapping[str, Reply]) -> None:
        """Write answers as one file, and wait until the disk has it. It is there as a whole, or not at all."""
        keys = list(replies)
        table = pa.table(
            {
                "key": keys,
                "values": [list(reply.values) for reply in replies.values()],
                "text": [reply.text for reply in replies.values()],
            },
            schema=_SCHEMA,
        )
        path = self.folder / f"{digest(*keys)}.parquet"
        write_whole(table, path)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _part(self, path: Path, columns: list[str]) -> dict[str, list[Any]]:
        """Some columns of a file of answers."""
        try:
            if pq.read_schema(path).names != _SCHEMA.names:
                raise ValueError("it has other columns")
            return dict(pq.read_table(path, schema=_SCHEMA, columns=columns).to_pydict())
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a file of answers ({error}); remove it, and it is asked anew") from None


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a Parquet file under another name and rename it when the disk has it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; run it again, and it goes on") from None


def digest(*parts: str | bytes) -> str:
    """A hash of texts and bytes, each with its length so that no two lists are taken for one another."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:32]
