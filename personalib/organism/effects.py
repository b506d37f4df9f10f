"""What telling the organism about a person does to its answers, against telling it nothing.

This is the *prompt baseline*: whatever a direction or a feature is claimed to do, a plain sentence does it too.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from personalib.base.statistics import paired_difference
from personalib.organism.evaluation import Asked, Organism, answered, ask_people
from personalib.organism.world import Profile, World
from personalib.questionnaires.items import TraitItem
from personalib.stimuli.factors import POLES, TRAITS


def told_effects(
    organism: Organism,
    items: Sequence[TraitItem],
    profiles: Mapping[str, Profile],
    *,
    seed: int = 0,
    template: str = "letters",
    form: str = "chat",
    progress: str | None = None,
) -> pd.DataFrame:
    """Put items to persons of each profile and to nobody in particular, and compare item by item.

    Each item is put with a held-out phrasing of its own, so that the intervals cover the choice of phrasings.

    Args:
        organism: who is asked.
        items: trait items.
        profiles: what is told, by name.
        seed: draws the phrasings.
        template: the items' template.
        form: ``"chat"`` or ``"base"``.
        progress: text of a progress bar; None shows none.

    Returns:
        The rows of :func:`compare`.
    """
    corpus, rng = organism.held_out(), np.random.default_rng([seed, 5])
    contexts = {name: [corpus.context(profile, rng) for _ in items] for name, profile in profiles.items()}
    return compare(organism, items, profiles, contexts, template=template, form=form, progress=progress)


def compare(
    organism: Organism,
    items: Sequence[TraitItem],
    profiles: Mapping[str, Profile],
    contexts: Mapping[str, Sequence[str]],
    *,
    template: str = "letters",
    form: str = "chat",
    progress: str | None = None,
) -> pd.DataFrame:
    """The same with given texts: for each name one text an item.

    Returns:
        One row a name and trait, all in points of 100 · p(high): ``effect``, the mean difference between being told
        and not being told, with ``low``, ``high`` and ``p`` (:func:`personalib.base.comparisons.paired_difference`);
        ``truth``, the world's difference; ``n``, the items that could be read both times.
    """
    told = {"": (Profile(), [""] * len(items))} | {name: (profiles[name], contexts[name]) for name in profiles}
    asked = [
        Asked(item, profile, text, form)
        for profile, texts in told.values()
        for item, text in zip(items, texts, strict=True)
    ]
    units = answered(ask_people(organism, asked, template, progress))
    units["name"] = [list(told)[number // len(items)] for number in units["context_id"]]
    changes = {
        name: organism.world.probability(profile) - organism.world.probability(Profile())
        for name, profile in profiles.items()
    }
    by_name = dict(list(units.groupby("name", sort=False)))
    return pd.DataFrame(
        [
            {"name": name, "personality": trait, **_difference(by_name[name], by_name[""], trait), "truth": 100 * truth}
            for name, change in changes.items()
            for trait, truth in zip(TRAITS, change, strict=True)
            if trait in set(by_name[""]["personality"])
        ]
    )


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

    This is what a push toward the pole ought to do, and what :func:`told_effects` has under ``truth``. Of pressures
    both poles are planted, of elements the positive one alone.

    Returns:
        One row a key of :func:`personalib.stimuli.contrast_pairs.contrasts`, pole and trait: ``key``, ``pole``,
        ``trait``, and ``truth`` in points of 100 · p(high).

    Raises:
        ValueError: nothing of that family is planted; pressures and elements are.
    """
    if _planted(family) == "pressures":
        profiles = {(key, pole): Profile(pressure=(key, pole)) for key in world.pressures for pole in POLES}
    else:
        profiles = {(f"{factor}.{key}", POLES[0]): Profile({factor: key}) for factor, key in world.effects}
    nobody = world.probability(Profile())
    changes = {names: 100 * (world.probability(profile) - nobody) for names, profile in profiles.items()}
    table = pd.DataFrame.from_dict(changes, orient="index", columns=pd.Index(TRAITS, name="trait"))
    table.index = pd.MultiIndex.from_tuples(changes, names=["key", "pole"])
    return table.stack().rename("truth").reset_index()


def _planted(family: str) -> str:
    if family not in ("pressures", "elements"):
        raise ValueError(f"nothing of the family {family!r} is planted; choose pressures or elements")
    return family


def _difference(told: pd.DataFrame, nobody: pd.DataFrame, trait: str) -> dict[str, float]:
    """The mean difference in a trait between two conditions, over the items that could be read in both."""
    both = (
        told[told["personality"] == trait].merge(nobody, on=["personality", "idx"]).dropna(subset=["high_x", "high_y"])
    )
    if len(both) < 2:
        return {"effect": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "n": len(both)}
    found = paired_difference(100 * both["high_x"], 100 * both["high_y"])
    return {"effect": found.estimate, "low": found.low, "high": found.high, "p": found.p, "n": len(both)}
