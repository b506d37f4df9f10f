"""One look for every figure of the book, a few charts, and a way to show them that keeps their numbers.

A chart takes a DataFrame with the columns that its docstring names (or raises a ValueError that names what is missing),
and Axes to draw on instead of a new figure's; it returns the Axes. A column ``kind`` gives colour and marker, and rows
with a true ``collapsed`` are drawn grey and hollow.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image, display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

from personalib.base.provenance import results_dir
from personalib.base.tables import to_csv

_KINDS = {
    "high": ("#D55E00", "^"),
    "low": ("#0072B2", "v"),
    "steered": ("#009E73", "o"),
    "baseline": ("#333333", "D"),
    "world": ("#8A6A2F", "X"),
    "organism": ("#56B4E9", "p"),
    "random control": ("#B0579A", "s"),
    "prompt control": ("#E69F00", "P"),
}
COLOURS: Mapping[str, str] = MappingProxyType(
    {name: colour for name, (colour, _) in _KINDS.items()} | {"collapsed": "#B8B8B8", "chance": "#7A7A7A"}
)
"""What a colour means in every figure of the book; hues after Okabe and Ito, for colour-blind readers too."""

MARKERS: Mapping[str, str] = MappingProxyType({name: marker for name, (_, marker) in _KINDS.items()})
"""A second cue beside the colour, so that a figure survives being printed in grey."""

WIDTH = 7.6
"""Inches; the width of the book's text column."""

# For kinds without a meaning of their own: none is a colour of COLOURS, so that those keep theirs. After Tol, for
# colour-blind readers too.
_OTHERS = ("#332288", "#44AA99", "#CC6677", "#999933", "#882255", "#117733", "#88CCEE", "#661100")
_OTHER_MARKERS = ("o", "s", "^", "D", "P", "v", "X", "*")
_STYLES = ("-", "--", "-.", ":")
_POLES = LinearSegmentedColormap.from_list("poles", [COLOURS["low"], "#F7F7F7", COLOURS["high"]])
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ANNOTATED_CELLS = 250
_THEME = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "hatch.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.hashsalt": "personalib",
    "xtick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.color": "#444444",
    "ytick.labelsize": 9,
}


class _Look(NamedTuple):
    """How the marks of one kind are drawn."""

    colour: str
    marker: str
    face: str
    style: str
    label: str


def set_theme() -> None:
    """Give every figure drawn from here on the look of the book."""
    sns.set_theme(style="ticks", palette=list(_OTHERS), rc=_THEME)


def new_figure(rows: int = 1, columns: int = 1, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure of the book's width and a height in inches, with its panels in reading order.

    >>> figure, (left, right) = new_figure(columns=2)
    """
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False)
    return figure, list(grid.flat)


def show_figure(figure: Figure, name: str, numbers: pd.DataFrame) -> None:
    """Save a figure as ``<name>.png`` and ``.svg`` with its numbers as ``.csv``, display it once, and close it.

    The files go to the results folder of the run. ``numbers`` is what the figure draws, one row a mark; an index that
    carries labels is written with them. It is a ValueError where the name is not of lower-case words joined by hyphens,
    there are no numbers, or a dot, the end of an interval, a horizontal bar or a cell of a heat map stands for a number
    that is not among them.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"figure name {name!r}: write lower-case words and hyphens: 'trait-change'")
    if numbers.empty:
        raise ValueError(f"figure {name!r} comes without numbers: pass the DataFrame that it draws")
    known = numbers.select_dtypes("number").to_numpy(dtype=float).round(9)
    for drawn in (drawn for axes in figure.axes for drawn in _drawn(axes)):
        if len(strange := np.setdiff1d(drawn[np.isfinite(drawn)].round(9), known)):
            raise ValueError(f"figure {name!r} draws {strange[0]:g}, which its numbers lack; pass those that it draws")
    place = results_dir() / name
    figure.savefig(f"{place}.png", metadata={"Software": None})
    figure.savefig(f"{place}.svg", metadata={"Date": None})
    written = to_csv(numbers, index=not isinstance(numbers.index, pd.RangeIndex))
    Path(f"{place}.csv").write_text(written, encoding="utf-8")
    plt.close(figure)
    display(Image(filename=f"{place}.png", width=round(figure.get_figwidth() * 100)))


def _drawn(axes: Axes) -> Iterator[np.ndarray]:
    """Where marks stand on axes of numbers (not of names: fixed ticks), how long bars are, and what cells hold."""
    numeric = [not isinstance(axis.get_major_locator(), FixedLocator) for axis in (axes.xaxis, axes.yaxis)]
    for mark in axes.get_children():
        if isinstance(mark, QuadMesh) and axes.get_label() != "<colorbar>":
            yield np.ma.compressed(np.ma.asarray(mark.get_array()))
        elif isinstance(mark, PathCollection):
            yield np.asarray(mark.get_offsets())[:, numeric]
        elif isinstance(mark, Line2D) and mark.get_marker() not in ("", "None"):
            yield np.asarray(mark.get_xydata())[:, numeric]
    for box in axes.containers:
        if isinstance(box, BarContainer) and box.orientation == "horizontal":
            yield np.array([bar.get_width() for bar in box])


def interval_dots(data: pd.DataFrame, axes: Axes | None = None, *, label: str = "") -> Axes:
    """A dot with its interval for every category, one category a line, kinds side by side.

    Columns: ``category``, ``value``, ``low`` and ``high`` (the ends of the interval); optional ``kind``, ``collapsed``.
    An interval is drawn where it lies, even if it does not hold the value.
    """
    rows = _checked("interval_dots", data, "category", "value", "low", "high")
    kinds = list(rows["kind"].unique())
    axes, places = _category_axes(rows, axes, label)
    step = 0.6 / len(kinds) if rows.groupby("category")["kind"].nunique().max() > 1 else 0.0
    for look, part in _groups(rows):
        shift = (kinds.index(part["kind"].iloc[0]) - (len(kinds) - 1) / 2) * step
        lines = places[part.index] + shift
        axes.hlines(lines, part["low"], part["high"], color=look.colour, linewidth=1.6)
        axes.plot(part[["low", "high"]], np.column_stack([lines, lines]), "|", color=look.colour, markersize=5)
        (dots,) = axes.plot(part["value"], lines, look.marker, color=look.colour, label=look.label, markersize=6)
        dots.set_markerfacecolor(look.face)
    _legend(axes, outside=True)
    return axes


def bars(data: pd.DataFrame, axes: Axes | None = None, *, label: str = "", limit: float = 1.0) -> Axes:
    """A bar with its number for every category, one category a line; ``limit`` is the value at the right edge.

    Columns: ``category`` and ``value``; optional ``kind``.
    """
    rows = _checked("bars", data, "category", "value")
    axes, places = _category_axes(rows, axes, label)
    for look, part in _groups(rows, split_collapsed=False):
        drawn = axes.barh(places[part.index], part["value"], height=0.62, color=look.colour, label=look.label)
        axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    # room for the number of the longest bar
    axes.set_xlim(0, 1.18 * limit)
    _legend(axes, outside=True)
    return axes


def _category_axes(rows: pd.DataFrame, axes: Axes | None, label: str) -> tuple[Axes, np.ndarray]:
    """Axes with a line for each category, the first on top, and the line of each row."""
    places, categories = pd.factorize(rows["category"])
    axes = axes or new_figure(height=1.0 + 0.32 * len(categories))[1][0]
    axes.set_yticks(range(len(categories)), list(categories))
    axes.set_ylim(len(categories) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel(label)
    return axes, places


def heatmap(
    table: pd.DataFrame,
    axes: Axes | None = None,
    *,
    label: str = "",
    centre: float = 0.0,
    limit: float | None = None,
    collapsed: pd.DataFrame | None = None,
    decimals: int = 0,
) -> Axes:
    """A table of numbers as colours, orange above a centre and blue below; a small table shows its numbers.

    Its rows and columns are named as they shall be read, and ``label`` says what the numbers are, which have so many
    ``decimals``. The full colour stands at a distance ``limit`` from the centre, by default the largest in the table.
    Where ``collapsed``, a table of bool of the same shape, is true, a cell is grey and hatched, without its number.
    A column without numbers, or a ``collapsed`` of other rows or columns, is a ValueError.
    """
    if wrong := [str(name) for name in table if not pd.api.types.is_numeric_dtype(table[name])]:
        raise ValueError(f"heatmap: column {wrong[0]!r} holds no numbers; make labels the index or drop it")
    values = table.astype(float)
    mask = values.isna()
    if collapsed is not None:
        if not (collapsed.index.equals(values.index) and collapsed.columns.equals(values.columns)):
            raise ValueError("heatmap: `collapsed` must have the table's rows and columns, in the same order")
        mask |= collapsed.astype(bool)
    axes = axes or new_figure(height=1.4 + 0.26 * len(values))[1][0]
    reach = limit or float((values - centre).abs().max().max()) or 1.0
    sns.heatmap(
        values,
        ax=axes,
        mask=mask,
        annot=values.round(decimals) + 0.0 if values.size <= _ANNOTATED_CELLS else None,
        fmt=f".{decimals}f",
        vmin=centre - reach,
        vmax=centre + reach,
        cmap=_POLES,
        linewidths=0.6,
        annot_kws={"size": 8},
        cbar_kws={"label": label, "shrink": 0.8},
    )
    for row, column in np.argwhere(mask.to_numpy()):
        axes.add_patch(_hatched(Rectangle((column, row), 1, 1)))
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0, rotation=0)
    plt.setp(axes.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    return axes


def scatter_truth(data: pd.DataFrame, axes: Axes | None = None, *, label: str = "") -> Axes:
    """Estimates against the truth, with the diagonal they would lie on and their correlation.

    Columns: ``truth`` and ``estimate``; optional ``kind``, ``low`` and ``high`` (the ends of the estimate's interval)
    and ``collapsed``. ``label`` says what both are, such as ``"p(high)"``.
    """
    rows = _checked("scatter_truth", data, "truth", "estimate")
    axes = axes or new_figure(height=4.6)[1][0]
    for look, part in _groups(rows):
        if {"low", "high"} <= set(part):
            axes.vlines(part["truth"], part["low"], part["high"], color=look.colour, alpha=0.25, linewidth=1)
        dots = axes.scatter(part["truth"], part["estimate"], 26, marker=look.marker, label=look.label, alpha=0.75)
        dots.set(facecolor=look.face, edgecolor=look.colour)
    middle = float(rows["truth"].mean())
    axes.axline((middle, middle), slope=1, color=COLOURS["chance"], linestyle="--", linewidth=1)
    correlation = rows["truth"].corr(rows["estimate"])
    # With a side that is always the same there is no correlation.
    known = "" if pd.isna(correlation) else f"r = {correlation:.2f}, "
    axes.set_title(f"{known}n = {len(rows)}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=f"truth: {label}".rstrip(": "), ylabel=f"estimate: {label}".rstrip(": "))
    _legend(axes)
    return axes


def training_curve(data: pd.DataFrame, axes: Axes | None = None, *, label: str = "", log: bool = False) -> Axes:
    """Metrics over the steps of a training run, with the stages of its curriculum.

    Columns: ``step`` and ``value``; optional ``kind`` (one line each) and ``stage`` (named at the dotted line where it
    begins). ``log`` makes the axis of steps logarithmic, for a run that begins with short stages.
    """
    rows = _checked("training_curve", data, "step", "value").sort_values("step")
    axes = axes or new_figure()[1][0]
    for look, part in _groups(rows):
        axes.plot(part["step"], part["value"], color=look.colour, linestyle=look.style, label=look.label)
    starts = rows.groupby("stage", sort=False)["step"].min() if "stage" in rows else pd.Series(dtype=float)
    for stage, start in starts.items():
        axes.axvline(start, color=COLOURS["chance"], linestyle=":", linewidth=1, zorder=0)
        place = {"x": start, "y": 1.01, "transform": axes.get_xaxis_transform()}
        _note(axes, str(stage), rotation=40, ha="left", **place)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="training step", ylabel=label)
    _legend(axes, outside=True)
    return axes


def dose_curve(data: pd.DataFrame, axes: Axes | None = None, *, label: str = "", log: bool = False) -> Axes:
    """What a growing steering coefficient does; on either side of zero, what lies beyond the first collapse is hatched.

    Columns: ``coefficient`` and ``value``; optional ``kind`` (one line each), ``low`` and ``high`` (a band) and
    ``collapsed``. ``log`` makes the axis of the coefficient logarithmic, with a place for zero.
    """
    rows = _checked("dose_curve", data, "coefficient", "value").sort_values("coefficient")
    axes = axes or new_figure()[1][0]
    for look, part in _groups(rows, split_collapsed=False):
        (line,) = axes.plot(part["coefficient"], part["value"], color=look.colour, label=look.label)
        line.set(linestyle=look.style, marker=look.marker, markersize=5)
        if {"low", "high"} <= set(part):
            axes.fill_between(part["coefficient"], part["low"], part["high"], color=look.colour, alpha=0.15)
        gone = part[part["collapsed"]]
        (marks,) = axes.plot(gone["coefficient"], gone["value"], linestyle="none", marker=look.marker, markersize=5)
        # Above all lines, so that none is drawn over them.
        marks.set(markerfacecolor="white", markeredgecolor=COLOURS["collapsed"], zorder=3)
    if log:
        axes.set_xscale("symlog", linthresh=float(rows.loc[rows["coefficient"] > 0, "coefficient"].min()))
    _hatch_collapsed(axes, rows)
    axes.set(xlabel="coefficient", ylabel=label)
    _legend(axes)
    return axes


def _hatch_collapsed(axes: Axes, rows: pd.DataFrame) -> None:
    """Hatch from the collapsed coefficient that is nearest to zero to the end of its side."""
    sizes, label = rows["coefficient"], "collapsed"
    for side in (sizes < 0, sizes >= 0):
        gone = sizes[side & rows["collapsed"]]
        if not gone.empty:
            first = float(gone.loc[gone.abs().idxmin()])
            # A little beyond the last one, so that it shows where that alone has collapsed.
            end = float(sizes[side].loc[sizes[side].abs().idxmax()]) + 0.04 * np.ptp(sizes) * (-1 if first < 0 else 1)
            _hatched(axes.axvspan(min(first, end), max(first, end), label=label))
            label = "_collapsed"


def reference_line(axes: Axes, value: float, label: str, *, vertical: bool = True) -> None:
    """A dashed line at a value that means something, such as chance, named at its end."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=COLOURS["chance"], linestyle="--", linewidth=1.2, zorder=1)
    if vertical:
        _note(axes, label, x=value, y=1.01, transform=axes.get_xaxis_transform(), ha="center")
    else:
        _note(axes, label, x=1.01, y=value, transform=axes.get_yaxis_transform(), va="center")


def _note(axes: Axes, label: str, *, va: str = "bottom", **place: Any) -> None:
    axes.text(s=label, fontsize=8, color="#555555", va=va, **place)


def _checked(chart: str, data: pd.DataFrame, *needed: str) -> pd.DataFrame:
    missing = [name for name in needed if name not in data]
    if missing:
        present = ", ".join(map(str, data.columns)) or "none"
        raise ValueError(f"{chart}: the data lack the column {missing[0]!r}; they have: {present}")
    if data.empty:
        raise ValueError(f"{chart}: the data have no rows")
    if {"low", "high"} <= set(data) and (data["low"] > data["high"]).any():
        raise ValueError(f"{chart}: `low` is above `high` in {(data['low'] > data['high']).sum()} of {len(data)} rows")
    collapsed = data["collapsed"].astype(bool) if "collapsed" in data else False
    return data.assign(kind=data.get("kind", ""), collapsed=collapsed).reset_index(drop=True)


def _groups(rows: pd.DataFrame, *, split_collapsed: bool = True) -> Iterator[tuple[_Look, pd.DataFrame]]:
    """The rows of each kind with their look, kinds in order of appearance; collapsed rows apart."""
    for index, kind in enumerate(rows["kind"].unique()):
        place = index % len(_OTHERS)
        colour, marker = COLOURS.get(kind, _OTHERS[place]), MARKERS.get(kind, _OTHER_MARKERS[place])
        look = _Look(colour, marker, colour, _STYLES[index % len(_STYLES)], str(kind) or "_")
        part = rows[rows["kind"] == kind]
        collapsed = part["collapsed"] & split_collapsed
        if not collapsed.all():
            yield look, part[~collapsed]
        if collapsed.any():
            grey = COLOURS["collapsed"]
            yield _Look(grey, marker, "white", look.style, f"{kind} (collapsed)".strip()), part[collapsed]


def _hatched(patch: Patch) -> Patch:
    patch.set(facecolor="#EFEFEF", edgecolor=COLOURS["collapsed"], hatch="////", linewidth=0, zorder=0.5)
    return patch


def _legend(axes: Axes, *, outside: bool = False) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    if outside:
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.02), borderaxespad=0)
    else:
        axes.legend(loc="best", frameon=True, framealpha=1.0, edgecolor="none")
