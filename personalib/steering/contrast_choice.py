"""Trait items as prompts in both option orders, as :mod:`personalib.steering.remote_items` asks them."""

from collections.abc import Sequence
from itertools import product

from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.questionnaires.items import RESPONSE_ORDERS, TraitItem
from personalib.stimuli.templates import ORDERS, load_templates


class TraitSheet:
    """Trait items as prompts in both option orders.

    Args:
        language_model: who is asked.
        items: trait items.
        template: the items' template.
        form: ``"chat"`` or ``"base"``.

    Raises:
        ValueError: there are no items, or the template is unknown.
    """

    def __init__(
        self, language_model: LanguageModel, items: Sequence[TraitItem], template: str = "letters", form: str = "chat"
    ) -> None:
        if not items:
            raise ValueError("there are no trait items to ask; pass a larger bank, or ask for more of each trait")
        if template not in load_templates():
            raise ValueError(f"unknown template {template!r}; use one of {', '.join(load_templates())}")
        self.language_model, self.form = language_model, form
        self.labels = load_templates()[template].labels_for(len(RESPONSE_ORDERS[ORDERS[0]]))
        self._texts = [
            load_templates()[template].render(item.question, list(item.responses(order).values()))
            for item, order in product(items, ORDERS)
        ]

    def prompts(self, contexts: Sequence[str] = ("",)) -> list[str]:
        """The prompts after contexts, of which each item gets the next in turn, the same in both orders."""
        return [
            format_prompt(
                self.language_model.tokenizer, text, form=self.form, context=contexts[number // 2 % len(contexts)]
            )
            for number, text in enumerate(self._texts)
        ]
