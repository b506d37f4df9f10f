"""Records: rows of a data file, each knowing where it stands so that an error can point at it."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from personalib.data import DataError


class ItemError(DataError):
    """An item or an answer is not what it should be; the message names file, row and field, and the fix."""


@dataclass(frozen=True)
class Record:
    """One row of a file.

    Attributes:
        where: file and row, for messages.
        fields: the row's values by column.
    """

    where: str
    fields: Mapping[str, Any]

    def error(self, field: str, problem: str) -> ItemError:
        """The error that points at one field of this row."""
        return ItemError(f"{self.where}, field {field!r}: {problem}")

    def has(self, field: str) -> bool:
        """Whether the field is there and is filled in (an empty CSV cell is not)."""
        return self.fields.get(field) not in (None, "")

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """A string without the white space around it."""
        value = self._value(field)
        if not isinstance(value, str):
            raise self.error(field, f"is {value!r}; write a text")
        if not value.strip() and not may_be_empty:
            raise self.error(field, "is empty; fill it in or remove the row")
        return value.strip()

    def integer(self, field: str) -> int:
        """A whole number, also where a text format holds it as digits."""
        value = self._value(field)
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(field, f"is {value!r}; write a whole number")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """At least two different texts; a CSV cell holds them as a JSON list."""
        value = self._value(field)
        if isinstance(value, str):
            value = _parsed_list(value)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.error(field, f"is {self.fields[field]!r}; write a list of texts")
        options = {f"{field}[{position}]": text.strip() for position, text in enumerate(value)}
        self.check_options(options)
        if len(options) < 2:
            raise self.error(field, f"holds {len(options)} options; an item needs at least two")
        return tuple(options.values())

    def check_options(self, options: Mapping[str, str]) -> None:
        """Refuse an empty option and two identical ones: an answer could not be told apart.

        Args:
            options: texts by field name.
        """
        seen: dict[str, str] = {}
        for field, text in options.items():
            if not text:
                raise self.error(field, "is empty; fill it in or remove the row")
            if text in seen:
                raise self.error(field, f"is the same text as {seen[text]!r}; reword one of them")
            seen[text] = field

    def _value(self, field: str) -> Any:
        if self.fields.get(field) is None:
            raise self.error(field, "is missing; add it, or rename the column that holds it")
        return self.fields[field]


def read_records(path: Path) -> list[Record]:
    """The rows of a ``.json``, ``.jsonl``, ``.csv`` or ``.parquet`` file.

    A JSON file holds a list of objects; or an object of objects, whose keys become the field ``id`` (as in
    SafetyBench's answer key), or of lists of objects, whose keys become ``category`` (as in its examples).

    Raises:
        ItemError: the file cannot be read, is not what its name says, or holds no row.

    Example:
        >>> from personalib.data import data_dir
        >>> read_records(data_dir() / "missing.csv")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        personalib.records.ItemError: ...missing.csv: No such file or directory; check the path
    """
    if path.suffix.lower() not in READERS:
        raise ItemError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(READERS)}")
    try:
        records = list(READERS[path.suffix.lower()](path))
    except ItemError:
        raise
    except OSError as error:
        raise ItemError(f"{path}: {error.strerror or error}; check the path") from None
    except (ValueError, csv.Error) as error:
        raise ItemError(f"{path}: not a {path.suffix} file ({error}); convert it or correct its name") from None
    if not records:
        raise ItemError(f"{path}: holds no rows; check that it was written completely")
    return records


def check_unique(records: Iterable[Record], keys: Iterable[object], field: str, thing: str = "item") -> None:
    """Refuse two items of one number or name: their answers would be mixed up.

    Args:
        records: the rows.
        keys: what tells each row's item from the others.
        field: the field that holds it, for the message.
        thing: what a row is, for the message.

    Raises:
        ItemError: two rows have one key; the message names both.
    """
    seen: dict[object, str] = {}
    for record, key in zip(records, keys, strict=True):
        if key in seen:
            raise record.error(field, f"{key} is that of {seen[key]} too; give each {thing} its own")
        seen[key] = record.where


def _parsed_list(text: str) -> Any:
    """The JSON in a text, or None."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _record(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise ItemError(f'{where}: is not an object with named fields; write {{"field": value, …}}')
    return Record(where, value)


def _read_json(path: Path) -> Iterator[Record]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        content = [row for key, value in content.items() for row in _named_rows(key, value)]
    if not isinstance(content, list):
        raise ItemError(f"{path}: holds a single value; write a list of objects")
    for number, value in enumerate(content, start=1):
        yield _record(f"{path}, row {number}", value)


def _named_rows(key: str, value: Any) -> list[Any]:
    """The rows that stand under a key: one object whose ``id`` it is, or a list of a ``category``."""
    if isinstance(value, list) and value:
        return [{"category": key, **row} if isinstance(row, dict) else row for row in value]
    return [{"id": key, **value} if isinstance(value, dict) else value]


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ItemError(f"{path}, row {number}: not JSON ({error}); write one object a line") from None
        yield _record(f"{path}, row {number}", value)


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: an unclosed quote is an error instead of one row that swallows the rest of the file.
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            where = f"{path}, row {reader.line_num}"
            if None in row:
                raise ItemError(f"{where}: has more cells than the header; quote texts that hold a comma")
            yield Record(where, row)


def _read_parquet(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    return (Record(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
