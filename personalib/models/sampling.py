"""Sampling: how each token of a free answer is chosen, and from which random numbers."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from personalib.base.data import Strict

if TYPE_CHECKING:
    import torch

_Number = Annotated[float, Field(strict=True, ge=0)]
# Logits that are divided by less may overflow in double precision; long before, the likeliest token is sure.
_COLDEST = 1e-6


class Sampling(Strict):
    """How the tokens of a free answer are chosen; without fields the likeliest one each time.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token, and nothing between it and 1e-6 is taken.
        top_p: tokens are drawn from the likeliest ones, as many as it takes to have this share of the probability.
        frequency_penalty: taken off a token's logit, after the division, each time that it stands in the prompt or in
            the answer so far. Padding does not count, as it does in a batch of TransformerLens.
        seed: with the prompt's tokens and the number of the sample it determines the random numbers.
        samples: answers of each prompt.

    Raises:
        ValueError: a number is out of range, or something is set that has no effect at temperature 0.

    Source:
        ``sample_logits`` and ``HookedTransformer.generate`` of TransformerLens, which the paper's code calls.

    Example:
        >>> print(Sampling(temperature=0.2, frequency_penalty=1.0, seed=16))
        temperature 0.2, frequency penalty 1, seed 16
    """

    temperature: _Number = 0.0
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    frequency_penalty: _Number = 0.0
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    samples: Annotated[int, Field(strict=True, ge=1)] = 1

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if 0 < self.temperature < _COLDEST:
            raise ValueError(f"temperature {self.temperature:g} is below {_COLDEST:g}; take 0 for the likeliest token")
        if self.greedy and (self.top_p, self.frequency_penalty, self.samples) != (1, 0, 1):
            raise ValueError("top_p, frequency_penalty and samples do nothing at temperature 0; set a temperature")
        return self

    @property
    def greedy(self) -> bool:
        """Whether it is the likeliest token each time."""
        return self.temperature == 0

    def __str__(self) -> str:
        if self.greedy:
            return "greedy"
        penalty = ("frequency penalty", self.frequency_penalty, 0)
        about = (("top-p", self.top_p, 1), penalty, ("samples", self.samples, 1))
        said = [f"{name} {value:g}" for name, value, usual in about if value != usual]
        return ", ".join([f"temperature {self.temperature:g}", *said, f"seed {self.seed}"])

    def probabilities(self, logits: "torch.Tensor", seen: "torch.Tensor | None" = None) -> "torch.Tensor":
        """What the next token is drawn from, in double precision.

        Args:
            logits: shape ``(rows, vocabulary)``.
            seen: how often each token stands in each row so far, of the same shape; needed where there is a penalty.
        """
        scaled = logits.double() / self.temperature
        if seen is not None:
            scaled -= self.frequency_penalty * seen
        chances = scaled.softmax(dim=-1)
        if self.top_p < 1:
            ordered, places = chances.sort(dim=-1, descending=True, stable=True)
            # The token that reaches the share is still in.
            outside = (ordered.cumsum(dim=-1) - ordered) > self.top_p
            chances = chances.masked_fill(outside.scatter(-1, places, outside), 0.0)
        return chances / chances.sum(dim=-1, keepdim=True)

    def stream(self, tokens: Sequence[int], sample: int) -> np.random.Generator:
        """The random numbers of one sample of a prompt, one a token of the answer; they depend on nothing else."""
        key = json.dumps([self.seed, sample, list(tokens)])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest(), "little"))


GREEDY = Sampling()
