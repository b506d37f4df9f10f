"""What is no file of rows is one clear error; an odd row costs that row, and a file of such rows is refused."""

import csv
import io
import warnings
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet
import pytest

from personalib.base.data import DataError
from personalib.base.records import ItemError, LeftOutWarning, Record, Skipped, leave_out, parse_records, read_records

# Files


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"a\.json: not valid JSON: line 1"),
        ("a.json", '[\n{"a": 1},\n{"a": 2\n', r"a\.json: not valid JSON: line 4"),
        ("a.json", "3", r"a\.json: holds a single value; write a list of objects"),
        ("a.json", '{"Offensiveness": []}', r"a\.json: holds no rows"),
        *((name, content, "holds no rows") for name in ("a.json", "a.jsonl") for content in ("", "[]")),
        ("a.jsonl", b"\xff\xfe\x00", r"a\.jsonl: not UTF-8: invalid start byte at byte 0; save it as UTF-8"),
        ("a.csv", "a,b,A,a\n1,2,3,4\n", r"a\.csv: the column 'a' is there 2 times; rename or remove the others"),
        ("a.csv", "a, a \n1,2\n", r"a\.csv: the column 'a' is there 2 times"),
        ("a.csv", 'a,b\n3,4\n1,"2\n3,4\n', r"a\.csv, row 3: a quote is opened and never closed; close it"),
        ("a.json", '[\n{"a": 1},\n{"a": x},\n{"a": 2}\n]', r"a\.json: not valid JSON: line 3"),
        ("a.csv", b"PAR1\x00\xff\xff", r"a\.csv: not UTF-8"),
        ("a.csv", "Gef\xfchl,b\n1,2\n".encode("cp1252"), r"a\.csv: not UTF-8: .* at byte 3; save it as UTF-8"),
        ("a.csv", "a,b\n", r"a\.csv: holds no rows"),
        ("a.parquet", "a,b\n1,2\n", r"a\.parquet: not a \.parquet file"),
        ("a.parquet", "", r"a\.parquet: not a \.parquet file"),
        ("a.txt", "text", r"a\.txt: unknown kind of file '\.txt'; use one of \.json, \.jsonl, \.csv, \.parquet"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(file, name, content, message):
    with pytest.raises(DataError, match=message):
        read_records(file(name, content))


@pytest.mark.parametrize(
    ("name", "content", "row", "message"),
    [
        ("a.json", '[{"a": 1}, 1]', 2, "is not an object with named fields"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', 2, "not valid JSON: .*; write one object a line"),
        ("a.jsonl", '{"a": 1}\n\n"text"\n', 3, "is not an object"),
        ("a.jsonl", '{"a": 1, "a": 2}\n{"a": 1}\n', 1, "the key 'a' is there twice"),
        ("a.csv", 'a,b\n"x" y,2\n1,2\n', 2, 'is not CSV .*; write "" for a quote within quotes'),
        ("a.csv", "a,b\n1,2\n1,2,3\n", 3, "has more cells than the header; put texts with ',' in quotes"),
    ],
)
def test_a_row_that_cannot_be_read_says_so_when_it_is_asked(file, name, content, row, message):
    records = read_records(file(name, content), ("a", "b"))
    [odd] = [record for record in records if record.problem]
    assert len(records) == 2
    for ask in (odd.has, odd.text, odd.integer, odd.texts):
        with pytest.raises(ItemError, match=rf"a\.\w+, row {row}: {message}"):
            ask("a")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("content", ['{"a": 1}\n{"a": 2}\n', '[{"a": 1},\n{"a": 2}]', '[\n {"a": 1},\n {"a": 2}\n]'])
def test_lists_and_lines_are_read_under_either_name(file, name, content):
    assert [record.integer("a") for record in read_records(file(name, content))] == [1, 2]


ROWS = [{"text": "So, what; now?", "number": "1"}, {"text": 'A "b"\nc', "number": "2"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("names", [["text", "number"], ["Text ", " NUMBER"]])
def test_cells_are_split_as_the_header_is(file, end, start, mark, said, names):
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, delimiter=mark, lineterminator=end)
    writer.writerows([names, *(row.values() for row in ROWS)])
    content = start + (f"sep={mark}{end}" if said else "") + lines.getvalue()
    records = read_records(file("a.csv", content), ("text", "number"))
    assert [dict(record.fields) for record in records] == ROWS
    assert records[0].where.endswith(f"row {2 + said}")


def test_a_header_decides_and_not_the_cells(file):
    records = read_records(file("a.csv", "text,number\na;b;c;d;e,1\na;b;c;d;e,2\n"), ("text", "number"))
    assert [record.text("text") for record in records] == ["a;b;c;d;e"] * 2
    [record] = read_records(file("a.csv", "Text,text\nother,own\n"), ("text",))
    assert record.text("text") == "own", "names that differ in case alone are taken as they are"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 30, "9" * 5000])
def test_a_number_that_nobody_reads_may_be_any(file, name, number):
    rows = f'{{"a": 1, "other": {number}}}', f'{{"a": {number}}}'
    content = f"[{', '.join(rows)}]" if name == "a.json" else "\n".join(rows)
    first, second = read_records(file(name, content), ("a",))
    assert first.integer("a") == 1
    with pytest.raises(ItemError, match="row 2, field 'a': is "):
        second.integer("a")


def test_rows_of_empty_cells_and_cells_of_nothing_beyond_the_header_are_no_rows(file):
    records = read_records(file("a.csv", "a,b,,\n1,2,,\n,,,\n\n3,4,,,\n"), ("a", "b"))
    assert [(record.integer("a"), record.integer("b")) for record in records] == [(1, 2), (3, 4)]


def table(path, columns):
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_other_columns_of_a_parquet_file_may_hold_what_python_has_no_value_for(tmp_path):
    columns = {"Text": ["a", "b"], "day": pa.array([2**30, 1], pa.int32()).cast(pa.date32())}
    records = read_records(table(tmp_path / "a.parquet", columns), ("text",))
    assert [record.text("text") for record in records] == ["a", "b"] and set(records[0].fields) == {"text"}


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([1, 2], pa.int32()).cast(pa.date32()),
        pa.array([2**30, 1], pa.int32()).cast(pa.date32()),
        pa.array([2**62, 1], pa.int64()).cast(pa.timestamp("us")),
        pa.array([1, 2], pa.int64()).cast(pa.timestamp("ns", "Mars/North")),
        pa.array([Decimal("1.5"), Decimal("2.5")]),
        pa.array([b"\xff", b"b"]),
        pa.array([b"\xff", b"b"]).view(pa.string()),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([1.5, float("inf")]),
        pa.array([True, False]),
    ],
    ids=lambda odd: str(odd.type),
)
def test_a_parquet_cell_that_is_no_text_and_no_number_is_one_error(tmp_path, odd):
    record = read_records(table(tmp_path / "a.parquet", {"a": odd}), ("a",))[0]
    for ask in (record.text, record.integer):
        with pytest.raises(ItemError, match=r"a\.parquet, row 1, field 'a': is .*; write a (text|whole number)"):
            ask("a")


def test_whole_numbers_of_a_table_may_be_floats_or_decimals_and_nan_is_missing(tmp_path):
    columns = {"a": [3.0, float("nan")], "b": [Decimal("4"), Decimal("5")]}
    first, second = read_records(table(tmp_path / "a.parquet", columns), ("a", "b"))
    assert (first.integer("a"), first.integer("b"), second.has("a")) == (3, 4, False)
    with pytest.raises(ItemError, match="row 2, field 'a': is missing"):
        second.integer("a")


def test_a_parquet_column_that_is_there_twice_is_named(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ItemError, match=r"a\.parquet: the column 'text' is there 2 times"):
        read_records(tmp_path / "a.parquet", ("text",))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
def test_a_missing_file_and_a_folder_are_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: No such file or directory; check the path"):
        read_records(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ItemError, match=rf"{name}: Is a directory; check the path"):
        read_records(tmp_path / name)


def test_a_byte_order_mark_and_line_breaks_in_cells_are_read(file):
    records = read_records(file("a.csv", b'\xef\xbb\xbfa,b\n"one\ntwo",2\n3,4\n'))
    assert [dict(record.fields) for record in records] == [{"a": "one\ntwo", "b": "2"}, {"a": "3", "b": "4"}]
    assert records[1].where.endswith("row 4")
    assert read_records(file("a.jsonl", b'\xef\xbb\xbf{"a": 1}'))[0].fields == {"a": 1}
    assert read_records(file("a.jsonl", '{"a": "x\u2028y"}\n'))[0].text("a") == "x\u2028y", "no line ends there"


def test_an_object_of_objects_is_read_by_its_keys(file):
    [record] = read_records(file("a.json", '{"12": {"answer": 1}}'))
    assert (record.integer("id"), record.integer("answer")) == (12, 1)


# Rows


def rows(*odd, count=10):
    return [Record(f"a.csv, row {n}", {"id": "x" if n in odd else n, "text": "t"}) for n in range(1, count + 1)]


def parsed(records, skipped=None):
    return parse_records("a.csv", records, lambda one, _: one.integer("id"), lambda own: own, "id", skipped)


def test_rows_that_can_all_be_used_are_not_spoken_of():
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parsed(rows(), skipped) == list(range(1, 11))
    assert skipped == []


def test_an_odd_row_costs_that_row_and_is_named():
    skipped = []
    with pytest.warns(LeftOutWarning) as caught:
        assert parsed(rows(3), skipped) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    problem = "field 'id': is 'x'; write a whole number"
    assert skipped == [Skipped("a.csv, row 3", problem)]
    assert [str(one.message) for one in caught] == [f"a.csv: 1 of 10 rows left out: row 3, {problem}"]
    assert caught[0].filename == __file__ or "test_records" in caught[0].filename


def test_a_message_names_some_rows_and_the_list_has_all():
    skipped = []
    with pytest.warns(LeftOutWarning, match=r"4 of 10 rows left out: row 1, .*; row 2, .*; row 3, .*; and 1 more$"):
        parsed(rows(1, 2, 3, 4), skipped)
    assert [one.where for one in skipped] == [f"a.csv, row {n}" for n in (1, 2, 3, 4)]
    with pytest.warns(LeftOutWarning, match="4 of 9 items left out"):
        leave_out("a.csv", skipped, 9, None, "items")


@pytest.mark.parametrize("odd", [5, 6, 10])
def test_a_file_of_which_half_the_rows_are_odd_is_refused(odd):
    message = rf"^a\.csv, row 1, field 'id': is 'x'; write a whole number \({odd} of 10 rows cannot be used\)$"
    with pytest.raises(ItemError, match=message):
        parsed(rows(*range(1, odd + 1)))


def test_a_file_without_the_wanted_columns_says_which_there_are():
    with pytest.raises(ItemError, match=r"row 1, field 'id': is missing; .*\(there are: number, text\) \(2 of 2 rows"):
        parsed([Record(f"a.csv, row {n}", {"number": n, "text": "t"}) for n in (1, 2)])


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (Record("a.csv, row 5", {"id": 2}), "field 'id': is 2, and row 2 has it too; give each row its own"),
        (Record("a.csv, row 5", {}, "has more cells"), "has more cells"),
    ],
)
def test_the_second_row_of_a_key_and_one_that_cannot_be_read_are_left_out(odd, problem):
    skipped = []
    with pytest.warns(LeftOutWarning, match="1 of 5 rows left out: row 5"):
        assert parsed([*rows(count=4), odd], skipped) == [1, 2, 3, 4]
    assert skipped == [Skipped("a.csv, row 5", problem)]
