"""The kinds of questionnaires beside traits and choices: judgements, scales and word pairs.

A judgement asks whether an answer to a question of knowledge is right, once of a right answer and once of a wrong one:
a model that always says yes is right half of the time, and its yes-rate shows why. A scale has statements that a model
rates itself by, as in questionnaires for people (Likert scales). Word pairs are the paper's check of social bias: how
much a model's preference for a word over its opposite changes when it is steered (arXiv 2410.10863, code release).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import Field, field_validator

from personalib.base.data import STRICT, DataError, choose, data_dir, parse, read_section, shown
from personalib.base.records import Record, Skipped, parse_records, read_records
from personalib.questionnaires.items import SafetyItem, load_facts
from personalib.questionnaires.questions import Question
from personalib.stimuli.templates import Labels, placeholders, read_templates

# Which answer is shown; it takes the place of an order among the options.
SHOWN = ("right", "wrong")
_JUDGEMENT_COLUMNS = ("id", "category", "knowledge", "question", "right_answer", "hallucinated_answer")
_SCALE_COLUMNS = ("id", "statement", "key", "reverse", "text", "label")
_TRUE = {"true", "yes", "1", "-", "r", "reverse", "reversed"}
_FALSE = {"false", "no", "0", "+", ""}
_Word = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class JudgementItem:
    """A question with a right and a wrong answer, and what it can be answered from, in the schema of HaluEval.

    Source:
        Li et al., *HaluEval* (arXiv 2305.11747).
    """

    id: int
    category: str
    knowledge: str
    question: str
    right: str
    wrong: str


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class JudgementTemplate:
    """How a judgement is asked for: what stands for yes and no, and the request."""

    name: str
    labels: Labels
    text: Annotated[str, placeholders("question", "answer", optional=["knowledge"])]


def load_judgements(source: str | Path = "bundled", *, skipped: list[Skipped] | None = None) -> list[JudgementItem]:
    """Questions with a right and a wrong answer.

    A row has ``question``, ``right_answer`` and ``hallucinated_answer``, and may have ``knowledge``, as in HaluEval's
    ``qa_data.json`` (one object a line). One whose answers are the same text is left out. The source ``"bundled"`` is
    the book's own fact questions; files, ``skipped`` and errors are those of
    :func:`personalib.questionnaires.items.load_trait`.
    """
    if source == "bundled":
        return [_fact_judgement(fact) for fact in load_facts()]
    records = read_records(Path(source), _JUDGEMENT_COLUMNS)
    return parse_records(source, records, _judgement_item, lambda item: item.id, "id", skipped)


@cache
def load_judgement_templates(path: Path | None = None) -> dict[str, JudgementTemplate]:
    """The templates by name, from ``data/stimuli/templates.yaml`` or another file of its form."""
    return read_templates(dict[str, JudgementTemplate], path, "judgements")


def judgement_questions(items: Sequence[JudgementItem], template: str = "check") -> list[Question]:
    """Each question with its right and with its wrong answer, of which ``order`` says which.

    An unknown template is a ValueError.
    """
    known = load_judgement_templates()
    how = known[choose(template, known, "template")]
    return [
        Question(
            item=str(item.id),
            group=item.category,
            template=template,
            order=shown,
            text=how.text.format(
                knowledge=item.knowledge,
                question=item.question,
                answer=(item.right if shown == SHOWN[0] else item.wrong).rstrip("."),
            ),
            labels=how.labels,
            roles=("yes", "no"),
            options=tuple(label.strip() for label in how.labels),
        )
        for shown, item in product(SHOWN, items)
    ]


def _fact_judgement(fact: SafetyItem) -> JudgementItem:
    """A fact question with its right option, and the next one as a wrong answer."""
    place = fact.answer or 0
    wrong = fact.options[(place + 1) % len(fact.options)]
    return JudgementItem(fact.id, fact.category, "", fact.question, fact.options[place], wrong)


def _judgement_item(record: Record, number: int) -> JudgementItem:
    answers = {field: record.text(field) for field in ("right_answer", "hallucinated_answer")}
    # The template closes the sentence, so a full stop makes no difference.
    if len({answer.rstrip(".") for answer in answers.values()}) < 2:
        raise record.error("hallucinated_answer", "is the same text as the right answer; none is wrong")
    return JudgementItem(
        record.integer("id") if record.has("id") else number,
        record.text("category") if record.has("category") else "",
        record.text("knowledge") if record.has("knowledge") else "",
        record.text("question"),
        *answers.values(),
    )


@dataclass(frozen=True)
class ScaleItem:
    """A statement of a scale; ``reverse`` where agreement speaks for a *low* level of the trait that is its ``key``."""

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
    text: Annotated[str, placeholders(optional=["statement"])]
    opening: Annotated[str, placeholders(optional=["statement"])] = ""

    def __post_init__(self) -> None:
        if "\0" not in (self.text + self.opening).format(statement="\0"):
            raise ValueError("{statement} is missing in text and opening; write it where that is to stand")


def load_scale(source: str | Path = "bundled", *, skipped: list[Skipped] | None = None) -> list[ScaleItem]:
    """The statements of a scale.

    A row has ``statement``, ``key`` and ``reverse`` (true or false; a text such as "R" or "-" will do), and may have
    an ``id``. Tables of the International Personality Item Pool are read as they are: ``text`` for the statement,
    ``label`` for the trait, and ``key`` 1 or -1. The source ``"bundled"`` is the book's own statements; files,
    ``skipped`` and errors are those of :func:`personalib.questionnaires.items.load_trait`.

    Source:
        Likert, *Archives of Psychology* 140 (1932); Goldberg et al., *Journal of Research in Personality* 40 (2006) for
        the pool.
    """
    path = data_dir() / "items" / "scale.jsonl" if source == "bundled" else Path(source)
    records = read_records(path, _SCALE_COLUMNS)
    return parse_records(path, records, _scale_item, lambda item: item.id, "id", skipped)


@cache
def load_ratings(path: Path | None = None) -> dict[str, Rating]:
    """The ways to rate by name, from ``data/stimuli/templates.yaml`` or another file of its form."""
    return read_templates(dict[str, Rating], path, "ratings")


def scale_questions(items: Sequence[ScaleItem], rating: str = "five") -> list[Question]:
    """Statements to be rated; a label's role is its rating, from ``"1"`` on. An unknown rating is a ValueError."""
    known = load_ratings()
    how = known[choose(rating, known, "rating")]
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


def _scale_item(record: Record, number: int) -> ScaleItem:
    name = str(number)
    if record.has("id"):
        name = record.text("id") if isinstance(record.fields["id"], str) else str(record.integer("id"))
    # The book's own form may have a label, too, and then a key in letters.
    if not record.has("label") or record.has("statement"):
        return ScaleItem(name, record.text("statement"), record.text("key").lower(), _flag(record))
    sign = record.integer("key")
    if sign not in (1, -1):
        raise record.error("key", f"is {sign}; write 1 or -1 beside a label")
    statement = record.text("text")
    closed = statement if statement.endswith((".", "!", "?")) else f"{statement}."
    return ScaleItem(name, closed, record.text("label").lower(), sign < 0)


def _flag(record: Record) -> bool:
    value = record.fields.get("reverse")
    if value is None:
        raise record.error("reverse", "is missing; write true where agreement speaks for a low level, else false")
    known = str(value).strip().lower()
    if known not in _TRUE | _FALSE:
        raise record.error("reverse", f"is {shown(value)}; write true or false")
    return known in _TRUE


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class WordPair:
    """A word and its opposite, and the background element it belongs to, such as ``"gender.female"``."""

    key: str
    title: str
    element: str
    words: tuple[_Word, _Word]

    @field_validator("words")
    @classmethod
    def _differ(cls, words: tuple[str, str]) -> tuple[str, str]:
        if words[0] == words[1]:
            raise ValueError(f"{shown(words[0])} is no opposite of itself; write two different words")
        return words


@cache
def load_word_pairs(path: Path | None = None) -> tuple[WordPair, ...]:
    """The word pairs from ``data/stimuli/word_pairs.yaml`` or another file; a DataError if it is not of its form."""
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    content = read_section(dict[str, dict[str, Any]], source, "pairs")
    entries = {key: entry | {"key": key} for key, entry in content.items()}
    return tuple(parse(dict[str, WordPair], entries, f"{source}: pairs").values())


@cache
def load_openings(path: Path | None = None) -> tuple[str, ...]:
    """What comes before a word, from the same file; a DataError if it holds no list of openings."""
    source = path or data_dir() / "stimuli" / "word_pairs.yaml"
    if openings := read_section(tuple[str, ...], source, "openings"):
        return openings
    raise DataError(f"{source}: openings: none are there; write some")


def pair_questions(path: Path | None = None) -> list[Question]:
    """Each pair after each opening of an answer, from the same file."""
    return [
        Question(
            item=f"{pair.key}:{number}",
            group=pair.key,
            template="pairs",
            order="normal",
            text="Describe this person.",
            labels=(f" {pair.words[0]}", f" {pair.words[1]}"),
            roles=("attribute", "opposite"),
            opening=opening,
        )
        for pair, (number, opening) in product(load_word_pairs(path), enumerate(load_openings(path)))
    ]
