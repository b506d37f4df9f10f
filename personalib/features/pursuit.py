"""Vectors as sums of a few features of an SAE."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import orthogonal_mp

from personalib.features.saes import SparseAutoencoder
from personalib.vectors.geometry import Array, Vectors, matrix, units

# Weights of a unit vector below this are rounding errors.
_NOTHING = 1e-9


def sparse_reconstruction(
    vectors: Vectors, sae: SparseAutoencoder, counts: Sequence[int] = (1, 2, 3, 5, 10, 20), seed: int = 0
) -> pd.DataFrame:
    """How much of each vector a few features explain, beside what a few random directions would.

    Features are picked one by one, each time the decoder's row that the rest lies along most (orthogonal matching
    pursuit); weights of either sign are allowed.

    Args:
        vectors: by name, at the SAE's site.
        sae: the SAE.
        counts: how many features.
        seed: of the random directions.

    Returns:
        One row a vector and count: ``name``, ``features``, ``explained`` (the share of the vector's squared norm),
        ``chance`` (the same by as many of as many random directions), ``random`` (the mean of random vectors by the
        SAE's own features), and ``chosen``, the features picked, in the order of their weight.

    Raises:
        ValueError: a vector stands at another site, or is zero.

    Source:
        Pati, Rezaiifar and Krishnaprasad, *Orthogonal Matching Pursuit* (1993).
    """
    for name, one in vectors.items():
        if one.site != sae.site:
            raise ValueError(f"{name} stands at {one.site}, and {sae.name} reads {sae.site}")
        if not one.norm:
            raise ValueError(f"{name} is zero and made of nothing; leave it out")
    rng = np.random.default_rng([seed, 23])
    dictionary, targets = units(sae.directions.double().cpu().numpy()), units(matrix(vectors))
    chance = units(rng.standard_normal(dictionary.shape))
    noise = units(rng.standard_normal((20, dictionary.shape[1])))
    rows = []
    for count in counts:
        random = float(_explained(noise, dictionary, count)[0].mean())
        parts = zip(*_explained(targets, dictionary, count), _explained(targets, chance, count)[0], strict=True)
        for name, (share, weights, by_chance) in zip(vectors, parts, strict=True):
            chosen = [int(each) for each in np.argsort(-np.abs(weights)) if abs(weights[each]) > _NOTHING]
            rows.append([name, count, share, by_chance, random, chosen])
    return pd.DataFrame(rows, columns=["name", "features", "explained", "chance", "random", "chosen"])


def _explained(targets: Array, dictionary: Array, count: int) -> tuple[Array, Array]:
    """The share of each unit target that the best few rows explain, shape (targets,), and all weights."""
    with warnings.catch_warnings():
        # It warns where fewer rows than asked for explain everything, which is a result and no problem.
        warnings.simplefilter("ignore", RuntimeWarning)
        weights = orthogonal_mp(dictionary.T, targets.T, n_nonzero_coefs=count).reshape(len(dictionary), -1).T
    return 1 - ((targets - weights @ dictionary) ** 2).sum(1), weights
