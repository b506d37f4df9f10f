"""Records: the rows of JSON, JSON lines, CSV and Parquet files, each knowing where it stands so that an error can say.

Published data is read as it is: a row that cannot be used is left out and named with its reason, and a file is refused
where half of its rows or more cannot be used.
"""

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet

from personalib.base.data import ANY_NUMBER, DataError, cut, parse_json, shown

_Item = TypeVar("_Item")
_NAMED = 3  # rows in a message


class ItemError(DataError):
    """An item or an answer is not what it should be; the message names file, row and field, and the fix."""


class LeftOutWarning(UserWarning):
    """Some rows of a file are left out."""


class Skipped(NamedTuple):
    """A row that is left out: its file and row, and why, with the field."""

    where: str
    problem: str


@dataclass(frozen=True)
class Record:
    """One row of a file: where it stands, its values by column, and why it cannot be read, if so.

    Whoever asks for a field of a row with a problem gets that as an error.
    """

    where: str
    fields: Mapping[str, Any]
    problem: str = ""

    def error(self, field: str, problem: str) -> ItemError:
        """The error that points at one field of this row."""
        return ItemError(f"{self.where}, field {field!r}: {problem}")

    def has(self, field: str) -> bool:
        """Whether the field is there and is filled in: an empty CSV cell is not, nor is NaN, which tables put there."""
        if self.problem:
            raise ItemError(f"{self.where}: {self.problem}")
        value = self.fields.get(field)
        return bool(value.strip()) if isinstance(value, str) else value is not None and value == value

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """A string without the white space around it."""
        return self._text(field, self._value(field), may_be_empty)

    def integer(self, field: str) -> int:
        """A whole number of at most 18 digits, also where a text format holds it as digits, or a table as 3.0."""
        value = self._value(field)
        whole = re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value) if isinstance(value, str) else _is_whole(value)
        if not whole:
            raise self.error(field, f"is {shown(value)}; write a whole number")
        return int(value)

    def texts(self, field: str) -> tuple[str, ...]:
        """At least two texts; a CSV cell holds them as a JSON list."""
        value = self._value(field)
        if isinstance(value, str):
            with suppress(DataError):
                value = parse_json(value, "a cell")
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.error(field, f"is {shown(self.fields[field])}; write a list of texts")
        if len(value) < 2:
            raise self.error(field, f"holds {len(value)} options; an item needs at least two")
        return tuple(self._text(f"{field}[{place}]", text) for place, text in enumerate(value))

    def named(self, columns: Collection[str]) -> "Record":
        """The record with its fields under the names of columns, whatever their case and the blanks around them.

        Names that differ from each other in nothing else are taken as they are.
        """
        known = {name.casefold(): name for name in columns}
        folded = {name: name.strip().casefold() for name in self.fields}
        count = Counter(folded.values())
        fields = {
            known.get(folded[name], name) if count[folded[name]] == 1 else name: value
            for name, value in self.fields.items()
        }
        return replace(self, fields=fields)

    def _value(self, field: str) -> Any:
        if not self.has(field) and not isinstance(self.fields.get(field), str):
            there = cut(", ".join(map(str, self.fields)))
            raise self.error(field, f"is missing; add it, or rename the column that holds it (there are: {there})")
        return self.fields[field]

    def _text(self, field: str, value: object, may_be_empty: bool = False) -> str:
        if not isinstance(value, str):
            raise self.error(field, f"is {shown(value)}; write a text")
        if not value.strip() and not may_be_empty:
            raise self.error(field, "is empty; fill it in or remove the row")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise self.error(field, f"is {shown(value)}, which has half of a character (a lone surrogate); correct it")
        return value.strip()


def parse_records(
    source: str | Path,
    records: Sequence[Record],
    parse: Callable[[Record, int], _Item],
    key: Callable[[_Item], object],
    field: str,
    skipped: list[Skipped] | None = None,
) -> list[_Item]:
    """What the rows of a file stand for, without those that cannot be used.

    ``parse`` gives what a row and its place stand for, or raises an :class:`ItemError` where the row cannot be used;
    ``key`` is what tells an item from all others, and ``field`` holds it. Rows that are left out are counted in a
    warning and added to ``skipped``; half of all or more are an ItemError.
    """
    items: list[_Item] = []
    left: list[Skipped] = []
    seen: dict[object, str] = {}
    for number, record in enumerate(records):
        try:
            item = parse(record, number)
            name = key(item)
            if name in seen:
                first = seen[name].removeprefix(f"{source}, ")
                raise record.error(field, f"is {name}, and {first} has it too; give each row its own")
        except ItemError as error:
            left.append(Skipped(record.where, str(error).removeprefix(record.where).lstrip(":, ")))
        else:
            seen[name] = record.where
            items.append(item)
    leave_out(source, left, len(records), skipped)
    return items


def leave_out(
    source: str | Path, left: Sequence[Skipped], total: int, skipped: list[Skipped] | None = None, thing: str = "rows"
) -> None:
    """Warn of what is left out of so many rows or other things of a file, and add it to ``skipped``.

    Half of all or more are an ItemError: hardly anything is what was meant then.
    """
    if not left:
        return
    if 2 * len(left) >= total:
        first = left[0]
        raise ItemError(f"{first.where}, {first.problem} ({len(left):,} of {total:,} {thing} cannot be used)")
    named = "; ".join(f"{where.removeprefix(f'{source}, ')}, {problem}" for where, problem in left[:_NAMED])
    more = f"; and {len(left) - _NAMED:,} more" if len(left) > _NAMED else ""
    said = f"{source}: {len(left):,} of {total:,} {thing} left out: {named}{more}"
    warnings.warn(said, LeftOutWarning, stacklevel=4)
    if skipped is not None:
        skipped += left


def read_records(path: Path, columns: Collection[str] = ()) -> list[Record]:
    """The rows of a ``.json``, ``.jsonl``, ``.csv`` or ``.parquet`` file.

    A JSON file holds a list of objects, or one object a line; or an object of objects, whose keys become the field
    ``id`` (as in SafetyBench's answer key), or of lists of objects, whose keys become ``category`` (as in its
    examples). Cells of a CSV file are separated by commas, semicolons or tabs: by whatever splits its header into more
    of the known columns, or by what its first line says (``sep=;``). Columns are known whatever their case and the
    blanks around them. A row that cannot be read raises an error when it is asked for a field. A file that cannot be
    read, is not what its name says, has a column twice, or holds no row is a DataError.
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
    """The names in the first line, as a mark splits it; none where it cannot."""
    with suppress(csv.Error):
        return [name.strip() for name in next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), [])]
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
    for number, cells in enumerate(zip(*found.columns, strict=True), start=1):
        yield Record(f"{path}, row {number}", dict(zip(found.column_names, map(_cell, cells), strict=True)))


def _cell(scalar: pa.Scalar) -> Any:
    """A value, or the error that says why Python has none such, such as a date after the year 9999."""
    try:
        return scalar.as_py()
    except (ValueError, ArithmeticError, LookupError, TypeError, pa.ArrowException) as error:
        return error


def _is_whole(value: Any) -> bool:
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return bool(number and abs(value) < 10**18 and value == int(value))


READERS: Mapping[str, Callable[[Path, Collection[str]], Iterator[Record]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
