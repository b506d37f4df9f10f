"""The Ray engine: one worker process a GPU, or a machine, of a cluster; what a lost one had is given to others.

Ray's own processes send each other pickles: whoever reaches a cluster's ports runs code on it. No file is one.
"""

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from personalib.base.data import DataError

#: What a job takes.
Job = TypeVar("Job")
#: What a job gives.
Result = TypeVar("Result")

# Run in a process of its own: Ray keeps trying an address for minutes, and cannot be told to stop.
_PROBE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40)
"""


@dataclass(frozen=True)
class RayEngine:
    """Workers of a Ray cluster; an address that is none, or a number out of range, is a DataError.

    Attributes:
        address: ``HOST:PORT`` of the head, or ``"auto"`` for the cluster that this machine is part of; None starts Ray
            on this machine alone, for as long as there are jobs. Where the process is connected already, the cluster
            that it is connected to is used, and stays connected.
        workers: how many; by default one a GPU of the cluster, or one a machine where jobs need none.
        tries: how many workers may be lost with one job, and how many in a row before they are ready.
        connect_seconds: how long to wait for the cluster.
        start_seconds: how long to wait until one worker is ready, where none is.
    """

    name = "ray"
    address: str | None = None
    workers: int | None = None
    tries: int = 3
    connect_seconds: float = 30.0
    start_seconds: float = 900.0

    def __post_init__(self) -> None:
        host, _, port = (self.address or "").rpartition(":")
        if self.address not in (None, "auto") and (not host or "/" in host or not port.isdecimal()):
            raise DataError(f"address {self.address!r}: give HOST:PORT of the cluster's head, or auto")
        if self.tries < 1 or (self.workers is not None and self.workers < 1):
            raise DataError(f"workers={self.workers}, tries={self.tries}; take at least one of each")

    def run(
        self, start: Callable[[], Callable[[Job], Result]], jobs: Iterable[tuple[str, Job]], gpu: bool = False
    ) -> Iterator[tuple[str, Result]]:
        """Do jobs; see :meth:`personalib.evaluation.engines.Engine.run`. Without a job nothing is connected to.

        It is a DataError where the cluster is not reached in time, has no room for a worker, no worker gets ready, or
        one job lost as many workers as may be.
        """
        tasks = (_Task(name, job) for name, job in jobs)
        first = next(tasks, None)
        if first is None:
            return
        with self._connected():
            crew = _Crew(ray.put(start), self._count(gpu), self.tries, self.start_seconds, gpu)
            try:
                yield from crew.results(chain([first], tasks))
            finally:
                for worker in [*crew.idle, *(worker for worker, _ in crew.busy.values())]:
                    _end(worker)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        if ray.is_initialized():
            yield
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if self.address:
            _check_reachable(self.address, self.connect_seconds)
        try:
            ray.init(
                self.address or "local",
                log_to_driver=False,
                # Of a cluster that is there already it cannot be said.
                include_dashboard=None if self.address else False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(self.address or "local", _last_line(str(error))) from None
        try:
            yield
        finally:
            ray.shutdown()

    def _count(self, gpu: bool) -> int:
        """How many workers are started, if the cluster has room for so many."""
        kind = "GPU" if gpu else "CPU"
        rooms = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
        wanted = self.workers or (sum(rooms) if gpu else sum(room > 0 for room in rooms))
        if not 1 <= wanted <= sum(rooms):
            raise DataError(
                f"{max(wanted, 1)} workers need a {kind} each, and the cluster has {sum(rooms)}; take fewer workers, "
                "or start Ray on more machines"
            )
        return wanted


@dataclass
class _Task:
    """A job that is not done yet, with how many workers were lost with it."""

    name: str
    job: Any
    lost: int = 0


class _Worker:
    """Has what jobs share, in a process of its own."""

    def start(self, start: Callable[[], Callable[[Any], Any]]) -> None:
        """Load it. Not done in ``__init__``, where Ray does not tell an error from a lost process."""
        self.function = start()

    def work(self, job: Any) -> Any:
        """Do a job."""
        return self.function(job)


@dataclass
class _Crew:
    """Workers, what each of them does, and what is still to be done; ``start`` is in Ray's store."""

    start: Any
    count: int
    tries: int
    patience: float
    gpu: bool
    # By what is awaited, the worker with its task; None for one that is starting.
    busy: dict[Any, tuple[Any, _Task | None]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    # Tasks whose workers were lost, and how many workers in a row were lost before they were ready.
    again: deque[_Task] = field(default_factory=deque)
    unready: int = 0

    def results(self, tasks: Iterator[_Task]) -> Iterator[tuple[str, Any]]:
        """The results of tasks, as they come."""
        for _ in range(self.count):
            self._hire()
        while self._hand_out(tasks):
            for found in self._next_result():
                # Before whoever gets the result writes it, so that the worker does not wait for the disk.
                self._hand_out(tasks)
                yield found

    def _hire(self) -> None:
        resources = {"num_cpus": 1, "num_gpus": int(self.gpu)}
        worker: Any = ray.remote(_Worker).options(**resources, scheduling_strategy="SPREAD").remote()
        self.busy[worker.start.remote(self.start)] = worker, None

    def _hand_out(self, tasks: Iterator[_Task]) -> bool:
        """Give tasks to idle workers; whether anything is still to be done."""
        while self.idle:
            task = self.again.popleft() if self.again else next(tasks, None)
            if task is None:
                return any(task for _, task in self.busy.values())
            worker = self.idle.pop()
            self.busy[worker.work.remote(task.job)] = worker, task
        return True

    def _next_result(self) -> Iterator[tuple[str, Any]]:
        """What comes next, unless it is a worker that got ready or was lost."""
        working = any(task for _, task in self.busy.values())
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=None if working else self.patience)
        if not ready:
            raise DataError(
                f"no worker got ready within {self.patience:g} seconds; what is done is kept: look at the "
                "machines with `ray status`, and run it again"
            )
        worker, task = self.busy.pop(ready[0])
        try:
            value = ray.get(ready[0])
        except RayTaskError as error:
            _end(worker)
            raise (error.cause or error) from None
        except RayError as error:
            self._lost(worker, task, type(error).__name__)
            return
        self.idle.append(worker)
        self.unready = 0
        if task:
            yield task.name, value

    def _lost(self, worker: Any, task: _Task | None, reason: str) -> None:
        """Have another worker in the place of a lost one, and its task done again."""
        _end(worker)
        if task:
            task.lost += 1
            self.again.append(task)
        else:
            self.unready += 1
        lost, name = (task.lost, task.name) if task else (self.unready, "before it was ready")
        if lost >= self.tries and (task or not any(task for _, task in self.busy.values())):
            raise DataError(
                f"{name}: a worker was lost {lost} times ({reason}); what is done is kept: see whether the memory of "
                "the machines is enough, and run it again, and it goes on"
            )
        self._hire()


def _end(worker: Any) -> None:
    # Of a worker whose machine is gone there may be nothing to end.
    with suppress(RayError, ValueError):
        ray.kill(worker)


def _check_reachable(address: str, seconds: float) -> None:
    """Notice in time that there is no cluster."""
    command = [sys.executable, "-c", _PROBE, address]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {seconds:g} seconds") from None
    except subprocess.CalledProcessError as error:
        raise _unreachable(address, _last_line(error.stderr)) from None


def _unreachable(address: str, reason: str) -> DataError:
    return DataError(
        f"Ray at {address}: {reason}; start it with `ray start --head --port 6379`, with the same versions of Python "
        "and Ray, and give the address that this prints"
    )


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it ended without a word")
