"""Items: the questions of a questionnaire, read from a file or the hub and checked row by row."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from personalib.base.data import choose, data_dir, shown
from personalib.base.records import READERS, ItemError, Record, Skipped, parse_records, read_records, unfolded
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.grammar import digest

# Which response stands at which position (A to D), as published.
RESPONSE_ORDERS: Mapping[str, tuple[str, ...]] = {
    "normal": ("high1", "low1", "high2", "low2"),
    "reversed": ("low1", "high1", "low2", "high2"),
}
_RESPONSES = ("response_high1", "response_high2", "response_low1", "response_low2")
_TRAIT_COLUMNS = ("idx", "split", "personality", "statement", "situation", "query", "question", *_RESPONSES)
# The second names are those of MMLU-Pro, whose answer is a letter.
_NUMBERS, _ANSWERS = ("id", "question_id"), ("answer", "answer_index")
_CHOICE_COLUMNS = (*_NUMBERS, "category", "question", "options", *_ANSWERS)
# A data set on the hub: its id, and where it has several parts, which configuration and which split of it.
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+)(?:/(?P<split>[\w.-]+))?)?")


@dataclass(frozen=True)
class TraitItem:
    """One item of TRAIT: a situation, and two responses of a person high and two of a person low in a trait.

    Attributes:
        idx: number of the item, unique within its trait.
        split: the publisher's label of the part it belongs to; may be empty.
        personality: trait key, one of :data:`TRAITS`.
        statement: of the questionnaire that the item was made from; may be empty.
        query: what is asked about the situation; empty where the source joins the two.

    Source:
        Lee et al., *Do LLMs Have Distinct and Consistent Personality? TRAIT* (arXiv 2406.14703).
    """

    idx: int
    split: str
    personality: str
    statement: str
    situation: str
    query: str
    response_high1: str
    response_high2: str
    response_low1: str
    response_low2: str

    @property
    def name(self) -> str:
        """Trait and number, such as ``"openness:3"``: how answers call it."""
        return f"{self.personality}:{self.idx}"

    @property
    def question(self) -> str:
        """Situation and query as one text."""
        return f"{self.situation} {self.query}".strip()

    def responses(self, order: str) -> dict[str, str]:
        """The four responses by key (``"high1"`` …), at their positions A to D in a published order of that name."""
        keys = RESPONSE_ORDERS[choose(order, RESPONSE_ORDERS, "order")]
        return {key: getattr(self, f"response_{key}") for key in keys}


@dataclass(frozen=True)
class SafetyItem:
    """One multiple-choice item, such as SafetyBench's, MMLU-Pro's, or a fact question; ``answer`` is the place of the
    right option, from 0, or None where it is not known.

    Source:
        Zhang et al., *SafetyBench* (arXiv 2309.07045).
    """

    id: int
    category: str
    question: str
    options: tuple[str, ...]
    answer: int | None


def load_trait(source: str | Path = "bundled", *, skipped: list[Skipped] | None = None) -> list[TraitItem]:
    """The items of TRAIT, or of a bank in its schema.

    A row may hold ``question`` instead of ``situation`` and ``query``, as on the hub, and then needs no ``idx``,
    ``split`` and ``statement``.

    Args:
        source: ``"bundled"`` for the book's own bank, a .json, .jsonl, .csv or .parquet file, or the id of a
            data set on the hub such as ``"mirlab/TRAIT"``.
        skipped: takes the rows that cannot be used and are left out; a warning counts them in any case.

    Raises:
        DataError: the source cannot be read, or half of its rows are no items; the message names row, field and fix.
    """
    if source == "bundled":
        source = data_dir() / "items" / "trait.jsonl"
    records = _records(source, _TRAIT_COLUMNS)
    return parse_records(source, records, _trait_item, lambda item: (item.personality, item.idx), "idx", skipped)


def validation_split(items: Sequence[TraitItem]) -> tuple[list[TraitItem], list[TraitItem]]:
    """One item in four of each trait to choose settings by, and the others to evaluate with, each in their order.

    It hangs on an item's trait and number alone: in a larger or smaller bank no item is on the other side.
    """
    parts: tuple[list[TraitItem], list[TraitItem]] = [], []
    for item in items:
        parts[digest(item.personality, str(item.idx)) % 4 != 0].append(item)
    return parts


def some_of_each(items: Sequence[TraitItem], per_trait: int) -> list[TraitItem]:
    """The first items of each trait, no more than so many."""
    by_trait = ([item for item in items if item.personality == trait] for trait in TRAITS)
    return [item for bank in by_trait for item in bank[:per_trait]]


def load_safety(
    source: str | Path = "bundled", *, answers: str | Path | None = None, skipped: list[Skipped] | None = None
) -> list[SafetyItem]:
    """Safety items in SafetyBench's schema, or any multiple-choice items in it or in MMLU-Pro's.

    An item without a number, as in SafetyBench's examples, is numbered by its place. An answer is the place of the
    right option, from 0, or its letter.

    Args:
        source: ``"bundled"`` for the book's own items, a .json, .jsonl, .csv or .parquet file, or a data set on the hub
            with its configuration and split, such as ``"thu-coai/SafetyBench:test/en"``.
        answers: a file with ``id`` and ``answer`` of every item, such as SafetyBench's key; it replaces any
            answers among the items.
        skipped: takes the rows that cannot be used and are left out; a warning counts them in any case.

    Raises:
        DataError: a file cannot be read, or half of its rows are no items, or have no row among the answers.
    """
    if source == "bundled":
        source = data_dir() / "items" / "safety.jsonl"
    parse = _safety_item if answers is None else partial(_answered_item, _read_key(Path(answers), skipped))
    records = _records(source, _CHOICE_COLUMNS)
    return parse_records(source, records, parse, lambda item: item.id, "id", skipped)


def load_facts(source: str | Path = "bundled") -> list[SafetyItem]:
    """Fact questions: like :func:`load_safety`, from the book's own bank unless a file is named."""
    return load_safety(data_dir() / "items" / "facts.jsonl" if source == "bundled" else source)


def _records(source: str | Path, columns: Collection[str]) -> list[Record]:
    """The rows of a file; or of a data set on the hub, where a name is that of no data file and no path that exists."""
    path, parts = Path(source), _HUB_ID.fullmatch(source) if isinstance(source, str) else None
    if parts is None or path.suffix.lower() in READERS or path.exists():
        return read_records(path, columns)
    return [record.named(columns) for record in _hub_records(parts)]


def _hub_records(parts: re.Match[str]) -> list[Record]:
    """A split of a data set on the hub, or all of them, one after the other."""
    # Imported here: reading the bundled items needs no hub client, and importing it takes a second.
    from datasets import load_dataset

    name = parts[0]
    try:
        splits = load_dataset(parts["name"], parts["config"]) if parts["config"] else load_dataset(parts["name"])
    except (OSError, RuntimeError, ValueError) as error:
        raise ItemError(
            f"{name}: the data set cannot be loaded from the hub ({type(error).__name__}: {error}). TRAIT is gated: "
            f"accept the licence at https://huggingface.co/datasets/{parts['name']}, log in with `hf auth login`, "
            "and be online the first time; or pass the path of a local .json, .jsonl, .csv or .parquet file"
        ) from None
    if parts["split"]:
        if parts["split"] not in splits:
            raise ItemError(f"{name}: there is no such split; choose one of {', '.join(map(str, splits))}")
        splits = {parts["split"]: splits[parts["split"]]}
    # SafetyBench's examples are one row there, with a list of objects for each category.
    return [
        Record(f"{name}, split {split}, row {number}", row)
        for split, rows in splits.items()
        for number, row in enumerate((own for each in rows for own in unfolded(each)), start=1)
    ]


def _trait_item(record: Record, number: int) -> TraitItem:
    if record.has("question") and not record.has("situation"):
        # What a source with a joined question may leave out.
        parts = {"idx": number, "split": "", "statement": "", "query": "", "situation": record.fields["question"]}
        given = {key: value for key, value in record.fields.items() if record.has(key)}
        record = Record(record.where, parts | given)
    responses = {field: record.text(field) for field in _RESPONSES}
    trait = record.text("personality").lower()
    if trait not in TRAITS:
        raise record.error("personality", f"is {shown(trait)}; use one of {', '.join(TRAITS)}")
    return TraitItem(
        idx=record.integer("idx"),
        split=record.text("split", may_be_empty=True),
        personality=trait,
        statement=record.text("statement", may_be_empty=True),
        situation=record.text("situation"),
        query=record.text("query", may_be_empty=record.has("question")),
        **responses,
    )


def _safety_item(record: Record, number: int) -> SafetyItem:
    options = record.texts("options")
    answers = {field: _place(record, field) for field in _ANSWERS if record.has(field)}
    for field, place in answers.items():
        if not 0 <= place < len(options):
            raise record.error(field, f"is {shown(record.fields[field])}; count the {len(options)} options from 0")
    if len(set(answers.values())) > 1:
        raise record.error("answer", f"is {shown(record.fields['answer'])}, and answer_index another; correct one")
    named = next((record.integer(field) for field in _NUMBERS if record.has(field)), number)
    category, question = record.text("category"), record.text("question")
    return SafetyItem(named, category, question, options, next(iter(answers.values()), None))


def _place(record: Record, field: str) -> int:
    """The place of an option that is named by its place, from 0, or by its letter."""
    value = record.fields.get(field)
    if isinstance(value, str) and re.fullmatch(r"\s*[A-Z]\s*", value):
        return ord(value.strip()) - ord("A")
    return record.integer(field)


def _read_key(path: Path, skipped: list[Skipped] | None) -> dict[int, list[Record]]:
    """The rows of a file of answers by the number of their item."""

    def parse(record: Record, _: int) -> tuple[int, int, Record]:
        return record.integer("id"), _place(record, "answer"), record

    rows = read_records(path, ("id", "answer"))
    found: dict[int, list[Record]] = {}
    for number, _, record in parse_records(path, rows, parse, lambda row: row[:2], "id", skipped):
        found.setdefault(number, []).append(record)
    return found


def _answered_item(key: Mapping[int, Sequence[Record]], record: Record, number: int) -> SafetyItem:
    """An item with its answer from another file."""
    own = next((field for field in _NUMBERS if record.has(field)), "id")
    found = key.get(record.integer(own), ())
    if len(found) != 1:
        how = "answers in more than one way" if found else "does not answer"
        raise record.error(own, f"is {record.fields[own]}, which the key {how}; pass the key of these items")
    fields = {name: value for name, value in record.fields.items() if name not in _ANSWERS}
    answer = {"answer": found[0].fields["answer"]}
    return _safety_item(Record(f"{record.where} (answered in {found[0].where})", fields | answer), number)
