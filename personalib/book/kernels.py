"""A nursery of kernels, as whoever executes chapters sees it; see :mod:`personalib.book.nursery`."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

_SCRIPT = Path(__file__).with_name("nursery.py")


class Nursery:
    """A process that kernels are forked from, as long as it is open."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # Without a signal to it an interrupt does not end it before its kernels were told.
            [sys.executable, str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._turn = Lock()

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
        """The number of the process of a new kernel, or 0 where there is no nursery any more."""
        assert self._process.stdin and self._process.stdout
        with self._turn, suppress(OSError):
            self._process.stdin.write(json.dumps([list(arguments), dict(environment), folder]) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline() or 0)
        return 0

    def close(self) -> None:
        """End it at once, ready or not; a kernel that is left ends, too."""
        self._process.kill()
        with suppress(OSError):
            self._process.communicate()


_OPEN: list[Nursery] = []


@contextmanager
def nursery(wanted: bool) -> Iterator[None]:
    """While this is open, kernels that this process starts are forked from one process where that is wanted and can be.

    On macOS a process that has loaded the system's libraries may not be forked.
    """
    if not (wanted and sys.platform == "linux"):
        yield
        return
    _OPEN.append(Nursery())
    try:
        yield
    finally:
        _OPEN.pop().close()


def forked(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
    """As :meth:`Nursery.fork` of the nursery that was opened last; 0 where none is open."""
    return _OPEN[-1].fork(arguments, environment, folder) if _OPEN else 0
