"""Doses: how hard a push is, in units of what is pushed.

A coefficient of 200 says nothing by itself: it depends on the vector's length and on how large the residual stream is
where it is added. A *dose* is the length of what is added as a share of the residual stream's typical length there.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.vectors.vector import SteeringVector

Combination = Literal["sum", "norm_matched"]
# A sum that is shorter than this share of its parts is what rounding has left of zero.
_NOTHING = 1e-5


def site_norms(
    language_model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], folder: Path
) -> dict[Site, float]:
    """The typical length of the residual stream at some sites: the median over all tokens of some texts.

    The tokenizer's special tokens are left out: at the first token the stream can be many times longer than anywhere.
    """
    found = capture(language_model, texts, sites, folder, tokens="all")
    return {site: float(np.median(np.linalg.norm(found.values(site), axis=1))) for site in sites}


def at_dose(vector: SteeringVector, dose: float, norm: float) -> SteeringVector:
    """The vector in the length of a dose of the residual stream's norm there; negative doses push the other way.

    A vector that is zero is a ValueError.
    """
    return vector.unit() * (dose * norm)


def combined(vectors: Sequence[SteeringVector], how: Combination = "sum") -> SteeringVector:
    """Several vectors in one.

    Their ``"sum"``, as the paper has it, whereby three vectors push about 1.7 times harder than one where they are at
    right angles, and three times where they agree; or ``"norm_matched"``, the sum cut to the mean length of its parts,
    so that a push is no harder for having several. No vectors, some that do not belong together, and a sum of zero that
    has to be lengthened are a ValueError.
    """
    if not vectors:
        raise ValueError("there are no vectors to combine; pass at least one")
    if how not in ("sum", "norm_matched"):
        raise ValueError(f"how={how!r}; choose sum or norm_matched")
    total = reduce(add, vectors)
    if how == "sum":
        return total
    mean = float(np.mean([one.norm for one in vectors]))
    if total.norm <= _NOTHING * mean:
        raise ValueError(f"{total.name} is zero but for rounding, and has no direction to be lengthened in")
    return total.unit() * mean


def random_directions(like: SteeringVector, count: int = 10, seed: int = 0) -> list[SteeringVector]:
    """Random directions, as long as a vector, which must not be zero, and at its site.

    Any push of that length moves a model somewhere, so what a vector does counts only beyond what these do.
    """
    if not like.norm:
        raise ValueError(f"{like.name} is zero, and so would be its controls")
    drawn = torch.from_numpy(np.random.default_rng([seed, 31]).standard_normal((count, len(like.direction))))
    where, origin = like.site, (like.model, like.revision)
    vectors = [SteeringVector(row, where, f"random {n}", "random", *origin) for n, row in enumerate(drawn)]
    return [vector.unit() * like.norm for vector in vectors]
