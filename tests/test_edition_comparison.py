"""An edition of a model that something was published of has a page that holds it against that; others have none."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from personalib import edition_comparison
from personalib.__main__ import cli
from personalib.book import Book
from personalib.data import DataError, data_dir
from personalib.edition_comparison import plan_comparison
from personalib.editions import make_edition
from personalib.provenance import repository_root

PARTS = [
    {"caption": "First", "chapters": [{"file": "notebooks/00_asks"}]},
    {"caption": "Last", "chapters": [{"file": "book/end"}]},
]


@pytest.fixture
def namesake(copied_organism):
    """The organism's weights in a folder that bears the name of the paper's small model."""
    return copied_organism("gemma-2b-it")


@pytest.fixture
def grid(tmp_path):
    """A plan of two items a trait, one of which has an arm."""
    lines = (data_dir() / "items" / "trait.jsonl").read_text().splitlines()
    rows = {}
    for line in lines:
        rows.setdefault(json.loads(line)["personality"], []).append(line)
    (tmp_path / "items.jsonl").write_text("\n".join(line for own in rows.values() for line in own[:2]) + "\n")
    trait = {"name": "trait", "kind": "trait", "source": str(tmp_path / "items.jsonl")}
    content = {
        "models": [{"name": "google/gemma-2b-it", "dtype": "float32"}],
        "questionnaires": [trait],
        "arms": [{"method": "prompt", "keys": ["gender.female"]}],
        "neutral": 2,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def book(tmp_path, write_notebook):
    """A book of one chapter and a last page."""
    root = tmp_path / "root"
    shutil.copytree(repository_root() / "book" / "_static", root / "book" / "_static")
    shutil.copy(repository_root() / "_config.yml", root)
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/index", "parts": PARTS}))
    for name in ("index", "end"):
        (root / "book" / f"{name}.md").write_text(f"# A page: {name}\n")
    (root / "book" / "references.bib").write_text("")
    write_notebook("print(model)", name="00_asks", parameters='model: str = ""  # who', folder=root / "notebooks")
    return Book(root, tmp_path / "edition")


def test_published_numbers_are_measured_and_have_a_page(book, namesake, grid):
    comparison = plan_comparison(namesake, "cpu", grid=grid)
    # Sixteen items in two orders, as it is and under one arm.
    assert (comparison.questions, comparison.missing) == (64, "")
    assert comparison.plan.models[0].name == namesake and comparison.plan.questionnaires[0].per_group == 1000
    built = make_edition(book, namesake, comparison=comparison)
    page = (book.html / "book" / "reproduction.html").read_text()
    assert "Does gemma-2b-it reproduce what was published of it?" in page and "_images/reproduction.png" in page
    assert "Held against what was published" in built.index.parent.joinpath("book", "index.html").read_text()
    # Once more nothing is left to be done, and the pages stay.
    again = make_edition(book, namesake, comparison=comparison)
    assert again.pages_reused and all(run.reused for run in again.runs)
    # Without it the page is gone.
    make_edition(book, namesake)
    assert not (book.html / "book" / "reproduction.html").exists()


def test_a_model_that_nothing_was_published_of_is_not_compared(grid):
    assert plan_comparison("gpt2", "cpu") is None
    with pytest.raises(DataError, match="gpt2: nothing was published of this model"):
        plan_comparison("gpt2", "cpu", grid=grid)


@pytest.mark.parametrize("model", ["gemma-2b-it", "gemma-2-9b-it"])
def test_the_papers_own_models_have_a_plan_and_its_items_may_be_missing(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = plan_comparison(model, "cpu")
    assert found.name == model and found.protocol.name == "paper" and "mirlab/TRAIT" in found.missing
    with pytest.raises(DataError, match="mirlab/TRAIT"):
        plan_comparison(model, "cpu", grid=model)


def test_a_comparison_has_the_editions_own_protocol(namesake, grid):
    found = plan_comparison(namesake, "cpu", {"protocol": "book", "revision": ""}, grid)
    assert found.protocol.name == "book" and found.plan.questionnaires[0].per_group is None


def test_the_command_says_what_is_compared_and_what_is_not(namesake, grid, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = ["reproduce", "--model", namesake, "--plan", "--output-dir", str(tmp_path / "out")]

    def told(*more):
        done = CliRunner().invoke(cli, [*start, *more])
        return done.exit_code, done.output

    code, said = told("--compare", grid, "--chapters", "01_the_question")
    assert code == 0 and f"published numbers, plan {grid}, protocol paper: 64 prompts at the most" in said
    code, said = told()
    assert code == 0 and "not compared, since items are missing (" in said
    for quiet in (["--no-compare"], ["--chapters", "01_the_question"]):
        assert "published numbers, plan" not in told(*quiet)[1]
    code, said = told("--compare", grid, "--no-compare")
    assert code == 2 and "contradict each other" in said


def test_missing_items_leave_the_chapters_alone(book, namesake, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(edition_comparison, "run_plan", lambda *_, **__: pytest.fail("asked"))
    built = make_edition(book, namesake, comparison=plan_comparison(namesake, "cpu"))
    assert built.index.is_file() and not (book.products / "reproduction").exists()
