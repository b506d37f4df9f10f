"""The collapse guard: is a steered model still answering, and still able to say something else than what it is asked?

A score that is read from a model that no longer answers says nothing about its personality. Two things are measured
under every condition: the probability that is left on the answer options, and the perplexity of answers to neutral
questions. The perplexity tells whether the model still speaks, and not whether it knows the answer. It depends on the
tokens that are steered: where those of the prompt alone are, the answer's own tokens are read by a model that is left
alone, and where these are steered too, it is guarded more strictly.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.steering.grid import answer_losses
from personalib.steering.interventions import Condition
from personalib.stimuli.grammar import load_relations

Array = NDArray[np.float64]
Exchanges = Sequence[tuple[str, str]]


def neutral_exchanges(
    language_model: LanguageModel,
    count: int = 24,
    *,
    seed: int = 0,
    form: str = "chat",
    contexts: Sequence[str] = ("",),
) -> list[tuple[str, str]]:
    """Questions of general knowledge, each with an answer in a sentence; nothing of them is about anybody.

    Args:
        language_model: whose chat template the questions are put in.
        count: how many.
        seed: draws them.
        form: ``"chat"`` or ``"base"``.
        contexts: texts that come first, of which each question gets the next in turn.

    Raises:
        ValueError: the model has no chat template, or the contexts are none, or a single text.
    """
    if isinstance(contexts, str) or not contexts:
        raise ValueError(f"contexts={contexts!r}; pass a list of texts, [''] for none")
    rng = np.random.default_rng([seed, 29])
    found = []
    for number in range(count):
        relation = load_relations()[rng.integers(len(load_relations()))]
        fact = relation.facts[rng.integers(len(relation.facts))]
        questions = relation.questions["held_out"]
        question = questions[rng.integers(len(questions))].format(subject=fact.subject)
        answer = relation.statements[rng.integers(len(relation.statements))]
        answer = answer.format(subject=fact.subject, object=fact.object)
        context = contexts[number % len(contexts)]
        prompt = format_prompt(language_model.tokenizer, question, form=form, context=context)
        found.append((prompt, answer[0].upper() + answer[1:]))
    return found


def perplexities(
    language_model: LanguageModel,
    exchanges: Exchanges,
    conditions: Sequence[Condition],
    *,
    batch_size: int = 16,
    progress: str | None = None,
) -> Array:
    """The perplexity of given answers under each condition: the exponential of the mean loss of their tokens.

    Prompt and answer are steered as the positions of each condition say. The first token of an answer does not count:
    with which of many words a sentence begins is a matter of manners.

    Args:
        language_model: the model.
        exchanges: prompts, each with its answer.
        conditions: interventions of each condition.
        batch_size: rows of a forward pass.
        progress: text of a progress bar; None shows none.

    Returns:
        Shape ``(conditions,)``.

    Raises:
        ValueError: there are no exchanges; or see :func:`~personalib.steering.grid.answer_losses`.
    """
    if not exchanges:
        raise ValueError("there are no exchanges to measure the perplexity of; pass at least one")
    losses, lengths = answer_losses(
        language_model, exchanges, conditions, skip=1, batch_size=batch_size, progress=progress
    )
    found: Array = np.exp(losses.sum(1) / lengths.sum())
    return found


def perplexity_of_each(
    language_model: LanguageModel, groups: Sequence[Exchanges], condition: Condition = (), *, batch_size: int = 16
) -> Array:
    """The perplexity of several groups of given answers under one condition; see :func:`perplexities`.

    All groups are run together, which is faster than one after the other where each is small.

    Returns:
        Shape ``(groups,)``.

    Raises:
        ValueError: a group is empty; or see :func:`~personalib.steering.grid.answer_losses`.
    """
    if not groups or not all(groups):
        raise ValueError("there are no exchanges to measure the perplexity of; pass at least one in each group")
    everything = [one for group in groups for one in group]
    [losses], lengths = answer_losses(language_model, everything, [condition], skip=1, batch_size=batch_size)
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    found: Array = np.exp(np.add.reduceat(losses, starts) / np.add.reduceat(lengths, starts))
    return found
