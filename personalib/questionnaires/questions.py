"""Questions: what is put to a model in an evaluation, whatever questionnaire it belongs to.

Each questionnaire is brought into one form, so that every one of them is asked, kept and resumed by the same code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Any

from personalib.base.records import ItemError
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
        labels: what the options are called, in the order in which they stand. Empty for a question whose answer is
            read in words.
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


def trait_questions(
    items: Sequence[TraitItem], templates: Sequence[str | Template] = ("letters",), orders: Sequence[str] = ORDERS
) -> list[Question]:
    """Trait items in several templates, by name or of one's own, and orders of the options.

    Raises:
        ValueError: a template or an order is unknown.

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
        for template, order, item in product(_templates(templates), _known(orders), items)
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
        examples: solved items by category, of different questions.
        shots: how many examples of its category come first in the same request, each with its answer. One that asks
            the same as the item is passed over.

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
        for template, order, item in product(_templates(templates), _known(orders), items)
    ]


def some_in_turn(items: Sequence[Any], count: int) -> list[Any]:
    """About so many items of each ``category``, spread over all of them; every one where there are no more."""
    found = []
    for category in dict.fromkeys(item.category for item in items):
        own = [item for item in items if item.category == category]
        step = max(1.0, len(own) / count)
        found += [own[int(place * step)] for place in range(min(count, len(own)))]
    return found


def _templates(wanted: Iterable[str | Template]) -> list[Template]:
    known = load_templates()
    for one in wanted:
        if isinstance(one, str) and one not in known:
            raise ValueError(f"unknown template {one!r}; use one of {', '.join(known)}")
    return [known[one] if isinstance(one, str) else one for one in wanted]


def _known(orders: Sequence[str]) -> Sequence[str]:
    for order in orders:
        if order not in ORDERS:
            raise ValueError(f"unknown order {order!r}; use one of {', '.join(ORDERS)}")
    return orders


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
