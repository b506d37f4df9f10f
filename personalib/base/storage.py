"""Files that survive a kill, a full disk and a second process: written whole, locked, or journals that only grow."""

import atexit
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from math import isfinite
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO

from filelock import lock_descriptor
from safetensors import SafetensorError

from personalib.base.data import DataError, parse_json


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an error of writing into a DataError that says which file it is about, and that nothing is lost."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if (name := getattr(error, "filename", None)) and Path(name) != place:
            reason = f"{reason} ({name})"
        if not place.parent.is_dir():
            reason = f"there is no folder {place.parent}; make it"
        kept = "what was written before is kept; once it can be written, the same command goes on"
        raise DataError(f"{place}: cannot be written: {reason}; {kept}") from None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file beside a path, which replaces the file there only when it is completely on disk.

    What a killed process left of one is removed, and so is a link in its place. A DataError where it cannot be written,
    or another process is writing it; what was at the path is still there.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        if partial.is_symlink():
            partial.unlink()
        with ExitStack() as locks:
            file = locks.enter_context(held(partial))
            file.truncate()
            yield partial
            # Whoever wrote may have put another file in the place of the one that is held, as safetensors does.
            if not _is_at(file, partial):
                file = locks.enter_context(held(partial))
            os.fsync(file.fileno())
            partial.replace(path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that it is there as a whole or not at all; raises as :func:`whole` does."""
    with whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write values as JSON, with null in the place of NaN and infinity; raises as :func:`whole` does."""
    write_whole(path, json.dumps(for_json(content), indent=indent, allow_nan=False) + "\n")


def for_json(content: Any) -> Any:
    """Plain values, and those within them, as JSON can hold them: it has no number for a missing one."""
    if isinstance(content, Mapping):
        return {key: for_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [for_json(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def reserve(path: Path) -> None:
    """Have the disk set aside blocks for all of a file's length, or remove it and raise a DataError."""
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return
    except AttributeError:  # not on this system
        full = free < size
    except OSError as error:
        full = error.errno not in (errno.EOPNOTSUPP, errno.EINVAL) or free < size
    if full:
        path.unlink()
        raise DataError(f"{path}: needs {size:,} bytes, and {free:,} are free on its disk; make room, and run it again")


def scratch(name: str) -> Path:
    """A new folder for what is needed as long as this process runs; it is removed when the process ends."""
    folder = Path(mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def alone(*folders: Path, doing: str, wait: bool = False, lock: str = ".lock") -> Iterator[None]:
    """Have folders to oneself, which are made if they are missing; the lock of a killed process is gone with it.

    A DataError where another process has one of them, or it cannot be written to. ``doing`` is what that one is doing
    there, for the error; with ``wait`` this process waits for its end instead. ``lock`` names the file that is locked:
    things that may go on in one folder at a time have their own.
    """
    with ExitStack() as stack:
        for folder in {each.resolve(): each for each in folders}.values():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(folder / lock, wait=wait))
            except BlockingIOError:
                raise DataError(f"{folder}: another process {doing} here; wait for its end") from None
            except OSError as error:
                raise DataError(f"{folder}: cannot be written to: {error.strerror}; choose another folder") from None
        yield


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[BinaryIO]:
    """Hold a lock, an open file that is there only while it is held; what a killed process left is taken over.

    A BlockingIOError where another process or thread holds it, an OSError where the file cannot be written.
    """
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            if not lock_descriptor(file.fileno(), blocking=wait):
                raise BlockingIOError(f"another process holds {path}")
            # Whoever held it may have removed the file after it was opened here: then it keeps nobody out.
            if not _is_at(file, path):
                continue
            try:
                yield file
            finally:
                if _is_at(file, path):  # and not renamed, or another file by now
                    path.unlink()
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that has a path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class Journal:
    """An append-only file of entries that survives a kill: an entry is there as a whole, or not at all.

    It is made at once, so that a place that cannot be written to is found before any work. Several threads may add to
    one journal; a second process is refused. A DataError where the file cannot be written, another process has it, or a
    line, other than an unfinished last one, is not a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        with writing(path):
            # Nothing is held back in memory, where it would be written at the end after all.
            self._file = path.open("a+b", buffering=0)
        try:
            if not lock_descriptor(self._file.fileno(), blocking=False):
                raise DataError(f"{path}: another process is writing to it; wait for its end")
            self._read()
        except Exception:
            self._file.close()
            raise

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write an entry and wait until the disk has it.

        One that cannot be written, or would not be read again, is a DataError, and the journal is as it was.
        """
        text = json.dumps(entry)
        stored = parse_json(text, f"{self.path}: a new entry")
        line = text.encode() + b"\n"
        with self._lock, writing(self.path):
            self._file.truncate(self._size)  # what could not be cut off at once
            try:
                written = 0
                while written < len(line):  # a disk that is nearly full takes a part
                    written += self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._size)  # half a line would spoil the next
                raise
            self._size += len(line)
            self.entries.append(stored)

    def cut(self, count: int) -> None:
        """Keep the first entries alone; raises as :meth:`add` does."""
        with self._lock, writing(self.path):
            self._file.seek(0)
            self._size = sum(map(len, self._file.readlines()[:count]))
            self._file.truncate(self._size)
            del self.entries[count:]

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        *lines, last = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if (entry := _entry(line)) is None:
                raise DataError(f"{self.path}, line {number}: not a JSON object; remove the line, or the whole journal")
            self.entries.append(entry)
        # Killed while writing: half an entry would spoil the next one. Its line's end may be all that is missing.
        self._size = len(content) - len(last)
        with writing(self.path):
            self._file.truncate(self._size)
        if (entry := _entry(last)) is not None:
            self.add(entry)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line.decode(), "the entry")
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
