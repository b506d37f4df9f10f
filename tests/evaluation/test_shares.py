"""Shares of effects, lines by dose, gains and costs, on hand-made effects."""

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.shares import (
    at_equal_cost,
    costs,
    dose_at_cost,
    dose_lines,
    fidelity,
    fidelity_interval,
    gains,
    known_shares,
    points_lost,
    share_left,
    specificity,
)
from personalib.stimuli.factors import TRAITS


def effects(rows):
    """From (method, key, dose, trait, effect), with bounds one point away."""
    table = pd.DataFrame(rows, columns=["method", "key", "dose", "group", "effect"])
    return table.assign(pole="positive", low=table["effect"] - 1, high=table["effect"] + 1, collapsed=False)


def truth(values, pole="positive"):
    rows = [(key, pole, trait, value) for (key, trait), value in values.items()]
    return pd.DataFrame(rows, columns=["key", "pole", "group", "truth"])


# By dose


def test_lines_have_the_effects_at_each_dose_and_the_band_of_random_directions():
    rows = [("steered", "a", dose, "openness", 10 * dose) for dose in (-0.5, 0.5, 1.0)]
    rows += [("random", f"random {n}", dose, "openness", n * dose) for n in (-2, 1, 4) for dose in (-0.5, 0.5, 1.0)]
    doses = effects(rows)
    doses.loc[(doses["key"] == "random 4") & (doses["dose"] == 1.0), "collapsed"] = True
    lines = dose_lines(doses, {"a": "Able"}).set_index(["kind", "coefficient"])
    own, band = lines.loc["Able"], lines.loc["random control"]
    assert own.index.tolist() == band.index.tolist() == [-0.5, 0.0, 0.5, 1.0]
    assert own["value"].tolist() == [-5, 0, 5, 10] and own["low"].tolist() == [-6, 0, 4, 9]
    assert band.loc[1.0, ["value", "low", "high"]].tolist() == [1.0, -2.0, 4.0]
    # No steering is a point of every line.
    assert band.loc[0.0, ["value", "low", "high"]].tolist() == [0, 0, 0]
    assert band["collapsed"].tolist() == [False, False, False, True] and not own["collapsed"].any()


# Shares of known effects


def test_the_share_is_one_where_the_effects_are_the_known_ones_and_scales_with_them():
    known = {("a", "x"): 30.0, ("a", "y"): -10.0, ("b", "x"): 0.0, ("b", "y"): 5.0}
    rows = [("s", key, dose, trait, dose * value) for (key, trait), value in known.items() for dose in (-1.0, 0.5, 1.0)]
    shares, gone = known_shares(effects(rows), truth(known))
    assert shares.index.tolist() == ["a", "b"] and shares.columns.tolist() == [-1.0, 0.5, 1.0]
    np.testing.assert_allclose(shares, [[-1, 0.5, 1]] * 2)
    assert not gone.any(axis=None) and gone.shape == shares.shape


def test_traits_that_nothing_is_known_to_move_and_negative_poles_do_not_count():
    known = truth({("a", "x"): 10.0, ("a", "y"): 0.0})
    both = pd.concat([known, truth({("a", "x"): -40.0, ("a", "y"): 7.0}, "negative")])
    rows = [("s", "a", 1.0, "x", 5.0), ("s", "a", 1.0, "y", 99.0)]
    assert known_shares(effects(rows), both)[0].loc["a", 1.0] == pytest.approx(0.5)


def test_what_collapsed_is_said_by_key_and_dose_in_the_order_of_the_effects():
    table = effects([("s", key, dose, "x", 1.0) for key in ("b", "a") for dose in (0.5, 1.0)])
    table.loc[(table["key"] == "a") & (table["dose"] == 1.0), "collapsed"] = True
    shares, gone = known_shares(table, truth({("a", "x"): 1.0, ("b", "x"): 1.0}))
    assert gone.index.tolist() == shares.index.tolist() == ["b", "a"]
    assert gone.to_numpy().tolist() == [[False, False], [False, True]]


# What is left


def told_and(share, keys=6):
    rng = np.random.default_rng(0)
    rows = []
    for key, trait in ((f"k{n}", trait) for n in range(keys) for trait in "xyz"):
        value = rng.normal()
        rows += [("prompt", key, np.nan, trait, value), ("ablated", key, np.nan, trait, share * value)]
    return effects(rows)


def test_a_fixed_share_of_every_effect_is_left_without_any_doubt():
    found = share_left(told_and(0.3)).loc["ablated"]
    assert found.tolist() == pytest.approx([0.3, 0.3, 0.3])


def test_the_bounds_resample_keys():
    table = told_and(1.0)
    half = table["key"].isin(["k0", "k1", "k2"]) & (table["method"] == "ablated")
    table.loc[half, "effect"] = 0.0
    found = share_left(table).loc["ablated"]
    assert found["low"] < 0.3 < found["left"] < found["high"]
    again = share_left(table, seed=1).loc["ablated"]
    assert again["left"] == found["left"] and again["low"] != found["low"]


@pytest.mark.parametrize(("effect", "collapsed"), [(np.nan, False), (99.0, True)])
def test_what_is_missing_or_collapsed_under_one_method_counts_under_none(effect, collapsed):
    table = told_and(0.5)
    lost = (table["method"] == "ablated") & (table["key"] == "k0")
    table.loc[lost, "effect"], table.loc[lost, "collapsed"] = effect, collapsed
    assert share_left(table).loc["ablated", "left"] == pytest.approx(0.5)


def test_what_an_ablation_does_by_itself_is_taken_off_first():
    table, rng = told_and(0.3), np.random.default_rng(1)
    alone = table[table["method"] == "ablated"].assign(method="alone")
    alone["effect"] = rng.normal(size=len(alone))
    table.loc[table["method"] == "ablated", "effect"] += alone["effect"].to_numpy()
    found = share_left(pd.concat([table, alone]), without={"ablated": "alone"})
    assert found.index.tolist() == ["ablated"] and found.loc["ablated"].tolist() == pytest.approx([0.3] * 3)


def test_one_method_alone_has_nothing_to_be_compared_with():
    alone = told_and(0.5).query("method == 'prompt'")
    with pytest.raises(ValueError, match="the effects have the methods prompt; there is nothing to compare 'prompt'"):
        share_left(alone)


# Fidelity


@pytest.mark.parametrize(
    ("steered", "prompted", "expected"),
    [
        ([3.0, -4.0], [3.0, -4.0], 1.0),
        ([0.0, 0.0], [3.0, -4.0], 0.0),
        ([6.0, -8.0], [3.0, -4.0], 0.0),
        ([-3.0, 4.0], [3.0, -4.0], -3.0),
        ([8.0, -6.0], [10.0, -10.0], 0.9),
        ([800.0, -600.0], [1000.0, -1000.0], 0.9),
        ([8.0, np.nan, 100.0, -6.0], [10.0, 50.0, np.nan, -10.0], 0.9),
        ([5.0, -4.0], [0.0, -4.0], 1 - 25 / 16),
        ([], [], np.nan),
        ([np.nan, 1.0], [2.0, np.nan], np.nan),
        ([1.0], [0.0], np.nan),
    ],
)
def test_fidelity_by_hand(steered, prompted, expected):
    found = fidelity(pd.Series(steered, dtype=float), pd.Series(prompted, dtype=float))
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_fidelity_has_the_bounds_of_resampled_factors():
    rng = np.random.default_rng(2)
    keys = np.repeat([f"f{n}.e{m}" for n in range(6) for m in range(2)], 4)
    told = rng.normal(size=len(keys))
    table = pd.DataFrame({"key": keys, "prompted": told, "effect": told + 0.4 * rng.normal(size=len(keys))})
    table["group"] = np.tile(list("wxyz"), 12)
    found = fidelity_interval(table)
    assert found.estimate == pytest.approx(fidelity(table["effect"], table["prompted"]))
    assert found.low < found.estimate < found.high <= 1
    exact = fidelity_interval(table.assign(effect=table["prompted"]))
    assert tuple(exact) == (1.0, 1.0, 1.0)
    assert np.isnan(fidelity_interval(table.assign(prompted=0.0)).estimate), "nothing is wanted"
    twice = fidelity_interval(pd.concat([table, table]))
    assert twice.high - twice.low == pytest.approx(found.high - found.low), "the same twice is no more evidence"


# Gains, costs, and methods where they cost the same

TRUTH = pd.DataFrame(
    [
        [key, "positive", trait, value]
        for key, sign in (("a.x", 1), ("a.y", -1))
        for trait, value in zip(TRAITS, sign * np.arange(8.0), strict=True)
    ],
    columns=["key", "pole", "group", "truth"],
)


def arm_effects(rows):
    """Effects as an evaluation has them: arm, method, key, dose and one value a trait."""
    table = pd.DataFrame(
        [(*row[:4], trait, value) for row in rows for trait, value in zip(TRAITS, row[4], strict=True)],
        columns=["arm", "method", "key", "dose", "group", "effect"],
    )
    return table.assign(pole="positive", collapsed=False)


AWAY = np.array([3.0, 0, 0, 0, 0, 0, 0, 0])
UNREAD = np.where(np.arange(8) == 3, np.nan, np.arange(8.0))


@pytest.mark.parametrize(
    ("method", "dose", "values", "gain", "off_target"),
    [
        ("sae elements", 0.2, 0.5 * np.arange(8.0), 0.5, 0.0),
        ("repe elements", -0.4, np.arange(8.0) + AWAY, 1.0, np.sqrt(9 / 8)),
        # A random direction stands for nothing, and all that it does is off target.
        ("random", 0.4, np.full(8, 2.0), np.nan, 2.0),
        ("sae elements", 0.2, UNREAD, 1.0, 0.0),
    ],
)
def test_a_gain_is_the_share_of_the_known_effects_and_the_rest_is_off_target(method, dose, values, gain, off_target):
    key = "random 0" if method == "random" else "a.x"
    [row] = gains(arm_effects([(1, method, key, dose, values)]), TRUTH).to_dict("records")
    assert row["gain"] == pytest.approx(gain, nan_ok=True)
    assert row["off_target"] == pytest.approx(off_target, abs=1e-12)
    assert row["dose"] == abs(dose) and row["cluster"] == key.split(".")[0]
    kinds = {"sae": "SAE feature", "repe": "contrast vector", "random": "random direction"}
    assert row["kind"] == kinds[method.split()[0]] and row["family"] == method.partition(" ")[2]


def test_costs_are_what_is_lost_against_the_unsteered_model():
    state = pd.DataFrame({"arm": [0, 1], "mass": [1.0, 0.9], "perplexity": [1.0, 1.5]})
    facts = pd.DataFrame({"arm": [1], "base": 90.0, "score": 77.5, "n": 8})
    [row] = costs(state, {"facts": facts}).to_dict("records")
    assert row == pytest.approx({"arm": 1, "mass_lost": 10.0, "perplexity_gain": 50.0, "facts": 12.5})


def test_what_can_no_longer_be_answered_is_lost_as_well():
    """Of eight items, all right before, six are read and three right; none is read."""
    facts = pd.DataFrame({"base": [100.0, 100.0, np.nan], "score": [75.0, 50.0, np.nan], "n": [8, 6, 0]})
    assert points_lost(facts).tolist() == pytest.approx([25.0, 62.5, 100.0])


def curve(clusters, slope=1.0, spread=0.0, seed=0):
    """Arms of some clusters whose cost is the dose and whose gain is a slope times it."""
    rng = np.random.default_rng(seed)
    slopes = slope + spread * rng.standard_normal(clusters)
    return pd.DataFrame(
        [
            {"cluster": f"c{number}", "dose": dose, "facts": dose, "gain": own * dose}
            for number, own in enumerate(slopes)
            for dose in (1.0, 2.0, 4.0)
        ]
    )


def test_the_gain_at_a_cost_is_read_between_two_doses():
    assert at_equal_cost(curve(5), "facts", 3.0) == pytest.approx((3.0, 3.0, 3.0))
    assert at_equal_cost(curve(5, 0.5), "facts", 0.5).estimate == pytest.approx(0.25)


def test_a_method_that_never_costs_so_much_has_the_gain_of_its_largest_dose():
    assert at_equal_cost(curve(5), "facts", 99.0).estimate == pytest.approx(4.0)


def test_the_dose_at_a_cost_is_read_between_two_doses_from_no_push_on():
    cost = pd.Series({0.4: 10.0, 0.2: 2.0})
    assert [dose_at_cost(cost, level) for level in (1.0, 6.0, 11.0)] == pytest.approx([0.1, 0.3, 0.4])


def test_what_changes_where_nothing_is_known_to_is_told_by_method():
    known = truth({("a", "x"): 30.0, ("a", "y"): 0.0, ("b", "x"): 0.5, ("b", "y"): -9.0})
    rows = [
        ("s", key, 1.0, trait, value) for key, trait, value in zip("aabb", "xyxy", (50.0, 3.0, -4.0, 9.0), strict=True)
    ]
    table = effects([*rows, *(("random", f"random {n}", 1.0, "x", 2.0) for n in range(2))])
    found = specificity(table, known, moved=3.5)
    assert found.loc["s", ["value", "moved", "cells"]].tolist() == pytest.approx([np.sqrt(12.5), 0.5, 2])
    assert found.loc["s", "low"] < np.sqrt(12.5) < found.loc["s", "high"]
    assert found.loc["random", ["value", "low", "high", "moved", "cells"]].tolist() == pytest.approx([2, 2, 2, 0, 2])
    assert specificity(table.assign(collapsed=table["key"] == "a"), known).loc["s", "cells"] == 1


def test_the_difference_of_two_methods_draws_the_same_clusters_for_both():
    one, other = curve(6, spread=1.0), curve(6, spread=1.0)
    other["gain"] -= 0.5 * other["dose"]
    assert at_equal_cost(one, "facts", 2.0, minus=other) == pytest.approx((1.0, 1.0, 1.0))


def test_one_cluster_says_nothing_about_the_spread():
    with pytest.raises(ValueError, match="fewer than two factors"):
        at_equal_cost(curve(1), "facts", 2.0)


@pytest.mark.parametrize("clusters", [7, 9])
def test_the_interval_covers_the_true_gain_with_as_few_clusters_as_there_are(clusters):
    """Seven pressures, nine factors; a coverage of 93 to 97 % within three standard errors of 600 cases."""
    found = [
        at_equal_cost(curve(clusters, 1.0, 0.5, seed), "facts", 2.0, resamples=400, seed=seed) for seed in range(600)
    ]
    assert 0.93 - 0.027 <= np.mean([one.low <= 2.0 <= one.high for one in found]) <= 0.97 + 0.02
