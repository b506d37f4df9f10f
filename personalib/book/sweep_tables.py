"""Tables and the figure of a sweep: the results of all points put together, each row with its point's parameters."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from personalib.base.data import DataError
from personalib.base.tables import to_csv
from personalib.book.sweeps import FigurePlan, Point, Sweep, text_of

TABLES = "tables"
FIGURES = "figures"
POINTS = "points.csv"
_CLASH = "parameter."


@dataclass(frozen=True)
class Outcome:
    """What came of a point.

    Attributes:
        point: the point.
        folder: where its files are.
        results: the folder of its results; None where it failed.
        seconds: how long it took; None where it failed.
        failure: what failed and where, in one line; None where nothing did.
    """

    point: Point
    folder: Path
    results: Path | None
    seconds: float | None
    failure: str | None

    @property
    def state(self) -> Literal["done", "failed"]:
        """What came of it, in a word."""
        return "done" if self.failure is None else "failed"


def write_tables(sweep: Sweep, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write what the finished points have found.

    ``points.csv`` has a row for each point: its parameters, state, seconds, folder and failure. ``tables/NAME.csv`` has
    the rows of all points' results of that name, in the order of the points; the varied parameters are the first
    columns. A parameter with the name of a column of the table is called ``parameter.NAME`` there. Values are written
    as the chapter wrote them. ``figures/TABLE.png`` is the figure, with its numbers as CSV, if the sweep asks for one.

    Raises:
        DataError: no point has a result that is to be collected, a result is no table, or the figure does not fit it.
    """
    points = [
        {
            **_written(one.point),
            "state": one.state,
            "seconds": one.seconds,
            "folder": one.folder.relative_to(folder).as_posix(),
            "failure": one.failure,
        }
        for one in outcomes
    ]
    _write(pd.DataFrame(points), folder / POINTS)
    tables = _collected(sweep, [one for one in outcomes if one.results])
    for name, table in tables.items():
        _write(table, folder / TABLES / f"{name}.csv")
    plan = sweep.plan.show
    if plan and tables:
        try:
            numbers = figure_numbers(tables[plan.table], plan)
        except DataError as error:
            raise DataError(f"{sweep.name}: {error}") from None
        _write(numbers, folder / FIGURES / f"{plan.table}.csv")
        _draw(numbers, plan, folder / FIGURES / f"{plan.table}.png")


def figure_numbers(table: pd.DataFrame, plan: FigurePlan) -> pd.DataFrame:
    """What a figure draws.

    Args:
        table: a collected one, all of it text.
        plan: what is drawn.

    Returns:
        A row for each mark: ``x``, ``kind`` (empty without ``by``), ``value``, ``low`` and ``high`` (one standard
        deviation either way of the mean; equal to it where there is one value) and ``n`` (of values).

    Raises:
        DataError: a column is missing, no row is left, or what is measured is no number.
    """
    _check_columns(table, plan)
    for name, wanted in plan.where.items():
        table = table[_equal(table[name], wanted)]
    if table.empty:
        raise DataError(f"show.where: no row of {plan.table!r} has these values")
    rows = pd.DataFrame({"x": _numeric(table[plan.x]), "kind": table[plan.by] if plan.by else ""})
    rows["value"] = pd.to_numeric(table[plan.y], errors="coerce")
    rows = rows.dropna(subset="value")
    if rows.empty:
        raise DataError(f"show.y: {plan.y!r} of {plan.table!r} has no numbers")
    groups = ["x", "kind"]
    if plan.over:
        rows["over"] = table[plan.over]
        rows = rows.groupby([*groups, "over"], sort=False)["value"].mean().reset_index()
    found = rows.groupby(groups, sort=False)["value"].agg(["mean", "std", "size"]).reset_index()
    spread = found["std"].fillna(0.0)
    ends = {"low": found["mean"] - spread, "high": found["mean"] + spread, "n": found["size"]}
    return found[groups].assign(value=found["mean"], **ends)


def _collected(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, pd.DataFrame]:
    """The tables of finished points by name, all of them text."""
    parts: dict[str, list[tuple[Point, pd.DataFrame]]] = {}
    for one in outcomes:
        for path in _files(one):
            name = _name(one, path)
            if not sweep.plan.collect or name in sweep.plan.collect:
                parts.setdefault(name, []).append((one.point, _read(path)))
    if outcomes:
        _check_found(sweep, parts, outcomes)
    return {name: _joined(own) for name, own in parts.items()}


def _check_found(sweep: Sweep, parts: Iterable[str], outcomes: Sequence[Outcome]) -> None:
    wanted = [*sweep.plan.collect, *([sweep.plan.show.table] if sweep.plan.show else [])]
    for name in wanted:
        if name not in parts:
            there = sorted({_name(one, path) for one in outcomes for path in _files(one)})
            raise DataError(
                f"{sweep.name}: chapter {sweep.chapter.name} has no result {name!r}, but {', '.join(there) or 'none'}; "
                "correct collect or show, and run it again: points that are done stay done"
            )


def _files(outcome: Outcome) -> list[Path]:
    return sorted(outcome.results.rglob("*.csv")) if outcome.results else []


def _name(outcome: Outcome, path: Path) -> str:
    """What a result is called: its path among the results, without its suffix."""
    return path.relative_to(outcome.results or path).with_suffix("").as_posix()


def _read(path: Path) -> pd.DataFrame:
    """A table as text, so that no value is changed by being read and written."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
        raise DataError(f"{path}: not a table; give each column a name of its own, and each row as many cells")
    return pd.DataFrame(rows, columns=header, dtype=str)


def _joined(parts: Sequence[tuple[Point, pd.DataFrame]]) -> pd.DataFrame:
    """The rows of several points, each with the parameters of its own."""
    taken = {column for _, table in parts for column in table}
    whole = []
    for point, table in parts:
        varied = {_CLASH * (name in taken) + name: text for name, text in _written(point).items()}
        whole.append(pd.concat([pd.DataFrame(varied, index=table.index, dtype=str), table], axis=1))
    return pd.concat(whole, ignore_index=True).fillna("")


def _written(point: Point) -> dict[str, str]:
    return {name: text_of(value) for name, value in point.varied.items()}


def _check_columns(table: pd.DataFrame, plan: FigurePlan) -> None:
    used = {"x": plan.x, "y": plan.y, "by": plan.by, "over": plan.over} | {f"where.{name}": name for name in plan.where}
    for key, name in used.items():
        if name is not None and name not in table:
            raise DataError(f"show.{key}: {plan.table!r} has no column {name!r}, but {', '.join(table)}")


def _equal(cells: pd.Series, wanted: str | bool | int | float) -> pd.Series:
    """Which cells have a value, however it is written."""
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        return pd.to_numeric(cells, errors="coerce") == wanted
    # Python and JSON write truth with letters of different size.
    return cells.str.lower() == str(wanted).lower() if isinstance(wanted, bool) else cells == wanted


def _numeric(cells: pd.Series) -> pd.Series:
    """The cells as numbers if all are."""
    numbers = pd.to_numeric(cells, errors="coerce")
    return cells if numbers.isna().any() else numbers


def _draw(numbers: pd.DataFrame, plan: FigurePlan, path: Path) -> None:
    """Draw the numbers of a figure: lines over numbers, rows of dots over anything else."""
    from matplotlib import pyplot as plt  # seconds to import, and not needed where nothing is drawn

    from personalib.base import plots

    plots.set_theme()
    x, y, by, over = ((name or "").removeprefix(_CLASH) for name in (plan.x, plan.y, plan.by, plan.over))
    label = f"{y}, mean ± 1 SD" + (f" over {over}" if over else "")
    lines = pd.api.types.is_numeric_dtype(numbers["x"])
    figure, [axes] = plots.new_figure(height=4.0 if lines else 1.2 + 0.32 * numbers["x"].nunique())
    if lines:
        plots.dose_curve(numbers.rename(columns={"x": "coefficient"}), axes, label=label).set_xlabel(x)
    else:
        plots.interval_dots(numbers.rename(columns={"x": "category"}), axes, label=label).set_ylabel(x)
    legend = axes.get_legend()
    if legend and by:
        legend.set_title(by)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(table), encoding="utf-8")
