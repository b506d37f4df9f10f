"""Steering of a whole family: chosen on some items, measured on others, compared with truth and controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from personalib.base.statistics import Interval
from personalib.features.report import SPLITS, read_elements
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import score_features
from personalib.features.vectors import feature_vector, prompt_features
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.steering.choice import PushChoice, choose_push, told_effects
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.doses import site_norms
from personalib.steering.effects import (
    RANDOM,
    Vectors,
    measure,
    random_arms,
    random_correlation,
    rank_ceiling,
    told_arms,
    truth_correlation,
)
from personalib.steering.guards import Guard
from personalib.steering.interventions import Positions
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES
from personalib.stimuli.sentences import NEUTRAL, element_texts
from personalib.vectors.contrast import Halves, all_sites, fit_vector, read_contrasts
from personalib.vectors.methods import DEFAULT_METHOD
from personalib.vectors.vector import SteeringVector

STEERING_GOAL = 0.80


@dataclass(frozen=True)
class Study:
    """A family of contrasts on one model, with everything that a choice needs and no evaluation sees.

    Attributes:
        language_model: the model.
        contrasts: the family.
        readings: what the model has where prompts end, by contrast and split.
        sheet: items to choose by.
        norms: the residual stream's typical length by site.
        told: what telling does on these items.
    """

    language_model: LanguageModel
    contrasts: Sequence[Contrast]
    readings: Mapping[str, Halves]
    sheet: TraitSheet
    norms: Mapping[Site, float]
    told: pd.DataFrame

    @classmethod
    def read(
        cls,
        language_model: LanguageModel,
        contrasts: Sequence[Contrast],
        sheet: TraitSheet,
        folder: Path,
        *,
        sites: Sequence[Site] | None = None,
        pairs: int = 64,
        seed: int = 0,
        progress: str | None = None,
    ) -> "Study":
        """Let a model read the family's contrast pairs and the sheet's prompts.

        Args:
            language_model: the model.
            contrasts: of one family; elements have no negative pole to be told, so that of pressures alone is asked.
            sheet: items that no evaluation uses.
            folder: where activations go.
            sites: where to look; what every block but the last leaves, by default.
            pairs: contrast pairs of each contrast and split.
            seed: draws the pairs.
            progress: text of a progress bar; None shows none.
        """
        where = list(sites or all_sites(language_model)[:-1])
        readings = read_contrasts(
            language_model, contrasts, where, folder, count=pairs, seed=seed, form=sheet.form, progress=progress
        )
        norms = site_norms(language_model, sheet.prompts(), where, folder / "norms")
        return cls(language_model, contrasts, readings, sheet, norms, told_effects(sheet, contrasts, poles(contrasts)))

    def contrast_vectors(self, site: Site, method: str = DEFAULT_METHOD) -> dict[str, SteeringVector]:
        """The family's contrast vectors at a site (RepE), by key."""
        return {key: fit_vector(own["train"], site, method) for key, own in self.readings.items()}

    def prompt_feature_vectors(self, sae: SparseAutoencoder, count: int = 1, **how: Any) -> dict[str, SteeringVector]:
        """By key the features that the poles differ in most where a prompt ends.

        Args:
            sae: the SAE.
            count: features of each.
            how: pole and criterion, as for :func:`~personalib.features.vectors.prompt_features`.
        """
        return {
            key: feature_vector(sae, prompt_features(sae, own["train"], count, **how), self.language_model, key)
            for key, own in self.readings.items()
        }


def poles(contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """The poles that stand for something themselves: an element's negative one is just the others of its factor."""
    return POLES[:1] if contrasts[0].family == "elements" else POLES


def sentence_feature_vectors(
    language_model: LanguageModel,
    saes: Mapping[str, SparseAutoencoder],
    folder: Path,
    *,
    per_element: int = 60,
    criterion: str = "auroc",
    seed: int = 0,
) -> dict[str, Vectors]:
    """By SAE and element the feature that is found in sentences that tell the element, as the paper has it.

    The best one by a criterion on the texts of the search, found to be specific or not.

    Args:
        language_model: the model.
        saes: its SAEs, by name.
        folder: where activations go.
        per_element: sentences of each element and split.
        criterion: one of ``CRITERIA`` of :mod:`personalib.features.scores`.
        seed: draws them.
    """
    texts = {split: element_texts(split, per_element, seed) for split in SPLITS}
    read = read_elements(language_model, texts, list(saes.values()), folder)
    found: dict[str, Vectors] = {}
    for name, sae in saes.items():
        pooled = read.features(sae)["train"]
        labels = [label for label in pooled.texts.classes if label != NEUTRAL]
        scores = score_features(pooled.pooled, pooled.texts.members(labels))
        # Where several are perfect, the one that tells the element loudest.
        order = zip(scores.criterion(criterion), scores.mean_difference, strict=True)
        best = [int(np.lexsort((-loud, -first))[0]) for first, loud in order]
        found[name] = {
            ".".join(label): feature_vector(sae, [own], language_model, ".".join(label))
            for label, own in zip(labels, best, strict=True)
        }
    return found


def report(  # noqa: PLR0913 - each argument is one choice in what is reported
    study: Study,
    sheet: TraitSheet,
    saes: Mapping[str, SparseAutoencoder],
    folder: Path,
    *,
    positions: Sequence[Positions] = ("last", "prompt", "prompt_except_last"),
    doses: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    guard: Guard | None = None,
    randoms: int = 22,
    truth: pd.DataFrame | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The effects of SAE features, contrast vectors, words and random directions on items that chose nothing.

    Args:
        study: of the family.
        sheet: the items to measure on.
        saes: the model's SAEs, by name; their sites have to be among the study's.
        folder: where activations go.
        positions: which positions are tried.
        doses: which doses.
        guard: from where on an arm counts as collapsed.
        randoms: how many random directions, at the push of the contrast vectors.
        truth: the planted effects, ``key``, ``pole``, ``trait`` and ``truth``, where they are known.
        seed: of everything drawn.

    Returns:
        A value that JSON can hold, and the rows of :func:`~personalib.steering.effects.measure`. ``truth_correlation``
        is Spearman's with the planted effects; it is missing for a model whose truth nobody knows. It cannot exceed
        ``ceiling``, since many planted effects are the same. Beside it stands ``told_correlation``, with the effects of
        telling, measured on the same items: what chance does to an item is in both, so it is a little high.

    Raises:
        ValueError: an SAE reads a site that is not the study's; or see :func:`~personalib.steering.choice.choose_push`.
    """
    for sae in saes.values():
        if sae.site not in study.norms:
            known = ", ".join(map(str, study.norms))
            raise ValueError(f"{sae.name} reads {sae.site}, and the study {known}; let it read that site, too")
    how: dict[str, Any] = {"positions": positions, "doses": doses, "guard": guard}
    sources: dict[str, Mapping[str, Vectors]] = {
        "repe": {str(site): study.contrast_vectors(site) for site in study.norms},
    }
    if saes:
        sources["sae"] = {name: study.prompt_feature_vectors(sae) for name, sae in saes.items()}
    if saes and study.contrasts[0].family == "elements":
        found = sentence_feature_vectors(study.language_model, saes, folder, seed=seed)
        sources["sae_sentences"] = {
            name: {key: vector for key, vector in own.items() if key in study.readings} for name, own in found.items()
        }
    chosen = {
        method: choose_push(study.sheet, own, study.told, study.norms, progress=method, **how)
        for method, own in sources.items()
    }
    vectors = {method: sources[method][choice.source] for method, choice in chosen.items()}
    arms = [
        arm
        for method, choice in chosen.items()
        for pole in poles(study.contrasts)
        for arm in choice.push.arms(method, vectors[method], pole)
    ]
    arms += told_arms(study.contrasts, "held_out", poles(study.contrasts))
    arms += random_arms(chosen["repe"].push, next(iter(vectors["repe"].values())), randoms, seed)
    effects = measure(sheet, arms, guard, seed=seed, progress="answers")
    return _summary(study, chosen, effects, truth, seed) | {"items": len(sheet.traits)}, effects


def _summary(
    study: Study, chosen: Mapping[str, PushChoice], effects: pd.DataFrame, truth: pd.DataFrame | None, seed: int
) -> dict[str, Any]:
    """The report as plain values."""
    family = study.contrasts[0].family
    told = effects[effects["method"] == "prompt"][["key", "pole", "trait", "effect"]].rename(
        columns={"effect": "truth"}
    )
    # Telling is what the others are compared with here, and agrees with itself.
    steering = {"told": correlations(effects[effects["method"] != "prompt"], told, seed)}
    if truth is not None:
        truth = truth[truth["key"].isin(study.readings)]
        steering["truth"] = correlations(effects, truth, seed)
    groups = dict(list(effects.groupby("method", sort=False)))
    found: dict[str, Any] = {"family": family, "keys": len(study.contrasts)}
    found["ceiling"] = None if truth is None else rank_ceiling(truth)
    for name in ("truth", "told"):
        own = steering.get(name, {})
        found[f"{name}_correlation"] = {method: _known(one.estimate) for method, one in own.items()} or None
        found[f"{name}_interval"] = {method: [_known(one.low), _known(one.high)] for method, one in own.items()} or None
    found["significant"] = {method: float((own["p_adjusted"] < 0.05).mean()) for method, own in groups.items()}
    found["collapsed"] = {method: float(own["collapsed"].mean()) for method, own in groups.items()}
    found["mass"] = {method: _known(own["mass"].min()) for method, own in groups.items()}
    found["perplexity"] = {method: _known(own["perplexity"].max(skipna=False)) for method, own in groups.items()}
    found["push"] = {
        method: {"source": one.source, "positions": one.push.positions, "dose": one.push.dose}
        for method, one in chosen.items()
    }
    return found


def _known(value: float) -> float | None:
    """A number for JSON, which has none for a missing one."""
    return float(value) if np.isfinite(value) else None


def correlations(effects: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> dict[str, Interval]:
    """Spearman's correlation with other effects, by method; see :mod:`personalib.steering.effects`.

    Args:
        effects: rows of :func:`~personalib.steering.effects.measure`.
        truth: ``key``, ``pole``, ``trait`` and ``truth``.
        seed: of bootstrap and deals.
    """
    found = {}
    for method, own in effects.groupby("method", sort=False):
        if method != RANDOM:
            found[str(method)] = truth_correlation(own, truth, seed)
            continue
        try:
            found[RANDOM] = random_correlation(own, truth, seed=seed)
        except ValueError:
            # None is left that could be read.
            found[RANDOM] = Interval(np.nan, np.nan, np.nan)
    return found
