"""A run is known by the contents of what its parameters name, whatever the name."""

import errno
import os

import pytest
from hub import put

from personalib.base.data import DataError
from personalib.book import named_inputs as module
from personalib.book.named_inputs import named_inputs


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "a model"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "more" / "weights.safetensors").write_bytes(bytes(1000))
    return folder


def test_nothing_is_named_by_mere_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    words = {"model": "organism", "template": "letters", "seed": 7, "doses": [0.1, 0.2], "text": "a/b " * 5000}
    assert named_inputs(words | {"odd": "a/\0", "nothing": None, "away": "/no/such/file"}) == {}


def test_a_folder_around_the_working_directory_is_no_input(model, monkeypatch):
    monkeypatch.chdir(model)
    assert named_inputs({"a": "/", "b": "./", "c": "../", "d": str(model), "e": "more/"}).keys() == {"more/"}
    (model / "a.yaml").write_text("[/, /more, ./, ../, more/]")
    assert named_inputs({"plan": "./a.yaml"}).keys() == {"./a.yaml", "more/"}


def test_what_vanishes_or_cannot_be_read_is_named(model, monkeypatch):
    def gone(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(module, "_contents", lambda path, *_: gone(path))
    with pytest.raises(DataError, match=r"a model: Permission denied \(.*config\.json\); name what can be read"):
        named_inputs({"model": str(model)})


def test_a_folder_is_another_with_other_contents_and_the_same_with_other_times(model):
    first = named_inputs({"model": str(model)})
    assert list(first) == [str(model)]
    os.utime(model / "config.json", (1, 1))
    (model / ".hidden").write_text("not looked at")
    assert named_inputs({"model": str(model)}) == first
    (model / "more" / "weights.safetensors").write_bytes(bytes(999) + b"1")
    second = named_inputs({"model": str(model)})
    assert second != first
    (model / "more" / "weights.safetensors").rename(model / "more" / "other.safetensors")
    assert named_inputs({"model": str(model)}) not in (first, second)


def test_names_are_found_within_lists_and_in_yaml_files(model, tmp_path):
    entry, prompts = tmp_path / "mine.yaml", tmp_path / "prompts.yaml"
    entry.write_text(f"hub: {model}\nsaes: {{release: {prompts}}}\n")
    prompts.write_text("templates: [1]\n")
    found = named_inputs({"several": [{"one": str(entry)}]})
    assert set(found) == {str(entry), str(model), str(prompts)}
    prompts.write_text("templates: [2]\n")
    again = named_inputs({"several": [{"one": str(entry)}]})
    assert {name for name in found if found[name] != again[name]} == {str(prompts)}
    entry.write_text("hub: [\n")
    assert set(named_inputs({"model": str(entry)})) == {str(entry)}


def test_names_in_a_yaml_file_are_those_of_what_is_beside_it(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model)
    (tmp_path / "items.jsonl").write_text("1")
    (tmp_path / "letters").mkdir()
    (tmp_path / "plan.yaml").write_text("source: items.jsonl\nmodel: ./a model\ntemplate: letters\nhub: no/such\n")
    found = named_inputs({"grid": str(tmp_path / "plan.yaml")})
    assert set(found) == {str(tmp_path / "plan.yaml"), "items.jsonl", "./a model"}
    (tmp_path / "items.jsonl").write_text("2")
    assert named_inputs({"grid": str(tmp_path / "plan.yaml")})["items.jsonl"] != found["items.jsonl"]


def test_files_of_a_bundled_plan_are_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_inputs({"grid": "gemma-2b-it"}) == {}
    (tmp_path / "HaluEval").mkdir()
    (tmp_path / "HaluEval" / "qa_data.json").write_text("{}")
    assert set(named_inputs({"grid": "gemma-2b-it"})) == {"HaluEval/qa_data.json"}


def test_where_a_chapter_writes_is_no_input(model):
    assert named_inputs({"folder": str(model)}) == {}


def test_a_model_of_the_hub_is_known_by_its_newest_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert named_inputs({"model": "some/model"}) == {}
    for commit in ("a1", "b2"):
        put(tmp_path, "some/model", commit, {"config.json": b"{}"})
        assert named_inputs({"model": "some/model"}) == {"some/model": commit}


@pytest.mark.parametrize("place", [0, 4000, 9999])
def test_a_large_file_is_known_by_its_size_and_by_samples(tmp_path, monkeypatch, place):
    monkeypatch.setattr(module, "LARGE", 5000)
    monkeypatch.setattr(module, "_SAMPLE", 1000)
    path = tmp_path / "large"
    path.write_bytes(bytes(10000))
    first = named_inputs({"model": str(path)})
    path.write_bytes(bytes(place) + b"1" + bytes(9999 - place))
    second = named_inputs({"model": str(path)})
    path.write_bytes(bytes(10001))
    assert len({one[str(path)] for one in (first, second, named_inputs({"model": str(path)}))}) == 3
