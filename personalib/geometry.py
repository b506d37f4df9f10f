"""Geometry: how directions lie to each other, what they are made of, and what they do to each other's readings."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import orthogonal_mp

from personalib.activations import Site
from personalib.contrast import Halves
from personalib.directions import DEFAULT_METHOD, direction
from personalib.readings import dealt_texts
from personalib.saes import SparseAutoencoder
from personalib.vectors import SteeringVector, texts_hash

Vectors = Mapping[str, SteeringVector]
Array = NDArray[np.float64]
# Weights of a unit vector below this are rounding errors.
_NOTHING = 1e-9


def cosines(rows: Vectors, columns: Vectors | None = None) -> pd.DataFrame:
    """The cosine of each row's vector with each column's, by name; of the rows among themselves by default.

    Raises:
        ValueError: two vectors do not belong to one site and model, or one is zero.
    """
    others = rows if columns is None else columns
    table = [[one.cosine(other) for other in others.values()] for one in rows.values()]
    return pd.DataFrame(table, index=list(rows), columns=list(others))


def shuffled_cosines(
    readings: Mapping[str, Halves], site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> Array:
    """Cosines between directions that mean nothing: of two contrasts each time, their poles dealt anew to phrases.

    It is wider than the cosine of isotropic vectors, since texts vary in some directions more than in others.

    Args:
        readings: by contrast, at least two.
        site: where.
        method: of the directions.
        shuffles: how many cosines.
        seed: deals the poles.

    Returns:
        Shape ``(shuffles,)``.

    Raises:
        ValueError: there are fewer than two contrasts.
    """
    rng, keys = np.random.default_rng([seed, 31]), list(readings)
    if len(keys) < 2:
        raise ValueError(f"readings of {len(keys)} contrast have no angles between them; pass two or more")
    found = []
    for _ in range(shuffles):
        chosen = rng.choice(len(keys), 2, replace=False)
        dealt = [dealt_texts(readings[keys[number]]["train"], site, rng) for number in chosen]
        first, second = _units(np.stack([direction(*poles, method) for poles in dealt]))
        found.append(first @ second)
    return np.array(found)


def dealt_vectors(
    readings: Mapping[str, Halves], vectors: Vectors, method: str = DEFAULT_METHOD, seed: int = 0
) -> dict[str, SteeringVector]:
    """Each contrast's vector with its poles dealt anew to whole phrases: directions of these texts that mean nothing.

    Args:
        readings: by contrast.
        vectors: by contrast, at the sites that are wanted.
        method: of the directions.
        seed: deals the poles.
    """
    rng = np.random.default_rng([seed, 37])
    found = {}
    for name, one in vectors.items():
        dealt = direction(*dealt_texts(readings[name]["train"], one.site, rng), method)
        found[name] = replace(one, direction=torch.from_numpy(dealt), name=f"dealt {one.name}")
    return found


def cross_readings(vectors: Vectors, readings: Mapping[str, Halves]) -> pd.DataFrame:
    """How well each vector tells the two poles of each contrast apart in held-out texts.

    Args:
        vectors: by name, all at one site.
        readings: by contrast.

    Returns:
        The AUROC, vectors in rows and contrasts in columns: 1 where it reads the contrast, 0.5 where it does not see
        it, 0 where it reads it the other way round.
    """
    table = [
        [_auroc(one, own["held_out"].positive, own["held_out"].negative) for own in readings.values()]
        for one in vectors.values()
    ]
    return pd.DataFrame(table, index=list(vectors), columns=list(readings))


def trait_directions(vectors: Vectors, effects: pd.DataFrame) -> dict[str, SteeringVector]:
    """The traits' own directions: those of which each vector is the sum, weighted with what its contrast does to them.

    Args:
        vectors: by name, all at one site, more than there are traits.
        effects: what each contrast does to each trait, in any unit; a row for each name and a column for each trait.

    Returns:
        By trait the direction, in the residual stream's unit for one unit of effect; the least-squares solution.

    Raises:
        ValueError: there are fewer vectors than traits, or a name has no effects.
    """
    weights, values = _weights(vectors, effects), _matrix(vectors)
    if np.linalg.matrix_rank(weights) < weights.shape[1]:
        raise ValueError(f"{len(vectors)} vectors do not tell {weights.shape[1]} traits apart; pass more of them")
    found = np.linalg.lstsq(weights, values, rcond=None)[0]
    like, texts = next(iter(vectors.values())), texts_hash(one.texts for one in vectors.values())
    return {
        str(trait): replace(
            like, direction=torch.from_numpy(row), name=f"traits.{trait}", method="least_squares", texts=texts
        )
        for trait, row in zip(effects.columns, found, strict=True)
    }


def composed(traits: Vectors, effects: pd.DataFrame) -> dict[str, SteeringVector]:
    """The vectors that traits' directions add up to, weighted with what each contrast does to them.

    Args:
        traits: from :func:`trait_directions`.
        effects: a row for each contrast and a column for each trait.

    Returns:
        By name of the contrast.
    """
    rows = effects[list(traits)].to_numpy(dtype=np.float64) @ _matrix(traits)
    like = next(iter(traits.values()))
    return {
        str(name): replace(like, direction=torch.from_numpy(row), name=f"composed {name}")
        for name, row in zip(effects.index, rows, strict=True)
    }


def sparse_reconstruction(
    vectors: Vectors, sae: SparseAutoencoder, counts: Sequence[int] = (1, 2, 3, 5, 10, 20), seed: int = 0
) -> pd.DataFrame:
    """How much of each vector a few features explain, beside what a few directions of chance would.

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
    dictionary, targets = _units(sae.directions.double().cpu().numpy()), _units(_matrix(vectors))
    chance = _units(rng.standard_normal(dictionary.shape))
    noise = _units(rng.standard_normal((20, dictionary.shape[1])))
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


def _auroc(
    vector: SteeringVector, positive: Mapping[Site, NDArray[np.float32]], negative: Mapping[Site, NDArray[np.float32]]
) -> float:
    high, low = (vector.projection(each[vector.site]) for each in (positive, negative))
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def _weights(vectors: Vectors, effects: pd.DataFrame) -> Array:
    missing = [name for name in vectors if name not in effects.index]
    if missing:
        raise ValueError(f"there are no effects of {', '.join(missing)}; pass a row for each vector")
    return effects.loc[list(vectors)].to_numpy(dtype=np.float64)


def _matrix(vectors: Vectors) -> Array:
    """The directions below each other, shape (vectors, d_model)."""
    if not vectors:
        raise ValueError("there are no vectors; pass at least one")
    first, *others = vectors.values()
    for one in others:
        first.check_fits(one)
    return np.stack([one.direction.double().numpy() for one in vectors.values()])


def _units(rows: NDArray[np.floating]) -> Array:
    values = np.asarray(rows, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
