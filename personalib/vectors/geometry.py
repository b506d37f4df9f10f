"""Geometry: the angles between directions, what they are made of, and what they do to each other's readings."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from personalib.models.parts import Site
from personalib.vectors.contrast import Halves
from personalib.vectors.methods import DEFAULT_METHOD, direction
from personalib.vectors.readings import dealt_texts
from personalib.vectors.vector import SteeringVector, texts_hash

Vectors = Mapping[str, SteeringVector]
Array = NDArray[np.float64]


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
        first, second = units(np.stack([direction(*poles, method) for poles in dealt]))
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
    weights, values = _weights(vectors, effects), matrix(vectors)
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
    rows = effects[list(traits)].to_numpy(dtype=np.float64) @ matrix(traits)
    like = next(iter(traits.values()))
    return {
        str(name): replace(like, direction=torch.from_numpy(row), name=f"composed {name}")
        for name, row in zip(effects.index, rows, strict=True)
    }


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


def matrix(vectors: Vectors) -> Array:
    """The directions below each other, shape (vectors, d_model)."""
    if not vectors:
        raise ValueError("there are no vectors; pass at least one")
    first, *others = vectors.values()
    for one in others:
        first.check_fits(one)
    return np.stack([one.direction.double().numpy() for one in vectors.values()])


def units(rows: NDArray[np.floating]) -> Array:
    """Rows of length one, shape (rows, d_model)."""
    values = np.asarray(rows, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
