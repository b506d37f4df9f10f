"""Studies: a family of contrasts on one model, with everything that the choice of a push needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from personalib.evaluation.agreement import NAMES, cluster
from personalib.evaluation.arms import prompted_arms
from personalib.evaluation.ask import evaluate, prompts
from personalib.evaluation.estimates import ALL, effects, item_effects
from personalib.features.discovery import pool_features
from personalib.features.saes import SparseAutoencoder
from personalib.features.vectors import best_features, feature_vector, prompt_features
from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.questionnaires.questions import Questionnaire
from personalib.steering.doses import site_norms
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES
from personalib.vectors.contrast import Halves, all_sites, fit_vector, read_contrasts
from personalib.vectors.contrast import prompts as pair_prompts
from personalib.vectors.methods import DEFAULT_METHOD
from personalib.vectors.vector import SteeringVector


@dataclass(frozen=True)
class Study:
    """A family of contrasts on one model, with everything that a choice needs and no evaluation sees.

    Attributes:
        readings: what the model has where prompts end, by contrast and split.
        questionnaire: to choose by, of items that no evaluation uses.
        norms: the residual stream's typical length by site.
        prompted: what saying it does there, see :func:`prompted_effects`.
        form: ``"chat"`` or ``"base"``.
    """

    language_model: LanguageModel
    contrasts: Sequence[Contrast]
    readings: Mapping[str, Halves]
    questionnaire: Questionnaire
    norms: Mapping[Site, float]
    prompted: pd.DataFrame
    form: str

    @classmethod
    def read(
        cls,
        language_model: LanguageModel,
        contrasts: Sequence[Contrast],
        questionnaire: Questionnaire,
        folder: Path,
        *,
        sites: Sequence[Site] | None = None,
        form: str | None = None,
        pairs: int = 64,
        **how: Any,
    ) -> "Study":
        """Let a model read the family's contrast pairs and the questionnaire's prompts, with activations in a folder.

        By default it is looked at what every block but the last leaves. ``seed``, ``position`` and ``progress`` are
        those of :func:`~personalib.vectors.contrast.read_contrasts`.
        """
        where, form = list(sites or all_sites(language_model)[:-1]), form or language_model.form
        readings = read_contrasts(language_model, contrasts, where, folder, count=pairs, form=form, **how)
        norms = site_norms(language_model, prompts(language_model, questionnaire, form), where, folder / "norms")
        prompted = prompted_effects(language_model, questionnaire, contrasts, form=form)
        return cls(language_model, contrasts, readings, questionnaire, norms, prompted, form)

    @property
    def poles(self) -> Sequence[str]:
        """See :func:`told_poles`."""
        return told_poles(self.contrasts)

    def contrast_vectors(self, site: Site, method: str = DEFAULT_METHOD) -> dict[str, SteeringVector]:
        """The family's contrast vectors at a site (RepE), by key."""
        return {key: fit_vector(halves["train"], site, method) for key, halves in self.readings.items()}

    def dealt_vectors(self, site: Site, seed: int = 0) -> dict[str, SteeringVector]:
        """Directions between two halves of each pole's phrases, drawn by lot: nothing of the poles is left in them."""
        rng, found = np.random.default_rng([seed, 43]), {}
        for key, vector in self.contrast_vectors(site).items():
            values = np.zeros(len(vector.direction), dtype=np.float32)
            read = self.readings[key]["train"]
            for rows, phrases in zip(read.at(site), read.phrases.T, strict=True):
                high = np.isin(phrases, rng.permutation(np.unique(phrases))[::2])
                values += rows[high].mean(0) - rows[~high].mean(0)
            found[key] = replace(vector, direction=torch.from_numpy(values), method="dealt phrases")
        return found

    def prompt_feature_vectors(self, sae: SparseAutoencoder, count: int = 1, **how: Any) -> dict[str, SteeringVector]:
        """By key the features that poles differ in most, see :func:`~personalib.features.vectors.prompt_features`."""
        return {
            key: feature_vector(sae, prompt_features(sae, halves["train"], count, **how), self.language_model, key)
            for key, halves in self.readings.items()
        }


def told_poles(contrasts: Sequence[Contrast]) -> Sequence[str]:
    """The poles that stand for something themselves: an element's negative one is just the others of its factor."""
    return POLES[:1] if contrasts[0].family == "elements" else POLES


def prompted_effects(
    language_model: LanguageModel,
    questionnaire: Questionnaire,
    contrasts: Sequence[Contrast],
    poles: Sequence[str] = (),
    *,
    split: str = "train",
    form: str | None = None,
    by_item: bool = False,
) -> pd.DataFrame:
    """What saying it does in words of one split, of the poles that stand for something themselves by default.

    Returns:
        One row a contrast, pole and group, with ``by_item`` also an ``item``: ``key``, ``pole``, ``group``, and
        ``prompted`` in points.
    """
    arms = prompted_arms(contrasts, split, poles or told_poles(contrasts))
    answers = evaluate(language_model, questionnaire, arms, form=form, neutral=0)
    found = item_effects(answers) if by_item else effects(answers)
    columns = [*NAMES, *found.columns.intersection(["item"]), "effect"]
    return found.loc[found["group"] != ALL, columns].rename(columns={"effect": "prompted"})


def searched_vectors(
    study: Study,
    sae: SparseAutoencoder,
    folder: Path,
    *,
    text: Literal["sentences", "prompts"] = "sentences",
    place: Literal["any", "last"] = "any",
    negatives: Literal["all", "own"] = "all",
    criterion: Literal["difference", "auroc"] = "auroc",
) -> dict[str, SteeringVector]:
    """By key the feature that tells the texts of its positive pole best from those of others, specific or not.

    Texts are the sentences that contrast pairs begin with, alone or as whole prompts; they are read at the token where
    a feature is most active, or at the last one; and others are ``"all"`` of the family, or those of its ``"own"``
    factor, where none is a ValueError. By default it is where the paper looks.
    """
    keys = [key for key, halves in study.readings.items() for _ in halves["train"].pairs]
    pairs = [pair for halves in study.readings.values() for pair in halves["train"].pairs]
    texts = [pair.positive.text for pair in pairs]
    if text == "prompts":
        texts = [pair_prompts(study.language_model, pair, study.form)[0][0] for pair in pairs]
    read = capture(study.language_model, texts, [sae.site], folder / f"{text} {sae.site}", tokens="all")
    values, of = pool_features(sae, read, "max" if place == "any" else "last").toarray(), np.array(keys)
    found = {}
    for key in study.readings:
        others = (of != key) & ((negatives == "all") | (np.array(list(map(cluster, keys))) == cluster(key)))
        if not others.any():
            raise ValueError(f"{key}: nothing else of its factor was read; take all others as negatives")
        best = best_features(values[of == key], values[others], 1, criterion)
        found[key] = feature_vector(sae, best, study.language_model, key)
    return found
