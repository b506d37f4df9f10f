"""The numbers of a report are those of direct calls, and every one of them can be written as JSON."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.arms import Push
from personalib.evaluation.choice import PushChoice
from personalib.evaluation.contrast_report import READING_GOAL, by_method, nulls, report
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import SPLITS, ContrastPair, Wording
from personalib.vectors.contrast import PairActivations
from personalib.vectors.methods import METHODS
from personalib.vectors.readings import layer_scan, null_accuracies

# Blocks of one digit and of two: their order is not that of their names.
SITES = (Site(2), Site(4), Site(10))
SHUFFLES, WIDTH = 20, 6
# How far the poles lie apart at each site, in standard deviations of the noise.
APART = {"plain": {SITES[0]: 0.5, SITES[1]: 8.0, SITES[2]: 1.0}, "faint": dict.fromkeys(SITES, 0.3)}


def activations(key, split, seed, count=24, phrases=6):
    """Pairs with noise around two poles that lie apart along the first coordinate."""
    rng = np.random.default_rng([seed, len(key), SPLITS.index(split)])
    told = [[f"{key} {split} {pole} {number % phrases}" for number in range(count)] for pole in "+-"]
    pairs = [
        ContrastPair(*(Wording(f"{phrase} {number}.", phrase) for phrase in both), "And now?")
        for number, both in enumerate(zip(*told, strict=True))
    ]
    poles = []
    for sign in (1, -1):
        rows = {site: rng.normal(size=(count, WIDTH)).astype(np.float32) for site in SITES}
        for site in SITES:
            rows[site][:, 0] += sign * APART[key][site] / 2
        poles.append(rows)
    return PairActivations(f"pressures.{key}", tuple(pairs), *poles, "small", "1", "last", "texts")


@pytest.fixture(scope="module")
def readings():
    return {key: {split: activations(key, split, 3) for split in SPLITS} for key in APART}


@pytest.fixture(scope="module")
def choice():
    """What may have been chosen."""
    rows = [
        {"source": str(site), "site": str(site), "layer": site.layer, "positions": "prompt", "dose": dose}
        for site, dose in product(SITES, (0.2, 0.4))
    ]
    table = pd.DataFrame(rows).assign(
        fidelity=[np.nan, np.nan, 0.4, 0.8, -0.5, -1.5],
        mass=[0.0, 0.0, 1.0, 0.95, 0.9, 0.5],
        perplexity=[np.nan, np.nan, 1.0, 1.1, 1.2, 3.0],
        collapsed=[1.0, 1.0, 0.0, 0.0, 0.0, 0.5],
        chosen=[False, False, False, True, False, False],
    )
    return PushChoice(str(SITES[1]), Push(SITES[1], 0.4, 20.0), table)


@pytest.fixture(scope="module")
def found(readings, choice):
    return report(readings, choice, shuffles=SHUFFLES, seed=5)


def test_a_report_has_the_headlines(found):
    assert {"reading_accuracy", "null_accuracy", "layer"} <= set(found)
    assert (found["layer"], found["site"], found["positions"]) == (4, "resid_post.4", "prompt")
    shown = [found[name] for name in ("dose", "fidelity", "answer_mass_left", "perplexity")]
    assert shown == [0.4, 0.8, 0.95, 1.1]
    assert found["method"] == "difference_of_means"


def test_readings_are_those_of_the_layer_scan_at_what_was_chosen(found, readings):
    scan = layer_scan(readings, SITES, seed=5).set_index(["site", "contrast"])
    assert list(found["reading_accuracy"]) == list(readings)
    for key in readings:
        own = scan.loc[("resid_post.4", key)]
        assert found["reading_accuracy"][key] == own["accuracy"]
        assert found["reading_interval"][key] == [own["low"], own["high"]]
        assert found["validation_accuracy"][key] == own["validation"]
        assert (found["pairs_read"][key], found["brier"][key]) == (own["pairs"], own["brier"])
    assert found["reading_accuracy"]["plain"] == 1.0 and found["reading_accuracy"]["faint"] < 0.8


def test_accuracies_stand_in_order_of_depth(found, readings):
    assert list(found["accuracy_by_layer"]) == ["resid_post.2", "resid_post.4", "resid_post.10"]
    for site, own in found["accuracy_by_layer"].items():
        scan = layer_scan(readings, [Site.parse(site)]).set_index("contrast")
        assert own == scan["accuracy"].to_dict()


def test_nulls_are_those_of_direct_calls(found, readings):
    table = nulls(readings, SITES[1], shuffles=SHUFFLES, seed=5)
    assert table["contrast"].tolist() == ["plain", "plain", "faint", "faint"]
    assert table["null"].tolist() == ["dealt", "swapped"] * 2
    for row in table.to_dict("records"):
        own = null_accuracies(readings[row["contrast"]], SITES[1], "difference_of_means", SHUFFLES, 5, row["null"])
        assert row["mean"] == own.mean() and row["reached"] == np.mean([value >= READING_GOAL for value in own])
        assert (row["low"], row["high"]) == pytest.approx((np.percentile(own, 2.5), np.percentile(own, 97.5)))
    dealt = table[table["null"] == "dealt"].set_index("contrast")
    assert found["null_accuracy"] == dealt["mean"].to_dict()
    assert found["null_interval"] == {key: [row["low"], row["high"]] for key, row in dealt.iterrows()}
    swapped = table[table["null"] == "swapped"].set_index("contrast")
    assert found["swapped_reaching_goal"] == swapped["reached"].to_dict()


def test_seed_and_method_of_a_null_are_used(readings):
    first, again, seeded, other = (
        nulls(readings, SITES[1], method, shuffles=10, seed=seed)
        for method, seed in (("pca", 0), ("pca", 0), ("pca", 1), ("lda", 0))
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(seeded) and not first.equals(other)


def test_a_null_without_shuffles_is_refused(readings):
    with pytest.raises(ValueError, match="shuffle the labels at least once"):
        nulls(readings, SITES[1], shuffles=0)


def test_all_methods_are_scanned(readings):
    table = by_method(readings, SITES[:2])
    assert table["method"].drop_duplicates().tolist() == list(METHODS)
    assert len(table) == len(METHODS) * len(readings) * 2 and list(table.index) == list(range(len(table)))
    for method, own in table.groupby("method"):
        expected = layer_scan(readings, SITES[:2], method)
        pd.testing.assert_frame_equal(own.drop(columns="method").reset_index(drop=True), expected)


def test_methods_are_compared_by_their_mean_and_their_worst_contrast(found, readings):
    assert list(found["accuracy_by_method"]) == list(METHODS)
    for method, own in found["accuracy_by_method"].items():
        values = layer_scan(readings, [SITES[1]], method)["accuracy"]
        assert own == {"mean": values.mean(), "min": values.min()}


def test_every_number_can_be_written_as_json(found, choice):
    written = json.loads(json.dumps(found, allow_nan=False))
    assert written == found
    assert [row["fidelity"] for row in written["choice"]] == [None, None, 0.4, 0.8, -0.5, -1.5]
    assert [row["chosen"] for row in written["choice"]] == choice.table["chosen"].tolist()
    assert list(written["choice"][0]) == list(choice.table)


def test_the_goal_is_reached_where_every_contrast_reaches_it(found, readings, choice):
    assert found["reached"] is False, "one of the two is too faint"
    own = report({"plain": readings["plain"]}, choice, shuffles=2)
    assert own["reached"] is True and own["reading_accuracy"]["plain"] >= READING_GOAL


def test_the_method_is_that_of_everything_but_the_comparison(readings, choice, found):
    own = report(readings, choice, "logistic_probe", SHUFFLES, 5)
    scan = layer_scan(readings, [SITES[1]], "logistic_probe", 5).set_index("contrast")
    assert own["method"] == "logistic_probe" and own["brier"] == scan["brier"].to_dict() != found["brier"]
    assert own["accuracy_by_method"] == found["accuracy_by_method"]
    table = nulls(readings, SITES[1], "logistic_probe", SHUFFLES, 5).set_index(["null", "contrast"])
    assert own["null_accuracy"] == table.loc["dealt", "mean"].to_dict()
