"""Where the answers of an evaluation are kept: in memory, or on disk in small files, each written whole.

An answer is kept under a *key*, a hash of everything that it depends on. What is asked again is found again; a changed
input has another key, so that a stale answer is never served. A killed run leaves whole files only.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from personalib.base.provenance import digest
from personalib.base.storage import alone, write_whole

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema([("key", pa.string()), ("values", pa.list_(pa.float64())), ("text", pa.string())])


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        values: the probability of each option, or what else was measured; NaN where steering made the model overflow.
        text: the answer in words, where that was asked for; empty where steering made the model overflow.
    """

    values: tuple[float, ...] = ()
    text: str | None = None


class MemoryStore:
    """Answers that are gone with the process; see :class:`AnswerStore`."""

    def __init__(self) -> None:
        self._replies: dict[str, Reply] = {}

    def replies(self) -> dict[str, Reply]:
        """All answers so far, by key."""
        return self._replies

    def keys(self) -> set[str]:
        """The keys of all answers so far."""
        return set(self._replies)

    def writing(self) -> AbstractContextManager[None]:
        """Nobody else has it."""
        return nullcontext()

    def add(self, replies: Mapping[str, Reply]) -> None:
        """Keep answers."""
        self._replies |= replies


@dataclass(frozen=True)
class AnswerStore:
    """A folder of answers. Reading is open to all; a second process that would write is refused.

    Each file is named by a hash of its content. One that is not as it was written is left out with a warning, so that
    its answers are asked anew, and never served.
    """

    folder: Path

    def replies(self) -> dict[str, Reply]:
        """All answers so far, by key."""
        found: dict[str, Reply] = {}
        for table in self._parts():
            rows = zip(*(table[name].to_pylist() for name in _SCHEMA.names), strict=True)
            found |= {key: Reply(tuple(values), text) for key, values, text in rows}
        return found

    def keys(self) -> set[str]:
        """The keys of all answers so far, without the answers."""
        return {str(key) for table in self._parts() for key in table["key"].to_pylist()}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Have the folder to oneself; a DataError where another process writes to it, or it cannot be written to."""
        with alone(self.folder, doing="is evaluating"):
            for path in self.folder.glob("*.partial"):
                path.unlink()
            yield

    def add(self, replies: Mapping[str, Reply]) -> None:
        """Write answers as one file, as a whole or not at all, and wait until the disk has it, else a DataError."""
        columns = list(replies), *([getattr(one, name) for one in replies.values()] for name in ("values", "text"))
        content = parquet(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA))
        write_whole(self.folder / f"{digest(content)}.parquet", content)

    def _parts(self) -> Iterator[pa.Table]:
        """The files that are as they were written."""
        for path in sorted(self.folder.glob("*.parquet")):
            content = path.read_bytes()
            if digest(content) == path.stem:
                yield pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            else:
                logger.warning("%s: damaged, or not of this version; its answers are asked anew: remove it", path)


Store = MemoryStore | AnswerStore


def parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file with checksums, so that damage is noticed by whoever reads it with verification."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return bytes(sink.getvalue())
