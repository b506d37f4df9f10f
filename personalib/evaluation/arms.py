"""Arms: the conditions of an experiment, each a push, a prompt, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from personalib.models.parts import Site
from personalib.steering.doses import at_dose, random_directions
from personalib.steering.interventions import Add, Condition
from personalib.steering.settings import Positions
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES
from personalib.vectors.vector import SteeringVector

PROMPT, RANDOM = "prompt", "random"
Vectors = Mapping[str, SteeringVector]
# How many texts are made of a persona, of whom several things are told.
_TELLINGS = 24


@dataclass(frozen=True)
class Arm:
    """One condition of an experiment.

    Attributes:
        method: what kind of steering it is, such as ``"sae"``, ``"prompt"`` or ``"random"``.
        key: what it stands for, such as ``"gender.female"``.
        condition: the interventions; none for what is prompted alone.
        contexts: texts before the question, of which each item gets the next in turn; none for what is only steered.
        dose: the length of what is added as a share of the residual stream's, with its sign.
        pole: which one it pushes toward, ``"positive"`` or ``"negative"``.
    """

    method: str
    key: str
    condition: Condition = ()
    contexts: tuple[str, ...] = ()
    dose: float = np.nan
    pole: str = "positive"


NONE = Arm("none", "none")


@dataclass(frozen=True)
class Push:
    """Where and how hard: the dose is the length of what is added as a share of the norm.

    The norm is the residual stream's typical length there; see :func:`~personalib.steering.doses.site_norms`.
    """

    site: Site
    dose: float
    norm: float
    positions: Positions = "prompt"

    def arms(self, method: str, vectors: Vectors, poles: Sequence[str] = POLES[:1]) -> list[Arm]:
        """One arm a pole and vector; the negative pole is pushed toward by the opposite.

        A vector that stands at another site, or is zero, is a ValueError.
        """
        for vector in vectors.values():
            if vector.site != self.site:
                raise ValueError(f"{vector.name} stands at {vector.site}, and the push is made at {self.site}")
        signs = dict(zip(POLES, (1, -1), strict=True))
        arms = []
        for pole, (key, vector) in product(poles, vectors.items()):
            dose = signs[pole] * self.dose
            added = Add(at_dose(vector, dose, self.norm), 1.0, self.positions)
            arms.append(Arm(method, key, (added,), dose=dose, pole=pole))
        return arms


def prompted_arms(contrasts: Sequence[Contrast], split: str, poles: Sequence[str] = POLES[:1]) -> list[Arm]:
    """The prompt baseline: the same things said in the words of one split."""
    return [
        Arm(PROMPT, contrast.key, contexts=tellings([contrast], pole, split), pole=pole)
        for contrast, pole in product(contrasts, poles)
    ]


def random_arms(push: Push, like: SteeringVector, count: int = 22, seed: int = 0) -> list[Arm]:
    """Random directions at a push, each under a key of its own."""
    return push.arms(RANDOM, {vector.name: vector for vector in random_directions(like, count, seed)})


def tellings(members: Sequence[Contrast], pole: str, split: str) -> tuple[str, ...]:
    """Texts that say everything that belongs to a persona; all phrasings where that is one thing.

    They are in a fixed random order, so that a few items already meet several phrases.
    """
    wordings = [member.wordings[pole, split] for member in members]
    texts = [[own[number].text for number in np.random.default_rng(0).permutation(len(own))] for own in wordings]
    count = len(texts[0]) if len(texts) == 1 else _TELLINGS
    return tuple(" ".join(own[number % len(own)] for own in texts) for number in range(count))
