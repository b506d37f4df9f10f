"""How thin the library and the chapters are: `python tests/test_size.py` prints the numbers beside their limits.

A limit above its goal is what was reached, rounded up: it may only be lowered.
"""
# ruff: noqa: T201 - it is a command, too, and its table goes to the terminal

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from personalib.base.provenance import package_dir, repository_root

# what is counted: its limit, and its goal
LIMITS = {
    "lines of the library": (23_900, 20_000),
    "lines of the longest module": (450, 450),
    "lines of the longest function, without docstring": (50, 50),
    "lines of the tests": (33_000, 30_000),
    "hidden share of the chapters' code (%)": (10, 15),
    "modules of the library that a chapter imports": (10, 10),
}
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def sources(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.rglob("*.py"))]


def functions(source: str) -> Iterator[int]:
    """Lines of each function without its docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            yield node.end_lineno - node.lineno + 1 - told


def code_lines(source: str) -> int:
    """Lines that are not empty, and no text of a string over several lines unless a condition stands there."""
    lines = source.splitlines()
    prose = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            prose |= {row for row in range(token.start[0], token.end[0] - 1) if " if " not in lines[row]}
    return sum(bool(line.strip()) and row not in prose for row, line in enumerate(lines))


def code_cells() -> dict[str, list[Any]]:
    """The code cells of each chapter."""
    paths = sorted((repository_root() / "notebooks").glob("*.ipynb"))
    notebooks = {path.stem: nbformat.read(path, as_version=nbformat.NO_CONVERT) for path in paths}
    return {name: [cell for cell in notebook.cells if cell.cell_type == "code"] for name, notebook in notebooks.items()}


def hidden_share(cells: list[Any]) -> float:
    """Share of the code lines that readers do not see unless they open a cell, in percent."""
    hidden = [cell for cell in cells if HIDDEN & set(cell.metadata.get("tags", []))]
    return 100 * sum(code_lines(cell.source) for cell in hidden) / sum(code_lines(cell.source) for cell in cells)


def imported(cells: list[Any]) -> set[str]:
    """The modules of the library that a chapter imports from."""
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.module and node.module.partition(".")[0] == "personalib"}


@cache
def sizes() -> dict[str, float]:
    library, chapters = sources(package_dir()), code_cells()
    return {
        "lines of the library": sum(len(source.splitlines()) for source in library),
        "lines of the longest module": max(len(source.splitlines()) for source in library),
        "lines of the longest function, without docstring": max(
            length for source in library for length in functions(source)
        ),
        "lines of the tests": sum(len(source.splitlines()) for source in sources(repository_root() / "tests")),
        "hidden share of the chapters' code (%)": hidden_share([cell for cells in chapters.values() for cell in cells]),
        "modules of the library that a chapter imports": max(len(imported(cells)) for cells in chapters.values()),
    }


@pytest.mark.parametrize("name", LIMITS)
def test_nothing_grows_beyond_its_limit(name):
    size, (limit, _) = sizes()[name], LIMITS[name]
    assert size <= limit, f"{name}: {size:.0f}, and the limit is {limit}"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("x = 1\n\ny = 2", 2),
        ('f"""\ntold\n{x}\n"""', 2),
        ('f"""\n{"a" if x else "b"}\n"""', 3),
    ],
)
def test_prose_in_a_string_is_no_code(source, lines):
    assert code_lines(source) == lines


if __name__ == "__main__":
    for name, size in sizes().items():
        print(f"{name:50} {size:8,.0f}   limit {LIMITS[name][0]:7,}   goal {LIMITS[name][1]:7,}")
    for chapter, cells in code_cells().items():
        print(f"{chapter:50} {hidden_share(cells):6.0f} % hidden, {len(imported(cells)):2} modules")
