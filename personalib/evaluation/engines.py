"""Engines: where independent jobs are done, in this process or by the workers of a Ray cluster.

A job is a name and whatever its function takes. Jobs do not depend on one another, so a job whose worker was lost is
done again by another one. Results come as they are ready, and the caller alone writes files.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from personalib.base.data import DataError

#: What a job takes.
Job = TypeVar("Job")
#: What a job gives.
Result = TypeVar("Result")


class Engine(Protocol):
    """Does jobs, and has a name for a record of what was run."""

    @property
    def name(self) -> str:
        """For a record."""

    def run(
        self, start: Callable[[], Callable[[Job], Result]], jobs: Iterable[tuple[str, Job]], gpu: bool = False
    ) -> Iterator[tuple[str, Result]]:
        """The name of each job with its result, in whatever order they are done.

        Args:
            start: called once a worker; it loads what jobs share, and returns the function that does one.
            jobs: each with a name for errors; taken one by one as workers are free.
            gpu: whether each worker needs a GPU of its own.

        Raises:
            DataError: a job cannot be done, as the engine's own class says.
            Exception: what ``start`` or the function of a job raised; it is not tried again.
        """


@dataclass(frozen=True)
class LocalEngine:
    """Does one job after the other in this process."""

    @property
    def name(self) -> str:
        """For a record."""
        return "local"

    def run(
        self, start: Callable[[], Callable[[Job], Result]], jobs: Iterable[tuple[str, Job]], gpu: bool = False
    ) -> Iterator[tuple[str, Result]]:
        """Do jobs in their order; see :meth:`Engine.run`. A GPU is the business of ``start``."""
        function = None
        for name, job in jobs:
            # Not before there is a job: to start may take long.
            function = function or start()
            yield name, function(job)


def map_jobs(
    function: Callable[[Job], Result], jobs: Iterable[tuple[str, Job]], engine: Engine, gpu: bool = False
) -> Iterator[tuple[str, Result]]:
    """The results of a function that needs nothing loaded beforehand, see :meth:`Engine.run`.

    For an engine of other processes it has to be a function of a module that they can import; its argument and result
    are sent to them and back.

    Example:
        >>> dict(map_jobs(len, [("short", "ab"), ("long", "abcd")], LocalEngine()))
        {'short': 2, 'long': 4}
    """
    # Not a generator itself: a wrong engine is noticed here and not at the first result.
    return engine.run(partial(_itself, function), jobs, gpu)


def ray_engine(address: str | None = None, workers: int | None = None) -> Engine:
    """The workers of a Ray cluster; see :class:`personalib.evaluation.ray_workers.RayEngine`.

    Args:
        address: ``HOST:PORT`` of the cluster's head, or ``"auto"`` for the one that this machine is part of; by
            default Ray is started on this machine alone, for as long as there are jobs.
        workers: how many; by default one a GPU, or one a machine where jobs need none.

    Raises:
        DataError: Ray is not installed, or the address is of another form.
    """
    try:
        from personalib.evaluation.ray_workers import RayEngine
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise DataError("the engine 'ray' needs Ray, which is not installed: pip install 'ray==2.60.0'") from None
    return RayEngine(address, workers)


def _itself(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function
