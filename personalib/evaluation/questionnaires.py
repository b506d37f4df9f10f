"""Questionnaires from their plans."""

from collections.abc import Sequence
from pathlib import Path

from personalib.base.records import Skipped, leave_out
from personalib.evaluation.estimates import ALL
from personalib.evaluation.plan import QuestionnairePlan
from personalib.questionnaires import kinds
from personalib.questionnaires.extraction import plain
from personalib.questionnaires.items import (
    SafetyItem,
    load_facts,
    load_safety,
    load_trait,
    some_of_each,
    validation_split,
)
from personalib.questionnaires.questions import Question, Questionnaire, choice_questions, some_in_turn, trait_questions
from personalib.stimuli.templates import ORDERS, Template, load_templates


def planned_questionnaire(plan: QuestionnairePlan) -> Questionnaire:
    """The questionnaire that a plan describes.

    Raises:
        DataError: its items cannot be read.
        ValueError: a template is unknown, or there are fewer examples than shots.
    """
    skipped: list[Skipped] = []
    questions = _BY_KIND[plan.kind](plan, skipped)
    if not questions:
        raise ValueError(f"{plan.name}: no questions are left to ask; ask for more of each group")
    if any(one.group == ALL for one in questions):
        raise ValueError(f"{plan.name}: a group is called {ALL!r}, as all groups together are; give it another name")
    return Questionnaire(plan.name, plan.kind, tuple(questions), plan.reading, plan.sampling, tuple(skipped))


def _trait(plan: QuestionnairePlan, skipped: list[Skipped]) -> list[Question]:
    items = load_trait(plan.source, skipped=skipped)
    if plan.evaluation_only:
        _, items = validation_split(items)
    if plan.per_group:
        items = some_of_each(items, plan.per_group)
    return trait_questions(items, _templates(plan))


def _choice(plan: QuestionnairePlan, skipped: list[Skipped]) -> list[Question]:
    items = load_facts() if plan.source == "facts" else load_safety(plan.source, answers=plan.answers, skipped=skipped)
    items = _answerable(plan, items, skipped)
    asked = some_in_turn(items, plan.per_group) if plan.per_group else items
    pool = load_safety(plan.examples, skipped=skipped) if plan.examples else items
    # By category, the first of each question.
    examples: dict[str, list[SafetyItem]] = {}
    for item in reversed({item.question: item for item in reversed(pool)}.values()):
        examples.setdefault(item.category, []).append(item)
    return choice_questions(asked, _templates(plan), plan.orders or ORDERS[:1], examples, plan.shots)


def _answerable(plan: QuestionnairePlan, items: Sequence[SafetyItem], skipped: list[Skipped]) -> list[SafetyItem]:
    """The items whose answers can be read and judged."""
    templates = _templates(plan)
    problems = [(item, _problem(item, plan.reading, templates)) for item in items]
    left = [Skipped(f"{plan.source}, item {item.id}", problem) for item, problem in problems if problem]
    leave_out(plan.source, left, len(items), skipped, "items")
    return [item for item, problem in problems if not problem]


def _problem(item: SafetyItem, reading: str, templates: Sequence[Template]) -> str:
    """Why an item cannot be asked. Two options of one text can: but an answer in words may name them by their text."""
    if item.answer is None:
        return "its answer is not known; pass the key of these items as `answers`"
    if reading == "words" and len({plain(option) for option in item.options}) < len(item.options):
        return "two options are the same text, so that an answer in words can name both"
    try:
        _ = [template.labels_for(len(item.options)) for template in templates]
    except ValueError as error:
        return str(error)
    return ""


def _templates(plan: QuestionnairePlan) -> list[Template]:
    """Those that a plan names, of its file or the book's, or the first one there."""
    source = plan.template_file
    known = load_templates(Path(source) if source else None)
    for name in plan.templates:
        if name not in known:
            raise ValueError(f"{plan.name}: unknown template {name!r}; use one of {', '.join(known)}")
    return [known[name] for name in plan.templates or list(known)[:1]]


def _judgement(plan: QuestionnairePlan, skipped: list[Skipped]) -> list[Question]:
    items = kinds.load_judgements(plan.source, skipped=skipped)
    return kinds.judgement_questions(some_in_turn(items, plan.per_group) if plan.per_group else items, *plan.templates)


def _scale(plan: QuestionnairePlan, skipped: list[Skipped]) -> list[Question]:
    items = kinds.load_scale(plan.source, skipped=skipped)
    if plan.per_group:
        # As many statements that speak for a trait as against it, as far as there are.
        poles = dict.fromkeys((item.key, item.reverse) for item in items)
        half, odd = divmod(plan.per_group, 2)
        items = [
            one
            for pole in poles
            for one in [item for item in items if (item.key, item.reverse) == pole][: half + (odd and not pole[1])]
        ]
    return kinds.scale_questions(items, *plan.templates)


def _pairs(plan: QuestionnairePlan, _: list[Skipped]) -> list[Question]:
    return kinds.pair_questions(None if plan.source == "bundled" else Path(plan.source))


_BY_KIND = {"trait": _trait, "choice": _choice, "judgement": _judgement, "scale": _scale, "pairs": _pairs}
