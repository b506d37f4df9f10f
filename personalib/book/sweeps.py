"""Sweeps: one chapter at every combination of some of its parameters, declared in a YAML file.

A sweep says which parameters vary and over which values, which are fixed, and what is made of the results. Everything
is checked against the chapter's own parameters before anything runs. A sweep's points are run by
:mod:`personalib.book.sweep_runs`, and their results are put together by :mod:`personalib.book.sweep_tables`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from personalib.base.data import DataError, Strict, exists, named_file, parse, read_yaml
from personalib.base.provenance import repository_root
from personalib.book.chapters import Chapter, RunError
from personalib.book.parameters import ParameterError, refuse_secret

Values = Annotated[tuple[Any, ...], Field(min_length=1)]

# Longer names are cut: a name of a file has 255 bytes at the most, and somebody has to read it.
_LONGEST_NAME = 100
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
# What a folder may be called as it stands. It begins with a letter, so that it is not taken for a number.
_WORD = re.compile(r"[a-z][a-z0-9_.+-]*")
_NUMBER = re.compile(r"[-+.0-9e]+")
_CONSTANTS = ("true", "false", "null")


class FigurePlan(Strict):
    """A figure of one collected table. All names are of columns of that table.

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
        chapter: the name of a chapter, or a notebook's file; its path is read from the folder of the sweep's file, or
            else from the working directory.
        vary: parameters with their values. Every combination is a point; the last parameter varies fastest.
        fixed: other parameters with the one value that they have at all points.
        collect: names of the chapter's results; all where it is empty.
        show: a figure, if there is to be one.
    """

    chapter: str
    vary: Annotated[dict[str, Values], Field(min_length=1)]
    fixed: dict[str, Any] = Field(default={})
    collect: tuple[str, ...] = ()
    show: FigurePlan | None = None


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Attributes:
        varied: the parameters that vary, with their values here.
        parameters: these and the fixed ones.
    """

    varied: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the point's folder is called, on every file system: ``model=organism,seed=0``.

        Values that cannot be part of such a name are written with other signs, and a hash of all values is added.
        """
        parts = [(name, text_of(value), _plain(value)) for name, value in self.varied.items()]
        readable = ",".join(f"{name}={_safe(text) if plain is None else plain}" for name, text, plain in parts)
        exact = all(_NAME.fullmatch(name) and plain is not None for name, _, plain in parts)
        if exact and len(readable) <= _LONGEST_NAME:
            return readable
        essence = json.dumps(list(self.varied.items()), sort_keys=True)
        return f"{_safe(readable)[:_LONGEST_NAME]}~{hashlib.sha256(essence.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: the file's, without its suffix.
        plan: what the file holds.
        chapter: the source notebook.
        points: all combinations, in order.
    """

    name: str
    plan: SweepPlan
    chapter: Chapter
    points: tuple[Point, ...]


def load_sweep(source: str | Path) -> Sweep:
    """Read a sweep and check it against its chapter.

    Args:
        source: a file, or the name of one of the sweeps in ``data/sweeps``.

    Raises:
        DataError: the file is missing, is no sweep, or does not fit the chapter; the message names file, key and fix.

    Example:
        >>> load_sweep("contrast_pairs").points[0].name
        'pairs=16,seed=0'
    """
    path = named_file(source, "sweeps", "sweep")
    return parse_sweep(read_yaml(path), path.stem, str(path), path.parent)


def parse_sweep(content: Any, name: str = "sweep", where: str = "the sweep", folder: Path = Path()) -> Sweep:
    """A sweep from plain values, as YAML holds them.

    Args:
        content: the values.
        name: of the sweep.
        where: they come from, for errors.
        folder: in which the notebook is looked for first, where it is given as a file.

    Raises:
        DataError: see :func:`load_sweep`.
    """
    plan = parse(SweepPlan, content, where)
    try:
        chapter = Chapter.read(_notebook(plan.chapter, folder))
        vary, fixed = _checked(chapter, plan)
        _check_names(plan)
    except (RunError, ValueError) as error:
        raise DataError(f"{where}: {error}") from None
    combinations = (dict(zip(vary, values, strict=True)) for values in product(*vary.values()))
    return Sweep(name, plan, chapter, tuple(Point(varied, varied | fixed) for varied in combinations))


def text_of(value: Any) -> str:
    """A value as it is written in tables: text as it stands, anything else as in JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _notebook(chapter: str, folder: Path) -> Path:
    """The file of a chapter that is given by its name or as a file, which a folder may hold."""
    if not chapter.endswith(".ipynb"):
        return repository_root() / "notebooks" / f"{chapter}.ipynb"
    beside = folder / chapter
    return beside if exists(beside) else Path(chapter)


def _checked(chapter: Chapter, plan: SweepPlan) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The values of what varies and of what is fixed, in their declared types."""
    vary: dict[str, list[Any]] = {}
    for name, values in plan.vary.items():
        vary[name] = [_value(chapter, "vary", name, value) for value in values]
        seen = [json.dumps(value, sort_keys=True) for value in vary[name]]
        for place, text in enumerate(seen):
            if text in seen[:place]:
                raise ValueError(f"vary.{name}: {text} is there twice; remove one")
    return vary, {name: _value(chapter, "fixed", name, value) for name, value in plan.fixed.items()}


def _value(chapter: Chapter, key: str, name: str, value: Any) -> Any:
    """A value in the type that the chapter declares; a path that is there from the root of the file system."""
    try:
        refuse_secret(name)
        if name not in chapter.parameters:
            there = ", ".join(chapter.parameters) or "none"
            raise ParameterError(f"chapter {chapter.name} has no such parameter; it has {there}")
        checked = chapter.parameters[name].check(value)
    except ParameterError as error:
        raise ValueError(f"{key}.{name}: {error}") from None
    read = chapter.parameters[name].parse(checked) if isinstance(checked, str) else checked
    return read if isinstance(read, str) else checked


def _check_names(plan: SweepPlan) -> None:
    both = sorted(set(plan.vary) & set(plan.fixed))
    if both:
        raise ValueError(f"fixed.{both[0]}: it varies, too; leave it out under vary or under fixed")
    if len(set(plan.collect)) < len(plan.collect):
        raise ValueError("collect: name each result once")
    if plan.show and plan.collect and plan.show.table not in plan.collect:
        raise ValueError(f"show.table: {plan.show.table!r} is not collected; add it under collect")


def _plain(value: Any) -> str | None:
    """A value as part of a folder's name that no other value has, or None where there is none."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value not in _CONSTANTS else None
    if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
        # One number alone keeps the sign that several have between them: it is not the number itself.
        return "_".join(map(json.dumps, value)) + "_" * (len(value) == 1)
    return json.dumps(value) if _is_number(value) or value is None or isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and bool(_NUMBER.fullmatch(json.dumps(value)))


def _safe(text: str) -> str:
    """A text with signs that every file system takes; not all texts stay different."""
    return re.sub(r"[^A-Za-z0-9_.+=,-]+", "_", text)
