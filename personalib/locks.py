"""Folders that one process at a time writes to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from personalib.data import DataError


@contextmanager
def alone(folder: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Have a folder to oneself, which is made if it is missing; the lock of a killed process is gone with it.

    Args:
        folder: in which a file ``lock`` is left.
        doing: what another process is doing there, for the error.
        wait: whether to wait until another process has gone, for what both want to be there.

    Raises:
        DataError: another process has it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{folder}: another process {doing} here; wait for its end") from None
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock that is there as a file only while it is held; what a killed process left of one is taken over.

    Args:
        path: of the file; its folder is made if it is missing.

    Raises:
        BlockingIOError: another process or thread holds it.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file after it was opened here: then it keeps nobody out.
            if not _is_at(file, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one that has a path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
