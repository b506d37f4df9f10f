"""What a user of ``python -m personalib backgrounds`` sees; the endpoint's own tests are in ``test_endpoint.py``."""

import json

import pytest
from calls import printed

from personalib.stimuli.paper_files import load_backgrounds


@pytest.fixture
def people(call, tmp_path):
    assert call("keywords", "--num", 30, "--seed", 2, "--out", "people.json")[0] == 0
    return tmp_path / "people.json"


def test_stories_from_one_seed_are_the_same_bytes(call, people, tmp_path):
    for name, seed in (("first", 4), ("second", 4), ("third", 5)):
        code, out, err = call("generated", people, "--seed", seed, "--out", f"{name}.json")
        assert code == 0 and f"{name}.json: 30 life stories" in out, err
    first, second, third = ((tmp_path / f"{name}.json").read_bytes() for name in ("first", "second", "third"))
    assert first == second != third
    entries = load_backgrounds(tmp_path / "first.json")
    assert all(100 <= len(entry.generative_bg.split()) <= 150 for entry in entries)
    before = load_backgrounds(people)
    assert [(one.attributes, one.keywords) for one in entries] == [(one.attributes, one.keywords) for one in before]


@pytest.mark.parametrize(("person", "pronoun"), [("first", "my"), ("second", "your"), ("third", "their")])
def test_stories_are_told_in_the_person_that_is_asked_for(call, people, tmp_path, person, pronoun):
    assert call("generated", people, "--person", person, "--out", "s.json")[0] == 0
    assert all(f" {pronoun} " in entry.generative_bg for entry in load_backgrounds(tmp_path / "s.json"))


def test_a_second_run_takes_its_stories_from_the_journal(call, people, tmp_path):
    assert call("generated", people, "--out", "s.json")[0] == 0
    journal = tmp_path / "s.json.journal.jsonl"
    before, text = journal.read_bytes(), (tmp_path / "s.json").read_bytes()
    assert before.count(b"\n") == 30
    assert call("generated", people, "--out", "s.json")[0] == 0
    assert journal.read_bytes() == before and (tmp_path / "s.json").read_bytes() == text


@pytest.mark.parametrize("command", ["generated", "keywords"])
def test_a_language_model_has_to_be_named(call, people, command):
    source = [people] if command == "generated" else []
    code, _, err = call(command, *source, "--writer", "endpoint", "--out", "s.json")
    assert code == 2 and "--writer endpoint needs --model" in err


def test_the_commands_write_the_same_bytes_from_the_same_seed(tmp_path):
    first, second, text = (tmp_path / f"{name}.json" for name in ("first", "second", "text"))
    shown = printed("backgrounds", "keywords", "--num", 60, "--seed", 5, "--out", first)
    printed("backgrounds", "keywords", "--num", 60, "--seed", 5, "--out", second)
    assert first.read_bytes() == second.read_bytes()
    assert "50.0%" in shown and f"{first}: 60 backgrounds" in shown
    printed("backgrounds", "fixed", first, "--person", "first", "--out", text)
    entries = json.loads(text.read_text())
    assert len(entries) == 60 and all(len(entry["fixed_bg"]) == 9 for entry in entries)
    assert any(sentence.startswith("My ") for entry in entries for sentence in entry["fixed_bg"].values())
    assert printed("backgrounds", "coverage", text).splitlines() == shown.splitlines()[:-1]
