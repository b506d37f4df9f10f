"""What several test modules share: tiny notebooks, and a data folder that hashes at once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

NotebookWriter = Callable[..., Path]
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def write_notebook(tmp_path: Path) -> NotebookWriter:
    """Writes a notebook with a title, a parameters cell and the given code cells."""

    def write(
        *code: str,
        parameters: str = "",
        name: str = "01_tiny",
        folder: Path = tmp_path / "notebooks",
        markdown: Sequence[str] = ("# Does it run?",),
    ) -> Path:
        cells = [v4.new_markdown_cell(text) for text in markdown]
        if parameters:
            cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        cells.extend(v4.new_code_cell(source) for source in code)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.ipynb"
        nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC}), path)
        return path

    return write


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of one file, in the place of the book's."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "numbers.csv").write_text("1\n")
    monkeypatch.setenv("PERSONALIB_DATA", str(folder))
    return folder


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one file and a list of pinned packages, hashed in the place of the real ones."""
    folder = tmp_path / "root" / "personalib"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("x = 1\n")
    (folder.parent / "pyproject.toml").write_text('[project]\ndependencies = ["numpy==2.4.6"]\n')
    monkeypatch.setattr("personalib.provenance.package_dir", lambda: folder)
    return folder
