"""What a user of ``python -m personalib backgrounds`` sees; the endpoint's own tests are in ``test_endpoint.py``."""

import pytest
from click.testing import CliRunner

from personalib.__main__ import cli
from personalib.stimuli.paper_files import load_backgrounds


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(cli, ["backgrounds", *map(str, arguments)], prog_name="personalib")

    return invoke


@pytest.fixture
def people(run, tmp_path):
    assert run("keywords", "--num", 30, "--seed", 2, "--out", "people.json").exit_code == 0
    return tmp_path / "people.json"


def test_stories_from_one_seed_are_the_same_bytes(run, people, tmp_path):
    for name, seed in (("first", 4), ("second", 4), ("third", 5)):
        done = run("generated", people, "--seed", seed, "--out", f"{name}.json")
        assert done.exit_code == 0 and f"{name}.json: 30 life stories" in done.output, done.output
    first, second, third = ((tmp_path / f"{name}.json").read_bytes() for name in ("first", "second", "third"))
    assert first == second != third
    entries = load_backgrounds(tmp_path / "first.json")
    assert all(100 <= len(entry.generative_bg.split()) <= 150 for entry in entries)
    before = load_backgrounds(people)
    assert [(one.attributes, one.keywords) for one in entries] == [(one.attributes, one.keywords) for one in before]


@pytest.mark.parametrize(("person", "pronoun"), [("first", "my"), ("second", "your"), ("third", "their")])
def test_stories_are_told_in_the_person_that_is_asked_for(run, people, tmp_path, person, pronoun):
    assert run("generated", people, "--person", person, "--out", "s.json").exit_code == 0
    assert all(f" {pronoun} " in entry.generative_bg for entry in load_backgrounds(tmp_path / "s.json"))


def test_a_second_run_takes_its_stories_from_the_journal(run, people, tmp_path):
    assert run("generated", people, "--out", "s.json").exit_code == 0
    journal = tmp_path / "s.json.journal.jsonl"
    before, text = journal.read_bytes(), (tmp_path / "s.json").read_bytes()
    assert before.count(b"\n") == 30
    assert run("generated", people, "--out", "s.json").exit_code == 0
    assert journal.read_bytes() == before and (tmp_path / "s.json").read_bytes() == text


@pytest.mark.parametrize("command", ["generated", "keywords"])
def test_a_language_model_has_to_be_named(run, people, command):
    source = [people] if command == "generated" else []
    done = run(command, *source, "--writer", "endpoint", "--out", "s.json")
    assert done.exit_code == 2 and "--writer endpoint needs --model" in done.output
