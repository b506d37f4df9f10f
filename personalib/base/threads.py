"""Threads of the processor: how many a computation takes, as the environment tells the libraries below torch.

Several processes that each take every core spend their time waiting for one another, and sums over other numbers of
threads are rounded otherwise. So those who start processes say how many threads each has.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = "OMP_NUM_THREADS"


def told_threads() -> str | None:
    """How many threads the environment asks for; None where it says nothing."""
    return os.environ.get(THREADS)


def shared_threads(jobs: int) -> str | None:
    """How many threads each of so many processes should have: what the environment asks for, or an equal share.

    None leaves it to the libraries, where one process has all cores.
    """
    if told_threads() or jobs == 1:
        return told_threads()
    # this process may use fewer cores than the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(max(1, cores // jobs))


@contextmanager
def threads(wanted: str | None) -> Iterator[None]:
    """While this is open, processes that are started take so many threads; None leaves it to the libraries."""
    before = os.environ.pop(THREADS, None)
    try:
        os.environ.update({THREADS: wanted} if wanted else {})
        yield
    finally:
        os.environ.pop(THREADS, None)
        os.environ.update({THREADS: before} if before else {})
