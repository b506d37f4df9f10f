"""Folders that one process at a time writes to."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from personalib.data import DataError


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Have a folder to oneself, which is made if it is missing; the lock of a killed process is gone with it.

    Args:
        folder: in which a file ``lock`` is left.
        doing: what another process is doing there, for the error.

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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{folder}: another process {doing} here; wait for its end") from None
        yield
