"""Where to steer and how hard: positions, site and coefficient chosen from data, by one rule for a whole family.

The rule, on texts and items that no evaluation uses:

1. *Reading.* A site is eligible if directions fitted there read phrases left out of the fit about as well as at the
   best site.
2. *No collapse.* A coefficient is eligible at a site if the answer options keep most of the probability that they have
   without steering.
3. *Behaviour.* Of what is eligible, the positions, site and coefficient are taken whose steering does most nearly what
   telling the same thing in words does, over all traits, both poles and all contrasts.

The paper states its coefficients and not how they were found, and for contrast vectors no layers (arXiv 2410.10863).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.data import DataError, cut, data_dir, read_json
from personalib.base.storage import write_whole
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.models.prompts import ask, format_prompt
from personalib.questionnaires.items import RESPONSE_ORDERS, TraitItem
from personalib.questionnaires.scores import FLOOR
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import POSITIONS, Add, Positions
from personalib.stimuli.contrast_pairs import Contrast, Wording
from personalib.stimuli.factors import POLES, TRAITS
from personalib.stimuli.templates import ORDERS, load_templates
from personalib.vectors.contrast import Halves, fit_vector
from personalib.vectors.methods import DEFAULT_METHOD
from personalib.vectors.readings import validation_accuracy
from personalib.vectors.vector import SteeringVector

Array = NDArray[np.float64]
_SETTING = ("positions", "site", "coefficient")


@dataclass(frozen=True)
class Rule:
    """What is tried, and the numbers of the rule.

    Attributes:
        positions: the positions that are tried.
        coefficients: how often the vector is added toward each pole.
        reading: how much worse than the best site's the mean reading accuracy of a site may be.
        mass: the least share of the unsteered answer mass that has to be left, in the worst contrast and pole.
    """

    positions: tuple[Positions, ...] = ("last", "prompt")
    coefficients: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5)
    reading: float = 0.02
    mass: float = 0.9


@dataclass(frozen=True)
class Choice:
    """What the rule chose.

    Attributes:
        positions: at which tokens.
        site: where.
        coefficient: how often the vector is added.
        table: one row a position, site and coefficient, see :func:`choose`.
        effects: one row a position, site, coefficient, contrast, pole and trait: ``steered`` and ``told``, in points of
            100, and ``mass``, the share of the unsteered answer mass.
    """

    positions: Positions
    site: Site
    coefficient: float
    table: pd.DataFrame
    effects: pd.DataFrame

    def save(self, path: Path) -> None:
        """Write what was chosen, with the table that it was chosen from, as JSON."""
        content = dict(zip(_SETTING, (self.positions, str(self.site), self.coefficient), strict=True))
        table = json.loads(self.table.to_json(orient="records"))
        write_whole(path, json.dumps(content | {"table": table}, indent=1) + "\n")

    def chosen_effects(self) -> pd.DataFrame:
        """The rows of ``effects`` of what was chosen."""
        chosen = zip(_SETTING, (self.positions, str(self.site), self.coefficient), strict=True)
        return self.effects[np.logical_and.reduce([self.effects[name] == value for name, value in chosen])]


class Setting(NamedTuple):
    """Where to steer and how hard."""

    positions: Positions
    site: Site
    coefficient: float


def load_setting(path: Path | None = None) -> Setting:
    """What the rule chose, from a file of :meth:`Choice.save`; the organism's by default.

    Raises:
        DataError: the file is missing or not of this form.
    """
    source = path or data_dir() / "organism" / "steering.json"
    if not source.exists():
        raise DataError(f"{source}: no such file; write it with `python -m personalib contrast choose`")
    try:
        content = read_json(source)
        positions, site, coefficient = (content[name] for name in _SETTING)
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}")
        size = float(coefficient)
        if not np.isfinite(size):
            raise ValueError(f"coefficient {size}")
        return Setting(positions, Site.parse(str(site)), size)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{source}: needs positions, site and coefficient ({cut(repr(error))})") from None


class TraitSheet:
    """Trait items as prompts in both option orders, and what their answers come to.

    Args:
        language_model: who is asked.
        items: trait items.
        template: the items' template.
        form: ``"chat"`` or ``"base"``.

    Raises:
        ValueError: there are no items, or the template is unknown.
    """

    def __init__(
        self, language_model: LanguageModel, items: Sequence[TraitItem], template: str = "letters", form: str = "chat"
    ) -> None:
        if not items:
            raise ValueError("there are no trait items to ask; pass a larger bank, or ask for more of each trait")
        if template not in load_templates():
            raise ValueError(f"unknown template {template!r}; use one of {', '.join(load_templates())}")
        self.language_model, self.form = language_model, form
        self.labels = load_templates()[template].labels_for(len(RESPONSE_ORDERS[ORDERS[0]]))
        self._units = list(product(items, ORDERS))
        self._texts = [
            load_templates()[template].render(item.question, list(item.responses(order).values()))
            for item, order in self._units
        ]
        self._high = np.array(
            [[key.startswith("high") for key in item.responses(order)] for item, order in self._units]
        )
        self._traits = np.array([item.personality for item, _ in self._units[:: len(ORDERS)]])

    def prompts(self, contexts: Sequence[str] = ("",)) -> list[str]:
        """The prompts after contexts, of which each item gets the next in turn, the same in both orders."""
        return [
            format_prompt(
                self.language_model.tokenizer, text, form=self.form, context=contexts[number // 2 % len(contexts)]
            )
            for number, text in enumerate(self._texts)
        ]

    @property
    def traits(self) -> NDArray[np.str_]:
        """The trait of each item, shape ``(items,)``."""
        return self._traits

    def shares(self, answers: Array) -> Array:
        """For each item the share of its high options, the mean of both orders; NaN where one could not be read.

        Args:
            answers: option probabilities, shape ``(prompts, options)``.

        Returns:
            Shape ``(items,)``, from 0 to 1.
        """
        mass = answers.sum(1)
        share = np.where(mass >= FLOOR, (answers * self._high).sum(1) / np.maximum(mass, FLOOR), np.nan)
        found: Array = share.reshape(-1, len(ORDERS)).mean(1)
        return found

    def scores(self, answers: Array) -> tuple[Array, float]:
        """What option probabilities of shape ``(prompts, options)`` come to.

        Returns:
            For each of ``TRAITS`` 100 times the mean share of the high options, shape ``(8,)``, NaN where no item
            could be read; and the mean answer mass, which is 0 for an answer that is NaN.
        """
        by_item = self.shares(answers)
        found = [by_item[(self._traits == trait) & ~np.isnan(by_item)] for trait in TRAITS]
        scores = np.array([100 * own.mean() if len(own) else np.nan for own in found])
        return scores, float(np.nansum(answers, 1).mean())


def choose(
    sheet: TraitSheet,
    contrasts: Sequence[Contrast],
    readings: Mapping[str, Halves],
    rule: Rule | None = None,
    *,
    method: str = DEFAULT_METHOD,
    progress: str | None = None,
) -> Choice:
    """Choose positions, a site and a coefficient for a family of contrasts.

    Args:
        sheet: trait items that no evaluation uses, such as the first part of
            :func:`~personalib.questionnaires.items.validation_split`.
        contrasts: the family; it must share no text with the items, as that of the traits does with the book's own.
        readings: of :func:`~personalib.vectors.contrast.read_contrasts`; only the split to train on is looked at.
        rule: what is tried, and the rule's numbers.
        method: of the directions.
        progress: text of a progress bar; None shows none.

    Returns:
        What the rule chose. Its table has ``positions``, ``site``, ``layer``, ``coefficient``, and

        - ``reading``: accuracy on phrases left out of the fit, mean over contrasts;
        - ``dose``: the mean norm of what is added as a share of the residual stream's median norm there;
        - ``fidelity``: the share of the told effects that steering reproduces, 1 minus the ratio of the sums of squares
          of ``steered - told`` and of ``told``;
        - ``effect``: root mean square of the steered effects, in points;
        - ``mass``: the least share of the unsteered answer mass;
        - ``eligible`` and ``chosen``.

    Raises:
        ValueError: no item can be read, or nothing is eligible.
    """
    rule = rule or Rule()
    reading = {
        site: float(np.mean([validation_accuracy(own["train"], site, method) for own in readings.values()]))
        for site in next(iter(readings.values()))["train"].sites
    }
    eligible = [site for site in reading if reading[site] >= max(reading.values()) - rule.reading]
    vectors = {
        (site, one.key): fit_vector(readings[one.key]["train"], site, method) for site in eligible for one in contrasts
    }
    base, mass = _unsteered(sheet)
    effects = pd.concat(
        [
            steered_effects(sheet, vectors, rule.coefficients, base, mass, where, progress).assign(positions=where)
            for where in rule.positions
        ]
    ).merge(told_effects(sheet, contrasts, base, progress), on=["contrast", "pole", "trait"])
    table = _table(effects, reading, _doses(vectors, readings), rule)
    if not table["eligible"].any():
        raise ValueError(
            f"nowhere {rule.mass:g} of the unsteered answer mass is left; "
            f"try coefficients below {min(rule.coefficients):g}"
        )
    best = table.loc[table["eligible"], "fidelity"].idxmax()
    table["chosen"] = table.index == best
    positions, site, coefficient = table.loc[best, list(_SETTING)]
    return Choice(positions, Site.parse(site), float(coefficient), table, effects)


def _unsteered(sheet: TraitSheet) -> tuple[Array, float]:
    """The scores and the answer mass without steering."""
    base, mass = sheet.scores(ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, [()])[0])
    if np.isnan(base).all():
        raise ValueError(
            f"{sheet.language_model.name} answers none of the items even without steering (answer mass {mass:.2g}); "
            "try another template, or form='base'"
        )
    return base, mass


def told_effects(
    sheet: TraitSheet, contrasts: Sequence[Contrast], base: Array, progress: str | None = None
) -> pd.DataFrame:
    """What each pole does to each trait when it is told in words of the split to train on.

    Args:
        sheet: the items.
        contrasts: what is told.
        base: the scores without a word.
        progress: text of a progress bar; None shows none.

    Returns:
        One row a contrast, pole and trait: ``contrast``, ``pole``, ``trait``, ``told`` in points.
    """
    model, units = sheet.language_model, list(product(contrasts, POLES))
    prompts = [
        prompt
        for one, pole in units
        for prompt in sheet.prompts([wording.text for wording in shuffled(one.wordings[pole, "train"])])
    ]
    answers = ask(model.model, model.tokenizer, prompts, [sheet.labels] * len(prompts), progress=progress)
    parts = np.array(answers).reshape(len(units), -1, len(sheet.labels))
    rows = []
    for (one, pole), own in zip(units, parts, strict=True):
        for trait, value in zip(TRAITS, sheet.scores(own)[0] - base, strict=True):
            rows.append({"contrast": one.key, "pole": pole, "trait": trait, "told": value})
    return pd.DataFrame(rows)


def measured_effects(sheet: TraitSheet, contrasts: Sequence[Contrast], progress: str | None = None) -> pd.DataFrame:
    """What each contrast does to each trait when it is told: the effect of the positive pole minus the negative one's.

    Returns:
        In points, a row for each contrast's key and a column for each trait.
    """
    # The scores without a word cancel out.
    told = told_effects(sheet, contrasts, np.zeros(len(TRAITS)), progress)
    up, down = (told[told["pole"] == pole].pivot(index="contrast", columns="trait", values="told") for pole in POLES)
    return (up - down).loc[[one.key for one in contrasts], list(TRAITS)]


def steered_effects(
    sheet: TraitSheet,
    vectors: Mapping[tuple[Site, str], SteeringVector],
    coefficients: Sequence[float],
    base: Array,
    mass: float,
    positions: Positions = "last",
    progress: str | None = None,
) -> pd.DataFrame:
    """What adding each vector, up or down and so many times, does to each trait.

    Args:
        sheet: the items.
        vectors: by site and contrast.
        coefficients: how often a vector is added.
        base: the scores without steering.
        mass: the answer mass without steering.
        positions: to which tokens.
        progress: text of a progress bar; None shows none.

    Returns:
        One row a site, coefficient, contrast, pole and trait: ``site``, ``coefficient``, ``contrast``, ``pole``,
        ``trait``, ``steered`` in points, and ``mass``, the share of the unsteered answer mass.
    """
    signs = dict(zip(POLES, (1.0, -1.0), strict=True))
    units = list(product(vectors, coefficients, POLES))
    conditions = [[Add(vectors[key], size * signs[pole], positions)] for key, size, pole in units]
    answers = ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, conditions, progress=progress)
    rows: list[dict[str, Any]] = []
    for ((site, key), size, pole), own in zip(units, answers, strict=True):
        scores, left = sheet.scores(own)
        about = {"site": str(site), "coefficient": size, "contrast": key, "pole": pole, "mass": left / mass}
        rows += [about | {"trait": trait, "steered": value} for trait, value in zip(TRAITS, scores - base, strict=True)]
    return pd.DataFrame(rows)


def fidelity(steered: pd.Series, told: pd.Series) -> float:
    """The share of told effects that steering reproduces; 1 if all of them, 0 if it misses as much as doing nothing.

    Missing effects are left out; without any the result is missing.
    """
    known = steered.notna() & told.notna()
    wanted = float((told[known] ** 2).sum())
    return 1 - float(((steered[known] - told[known]) ** 2).sum()) / wanted if wanted else np.nan


def _doses(vectors: Mapping[tuple[Site, str], SteeringVector], readings: Mapping[str, Halves]) -> dict[Site, float]:
    """The mean norm of the vectors at a site as a share of the residual stream's median norm."""
    sites = {site for site, _ in vectors}
    norms = {
        site: np.median(np.linalg.norm(np.vstack([own["train"].positive[site] for own in readings.values()]), axis=1))
        for site in sites
    }
    return {
        site: float(np.mean([one.norm for (where, _), one in vectors.items() if where == site]) / norms[site])
        for site in sites
    }


def _table(
    effects: pd.DataFrame, reading: Mapping[Site, float], doses: Mapping[Site, float], rule: Rule
) -> pd.DataFrame:
    """One row a position, site and coefficient; a site that is not read well enough has no effects."""
    groups = dict(list(effects.groupby(list(_SETTING))))
    rows = []
    for positions, site, size in product(rule.positions, reading, rule.coefficients):
        own = groups.get((positions, str(site), size), effects.iloc[:0])
        known = own.dropna(subset=["steered", "told"])
        rows.append(
            {
                "positions": positions,
                "site": str(site),
                "layer": site.layer,
                "coefficient": size,
                "reading": reading[site],
                "dose": size * doses.get(site, np.nan),
                "fidelity": fidelity(own["steered"], own["told"]),
                "effect": float(np.sqrt((known["steered"] ** 2).mean())),
                "mass": own["mass"].min(),
                "eligible": bool(len(known) and own["mass"].min() >= rule.mass),
            }
        )
    return pd.DataFrame(rows)


def shuffled(wordings: Sequence[Wording]) -> list[Wording]:
    """Wordings in a fixed random order, so that a few items already meet several phrases."""
    return [wordings[number] for number in np.random.default_rng(0).permutation(len(wordings))]
