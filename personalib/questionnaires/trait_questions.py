"""Trait items put to a model, in both orders of their options."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalib.models.prompts import ask, format_prompt
from personalib.questionnaires.items import TraitItem
from personalib.stimuli.templates import ORDERS, Template, load_templates


def ask_trait(  # noqa: PLR0913 - each argument is one choice in the design of a measurement
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[TraitItem],
    *,
    template: str,
    orders: Sequence[str] = ORDERS,
    form: str = "chat",
    contexts: Sequence[str] = ("",),
    batch_size: int = 32,
    progress: str | None = None,
) -> pd.DataFrame:
    """Put trait items to a model in both option orders, alone or after each of several contexts.

    Args:
        model: any causal language model of transformers.
        tokenizer: the model's.
        items: from :func:`load_trait`.
        template: name of a template in ``data/stimuli/templates.yaml``.
        orders: option orders to ask; scoring needs both.
        form: ``"chat"`` for the tokenizer's chat template, ``"base"`` for plain text.
        contexts: texts that come before the question, such as ``"I am a woman."``; ``""`` is no context.
        batch_size: prompts a forward pass.
        progress: text of a progress bar; None shows none.

    Returns:
        One row an item, order and context: ``idx``, ``personality``, ``template``, ``order``, ``context_id``
        (place in ``contexts``), the probabilities ``p_high1``, ``p_low1``, ``p_high2``, ``p_low2`` over the whole
        vocabulary, and their sum ``mass``.

    Raises:
        ValueError: the template or an order is unknown, or ``contexts`` is a single text.
        ItemError: the option labels cannot be told apart by their first token.

    Source:
        Lee et al. (arXiv 2406.14703), section 3.4, and their published code.

    Example:
        >>> rows = ask_trait(model, tokenizer, load_trait()[:8], template="letters")  # doctest: +SKIP
        >>> len(rows)  # doctest: +SKIP
        16
    """
    if isinstance(contexts, str):
        raise ValueError(f"contexts is the single text {contexts!r}; pass a list of texts")
    chosen = _template(template)
    asked = list(product(items, orders, range(len(contexts))))
    prompts = [
        format_prompt(
            tokenizer,
            chosen.render(item.question, list(item.responses(order).values())),
            form=form,
            context=contexts[context],
        )
        for item, order, context in asked
    ]
    labels = [chosen.labels_for(len(item.responses(order))) for item, order, _ in asked]
    answers = ask(model, tokenizer, prompts, labels, batch_size=batch_size, progress=progress)
    return pd.DataFrame(
        [
            _row(item, template, order, context, answer)
            for (item, order, context), answer in zip(asked, answers, strict=True)
        ]
    )


def _template(name: str) -> Template:
    templates = load_templates()
    if name not in templates:
        raise ValueError(f"unknown template {name!r}; use one of {', '.join(templates)}")
    return templates[name]


def _row(item: TraitItem, template: str, order: str, context: int, answer: NDArray[np.float64]) -> dict[str, object]:
    chances = dict(zip(item.responses(order), answer.tolist(), strict=True))
    return {
        "idx": item.idx,
        "personality": item.personality,
        "template": template,
        "order": order,
        "context_id": context,
        **{f"p_{key}": chances[key] for key in ("high1", "low1", "high2", "low2")},
        "mass": float(answer.sum()),
    }
