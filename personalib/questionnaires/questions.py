"""Questions: what is put to a model; and questionnaires, whose questions are asked and scored together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any, Literal

from personalib.base.data import choose
from personalib.base.records import ItemError, Skipped
from personalib.models.sampling import GREEDY, Sampling
from personalib.questionnaires.items import RESPONSE_ORDERS, SafetyItem, TraitItem
from personalib.stimuli.templates import ORDERS, Template, load_templates


@dataclass(frozen=True)
class Question:
    """One question as it is put.

    Attributes:
        item: name of the item within its questionnaire; questions of one item differ in template or order.
        group: what the item counts toward, such as a trait or a category.
        template: name of the wording around it.
        order: name of the options' order.
        text: the request, before any chat template.
        labels: what the options are called, in the order in which they stand.
        roles: what each option stands for, such as ``"high1"`` or ``"right"``; unlike labels they are the same in
            every order.
        opening: what the model's answer begins with; the options' labels come right after it.
        options: the options' own texts, in the order in which they stand.
        cluster: what the item is no independent evidence beside, such as another draw of options for one question;
            empty where it stands for itself.
    """

    item: str
    group: str
    template: str
    order: str
    text: str
    labels: tuple[str, ...]
    roles: tuple[str, ...]
    opening: str = ""
    options: tuple[str, ...] = ()
    cluster: str = ""


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
    items: Sequence[TraitItem], templates: Sequence[str | Template] = ("letters",), orders: Sequence[str] = ORDERS
) -> Questionnaire:
    """Trait items, see :func:`trait_questions`; a ``ValueError`` where there are none."""
    if not items:
        raise ValueError("there are no trait items to ask; pass a larger bank, or ask for more of each trait")
    return Questionnaire("trait", "trait", tuple(trait_questions(items, templates, orders)))


def choice_questionnaire(
    items: Sequence[SafetyItem], templates: Sequence[str | Template] = ("letters",), name: str = "choice"
) -> Questionnaire:
    """Items with one right option, as they stand, see :func:`choice_questions`."""
    return Questionnaire(name, "choice", tuple(choice_questions(items, templates)))


def trait_questions(
    items: Sequence[TraitItem], templates: Sequence[str | Template] = ("letters",), orders: Sequence[str] = ORDERS
) -> list[Question]:
    """Trait items in several templates, by name or of one's own, and orders of the options.

    A template or an order that is unknown is a ValueError.

    Source:
        Lee et al. (arXiv 2406.14703), section 3.4, and their published code.
    """
    return [
        Question(
            item=item.name,
            group=item.personality,
            template=template.name,
            order=order,
            text=template.render(item.question, list(item.responses(order).values())),
            labels=template.labels_for(len(RESPONSE_ORDERS[order])),
            roles=RESPONSE_ORDERS[order],
        )
        for template, order, item in product(_templates(templates), orders, items)
    ]


def choice_questions(
    items: Sequence[SafetyItem],
    templates: Sequence[str | Template] = ("letters",),
    orders: Sequence[str] = ORDERS[:1],
    examples: Mapping[str, Sequence[SafetyItem]] | None = None,
    shots: int = 0,
) -> list[Question]:
    """Items with one right option, as SafetyBench has them, alone or after solved examples.

    Args:
        items: with their answers.
        templates: names of the wordings, or wordings of one's own.
        orders: ``"normal"``, the options as they stand in the item, or ``"reversed"``.
        examples: solved items by category; one that asks the same as the item is passed over.
        shots: how many examples of its category come first in the same request, each with its answer.

    Raises:
        ValueError: a template or an order is unknown, an item has more options than a template has labels, or there
            are not enough examples for it.
        ItemError: an item's answer is not known.

    Source:
        Zhang et al. (arXiv 2309.07045), section 4.1: zero-shot, and five-shot with examples of the item's category.
    """
    for item in items:
        if item.answer is None:
            raise ItemError(f"item {item.id}: its answer is not known; pass the key of these items as `answers`")
    for order in orders:
        choose(order, ORDERS, "order")
    first = {item.question: item.id for item in reversed(items)}
    return [
        Question(
            item=str(item.id),
            group=item.category,
            template=template.name,
            order=order,
            text="\n\n".join(
                [
                    *_solved(template, item, (examples or {}).get(item.category, ()), shots),
                    template.render(item.question, _reordered(item.options, order)),
                ]
            ),
            labels=template.labels_for(len(item.options)),
            roles=tuple(_reordered(_roles(item), order)),
            options=tuple(_reordered(item.options, order)),
            cluster=f"question {first[item.question]}",
        )
        for template, order, item in product(_templates(templates), orders, items)
    ]


def some_in_turn(items: Sequence[Any], count: int) -> list[Any]:
    """About so many items of each ``category``, spread over all of them; every one where there are no more."""
    chosen = []
    for category in dict.fromkeys(item.category for item in items):
        members = [item for item in items if item.category == category]
        step = max(1.0, len(members) / count)
        chosen += [members[int(place * step)] for place in range(min(count, len(members)))]
    return chosen


def _templates(wanted: Sequence[str | Template]) -> list[Template]:
    known = load_templates()
    return [known[choose(one, known, "template")] if isinstance(one, str) else one for one in wanted]


def _roles(item: SafetyItem) -> list[str]:
    """The roles of an item's options as they stand in it."""
    wrong = count(1)
    return ["right" if place == item.answer else f"wrong{next(wrong)}" for place in range(len(item.options))]


def _reordered(values: Sequence[str], order: str) -> Sequence[str]:
    return values if order == ORDERS[0] else values[::-1]


def _solved(template: Template, item: SafetyItem, examples: Sequence[SafetyItem], shots: int) -> list[str]:
    """So many examples, each with its answer; one that asks the same would give the answer away."""
    others = [one for one in examples if one.question != item.question and one.answer is not None][:shots]
    if len(others) < shots:
        raise ValueError(
            f"category {item.category!r} has {len(others)} examples beside item {item.id} for {shots} shots; name a "
            "file of examples, or lower the shots"
        )
    return [
        f"{template.render(one.question, one.options)}\n{template.labels_for(len(one.options))[one.answer or 0]}"
        for one in others
    ]
