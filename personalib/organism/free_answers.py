"""Answers in free words under steering, read by the world's judge."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from personalib.doses import at_dose
from personalib.factors import POLES
from personalib.generation import generate
from personalib.interventions import Add
from personalib.models import LanguageModel
from personalib.organism.corpus import Corpus
from personalib.organism.grammar import LEVELS
from personalib.organism.judge import judge
from personalib.organism.world import load_world
from personalib.questionnaires import format_prompt
from personalib.statistics import proportion_interval
from personalib.steering_effects import Push
from personalib.vectors import SteeringVector

UNSTEERED = "unsteered"


def moved_trait(truth: pd.DataFrame, key: str) -> tuple[str, str]:
    """The trait that the positive pole of something is known to move most, and the level that it moves it to.

    Args:
        truth: ``key``, ``pole``, ``trait`` and ``truth``.
        key: of what.
    """
    own = truth[(truth["key"] == key) & (truth["pole"] == POLES[0])].set_index("trait")["truth"]
    trait = str(own.abs().idxmax())
    return trait, LEVELS[int(own[trait] < 0)]


def open_questions(trait: str, count: int, seed: int = 0) -> list[str]:
    """Held-out situations, each with a question, whose answer shows a trait."""
    corpus, rng = Corpus(load_world(), "held_out"), np.random.default_rng([seed, 43])
    return [corpus.situation(corpus.traits[trait], rng) for _ in range(count)]


def free_answers(
    language_model: LanguageModel,
    vectors: Mapping[str, SteeringVector],
    push: Push,
    truth: pd.DataFrame,
    *,
    count: int = 8,
    tokens: int = 24,
    form: str = "chat",
    seed: int = 0,
) -> pd.DataFrame:
    """Open questions about the trait that each vector is known to move most, answered under either pole and neither.

    Every token of prompt and answer is steered.

    Args:
        language_model: the model.
        vectors: by what they stand for, at the push's site.
        push: site, dose and norm; its positions do not count.
        truth: ``key``, ``pole``, ``trait`` and ``truth``.
        count: questions of each vector.
        tokens: of an answer, at the most.
        form: ``"chat"`` or ``"base"``.
        seed: draws the questions.

    Returns:
        One row an answer: ``key``, ``trait``, ``pole`` (or ``"unsteered"``), ``wanted`` (the level that the pole is
        known to push toward; missing without steering), ``question``, ``text``, and ``level`` (the judge's reading,
        missing where no word tells).
    """
    rows = []
    for key, vector in vectors.items():
        trait, level = moved_trait(truth, key)
        other = LEVELS[1 - LEVELS.index(level)]
        questions = open_questions(trait, count, seed)
        prompts = [format_prompt(language_model.tokenizer, one, form=form) for one in questions]
        for pole, sign, wanted in (*zip(POLES, (1, -1), (level, other), strict=True), (UNSTEERED, 0, None)):
            added = [Add(at_dose(vector, sign * push.dose, push.norm), 1.0, "all")] if sign else []
            for question, text in zip(questions, generate(language_model, prompts, added, tokens=tokens), strict=True):
                rows.append([key, trait, pole, wanted, question, text, judge(text, trait)])
    return pd.DataFrame(rows, columns=["key", "trait", "pole", "wanted", "question", "text", "level"])


def high_shares(
    answers: pd.DataFrame, titles: Mapping[str, str], poles: Sequence[str] = (*POLES, UNSTEERED)
) -> pd.DataFrame:
    """The share of readable answers that show the high level, as :func:`personalib.plots.interval_dots` draws them.

    Args:
        answers: of :func:`free_answers`.
        titles: names for readers, by key.
        poles: in the order of the marks.

    Returns:
        One row a key and pole with a readable answer: ``category``, ``kind`` (the pole), ``value``, ``low`` and
        ``high`` (Wilson, 95 %), and ``unreadable``, how many answers show no level.
    """
    rows = []
    for (key, trait), own in answers.groupby(["key", "trait"], sort=False):
        for pole in poles:
            levels = own.loc[own["pole"] == pole, "level"]
            if levels.notna().any():
                share = proportion_interval(int((levels == LEVELS[0]).sum()), int(levels.notna().sum()))
                rows.append([f"{titles[key]} ({trait})", pole, *share, int(levels.isna().sum())])
    return pd.DataFrame(rows, columns=["category", "kind", "value", "low", "high", "unreadable"])
