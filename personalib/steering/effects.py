"""What steering does to trait scores: the arms of an experiment, their effects with intervals, and their guards.

Every arm is compared with no steering on the same items. What belongs beside an effect (points 1 to 4 of what the book
counts as evidence) comes with it: interval, p-value, answer mass, perplexity, and whether the model has collapsed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, adjust, clustered_rank_correlation, paired_means
from personalib.models.parts import Site
from personalib.steering.contrast_choice import TraitSheet, shuffled
from personalib.steering.controls import dealt, random_directions
from personalib.steering.doses import at_dose
from personalib.steering.grid import ask_steered
from personalib.steering.guards import Guard, neutral_exchanges, perplexities, perplexity_of_each
from personalib.steering.interventions import Add, Condition, Positions
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES, TRAITS
from personalib.vectors.vector import SteeringVector

Array = NDArray[np.float64]
RANDOM = "random"
# Changes of an item below this many points are rounding of float32 arithmetic, and no change.
_ROUNDING = 1e-3
Vectors = Mapping[str, SteeringVector]


@dataclass(frozen=True)
class Arm:
    """One condition of an experiment.

    Attributes:
        method: what kind of steering it is, such as ``"sae"``, ``"prompt"`` or ``"random"``.
        key: what it stands for, such as ``"gender.female"``.
        condition: the interventions; none for what is only told.
        contexts: texts that are told before the question, of which each item gets the next in turn; none for what is
            only steered.
        dose: the length of what is added as a share of the residual stream's, with its sign.
        pole: the pole that it pushes toward, ``"positive"`` or ``"negative"``.
    """

    method: str
    key: str
    condition: Condition = ()
    contexts: tuple[str, ...] = ()
    dose: float = np.nan
    pole: str = "positive"


@dataclass(frozen=True)
class Push:
    """Where and how hard.

    Attributes:
        site: where.
        dose: the length of what is added as a share of the norm.
        norm: the typical length of the residual stream there; see :func:`~personalib.steering.doses.site_norms`.
        positions: at which tokens.
    """

    site: Site
    dose: float
    norm: float
    positions: Positions = "prompt"

    def arms(self, method: str, vectors: Vectors, pole: str = "positive") -> list[Arm]:
        """One arm a vector; the negative pole is pushed toward by the opposite.

        Raises:
            ValueError: a vector stands at another site, or is zero.
        """
        for one in vectors.values():
            if one.site != self.site:
                raise ValueError(f"{one.name} stands at {one.site}, and the push is made at {self.site}")
        dose = self.dose if pole == "positive" else -self.dose
        return [
            Arm(method, key, (Add(at_dose(one, dose, self.norm), 1.0, self.positions),), dose=dose, pole=pole)
            for key, one in vectors.items()
        ]


@dataclass(frozen=True)
class _Answers:
    """What one arm answered: the share of high options by item, its answer mass, and its neutral perplexity."""

    shares: Array
    mass: float
    perplexity: float


def measure(
    sheet: TraitSheet,
    arms: Sequence[Arm],
    guard: Guard | None = None,
    *,
    neutral: int = 12,
    seed: int = 0,
    batch_size: int = 64,
    progress: str | None = None,
) -> pd.DataFrame:
    """The effect of each arm on each trait, with its interval, and how healthy the model is under it.

    Args:
        sheet: the items.
        arms: what is tried.
        guard: from where on an arm counts as collapsed.
        neutral: questions of general knowledge whose answers' perplexity is measured.
        seed: draws the neutral questions.
        batch_size: rows of a forward pass.
        progress: text of a progress bar; None shows none.

    Returns:
        One row an arm and trait: ``arm`` (its place), ``method``, ``key``, ``pole``, ``dose``, ``trait``; ``effect``,
        the mean change of 100 · p(high) over items, from ``low`` to ``high`` (95 %) and with the ``p`` of no change,
        both by Student's paired t over the items, since resampling a handful of items gives intervals that are too
        narrow; ``p_adjusted`` for all comparisons of one method by Benjamini and Hochberg; ``n`` items read with and
        without, ``missing`` ones; ``mass`` and ``perplexity`` in units of the unsteered model's; and ``collapsed``.

    Raises:
        ValueError: there are no arms, or the unsteered model gives the options no probability at all; or see
            :func:`~personalib.steering.grid.ask_steered`.
    """
    if not arms:
        raise ValueError("there are no arms to measure; pass at least one")
    guard, everything = guard or Guard(), [Arm("none", "none"), *arms]
    base, *answers = _answers(sheet, everything, neutral, seed, batch_size, progress)
    if not base.mass > 0 or not np.isfinite(base.perplexity):
        raise ValueError(
            f"{sheet.language_model.name} gives the options no probability, even without steering, or NaN; "
            "try another template, form='base', or, where it is in float16, another number format"
        )
    changes = 100 * np.array([own.shares - base.shares for own in answers])
    changes[np.abs(changes) < _ROUNDING] = 0.0
    parts = []
    for trait in TRAITS:
        items = sheet.traits == trait
        if items.any():
            parts.append(_trait_effects(arms, changes[:, items]).assign(trait=trait, arm=range(len(arms))))
    found = pd.concat(parts).sort_values("arm", kind="stable").reset_index(drop=True)
    health = pd.DataFrame(
        {"mass": own.mass / base.mass, "perplexity": own.perplexity / base.perplexity} for own in answers
    )
    health["collapsed"] = guard.collapsed(health["mass"].to_numpy(), health["perplexity"].to_numpy())
    found = found.join(health, on="arm")
    known = found["p"].notna()
    found.loc[known, "p_adjusted"] = found[known].groupby("method")["p"].transform(lambda own: adjust(own, "fdr_bh"))
    return found


def sound(effects: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Measured effects beside others of the same thing, such as the true ones; what has collapsed is left out.

    Args:
        effects: rows of :func:`measure`.
        reference: ``key``, ``pole``, ``trait`` and a column with the other effects.
    """
    known = effects[~effects["collapsed"]].dropna(subset=["effect"])
    return known.merge(reference, on=["key", "pole", "trait"], validate="many_to_one")


def truth_correlation(effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> Interval:
    """Spearman's correlation of measured effects with true ones, resampling what was pushed.

    Elements of one factor are each other's opposites and no independent evidence, so whole factors are resampled.

    Args:
        effects: rows of :func:`measure` of one method. Collapsed arms are left out.
        truth: the true effects: ``key``, ``pole``, ``trait`` and ``truth``, in any unit, since only their order counts.
        seed: of the bootstrap.

    Returns:
        Missing where fewer than two keys are left, or where all of their effects, measured or true, are the same.
    """
    both = sound(effects, truth)
    if both["key"].nunique() < 2 or both[["truth", "effect"]].nunique().min() < 2:
        return Interval(np.nan, np.nan, np.nan)
    return clustered_rank_correlation(both["truth"], both["effect"], both["key"].map(cluster), seed=seed)


def truth_difference(
    one: pd.DataFrame, other: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """How much better one method's effects correlate with the true ones than another's, on what both could be read on.

    Args:
        one: rows of :func:`measure` of a method.
        other: those of another.
        truth: as for :func:`truth_correlation`.
        resamples: of the bootstrap, which draws the same factors or pressures for both.
        seed: of its random generator.

    Raises:
        ValueError: fewer than two factors or pressures are left, or a method has several doses.
    """
    own, others, names = sound(one, truth), sound(other, truth), ["key", "pole", "trait", "truth"]
    if own.duplicated(names).any() or others.duplicated(names).any():
        raise ValueError("a key has several effects on one trait; compare one dose of each method")
    both = own.merge(others, on=names, suffixes=("", "_other"))
    groups = [own for _, own in both.groupby(both["key"].map(cluster))]
    if len(groups) < 2:
        raise ValueError("fewer than two factors or pressures are left to compare the methods on")

    def difference(table: pd.DataFrame) -> float:
        ranks = table[["truth", "effect", "effect_other"]].rank()
        return float(ranks["truth"].corr(ranks["effect"]) - ranks["truth"].corr(ranks["effect_other"]))

    drawn = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    found = [difference(pd.concat([groups[number] for number in numbers])) for numbers in drawn]
    # A draw in which every true effect is the same has no correlation.
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Interval(difference(both), float(low), float(high))


def rank_ceiling(truth: pd.DataFrame) -> float:
    """Spearman's correlation that a method would reach whose effects have the true order, with none the same.

    It is below one where many true effects are the same, such as zero: measured ones never are.

    Args:
        truth: as for :func:`truth_correlation`.
    """
    values = truth["truth"].to_numpy(dtype=float)
    # Whatever the order of the tied ones, they have the same mean rank.
    untied = np.empty(len(values))
    untied[np.argsort(values, kind="stable")] = np.arange(len(values))
    return float(stats.spearmanr(values, untied).statistic)


def cluster(key: str) -> str:
    """What a key is no independent evidence beside: the factor of an element, and a pressure itself."""
    return key.split(".")[0]


def random_correlation(effects: pd.DataFrame, truth: pd.DataFrame, deals: int = 500, seed: int = 0) -> Interval:
    """What random directions would come to: each is dealt to one key, as if it stood for that, many times.

    Args:
        effects: rows of :func:`measure` of random directions, each with a key of its own.
        truth: as for :func:`truth_correlation`; positive poles alone are looked at.
        deals: how often the directions are dealt.
        seed: of the deals.

    Returns:
        The mean of Spearman's correlation over deals, and the middle 95 % of them.

    Raises:
        ValueError: no direction is left that could be read.
    """
    known = effects[~effects["collapsed"]].pivot(index="key", columns="trait", values="effect")
    # A trait that no direction could be read on is missing for all; a direction that is partly unread is left out.
    known = known.dropna(axis=1, how="all").dropna()
    if known.empty:
        raise ValueError("every random direction has collapsed or could not be read; take a lower dose")
    true = truth[truth["pole"] == POLES[0]].pivot(index="key", columns="trait", values="truth")[list(known.columns)]
    rng, values, keys = np.random.default_rng([seed, 37]), known.to_numpy(), list(true.index)
    found = []
    for _ in range(deals):
        places = list(dealt(len(values), keys, rng).values())
        found.append(float(stats.spearmanr(true.to_numpy().ravel(), values[places].ravel()).statistic))
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(np.mean(found)), float(low), float(high))


def told_arms(contrasts: Sequence[Contrast], split: str, poles: Sequence[str] = POLES[:1]) -> list[Arm]:
    """The prompt baseline: the same things told in words of one split."""
    return [
        Arm(
            "prompt",
            one.key,
            contexts=tuple(wording.text for wording in shuffled(one.wordings[pole, split])),
            pole=pole,
        )
        for one in contrasts
        for pole in poles
    ]


def random_arms(push: Push, like: SteeringVector, count: int = 22, seed: int = 0) -> list[Arm]:
    """Random directions at a push, each under a key of its own."""
    return push.arms(RANDOM, {one.name: one for one in random_directions(like, count, seed)})


def _answers(
    sheet: TraitSheet, arms: Sequence[Arm], neutral: int, seed: int, batch_size: int, progress: str | None
) -> list[_Answers]:
    """What each arm answers, in the order of the arms."""
    model = sheet.language_model
    steered = [number for number, arm in enumerate(arms) if not arm.contexts]
    conditions = [arms[number].condition for number in steered]
    answers = ask_steered(model, sheet.prompts(), sheet.labels, conditions, batch_size=batch_size, progress=progress)
    plain = neutral_exchanges(model, neutral, seed=seed, form=sheet.form)
    surprise = perplexities(model, plain, conditions, batch_size=max(1, batch_size // 4))
    found = {number: _read(sheet, *own) for number, *own in zip(steered, answers, surprise, strict=True)}
    told = [number for number, arm in enumerate(arms) if arm.contexts]
    # What is only told is asked all at once: each arm by itself would leave batches half empty.
    only = [number for number in told if not arms[number].condition]
    for group in ([only] if only else []) + [[number] for number in told if number not in only]:
        found |= zip(
            group, _told(sheet, [arms[number] for number in group], neutral, seed, batch_size, progress), strict=True
        )
    return [found[number] for number in range(len(arms))]


def _told(
    sheet: TraitSheet, arms: Sequence[Arm], neutral: int, seed: int, batch_size: int, progress: str | None
) -> list[_Answers]:
    """What the model answers when it is told what each of some arms tells, all of them under the first's condition."""
    model, condition = sheet.language_model, arms[0].condition
    prompts = [prompt for arm in arms for prompt in sheet.prompts(arm.contexts)]
    told = progress and f"{progress}, told"
    [answers] = ask_steered(model, prompts, sheet.labels, [condition], batch_size=batch_size, progress=told)
    exchanges = [neutral_exchanges(model, neutral, seed=seed, form=sheet.form, contexts=arm.contexts) for arm in arms]
    surprise = perplexity_of_each(model, exchanges, condition, batch_size=max(1, batch_size // 4))
    return [_read(sheet, *own) for own in zip(np.split(answers, len(arms)), surprise, strict=True)]


def _read(sheet: TraitSheet, answers: Array, perplexity: float) -> _Answers:
    return _Answers(sheet.shares(answers), float(np.nansum(answers, 1).mean()), float(perplexity))


def _trait_effects(arms: Sequence[Arm], changes: Array) -> pd.DataFrame:
    """Mean changes of shape ``(arms, items)``, with bounds and p-values of Student's paired t."""
    found = paired_means(changes)
    return pd.DataFrame(
        {
            "method": [arm.method for arm in arms],
            "key": [arm.key for arm in arms],
            "pole": [arm.pole for arm in arms],
            "dose": [arm.dose for arm in arms],
            "effect": found.estimate,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "n": found.n,
            "missing": changes.shape[1] - found.n,
        }
    )
