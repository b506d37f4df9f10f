"""Studies: a family of contrasts on one model, with everything that the choice of a push needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from personalib.evaluation.agreement import NAMES
from personalib.evaluation.arms import Vectors, prompted_arms
from personalib.evaluation.ask import evaluate, prompts
from personalib.evaluation.estimates import ALL, effects, item_effects
from personalib.features.report import SPLITS, read_elements
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import score_features
from personalib.features.vectors import feature_vector, prompt_features
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.questionnaires.questions import Questionnaire
from personalib.steering.doses import site_norms
from personalib.stimuli.contrast_pairs import Contrast
from personalib.stimuli.factors import POLES
from personalib.stimuli.sentences import NEUTRAL, element_texts
from personalib.vectors.contrast import Halves, all_sites, fit_vector, read_contrasts
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

    The best one by a criterion of :mod:`personalib.features.scores` on so many sentences of each, specific or not.
    """
    texts = {split: element_texts(split, per_element, seed) for split in SPLITS}
    read = read_elements(language_model, texts, list(saes.values()), folder)
    found: dict[str, Vectors] = {}
    for name, sae in saes.items():
        pooled = read.features(sae)["train"]
        labels = [label for label in pooled.texts.classes if label != NEUTRAL]
        scores = score_features(pooled.pooled, pooled.texts.members(labels))
        # Where several are perfect, the one that tells the element loudest.
        order = zip(labels, scores.criterion(criterion), scores.mean_difference, strict=True)
        best = {".".join(label): int(np.lexsort((-loud, -first))[0]) for label, first, loud in order}
        found[name] = {key: feature_vector(sae, [number], language_model, key) for key, number in best.items()}
    return found
