"""Runs of sweeps: each point in a scratch folder, here or on a cluster, and published as a whole by this process.

A point's folder holds what :func:`personalib.book.runs.run_notebook` leaves: the executed notebook, its results and its
manifest, or the notebook up to the cell that failed. It is there completely or not at all, so that a run that was
killed loses only the points that were under way.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from personalib.base.data import DataError
from personalib.base.progress import progress_bar
from personalib.base.provenance import repository_root
from personalib.base.storage import alone, write_whole, writing
from personalib.base.threads import threads, told_threads
from personalib.book.chapters import RunError
from personalib.book.runs import inputs_hash, read_run, run_notebook
from personalib.book.sweep_tables import FIGURES, POINTS, TABLES, Outcome, write_tables
from personalib.book.sweeps import Point, Sweep
from personalib.evaluation.engines import Engine, LocalEngine, map_jobs

State = Literal["done", "failed", "to do"]

_REASON = "failure.txt"


@dataclass(frozen=True)
class _Job:
    """A point as a worker gets it.

    Attributes:
        notebook: its path in the repository, which may lie elsewhere on another machine; else its whole path.
        parameters: values for some of its parameters.
        inputs: the hash of all that determines the run.
        threads: of the processor, as the environment says; None where it says nothing.
    """

    notebook: Path
    parameters: Mapping[str, Any]
    inputs: str
    threads: str | None


@dataclass(frozen=True)
class _Product:
    """What a worker sends back.

    Attributes:
        files: their bytes, by their path in the point's folder.
        failure: what failed and where, in one line; None where nothing did.
    """

    files: Mapping[str, bytes]
    failure: str | None


def run_sweep(sweep: Sweep, folder: Path, engine: Engine | None = None) -> tuple[Outcome, ...]:
    """Run the points that are not done, and write the tables of all that are.

    A point that fails does not keep the others from being run. One that is done is not run again; it is done as long
    as notebook, parameters, library, data and pinned dependencies are what they were.

    Args:
        sweep: what to run.
        folder: for everything: ``points/NAME/`` for each point, ``points.csv``, and ``tables`` and ``figures`` as
            :func:`personalib.book.sweep_tables.write_tables` says.
        engine: where points are run; in this process by default. Workers of a cluster need the same library, data and
            notebook. Each has a GPU of its own where the parameter ``device`` names one, such as ``"cuda"``.

    Returns:
        What came of each point, in order.

    Raises:
        DataError: another process runs a sweep in the folder, it cannot be written to, a worker has other inputs, the
            engine fails, or the figure does not fit the table; what is done by then is kept.

    Example:
        >>> outcomes = run_sweep(load_sweep("contrast_pairs"), Path("results/sweeps/contrast_pairs"))  # doctest: +SKIP
        >>> [outcome.state for outcome in outcomes]  # doctest: +SKIP
        ['done', 'done', 'done', 'done', 'done', 'done', 'done', 'done', 'done']
    """
    with _alone(folder):
        waiting = [point for point, state in point_states(sweep, folder) if state != "done"]
        _forget(folder)
        with progress_bar(len(sweep.points), "point") as bar:
            bar.set_description(sweep.name)
            bar.update(len(sweep.points) - len(waiting))
            for name, product in _products(sweep, waiting, engine or LocalEngine()):
                _publish(product, point_folder(folder, name))
                bar.update()
        outcomes = tuple(_outcome(sweep, point, folder) for point in sweep.points)
        write_tables(sweep, outcomes, folder)
    return outcomes


def point_states(sweep: Sweep, folder: Path) -> list[tuple[Point, State]]:
    """Each point with what is there of it; a point that failed is tried again by the next run."""
    return [(point, _state(sweep, point, folder)) for point in sweep.points]


def point_folder(folder: Path, name: str) -> Path:
    """Where a point's files are, by its name."""
    return folder / "points" / name


def _state(sweep: Sweep, point: Point, folder: Path) -> State:
    place = point_folder(folder, point.name)
    if read_run(sweep.chapter.path, point.parameters, place):
        return "done"
    return "failed" if (place / _REASON).is_file() else "to do"


def _outcome(sweep: Sweep, point: Point, folder: Path) -> Outcome:
    place = point_folder(folder, point.name)
    run = read_run(sweep.chapter.path, point.parameters, place)
    if run:
        return Outcome(point, place, place / "results" / run.name, float(run.manifest["seconds"]), None)
    reason = place / _REASON
    if reason.is_file():
        notebook = place / f"{sweep.chapter.name}.failed.ipynb"
        return Outcome(point, place, None, None, f"{reason.read_text('utf-8')}; the notebook up to there is {notebook}")
    # It was done, and what it was made of is not what it was.
    return Outcome(point, place, None, None, "an input was changed while points were run; run it again")


def _products(sweep: Sweep, points: list[Point], engine: Engine) -> Iterator[tuple[str, _Product]]:
    """What the workers send back, by the name of the point."""
    jobs = ((point.name, _job(sweep, point)) for point in points)
    devices = (str(sweep.chapter.merge(point.parameters).get("device")) for point in points)
    return map_jobs(_run_point, jobs, engine, gpu=any(device.startswith("cuda") for device in devices))


def _job(sweep: Sweep, point: Point) -> _Job:
    notebook = sweep.chapter.path.resolve()
    if notebook.is_relative_to(repository_root()):
        notebook = notebook.relative_to(repository_root())
    inputs = inputs_hash(sweep.chapter.path, point.parameters)
    return _Job(notebook, point.parameters, inputs, told_threads())


def _run_point(job: _Job) -> _Product:
    """Run a point in a scratch folder, in whatever process.

    Raises:
        DataError: this machine has other inputs than the one that sent the job.
    """
    notebook = repository_root() / job.notebook
    _check_inputs(job, notebook)
    with TemporaryDirectory(prefix="sweep-") as scratch, threads(job.threads):
        folder = Path(scratch)
        try:
            run_notebook(notebook, job.parameters, folder, reuse=False, position=1)
            failure = None
        except RunError as error:
            # The notebook goes where the caller puts it, and is told of there.
            there = f"; the notebook up to there is {folder / notebook.stem}.failed.ipynb"
            failure = ": ".join(str(error).replace(there, "").splitlines())
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return _Product({path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, failure)


def _check_inputs(job: _Job, notebook: Path) -> None:
    """Notice that this machine has another notebook, library or data.

    Raises:
        DataError: it has.
    """
    try:
        inputs = inputs_hash(notebook, job.parameters)
    except RunError as error:
        raise DataError(f"a worker: {error}; have the same notebook on every machine") from None
    if inputs != job.inputs:
        raise DataError(
            f"{notebook}: a worker has another version of the notebook, of personalib, of its data or of its pinned "
            "dependencies, or one was changed meanwhile; have the same on every machine, and run it again"
        )


def _publish(product: _Product, place: Path) -> None:
    """Have a point's files in their place, all at once and after the disk has them."""
    draft = place.with_name(f".{place.name}.partial")
    failure = {} if product.failure is None else {_REASON: product.failure.encode()}
    with writing(place):
        for name, content in {**product.files, **failure}.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(draft / name, content)
        shutil.rmtree(place, ignore_errors=True)
        draft.replace(place)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have the folder to oneself, without what a killed run has left half written.

    Raises:
        DataError: another process runs a sweep there, or it cannot be written to.
    """
    with alone(folder, doing="runs a sweep"):
        for draft in (folder / "points").glob(".*.partial"):
            shutil.rmtree(draft)
        yield


def _forget(folder: Path) -> None:
    """Remove the tables, which points and plan may no longer be those of: none is ever stale."""
    (folder / POINTS).unlink(missing_ok=True)
    for name in (TABLES, FIGURES):
        shutil.rmtree(folder / name, ignore_errors=True)
