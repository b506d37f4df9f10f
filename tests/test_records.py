"""A file that is not what its name says is one clear error with file and row."""

import doctest

import pytest

import personalib.records
from personalib.data import DataError
from personalib.records import ItemError, read_records


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_examples_in_the_documentation_are_true():
    result = doctest.testmod(personalib.records)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"a\.json: not a \.json file \(.*line 1"),
        ("a.json", "3", r"a\.json: holds a single value; write a list of objects"),
        ("a.json", "[1]", r"a\.json, row 1: is not an object"),
        ("a.json", '{"Offensiveness": []}', r"a\.json, row 1: is not an object"),
        ("a.json", "[]", r"a\.json: holds no rows"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl, row 2: not JSON .* write one object a line"),
        ("a.jsonl", '[\n{"a": 1}\n]', r"a\.jsonl, row 1: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n"text"\n', r"a\.jsonl, row 3: is not an object"),
        ("a.jsonl", "", r"a\.jsonl: holds no rows"),
        ("a.jsonl", b"\xff\xfe\x00", r"a\.jsonl: not a \.jsonl file"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv, row 3: has more cells than the header; quote"),
        ("a.csv", 'a,b\n1,"2\n', r"a\.csv: not a \.csv file"),
        ("a.csv", b"PAR1\x00\xff\xff", r"a\.csv: not a \.csv file"),
        ("a.csv", "a,b\n", r"a\.csv: holds no rows"),
        ("a.parquet", "a,b\n1,2\n", r"a\.parquet: not a \.parquet file"),
        (
            "a.txt",
            "text",
            r"a\.txt: unknown kind of file '\.txt'; use one of \.json, \.jsonl, \.csv, \.parquet",
        ),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(file, name, content, message):
    with pytest.raises(ItemError, match=message):
        read_records(file(name, content))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: No such file or directory; check the path"):
        read_records(tmp_path / name)


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ItemError, match=r"a\.csv: Is a directory; check the path"):
        read_records(tmp_path / "a.csv")


def test_a_byte_order_mark_and_line_breaks_in_cells_are_read(file):
    records = read_records(file("a.csv", b'\xef\xbb\xbfa,b\n"one\ntwo",2\n3,4\n'))
    assert [dict(record.fields) for record in records] == [{"a": "one\ntwo", "b": "2"}, {"a": "3", "b": "4"}]
    assert records[1].where.endswith("row 4")
    assert read_records(file("a.jsonl", b'\xef\xbb\xbf{"a": 1}'))[0].fields == {"a": 1}


def test_a_separator_inside_a_json_text_does_not_break_its_line(file):
    assert read_records(file("a.jsonl", '{"a": "x\u2028y"}\n'))[0].text("a") == "x\u2028y"


def test_an_object_of_objects_is_read_by_its_keys(file):
    [record] = read_records(file("a.json", '{"12": {"answer": 1}}'))
    assert (record.integer("id"), record.integer("answer")) == (12, 1)
