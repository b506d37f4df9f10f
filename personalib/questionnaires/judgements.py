"""Judgements: is an answer to a question of knowledge right? A check of what a model makes up.

Each question is judged twice, once with a right answer and once with a wrong one, so that a model that always says yes
is right half of the time, and its yes-rate shows why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pydantic.dataclasses

from personalib.base.data import STRICT
from personalib.base.record_files import read_records
from personalib.base.records import Record, Skipped, parse_records
from personalib.questionnaires.items import SafetyItem, load_facts
from personalib.questionnaires.questions import Question
from personalib.stimuli.templates import Labels, read_templates

_COLUMNS = ("id", "category", "knowledge", "question", "right_answer", "hallucinated_answer")
# Which answer is shown; it takes the place of an order among the options.
SHOWN = ("right", "wrong")


@dataclass(frozen=True)
class JudgementItem:
    """A question of knowledge with a right and a wrong answer, in the schema of HaluEval's questions.

    Attributes:
        category: what it is about; may be empty.
        knowledge: what the answer can be found in; may be empty.

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
    text: str


def load_judgements(source: str | Path = "bundled", *, skipped: list[Skipped] | None = None) -> list[JudgementItem]:
    """Questions with a right and a wrong answer.

    A row has ``question``, ``right_answer`` and ``hallucinated_answer``, and may have ``knowledge``, as in
    HaluEval's ``qa_data.json`` (one object a line). One whose answers are the same text is left out: it is these texts
    that are judged.

    Args:
        source: ``"bundled"`` for the book's own fact questions, or a .json, .jsonl, .csv or .parquet file.
        skipped: takes the rows that cannot be used and are left out; a warning counts them in any case.

    Raises:
        DataError: the file cannot be read, or half of its rows are no such questions; the message names row, field and
            fix.
    """
    if source == "bundled":
        return [_of_fact(fact) for fact in load_facts()]
    records = read_records(Path(source), _COLUMNS)
    return parse_records(source, records, _item, lambda item: item.id, "id", skipped)


@cache
def load_judgement_templates(path: Path | None = None) -> dict[str, JudgementTemplate]:
    """The templates by name, from ``data/stimuli/templates.yaml`` or another file of its form."""
    fields = {"text": (("question", "answer"), ("knowledge",))}
    return read_templates(dict[str, JudgementTemplate], path, "judgements", fields)


def judgement_questions(items: Sequence[JudgementItem], template: str = "check") -> list[Question]:
    """Each question with its right and with its wrong answer; ``order`` says which.

    Raises:
        ValueError: the template is unknown.
    """
    known = load_judgement_templates()
    if template not in known:
        raise ValueError(f"unknown template {template!r}; use one of {', '.join(known)}")
    how = known[template]
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


def _of_fact(fact: SafetyItem) -> JudgementItem:
    """A fact question with its right option, and the next one as a wrong answer."""
    place = fact.answer or 0
    wrong = fact.options[(place + 1) % len(fact.options)]
    return JudgementItem(fact.id, fact.category, "", fact.question, fact.options[place], wrong)


def _item(record: Record, number: int) -> JudgementItem:
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
