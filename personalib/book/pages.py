"""The pages of the book: staged from the sources and the chapters, then read or written by Jupyter Book.

What can be wrong with a page before its chapter is executed is found by reading all pages with the chapters as they
are in the sources.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from personalib.base.data import read_yaml
from personalib.base.progress import progress_bar
from personalib.base.provenance import files_hash, library_hash, repository_root
from personalib.book.chapters import Chapter, RunError

# What a build complains of: warnings with what they announce in the next line, and the last line of each traceback,
# whose other lines are indented.
_COMPLAINT = re.compile(
    r"^.*(?:WARNING|ERROR).*following exception was raised:\n(?!Traceback).*|^.*(?:WARNING|ERROR).*"
    r"|^[\w.]+(?:Error|Exception): \S.*|^(?=\S).*\b(?:malformed|[Ee]rrors?)\b.*",
    re.MULTILINE,
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
_BUILDERS = {"html": (), "dummy": ("--builder", "custom", "--custom-builder", "dummy")}
# A picture of one pixel, in the place of a figure that is yet to be made.
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
_MODULE_MISSING = (
    "A module is missing: declare its package in pyproject.toml and call `make lock`, "
    "or name it in autodoc_mock_imports of _config.yml."
)


class BookError(RunError):
    """The pages cannot be built; the message names the file and the fix."""


@dataclass(frozen=True)
class Book:
    """Where a book's sources are and where its products go.

    Attributes:
        root: the folder with ``_config.yml``, ``book/`` and ``notebooks/``.
        built: where its products go; ``book/_build`` in the root by default.
        further: one more page in Markdown, with its figure beside it, that comes before the last part.
    """

    root: Path
    built: Path | None = None
    further: Path | None = None

    @property
    def toc(self) -> Path:
        """The table of contents."""
        return self.root / "book" / "_toc.yml"

    @property
    def products(self) -> Path:
        """The folder of everything that is built."""
        return self.built or self.root / "book" / "_build"

    @property
    def executed(self) -> Path:
        """The executed notebooks, their results and their manifests."""
        return self.products / "executed"

    @property
    def html(self) -> Path:
        """The pages: there only while they show what is in ``executed``."""
        return self.products / "html"

    def chapters(self) -> list[Chapter]:
        """The source notebooks in reading order."""
        return [Chapter.read(path) for path in sorted((self.root / "notebooks").glob("*.ipynb"))]


def check_pages(book: Book, chapters: Sequence[Chapter]) -> bool:
    """Read all pages with the chapters as they are, with a blank picture for each figure, unless that was done before.

    Tells whether they were read now, so that :func:`build_pages` can go on from there. A page that has a warning or
    cannot be read is a BookError.
    """
    source = _stage(book, [chapter.path for chapter in chapters], "No chapter was executed yet.\n")
    hashed, record = _pages_hash(source), book.products / "checked.sha256"
    if record.is_file() and record.read_text() == hashed:
        return False
    _sphinx(book, source, "dummy")
    record.write_text(hashed)
    return True


def build_pages(book: Book, notebooks: Sequence[Path], status: str, go_on: bool = False) -> bool:
    """Write the pages, unless they were written from the same sources; tell whether they were.

    Args:
        book: what to build.
        notebooks: the executed chapters.
        status: what the reproducibility page says of their runs, in Markdown.
        go_on: whether the pages were read a moment ago by :func:`check_pages`: only those that differ are read again.

    Raises:
        BookError: a page has a warning or cannot be read.
    """
    source = _stage(book, notebooks, status)
    hashed, record = _pages_hash(source), book.html / ".sources.sha256"
    if record.is_file() and record.read_text() == hashed and (book.html / "index.html").is_file():
        return True
    remove(book.html)
    written = _sphinx(book, source, "html", go_on)
    (written / record.name).write_text(hashed)
    written.rename(book.html)
    return False


def _stage(book: Book, notebooks: Sequence[Path], status: str) -> Path:
    """Lay out what Sphinx reads: the sources' own layout, with these notebooks and the status of the runs."""
    source = book.products / "source"
    remove(source)
    shutil.copytree(book.root / "book", source / "book", ignore=shutil.ignore_patterns("_build", ".*", "_generated"))
    shutil.copy(book.root / "_config.yml", source)
    (source / "notebooks").mkdir()
    for notebook in notebooks:
        _stage_notebook(notebook, source / "notebooks" / notebook.name)
    (source / "book" / "_generated").mkdir()
    (source / "book" / "_generated" / "status.md").write_text(status, encoding="utf-8")
    if book.further:
        _stage_further(book.toc, book.further, source / "book")
    return source


def _stage_further(toc: Path, page: Path, target: Path) -> None:
    """Add a further page, and its entry in the table of contents."""
    contents, entries = read_yaml(toc), [{"file": f"book/{page.stem}"}]
    if "parts" in contents:
        contents["parts"].insert(-1, {"caption": "Compared with what was published", "chapters": entries})
    else:
        contents.setdefault("chapters", []).extend(entries)
    (target / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    for file in (page, *page.parent.glob(f"{page.stem}.png")):
        shutil.copy(file, target)


def _stage_notebook(notebook: Path, target: Path) -> None:
    """Copy a notebook without papermill's record, which names folders of this machine, and with all its figures."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"].pop("papermill", None)
    for cell in content["cells"]:
        cell["metadata"].pop("papermill", None)
        if "figure" in cell["metadata"].get("mystnb", {}) and not cell["outputs"]:
            cell["outputs"] = [{"output_type": "display_data", "data": {"image/png": _PIXEL}, "metadata": {}}]
    target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _sphinx(book: Book, source: Path, builder: str, go_on: bool = False) -> Path:
    """Run Jupyter Book with warnings as errors; return the folder of what it has written."""
    draft = book.products / "draft"
    if not go_on:  # what was read with a warning would be taken without one the next time
        remove(draft)
    command = [
        *(sys.executable, "-c", _JUPYTER_BOOK, "build", str(source), *_BUILDERS[builder]),
        *("--config", str(source / "_config.yml"), "--toc", str(source / "book" / "_toc.yml")),
        *("--path-output", str(draft), "-W", "-n", "--keep-going", "-q"),
    ]
    path = os.pathsep.join(filter(None, (str(repository_root()), os.environ.get("PYTHONPATH"))))
    with progress_bar(1, "build") as bar, TemporaryDirectory() as scratch:
        bar.set_description("pages" if builder == "html" else "pages checked")
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": scratch}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        bar.update()
    if done.returncode:
        raise BookError(_complaints(done.stdout + done.stderr, source))
    return draft / "_build" / builder


def _pages_hash(source: Path) -> str:
    """SHA-256 of all that pages are made of: their sources, the library with its docstrings, what is installed."""
    files = [path for path in source.rglob("*") if path.is_file()]
    installed = sorted(found.name for path in sys.path if path for found in Path(path).glob("*.dist-info"))
    essence = (files_hash(source, files), library_hash(), sys.version, *installed)
    return hashlib.sha256("\n".join(essence).encode()).hexdigest()


def _complaints(output: str, source: Path) -> str:
    """What Sphinx warned of or failed with, with the files named as the author knows them."""
    text = _COLOUR.sub("", output).replace(f"{source.resolve()}/", "")
    found = list(dict.fromkeys(line.strip() for line in _COMPLAINT.findall(text))) or text.splitlines()[-20:]
    missing = [_MODULE_MISSING] if any("No module named" in line for line in found) else []
    return "\n".join(["the pages are not built; warnings count as errors:", *found, *missing])


def remove(folder: Path) -> None:
    """Remove a folder, if there is one."""
    if folder.exists():
        shutil.rmtree(folder)
