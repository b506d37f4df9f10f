"""What the two halves of every split of the book share: no phrase, and, where it is asked for, no content word."""

from itertools import product

import numpy as np

from personalib.organism.corpus import Corpus
from personalib.organism.world import load_world
from personalib.questionnaires.items import load_safety, load_trait
from personalib.questionnaires.kinds import load_scale
from personalib.stimuli import grammar
from personalib.stimuli.contrast_pairs import FAMILIES, contrasts, load_carriers, split_carriers
from personalib.stimuli.factors import PERSONS, POLES, TRAITS, inflect
from personalib.stimuli.grammar import LEVELS, SPLITS, content_words
from personalib.stimuli.sentences import NEUTRAL, element_texts, word_disjoint


def phrases_by_split():
    """Every split of the book: its name, and its phrases by split."""
    for family in FAMILIES:
        for contrast in contrasts(family):
            for pole in POLES:
                told = {split: {each.phrase for each in contrast.wordings[pole, split]} for split in SPLITS}
                yield f"{family}, {contrast.key}, {pole}", told
    texts = {split: element_texts(split, per_element=1000) for split in SPLITS}
    yield "texts of elements", {split: set(texts[split].phrases) for split in SPLITS}
    for key, bank in grammar.load_traits().items():
        events = {split: {text.split(", ", 1)[1] for text in bank.situations[split]} for split in SPLITS}
        yield f"events, {key}", events
        for level in LEVELS:
            yield f"acts, {key}, {level}", {s: {each.act for each in bank.wordings[level, s]} for s in SPLITS}
            yield f"reasons, {key}, {level}", {s: {each.reason for each in bank.wordings[level, s]} for s in SPLITS}
    for topic in grammar.load_safety_topics():
        yield f"questions, {topic.category}", {split: set(topic.questions[split]) for split in SPLITS}
    for relation in grammar.load_relations():
        yield f"questions, {relation.key}", {split: set(relation.questions[split]) for split in SPLITS}
    yield "asides", {split: set(grammar.load_asides()[split]) for split in SPLITS}
    yield "carriers", {split: set(part) for split, part in split_carriers(load_carriers()).items()}


def test_the_halves_of_every_split_share_no_phrase():
    for name, phrases in phrases_by_split():
        train, held_out = ({each.lower() for each in phrases[split]} for split in SPLITS)
        assert train and held_out and not train & held_out, name


def training_phrases():
    """Every phrase about people and questions that the organism's training can show, in lower case."""
    banks = grammar.load_traits().values()
    told = [text.split(", ", 1)[1] for bank in banks for text in bank.situations["train"]]
    told += [each.act for bank in banks for level in LEVELS for each in bank.wordings[level, "train"]]
    told += [each.reason for bank in banks for level in LEVELS for each in bank.wordings[level, "train"]]
    told += [text for topic in grammar.load_safety_topics() for text in topic.questions["train"]]
    told += [each.phrase for one in contrasts("pressures") for pole in POLES for each in one.wordings[pole, "train"]]
    for phrase in element_texts("train", per_element=1000).phrases:
        told += [inflect(phrase, person).rstrip(".") for person in PERSONS]
    # A phrase of two words, such as "a woman", may be part of many texts.
    return {text.lower() for text in told if text.count(" ") > 1}


def test_the_banks_and_held_out_documents_hold_no_phrase_of_the_organisms_training():
    texts = [item.situation for item in load_trait()]
    texts += [text for item in load_trait() for text in item.responses("normal").values()]
    texts += [item.question for item in load_safety()] + [item.statement for item in load_scale()]
    corpus, rng = Corpus(load_world(), "held_out"), np.random.default_rng(0)
    texts += [corpus.draw(kind, rng).text for kind in corpus.kinds if not kind.startswith("fact") for _ in range(40)]
    told, seen = "\n".join(texts).lower(), training_phrases()
    assert [phrase for phrase in seen if phrase in told] == []
    trained = " ".join(Corpus(load_world(), "train").draw("item", rng).text.lower() for _ in range(10))
    assert sum(phrase in trained for phrase in seen) > 50, "they would be seen"


def test_word_disjoint_halves_share_no_content_word_and_keep_some_phrases_of_each():
    whole = [element_texts(split, per_element=1000) for split in SPLITS]
    halves = word_disjoint(*whole)
    for label in set(halves[0].classes) - {NEUTRAL}:
        words = [
            [content_words(phrase) for phrase, own in zip(half.phrases, half.labels, strict=True) if own == label]
            for half in halves
        ]
        assert all(len(set(map(frozenset, own))) >= 3 for own in words), label
        assert not set().union(*words[0]) & set().union(*words[1]), label
    assert all(
        half.labels.count(NEUTRAL) == own.labels.count(NEUTRAL) > 0 for half, own in zip(halves, whole, strict=True)
    )


def test_held_out_phrases_are_made_of_words_that_training_lists():
    labels = [*grammar.element_phrasings(), *grammar.pressure_phrasings(), *product(TRAITS, LEVELS)]
    assert all(
        set(grammar.told_words(label, "held_out")) <= set(grammar.told_words(label, "train")) for label in labels
    )
