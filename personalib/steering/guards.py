"""The collapse guard: is a steered model still answering, and still able to say something else than what it is asked?

Two things are measured under every condition: the probability that is left on the answer options, and the perplexity of
answers to neutral questions, whose first token does not count: how a sentence begins is a matter of manners.
It tells whether the model still speaks, and not whether it knows the answer; where the prompt's tokens alone are
steered, the answer's are read by a model that is left alone, and where these are steered too, the guard is stricter.
"""

from collections.abc import Sequence

import numpy as np

from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.stimuli.grammar import load_relations


def neutral_exchanges(
    language_model: LanguageModel,
    count: int = 24,
    *,
    seed: int = 0,
    form: str = "chat",
    contexts: Sequence[str] = ("",),
) -> list[tuple[str, str]]:
    """So many questions of general knowledge, each with an answer in a sentence; nothing of them is about anybody.

    They are put as the form says, ``"chat"`` or ``"base"``, and each comes after the next of the contexts in turn.
    A model without a chat template, and contexts that are none or a single text, are a ValueError.
    """
    if isinstance(contexts, str) or not contexts:
        raise ValueError(f"contexts={contexts!r}; pass a list of texts, [''] for none")
    rng = np.random.default_rng([seed, 29])
    exchanges = []
    for number in range(count):
        relation = load_relations()[rng.integers(len(load_relations()))]
        fact = relation.facts[rng.integers(len(relation.facts))]
        questions = relation.questions["held_out"]
        question = questions[rng.integers(len(questions))].format(subject=fact.subject)
        answer = relation.statements[rng.integers(len(relation.statements))]
        answer = answer.format(subject=fact.subject, object=fact.object)
        context = contexts[number % len(contexts)]
        prompt = format_prompt(language_model.tokenizer, question, form=form, context=context)
        exchanges.append((prompt, answer[0].upper() + answer[1:]))
    return exchanges
