"""An edition of a model that something was published of has a page that compares it with that; others have none."""

import json

import pytest
import yaml
from click.testing import CliRunner

from personalib.__main__ import cli
from personalib.base.data import DataError, data_dir
from personalib.book import editions
from personalib.book.editions import make_comparison, make_edition, plan_comparison, published_name
from personalib.book.pages import Book
from personalib.evaluation.plan import parse_plan
from personalib.features.published import published_features

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
def book(lay_out, tmp_path, write_notebook):
    """A book of one chapter and a last page."""
    toc = yaml.safe_dump({"format": "jb-book", "root": "book/index", "parts": PARTS})
    root = lay_out(toc, index="# A page\n", end="# The end\n")
    write_notebook("print(model)", name="00_asks", parameters='model: str = ""  # who', folder=root / "notebooks")
    return Book(root, tmp_path / "edition")


def test_published_numbers_are_measured_and_have_a_page(book, namesake, grid, monkeypatch):
    comparison = plan_comparison(namesake, "cpu", grid=grid)
    # Sixteen items in two orders, as it is and under one arm.
    assert (comparison.questions, comparison.missing) == (64, "")
    assert comparison.plan.models[0].name == namesake and comparison.plan.questionnaires[0].per_group == 1000
    built = make_edition(book, namesake, comparison=comparison)
    page = (book.html / "book" / "reproduction.html").read_text()
    assert "Does gemma-2b-it reproduce what was published of it?" in page and "_images/reproduction.png" in page
    front = built.index.parent.joinpath("book", "index.html").read_text()
    places = [front.index(said) for said in ("00_asks.html", "Compared with what was published", '"end.html"')]
    assert places == sorted(places), "before the last part"
    # Once more nothing is left to be done, and the pages stay.
    assert not any(run.reused for run in built.runs)
    again = make_edition(book, namesake, comparison=comparison)
    assert all(run.reused for run in again.runs) and again.pages_reused
    # Without it, or where its items are missing, nothing is asked, and the page is gone.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(editions, "run_plan", lambda *_, **__: pytest.fail("asked"))
    for left_out in (None, plan_comparison(namesake, "cpu")):
        left = make_edition(book, namesake, comparison=left_out)
        assert left.index.is_file() and not (book.html / "book" / "reproduction.html").exists()


@pytest.fixture
def entry(tmp_path):
    """An entry of one's own for one of the paper's models."""
    (tmp_path / "mine.yaml").write_text("hub: Google/gemma-2b-it\ndtype: bfloat16\n")
    return str(tmp_path / "mine.yaml")


def test_a_published_model_is_known_by_what_it_is_on_the_hub(entry, namesake):
    for name in ("gemma-2b-it", "google/gemma-2b-it", "Google/Gemma-2B-IT", entry, namesake, f"{namesake}/"):
        assert published_name(name) == "gemma-2b-it"
    assert published_name("somebody/Some-Model") == "Some-Model" and published_name("organism") == "organism"


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("named", ["Google/Gemma-2B-IT", "mine.yaml"])
def test_a_model_by_another_name_is_compared_too(named, entry, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = entry if named == "mine.yaml" else named
    own, usual = plan_comparison(model, "cpu"), plan_comparison("gemma-2b-it", "cpu")
    assert (own.name, own.published) == ("gemma-2b-it", "gemma-2b-it") and own.plan.models[0].name == model
    assert own.plan.arms == usual.plan.arms
    # Where it is asked, the paper's features are looked up by the model's name.
    asked = editions._with_features(own)
    wanted = [one.features for one in asked.arms if one.method == "sae"]
    found = {key: tuple(features) for key, features in published_features("gemma-2b-it").items()}
    assert found in wanted and "published" not in wanted
    assert parse_plan(asked.model_dump(mode="json")) == asked
    assert editions._with_features(usual) is usual.plan


def test_a_report_is_of_the_published_model(copied_organism, grid, tmp_path, monkeypatch):
    monkeypatch.setattr(editions, "published_name", lambda _: "gemma-2b-it")
    comparison = plan_comparison(copied_organism("mine"), "cpu", grid=grid)
    page = make_comparison(comparison, tmp_path)
    assert page == tmp_path / "reproduction" / "gemma-2b-it" / "reproduction.md"
    assert page.read_text().startswith("# Does gemma-2b-it reproduce what was published of it?")


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

    code, said = told("--compare", grid, "--chapters", "00_start_here")
    assert code == 0 and f"published numbers, plan {grid}, protocol paper: 64 prompts at the most" in said
    assert "00_start_here" in said and "prompts a second" in said and "GB are free" in said
    monkeypatch.setattr(editions, "_measured_rate", lambda *_: 9.0)  # once is enough
    code, said = told()
    assert code == 0 and "not compared, since items are missing (" in said
    for quiet in (["--no-compare"], ["--chapters", "01_the_question"]):
        assert "published numbers, plan" not in told(*quiet)[1]
    code, said = told("--compare", grid, "--no-compare")
    assert code == 2 and "contradict each other" in said
    assert not (tmp_path / "out").exists()
