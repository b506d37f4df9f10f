"""Geometry: the angles between directions, what they are made of, and what they do to each other's readings."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from personalib.models.parts import Site
from personalib.vectors.contrast import Halves, PairActivations
from personalib.vectors.methods import DEFAULT_METHOD, Array, direction
from personalib.vectors.readings import dealt_texts
from personalib.vectors.vector import SteeringVector, texts_hash

Vectors = Mapping[str, SteeringVector]


def cosines(rows: Vectors, columns: Vectors | None = None) -> pd.DataFrame:
    """The cosine of each row's vector with each column's, by name; of the rows among themselves by default."""
    others = rows if columns is None else columns
    table = [[vector.cosine(other) for other in others.values()] for vector in rows.values()]
    return pd.DataFrame(table, index=list(rows), columns=list(others))


def shuffled_cosines(
    readings: Mapping[str, Halves], site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> Array:
    """Cosines, shape ``(shuffles,)``, between directions that mean nothing: two contrasts with their poles dealt anew.

    They spread wider than those of isotropic vectors, since texts vary in some directions more than in others. Fewer
    than two contrasts are a ValueError.
    """
    rng, keys = np.random.default_rng([seed, 31]), list(readings)
    if len(keys) < 2:
        raise ValueError(f"readings of {len(keys)} contrast have no angles between them; pass two or more")
    cosines = []
    for _ in range(shuffles):
        chosen = rng.choice(len(keys), 2, replace=False)
        dealt = [dealt_texts(readings[keys[number]]["train"], site, rng) for number in chosen]
        first, second = units(np.stack([direction(*poles, method) for poles in dealt]))
        cosines.append(first @ second)
    return np.array(cosines)


def dealt_vectors(
    readings: Mapping[str, Halves], vectors: Vectors, method: str = DEFAULT_METHOD, seed: int = 0
) -> dict[str, SteeringVector]:
    """Each contrast's vector, at its site, with its poles dealt anew to whole phrases: directions that mean nothing."""
    rng = np.random.default_rng([seed, 37])
    dealt = {name: dealt_texts(readings[name]["train"], vector.site, rng) for name, vector in vectors.items()}
    return {
        name: replace(vector, direction=torch.from_numpy(direction(*dealt[name], method)), name=f"dealt {vector.name}")
        for name, vector in vectors.items()
    }


def cross_readings(vectors: Vectors, readings: Mapping[str, Halves]) -> pd.DataFrame:
    """The AUROC by which each vector (rows) tells the poles of each contrast (columns) apart in held-out texts.

    It is 0.5 where a vector does not see the contrast, and 0 where it reads it the other way round.
    """

    def auroc(vector: SteeringVector, read: PairActivations) -> float:
        high, low = (vector.projection(each) for each in read.at(vector.site))
        return float(mannwhitneyu(high, low, method="asymptotic").statistic / (len(high) * len(low)))

    table = [[auroc(vector, halves["held_out"]) for halves in readings.values()] for vector in vectors.values()]
    return pd.DataFrame(table, index=list(vectors), columns=list(readings))


def trait_directions(vectors: Vectors, effects: pd.DataFrame) -> dict[str, SteeringVector]:
    """The traits' own directions: those of which each vector is the sum, weighted with what its contrast does to them.

    They are the least-squares solution, in the residual stream's unit for one unit of effect; ``effects`` has a row for
    each vector's name and a column for each trait. All vectors stand at one site. Fewer vectors than traits, and a name
    without effects, are a ValueError.
    """
    if missing := [name for name in vectors if name not in effects.index]:
        raise ValueError(f"there are no effects of {', '.join(missing)}; pass a row for each vector")
    weights, values = effects.loc[list(vectors)].to_numpy(dtype=np.float64), matrix(vectors)
    if np.linalg.matrix_rank(weights) < weights.shape[1]:
        raise ValueError(f"{len(vectors)} vectors do not tell {weights.shape[1]} traits apart; pass more of them")
    directions = np.linalg.lstsq(weights, values, rcond=None)[0]
    like, texts = next(iter(vectors.values())), texts_hash(vector.texts for vector in vectors.values())
    return {
        str(trait): replace(
            like, direction=torch.from_numpy(row), name=f"traits.{trait}", method="least_squares", texts=texts
        )
        for trait, row in zip(effects.columns, directions, strict=True)
    }


def composed(traits: Vectors, effects: pd.DataFrame) -> dict[str, SteeringVector]:
    """By contrast the vector that traits' directions add up to, weighted with the contrast's row of effects on them."""
    rows = effects[list(traits)].to_numpy(dtype=np.float64) @ matrix(traits)
    like = next(iter(traits.values()))
    return {
        str(name): replace(like, direction=torch.from_numpy(row), name=f"composed {name}")
        for name, row in zip(effects.index, rows, strict=True)
    }


def matrix(vectors: Vectors) -> Array:
    """The directions below each other, shape (vectors, d_model)."""
    if not vectors:
        raise ValueError("there are no vectors; pass at least one")
    first, *others = vectors.values()
    for other in others:
        first.check_fits(other)
    return np.stack([vector.direction.double().numpy() for vector in vectors.values()])


def units(rows: NDArray[np.floating]) -> Array:
    """Rows of length one, shape (rows, d_model)."""
    values = np.asarray(rows, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
