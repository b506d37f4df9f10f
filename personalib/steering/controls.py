"""Controls of steering: directions that mean nothing."""

from collections.abc import Sequence

import numpy as np
import torch

from personalib.vectors.vector import SteeringVector


def random_directions(like: SteeringVector, count: int = 10, seed: int = 0) -> list[SteeringVector]:
    """Random directions, as long as a vector and at its site.

    Any push of that length moves a model somewhere, so what a vector does counts only beyond what these do.

    Args:
        like: the vector.
        count: how many.
        seed: draws them.

    Raises:
        ValueError: the vector is zero.

    Example:
        >>> vector = SteeringVector(torch.tensor([3.0, 4.0]), Site(3), "trust", "pca", "toy", "1")  # doctest: +SKIP
        >>> [round(one.norm, 6) for one in random_directions(vector, 2)]  # doctest: +SKIP
        [5.0, 5.0]
    """
    if not like.norm:
        raise ValueError(f"{like.name} is zero, and so would be its controls")
    rng = np.random.default_rng([seed, 31])
    return [
        SteeringVector(
            torch.from_numpy(rng.standard_normal(len(like.direction))),
            like.site,
            f"random {number}",
            "random",
            like.model,
            like.revision,
        ).unit()
        * like.norm
        for number in range(count)
    ]


def dealt(count: int, keys: Sequence[str], rng: np.random.Generator) -> dict[str, int]:
    """Random directions dealt to keys: each key gets the number of one, no two the same while there are enough.

    Raises:
        ValueError: there are no directions.
    """
    if count < 1:
        raise ValueError("there are no directions to deal; draw at least one")
    if not keys:
        return {}
    order = np.concatenate([rng.permutation(count) for _ in range(-(-len(keys) // count))])
    return dict(zip(keys, map(int, order), strict=False))
