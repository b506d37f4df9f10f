"""Opposites that share a feature are told from those that have one each."""

import numpy as np
import pytest
from scipy.sparse import csc_array
from sklearn.metrics import roc_auc_score

from personalib.features.discovery import FeatureTexts, confusion, name, superposition
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

AGE, GENDER = [("age", "young"), ("age", "older")], [("gender", "female"), ("gender", "male"), ("gender", "other")]
ALONE = ("work", "idle")
EACH, WIDTH = 30, 12


def texts_of(labels):
    made = [f"{label} {number}" for label in labels for number in range(EACH)]
    return LabelledTexts(tuple(made), tuple(label for label in labels for _ in range(EACH)), tuple(made))


def planted(*features, labels=(*AGE, *GENDER, ALONE, NEUTRAL)):
    """Texts with some noise, and features that each fire on the texts of some labels."""
    texts, rng = texts_of(labels), np.random.default_rng(0)
    shape = len(texts.texts), WIDTH
    dense = rng.uniform(0.1, 0.5, shape) * (rng.random(shape) < 0.1)
    for number, told in features:
        fires = np.array([label in told for label in texts.labels]) & (rng.random(shape[0]) < 0.95)
        dense[fires, number] = rng.uniform(1, 2, fires.sum())
    return FeatureTexts(texts, csc_array(dense))


def by_element(table):
    return {(row.factor, row.element): row for row in table.itertuples()}


def test_a_feature_of_a_factor_is_shared_by_its_elements():
    found = by_element(superposition(planted((4, AGE), (5, GENDER[:1]), (6, GENDER[1:2]), (7, GENDER[2:]))))
    for label in AGE:
        assert found[label].feature == 4 and found[label].shared is True
        assert found[label].others > 0.95 and found[label].opposites == pytest.approx(0.5, abs=0.15)
    for label, feature in zip(GENDER, (5, 6, 7), strict=True):
        assert found[label].feature == feature and found[label].shared is False
        assert found[label].others > 0.95 and found[label].opposites > 0.95


def test_some_elements_of_a_factor_may_share_and_others_not():
    found = by_element(superposition(planted((4, GENDER[:2]), (5, GENDER[2:]), (6, AGE[:1]), (7, AGE[1:]))))
    assert [found[label].shared for label in (*GENDER, *AGE)] == [True, True, False, False, False]
    assert found[GENDER[0]].opposites == pytest.approx(0.75, abs=0.1), "of two opposites one shares the feature"


def test_one_feature_for_elements_of_two_factors_is_not_shared_with_an_opposite():
    """Its texts of the other factor count against it, but no better feature is there."""
    features = [(4, [AGE[0], GENDER[0]]), (5, AGE[1:]), (6, GENDER[1:2]), (7, GENDER[2:])]
    found = by_element(superposition(planted(*features)))
    assert found[AGE[0]].feature == found[GENDER[0]].feature == 4
    assert not any(row.shared for row in found.values())
    assert found[AGE[0]].others < 0.95 < found[AGE[0]].opposites


def test_opposites_are_left_out_of_the_search_and_of_its_score():
    own = planted((4, AGE), (5, GENDER[:1]), (6, GENDER[1:2]), (7, GENDER[2:]))
    dense, labels = own.pooled.toarray(), own.texts.labels
    for label, row in by_element(superposition(own)).items():
        column, told = dense[:, row.feature], np.array([each == label for each in labels])
        factor = np.array([each[0] == label[0] for each in labels])
        kept = told | ~factor
        scores = [roc_auc_score(told[kept], dense[kept, number]) for number in range(WIDTH)]
        assert row.others == pytest.approx(max(scores)) == pytest.approx(scores[row.feature])
        assert row.opposites == pytest.approx(roc_auc_score(told[factor], column[factor]))


def test_the_only_element_of_a_factor_is_left_out():
    found = superposition(planted((4, AGE)))
    assert list(zip(found["factor"], found["element"], strict=True)) == [*AGE, *GENDER]
    assert list(found.columns) == ["factor", "element", "feature", "others", "opposites", "shared"]


def test_without_neutral_texts_the_other_factors_stand_against_an_element():
    found = by_element(superposition(planted((4, AGE), (5, GENDER), labels=(*AGE, *GENDER))))
    assert all(row.shared for row in found.values()) and found[AGE[0]].feature == 4 and found[GENDER[0]].feature == 5


def test_confusion_is_the_area_against_each_other_label_alone():
    rng = np.random.default_rng(2)
    labels = [("gender", "female"), ("age", "young"), NEUTRAL] * 12
    texts = LabelledTexts(tuple(map(str, range(36))), tuple(sorted(labels, reverse=True)), tuple(map(str, range(36))))
    values = rng.random((36, 2)).round(1)
    table = confusion(FeatureTexts(texts, csc_array(values)), {("gender", "female"): 1, ("age", "young"): 0})
    assert list(table.columns) == [name(label) for label in texts.classes] and "neutral" in table
    for (own, column), place in zip((("gender.female", 1), ("age.young", 0)), (0, 1), strict=True):
        for other in set(table.columns) - {own}:
            chosen = [number for number, label in enumerate(texts.labels) if name(label) in (own, other)]
            truth = [name(texts.labels[number]) == own for number in chosen]
            assert table.loc[own, other] == pytest.approx(roc_auc_score(truth, values[chosen, column]))
        assert np.isnan(table.loc[own, own]), place
