"""The book: pages checked, every chapter executed or found unchanged, pages built from the executed chapters."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from personalib.base.data import data_dir, read_json, read_yaml
from personalib.base.progress import progress_bar
from personalib.base.storage import alone
from personalib.base.threads import shared_threads, threads
from personalib.book.chapters import Chapter, RunError
from personalib.book.kernels import nursery
from personalib.book.pages import Book, BookError, build_pages, check_pages, remove
from personalib.book.runs import Run, read_run, run_notebook

# Chapters for which it pays to import once what all of them need.
_MANY = 4


@dataclass(frozen=True)
class BuiltBook:
    """What a build has done: the selected chapters' runs, and the first page unless other chapters are out of date."""

    runs: tuple[Run, ...]
    index: Path | None
    outdated: tuple[str, ...]
    pages_reused: bool


def build_book(
    book: Book, texts: Mapping[str, str] | None = None, only: Collection[str] = (), force: bool = False, jobs: int = 1
) -> BuiltBook:
    """Execute the chapters whose inputs changed, and build the pages if they changed.

    The pages are removed as soon as they are known to be out of date, so none is ever stale. What of them does not
    depend on the chapters' outputs is checked before a chapter is executed.

    Args:
        book: what to build.
        texts: parameters as written on the command line; see :func:`distribute`.
        only: names of the chapters to execute, all where it is empty.
        force: whether to execute chapters that did not change too.
        jobs: how many chapters are executed at a time, each with its share of the cores.

    Raises:
        RunError: a parameter or chapter is unknown (nothing has run then), or a chapter failed.
        BookError: the table of contents does not fit the notebooks, or the pages have warnings.
        DataError: another process builds the book.
    """
    chapters = book.chapters()
    _check_contents(book, chapters)
    given = distribute(chapters, texts or {})
    selected = select(chapters, only)
    with alone(book.products, doing="builds the book"):
        earlier = [read_run(chapter.path, given[chapter.name], book.executed) for chapter in chapters]
        runs = {run.name: run for run in earlier if run}
        outdated = tuple(each.name for each in chapters if each not in selected and each.name not in runs)
        waiting = [chapter for chapter in selected if force or chapter.name not in runs]
        if waiting or outdated:
            remove(book.html)
        # The nursery comes before the check of the pages, which leaves it a core to get ready on.
        with threads(shared_threads(jobs)), nursery(len(waiting) >= _MANY):
            checked = bool(waiting) and not outdated and check_pages(book, chapters)
            runs |= _run_chapters(book, waiting, given, jobs, len(chapters) - len(waiting) - len(outdated))
        done = tuple(runs[chapter.name] for chapter in selected)
        if outdated:
            return BuiltBook(done, None, outdated, pages_reused=False)
        in_order = [runs[chapter.name] for chapter in chapters]
        reused = build_pages(book, [run.notebook for run in in_order], status_page(in_order), checked)
        return BuiltBook(done, book.html / "index.html", (), reused)


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
    named = [entry[key] for key in ("root", "file") if key in entry]
    return named + [file for value in entry.values() for file in _listed_files(value)]


def _stem(file: str) -> str:
    return file.removesuffix(".ipynb").removesuffix(".md")


def distribute(chapters: Sequence[Chapter], texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """For each chapter the parameters that it declares, in their types.

    A name goes to every chapter that declares it; ``10.pairs`` or ``10_steering_with_contrast_vectors.pairs`` to one
    chapter alone, before what goes to all. A RunError where no chapter has one of the parameters, there is no such
    chapter, or a value is of another type.
    """
    found: dict[str, dict[str, str]] = {chapter.name: {} for chapter in chapters}
    for name, text in sorted(texts.items(), key=lambda item: "." in item[0]):
        where, _, parameter = name.rpartition(".")
        meant = [chapter for chapter in chapters if where in ("", chapter.name, chapter.name.partition("_")[0])]
        if not meant:
            raise RunError(f"{name}: no chapter {where!r}; there are {', '.join(found)}")
        declaring = [chapter for chapter in meant if parameter in chapter.parameters]
        if not declaring:
            declared = sorted({each for chapter in meant for each in chapter.parameters})
            near = get_close_matches(parameter, declared, n=3) or declared
            start = f"chapter {meant[0].name} has no" if where else "no chapter has a"
            raise RunError(f"{start} parameter {parameter!r}; there are {', '.join(near) or 'none'}")
        for chapter in declaring:
            found[chapter.name][parameter] = text
    return {chapter.name: chapter.parse(found[chapter.name]) for chapter in chapters}


def select(chapters: Sequence[Chapter], only: Collection[str]) -> list[Chapter]:
    """The chapters of these names, all where there are none; an unknown name is a :class:`RunError`."""
    names = [chapter.name for chapter in chapters]
    for name in only:
        if name not in names:
            raise RunError(f"no chapter {name!r}; there are {', '.join(names)}")
    return [chapter for chapter in chapters if not only or chapter.name in only]


def _run_chapters(
    book: Book, waiting: Sequence[Chapter], given: Mapping[str, Mapping[str, Any]], jobs: int, done: int
) -> dict[str, Run]:
    """The runs of the chapters that wait to be executed, by name; the bar counts those that are done already, too."""
    found: dict[str, Run] = {}
    with progress_bar(done + len(waiting), "chapter") as bar:
        bar.update(done)
        for run in _executed(waiting, given, book.executed, jobs):
            found[run.name] = run
            bar.update()
    return found


def _executed(
    chapters: Sequence[Chapter], given: Mapping[str, Mapping[str, Any]], folder: Path, jobs: int
) -> Iterator[Run]:
    """Each chapter's run as it ends; an error of one lets those under way come to their end, an interrupt ends them."""

    def execute(chapter: Chapter) -> Run:
        return run_notebook(chapter.path, given[chapter.name], folder, reuse=False)

    if jobs == 1:  # in this thread, where it can be interrupted, and no other chapter begins after an error
        yield from map(execute, chapters)
        return
    # Those that take longest come first, so that none of them is left alone with one core at the end.
    times = data_dir() / "benchmarks" / "chapters.json"
    usual = read_json(times)["seconds"] if times.is_file() else {}
    chapters = sorted(chapters, key=lambda chapter: -usual.get(chapter.name, 0.0))
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
    from personalib.book.execution import kill_kernels  # papermill: seconds to import, and there by now

    while under_way := [task for task in tasks if not task.done()]:
        kill_kernels()
        wait(under_way, timeout=0.2)


def status_page(runs: Sequence[Run]) -> str:
    """The reproducibility page's tables in Markdown: each chapter's run, and the versions that were used."""
    latest = max((run.manifest for run in runs), key=lambda manifest: manifest["started"])
    chapters = [
        f"| {{doc}}`/notebooks/{run.name}` | {run.manifest['started'][:16].replace('T', ' ')} "
        f"| {run.manifest['seconds']:.1f} | {_commit_mark(run.manifest['git'])} |"
        for run in runs
    ]
    versions = {"python": latest["machine"]["python"], **latest["packages"]}
    rows = "\n".join(chapters)
    packages = "\n".join(f"| {name} | {version} |" for name, version in versions.items())
    return f"""| Chapter | Executed (UTC) | Seconds | Commit |
| :-- | :-- | --: | :-- |
{rows}

Platform: {latest["machine"]["platform"]}, {latest["machine"]["cores"]} cores.
Data: `{latest["hashes"]["data"][:12]}`, library: `{latest["hashes"]["library"][:12]}` (SHA-256).

```{{dropdown}} Packages
| Package | Version |
| :-- | :-- |
{packages}
```
"""


def _commit_mark(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "none"
    return f"`{git['commit'][:10]}`" + (" with changes" if git["dirty"] else "")
