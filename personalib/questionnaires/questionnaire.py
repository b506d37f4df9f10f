"""Questionnaires: questions that are asked and scored together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from personalib.base.records import Skipped
from personalib.models.sampling import GREEDY, Sampling
from personalib.questionnaires.items import SafetyItem, TraitItem
from personalib.questionnaires.questions import Question, choice_questions, trait_questions
from personalib.stimuli.templates import ORDERS, Template


@dataclass(frozen=True)
class Questionnaire:
    """Questions that are asked and scored together.

    Attributes:
        name: of its table of answers.
        kind: how it is scored: ``"trait"``, ``"choice"``, ``"judgement"``, ``"scale"`` or ``"pairs"``.
        questions: what is asked.
        reading: ``"options"``, the probability of each option's first token; or ``"words"``, an answer in free words.
        sampling: how answers in words are written, and how many each question has.
        skipped: rows of its files, and items, that are left out.
    """

    name: str
    kind: str
    questions: tuple[Question, ...]
    reading: Literal["options", "words"] = "options"
    sampling: Sampling = GREEDY
    skipped: tuple[Skipped, ...] = ()


def trait_questionnaire(
    items: Sequence[TraitItem],
    templates: Sequence[str | Template] = ("letters",),
    orders: Sequence[str] = ORDERS,
    name: str = "trait",
) -> Questionnaire:
    """Trait items, see :func:`~personalib.questionnaires.questions.trait_questions`.

    Raises:
        ValueError: there are no items; or see there.
    """
    if not items:
        raise ValueError("there are no trait items to ask; pass a larger bank, or ask for more of each trait")
    return Questionnaire(name, "trait", tuple(trait_questions(items, templates, orders)))


def choice_questionnaire(
    items: Sequence[SafetyItem],
    templates: Sequence[str | Template] = ("letters",),
    orders: Sequence[str] = ORDERS[:1],
    name: str = "choice",
) -> Questionnaire:
    """Items with one right option, see :func:`~personalib.questionnaires.questions.choice_questions`."""
    return Questionnaire(name, "choice", tuple(choice_questions(items, templates, orders)))
