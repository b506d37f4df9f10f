"""The world's own judge: which level of a trait does an answer in free words show?"""

from collections import Counter
from functools import cache

import numpy as np

from personalib.stimuli.grammar import LEVELS, load_traits, words


@cache
def _log_odds(trait: str) -> dict[str, float]:
    """Log-odds of high against low for each word of the trait's train wordings, with add-one smoothing."""
    bank = load_traits()[trait]
    counts = {
        level: Counter(
            word for wording in bank.wordings[level, "train"] for word in words(f"{wording.act} {wording.reason}")
        )
        for level in LEVELS
    }
    vocabulary = set(counts["high"]) | set(counts["low"])
    totals = {level: sum(counts[level].values()) + len(vocabulary) for level in LEVELS}
    return {
        word: float(
            np.log((counts["high"][word] + 1) / totals["high"]) - np.log((counts["low"][word] + 1) / totals["low"])
        )
        for word in vocabulary
    }


def judge(text: str, trait: str) -> str | None:
    """The level that an answer shows, by the words it shares with the grammar (naive Bayes on train wordings).

    Returns:
        ``"high"`` or ``"low"``; None when not one word tells, so that an unreadable answer is counted as such.

    >>> judge("I would worry about it all night.", "neuroticism")
    'high'
    """
    odds = _log_odds(trait)
    score = sum(odds.get(word, 0.0) for word in words(text))
    return None if score == 0 else LEVELS[int(score < 0)]
