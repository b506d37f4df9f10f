"""What the organism learned, measured on held-out wordings against the world's own probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import Gemma2ForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from personalib.base.data import DataError, data_dir, read_json
from personalib.base.markdown import code
from personalib.base.statistics import correlation_interval
from personalib.models.files import check_files
from personalib.models.load import LanguageModel
from personalib.models.prompts import ask, format_prompt
from personalib.models.registry import ORGANISM
from personalib.organism.corpus import Corpus
from personalib.organism.tokenizer import load_tokenizer
from personalib.organism.world import Profile, World, load_world
from personalib.organism.written_answers import judge
from personalib.questionnaires.items import SafetyItem, TraitItem, load_facts, load_safety, load_trait
from personalib.questionnaires.scoring import per_item, positional_bias
from personalib.steering.generation import generate
from personalib.stimuli.factors import POLES, TRAITS, load_pressures
from personalib.stimuli.grammar import LEVELS
from personalib.stimuli.templates import ORDERS, load_templates

FORMS = ("chat", "base")
NEGLIGIBLE = 0.05
_SEED = 7


@dataclass(frozen=True)
class Organism:
    """A trained organism: its model, its tokenizer, the world it learned from, and from how many tokens of it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    world: World
    tokens_trained: int

    def held_out(self) -> Corpus:
        """The held-out half of the world's corpus: wordings that training never saw."""
        return Corpus(self.world, "held_out")


@dataclass(frozen=True)
class Asked:
    """One item put to one person: the unit of the evaluation."""

    item: TraitItem
    profile: Profile
    context: str
    form: str


def people(organism: Organism, items: Sequence[TraitItem], seed: int = _SEED) -> list[Asked]:
    """A random person, told in held-out phrasings and in a random form, for every item."""
    rng, corpus = np.random.default_rng([seed, 1]), organism.held_out()
    asked = []
    for number, item in enumerate(items):
        profile = corpus.profile(rng)
        asked.append(Asked(item, profile, corpus.context(profile, rng), FORMS[number % 2]))
    return asked


def ask_people(organism: Organism, asked: Sequence[Asked], template: str, progress: str | None = None) -> pd.DataFrame:
    """Put each item to its person in both option orders.

    Returns:
        The rows of :func:`personalib.questionnaires.trait_questions.ask_trait`, one ``context_id`` a unit, with
        ``world``, the world's probability of a high answer.
    """
    chosen = load_templates()[template]
    units = list(product(enumerate(asked), ORDERS))
    prompts = [
        format_prompt(
            organism.tokenizer,
            chosen.render(one.item.question, list(one.item.responses(order).values())),
            form=one.form,
            context=one.context,
        )
        for (_, one), order in units
    ]
    labels = [chosen.labels_for(len(one.item.responses(order))) for (_, one), order in units]
    answers = ask(organism.model, organism.tokenizer, prompts, labels, batch_size=64, progress=progress)
    return pd.DataFrame(
        [
            _row(organism.world, number, one, template, order, answer)
            for ((number, one), order), answer in zip(units, answers, strict=True)
        ]
    )


def _row(world: World, number: int, one: Asked, template: str, order: str, answer: np.ndarray) -> dict[str, Any]:
    probabilities = dict(zip(one.item.responses(order), answer.tolist(), strict=True))
    return {
        "idx": one.item.idx,
        "personality": one.item.personality,
        "template": template,
        "order": order,
        "form": one.form,
        "context_id": number,
        **{f"p_{key}": value for key, value in probabilities.items()},
        "mass": float(answer.sum()),
        "world": float(world.probability(one.profile)[TRAITS.index(one.item.personality)]),
    }


def answered(rows: pd.DataFrame) -> pd.DataFrame:
    """Both orders put together: one row a unit with ``high``, the model's, and ``world``, the world's probability."""
    units = per_item(rows)
    # A unit without an answer stays in the table, with a missing `high`.
    world = rows.groupby(["template", "context_id"])["world"].first().reset_index()
    return units.merge(world, on=["template", "context_id"])


def correlations(units: pd.DataFrame, column: str) -> dict[str, dict[str, float | None]]:
    """Correlation of the model's and the world's probability of a high answer for each value of a column.

    Units that could not be read are left out; where fewer than two different ones are left, the value is None.
    """
    return {str(name): _correlation(group[group["read"]]) for name, group in units.groupby(column, sort=False)}


def _correlation(read: pd.DataFrame) -> dict[str, float | None]:
    if read[["high", "world"]].nunique().min() < 2:
        return dict.fromkeys(("value", "ci_low", "ci_high"))
    found = correlation_interval(read["high"], read["world"])
    return {"value": float(found.estimate), "ci_low": float(found.low), "ci_high": float(found.high)}


def _known(value: float) -> float | None:
    """A number for JSON, which has none for a missing one."""
    return None if np.isnan(value) else float(value)


def choice_accuracy(organism: Organism, items: Sequence[SafetyItem], progress: str | None = None) -> pd.DataFrame:
    """Whether the most probable option is the right one: one row an item, template and form, without any context."""
    units = list(product(items, load_templates().values(), FORMS))
    prompts = [
        format_prompt(organism.tokenizer, template.render(item.question, item.options), form=form)
        for item, template, form in units
    ]
    labels = [template.labels_for(len(item.options)) for item, template, _ in units]
    answers = ask(organism.model, organism.tokenizer, prompts, labels, batch_size=64, progress=progress)
    return pd.DataFrame(
        {
            "category": item.category,
            "template": template.name,
            "form": form,
            "right": bool(answer.argmax() == item.answer),
            "mass": float(answer.sum()),
        }
        for (item, template, form), answer in zip(units, answers, strict=True)
    )


def pressure_effects(
    organism: Organism, items: Sequence[TraitItem], progress: str | None = None, template: str = "letters"
) -> pd.DataFrame:
    """Mean probability of a high answer under each pole of each pressure, beside the world's.

    Returns:
        One row a pressure and trait: ``effect`` and ``world_effect``, positive minus negative pole.
    """
    rng, corpus = np.random.default_rng([_SEED, 2]), organism.held_out()
    poles = [Profile(pressure=(pressure.key, pole)) for pressure in load_pressures() for pole in POLES]
    asked = [
        Asked(item, profile, corpus.context(profile, rng), FORMS[number % 2])
        for number, item in enumerate(items)
        for profile in poles
    ]
    units = answered(ask_people(organism, asked, template, progress))
    units["pressure"], units["pole"] = zip(
        *(asked[number].profile.pressure for number in units["context_id"]), strict=True
    )
    means = units.groupby(["pressure", "personality", "pole"])[["high", "world"]].mean().unstack("pole")
    effects = pd.DataFrame(
        {
            "effect": means["high"][POLES[0]] - means["high"][POLES[1]],
            "world_effect": means["world"][POLES[0]] - means["world"][POLES[1]],
        }
    )
    return effects.reset_index()


def open_answers(organism: Organism, count: int, progress: str | None = None, tokens: int = 40) -> pd.DataFrame:
    """Greedy answers of random people to open questions, and what the world's judge reads in them.

    Returns:
        One row a person: ``personality``, ``world``, ``intended`` (the world's likelier level), ``read`` (the judge's
        level, missing where no word tells), ``prompt`` and ``text``.
    """
    rng, corpus = np.random.default_rng([_SEED, 3]), organism.held_out()
    rows = []
    for number in range(count):
        profile, trait = corpus.profile(rng), TRAITS[number % len(TRAITS)]
        prompt = format_prompt(
            organism.tokenizer,
            corpus.situation(corpus.traits[trait], rng),
            form=FORMS[number // len(TRAITS) % 2],
            context=corpus.context(profile, rng),
        )
        world = float(organism.world.probability(profile)[TRAITS.index(trait)])
        rows.append({"personality": trait, "world": world, "intended": LEVELS[int(world < 0.5)], "prompt": prompt})
    table = pd.DataFrame(rows)
    model = LanguageModel(ORGANISM, organism.model, organism.tokenizer)
    table["text"] = generate(model, table["prompt"].tolist(), tokens=tokens, progress=progress)
    table["read"] = [judge(text, trait) for text, trait in zip(table["text"], table["personality"], strict=True)]
    return table


def evaluate(
    organism: Organism, *, items_per_trait: int = 60, answers: int = 400, progress: bool = False
) -> dict[str, Any]:
    """All measurements of the organism, on held-out wordings only.

    Args:
        organism: what to measure.
        items_per_trait: trait items of each trait; each is put to one random person in each template and order.
        answers: how many open answers are generated.
        progress: show progress bars.

    Returns:
        A value that JSON can hold; ``intervals`` has the 95 % intervals of the numbers beside it.
    """

    def bar(text: str) -> str | None:
        return text if progress else None

    items = [item for item in load_trait() if item.idx < items_per_trait]
    asked = people(organism, items)
    rows = pd.concat([ask_people(organism, asked, name, bar(f"template {name}")) for name in load_templates()])
    units, order = (
        answered(rows),
        positional_bias(rows.assign(all="all"), over=("all",), by=("template", "context_id", "all")),
    )
    safety = choice_accuracy(organism, load_safety(), bar("safety"))
    facts = choice_accuracy(organism, load_facts(), bar("facts"))
    pressures = pressure_effects(organism, [item for item in items if item.idx < 12], bar("pressures"))
    told = pressures[pressures["world_effect"].abs() > NEGLIGIBLE]
    written = open_answers(organism, answers, bar("open answers"))
    by_template, by_trait = correlations(units, "template"), correlations(units, "personality")
    return {
        "probability_correlation": {name: found["value"] for name, found in by_template.items()},
        "trait_correlation": {name: found["value"] for name, found in by_trait.items()},
        "order_consistency": _known(order["same_response"].iloc[0]),
        "pole_consistency": _known(order["same_pole"].iloc[0]),
        "option_mass": float(rows["mass"].mean()),
        "safety_accuracy": safety.groupby("category", sort=False)["right"].mean().to_dict(),
        "fact_accuracy": float(facts["right"].mean()),
        "pressure_sign_accuracy": float((np.sign(told["effect"]) == np.sign(told["world_effect"])).mean()),
        "open_answer_accuracy": float((written["read"] == written["intended"]).mean()),
        "intervals": {"probability_correlation": by_template, "trait_correlation": by_trait},
        "counts": {
            "trait_units": len(units),
            "trait_units_unread": int((~units["read"]).sum()),
            "safety": len(safety),
            "facts": len(facts),
            "pressure_pairs": len(told),
            "open_answers": len(written),
            "open_answers_unread": int(written["read"].isna().sum()),
        },
        "parameters": organism.model.num_parameters(),
        "tokens_trained": organism.tokens_trained,
        "held_out": True,
    }


def load_organism(folder: Path | None = None, device: str = "cpu") -> Organism:
    """The trained organism in a folder, by default the committed one.

    Raises:
        DataError: there is no organism in the folder.
    """
    source = folder or data_dir() / "organism"
    if not (source / "model.safetensors").exists():
        raise DataError(f"{source}: no trained organism here; make one with `python -m personalib organism train`")
    check_files(str(source), None, str(source))
    model = Gemma2ForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    tokens = read_json(source / "manifest.json")["tokens_trained"]
    return Organism(model.to(device).eval(), load_tokenizer(source), load_world(), tokens)


def beside_world(language_model: LanguageModel) -> Organism:
    """A model beside the organism's world, so that the same questions can be put to it in the same words.

    Only the organism has learned from that world. Any other model is a stranger to it: what the two share is there by
    accident or by what the words mean anyway.
    """
    folder = Path(language_model.entry.source)
    if language_model.name == ORGANISM or (folder / "world.yaml").is_file():
        return load_organism(folder, str(language_model.model.device))
    return Organism(language_model.model, language_model.tokenizer, load_world(), 0)


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
    lines = []
    for name, value in results.items():
        if name in ("intervals", "counts"):
            continue
        if isinstance(value, Mapping):
            parts = ", ".join(f"{key} {_number(number)}" for key, number in value.items())
            # A missing one is the worst: nothing could be read.
            worst = None if None in value.values() else min(value.values())
            lines.append(f"{name:24} worst {_number(worst)}  ({parts})")
        else:
            lines.append(f"{name:24} {_number(value)}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
