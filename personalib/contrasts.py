"""Contrast pairs: two instructions that differ in the pole of a pressure, before the same neutral question.

The paper fits its RepE directions on TRAIT's own questions (arXiv 2410.10863, code release); here the questions that
carry a pair share no item with anything that is measured later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from personalib.data import DataError, data_dir, read_yaml
from personalib.factors import POLES, Pressure, sentence
from personalib.organism.grammar import split_phrases
from personalib.templates import wrap


@dataclass(frozen=True)
class ContrastPair:
    """One question under the two poles of a pressure.

    Attributes:
        positive, negative: the instruction toward each pole, as a sentence.
        question: the neutral question that follows it.
    """

    positive: str
    negative: str
    question: str

    def prompts(self, form: str = "chat") -> tuple[str, str]:
        """The two prompts, positive first, as they are handed to the organism."""
        return wrap(self.question, form, self.positive), wrap(self.question, form, self.negative)


@cache
def load_carriers(path: Path | None = None) -> tuple[str, ...]:
    """The neutral questions from ``data/stimuli/carriers.yaml`` or another file of its form.

    Raises:
        DataError: the file holds no list of different questions.
    """
    source = path or data_dir() / "stimuli" / "carriers.yaml"
    content = read_yaml(source)
    questions = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(questions, list) or not questions or not all(isinstance(each, str) for each in questions):
        raise DataError(f"{source}: write a list of questions under 'questions'")
    if len(set(questions)) < len(questions):
        raise DataError(f"{source}: holds a question twice; remove one of them")
    return tuple(questions)


def contrast_set(
    pressure: Pressure, count: int, seed: int, split: str = "train", carriers: Sequence[str] | None = None
) -> list[ContrastPair]:
    """Different contrast pairs of a pressure or facet.

    Args:
        pressure: what to contrast.
        count: how many pairs.
        seed: the same seed gives the same pairs.
        split: ``"train"`` or ``"held_out"``: which of its phrasings are used.
        carriers: the questions; the stimuli's by default.

    Raises:
        ValueError: there are not so many different pairs.
    """
    rng = np.random.default_rng(seed)
    poles = [split_phrases(pressure.phrasings[pole])[split] for pole in POLES]
    questions = load_carriers() if carriers is None else carriers
    pairs = list(product(*map(range, map(len, (*poles, questions)))))
    if count > len(pairs):
        raise ValueError(f"{pressure.key} has {len(pairs)} contrast pairs in its {split} phrasings; ask for fewer")
    chosen = (pairs[number] for number in rng.permutation(len(pairs))[:count])
    return [
        ContrastPair(sentence(poles[0][first]), sentence(poles[1][second]), questions[question])
        for first, second, question in chosen
    ]
