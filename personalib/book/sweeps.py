"""Sweeps: one chapter at every combination of some of its parameters, as a YAML file declares it.

A point's folder holds what :func:`personalib.book.runs.run_notebook` leaves, its manifest written last, so that a
killed run loses only the points under way.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from personalib.base.data import DataError, Strict, exists, named_file, parse, read_yaml
from personalib.base.progress import progress_bar
from personalib.base.provenance import repository_root
from personalib.base.storage import alone, write_whole, writing
from personalib.base.tables import to_csv
from personalib.base.threads import threads, told_threads
from personalib.book.chapters import Chapter, RunError
from personalib.book.parameters import absolute
from personalib.book.runs import inputs_hash, read_run, run_notebook
from personalib.evaluation.engines import Engine, LocalEngine, map_jobs

#: What a worker gets: the notebook's path in the repository or its whole path, parameters, hash of inputs, threads.
Job = tuple[Path, Mapping[str, Any], str, str | None]
_CLASH = "parameter."
_CHANGED = "an input was changed while points were run; run it again"
# A text that no number or constant is written like, and what a folder may be called on every file system.
_WORD = re.compile(r"(?!(?:true|false|null)$)[a-z][a-z0-9_.+-]*")
_NUMBER = re.compile(r"[-+.0-9e]+")
_FOLDER_NAME = re.compile(r"[a-z0-9_.+=,-]{1,100}")


class FigurePlan(Strict):
    """A figure of one collected table; all names but the table's are of its columns.

    Attributes:
        table: the table's name.
        x: along the figure; numbers make lines, anything else makes rows of dots.
        y: what is measured.
        by: one line each.
        over: what is averaged, such as the seed: the mean over its values is drawn with one standard deviation of them
            either way. Without it, mean and standard deviation are those of the rows.
        where: which rows are drawn: those that have these values.
    """

    table: str
    x: str
    y: str
    by: str | None = None
    over: str | None = None
    where: dict[str, str | bool | int | float] = Field(default={})


class SweepPlan(Strict):
    """What a sweep's file holds.

    Attributes:
        chapter: the name of a chapter, or a notebook's file, beside the sweep's file or from the working directory.
        vary: parameters with their values. Every combination is a point; the last parameter varies fastest.
        fixed: other parameters with the one value that they have at all points.
        collect: names of the chapter's results, beside that of the figure; all where it is empty.
        show: a figure, if there is to be one.
    """

    chapter: str
    vary: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    fixed: dict[str, Any] = Field(default={})
    collect: tuple[str, ...] = ()
    show: FigurePlan | None = None


@dataclass(frozen=True)
class Point:
    """One combination of values: of the parameters that vary, and of these and the fixed ones together."""

    varied: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @property
    def texts(self) -> dict[str, str]:
        """The varied parameters as they are written in tables: text as it stands, anything else as in JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in self.varied.items()
        }

    @property
    def name(self) -> str:
        """What the point's folder is called: ``model=organism,seed=0``, with a hash where that would not be safe."""
        readable = ",".join(f"{name}={text}" for name, text in self.texts.items())
        if all(map(_is_plain, self.varied.values())) and _FOLDER_NAME.fullmatch(readable):
            return readable
        essence = json.dumps(list(self.varied.items()), sort_keys=True)
        safe = re.sub(r"[^A-Za-z0-9_.+=,-]+", "_", readable)[:100]
        return f"{safe}~{hashlib.sha256(essence.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: its file's name and contents, the source notebook, and all points in order."""

    name: str
    plan: SweepPlan
    chapter: Chapter
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Outcome:
    """What there is of a point: its folder; results and seconds once it is done; or what failed, in one line."""

    point: Point
    folder: Path
    results: Path | None = None
    seconds: float | None = None
    failure: str | None = None

    @property
    def state(self) -> str:
        """What there is, in a word or two."""
        return "done" if self.results else "failed" if self.failure else "to do"


def load_sweep(source: str | Path) -> Sweep:
    """Read a sweep from a file, or by its name in ``data/sweeps``, and check it against its chapter.

    A file that is missing, is no sweep, or does not fit the chapter is a DataError that names file, key and fix.

    Example:
        >>> load_sweep("contrast_pairs").points[0].name
        'pairs=16,seed=0'
    """
    path = named_file(source, "sweeps", "sweep")
    plan = parse(SweepPlan, read_yaml(path), str(path))
    try:
        chapter = Chapter.read(_notebook(plan.chapter, path.parent))
        vary = {name: _values(chapter, name, values) for name, values in plan.vary.items()}
        fixed = {name: _value(chapter, "fixed", name, value) for name, value in plan.fixed.items()}
        if both := vary.keys() & fixed:
            raise ValueError(f"fixed.{min(both)}: it varies, too; leave it out under vary or under fixed")
    except (RunError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    combinations = (dict(zip(vary, values, strict=True)) for values in product(*vary.values()))
    return Sweep(path.stem, plan, chapter, tuple(Point(varied, varied | fixed) for varied in combinations))


def run_sweep(sweep: Sweep, folder: Path, engine: Engine | None = None) -> tuple[Outcome, ...]:
    """Run the points that are not done, one after the other or on an engine, and write the tables of all that are.

    A point that fails stops no other. One that is done is not run again as long as notebook, parameters, library, data
    and pinned dependencies are what they were.

    In the folder ``points/NAME`` has each point's files, ``points.csv`` a row for each point, and ``tables/NAME.csv``
    all points' rows of a result, each after the varied parameters and with its values as the chapter wrote them; a
    parameter that a column has the name of is ``parameter.NAME`` there. ``figures/TABLE.png`` is the figure, with its
    numbers as CSV. Workers of a cluster need the same library, data and notebook; each has a GPU of its own where the
    parameter ``device`` names one, such as ``"cuda"``.

    A DataError where another process runs a sweep in the folder, it cannot be written to, a worker has other inputs,
    the engine fails, a result is no table, or the figure does not fit the table; what is done by then is kept.
    """
    with alone(folder, doing="runs a sweep"):
        waiting = [outcome.point for outcome in outcomes(sweep, folder) if outcome.state != "done"]
        # Points and plan may be others by now: no table is ever stale.
        (folder / "points.csv").unlink(missing_ok=True)
        for name in ("tables", "figures"):
            shutil.rmtree(folder / name, ignore_errors=True)
        failures: dict[str, str] = {}
        with progress_bar(len(sweep.points), "point") as bar:
            bar.set_description(sweep.name)
            bar.update(len(sweep.points) - len(waiting))
            for name, (files, failure) in _products(sweep, waiting, engine or LocalEngine()):
                _publish(files, folder / "points" / name)
                failures[name] = failure or _CHANGED
                bar.update()
        found = outcomes(sweep, folder, failures)
        _write_tables(sweep, found, folder)
    return found


def outcomes(sweep: Sweep, folder: Path, failures: Mapping[str, str] | None = None) -> tuple[Outcome, ...]:
    """What there is of each point, with the failures that are known by its name; a failed one is tried again."""
    return tuple(_outcome(sweep.chapter, point, folder, (failures or {}).get(point.name)) for point in sweep.points)


def _outcome(chapter: Chapter, point: Point, folder: Path, failure: str | None) -> Outcome:
    place = folder / "points" / point.name
    if run := read_run(chapter.path, point.parameters, place):
        return Outcome(point, place, place / "results" / run.name, run.manifest["seconds"])
    failed = (place / f"{chapter.name}.failed.ipynb").is_file()
    return Outcome(point, place, failure=failure or ("an earlier run failed" if failed else None))


def _products(sweep: Sweep, points: list[Point], engine: Engine) -> Iterator[tuple[str, tuple[dict[str, bytes], str]]]:
    """What :func:`_run_point` gives, by the name of the point."""
    notebook = sweep.chapter.path.resolve()
    if notebook.is_relative_to(repository_root()):  # which may lie elsewhere on another machine
        notebook = notebook.relative_to(repository_root())

    def job(point: Point) -> Job:
        return notebook, point.parameters, inputs_hash(sweep.chapter.path, point.parameters), told_threads()

    devices = [str(sweep.chapter.merge(point.parameters).get("device")) for point in points]
    gpu = any(device.startswith("cuda") for device in devices)
    return map_jobs(_run_point, ((point.name, job(point)) for point in points), engine, gpu)


def _run_point(job: Job) -> tuple[dict[str, bytes], str]:
    """Run a point in whatever process; gives the files that it leaves, by their path, and what failed in one line."""
    path, parameters, inputs, asked_threads = job
    notebook = repository_root() / path
    try:
        same = inputs_hash(notebook, parameters) == inputs
    except RunError:  # there is no such notebook
        same = False
    if not same:
        raise DataError(
            f"{notebook}: a worker has another version of the notebook, of personalib, of its data or of its pinned "
            "dependencies, or one was changed meanwhile; have the same on every machine, and run it again"
        )
    with TemporaryDirectory(prefix="sweep-") as scratch, threads(asked_threads):
        folder, failure = Path(scratch), ""
        try:
            run_notebook(notebook, parameters, folder, reuse=False)
        except RunError as error:
            # The notebook goes where the caller puts it, and is told of there.
            there = f"; the notebook up to there is {folder / notebook.stem}.failed.ipynb"
            failure = ": ".join(str(error).replace(there, "").splitlines())
        files = [file for file in folder.rglob("*") if file.is_file()]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}, failure


def _publish(files: Mapping[str, bytes], place: Path) -> None:
    """Put a point's files in their place, last the manifest, without which the others are no run."""
    with writing(place):
        shutil.rmtree(place, ignore_errors=True)
        for name in sorted(files, key=lambda name: name.endswith(".manifest.json")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(place / name, files[name])


def _notebook(chapter: str, folder: Path) -> Path:
    """The file of a chapter that is given by its name or as a file, which a folder may hold."""
    if not chapter.endswith(".ipynb"):
        return repository_root() / "notebooks" / f"{chapter}.ipynb"
    beside = folder / chapter
    return beside if exists(beside) else Path(chapter)


def _values(chapter: Chapter, name: str, given: Sequence[Any]) -> list[Any]:
    values = [_value(chapter, "vary", name, value) for value in given]
    texts = [json.dumps(value, sort_keys=True) for value in values]
    for place, text in enumerate(texts):
        if text in texts[:place]:
            raise ValueError(f"vary.{name}: {text} is there twice; remove one")
    return values


def _value(chapter: Chapter, key: str, name: str, value: Any) -> Any:
    """A value in the type that the chapter declares; a path that is there from the root of the file system."""
    try:
        checked = chapter.merge({name: value})[name]
    except RunError as error:
        raise ValueError(f"{key}.{name}: {error}") from None
    return absolute(checked) if isinstance(checked, str) else checked


def _is_plain(value: Any) -> bool:
    """Whether no other value is written as this one is, and it is written without brackets and spaces."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value))
    return value is None or isinstance(value, bool) or bool(_NUMBER.fullmatch(json.dumps(value)))


def _write_tables(sweep: Sweep, found: Sequence[Outcome], folder: Path) -> None:
    told = {name: [getattr(each, name) for each in found] for name in ("state", "seconds", "failure")}
    places = [each.folder.relative_to(folder).as_posix() for each in found]
    points = pd.DataFrame([each.point.texts for each in found]).assign(**told, folder=places)
    _write(points, folder / "points.csv")
    show = sweep.plan.show
    try:
        results = _results(sweep.plan, found)
        for name, parts in results.items():
            _write(_joined(parts), folder / "tables" / f"{name}.csv")
        if show and results:
            numbers = figure_numbers(pd.read_csv(folder / "tables" / f"{show.table}.csv"), show)
            _write(numbers, folder / "figures" / f"{show.table}.csv")
            _draw(numbers, show, folder / "figures" / f"{show.table}.png")
    except DataError as error:
        raise DataError(f"{sweep.name}: {error}") from None


def _results(plan: SweepPlan, found: Sequence[Outcome]) -> dict[str, list[tuple[Point, Path]]]:
    """The files that are to be collected from finished points, by the name of the result."""
    files: dict[str, list[tuple[Point, Path]]] = {}
    done = [(outcome.point, outcome.results) for outcome in found if outcome.results]
    for point, results in done:
        for path in sorted(results.rglob("*.csv")):
            files.setdefault(path.relative_to(results).with_suffix("").as_posix(), []).append((point, path))
    shown = (plan.show.table,) if plan.show else ()
    for name in (*plan.collect, *shown):
        if done and name not in files:
            raise DataError(
                f"the chapter has no result {name!r}, but {', '.join(sorted(files)) or 'none'}; "
                "correct collect or show, and run it again: points that are done stay done"
            )
    return {name: parts for name, parts in files.items() if not plan.collect or name in (*plan.collect, *shown)}


def _joined(parts: Sequence[tuple[Point, Path]]) -> pd.DataFrame:
    """The rows of several points' files as text, so that no value changes, each with the parameters of its point."""
    tables = []
    for _, path in parts:
        try:
            tables.append(pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False))
        except ValueError as error:
            raise DataError(f"{path}: not a table: {error}") from None
    taken = {column for table in tables for column in table}
    for (point, _), table in zip(parts, tables, strict=True):
        for place, (name, text) in enumerate(point.texts.items()):
            table.insert(place, _CLASH * (name in taken) + name, text, allow_duplicates=True)
    return pd.concat(tables, ignore_index=True).fillna("")


def figure_numbers(table: pd.DataFrame, plan: FigurePlan) -> pd.DataFrame:
    """What a figure of a table draws: by ``x`` and ``kind`` the mean ``value``, the ends ``low``, ``high``, and ``n``.

    A DataError where a column is missing, nothing is left, or what is measured is no number.
    """
    used = {"x": plan.x, "y": plan.y, "by": plan.by, "over": plan.over} | {f"where.{name}": name for name in plan.where}
    for key, name in used.items():
        if name is not None and name not in table:
            raise DataError(f"show.{key}: {plan.table!r} has no column {name!r}, but {', '.join(table)}")
    for name, wanted in plan.where.items():
        table = table[table[name] == wanted]
    if table.empty:
        raise DataError(f"show.where: no row of {plan.table!r} has these values")
    if not pd.api.types.is_numeric_dtype(table[plan.y]) or table[plan.y].isna().all():
        raise DataError(f"show.y: {plan.y!r} of {plan.table!r} has no numbers")
    kinds = table[plan.by].astype(str) if plan.by else ""
    over = table[plan.over] if plan.over else range(len(table))
    rows = pd.DataFrame({"x": table[plan.x], "kind": kinds, "over": over, "value": table[plan.y]})
    means = rows.dropna(subset="value").groupby(["x", "kind", "over"], sort=False)["value"].mean()
    found = means.groupby(["x", "kind"], sort=False).agg(["mean", "std", "size"]).fillna({"std": 0.0}).reset_index()
    ends = {"low": found["mean"] - found["std"], "high": found["mean"] + found["std"], "n": found["size"]}
    return found[["x", "kind"]].assign(value=found["mean"], **ends)


def _draw(numbers: pd.DataFrame, plan: FigurePlan, path: Path) -> None:
    """Draw the numbers of a figure: lines over numbers, rows of dots over anything else."""
    from matplotlib import pyplot as plt  # seconds to import, and not needed where nothing is drawn

    from personalib.base import plots

    plots.set_theme()
    x, y, by, over = ((name or "").removeprefix(_CLASH) for name in (plan.x, plan.y, plan.by, plan.over))
    label = f"{y}, mean ± 1 SD" + (f" over {over}" if over else "")
    if pd.api.types.is_numeric_dtype(numbers["x"]):
        figure, [axes] = plots.new_figure()
        plots.dose_curve(numbers.rename(columns={"x": "coefficient"}), axes, label=label).set_xlabel(x)
    else:
        figure, [axes] = plots.new_figure(height=1.2 + 0.32 * numbers["x"].nunique())
        plots.interval_dots(numbers.rename(columns={"x": "category"}), axes, label=label).set_ylabel(x)
    legend = axes.get_legend()
    if legend and by:
        legend.set_title(by)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(table), encoding="utf-8")
