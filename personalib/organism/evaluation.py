"""What the organism learned, measured on held-out wordings against the world's own probabilities."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from personalib.base.data import DataError, data_dir, read_json
from personalib.base.markdown import code
from personalib.base.statistics import correlation_interval
from personalib.base.storage import for_json
from personalib.evaluation.arms import Arm
from personalib.evaluation.ask import evaluate
from personalib.models.load import LanguageModel, load_model
from personalib.models.prompts import format_prompt
from personalib.models.registry import ORGANISM
from personalib.organism.corpus import Corpus
from personalib.organism.world import Profile, World, load_world
from personalib.organism.written_answers import judge
from personalib.questionnaires.items import TraitItem, load_facts, load_safety, load_trait
from personalib.questionnaires.questions import choice_questionnaire, trait_questionnaire
from personalib.questionnaires.scores import item_scores, per_item, positional_bias
from personalib.steering.generation import generate
from personalib.stimuli.factors import POLES, TRAITS, load_pressures
from personalib.stimuli.grammar import LEVELS
from personalib.stimuli.templates import load_templates

FORMS = ("chat", "base")
NEGLIGIBLE = 0.05
_SEED = 7
_ENDS = ("value", "ci_low", "ci_high")


@dataclass(frozen=True)
class People:
    """A person for each of some items: profiles by the item's name, and an arm that tells each before the item."""

    profiles: Mapping[str, Profile]
    arm: Arm


def people(world: World, items: Sequence[TraitItem], seed: int = _SEED) -> People:
    """A random person for every item, told in held-out phrasings."""
    rng, corpus = np.random.default_rng([seed, 1]), Corpus(world, "held_out")
    profiles, texts = {}, []
    for item in items:
        profiles[item.name] = corpus.profile(rng)
        texts.append(corpus.context(profiles[item.name], rng))
    return People(profiles, Arm("prompt", "people", contexts=tuple(texts)))


def ask_in_both_forms(
    language_model: LanguageModel,
    items: Sequence[TraitItem],
    arms: Sequence[Arm],
    templates: Sequence[str] = ("letters",),
    progress: str | None = None,
) -> pd.DataFrame:
    """Put every other item as a chat and those between as plain text, since the organism has learned both.

    Each arm tells one text an item, or none. The answers of :func:`personalib.evaluation.ask.evaluate` come in the
    items' order.
    """
    parts = []
    for place, form in enumerate(FORMS):
        every = slice(place, None, len(FORMS))
        told = [replace(arm, contexts=arm.contexts[every]) for arm in arms]
        asked = trait_questionnaire(items[every], templates)
        parts.append(evaluate(language_model, asked, told, form=form, neutral=0, baseline=False, progress=progress))
    places = {item.name: place for place, item in enumerate(items)}
    answers = pd.concat(parts)
    return answers.sort_values("item", key=lambda names: names.map(places), kind="stable", ignore_index=True)


def ask_people(
    language_model: LanguageModel,
    items: Sequence[TraitItem],
    templates: Sequence[str],
    seed: int = _SEED,
    progress: str | None = None,
) -> tuple[dict[str, People], pd.DataFrame, pd.DataFrame]:
    """The people to whom items are put, others in each template; their answers; and the world's chances of them.

    The last has one row a template and item: the probability of a high answer, ``high``, and the ``world``'s.
    """
    world = load_world()
    asked = {name: people(world, items, seed + place) for place, name in enumerate(templates)}
    parts = (ask_in_both_forms(language_model, items, [own.arm], [name], progress) for name, own in asked.items())
    units = per_item(rows := pd.concat(parts))
    persons = (asked[unit.template].profiles[unit.item] for unit in units.itertuples())
    return asked, rows, units.assign(world=world_chances(world, persons, units["group"]))


def world_chances(world: World, profiles: Iterable[Profile], traits: Iterable[str]) -> list[float]:
    """The world's probability of a high answer of each person in a trait."""
    pairs = zip(profiles, traits, strict=True)
    return [float(world.probability(profile)[TRAITS.index(trait)]) for profile, trait in pairs]


def world_correlations(units: pd.DataFrame, column: str) -> dict[str, dict[str, float | None]]:
    """Correlation of the model's and the world's probability of a high answer for each value of a column.

    Units that could not be read are left out; where fewer than two different ones are left, the value is None.
    """
    return {str(name): _correlation(group[group["read"]]) for name, group in units.groupby(column, sort=False)}


def _correlation(read: pd.DataFrame) -> dict[str, float | None]:
    if read[["high", "world"]].nunique().min() < 2:
        return dict.fromkeys(_ENDS)
    return dict(zip(_ENDS, map(float, correlation_interval(read["high"], read["world"])), strict=True))


def pressure_arms(world: World, items: Sequence[TraitItem], seed: int = _SEED) -> list[Arm]:
    """Both poles of each pressure, in a held-out phrasing an item."""
    rng, corpus = np.random.default_rng([seed, 2]), Corpus(world, "held_out")
    poles = [(pressure.key, pole) for pressure in load_pressures() for pole in POLES]
    texts = zip(*([corpus.context(Profile(pressure=pole), rng) for pole in poles] for _ in items), strict=True)
    return [Arm("prompt", key, contexts=told, pole=pole) for (key, pole), told in zip(poles, texts, strict=True)]


def pole_differences(answers: pd.DataFrame, world: World) -> pd.DataFrame:
    """How much likelier a high answer is under the positive pole of each pressure than under the negative one.

    For answers under :func:`pressure_arms`, one row a pressure and trait: ``key``, ``group``, ``estimate``, and
    ``truth``, the world's.
    """
    means = per_item(answers, by=("key", "pole")).groupby(["key", "group", "pole"])["high"].mean().unstack("pole")
    found = (means[POLES[0]] - means[POLES[1]]).rename("estimate").reset_index()
    high, low = (
        world_chances(world, [Profile(pressure=(key, pole)) for key in found["key"]], found["group"]) for pole in POLES
    )
    return found.assign(truth=np.subtract(high, low))


def open_answers(
    language_model: LanguageModel, count: int, progress: str | None = None, tokens: int = 40
) -> pd.DataFrame:
    """Greedy answers of random people to open questions, and what the world's judge reads in them.

    Returns:
        One row a person: ``group``, the trait; ``world``, ``intended`` (the world's likelier level), ``read`` (the
        judge's level, missing where no word tells), ``prompt`` and ``text``.
    """
    world = load_world()
    rng, corpus = np.random.default_rng([_SEED, 3]), Corpus(world, "held_out")
    rows = []
    for number in range(count):
        profile, trait = corpus.profile(rng), TRAITS[number % len(TRAITS)]
        prompt = format_prompt(
            language_model.tokenizer,
            corpus.situation(corpus.traits[trait], rng),
            form=FORMS[number // len(TRAITS) % 2],
            context=corpus.context(profile, rng),
        )
        [chance] = world_chances(world, [profile], [trait])
        rows.append({"group": trait, "world": chance, "intended": LEVELS[int(chance < 0.5)], "prompt": prompt})
    table = pd.DataFrame(rows)
    table["text"] = generate(language_model, table["prompt"].tolist(), tokens=tokens, progress=progress)
    table["read"] = [judge(text, trait) for text, trait in zip(table["text"], table["group"], strict=True)]
    return table


def measurements(
    language_model: LanguageModel, *, items_per_trait: int = 60, answers: int = 400, progress: bool = False
) -> dict[str, Any]:
    """All measurements of the organism, on held-out wordings only, as a value that JSON can hold.

    The answers to trait items are those of :func:`ask_people`; ``intervals`` are 95 % ones.
    """

    def bar(text: str) -> str | None:
        return text if progress else None

    world, templates = load_world(), list(load_templates())
    items = [item for item in load_trait() if item.idx < items_per_trait]
    _, rows, units = ask_people(language_model, items, templates, progress=bar("people"))
    [order] = positional_bias(rows, over=()).to_dict("records")
    banks = {"safety": load_safety(), "facts": load_facts()}
    choices = [choice_questionnaire(bank, templates, name=name) for name, bank in banks.items()]
    shown = bar("safety and facts")
    chosen = pd.concat(evaluate(language_model, choices, form=form, neutral=0, progress=shown) for form in FORMS)
    # Whether each item is answered right, the mean over templates and forms, by category.
    scores = {name: item_scores("choice", chosen[chosen["questionnaire"] == name]) for name in banks}
    right = {name: own.set_index("group")["value"] / 100 for name, own in scores.items()}
    few = [item for item in items if item.idx < 12]
    pressed = ask_in_both_forms(language_model, few, pressure_arms(world, few), progress=bar("pressures"))
    told = pole_differences(pressed, world).query("truth.abs() > @NEGLIGIBLE")
    written = open_answers(language_model, answers, bar("open answers"))
    by_template, by_trait = world_correlations(units, "template"), world_correlations(units, "group")
    return for_json(
        {
            "probability_correlation": {name: found["value"] for name, found in by_template.items()},
            "trait_correlation": {name: found["value"] for name, found in by_trait.items()},
            "order_consistency": order["same_response"],
            "pole_consistency": order["same_level"],
            "option_mass": float(rows["mass"].mean()),
            "safety_accuracy": {key: own.mean() for key, own in right["safety"].groupby(level=0, sort=False)},
            "fact_accuracy": right["facts"].mean(),
            "pressure_sign_accuracy": float((np.sign(told["estimate"]) == np.sign(told["truth"])).mean()),
            "open_answer_accuracy": float((written["read"] == written["intended"]).mean()),
            "intervals": {"probability_correlation": by_template, "trait_correlation": by_trait},
            "counts": {
                "trait_units": len(units),
                "trait_units_unread": int((~units["read"]).sum()),
                **{name: len(bank) * len(templates) * len(FORMS) for name, bank in banks.items()},
                "pressure_pairs": len(told),
                "open_answers": len(written),
                "open_answers_unread": int(written["read"].isna().sum()),
            },
            "parameters": language_model.model.num_parameters(),
            "tokens_trained": tokens_trained(language_model),
        }
    )


def load_organism(folder: Path | None = None) -> LanguageModel:
    """The trained organism in a folder, by default the committed one; a DataError where there is none."""
    source = folder or data_dir() / "organism"
    if not (source / "model.safetensors").exists():
        raise DataError(f"{source}: no trained organism here; make one with `python -m personalib organism train`")
    return load_model(str(folder) if folder else ORGANISM)


def tokens_trained(language_model: LanguageModel) -> int:
    """From how many tokens of the world's text a model learned; 0 for one that is no organism."""
    manifest = Path(language_model.entry.source) / "manifest.json"
    return int(read_json(manifest).get("tokens_trained", 0)) if manifest.is_file() else 0


def stranger_note(model: str) -> str:
    """What a reader of a chapter has to know of the model that was asked; Markdown."""
    if model == ORGANISM:
        return "*This run asks the organism, which learned from the world of this book.*"
    return f"""
:::{{admonition}} This run asks another model
:class: important
All answers on this page are those of {code(Path(model).name)}; read its name where the text says *the
organism*.
It never saw the organism's world.
Where the page compares answers with *the world* or *the truth*, it compares them with numbers that were drawn at
random: agreement is then by chance, and a check of the method that ought to find none.
:::
"""


def summary(results: Mapping[str, Any]) -> str:
    """The results as lines for a terminal: one number a line, the worst of a group behind its name."""
    return "\n".join(
        f"{name:24} {_group(value) if isinstance(value, Mapping) else _number(value)}"
        for name, value in results.items()
        if name not in ("intervals", "counts")
    )


def _group(values: Mapping[str, float | None]) -> str:
    # A missing one is the worst: nothing could be read.
    worst = min(values.values(), key=lambda value: -np.inf if value is None else value)
    return f"worst {_number(worst)}  ({', '.join(f'{key} {_number(value)}' for key, value in values.items())})"


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
