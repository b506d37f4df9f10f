"""Engines: where independent jobs are done, in this process or by the workers of a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from personalib.base.data import DataError

#: What a job takes.
Job = TypeVar("Job")
#: What a job gives.
Result = TypeVar("Result")


class Engine(Protocol):
    """Does jobs that do not depend on one another, each a name and what its function takes.

    One whose worker was lost is done again by another. The caller alone writes files.
    """

    @property
    def name(self) -> str:
        """For a record of what was run."""

    def run(
        self, start: Callable[[], Callable[[Job], Result]], jobs: Iterable[tuple[str, Job]], gpu: bool = False
    ) -> Iterator[tuple[str, Result]]:
        """The name of each job with its result, in whatever order they are done.

        ``start`` is called once a worker, which may need a GPU of its own: it loads what jobs share, and returns the
        function that does one. Jobs are taken one by one as workers are free.

        Raises:
            DataError: a job cannot be done, as the engine's own class says.
            Exception: what ``start`` or the function of a job raised; it is not tried again.
        """


@dataclass(frozen=True)
class LocalEngine:
    """Does one job after the other in this process."""

    name = "local"

    def run(
        self, start: Callable[[], Callable[[Job], Result]], jobs: Iterable[tuple[str, Job]], gpu: bool = False
    ) -> Iterator[tuple[str, Result]]:
        """Do jobs in their order; see :meth:`Engine.run`."""
        function = None
        for name, job in jobs:
            # Not before there is a job: to start may take long.
            function = function or start()
            yield name, function(job)


def map_jobs(
    function: Callable[[Job], Result], jobs: Iterable[tuple[str, Job]], engine: Engine, gpu: bool = False
) -> Iterator[tuple[str, Result]]:
    """The results of a function that needs nothing loaded beforehand, see :meth:`Engine.run`.

    Other processes have to be able to import its module.

    Example:
        >>> dict(map_jobs(len, [("short", "ab"), ("long", "abcd")], LocalEngine()))
        {'short': 2, 'long': 4}
    """
    # Not a generator itself: a wrong engine is noticed here and not at the first result.
    return engine.run(lambda: function, jobs, gpu)


def ray_engine(address: str | None = None, workers: int | None = None) -> Engine:
    """The workers of a Ray cluster; see :class:`personalib.evaluation.ray_workers.RayEngine`.

    The address is ``HOST:PORT`` of the cluster's head, or ``"auto"`` for the one that this machine is part of; without
    one, Ray is started on this machine for as long as there are jobs. Of workers there is one a GPU, or one a machine
    where jobs need none, unless told otherwise. Without Ray, or with an address of another form, it is a DataError.
    """
    try:
        from personalib.evaluation.ray_workers import RayEngine
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise DataError("the engine 'ray' needs Ray, which is not installed: pip install 'ray==2.60.0'") from None
    return RayEngine(address, workers)
