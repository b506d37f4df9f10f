"""Journals: what was done so far, one JSON a line, each on disk before the next is begun."""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personalib.data import DataError


class Journal:
    """An append-only file of entries that survives a kill: an entry is there as a whole, or not at all.

    Several threads may add to one journal; a second process is refused.

    Args:
        path: the file; it is made at once, so that a place that cannot be written to is found before any work.

    Raises:
        DataError: the file cannot be written, another process has it, or a line, other than an unfinished last one,
            is not a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise DataError(f"{path}: another process is writing to it; wait for its end") from None
        self._read()

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write an entry and wait until the disk has it.

        Raises:
            DataError: it cannot be written; the journal is as it was.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            size = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._file.truncate(size)  # half a line would spoil the next
                raise DataError(f"{self.path}: cannot be written: {error.strerror}") from None
            self.entries.append(json.loads(line))

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._file.truncate(0)
            self.entries.clear()

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        *whole, last = content.split(b"\n")
        for number, line in enumerate(whole, start=1):
            if (entry := _entry(line)) is None:
                raise DataError(f"{self.path}, line {number}: not a JSON object; remove the line, or the whole journal")
            self.entries.append(entry)
        if not last:
            return
        if entry := _entry(last):
            self.entries.append(entry)
            self._file.write(b"\n")
        else:
            # Killed while writing: half an entry would spoil the next one.
            self._file.truncate(len(content) - len(last))
        self._file.flush()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
