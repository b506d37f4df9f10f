"""The edition of a model: what it will take is told, what is missing is told, and its pages are built and reused."""

import shutil

import pytest
import torch
from click.testing import CliRunner

from personalib import editions
from personalib.__main__ import cli
from personalib.book import Book
from personalib.chapters import RunError
from personalib.data import DataError
from personalib.editions import edition_book, make_edition, plan_edition, probe
from personalib.models import load_model
from personalib.provenance import repository_root

TOC = "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/00_asks\n  - file: notebooks/01_no_model\n"
ASKS = "from personalib.models import load_model\nprint(load_model(model).model.num_parameters(), seed)"
PARAMETERS = 'model: str = "organism"  # who is asked\nseed: int = 7  # of nothing'


@pytest.fixture
def book(tmp_path, write_notebook):
    """A book of two chapters, one of which asks a model."""
    root = tmp_path / "root"
    shutil.copytree(repository_root() / "book" / "_static", root / "book" / "_static")
    shutil.copy(repository_root() / "_config.yml", root)
    (root / "book" / "_toc.yml").write_text(TOC)
    (root / "book" / "index.md").write_text("# A small book\n")
    (root / "book" / "references.bib").write_text("")
    write_notebook(ASKS, name="00_asks", parameters=PARAMETERS, folder=root / "notebooks")
    write_notebook("print(7)", name="01_no_model", folder=root / "notebooks", markdown=("# Another?",))
    return Book(root, tmp_path / "edition")


@pytest.fixture
def stranger(copied_organism):
    """A folder with a model that no table knows."""
    return copied_organism("stranger")


def test_an_edition_is_planned_run_and_found_again(book, stranger):
    plan = plan_edition(book, stranger)
    assert [(one.name, one.asks, one.done) for one in plan.chapters] == [
        ("00_asks", True, False),
        ("01_no_model", False, False),
    ]
    assert plan.device == ("cuda" if torch.cuda.is_available() else "cpu") and plan.rate > 0
    assert 0 < plan.memory.total < plan.free
    built = make_edition(book, stranger, {"seed": "9"}, jobs=2)
    assert built.index == book.html / "index.html" and built.index.is_file()
    assert built.runs[0].manifest["parameters"] == {"model": stranger, "seed": 9}
    # The book's own products are another folder, and stay as they are.
    assert not (book.root / "book" / "_build").exists()
    again = make_edition(book, stranger, {"seed": "9"})
    assert all(run.reused for run in again.runs) and again.pages_reused
    assert all(one.done for one in plan_edition(book, stranger, {"seed": "9"}).chapters)
    assert plan_edition(book, stranger, {"seed": "9"}).seconds == 0


def test_some_chapters_are_run_before_the_others(book, stranger):
    built = make_edition(book, stranger, only=["00_asks"])
    assert built.index is None and built.outdated == ("01_no_model",)
    assert make_edition(book, stranger).runs[0].reused


def test_a_model_that_is_not_here_is_one_message(book, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    for begin in (plan_edition, make_edition):
        with pytest.raises(DataError, match=r"gemma-2-9b-it is not here on this machine; accept .* \(18\.5 GB\)"):
            begin(book, "gemma-2-9b-it")
    assert not book.products.exists()


def test_too_little_memory_is_told_before_the_model_is_loaded(book, stranger, monkeypatch):
    monkeypatch.setattr(editions, "free_memory", lambda _: 1000)
    monkeypatch.setattr(editions, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(DataError, match=r"stranger needs .* GB .* on cpu, and 0\.0 GB are free"):
        plan_edition(book, stranger, {})


def test_chapters_that_run_side_by_side_each_need_the_memory(book, stranger, write_notebook, monkeypatch):
    write_notebook(ASKS, name="02_asks", parameters=PARAMETERS, folder=book.root / "notebooks")
    one = plan_edition(book, stranger, only=["01_no_model"])
    assert one.at_once == 0
    monkeypatch.setattr(editions, "free_memory", lambda _: one.memory.total * 3 // 2)
    # Of three chapters at a time two ask the model.
    with pytest.raises(DataError, match=r"2 chapters at a time need 2 times .* on cpu, .* are free; take --jobs 1"):
        plan_edition(book, stranger, jobs=3)
    assert plan_edition(book, stranger).at_once == 1


def test_wrong_names_are_refused(book, stranger):
    with pytest.raises(RunError, match="no chapter '02_more'; there are 00_asks, 01_no_model"):
        plan_edition(book, stranger, only=["02_more"])
    with pytest.raises(RunError, match="leave the parameter 'model' out"):
        make_edition(book, stranger, {"model": "organism"})
    with pytest.raises(RunError, match="no chapter has a parameter 'sed'"):
        plan_edition(book, stranger, {"sed": "1"})


def test_an_edition_has_a_folder_by_the_models_name(tmp_path):
    assert edition_book("google/gemma-2b-it").products == repository_root() / "results" / "editions" / "gemma-2b-it"
    assert edition_book(str(tmp_path / "a b")).products.name == "a-b"
    assert edition_book("gpt2", tmp_path).products == tmp_path


def test_the_width_of_an_sae_is_read_off_its_name():
    assert editions._sae_width("layer_31/width_131k/canonical", 3584) == 131 * 1024
    assert editions._sae_width("resid_post.1/width_512", 128) == 512
    assert editions._sae_width("l15r_8x", 4096) == 8 * 4096
    assert editions._sae_width("blocks.12.hook_resid_post", 2048) == 16 * 2048


def test_the_probe_counts_prompts():
    assert probe(load_model()) > 1


def test_the_times_of_chapters_are_known_for_every_chapter_there_is():
    names = {path.stem for path in (repository_root() / "notebooks").glob("*.ipynb")}
    assert all(editions._seconds(name, None) for name in names)
    assert editions._seconds("00_start_here", 1.0) > editions._seconds("00_start_here", 1e9)
    assert editions._seconds("99_none", 1.0) is None


def test_the_command_says_what_it_will_take_and_does_nothing(stranger, tmp_path):
    out = tmp_path / "out"
    call = ["reproduce", "--model", stranger, "--plan", "--chapters", "00_start_here", "--output-dir", str(out)]
    done = CliRunner().invoke(cli, call, catch_exceptions=False)
    assert done.exit_code == 0 and not out.exists()
    assert "00_start_here" in done.output and "prompts a second" in done.output and "GB are free" in done.output
