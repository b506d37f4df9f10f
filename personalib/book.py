"""The book: every chapter executed or found unchanged, then the pages built from the executed chapters."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

from personalib.chapters import Chapter, RunError
from personalib.data import read_yaml
from personalib.progress import progress_bar
from personalib.provenance import files_hash, repository_root
from personalib.runs import Run, read_run, run_notebook
from personalib.threads import shared_threads, threads

_SOURCES_FILE = ".sources.sha256"
# What a build complains of: warnings, and the last line of each traceback, whose other lines are indented.
_COMPLAINT = re.compile(r"WARNING|ERROR|^[\w.]+(Error|Exception): \S|^(?=\S).*\b(malformed|[Ee]rrors?)\b")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"


class BookError(RunError):
    """The pages cannot be built; the message names the file and the fix."""


@dataclass(frozen=True)
class Book:
    """Where a book's sources are and where its products go.

    Attributes:
        root: the folder with ``_config.yml``, ``book/`` and ``notebooks/``.
        built: where its products go; ``book/_build`` in the root by default.
        pages: further pages in Markdown, with their figures beside them, that come before the last part.
    """

    root: Path
    built: Path | None = None
    pages: tuple[Path, ...] = ()

    @property
    def config(self) -> Path:
        """Sphinx's settings."""
        return self.root / "_config.yml"

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


@dataclass(frozen=True)
class BuiltBook:
    """What a build has done.

    Attributes:
        runs: the selected chapters, in reading order.
        index: the first page, or None where other chapters are out of date.
        outdated: names of the chapters that were not selected and are out of date.
        pages_reused: whether the pages were found unchanged.
    """

    runs: tuple[Run, ...]
    index: Path | None
    outdated: tuple[str, ...]
    pages_reused: bool


def build_book(
    book: Book,
    texts: Mapping[str, str] | None = None,
    only: Collection[str] = (),
    force: bool = False,
    jobs: int = 1,
) -> BuiltBook:
    """Execute the chapters whose inputs changed, and build the pages if they changed.

    The pages are removed as soon as they are known to be out of date, so none is ever stale.

    Args:
        book: what to build.
        texts: parameters as written on the command line; each goes to all chapters that declare it.
        only: names of the chapters to execute, all where it is empty.
        force: whether to execute chapters that did not change too.
        jobs: how many chapters are executed at a time, each with its share of the cores.

    Raises:
        RunError: a parameter or chapter is unknown (nothing has run then), or a chapter failed.
        BookError: the table of contents does not fit the notebooks, or the pages have warnings.
    """
    chapters = book.chapters()
    _check_contents(book, chapters)
    parameters = distribute(chapters, texts or {})
    selected = _select(chapters, only)
    runs = _run_chapters(book, selected, parameters, force, jobs)
    others = [chapter for chapter in chapters if chapter not in selected]
    reused = {chapter.name: read_run(chapter.path, parameters[chapter.name], book.executed) for chapter in others}
    outdated = tuple(name for name, run in reused.items() if run is None)
    if outdated:
        _remove(book.html)
        return BuiltBook(tuple(runs), None, outdated, pages_reused=False)
    everything = sorted([*runs, *(run for run in reused.values() if run)], key=lambda run: run.name)
    pages_reused = _build_pages(book, everything)
    return BuiltBook(tuple(runs), book.html / "index.html", (), pages_reused)


def _check_contents(book: Book, chapters: Sequence[Chapter]) -> None:
    """Every notebook is in the table of contents, and every entry is there to be built."""
    if not chapters:
        raise BookError(f"{book.root / 'notebooks'}: no notebook there")
    listed = _listed_files(read_yaml(book.toc))
    absent = [chapter.path.name for chapter in chapters if f"notebooks/{chapter.path.stem}" not in map(_stem, listed)]
    if absent:
        raise BookError(f"{book.toc}: {', '.join(absent)} missing; add a `file: notebooks/NAME` entry for it")
    for entry in listed:
        if not any((book.root / f"{_stem(entry)}{suffix}").is_file() for suffix in (".md", ".ipynb")):
            raise BookError(f"{book.toc}: there is no page or notebook {entry!r}; write it or drop the entry")


def _listed_files(entry: Any) -> list[str]:
    """The files that a table of contents, or a part of one, names."""
    if isinstance(entry, list):
        return [file for part in entry for file in _listed_files(part)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [file for value in entry.values() for file in _listed_files(value)]


def _stem(file: str) -> str:
    return file.removesuffix(".ipynb").removesuffix(".md")


def distribute(chapters: Sequence[Chapter], texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """For each chapter the parameters that it declares, in their types.

    A name goes to every chapter that declares it; ``10.pairs`` or ``10_steering_with_contrast_vectors.pairs`` to one
    chapter alone, before what goes to all.

    Raises:
        RunError: no chapter has one of the parameters, there is no such chapter, or a value is of another type.
    """
    found: dict[str, dict[str, str]] = {chapter.name: {} for chapter in chapters}
    for name, text in sorted(texts.items(), key=lambda item: "." in item[0]):
        own, _, parameter = name.rpartition(".")
        meant = [one for one in chapters if own in ("", one.name, one.name.partition("_")[0])]
        if not meant:
            raise RunError(f"{name}: no chapter {own!r}; there are {', '.join(found)}")
        declaring = [one for one in meant if parameter in one.parameters]
        if not declaring:
            declared = sorted({each for one in meant for each in one.parameters})
            near = get_close_matches(parameter, declared, n=3) or declared
            start = f"chapter {meant[0].name} has no" if own else "no chapter has a"
            raise RunError(f"{start} parameter {parameter!r}; there are {', '.join(near) or 'none'}")
        for one in declaring:
            found[one.name][parameter] = text
    return {chapter.name: chapter.parse(found[chapter.name]) for chapter in chapters}


def _select(chapters: Sequence[Chapter], only: Collection[str]) -> list[Chapter]:
    names = [chapter.name for chapter in chapters]
    for name in only:
        if name not in names:
            raise RunError(f"no chapter {name!r}; there are {', '.join(names)}")
    return [chapter for chapter in chapters if not only or chapter.name in only]


def _run_chapters(
    book: Book, chapters: Sequence[Chapter], parameters: Mapping[str, Mapping[str, Any]], force: bool, jobs: int
) -> list[Run]:
    known = {} if force else {one.name: read_run(one.path, parameters[one.name], book.executed) for one in chapters}
    found = {name: run for name, run in known.items() if run}
    waiting = [chapter for chapter in chapters if chapter.name not in found]
    if waiting:
        _remove(book.html)
    with progress_bar(len(chapters), "chapter") as bar:
        bar.update(len(found))
        bar.set_description(waiting[0].name if waiting else "chapters")
        with threads(shared_threads(jobs)):
            for run in _executed(waiting, parameters, book.executed, jobs):
                found[run.name] = run
                left = [chapter.name for chapter in waiting if chapter.name not in found]
                bar.set_description(left[0] if left else "chapters")
                bar.update()
    return [found[chapter.name] for chapter in chapters]


def _executed(
    chapters: Sequence[Chapter], parameters: Mapping[str, Mapping[str, Any]], folder: Path, jobs: int
) -> Iterator[Run]:
    """Each chapter's run as it ends; an error of one lets those that are under way come to their end.

    An interrupt ends them at once.
    """
    lines: SimpleQueue[int] = SimpleQueue()

    def execute(chapter: Chapter) -> Run:
        line = lines.get()
        try:
            return run_notebook(chapter.path, parameters[chapter.name], folder, reuse=False, position=line)
        finally:
            lines.put(line)

    # The lines below the book's own bar, one for each chapter that runs.
    for line in range(1, jobs + 1):
        lines.put(line)
    if jobs == 1:  # in this thread, where it can be interrupted
        yield from map(execute, chapters)
        return
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(execute, chapter) for chapter in chapters]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            _stop(tasks)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stop(tasks: Sequence["Future[Run]"]) -> None:
    """End the chapters under way by their kernels, those that are yet to start too."""
    from personalib.execution import kill_kernels  # papermill: seconds to import, and there by now

    while under_way := [task for task in tasks if not task.done()]:
        kill_kernels()
        wait(under_way, timeout=0.2)


def _build_pages(book: Book, runs: Sequence[Run]) -> bool:
    """Build the pages from scratch, unless they were built from the same sources; tell whether they were."""
    source = _stage(book, runs)
    hashed = files_hash(source, (path for path in source.rglob("*") if path.is_file()))
    record = book.html / _SOURCES_FILE
    if record.is_file() and record.read_text() == hashed and (book.html / "index.html").is_file():
        return True
    _remove(book.html)
    draft = _sphinx(book, source)
    (draft / _SOURCES_FILE).write_text(hashed)
    draft.rename(book.html)
    _remove(book.products / "draft")
    return False


def _stage(book: Book, runs: Sequence[Run]) -> Path:
    """Lay out what Sphinx reads: the sources' own layout, with executed notebooks and the status of the runs."""
    source = book.products / "source"
    _remove(source)
    shutil.copytree(book.root / "book", source / "book", ignore=shutil.ignore_patterns("_build", ".*"))
    shutil.copy(book.config, source)
    (source / "notebooks").mkdir()
    for run in runs:
        _stage_notebook(run.notebook, source / "notebooks" / run.notebook.name)
    generated = source / "book" / "_generated"
    generated.mkdir(exist_ok=True)
    (generated / "status.md").write_text(status_page(runs), encoding="utf-8")
    _stage_pages(book, source / "book")
    return source


def _stage_pages(book: Book, target: Path) -> None:
    """Add a book's further pages, and their entries in the table of contents."""
    if not book.pages:
        return
    contents = read_yaml(book.toc)
    entries = [{"file": f"book/{page.stem}"} for page in book.pages]
    if "parts" in contents:
        contents["parts"].insert(-1, {"caption": "Held against what was published", "chapters": entries})
    else:
        contents.setdefault("chapters", []).extend(entries)
    (target / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    for page in book.pages:
        for file in (page, *page.parent.glob(f"{page.stem}.png")):
            shutil.copy(file, target)


def _stage_notebook(executed: Path, target: Path) -> None:
    """Copy a notebook without papermill's record, which names folders of this machine."""
    content = json.loads(executed.read_text(encoding="utf-8"))
    content["metadata"].pop("papermill", None)
    for cell in content["cells"]:
        cell["metadata"].pop("papermill", None)
    target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def status_page(runs: Sequence[Run]) -> str:
    """The reproducibility page's tables in Markdown: each chapter's run, and the versions that were used."""
    latest = max((run.manifest for run in runs), key=lambda manifest: manifest["started"])
    chapters = [
        f"| {{doc}}`/notebooks/{run.name}` | {run.manifest['started'][:16].replace('T', ' ')} "
        f"| {run.manifest['seconds']:.1f} | {_commit_mark(run.manifest['git'])} |"
        for run in runs
    ]
    versions = {"python": latest["machine"]["python"], **latest["packages"]}
    return "\n".join(
        [
            "| Chapter | Executed (UTC) | Seconds | Commit |",
            "| :-- | :-- | --: | :-- |",
            *chapters,
            "",
            f"Platform: {latest['machine']['platform']}, {latest['machine']['cores']} cores.",
            f"Data: `{latest['hashes']['data'][:12]}`, library: `{latest['hashes']['library'][:12]}` (SHA-256).",
            "",
            "| Package | Version |",
            "| :-- | :-- |",
            *(f"| {name} | {version} |" for name, version in versions.items()),
            "",
        ]
    )


def _commit_mark(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "none"
    return f"`{git['commit'][:10]}`" + (" with changes" if git["dirty"] else "")


def _sphinx(book: Book, source: Path) -> Path:
    """Run Jupyter Book with warnings as errors in a fresh folder; return the folder of the pages."""
    draft = book.products / "draft"
    _remove(draft)
    command = [
        *(sys.executable, "-c", _JUPYTER_BOOK, "build", str(source)),
        *("--config", str(source / "_config.yml"), "--toc", str(source / "book" / "_toc.yml")),
        *("--path-output", str(draft), "-W", "-n", "--keep-going", "-q"),
    ]
    path = os.pathsep.join(filter(None, (str(repository_root()), os.environ.get("PYTHONPATH"))))
    with progress_bar(1, "build") as bar:
        bar.set_description("pages")
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        bar.update()
    if done.returncode:
        raise BookError(_complaints(done.stdout + done.stderr, source))
    return draft / "_build" / "html"


def _complaints(output: str, source: Path) -> str:
    """What Sphinx warned of or failed with, with the files named as the author knows them."""
    lines = _COLOUR.sub("", output).replace(f"{source.resolve()}/", "").splitlines()
    marked = [line.strip() for line in dict.fromkeys(lines) if _COMPLAINT.search(line)]
    return "the pages are not built; warnings count as errors:\n" + "\n".join(marked or lines[-20:])


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
