"""Answers in free words, and the world's judge, which reads what level of a trait they show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from personalib.base.statistics import proportion_interval
from personalib.evaluation.arms import Arm
from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.models.sampling import GREEDY, Sampling
from personalib.organism.corpus import Corpus
from personalib.organism.world import load_world
from personalib.steering.generation import generate
from personalib.stimuli.factors import POLES
from personalib.stimuli.grammar import LEVELS, load_traits, words


@cache
def _log_odds(trait: str) -> dict[str, float]:
    """Log-odds of high against low for each word of the trait's train wordings, with add-one smoothing."""
    counts: dict[str, Counter[str]] = {level: Counter() for level in LEVELS}
    for level in LEVELS:
        for wording in load_traits()[trait].wordings[level, "train"]:
            counts[level].update(words(f"{wording.act} {wording.reason}"))
    table = pd.DataFrame(counts).fillna(0) + 1
    odds = np.log(table / table.sum())
    return dict(odds["high"] - odds["low"])


def judge(text: str, trait: str) -> str | None:
    """The level that an answer shows, by the words it shares with the grammar (naive Bayes on train wordings).

    None when not one word tells, so that an unreadable answer is counted as such.
    """
    odds = _log_odds(trait)
    score = sum(odds.get(word, 0.0) for word in words(text))
    return None if score == 0 else LEVELS[int(score < 0)]


def moved_trait(truth: pd.DataFrame, key: str) -> tuple[str, str]:
    """The trait that the positive pole of a key is known to move most, and the level that it moves it to."""
    changes = truth[(truth["key"] == key) & (truth["pole"] == POLES[0])].set_index("group")["truth"]
    trait = str(changes.abs().idxmax())
    return trait, LEVELS[int(changes[trait] < 0)]


def open_questions(trait: str, count: int, seed: int = 0) -> list[str]:
    """Held-out situations, each with a question, whose answer shows a trait."""
    corpus, rng = Corpus(load_world(), "held_out"), np.random.default_rng([seed, 43])
    return [corpus.situation(corpus.traits[trait], rng) for _ in range(count)]


def free_answers(
    language_model: LanguageModel,
    arms: Sequence[Arm],
    truth: pd.DataFrame,
    *,
    count: int = 8,
    tokens: int = 24,
    form: str = "chat",
    seed: int = 0,
    sampling: Sampling = GREEDY,
) -> pd.DataFrame:
    """Open questions about the trait that each arm's key is known to move most, answered under the arm.

    Arms of one key get the same questions, ``count`` of each key, drawn by the seed. ``truth`` has ``key``, ``pole``,
    ``group`` and ``truth``; ``sampling`` says how answers of so many ``tokens`` are written, and how many each question
    has.

    Returns:
        One row an answer: ``method``, ``key``, ``pole``, ``trait``, ``wanted`` (the level that the pole is known to
        push toward), ``question``, ``text``, and ``level`` (the judge's reading, missing where no word tells).
    """
    rows = []
    for arm in arms:
        trait, level = moved_trait(truth, arm.key)
        wanted = level if arm.pole == POLES[0] else LEVELS[1 - LEVELS.index(level)]
        questions, contexts = open_questions(trait, count, seed), arm.contexts or ("",)
        prompts = [
            format_prompt(language_model.tokenizer, one, form=form, context=contexts[number % len(contexts)])
            for number, one in enumerate(questions)
        ]
        texts = generate(language_model, prompts, arm.condition, tokens=tokens, sampling=sampling)
        for question, text in zip(np.repeat(questions, sampling.samples).tolist(), texts, strict=True):
            rows.append([arm.method, arm.key, arm.pole, trait, wanted, question, text, judge(text, trait)])
    return pd.DataFrame(rows, columns=["method", "key", "pole", "trait", "wanted", "question", "text", "level"])


def high_shares(answers: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The share of readable answers that show the high level, as :func:`personalib.base.plots.interval_dots` has it.

    The answers are those of :func:`free_answers`, with the marks' names under ``kind``; ``titles`` are by key.

    Returns:
        One row a key and kind with a readable answer: ``category``, ``kind``, ``value``, ``low`` and ``high`` (Wilson,
        95 %), and ``unreadable``, how many answers show no level.
    """
    rows = []
    for (key, trait, kind), own in answers.groupby(["key", "trait", "kind"], sort=False):
        levels = own["level"]
        if levels.notna().any():
            share = proportion_interval(int((levels == LEVELS[0]).sum()), int(levels.notna().sum()))
            rows.append([f"{titles[key]} ({trait})", kind, *share, int(levels.isna().sum())])
    return pd.DataFrame(rows, columns=["category", "kind", "value", "low", "high", "unreadable"])
