"""What is planted in a world: how alike its causes are, and what each does to the traits."""

import numpy as np
import pandas as pd

from personalib.organism.world import Profile, World
from personalib.stimuli.factors import POLES, TRAITS


def effect_similarity(world: World) -> pd.DataFrame:
    """How alike what two background elements do to the traits is in a world.

    Returns:
        The cosine of their effects in log-odds, a symmetric table by ``factor.element``.
    """
    names = [".".join(pair) for pair in world.effects]
    effects = np.array(list(world.effects.values()))
    units = effects / np.linalg.norm(effects, axis=1, keepdims=True)
    return pd.DataFrame(units @ units.T, index=names, columns=names)


def planted_effects(world: World, family: str) -> pd.DataFrame:
    """What the positive pole of each contrast does to the traits in a world, against its negative pole.

    The negative pole of an element is the mean of the others of its factor.

    Returns:
        In log-odds, a row for each key of :func:`personalib.stimuli.contrast_pairs.contrasts` and a column for each
        trait.

    Raises:
        ValueError: nothing of that family is planted; pressures and elements are.
    """
    if _planted(family) == "pressures":
        rows = {key: 2 * effect for key, effect in world.pressures.items()}
    else:
        rows = {
            f"{factor}.{key}": effect
            - np.mean([other for (of, name), other in world.effects.items() if of == factor and name != key], axis=0)
            for (factor, key), effect in world.effects.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(TRAITS))


def planted_changes(world: World, family: str) -> pd.DataFrame:
    """How much likelier a person who is told to be of a pole is to answer high than one who is told nothing.

    This is what a push toward the pole, or telling it, ought to do. Of pressures both poles are planted, of elements
    the positive one alone.

    Returns:
        One row a key of :func:`personalib.stimuli.contrast_pairs.contrasts`, pole and trait: ``key``, ``pole``,
        ``group`` (the trait), and ``truth`` in points of 100 · p(high).

    Raises:
        ValueError: nothing of that family is planted; pressures and elements are.
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
