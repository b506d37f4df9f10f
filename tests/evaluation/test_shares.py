"""Shares of effects and lines by dose, on hand-made effects."""

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.shares import dose_lines, fidelity, fidelity_interval, known_shares, share_left


def effects(rows):
    """From (method, key, dose, trait, effect), with bounds one point away."""
    table = pd.DataFrame(rows, columns=["method", "key", "dose", "group", "effect"])
    return table.assign(pole="positive", low=table["effect"] - 1, high=table["effect"] + 1, collapsed=False)


def truth(values, pole="positive"):
    rows = [(key, pole, trait, value) for (key, trait), value in values.items()]
    return pd.DataFrame(rows, columns=["key", "pole", "group", "truth"])


# By dose


@pytest.fixture
def doses():
    rows = [("steered", "a", dose, "openness", 10 * dose) for dose in (-0.5, 0.5, 1.0)]
    rows += [("random", f"random {n}", dose, "openness", n * dose) for n in (-2, 1, 4) for dose in (-0.5, 0.5, 1.0)]
    return effects(rows)


def test_random_directions_become_a_band_from_the_least_to_the_most_of_any(doses):
    lines = dose_lines(doses, {"a": "Able"})
    band = lines[(lines["kind"] == "random control") & (lines["coefficient"] == 1.0)].iloc[0]
    assert band[["value", "low", "high"]].tolist() == [1.0, -2.0, 4.0]


def test_what_is_steered_keeps_its_effects_and_bounds_under_its_title(doses):
    lines = dose_lines(doses, {"a": "Able"})
    own = lines[lines["kind"] == "Able"]
    assert own["coefficient"].tolist() == [-0.5, 0.0, 0.5, 1.0]
    assert own["value"].tolist() == [-5, 0, 5, 10] and own["low"].tolist() == [-6, 0, 4, 9]


def test_no_steering_is_a_point_of_every_line(doses):
    lines = dose_lines(doses, {"a": "Able"})
    zero = lines[lines["coefficient"] == 0]
    assert sorted(zero["kind"]) == ["Able", "random control"]
    assert (zero[["value", "low", "high"]] == 0).all(axis=None) and not zero["collapsed"].any()


def test_a_band_has_collapsed_where_any_of_its_directions_has(doses):
    doses.loc[(doses["key"] == "random 4") & (doses["dose"] == 1.0), "collapsed"] = True
    lines = dose_lines(doses, {"a": "Able"}).set_index(["kind", "coefficient"])["collapsed"]
    assert lines["random control", 1.0] and not lines["random control", 0.5] and not lines["Able", 1.0]


# Shares of known effects


def test_the_share_is_one_where_the_effects_are_the_known_ones_and_scales_with_them():
    known = {("a", "x"): 30.0, ("a", "y"): -10.0, ("b", "x"): 0.0, ("b", "y"): 5.0}
    rows = [("s", key, dose, trait, dose * value) for (key, trait), value in known.items() for dose in (-1.0, 0.5, 1.0)]
    shares, gone = known_shares(effects(rows), truth(known))
    assert shares.index.tolist() == ["a", "b"] and shares.columns.tolist() == [-1.0, 0.5, 1.0]
    np.testing.assert_allclose(shares, [[-1, 0.5, 1]] * 2)
    assert not gone.any(axis=None) and gone.shape == shares.shape


def test_effects_on_traits_that_nothing_is_known_to_move_do_not_count():
    known = {("a", "x"): 10.0, ("a", "y"): 0.0}
    rows = [("s", "a", 1.0, "x", 5.0), ("s", "a", 1.0, "y", 99.0)]
    assert known_shares(effects(rows), truth(known))[0].loc["a", 1.0] == pytest.approx(0.5)


def test_negative_poles_are_no_part_of_what_is_known():
    both = pd.concat([truth({("a", "x"): 10.0}), truth({("a", "x"): -40.0}, "negative")])
    assert known_shares(effects([("s", "a", 1.0, "x", 5.0)]), both)[0].loc["a", 1.0] == pytest.approx(0.5)


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
    assert 0 <= found["low"] < 0.3 < found["left"] < found["high"] <= 1
    again = share_left(table, seed=1).loc["ablated"]
    assert again["left"] == found["left"] and again["low"] != found["low"]


def test_effects_that_are_missing_under_one_method_count_under_none():
    table = told_and(0.5)
    table.loc[(table["method"] == "ablated") & (table["key"] == "k0"), "effect"] = np.nan
    assert share_left(table).loc["ablated", "left"] == pytest.approx(0.5)


def test_what_collapsed_is_left_out():
    table = told_and(0.5)
    lost = (table["method"] == "ablated") & (table["key"] == "k0")
    table.loc[lost, "effect"], table.loc[lost, "collapsed"] = 99.0, True
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
    with pytest.raises(ValueError, match="nothing to compare 'words'"):
        share_left(told_and(0.5), of="words")


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
    found = fidelity_interval(table)
    assert found.estimate == pytest.approx(fidelity(table["effect"], table["prompted"]))
    assert found.low < found.estimate < found.high < 1
    exact = fidelity_interval(table.assign(effect=table["prompted"]))
    assert tuple(exact) == (1.0, 1.0, 1.0)
    twice = fidelity_interval(pd.concat([table, table]))
    assert twice.high - twice.low == pytest.approx(found.high - found.low), "the same twice is no more evidence"
