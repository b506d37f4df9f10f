"""Scales: statements that a model rates itself by, as in questionnaires for people (Likert scales)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydantic.dataclasses

from personalib.base.data import STRICT, data_dir, shown
from personalib.base.record_files import read_records
from personalib.base.records import Record, Skipped, parse_records
from personalib.questionnaires.questions import Question
from personalib.stimuli.templates import Labels, check_placeholders, read_templates

_COLUMNS = ("id", "statement", "key", "reverse", "text", "label")
_TRUE = {"true", "yes", "1", "-", "r", "reverse", "reversed"}
_FALSE = {"false", "no", "0", "+", ""}


@dataclass(frozen=True)
class ScaleItem:
    """One statement of a scale.

    Attributes:
        id: its name or number, unique within the scale.
        key: the trait that it counts toward, in small letters.
        reverse: whether agreement speaks for a *low* level of the trait.
    """

    id: str
    statement: str
    key: str
    reverse: bool


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Rating:
    """How statements are rated.

    Attributes:
        labels: the answers, from "not at all" to "very much".
        text: the request, in which ``{statement}`` may stand.
        opening: what the answer begins with, in which it may stand as well.
    """

    name: str
    labels: Labels
    text: str
    opening: str = ""


def load_scale(source: str | Path = "bundled", *, skipped: list[Skipped] | None = None) -> list[ScaleItem]:
    """The statements of a scale.

    A row has ``statement``, ``key`` and ``reverse`` (true or false; a text such as "R" or "-" will do), and may have
    an ``id``. Tables of the International Personality Item Pool are read as they are: ``text`` for the statement,
    ``label`` for the trait, and ``key`` 1 or -1.

    Args:
        source: ``"bundled"`` for the book's own statements, or a .json, .jsonl, .csv or .parquet file.
        skipped: takes the rows that cannot be used and are left out; a warning counts them in any case.

    Raises:
        DataError: the file cannot be read, or half of its rows are no such statements; the message names row, field and
            fix.

    Source:
        Likert, *Archives of Psychology* 140 (1932); Goldberg et al., *Journal of Research in Personality* 40 (2006) for
        the pool.
    """
    path = data_dir() / "items" / "scale.jsonl" if source == "bundled" else Path(source)
    return parse_records(path, read_records(path, _COLUMNS), _item, lambda item: item.id, "id", skipped)


@cache
def load_ratings(path: Path | None = None) -> dict[str, Rating]:
    """The ways to rate by name, from ``data/stimuli/templates.yaml`` or another file of its form."""
    fields = ((), ("statement",))
    found = read_templates(dict[str, Rating], path, "ratings", {"text": fields, "opening": fields})
    for name, one in found.items():
        place = f"{path or 'templates.yaml'}: ratings.{name}: text or opening"
        check_placeholders(place, f"{one.text}\n{one.opening}", ("statement",))
    return found


def scale_questions(items: Sequence[ScaleItem], rating: str = "five") -> list[Question]:
    """Statements to be rated; the role of each label is its rating, from ``"1"`` on.

    Raises:
        ValueError: the rating is unknown.
    """
    if rating not in load_ratings():
        raise ValueError(f"unknown rating {rating!r}; use one of {', '.join(load_ratings())}")
    how = load_ratings()[rating]
    return [
        Question(
            item=item.id,
            group=item.key,
            template=how.name,
            order="reversed" if item.reverse else "normal",
            text=how.text.format(statement=item.statement),
            labels=how.labels,
            roles=tuple(str(place) for place in range(1, len(how.labels) + 1)),
            opening=how.opening.format(statement=item.statement),
        )
        for item in items
    ]


def _item(record: Record, number: int) -> ScaleItem:
    # The book's own form may have a label, too, and then a key in letters.
    if record.has("label") and not record.has("statement"):
        return _pool_item(record, number)
    return ScaleItem(_id(record, number), record.text("statement"), record.text("key").lower(), _flag(record))


def _pool_item(record: Record, number: int) -> ScaleItem:
    """A row of the pool's own tables."""
    sign = record.integer("key")
    if sign not in (1, -1):
        raise record.error("key", f"is {sign}; write 1 or -1 beside a label")
    statement = record.text("text")
    closed = statement if statement.endswith((".", "!", "?")) else f"{statement}."
    return ScaleItem(_id(record, number), closed, record.text("label").lower(), sign < 0)


def _id(record: Record, number: int) -> str:
    if not record.has("id"):
        return str(number)
    return record.text("id") if isinstance(record.fields["id"], str) else str(record.integer("id"))


def _flag(record: Record) -> bool:
    value = record.fields.get("reverse")
    if value is None:
        raise record.error("reverse", "is missing; write true where agreement speaks for a low level, else false")
    known = str(value).strip().lower()
    if known not in _TRUE | _FALSE:
        raise record.error("reverse", f"is {shown(value)}; write true or false")
    return known in _TRUE
