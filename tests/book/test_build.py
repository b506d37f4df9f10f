import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from hostile import HOSTILE, SECRET

from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.base.storage import alone
from personalib.book.build import build_book, distribute, status_page
from personalib.book.chapters import Chapter, RunError
from personalib.book.pages import Book, BookError, build_pages
from personalib.book.runs import Run, run_notebook

pytestmark = pytest.mark.usefixtures("small_data")
WAIT_SECONDS = 120
TOC = "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/01_tiny\n  - file: notebooks/02_other\n"
INDEX = """# A small book

See {doc}`/notebooks/01_tiny` and {cite:p}`nobody2026nothing`.

```{include} _generated/status.md
```

```{bibliography}
```
"""
REFERENCE = "@misc{nobody2026nothing, author = {Nobody, A.}, title = {Nothing}, year = {2026}}\n"
CODE = (
    "from personalib.base.provenance import results_dir\n"
    "if seed > 8:\n    raise ValueError('too large')\nprint('seed', seed)"
)
OTHER = "from IPython.display import Markdown\nMarkdown('| a | b |\\n| - | - |\\n| 1 | see {doc}`01_tiny` |')"
SAYS = "from IPython.display import Markdown\nMarkdown('See {doc}`03_missing`.')"


@pytest.fixture
def book(lay_out, write_notebook):
    root = lay_out(TOC, index=INDEX)
    (root / "book" / "references.bib").write_text(REFERENCE)
    write_notebook(CODE, parameters="seed: int = 7", folder=root / "notebooks")
    write_notebook(OTHER, name="02_other", folder=root / "notebooks", markdown=("# Another?",))
    return Book(root)


def test_two_builds_at_a_time_do_not_remove_each_other_s_pages(book):
    with alone(book.products, doing="builds the book"):
        before = sorted(book.products.rglob("*"))
        with pytest.raises(DataError, match="_build: another process builds the book here; wait for its end"):
            build_book(book)
        assert sorted(book.products.rglob("*")) == before


def test_a_book_is_built_once_and_never_stale(book, write_notebook):
    built = build_book(book)
    assert [run.reused for run in built.runs] == [False, False]
    assert built.index == book.html / "index.html"
    front = built.index.parent.joinpath("book", "index.html").read_text()
    assert "Does it run?" in front
    assert "papermill" in front
    page = (book.html / "notebooks" / "01_tiny.html").read_text()
    assert "seed 7" in page
    # What a cell says in Markdown is read as a page is: with tables and references.
    other = (book.html / "notebooks" / "02_other.html").read_text()
    assert "<table" in other and '<td><p>see <a class="reference internal" href="01_tiny.html">' in other
    assert str(book.root) not in (book.html / "_sources" / "notebooks" / "01_tiny.ipynb").read_text()

    again = build_book(book)
    assert [run.reused for run in again.runs] == [True, True]
    assert again.pages_reused

    # a chapter's parameter goes to the chapters that declare it, and leaves the others alone
    alone = build_book(book, {"seed": "8"}, only=["02_other"])
    assert (alone.index, alone.outdated) == (None, ("01_tiny",))
    assert not book.html.exists()
    assert build_book(book).index.is_file()

    with pytest.raises(RunError, match=r"01_tiny: cell 3 .* failed"):
        build_book(book, {"seed": "9"})
    assert not book.html.exists()
    assert (book.executed / "01_tiny.failed.ipynb").is_file()


SHARES = """import os, time
from pathlib import Path
folder = Path(folder)
(folder / str(os.getpid())).write_text(os.environ.get("OMP_NUM_THREADS", "all"))
for _ in range(600):
    if len(list(folder.iterdir())) == 2:
        break
    time.sleep(0.1)
else:
    raise RuntimeError("alone for a minute")"""


def test_chapters_at_a_time_run_side_by_side_and_share_the_cores(book, tmp_path, write_notebook, monkeypatch):
    for name in ("01_tiny", "02_other"):
        write_notebook(SHARES, name=name, parameters='folder: str = ""', folder=book.root / "notebooks")
    book.root.joinpath("book", "index.md").write_text("# A small book\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for told, share in ((None, "3"), ("1", "1")):
        if told:
            monkeypatch.setenv("OMP_NUM_THREADS", told)
        met = tmp_path / f"met-{share}"
        met.mkdir()
        build_book(book, {"folder": str(met)}, jobs=2)
        assert [one.read_text() for one in met.iterdir()] == [share, share]
        assert os.environ.get("OMP_NUM_THREADS") == told


def test_chapters_that_take_longest_are_begun_first(book, small_data, write_notebook, monkeypatch):
    times = {"02_other": 9.0, "03_longer": 90.0}
    (small_data / "benchmarks").mkdir()
    (small_data / "benchmarks" / "chapters.json").write_text(json.dumps({"rate": 1.0, "seconds": times}))
    write_notebook("", name="03_longer", folder=book.root / "notebooks")
    book.toc.write_text(TOC + "  - file: notebooks/03_longer\n")
    begun = []

    def run(path, *_, **__):
        begun.append(path.stem)
        raise RunError("no")

    monkeypatch.setattr("personalib.book.build.run_notebook", run)
    for jobs, order in ((1, ["01_tiny"]), (2, ["03_longer", "02_other"])):
        begun.clear()
        with pytest.raises(RunError, match="no"):
            build_book(book, jobs=jobs)
        assert set(begun[: len(order)]) == set(order)


WAITS = """import os, time
from pathlib import Path
(Path(folder) / str(os.getpid())).touch()
time.sleep(600)"""


def test_an_interrupt_ends_the_chapters_under_way(book, tmp_path, write_notebook):
    for name in ("01_tiny", "02_other", "03_more"):
        write_notebook(WAITS, name=name, parameters='folder: str = ""', folder=book.root / "notebooks")
    book.toc.write_text(TOC + "  - file: notebooks/03_more\n")
    met = tmp_path / "met"
    met.mkdir()
    given = ("--root", str(book.root), "--jobs", "2", "-p", "folder", str(met))
    command = [sys.executable, "-m", "personalib", "book", *given]
    with subprocess.Popen(command, cwd=repository_root(), stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + WAIT_SECONDS
            while len(list(met.iterdir())) < 2 and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS / 4) == 1
        finally:
            process.kill()
    kernels = [int(path.name) for path in met.iterdir()]
    assert len(kernels) == 2, "no other chapter was begun"
    for kernel in kernels:
        with pytest.raises(ProcessLookupError):
            os.kill(kernel, 0)


def test_pages_that_cannot_be_built_are_found_before_a_chapter_is_executed(book):
    page = book.root / "book" / "index.md"
    sound = page.read_text()
    wrong = "See {doc}`/notebooks/03_missing`.\n\n```{eval-rst}\n.. automodule:: nowhere_to_be_found\n```\n"
    page.write_text(f"# A small book\n\n{wrong}")
    with pytest.raises(BookError, match=r"book/index\.md.*WARNING.*03_missing") as caught:
        build_book(book)
    first = str(caught.value)
    assert "No module named 'nowhere_to_be_found'" in first and "declare its package in pyproject.toml" in first
    assert not book.html.exists() and not book.executed.exists()
    page.write_text(sound)
    assert build_book(book).index.is_file()


FIGURE = "import matplotlib.pyplot as plt\n_ = plt.plot([0, 1])"


def test_a_page_may_name_a_figure_of_a_chapter_and_a_chapter_a_page_that_is_missing(book, write_notebook):
    path = write_notebook(FIGURE, SAYS, folder=book.root / "notebooks")
    content = json.loads(path.read_text())
    content["cells"][1]["metadata"]["mystnb"] = {"figure": {"caption": "A line.", "name": "fig-line"}}
    path.write_text(json.dumps(content))
    page = book.root / "book" / "index.md"
    page.write_text(page.read_text() + "\nSee {ref}`the line <fig-line>`.\n")
    # What a chapter's output refers to can be known only when it was executed.
    with pytest.raises(BookError, match=r"notebooks/01_tiny\.ipynb.*WARNING.*03_missing") as caught:
        build_book(book)
    assert "fig-line" not in str(caught.value) and not book.html.exists()
    assert (book.executed / "01_tiny.ipynb").is_file()
    write_notebook("print(1)", folder=book.root / "notebooks")
    with pytest.raises(BookError, match=r"book/index\.md.*WARNING.*fig-line"):
        build_book(book)


def test_a_build_that_fails_tells_the_cause_and_no_traceback(book):
    book.toc.write_text(TOC + "  - file: notebooks/02_other\n")
    with pytest.raises(BookError, match="document file used multiple times: 'notebooks/02_other'") as caught:
        build_book(book)
    said = str(caught.value).splitlines()
    assert said[0] == "the pages are not built; warnings count as errors:"
    assert len(said) == 3 and "MalformedError: document file" in said[1] and "is malformed: document" in said[2]


@pytest.mark.parametrize(
    ("toc", "given", "message"),
    [
        (TOC.replace("  - file: notebooks/02_other\n", ""), {}, r"02_other\.ipynb missing; add a"),
        (TOC + "  - file: book/ghost\n", {}, "no page or notebook 'book/ghost'"),
        (TOC, {"texts": {"sed": "1"}}, "no chapter has a parameter 'sed'; there are seed"),
        (TOC, {"texts": {"seed": "x"}}, "01_tiny: parameter 'seed' is int"),
        (TOC, {"only": ["03_more"]}, "no chapter '03_more'; there are 01_tiny, 02_other"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(book, toc, given, message):
    book.toc.write_text(toc)
    with pytest.raises(RunError, match=message):
        build_book(book, **given)
    assert not book.products.exists()


def test_a_book_without_chapters_is_refused(book):
    shutil.rmtree(book.root / "notebooks")
    with pytest.raises(BookError, match="no notebook there"):
        build_book(book)


def test_the_status_page_tells_of_commits(book):
    def run(name, git):
        manifest = {
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 12.34,
            "git": git,
            "machine": {"python": "3.11.9", "platform": "Linux", "cores": 2},
            "packages": {"torch": "2.13.0"},
            "hashes": {"data": "d" * 64, "library": "e" * 64},
        }
        return Run(name, book.root / f"{name}.ipynb", manifest, reused=False)

    page = status_page([run("01_a", {"commit": "abcdef0123456", "dirty": True}), run("02_b", None)])
    assert "| {doc}`/notebooks/01_a` | 2026-01-02 03:04 | 12.3 | `abcdef0123` with changes |" in page
    assert "| {doc}`/notebooks/02_b` | 2026-01-02 03:04 | 12.3 | none |" in page
    assert "| torch | 2.13.0 |" in page


FOREIGN = """import pandas as pd
from IPython.display import Markdown, display
from personalib.base.markdown import code, escaped
from personalib.base.tables import to_markdown

pd.set_option("display.max_colwidth", None)
ways = {"PARAGRAPH": "{} {}", "HEADING": "### {} {}", "LIST": "- {} {}", "LINK": "[{} {}](https://example.org)"}
for some in (["word"], texts):
    display(Markdown("NEXT"))
    marked = [(f"{number}.", text) for number, text in enumerate(some)]
    for way, form in ways.items():
        display(Markdown("\\n\\n".join(form.format(escaped(text), way + mark) for mark, text in marked)))
    display(Markdown("\\n\\n".join(f"{code(text)} CODE{mark}" for mark, text in marked)))
    table = pd.DataFrame([(text, f"CELL{mark}") for mark, text in marked], columns=[" ".join(some), "-"], index=some)
    display(Markdown(to_markdown(table)), table.replace("CELL", "FRAME", regex=True))
    display(Markdown(f"{some[0]} RAW"))
display(Markdown("NEXT"))"""


class Shown(HTMLParser):
    """A page in the parts between the words NEXT: the tags in each with their attributes' names, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[set[tuple[str, ...]]] = [set()]
        self.texts = [""]
        self.feed(html)
        self.texts = [" ".join(text.split()) for text in self.texts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[-1].add((tag, *(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() == "NEXT":
            self.tags.append(set())
            self.texts.append("")
        self.texts[-1] += data


def test_foreign_texts_are_shown_on_a_page_as_they_are(book, write_notebook):
    (book.root / "book" / "secret.txt").write_text(SECRET)
    texts = [text.replace("secret.txt", "/book/secret.txt") for text in HOSTILE]
    path = write_notebook(FOREIGN, parameters="texts: list[str] = []", folder=book.root / "notebooks")
    book.toc.write_text(TOC.replace("  - file: notebooks/02_other\n", ""))
    build_pages(book, [run_notebook(path, {"texts": texts}, book.executed).notebook], "Nothing.\n")
    page = Shown((book.html / "notebooks" / "01_tiny.html").read_text())
    _, plain, foreign, _ = page.tags
    assert foreign <= plain and f"{texts[0]} RAW" in page.texts[2]
    shown = page.texts[2]
    for number, text in enumerate(texts):
        for place in ("PARAGRAPH", "HEADING", "LIST", "LINK", "CODE", "CELL"):
            assert f"{' '.join(text.split())} {place}{number}." in shown, (text, place)
        as_pandas_has_it = " ".join(text.replace("\n", "\\n").split())
        assert f"{as_pandas_has_it} FRAME{number}." in shown, text
    assert not [one for one in book.html.rglob("*") if one.is_file() and SECRET.encode() in one.read_bytes()]


# Parameters


@pytest.fixture
def chapters(tmp_path, write_notebook):
    paths = [write_notebook("print(seed)", name=name, parameters="seed: int = 7") for name in ("01_tiny", "02_other")]
    return [Chapter.read(path) for path in paths]


@pytest.mark.parametrize("whom", ["02.seed", "02_other.seed"])
def test_a_parameter_of_one_chapter_goes_before_that_of_all(chapters, whom):
    for texts in ({"seed": "8", whom: "9"}, {whom: "9", "seed": "8"}):
        assert distribute(chapters, texts) == {"01_tiny": {"seed": 8}, "02_other": {"seed": 9}}
    assert distribute(chapters, {whom: "9"}) == {"01_tiny": {}, "02_other": {"seed": 9}}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("03.seed", "03.seed: no chapter '03'; there are 01_tiny, 02_other"),
        ("02.sed", "chapter 02_other has no parameter 'sed'; there are seed"),
    ],
)
def test_a_parameter_of_nobody_is_refused(chapters, name, said):
    with pytest.raises(RunError, match=said):
        distribute(chapters, {name: "9"})
