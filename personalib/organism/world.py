"""The synthetic world: the log-odds of a high answer in eight traits are a baseline, the effects of the background
elements and the pressure that are known of a person, and noise. The effects are drawn from a seed: they are stipulated,
and claim nothing about people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from personalib.base.data import DataError, Strict, data_dir, parse, read_yaml
from personalib.stimuli.factors import POLES, TRAITS, Factor, elements, load_factors, load_pressures

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
# What a world is drawn with: an answer's noise, how many of the nine factors move a trait, how many traits a pressure
# moves, and the ranges of the sizes of a trait's baseline, of a factor's strongest element and of a pressure's effect.
_NOISE, _CAUSES_PER_TRAIT, _TRAITS_PER_PRESSURE = 0.5, 4, 3
_BASELINE_SIZE, _EFFECT_SIZE, _PRESSURE_SIZE = (0.4, 0.8), (1.0, 2.2), (1.6, 2.4)

_ByTrait = Annotated[tuple[float, ...], Field(min_length=len(TRAITS), max_length=len(TRAITS))]


class _Written(Strict):
    """A world as its file has it."""

    seed: Annotated[int, Field(ge=0)]
    noise: Annotated[float, Field(ge=0)]
    traits: tuple[str, ...]
    baseline: _ByTrait
    effects: dict[str, dict[str, _ByTrait]]
    pressures: dict[str, _ByTrait]


@dataclass(frozen=True)
class Profile:
    """What a text tells of a person: element keys by factor key, and ``(pressure key, pole)`` where there is one."""

    elements: Mapping[str, str] = field(default_factory=dict)
    pressure: tuple[str, str] | None = None


@dataclass(frozen=True)
class World:
    """The planted causes, in log-odds of a high answer; arrays have the shape (8,), one entry for each trait.

    ``noise`` is the standard deviation of a single answer's noise; ``effects``, by (factor, element), sum to zero over
    a factor's elements; ``pressures`` are those of the positive poles, and the negative ones have the opposite sign.
    """

    seed: int
    noise: float
    baseline: np.ndarray
    effects: Mapping[tuple[str, str], np.ndarray]
    pressures: Mapping[str, np.ndarray]

    def logit(self, profile: Profile) -> np.ndarray:
        """Log-odds of a high answer without noise, shape (8,)."""
        total = self.baseline.copy()
        for factor, element in profile.elements.items():
            total += self.effects[factor, element]
        if profile.pressure:
            key, pole = profile.pressure
            total += self.pressures[key] * (1 if pole == POLES[0] else -1)
        return total

    def probability(self, profile: Profile, certainty: float = 1.0) -> np.ndarray:
        """Probability of a high answer, shape (8,): the logistic averaged over the noise (Gauss-Hermite, 21 nodes).

        ``certainty`` is a factor on all log-odds; above one it makes a plainer world to learn first.
        """
        logits = certainty * (self.logit(profile)[:, None] + self.noise * _NODES)
        return (_WEIGHTS / (1 + np.exp(-logits))).sum(axis=1) / _WEIGHTS.sum()


def draw_world(seed: int) -> World:
    """Draw the effects: sparse, strong, with random signs, so that a small model can learn what a reader can check."""
    rng = np.random.default_rng(seed)
    factors = load_factors()
    effects = {(f.key, e.key): np.zeros(len(TRAITS)) for f in factors for e in f.elements}
    for trait in range(len(TRAITS)):
        for index in sorted(rng.choice(len(factors), _CAUSES_PER_TRAIT, replace=False)):
            for element, value in zip(factors[index].elements, _contrast(rng, factors[index]), strict=True):
                effects[factors[index].key, element.key][trait] = value
    baseline = _signed(rng, len(TRAITS), _BASELINE_SIZE)
    return World(seed, _NOISE, baseline, effects, {p.key: _pressure_effect(rng) for p in load_pressures()})


def _signed(rng: np.random.Generator, count: int, size: tuple[float, float]) -> np.ndarray:
    return np.round(rng.choice([-1.0, 1.0], count) * rng.uniform(*size, count), 2)


def _contrast(rng: np.random.Generator, factor: Factor) -> np.ndarray:
    """Random values that sum to zero over the factor's elements, the strongest of a size from the range."""
    levels = rng.normal(size=len(factor.elements))
    levels -= levels.mean()
    return np.round(levels / np.abs(levels).max() * rng.uniform(*_EFFECT_SIZE), 2)


def _pressure_effect(rng: np.random.Generator) -> np.ndarray:
    effect = np.zeros(len(TRAITS))
    sizes = _signed(rng, _TRAITS_PER_PRESSURE, _PRESSURE_SIZE)
    effect[rng.choice(len(TRAITS), _TRAITS_PER_PRESSURE, replace=False)] = sizes
    return effect


def written(world: World) -> str:
    """A world as YAML: one line an element, one column a trait."""
    content = {
        "seed": world.seed,
        "noise": world.noise,
        "traits": list(TRAITS),
        "baseline": world.baseline.tolist(),
        "effects": {f.key: {e.key: world.effects[f.key, e.key].tolist() for e in f.elements} for f in load_factors()},
        "pressures": {key: value.tolist() for key, value in world.pressures.items()},
    }
    header = (
        "# The planted causes, in log-odds of a high answer. Drawn at random from the seed by\n"
        "# `python -m personalib organism world`: stipulated, not claims about people.\n"
    )
    return header + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def load_world(path: Path | None = None) -> World:
    """Read a world, by default the committed ``data/organism/world.yaml``.

    A trait, element or pressure that is missing or unknown is a DataError.
    """
    source = path or data_dir() / "organism" / "world.yaml"
    content = parse(_Written, read_yaml(source), f"{source}: not a world file; draw one with `organism world`")
    effects = {
        (factor, element): np.array(values)
        for factor, by_element in content.effects.items()
        for element, values in by_element.items()
    }
    pressures = {key: np.array(values) for key, values in content.pressures.items()}
    expected = (TRAITS, {(each.factor, each.key) for each in elements()}, {each.key for each in load_pressures()})
    if (content.traits, set(effects), set(pressures)) != expected:
        raise DataError(f"{source}: its traits, elements or pressures differ from data/stimuli; draw it again")
    return World(content.seed, content.noise, np.array(content.baseline), effects, pressures)


def effect_similarity(world: World) -> pd.DataFrame:
    """The cosine of what any two background elements do to the traits, a symmetric table by ``factor.element``."""
    names = [".".join(pair) for pair in world.effects]
    effects = np.array(list(world.effects.values()))
    units = effects / np.linalg.norm(effects, axis=1, keepdims=True)
    return pd.DataFrame(units @ units.T, index=names, columns=names)


def planted_effects(world: World, family: str) -> pd.DataFrame:
    """What the positive pole of each contrast does to the traits in a world, against its negative pole.

    The negative pole of an element is the mean of the others of its factor.

    Returns:
        In log-odds, a row for each key of :func:`personalib.stimuli.contrast_pairs.contrasts` and a column for each
        trait. A family that is neither pressures nor elements is a ValueError.
    """
    if _planted(family) == "pressures":
        rows = {key: 2 * effect for key, effect in world.pressures.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(TRAITS))
    effects = pd.DataFrame(list(world.effects.values()), map(".".join, world.effects), list(TRAITS))
    by_factor = effects.groupby([factor for factor, _ in world.effects])
    others = by_factor.transform("count") - 1
    return effects - (by_factor.transform("sum") - effects) / others


def planted_changes(world: World, family: str) -> pd.DataFrame:
    """How much likelier a person who is told to be of a pole is to answer high than one who is told nothing.

    This is what a push toward the pole, or telling it, ought to do. Of pressures both poles are planted, of elements
    the positive one alone; another family is a ValueError.

    Returns:
        One row a key of :func:`personalib.stimuli.contrast_pairs.contrasts`, pole and trait: ``key``, ``pole``,
        ``group`` (the trait), and ``truth`` in points of 100 · p(high).
    """
    if _planted(family) == "pressures":
        profiles = {(key, pole): Profile(pressure=(key, pole)) for key in world.pressures for pole in POLES}
    else:
        profiles = {(f"{factor}.{key}", POLES[0]): Profile({factor: key}) for factor, key in world.effects}
    nobody = world.probability(Profile())
    changes = {names: 100 * (world.probability(profile) - nobody) for names, profile in profiles.items()}
    table = pd.DataFrame.from_dict(changes, orient="index", columns=pd.Index(TRAITS, name="group"))
    table.index = pd.MultiIndex.from_tuples(changes, names=["key", "pole"])
    return table.stack().rename("truth").reset_index()


def _planted(family: str) -> str:
    if family not in ("pressures", "elements"):
        raise ValueError(f"nothing of the family {family!r} is planted; choose pressures or elements")
    return family
