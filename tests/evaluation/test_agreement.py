"""Agreement with true effects: whole factors are resampled, and what has collapsed says nothing."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from personalib.base.statistics import Interval
from personalib.evaluation.agreement import (
    correlations,
    dealt,
    random_correlation,
    rank_ceiling,
    sound,
    standing_for,
    truth_correlation,
    truth_difference,
    wrong_correlation,
)
from personalib.stimuli.factors import TRAITS

# Beside the truth


def table(name, values, pole="positive", keys=None):
    """One row a key and trait."""
    own = keys or [f"k{number}" for number in range(len(values))]
    return pd.DataFrame(
        [
            {"key": key, "pole": pole, "group": trait, name: value}
            for key, row in zip(own, values, strict=True)
            for trait, value in zip(TRAITS, row, strict=True)
        ]
    )


def measured(values, collapsed=(), **where):
    found = table("effect", values, **where)
    return found.assign(collapsed=found["key"].isin(collapsed))


@pytest.fixture(scope="module")
def true():
    return np.random.default_rng(5).normal(size=(6, len(TRAITS)))


def test_what_has_collapsed_or_is_missing_is_left_out(true):
    values = 2 * true
    values[1, 3] = np.nan
    own = sound(measured(values, ["k0"]), table("truth", true))
    assert own["key"].unique().tolist() == [f"k{number}" for number in range(1, 6)]
    assert len(own) == 5 * len(TRAITS) - 1 and ("k1", TRAITS[3]) not in set(zip(own["key"], own["group"], strict=True))
    np.testing.assert_allclose(own["effect"], 2 * own["truth"])


def test_effects_stand_beside_those_of_their_own_pole(true):
    both = pd.concat([table("truth", true), table("truth", -3 * true, "negative")])
    effects = pd.concat([measured(true), measured(true, pole="negative")], ignore_index=True)
    own = sound(effects, both).groupby("pole")
    np.testing.assert_allclose(own.get_group("positive")["truth"], own.get_group("positive")["effect"])
    np.testing.assert_allclose(own.get_group("negative")["truth"], -3 * own.get_group("negative")["effect"])


def test_a_reference_that_holds_a_thing_twice_is_refused(true):
    with pytest.raises(ValueError, match="not a many-to-one merge"):
        sound(measured(true), pd.concat([table("truth", true)] * 2))


@pytest.mark.parametrize(("change", "expected"), [(np.exp, 1.0), (lambda own: 5 - own**3, -1.0)])
def test_only_the_order_of_effects_counts(true, change, expected):
    found = truth_correlation(measured(change(true)), table("truth", true))
    assert found == pytest.approx((expected,) * 3)


@pytest.mark.parametrize("left", [1, 0])
def test_of_fewer_than_two_keys_there_is_no_correlation(true, left):
    gone = [f"k{number}" for number in range(left, 6)]
    found = truth_correlation(measured(true, gone), table("truth", true))
    assert isinstance(found, Interval) and np.isnan(found).all()


# Chance


@pytest.fixture(scope="module")
def chance():
    return np.random.default_rng(8).normal(size=(22, len(TRAITS)))


def test_the_band_of_chance_holds_most_deals(true, chance):
    found = random_correlation(measured(chance), table("truth", true))
    rng, deals = np.random.default_rng(99), []
    for _ in range(400):
        places = list(dealt(22, [f"k{number}" for number in range(6)], rng).values())
        deals.append(spearmanr(true.ravel(), chance[places].ravel()).statistic)
    assert 0.9 < np.mean([found.low <= one <= found.high for one in deals]) < 0.99
    assert found.estimate == pytest.approx(np.mean(deals), abs=0.03)


def test_mirrored_elements_and_real_effects_on_wrong_ones_widen_the_band():
    """Effects of two opposite elements are one piece of evidence, and directions for them are opposite too."""
    rng = np.random.default_rng(3)
    own = rng.normal(size=(9, 8))
    pairs = table("truth", np.repeat(own, 2, axis=0) * np.tile([1, -1], 9)[:, None])
    pairs["key"] = [f"f{number // 16}.e{number // 8}" for number in range(144)]
    alone = pairs[pairs["key"].isin([f"f{number}.e{2 * number}" for number in range(9)])]
    noise = measured(rng.normal(size=(30, 8)))
    one, both = random_correlation(noise, alone), random_correlation(noise, pairs)
    assert both.high - both.low == pytest.approx(one.high - one.low, rel=0.2)
    effects = pairs.rename(columns={"truth": "effect"}).assign(collapsed=False)
    wrong = wrong_correlation(effects, pairs, deals=200)
    assert truth_correlation(effects, pairs).estimate == pytest.approx(1)
    assert abs(wrong.estimate) < 0.2 and 0.15 < wrong.high < 0.6
    assert np.isnan(wrong_correlation(effects[effects["key"] < "f1"], pairs)).all()


def test_one_direction_is_dealt_to_all(true, chance):
    """It can only be alike for all keys, and that is worth something where the true effects are."""
    common = true.mean(0)
    found = random_correlation(measured([common]), table("truth", true), deals=20)
    expected = spearmanr(true.ravel(), np.tile(common, 6)).statistic
    assert found == pytest.approx((expected,) * 3) and expected > 0.2


def test_what_is_collapsed_or_unread_and_what_is_no_group_or_positive_pole_is_left_out(true, chance):
    """A direction that lacks a trait is not dealt; a trait that all lack, whose items are not answered, is left out."""
    keys, reference = [f"r{number:02}" for number in range(28)], table("truth", true)
    expected = random_correlation(measured(chance, keys=keys[:22]), reference)
    more = np.vstack([chance, true])
    assert random_correlation(measured(more, keys[22:], keys=keys), reference) == expected
    more[22:, 2] = np.nan
    assert random_correlation(measured(more, keys=keys), reference) == expected
    effects = measured(chance, keys=keys[:22])
    together = effects.drop_duplicates("key").assign(group="all", effect=99.0)
    assert random_correlation(pd.concat([effects, together]), reference) == expected
    both = pd.concat([reference, table("truth", -7 * true, "negative")], ignore_index=True)
    assert random_correlation(effects, both) == expected
    unread = effects.assign(effect=effects["effect"].where(effects["group"] != TRAITS[2]))
    fewer = [each[each["group"] != TRAITS[2]] for each in (effects, reference)]
    assert random_correlation(unread, reference) == random_correlation(*fewer)


def test_where_all_directions_have_collapsed_the_correlation_is_missing(true, chance):
    found = random_correlation(measured(chance, [f"k{number}" for number in range(22)]), table("truth", true))
    assert isinstance(found, Interval) and np.isnan(found).all()


def test_each_method_has_its_correlation_and_chance_is_dealt(true, chance):
    kinds = {"right": true, "wrong": -true, "random": chance}
    effects = pd.concat([measured(values).assign(method=name) for name, values in kinds.items()], ignore_index=True)
    truth = table("truth", true)
    found = correlations(effects, truth, seed=2)
    assert list(found) == list(kinds)
    assert found["right"].estimate == pytest.approx(1) and found["wrong"].estimate == pytest.approx(-1)
    assert found["random"] == random_correlation(measured(chance), truth, seed=2)
    assert found["random"] != random_correlation(measured(chance), truth, seed=3)
    gone = correlations(effects.assign(collapsed=True), truth)
    assert list(gone) == list(kinds) and all(np.isnan(one).all() for one in gone.values())


# Whole families


def synthetic(values, method="one"):
    """Effects of keys, one trait after the other."""
    rows = [(method, key, "positive", f"t{n}", value) for key, own in values.items() for n, value in enumerate(own)]
    table = pd.DataFrame(rows, columns=["method", "key", "pole", "group", "effect"])
    return table.assign(collapsed=False)


def as_truth(effects):
    return effects.rename(columns={"effect": "truth"})[["key", "pole", "group", "truth"]]


FAMILY = {f"f{n // 2}.e{n}": np.random.default_rng(n).normal(size=5) for n in range(12)}


def test_elements_of_one_factor_are_resampled_together():
    noisy = {key: own + np.random.default_rng(99).normal(size=5) for key, own in FAMILY.items()}
    effects, truth = synthetic(noisy), as_truth(synthetic(FAMILY))
    found = truth_correlation(effects, truth, 5)
    merged = effects.merge(truth, on=["key", "pole", "group"])
    assert found.estimate == pytest.approx(spearmanr(merged["truth"], merged["effect"]).statistic)
    twice = [pd.concat([one, one.assign(key=one["key"] + "b")]) for one in (effects, truth)]
    assert truth_correlation(*twice, 5) == pytest.approx(found), "the same elements twice are no more evidence"
    apart = [one.assign(key=one["key"].str.replace(".", "-")) for one in (effects, truth)]
    assert truth_correlation(*apart, 5) != pytest.approx(found), "factors are resampled and not elements"


def test_items_are_resampled_where_they_are_told_apart():
    rng = np.random.default_rng(4)
    truth, effects = as_truth(synthetic(FAMILY)), synthetic(FAMILY)
    items = pd.concat([effects.assign(item=n, effect=effects["effect"] + rng.normal(size=60)) for n in range(8)])
    names = ["method", "key", "pole", "group", "collapsed"]
    means = items.groupby(names, as_index=False)["effect"].mean()
    both, keys = truth_correlation(items, truth), truth_correlation(means, truth)
    assert both.estimate == pytest.approx(keys.estimate) and both.high - both.low > keys.high - keys.low
    other = items.assign(effect=rng.normal(size=480))
    found = truth_difference(items, other, truth, resamples=200)
    alone = truth_correlation(items, truth).estimate - truth_correlation(other, truth).estimate
    assert found.estimate == pytest.approx(alone) and found.low > 0


def test_each_resample_is_divided_by_its_own_ceiling():
    tied = {key: np.round(own) for key, own in FAMILY.items()}
    truth, perfect = as_truth(synthetic(tied)), synthetic({key: own + 1e-6 * FAMILY[key] for key, own in tied.items()})
    found = truth_correlation(perfect, truth, of_ceiling=True)
    assert truth_correlation(perfect, truth).estimate < 0.97
    assert tuple(found) == pytest.approx((1, 1, 1), abs=0.01)


def test_effects_that_are_all_the_same_correlate_with_nothing():
    flat = synthetic({key: np.zeros(5) for key in FAMILY})
    assert np.isnan(truth_correlation(flat, as_truth(synthetic(FAMILY))).estimate)
    assert np.isnan(truth_correlation(synthetic(FAMILY), as_truth(flat)).estimate)


def test_the_difference_of_two_methods_is_that_of_their_correlations_and_clear_where_one_is_noise():
    truth, good = as_truth(synthetic(FAMILY)), synthetic(FAMILY)
    bad = synthetic({key: np.random.default_rng([7, n]).normal(size=5) for n, key in enumerate(FAMILY)})
    found = truth_difference(good, bad, truth, resamples=200)
    alone = [truth_correlation(one, truth).estimate for one in (good, bad)]
    assert found.estimate == pytest.approx(alone[0] - alone[1]) and 0 < found.low < found.estimate < found.high
    back = truth_difference(bad, good, truth, resamples=200)
    assert tuple(back) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert tuple(truth_difference(good, good, truth, resamples=50)) == (0.0, 0.0, 0.0)


def test_methods_are_compared_on_what_neither_lost():
    truth, good, other = as_truth(synthetic(FAMILY)), synthetic(FAMILY), synthetic(FAMILY)
    gone = other["key"] == "f0.e0"
    other.loc[gone, "effect"], other.loc[gone, "collapsed"] = 99.0, True
    assert truth_difference(good, other, truth, resamples=20).estimate == 0
    with pytest.raises(ValueError, match="fewer than two factors or pressures are left"):
        truth_difference(good[good["key"].str.startswith("f0")], other, truth)


def test_the_ceiling_is_one_without_ties_and_what_ties_leave_of_it():
    assert rank_ceiling(as_truth(synthetic(FAMILY))) == pytest.approx(1.0)
    tied = as_truth(synthetic({"a": [0, 0, 0, 3.0], "b": [0, 0, -2.0, 5.0]}))
    rng = np.random.default_rng(0)
    close = [spearmanr(tied["truth"], tied["truth"] + 1e-6 * rng.normal(size=8)).statistic for _ in range(5)]
    assert close == pytest.approx([rank_ceiling(tied)] * 5) and rank_ceiling(tied) < 0.95


def test_a_draw_without_a_correlation_is_left_out():
    keys = ["a.x", "b.x", "c.x"]
    rows = [{"key": key, "pole": "positive", "group": TRAITS[0]} for key in keys]
    truth = pd.DataFrame([row | {"truth": float(place)} for place, row in enumerate(rows)])
    one = pd.DataFrame([row | {"effect": float(place), "collapsed": False} for place, row in enumerate(rows)])
    other = one.assign(effect=-one["effect"])
    found = truth_difference(one, other, truth)
    assert found.estimate == 2 and np.isfinite([found.low, found.high]).all()
    with pytest.raises(ValueError, match="several effects on one group; compare one dose of each method"):
        truth_difference(pd.concat([one, one]), other, truth)


# Dealing


@pytest.mark.parametrize("keys", [1, 4, 10])
def test_no_direction_is_dealt_twice_while_there_are_enough(keys):
    names = [f"key {number}" for number in range(keys)]
    for seed in range(20):
        found = dealt(10, names, np.random.default_rng(seed))
        assert list(found) == names and len(set(found.values())) == keys
        assert set(found.values()) <= set(range(10)) and all(type(number) is int for number in found.values())


@pytest.mark.parametrize(("count", "keys"), [(10, 11), (10, 37), (3, 8), (1, 5), (4, 8)])
def test_where_there_are_too_few_they_are_dealt_as_evenly_as_can_be(count, keys):
    for seed in range(10):
        found = dealt(count, [str(number) for number in range(keys)], np.random.default_rng(seed))
        assert len(found) == keys and set(found.values()) == set(range(count))
        assert set(Counter(found.values()).values()) <= {keys // count, -(-keys // count)}


def test_dealing_is_by_chance_and_the_generator_decides():
    names = list("abc")
    found = [tuple(dealt(3, names, np.random.default_rng(seed)).values()) for seed in range(300)]
    assert found == [tuple(dealt(3, names, np.random.default_rng(seed)).values()) for seed in range(300)]
    assert len(set(found)) == 6 and min(Counter(found).values()) > 25


def test_no_direction_cannot_be_dealt_and_no_key_gets_none():
    with pytest.raises(ValueError, match="there are no directions to deal"):
        dealt(0, ["a"], np.random.default_rng(0))
    assert dealt(3, [], np.random.default_rng(0)) == {}


def test_each_random_direction_stands_for_one_key_and_what_is_over_is_left_out(chance):
    steered = measured(np.ones((3, len(TRAITS))), keys=list("abc")).assign(method="steered")
    random = measured(chance[:5]).assign(method="random")
    found = standing_for(pd.concat([steered, random]), list("abc"))
    assert found.query("method == 'steered'").equals(steered)
    named = found.query("method == 'random'")
    assert named["key"].unique().tolist() == list("abc")
    np.testing.assert_array_equal(named["effect"], chance[:3].ravel())
    assert standing_for(random[random["key"] == "k0"], ["a", "b"])["key"].unique().tolist() == ["a"]
