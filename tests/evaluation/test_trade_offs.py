"""Gains, costs, and methods where they cost the same."""

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.trade_offs import at_equal_cost, costs, gains
from personalib.stimuli.factors import TRAITS

TRUTH = pd.DataFrame(
    [
        [key, "positive", trait, value]
        for key, sign in (("a.x", 1), ("a.y", -1))
        for trait, value in zip(TRAITS, sign * np.arange(8.0), strict=True)
    ],
    columns=["key", "pole", "group", "truth"],
)


def effects(rows):
    """Effects as an evaluation has them: arm, method, key, dose and one value a trait."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "method": method,
                "key": key,
                "pole": "positive",
                "dose": dose,
                "group": trait,
                "effect": value,
                "collapsed": False,
            }
            for arm, method, key, dose, values in rows
            for trait, value in zip(TRAITS, values, strict=True)
        ]
    )


def test_an_arm_with_half_of_the_known_effects_has_a_gain_of_a_half_and_nothing_off_target():
    [row] = gains(effects([(1, "sae elements", "a.x", 0.2, 0.5 * np.arange(8.0))]), TRUTH).to_dict("records")
    assert row["gain"] == pytest.approx(0.5) and row["off_target"] == pytest.approx(0.0, abs=1e-12)
    assert (row["family"], row["kind"], row["cluster"], row["dose"]) == ("elements", "SAE feature", "a", 0.2)


def test_what_does_not_lie_along_the_known_effects_is_off_target():
    away = np.array([3.0, 0, 0, 0, 0, 0, 0, 0])
    [row] = gains(effects([(1, "repe elements", "a.x", -0.4, np.arange(8.0) + away)]), TRUTH).to_dict("records")
    assert (
        row["gain"] == pytest.approx(1.0) and row["off_target"] == pytest.approx(np.sqrt(9 / 8)) and row["dose"] == 0.4
    )


def test_a_direction_of_chance_stands_for_nothing_and_all_it_does_is_off_target():
    [row] = gains(effects([(1, "random", "random 0", 0.4, np.full(8, 2.0))]), TRUTH).to_dict("records")
    assert np.isnan(row["gain"]) and row["off_target"] == pytest.approx(2.0) and row["kind"] == "random direction"


def test_an_effect_that_could_not_be_read_is_left_out():
    values = np.arange(8.0)
    values[3] = np.nan
    [row] = gains(effects([(1, "sae elements", "a.x", 0.2, values)]), TRUTH).to_dict("records")
    assert row["gain"] == pytest.approx(1.0)


def test_costs_are_what_is_lost_against_the_unsteered_model():
    state = pd.DataFrame({"arm": [0, 1], "mass": [1.0, 0.9], "perplexity": [1.0, 1.5]})
    [row] = costs(state, {"facts": pd.DataFrame({"arm": [1], "effect": [-12.5]})}).to_dict("records")
    assert row == pytest.approx({"arm": 1, "mass_lost": 10.0, "perplexity_gain": 50.0, "facts": 12.5})


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
