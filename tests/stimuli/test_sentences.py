"""Texts tell what their labels say, in the split and the person that were asked for, and phrases are told apart."""

from collections import Counter

import numpy as np
import pytest

from personalib.stimuli.factors import elements, inflect, load_leads
from personalib.stimuli.grammar import SPLITS, element_phrasings, load_asides
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts, element_texts

EVERYTHING = 10_000


def pool(label, split):
    """The clauses that tell an element, or nothing."""
    return load_asides()[split] if label == NEUTRAL else element_phrasings()[label][split]


@pytest.mark.parametrize("split", SPLITS)
def test_every_text_is_a_phrasing_of_its_element_and_of_no_other(split):
    found = element_texts(split, EVERYTHING)
    owners = {
        inflect(clause, person): label
        for label in found.classes
        for clause in pool(label, split)
        for person in ("first", "second")
    }
    assert [owners[text] for text in found.texts] == list(found.labels)
    assert set(found.labels) == {*((each.factor, each.key) for each in elements()), NEUTRAL}
    assert Counter(found.labels) == {label: len(pool(label, split)) for label in found.classes}, "none is left out"
    assert len(set(found.texts)) == len(found.texts)


def test_no_text_is_in_both_splits_in_any_person():
    said = {
        split: {
            text
            for person in ("first", "second", "third")
            for text in element_texts(split, EVERYTHING, person=person).texts
        }
        for split in SPLITS
    }
    assert said["train"] and said["held_out"] and not said["train"] & said["held_out"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_text_is_a_lead_and_its_phrase(split):
    found = element_texts(split, EVERYTHING)
    leads = ("", *load_leads())
    for text, phrase in zip(found.texts, found.phrases, strict=True):
        assert text in {inflect(lead + phrase, person) for lead in leads for person in ("first", "second")}
        assert phrase not in {lead + other for lead in load_leads() for other in set(found.phrases)}


def test_a_phrase_stands_in_several_sentences_but_for_one_element():
    both = [element_texts(split, EVERYTHING) for split in SPLITS]
    owners = {(phrase, label) for each in both for phrase, label in zip(each.phrases, each.labels, strict=True)}
    assert len(owners) == len({phrase for phrase, _ in owners})
    assert max(Counter(both[0].phrases).values()) > 3


def test_the_same_seed_gives_the_same_texts_as_many_of_each_element_as_were_asked_for():
    one, same, other = (element_texts("train", 7, seed) for seed in (1, 1, 2))
    assert one == same and set(one.texts) != set(other.texts)
    assert one.labels == other.labels and set(Counter(one.labels).values()) == {7}


@pytest.mark.parametrize(
    ("person", "told"), [("first", ["my"]), ("second", ["your"]), ("third", ["their"]), (None, ["my", "your"])]
)
def test_texts_are_told_in_the_person_that_was_asked_for_or_in_the_first_and_the_second(person, told):
    words = Counter(word for text in element_texts("train", 20, person=person).texts for word in text.lower().split())
    assert {word for word in ("my", "your", "their") if words[word] > 50} == set(told)


def test_codes_count_labels_in_order_of_first_mention():
    labels = (("b", "x"), NEUTRAL, ("a", "y"), ("b", "x"), ("a", "y"))
    made = LabelledTexts(tuple("vwxyz"), labels, tuple("vwxyz"))
    assert made.classes == (("b", "x"), NEUTRAL, ("a", "y"))
    np.testing.assert_array_equal(made.codes, [0, 1, 2, 0, 2])


@pytest.mark.parametrize(("labels", "phrases"), [(1, 2), (2, 1), (3, 2), (2, 0)])
def test_each_text_has_a_label_and_a_phrase(labels, phrases):
    with pytest.raises(ValueError, match="one label and one phrase for each text"):
        LabelledTexts(("a", "b"), (NEUTRAL,) * labels, ("a",) * phrases)


def test_texts_of_some_phrases_keep_their_labels_and_the_neutral_ones():
    texts = element_texts("train", 10, seed=0)
    chosen = {texts.phrases[number] for number in (0, 20, 40)}
    kept = texts.of_phrases(chosen)
    told = [row for row in zip(kept.texts, kept.labels, kept.phrases, strict=True) if row[1] != NEUTRAL]
    assert {phrase for *_, phrase in told} == chosen
    assert set(told) <= set(zip(texts.texts, texts.labels, texts.phrases, strict=True))
    assert kept.labels.count(NEUTRAL) == texts.labels.count(NEUTRAL) == 10
    assert set(texts.of_phrases(()).labels) == {NEUTRAL}
