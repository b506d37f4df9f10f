"""Items: the questions of a questionnaire, read from a file or the hub and checked row by row."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personalib.data import data_dir
from personalib.organism.grammar import digest
from personalib.records import READERS, ItemError, Record, check_unique, read_records

TRAITS = (
    "openness",
    "conscientiousness",
    "extraversion",
    "agreeableness",
    "neuroticism",
    "psychopathy",
    "machiavellianism",
    "narcissism",
)
# Which response stands at which position (A to D), as published.
RESPONSE_ORDERS: Mapping[str, tuple[str, ...]] = {
    "normal": ("high1", "low1", "high2", "low2"),
    "reversed": ("low1", "high1", "low2", "high2"),
}
# A data set on the hub: its id, and where it has several parts, which configuration and which split of it.
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+)(?:/(?P<split>[\w.-]+))?)?")


@dataclass(frozen=True)
class TraitItem:
    """One item of TRAIT: a situation, and two responses of a person high and two of a person low in a trait.

    Attributes:
        idx: number of the item, unique within its trait.
        split: the publisher's label of the part it belongs to; may be empty.
        personality: trait key, one of :data:`TRAITS`.
        statement: the questionnaire statement the item was made from; may be empty.
        situation: what happens.
        query: what is asked about it; empty where the source joins it to the situation.
        response_high1, response_high2: what a person high in the trait would do.
        response_low1, response_low2: what a person low in the trait would do.

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
    def question(self) -> str:
        """Situation and query as one text."""
        return f"{self.situation} {self.query}".strip()

    def responses(self, order: str) -> dict[str, str]:
        """The four responses by key (``"high1"`` …), at their positions A to D in the published order.

        Raises:
            ValueError: the order is neither ``"normal"`` nor ``"reversed"``.

        Example:
            >>> item = TraitItem(1, "", "openness", "", "A map.", "Now?", "Go.", "Ask.", "Stay.", "Wait.")
            >>> item.responses("reversed")
            {'low1': 'Stay.', 'high1': 'Go.', 'low2': 'Wait.', 'high2': 'Ask.'}
        """
        if order not in RESPONSE_ORDERS:
            raise ValueError(f"unknown order {order!r}; use one of {', '.join(RESPONSE_ORDERS)}")
        return {key: getattr(self, f"response_{key}") for key in RESPONSE_ORDERS[order]}


@dataclass(frozen=True)
class SafetyItem:
    """One multiple-choice item with a right answer, in SafetyBench's schema; fact questions have the same.

    Attributes:
        id: number of the item.
        category: what it is about.
        question: the text asked.
        options: two or more answers.
        answer: position of the right option, from 0; None where it is not known.

    Source:
        Zhang et al., *SafetyBench* (arXiv 2309.07045).
    """

    id: int
    category: str
    question: str
    options: tuple[str, ...]
    answer: int | None


def load_trait(source: str | Path = "bundled") -> list[TraitItem]:
    """The items of TRAIT, or of a bank in its schema.

    A row may hold ``question`` instead of ``situation`` and ``query``, as on the hub; ``idx``, ``split`` and
    ``statement`` are then optional, and a row without ``idx`` is numbered by its place.

    Args:
        source: ``"bundled"`` for the book's own bank, a .json, .jsonl, .csv or .parquet file, or the id of a
            data set on the hub such as ``"mirlab/TRAIT"``.

    Raises:
        ItemError: the source cannot be read, or a row is not an item; the message names row, field and fix.

    Example:
        >>> items = load_trait("bundled")  # doctest: +SKIP
        >>> items[0].personality  # doctest: +SKIP
        'openness'
    """
    if source == "bundled":
        source = data_dir() / "items" / "trait.jsonl"
    records = _hub_records(str(source)) if _is_hub_id(source) else read_records(Path(source))
    records = [_with_parts(record, number) for number, record in enumerate(records)]
    items = [_trait_item(record) for record in records]
    check_unique(records, [(item.personality, item.idx) for item in items], "idx")
    return items


def validation_split(items: Sequence[TraitItem]) -> tuple[list[TraitItem], list[TraitItem]]:
    """One item in four of each trait to choose settings by, and the others to evaluate with.

    The choice hangs on an item's trait and number alone, so that no later reading of a larger or smaller bank puts an
    item on the other side.

    Returns:
        The items for choices, and those for evaluation, each in their order.
    """
    chosen = [digest(item.personality, str(item.idx)) % 4 == 0 for item in items]
    return (
        [item for item, own in zip(items, chosen, strict=True) if own],
        [item for item, own in zip(items, chosen, strict=True) if not own],
    )


def some_of_each(items: Sequence[TraitItem], per_trait: int) -> list[TraitItem]:
    """The first items of each trait, no more than so many."""
    return [item for trait in TRAITS for item in [one for one in items if one.personality == trait][:per_trait]]


def load_safety(source: str | Path = "bundled", *, answers: str | Path | None = None) -> list[SafetyItem]:
    """Safety items in SafetyBench's schema.

    Args:
        source: ``"bundled"`` for the book's own items, a .json, .jsonl, .csv or .parquet file, or a data set on the hub
            with its configuration and split, such as ``"thu-coai/SafetyBench:test/en"``.
        answers: a file with ``id`` and ``answer`` of every item, such as SafetyBench's key; it replaces any
            answers among the items.

    Raises:
        ItemError: a file cannot be read, a row is not an item, or an item has no row among the answers.

    Example:
        >>> load_safety("test_en.json", answers="test_answers_en.json")  # doctest: +SKIP
    """
    if source == "bundled":
        source = data_dir() / "items" / "safety.jsonl"
    records = _hub_records(str(source)) if _is_hub_id(source) else read_records(Path(source))
    if answers is not None:
        records = _with_answers(records, Path(answers))
    items = [_safety_item(record) for record in records]
    check_unique(records, [item.id for item in items], "id")
    return items


def load_facts(source: str | Path = "bundled") -> list[SafetyItem]:
    """Fact questions: like :func:`load_safety`, from the book's own bank unless a file is named."""
    return load_safety(data_dir() / "items" / "facts.jsonl" if source == "bundled" else source)


def _is_hub_id(source: str | Path) -> bool:
    """Whether a source looks like ``owner/name`` and is neither a data file's name nor a path that exists."""
    path = Path(source)
    named = isinstance(source, str) and _HUB_ID.fullmatch(source) is not None
    return named and path.suffix.lower() not in READERS and not path.exists()


def _hub_records(name: str) -> list[Record]:
    """A split of a data set on the hub, or all of them, one after the other."""
    # Imported here: reading the bundled items needs no hub client, and importing it takes a second.
    from datasets import load_dataset

    parts = _HUB_ID.fullmatch(name)
    if parts is None:
        raise ItemError(f"{name}: not the name of a data set; write owner/name, or owner/name:configuration/split")
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
    return [
        Record(f"{name}, split {split}, row {number}", row)
        for split, rows in splits.items()
        for number, row in enumerate(rows, start=1)
    ]


def _with_parts(record: Record, number: int) -> Record:
    """The record with the fields that a source with a joined ``question`` leaves out."""
    if record.has("situation") or not record.has("question"):
        return record
    parts = {"idx": number, "split": "", "statement": "", "query": "", "situation": record.fields["question"]}
    return Record(record.where, parts | {key: value for key, value in record.fields.items() if record.has(key)})


def _trait_item(record: Record) -> TraitItem:
    # Missing is found before empty and identical, so that the first message is the one to act on.
    responses = {
        field: record.text(field) for field in ("response_high1", "response_high2", "response_low1", "response_low2")
    }
    record.check_options(responses)
    return TraitItem(
        idx=record.integer("idx"),
        split=record.text("split", may_be_empty=True),
        personality=_trait_key(record),
        statement=record.text("statement", may_be_empty=True),
        situation=record.text("situation"),
        query=record.text("query", may_be_empty=record.has("question")),
        **responses,
    )


def _trait_key(record: Record) -> str:
    key = record.text("personality").lower()
    if key not in TRAITS:
        raise record.error("personality", f"is {key!r}; use one of {', '.join(TRAITS)}")
    return key


def _safety_item(record: Record) -> SafetyItem:
    options = record.texts("options")
    answer = record.integer("answer") if record.has("answer") else None
    if answer is not None and not 0 <= answer < len(options):
        raise record.error("answer", f"is {answer}; count the {len(options)} options from 0")
    return SafetyItem(record.integer("id"), record.text("category"), record.text("question"), options, answer)


def _with_answers(records: Iterable[Record], path: Path) -> list[Record]:
    """The records with their answers from another file."""
    rows = read_records(path)
    check_unique(rows, [row.integer("id") for row in rows], "id")
    key = {row.integer("id"): row for row in rows}
    joined = []
    for record in records:
        number = record.integer("id")
        if number not in key:
            raise record.error("id", f"is {number}, which {path} does not answer; pass the key of these items")
        answer = {"answer": key[number].integer("answer")}
        joined.append(Record(f"{record.where} (answered in {key[number].where})", {**record.fields, **answer}))
    return joined
