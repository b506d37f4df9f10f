"""Trait items put to a model under several conditions, whether it is run on this side or by a service."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.models.load import LanguageModel
from personalib.models.prompts import ask
from personalib.models.remote import RemoteModel
from personalib.questionnaires.items import TraitItem
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Condition
from personalib.stimuli.templates import ORDERS


def ask_items(
    language_model: LanguageModel,
    items: Sequence[TraitItem],
    conditions: Sequence[Condition] = ((),),
    *,
    template: str = "letters",
    context: str = "",
    batch_size: int = 32,
    progress: str | None = None,
) -> pd.DataFrame:
    """Put trait items to a model in both option orders, under each condition.

    Args:
        language_model: any; a :class:`personalib.models.remote.RemoteModel` is asked by its service, with one job for
            each batch and condition.
        items: from :func:`personalib.questionnaires.items.load_trait`.
        conditions: interventions of each condition; none is the model as it is.
        template: name of a template in ``data/stimuli/templates.yaml``.
        context: a text that comes before each question, such as a background; empty for none.
        batch_size: rows of a forward pass.
        progress: text of a progress bar; None shows none.

    Returns:
        One row a condition, item and order: ``condition`` (its number), ``group``, ``item``, ``template``,
        ``order``, the probabilities ``p_high1``, ``p_low1``, ``p_high2``, ``p_low2`` over the whole vocabulary, and
        their sum ``mass``; :func:`personalib.questionnaires.scores.per_item` takes it with ``by=("condition",)``.

    Raises:
        ValueError: there are no items, the template is unknown, or an intervention cannot be run; see
            :func:`personalib.steering.grid.ask_steered`.
        ItemError: the option labels cannot be told apart by their first token.
        DataError: the service does not answer; see :func:`personalib.models.remote.running`.

    Example:
        >>> rows = ask_items(model, load_trait()[:8], [(), (Add(vector, 2.0),)])  # doctest: +SKIP
        >>> len(rows)  # doctest: +SKIP
        32
    """
    sheet = TraitSheet(language_model, items, template, language_model.form)
    answers = _answers(language_model, sheet.prompts((context,)), sheet.labels, conditions, batch_size, progress)
    asked = list(product(items, ORDERS))
    rows = [
        {"condition": number, "group": item.personality, "item": item.name, "template": template, "order": order}
        | {f"p_{key}": float(chance) for key, chance in zip(item.responses(order), own, strict=True)}
        | {"mass": float(own.sum())}
        for number, found in enumerate(answers)
        for (item, order), own in zip(asked, found, strict=True)
    ]
    return pd.DataFrame(rows)


def _answers(
    language_model: LanguageModel,
    prompts: Sequence[str],
    labels: Sequence[str],
    conditions: Sequence[Condition],
    batch_size: int,
    progress: str | None,
) -> Sequence[NDArray[np.float64]]:
    """For each condition the options' probabilities, shape ``(prompts, labels)``."""
    if any(conditions) or isinstance(language_model, RemoteModel):
        return list(ask_steered(language_model, prompts, labels, conditions, batch_size=batch_size, progress=progress))
    # Nothing is steered, so that all conditions are the same, and the model is run as it is everywhere else.
    model, tokenizer = language_model.model, language_model.tokenizer
    once = ask(model, tokenizer, prompts, [labels] * len(prompts), batch_size=batch_size, progress=progress)
    return [np.stack(once)] * len(conditions)
