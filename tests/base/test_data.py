"""Where data is found, and what is said of a file that is not what it should be."""

import json
from pathlib import Path

import pytest

from personalib.base.data import (
    DataError,
    data_dir,
    exists,
    named_file,
    parse,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
    shown,
)


def test_the_data_folder_is_the_repositorys_unless_another_is_set(monkeypatch, tmp_path):
    monkeypatch.delenv("PERSONALIB_DATA", raising=False)
    assert data_dir() == Path(__file__).resolve().parents[2] / "data"
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
    with pytest.raises(DataError, match=r"a\.yaml, line 1: the tag '.*os.getcwd' is not read; leave it out"):
        read_yaml(path)


def test_a_missing_file_and_a_broken_one_are_named_with_the_way_out(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_bytes("name: Zoë\n".encode("latin-1"))
    for path, problem in (
        (data_dir() / "a.yaml", "no such file; set PERSONALIB_DATA to"),
        (tmp_path / "a.yaml", "no such file; check the path"),
        (broken, "not UTF-8: .* at byte 8; save it as UTF-8"),
    ):
        with pytest.raises(DataError, match=f"^{path}: {problem}"):
            read_yaml(path)


@pytest.mark.parametrize("source", ["papper", "some/where/papper", "/some/where/papper.yaml", "../grids/papper"])
def test_the_names_that_would_do_are_listed_whatever_was_given(source):
    with pytest.raises(DataError, match=r"papper.*: no such protocol; pass a YAML file, or one of book, paper$"):
        named_file(source, "protocols", "protocol")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[Yes, no, On, off, y, N]", ["Yes", "no", "On", "off", "y", "N"]),
        ("[true, False, NULL, ~, ]", [True, False, None, None]),
        ("[2024-05-01, 2024-05-01 10:00:00, 1_000]", ["2024-05-01", "2024-05-01 10:00:00", "1_000"]),
        ("12:30:45", "12:30:45"),
        ("[010, 0b1, 0o17, 0x1F, -3, +4, 0, -0]", ["010", "0b1", 15, 31, -3, 4, 0, 0]),
        ("[1e-3, 1E3, .5, 5., -2.5e+2, 1.5.2, e5]", [1e-3, 1e3, 0.5, 5.0, -250.0, "1.5.2", "e5"]),
        ("['true', \"1\"]", ["true", "1"]),
        ("a: &one {x: 1, y: [2]}\nb: {<<: *one, x: 3}", {"a": {"x": 1, "y": [2]}, "b": {"x": 3, "y": [2]}}),
        ("- &a {x: 1}\n- &b {x: 2, z: 3}\n- {<<: [*a, *b]}", [{"x": 1}, {"x": 2, "z": 3}, {"x": 1, "z": 3}]),
        ("", None),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_a_plain_text_of_yaml_means_what_version_1_2_says(text, value):
    found = parse_yaml(text, "here")
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "here, line 3: the key 'a' is there twice; keep one of them"),
        ("a: .nan", "here, line 1: nan is not a finite number"),
        ("- 1\n- -.INF", "here, line 2: -INF is not a finite number"),
        ("1e999", "here, line 1: 1e999 is not a finite number"),
        ("1" * 5000, "here, line 1: the number 1{198} … has more than 64 bits; quote it if it is a text"),
        ("a: !!timestamp 2024-05-01", "here, line 1: the tag 'tag:yaml.org,2002:timestamp' is not read"),
        ("[" * 100_000, "here, line 1: lists or objects within each other more than 60 deep"),
        ("- " * 1000 + "a", "here, line 1: lists or objects within each other more than 60 deep"),
        ("a: 1\n---\nb: 2", "here, line 2: a second document begins"),
        ("a: &x [*x]", r"here, line 1: \*x stands for nothing before it"),
        ("{[1]: 2}", r"here, line 1: the key \[1\] is a list or an object; quote it"),
        ("a: {<<: 3}", "here, line 1: << merges objects, not 3"),
        ("a: b: c", "here: not valid YAML: line 1: mapping values are not allowed"),
        ("a: 1\nb: [1, 2\n", "here: not valid YAML: line 3"),
        ("a: \0", "here: not valid YAML: unacceptable character #x0000"),
        ("a: \ud800", "here: not valid YAML: 'utf-8' codec can't encode"),
        ("a" * 10_000_001, "here: longer than 10,000,000 characters"),
    ],
)
def test_yaml_that_means_nothing_or_too_much_is_refused_with_its_line(text, problem):
    with pytest.raises(DataError, match=problem) as raised:
        parse_yaml(text, "here")
    assert len(str(raised.value)) < 400


def test_aliases_do_not_multiply():
    doubling = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    with pytest.raises(DataError, match="here, line 8: aliases stand for more than 10,000 values"):
        parse_yaml("\n".join(doubling), "here")
    assert parse_yaml("\n".join(doubling[:3]), "here")["a2"] == [[["x", "x"]] * 3] * 3


def test_json_is_read_with_its_bounds(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [1, 2.5e-3, null, "ü"], "b": {}}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5e-3, None, "ü"], "b": {}}
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"a\.json: lists or objects within each other more than 60 deep"):
        read_json(path)
    with pytest.raises(DataError, match="check the path"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "here: the key 'a' is there twice in one object"),
        ("[NaN]", "here: NaN is not a finite number; leave out what is missing"),
        ("[-Infinity, 1e999]", "here: -Infinity is not a finite number"),
        ("1e999", "here: 1e999 is not a finite number"),
        ("1" * 5000, "here: the number 1{198} … has more than 64 bits"),
        ("[" * 61 + "]" * 61, "here: lists or objects within each other more than 60 deep"),
        ('{"a": ' * 100_000, "here: lists or objects within each other more than 60 deep"),
        ('{"a": \n1,}', "here: not valid JSON: line 2, column 3"),
        ("", "here: not valid JSON: line 1, column 1"),
    ],
)
def test_json_that_means_nothing_or_too_much_is_refused(text, problem):
    with pytest.raises(DataError, match=problem) as raised:
        parse_json(text, "here")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("text", ["[" * 60 + "]" * 60, str(2**64 - 1), str(-(2**63))])
def test_what_is_allowed_in_depth_and_size_is_read(text):
    assert parse_json(text, "here") == parse_yaml(text, "here") == json.loads(text)


def test_of_many_faults_three_are_named_and_the_others_counted():
    with pytest.raises(DataError, match=r"^here: 0: is 1; .*; 1: is 2; .*; 2: is 3; write a text, .*; and 2 more$"):
        parse(list[str], [1, 2, 3, 4, 5], "here")


def test_a_name_in_a_message_is_cut_and_a_sentence_is_not():
    sentence = "known are " + ", ".join(map(str, range(1000)))
    message = str(DataError(f"a.yaml: {'x' * 500}.y: not known; {sentence}"))
    assert message == f"a.yaml: {'x' * 398} …: not known; {sentence}"
    assert shown({"a": [1, "b"]}) == "{'a': [1, 'b']}" and len(shown("x" * 400_000)) == 200


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "missing/file"])
def test_what_no_file_can_be_called_is_not_there(name, tmp_path):
    assert exists(tmp_path) and not exists(tmp_path / "missing" / name)
    with pytest.raises(DataError, match="check the path"):
        read_yaml(tmp_path / "missing" / name)
