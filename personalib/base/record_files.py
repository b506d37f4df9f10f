"""Record files: the rows of JSON, JSON lines, CSV and Parquet files, in the forms in which data sets are published."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from personalib.base.data import ANY_NUMBER, DataError, cut, parse_json, shown
from personalib.base.records import ItemError, Record


def read_records(path: Path, columns: Collection[str] = ()) -> list[Record]:
    """The rows of a ``.json``, ``.jsonl``, ``.csv`` or ``.parquet`` file.

    A JSON file holds a list of objects, or one object a line; or an object of objects, whose keys become the field
    ``id`` (as in SafetyBench's answer key), or of lists of objects, whose keys become ``category`` (as in its
    examples). Cells of a CSV file are separated by commas, semicolons or tabs: by whatever splits its header into more
    of the known columns, or by what its first line says (``sep=;``). Columns are known whatever their case and the
    blanks around them. A row that cannot be read raises an error when it is asked for a field.

    Raises:
        DataError: the file cannot be read, is not what its name says, has a column twice, or holds no row.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ItemError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(READERS)}")
    try:
        records = [record.named(columns) for record in READERS[suffix](path, columns)]
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise ItemError(f"{path}: not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ItemError(f"{path}: {error.strerror}; check the path") from None
        problem = cut(" ".join(str(error).split()))
        raise ItemError(f"{path}: not a {suffix} file ({problem}); convert it or correct its name") from None
    if not records:
        raise ItemError(f"{path}: holds no rows; check that it was written completely")
    return records


def unfolded(content: Mapping[str, Any]) -> list[Any]:
    """The rows of an object of objects or of lists of objects by key; any other object is one row."""
    if all(isinstance(value, dict) for value in content.values()):
        return [{"id": key, **value} for key, value in content.items()]
    if not all(isinstance(value, list) for value in content.values()):
        return [content]
    return [
        {"category": key, **row} if isinstance(row, dict) else row for key, value in content.items() for row in value
    ]


def _record(where: str, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(where, value)
    return Record(where, {}, f'is not an object with named fields; write {{"field": value, …}} (is {shown(value)})')


def _read_json(path: Path, columns: Collection[str]) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = parse_json(text, str(path), ANY_NUMBER) if text.strip() else []
    except DataError:
        # One object a line stands in files of either name, such as HaluEval's qa_data.json.
        records = list(_lines(path, text))
        is_list = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
        if is_list or all(record.problem for record in records):
            raise
        yield from records
        return
    rows = unfolded(content) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise ItemError(f"{path}: holds a single value; write a list of objects")
    for number, value in enumerate(rows, start=1):
        yield _record(f"{path}, row {number}", value)


def _lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, row {number}"
        try:
            if line.strip():
                yield _record(where, parse_json(line, where, ANY_NUMBER))
        except DataError as error:
            problem = str(error).removeprefix(f"{where}: ")
            yield Record(where, {}, f"{problem}; write one object a line")


def _read_csv(path: Path, columns: Collection[str]) -> Iterator[Record]:
    text = path.read_bytes().decode("utf-8-sig")
    said = re.match(r'"?sep=(.)"?\r?\n', text)
    text = text[said.end() :] if said else text
    known = {name.casefold() for name in columns}
    mark = said[1] if said else max(",;\t", key=lambda each: len(known & {*map(str.casefold, _header(text, each))}))
    # strict: an unclosed quote is an error instead of one row that swallows the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    header = [name.strip() for name in next(reader, [])]
    _check_columns(path, header)
    for cells, problem in _csv_rows(path, reader, bool(said)):
        if problem or any(cell.strip() for cell in cells):
            where = f"{path}, row {reader.line_num + bool(said)}"
            if any(cells[len(header) :]):
                problem = f"has more cells than the header; put texts with {mark!r} in quotes"
            yield Record(where, dict(zip(header, cells, strict=False)), problem)


def _csv_rows(path: Path, reader: Any, before: int) -> Iterator[tuple[list[str], str]]:
    """The cells of each row, or why they cannot be told apart; so many lines stand before what the reader reads."""
    while True:
        row = reader.line_num + before + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise ItemError(f"{path}, row {row}: a quote is opened and never closed; close it") from None
            yield [], f'is not CSV ({error}); write "" for a quote within quotes'
        else:
            yield cells, ""


def _header(text: str, mark: str) -> list[str]:
    """The names in the first line, as a mark splits it."""
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])]
    except csv.Error:
        return []


def _check_columns(path: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name, of which one would be read in silence."""
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ItemError(f"{path}: the column {shown(name)} is there {count} times; rename or remove the others")


def _read_parquet(path: Path, columns: Collection[str]) -> Iterator[Record]:
    known = {name.casefold() for name in columns}
    with path.open("rb") as file:
        table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
        # Only what is wanted: others may hold what Python has no value for.
        names = [name for name in table.schema_arrow.names if name.strip().casefold() in known]
        _check_columns(path, table.schema_arrow.names)
        found = table.read(names or None)
    for number, cells in enumerate(zip(*map(_cells, found.columns), strict=True), start=1):
        yield Record(f"{path}, row {number}", dict(zip(found.column_names, cells, strict=True)))


def _cells(column: pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, ArithmeticError, LookupError, TypeError, pa.ArrowException):
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:
    """A value, or the error that says why Python has none such, such as a date after the year 9999."""
    try:
        return scalar.as_py()
    except (ValueError, ArithmeticError, LookupError, TypeError, pa.ArrowException) as error:
        return error


READERS: Mapping[str, Callable[[Path, Collection[str]], Iterator[Record]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
