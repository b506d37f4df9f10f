"""Arms from their plans: directions are fitted or looked up, and pushed as hard as the plan says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from tqdm.auto import tqdm

from personalib.evaluation.arms import Arm, Vectors, tellings
from personalib.evaluation.plan import ArmsPlan
from personalib.features.published import published_features
from personalib.features.saes import SparseAutoencoder, load_sae
from personalib.features.vectors import feature_vector, prompt_features
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.steering.doses import combined, random_directions, site_norms
from personalib.steering.interventions import Add
from personalib.stimuli.contrast_files import supplied_contrasts, supplied_set
from personalib.stimuli.contrast_pairs import Contrast, contrast_set, contrasts
from personalib.stimuli.factors import POLES
from personalib.vectors.contrast import PairActivations, fit_vector, read_pairs
from personalib.vectors.vector import SteeringVector, texts_hash

# A family of contrasts, and the file that they are from if they are not the book's.
_Source = tuple[str, str | None]


@dataclass(frozen=True)
class ArmMaker:
    """Makes arms for one model.

    Attributes:
        prompts: what the residual stream's typical norms are taken from.
        folder: where activations go.
        form, pairs, seed: of contrast pairs; the seed draws random directions too.
    """

    language_model: LanguageModel
    prompts: Sequence[str]
    folder: Path
    form: str = "chat"
    pairs: int = 64
    seed: int = 0

    def arms(self, plans: Sequence[ArmsPlan], progress: str | None = None) -> list[Arm]:
        """The arms of all plans, in their order.

        An unknown key or published feature, or a direction that cannot be made, is a ValueError; see
        :func:`~personalib.features.saes.load_sae` and :func:`~personalib.vectors.contrast.read_pairs`.
        """
        saes = [self._sae(plan) for plan in plans]
        sites = [sae.site if sae else _site(plan) for plan, sae in zip(plans, saes, strict=True)]
        readings = self._readings(plans, sites, progress)
        where = sorted({site for site in sites if site})
        norms = site_norms(self.language_model, self.prompts, where, self.folder / "norms") if where else {}
        arms = []
        for plan, sae, site in zip(plans, saes, sites, strict=True):
            if site is None:
                arms += _told(plan)
            else:
                arms += _pushed(plan, self._vectors(plan, site, sae, readings.get(_source(plan), {})), norms[site])
        return arms

    def _sae(self, plan: ArmsPlan) -> SparseAutoencoder | None:
        if plan.method != "sae":
            return None
        return load_sae(plan.release, plan.sae, str(self.language_model.model.device))

    def _readings(
        self, plans: Sequence[ArmsPlan], sites: Sequence[Site | None], progress: str | None
    ) -> dict[_Source, dict[str, PairActivations]]:
        """By source and key, what the model has where prompts of contrast pairs end, wherever a plan needs it."""
        wanted: dict[_Source, set[Site]] = {}
        for plan, site in zip(plans, sites, strict=True):
            if site and (plan.method == "repe" or (plan.method == "sae" and plan.features == "prompt")):
                wanted.setdefault(_source(plan), set()).add(site)
        units = [(source, one) for source in wanted for one in _contrasts(*source)]
        found: dict[_Source, dict[str, PairActivations]] = {source: {} for source in wanted}
        count, seed = self.pairs, self.seed
        for source, one in tqdm(units, desc=progress, disable=progress is None, unit="set"):
            family, file = source
            pairs = supplied_set(Path(file), one, count, seed) if file else contrast_set(one, count, seed, "train")
            place = self.folder / "pairs" / (f"{family} {texts_hash([file])}" if file else family) / one.key
            where = sorted(wanted[source])
            found[source][one.key] = read_pairs(self.language_model, one, pairs, where, place, form=self.form)
        return found

    def _vectors(
        self, plan: ArmsPlan, site: Site, sae: SparseAutoencoder | None, readings: Mapping[str, PairActivations]
    ) -> dict[str, SteeringVector]:
        """What is pushed, by key or persona."""
        if plan.method == "random":
            width = self.language_model.model.config.get_text_config().hidden_size
            like = SteeringVector(torch.ones(width), site, "random", "random", self.language_model.name, "")
            directions = random_directions(like, plan.count, self.seed)
            return {f"random {number}": direction for number, direction in enumerate(directions)}
        if sae is None:
            single = {key: fit_vector(readings[key], site) for key in _keys(plan)}
        else:
            model = self.language_model
            numbers = {key: self._features(plan, sae, key, readings) for key in _keys(plan)}
            single = {key: feature_vector(sae, own, model, key) for key, own in numbers.items()}
        if not plan.personas:
            return single
        return {
            name: combined([single[key] for key in members], plan.combine) for name, members in plan.personas.items()
        }

    def _features(
        self, plan: ArmsPlan, sae: SparseAutoencoder, key: str, readings: Mapping[str, PairActivations]
    ) -> Sequence[int]:
        if plan.features == "prompt":
            return prompt_features(sae, readings[key])
        known = published_features(self.language_model.name) if plan.features == "published" else plan.features
        if key not in known:
            raise ValueError(f"{key} has no features; name it under `features`, or leave it out of `keys`")
        return known[key]


def _site(plan: ArmsPlan) -> Site | None:
    """Where contrast vectors and random directions are pushed; words have no site."""
    return Site.parse(plan.site or "") if plan.method != "prompt" else None


def _source(plan: ArmsPlan) -> _Source:
    return plan.family, plan.contrast_file


def _contrasts(family: str, file: str | None) -> tuple[Contrast, ...]:
    return supplied_contrasts(Path(file), family) if file else contrasts(family)


def family_of(plan: ArmsPlan) -> dict[str, Contrast]:
    """The contrasts that a plan is about, by key."""
    return {one.key: one for one in _contrasts(*_source(plan))}


def _keys(plan: ArmsPlan) -> list[str]:
    """What single vectors a plan needs."""
    known = family_of(plan)
    named = [key for members in plan.personas.values() for key in members] or list(plan.keys)
    for key in named:
        if key not in known:
            raise ValueError(f"{plan.family} have no {key!r}; choose among {', '.join(known)}")
    return list(dict.fromkeys(named)) or list(known)


def _told(plan: ArmsPlan) -> list[Arm]:
    """What a plan tells, in words of one split."""
    known, keys = family_of(plan), _keys(plan)
    groups = plan.personas or {key: (key,) for key in keys}
    return [
        Arm(plan.name, name, contexts=tellings([known[key] for key in members], pole, plan.split), pole=pole)
        for pole, (name, members) in product(plan.poles, groups.items())
    ]


def _pushed(plan: ArmsPlan, vectors: Vectors, norm: float) -> list[Arm]:
    """Each vector at each dose or coefficient, toward each pole."""
    sign = dict(zip(POLES, (1.0, -1.0), strict=True))
    arms = []
    for size, pole, (key, vector) in product(plan.doses or plan.coefficients, plan.poles, vectors.items()):
        # The paper's contrast vectors have norm one; its features are rows of the decoder as they are.
        own = vector.unit() if plan.doses or plan.method != "sae" else vector
        amount = sign[pole] * size
        times, dose = (amount * norm, amount) if plan.doses else (amount, amount * own.norm / norm)
        arms.append(Arm(plan.name, key, (Add(own, times, plan.positions),), dose=dose, pole=POLES[int(amount < 0)]))
    return arms
