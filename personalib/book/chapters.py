"""Chapters: source notebooks, read and never written."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from personalib.base.data import DataError, cut, exists, read_json
from personalib.book.parameters import Parameter, ParameterError, declared_parameters, refuse_secret

# Cell metadata that changes what a reader sees; the rest is an editor's own.
_MEANINGFUL_METADATA = ("mystnb", "tags")


class RunError(RuntimeError):
    """A chapter cannot be run as asked, or failed; the message names the chapter and the fix."""


class _Metadata(BaseModel):
    tags: list[str] = []


class _Cell(BaseModel):
    cell_type: Literal["code", "markdown", "raw"]
    source: str | list[str]
    metadata: _Metadata


class _Notebook(BaseModel):
    """What a file has to hold to be read as a notebook."""

    nbformat: Literal[4]
    metadata: dict[str, Any]
    cells: list[_Cell]


@dataclass(frozen=True)
class Chapter:
    """One source notebook: its file, and its cells in the notebook format's own form."""

    path: Path
    cells: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> "Chapter":
        """Read a notebook; a missing file and one of another form are a :class:`RunError`."""
        if not (exists(path) and path.is_file()):
            siblings = sorted(file.stem for file in path.parent.glob("*.ipynb"))
            near = get_close_matches(path.stem, siblings, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RunError(f"{cut(str(path))}: no such notebook{hint}")
        try:
            content = read_json(path)
            _Notebook.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            reason = f"{place}: {first['msg']}; open it in Jupyter and save it again"
            raise RunError(f"{path}: not a notebook of format 4: {reason}") from None
        except DataError as error:
            raise RunError(f"not a notebook: {error}") from None
        return cls(path, tuple(content["cells"]))

    @property
    def name(self) -> str:
        """The file name without its suffix."""
        return self.path.stem

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The declared parameters by name; a :class:`RunError` where their cell holds anything but literals."""
        tagged = [cell for cell in self.cells if "parameters" in cell["metadata"].get("tags", ())]
        if len(tagged) > 1:
            raise RunError(f"{self.path}: {len(tagged)} cells are tagged 'parameters'; keep one")
        try:
            return declared_parameters(source_text(tagged[0])) if tagged else {}
        except ParameterError as error:
            raise RunError(f"{self.path}: {error}") from None

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Parameters given as text on the command line, in their declared types; see :meth:`merge` for errors."""
        return self._each(texts, Parameter.parse)

    def merge(self, given: Mapping[str, object]) -> dict[str, Any]:
        """All parameters with their values: the given ones, and the defaults of the others.

        One that is not declared, is of another type, or looks like a secret is a RunError.
        """
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return defaults | self._each(given, Parameter.check)

    def overrides(self, merged: Mapping[str, object]) -> dict[str, object]:
        """Those of the merged parameters whose value is not the default."""
        return {name: value for name, value in merged.items() if value != self.parameters[name].default}

    def source_hash(self) -> str:
        """SHA-256 of the cells' type, source and meaningful metadata: outputs and editor state do not count."""
        essence = [
            (
                cell["cell_type"],
                source_text(cell),
                {key: cell["metadata"][key] for key in _MEANINGFUL_METADATA if key in cell["metadata"]},
            )
            for cell in self.cells
        ]
        return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()

    def _each(self, given: Mapping[str, Any], read: Callable[[Parameter, Any], Any]) -> dict[str, Any]:
        """What a parameter makes of each value that is given."""
        try:
            return {name: read(self._declared(name), value) for name, value in given.items()}
        except ParameterError as error:
            raise RunError(f"{self.name}: {error}") from None

    def _declared(self, name: str) -> Parameter:
        refuse_secret(name)
        if name in self.parameters:
            return self.parameters[name]
        near = get_close_matches(name, self.parameters, n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"it has {', '.join(self.parameters) or 'none'}"
        )
        raise ParameterError(f"no parameter {name!r}; {hint}")


def source_text(cell: Mapping[str, Any]) -> str:
    """A cell's source as one text; the notebook format allows a list of lines too."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def headings(cells: tuple[Mapping[str, Any], ...]) -> list[str]:
    """For each cell, the last Markdown heading at or before it; empty before the first."""
    found = [""]
    for cell in cells:
        lines = source_text(cell).splitlines() if cell["cell_type"] == "markdown" else []
        titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
        found.append(titles[-1] if titles else found[-1])
    return found[1:]
