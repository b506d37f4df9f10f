"""Records: rows of a data file, each knowing where it stands so that an error can point at it.

Published data is read as it is: a row that cannot be used is left out and named with its reason, and a file is refused
where half of its rows or more cannot be used.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from personalib.base.data import DataError, cut, parse_json, shown

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
    """One row of a file: where it stands, and its values by column.

    A problem says why the row cannot be read at all; whoever asks for a field of it gets that error.
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
            value = _parsed_list(value)
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

    Args:
        source: the file, for messages.
        records: its rows.
        parse: what a row and its place stand for; raises :class:`ItemError` where it cannot be used.
        key: what tells an item from all others.
        field: the field that holds it, for messages.
        skipped: takes the rows that are left out; a warning counts them in any case.

    Raises:
        ItemError: half of the rows or more cannot be used.
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

    Raises:
        ItemError: it is half of all or more, so that hardly anything is what was meant.
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


def _is_whole(value: Any) -> bool:
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return bool(number and abs(value) < 10**18 and value == int(value))


def _parsed_list(text: str) -> Any:
    """The JSON in a text, or None."""
    try:
        return parse_json(text, "a cell")
    except DataError:
        return None
