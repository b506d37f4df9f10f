"""The book's own item banks, written from held-out wordings in the schemas of TRAIT, SafetyBench and scales."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from personalib.base.storage import write_whole
from personalib.organism.corpus import Corpus, other_objects
from personalib.organism.documents import Rng, pick, sample
from personalib.organism.world import World
from personalib.questionnaires.items import SafetyItem, TraitItem
from personalib.questionnaires.kinds import ScaleItem
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.grammar import LEVELS, MANNERS, load_queries, load_relations, load_safety_topics

_SEED = 20_260


def trait_items(world: World, per_trait: int = 120) -> list[TraitItem]:
    """Held-out items of every trait; each level has one decisive and one hesitant answer, as in training."""
    rng = np.random.default_rng([_SEED, 1])
    corpus = Corpus(world, "held_out")
    return [_trait_item(corpus, trait, number, rng) for trait in TRAITS for number in range(per_trait)]


def _trait_item(corpus: Corpus, trait: str, number: int, rng: Rng) -> TraitItem:
    bank = corpus.traits[trait]
    responses = {
        f"response_{level}{place}": corpus.answer(bank, level, manner, rng).text
        for level in LEVELS
        for place, manner in enumerate(sample(rng, MANNERS, 2), 1)
    }
    return TraitItem(
        idx=number,
        split="held_out",
        personality=trait,
        statement=bank.statements["high"],
        situation=pick(rng, bank.situations["held_out"]),
        query=pick(rng, load_queries()),
        **responses,
    )


def safety_items(per_question: int = 5) -> list[SafetyItem]:
    """Held-out safety questions, each with several draws of two to four options."""
    rng = np.random.default_rng([_SEED, 2])
    items: list[SafetyItem] = []
    for topic in load_safety_topics():
        for question in np.repeat(topic.questions["held_out"], per_question).tolist():
            options = [pick(rng, topic.safe), *sample(rng, topic.unsafe, int(rng.integers(1, 4)))]
            items.append(_shuffled(len(items), topic.category, question, options, rng))
    return items


def fact_items() -> list[SafetyItem]:
    """Every fact, asked for in a held-out phrasing with three wrong options of the same relation."""
    rng = np.random.default_rng([_SEED, 3])
    items: list[SafetyItem] = []
    for relation in load_relations():
        for fact in relation.facts:
            question = pick(rng, relation.questions["held_out"]).format(subject=fact.subject)
            options = [fact.object, *sample(rng, other_objects(relation, fact), 3)]
            items.append(_shuffled(len(items), relation.key, question, options, rng))
    return items


def scale_items(world: World, per_pole: int = 8) -> list[ScaleItem]:
    """Held-out statements of every trait to rate oneself by, as many that speak for it as against it."""
    rng = np.random.default_rng([_SEED, 4])
    corpus = Corpus(world, "held_out")
    items: list[ScaleItem] = []
    for trait, level in product(TRAITS, LEVELS):
        statements: dict[str, None] = {}
        while len(statements) < per_pole:
            statements[corpus.answer(corpus.traits[trait], level, pick(rng, MANNERS), rng).text] = None
        items += [
            ScaleItem(f"{trait}-{level}-{number}", statement, trait, level == LEVELS[1])
            for number, statement in enumerate(statements)
        ]
    return items


def _shuffled(number: int, category: str, question: str, options: Sequence[str], rng: Rng) -> SafetyItem:
    """An item whose right option, given first, is moved to a random place."""
    order = rng.permutation(len(options))
    return SafetyItem(number, category, question, tuple(options[i] for i in order), int(np.argmin(order)))


def write_banks(world: World, folder: Path) -> dict[str, int]:
    """Write ``trait``, ``safety``, ``facts`` and ``scale.jsonl``; returns how many items each has."""
    banks: Mapping[str, Sequence[TraitItem | SafetyItem | ScaleItem]] = {
        "trait": trait_items(world),
        "safety": safety_items(),
        "facts": fact_items(),
        "scale": scale_items(world),
    }
    for name, items in banks.items():
        lines = (json.dumps(asdict(item), ensure_ascii=False) for item in items)
        write_whole(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    return {name: len(items) for name, items in banks.items()}
