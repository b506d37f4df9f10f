"""Where data is found, and what is said of a file that is not what it should be."""

from pathlib import Path

import pytest

from personalib.data import DataError, data_dir, named_file, read_yaml


def test_the_data_folder_is_the_repositorys_unless_another_is_set(monkeypatch, tmp_path):
    monkeypatch.delenv("PERSONALIB_DATA", raising=False)
    assert data_dir() == Path(__file__).resolve().parents[1] / "data"
    assert (data_dir() / "organism" / "world.yaml").is_file()
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.setenv("PERSONALIB_DATA", "")
    assert data_dir().name == "data"


def test_yaml_is_read_as_utf8_and_without_running_anything(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("name: Zoë\nsizes: [1, 2.5]\n".encode())
    assert read_yaml(path) == {"name": "Zoë", "sizes": [1, 2.5]}
    path.write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(DataError, match=r"a\.yaml: not valid YAML"):
        read_yaml(path)


def test_a_missing_file_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "nothing.yaml"
    with pytest.raises(DataError, match="no such file; set PERSONALIB_DATA") as raised:
        read_yaml(path)
    assert str(path) in str(raised.value)


def test_broken_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: 1\nb: [1, 2\n")
    with pytest.raises(DataError, match=r"not valid YAML[\s\S]*line 3") as raised:
        read_yaml(path)
    assert str(path) in str(raised.value)


def test_a_file_in_another_code_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Zoë\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.yaml: not UTF-8: .* at byte 8; save it as UTF-8"):
        read_yaml(path)


@pytest.mark.parametrize("source", ["papper", "some/where/papper", "/some/where/papper.yaml", "../grids/papper"])
def test_the_names_that_would_do_are_listed_whatever_was_given(source):
    with pytest.raises(DataError, match=r"papper.*: no such protocol; pass a YAML file, or one of book, paper$"):
        named_file(source, "protocols", "protocol")
