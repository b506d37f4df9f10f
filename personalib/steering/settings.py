"""What can be chosen of a push, and when it counts as collapsed; commands offer it, so nothing here loads torch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Positions = Literal["last", "prompt", "prompt_except_last", "before_options", "response", "all"]


@dataclass(frozen=True)
class Guard:
    """From where on a condition counts as collapsed; a ValueError where not even the unsteered one could pass.

    Attributes:
        mass: the least share of the unsteered answer mass that has to be left.
        perplexity: how many times its unsteered value the perplexity of neutral answers may be.
        facts: how many points of facts a push that is chosen may cost, on average over a family of vectors: a model can
            speak and have forgotten. One fact in twenty; so few say too little of a single vector.
    """

    mass: float = 0.9
    perplexity: float = 2.0
    facts: float = 5.0

    def __post_init__(self) -> None:
        if not (0 <= self.mass <= 1 <= self.perplexity and self.facts >= 0):
            raise ValueError(
                f"mass {self.mass:g}, perplexity {self.perplexity:g}, facts {self.facts:g}; take a mass of 0 to 1 "
                "and a perplexity of at least 1, and no facts below 0, or the unsteered model has collapsed as well"
            )

    def collapsed(self, mass: Array, perplexity: Array) -> NDArray[np.bool_]:
        """Which conditions have collapsed.

        Args:
            mass: answer mass as a share of the unsteered one, of any shape.
            perplexity: of neutral answers, in units of the unsteered one, of the same shape.
        """
        return ~((np.asarray(mass) >= self.mass) & (np.asarray(perplexity) <= self.perplexity))
