"""A probe finds what is linear, a coordinate what lies along one, and random directions less than the probe."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from personalib.features.report import ElementActivations, baselines
from personalib.models.activations import Activations
from personalib.models.parts import Site
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

WIDTH, SITE = 48, Site(2)
UP, DOWN, OBLIQUE, NOWHERE = LABELS = [("a", "up"), ("a", "down"), ("b", "oblique"), ("b", "nowhere")]
_OBLIQUE = np.where(np.random.default_rng(5).random(WIDTH) < 0.5, -1, 1) / np.sqrt(WIDTH)
# What one token of a text has where the text tells an element; nothing tells the last one.
DIRECTIONS = {UP: 8 * np.eye(WIDTH)[3], DOWN: -8 * np.eye(WIDTH)[20], OBLIQUE: 8 * _OBLIQUE}


def told(split, each=30):
    labels = [label for label in (*LABELS, NEUTRAL) for _ in range(each)]
    texts = tuple(f"{split} {number}" for number in range(len(labels)))
    return LabelledTexts(texts, tuple(labels), texts)


def stored(texts, folder, seed):
    """Activations of two to five tokens a text, of noise and of what the text tells."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 6, len(texts.texts))
    offsets = np.cumsum([0, *lengths])
    values = rng.normal(size=(offsets[-1], WIDTH))
    for start, length, label in zip(offsets, lengths, texts.labels, strict=False):
        values[start + rng.integers(length)] += DIRECTIONS.get(label, 0)
    folder.mkdir()
    np.save(folder / f"{SITE}.npy", values.astype(np.float32))
    return Activations(folder, offsets, (SITE,))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    train, held_out = told("train"), told("held_out")
    activations = {"train": stored(train, folder / "train", 0), "held_out": stored(held_out, folder / "held_out", 1)}
    return ElementActivations({"train": train, "held_out": held_out}, activations)


@pytest.fixture(scope="module")
def scores(given):
    """The scores by baseline and element."""
    table = baselines(given, SITE, directions=16)
    return table, table.set_index(["baseline", "element"])["auroc"]


def test_there_is_a_row_for_each_element_and_baseline(scores):
    table, _ = scores
    assert list(table.columns) == ["factor", "element", "baseline", "auroc"]
    assert list(zip(table["baseline"], table["factor"], table["element"], strict=True)) == [
        (name, *label) for name in ("probe", "coordinate", "random") for label in LABELS
    ]
    assert table["auroc"].between(0, 1).all()


def test_the_probe_finds_what_is_linear(scores):
    probe = scores[1]["probe"]
    assert (probe[["up", "down", "oblique"]] > 0.95).all() and 0.25 < probe["nowhere"] < 0.75


def test_a_coordinate_finds_what_lies_along_one_up_or_down(scores):
    coordinate = scores[1]["coordinate"]
    assert (coordinate[["up", "down"]] > 0.97).all()
    assert coordinate["oblique"] < 0.8 and coordinate["nowhere"] < 0.7


def test_random_directions_are_below_the_probe(scores):
    random, probe = scores[1]["random"], scores[1]["probe"]
    told = ["up", "down", "oblique"]
    assert (random[told] < probe[told]).all() and random[told].mean() < probe[told].mean() - 0.05
    assert random["nowhere"] < 0.75


def test_the_probe_is_a_logistic_regression_on_means_over_tokens(given, scores):
    def means(activations):
        return np.array(
            [activations.text(SITE, number).astype(float).mean(0) for number in range(len(activations.offsets) - 1)]
        )

    (train, held_out), (activations, later) = given.texts.values(), given.activations.values()
    scaler = StandardScaler().fit(means(activations))
    for label in LABELS:
        own, other = ([each == label for each in texts.labels] for texts in (train, held_out))
        fitted = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        fitted.fit(scaler.transform(means(activations)), own)
        expected = roc_auc_score(other, fitted.decision_function(scaler.transform(means(later))))
        assert scores[1]["probe", label[1]] == pytest.approx(expected)


def test_a_coordinate_is_chosen_on_the_texts_of_the_search_and_scored_on_the_others(given, scores):
    def most(activations, sign):
        texts = range(len(activations.offsets) - 1)
        return np.array([(sign * activations.text(SITE, number)).max(0) for number in texts])

    (train, held_out), (activations, later) = given.texts.values(), given.activations.values()
    before, after = (np.hstack([most(each, 1), most(each, -1)]) for each in (activations, later))
    for label in (DOWN, OBLIQUE):
        own, other = ([each == label for each in texts.labels] for texts in (train, held_out))
        chosen = int(np.argmax([roc_auc_score(own, column) for column in before.T]))
        assert scores[1]["coordinate", label[1]] == pytest.approx(roc_auc_score(other, after[:, chosen]))
        assert (chosen == WIDTH + 20) == (label == DOWN)


def test_the_seed_gives_the_random_directions_and_nothing_else(given, scores):
    again, other = (baselines(given, SITE, directions=16, seed=seed) for seed in (0, 1))
    assert again.equals(scores[0])
    same = other["auroc"] == scores[0]["auroc"]
    assert same[other["baseline"] != "random"].all() and not same[other["baseline"] == "random"].all()


def test_more_directions_come_nearer(given):
    few, many = (
        baselines(given, SITE, directions=count).set_index(["baseline", "element"])["auroc"]["random"]
        for count in (2, 2000)
    )
    assert many[["up", "down", "oblique"]].mean() > few[["up", "down", "oblique"]].mean() + 0.1
