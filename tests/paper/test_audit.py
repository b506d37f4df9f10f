"""Published scores are judged as they should be: against hand counts, and on tables whose truth was planted."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as tests

import personalib.paper.audit as audit
from personalib.base.statistics import proportion_interval
from personalib.paper.audit import change_table, infer_weights, largest_by_chance, pairing_bounds, share_difference

TRAITS = list("abcdefgh")
IMPOSSIBLE = [(-1, 3, 10), (3, 11, 10), (0, 0, 0)]


def drawn_table(rng: np.random.Generator, shares: np.ndarray, items: int = 1000) -> pd.DataFrame:
    return pd.DataFrame(100 / items * rng.binomial(items, shares), columns=TRAITS)


def test_counts_are_whole_items():
    assert audit.item_counts([0.0, 33.34, 100.0], 300).tolist() == [0, 100, 300]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audit.item_counts([-4.0], 1000), r"not in 0\.\.100"),
        (lambda: audit.item_counts([4.0], 0), "at least one"),
        *((lambda counts=counts: share_difference(*counts), "need counts") for counts in IMPOSSIBLE),
        *((lambda counts=counts: pairing_bounds(*counts), "need counts") for counts in IMPOSSIBLE),
        (lambda: audit.detectable_change(0.0, 1000), "inside of"),
        (lambda: audit.detectable_change(50.0, 3, alpha=1e-6), "too few"),
        (lambda: largest_by_chance(-1.0, 1000, elements=1, traits=1), r"0\.\.100"),
        (lambda: audit.cosine_after_push([-1.0]), "negative"),
        (lambda: audit.cosine_of_pushed([1.0], 1.5), "cosine"),
        (lambda: audit.dilution_share(40.0, 38.0, 40.0, 1000), "equal"),
        (lambda: audit.rank_permutation([1, 2], [1, 2, 3]), "one label a value"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_interval_of_a_difference_is_newcombes_and_its_p_value_that_of_chi_square():
    found = share_difference(48, 56, 80)
    first, second = proportion_interval(48, 80), proportion_interval(56, 80)
    down = np.hypot(second.estimate - second.low, first.high - first.estimate)
    up = np.hypot(second.high - second.estimate, first.estimate - first.low)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.1, 0.1 - down, 0.1 + up))
    assert found.p == pytest.approx(tests.chi2_contingency([[48, 32], [56, 24]], correction=False).pvalue)


@pytest.mark.parametrize("count", [0, 7, 50])
def test_equal_counts_differ_by_nothing(count: int):
    found = share_difference(count, count, 50)
    assert (found.estimate, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_the_difference_turns_around_with_its_sides():
    there, back = share_difference(10, 30, 100), share_difference(30, 10, 100)
    assert (back.estimate, back.low, back.high) == pytest.approx((-there.estimate, -there.high, -there.low))
    assert back.p == pytest.approx(there.p)


def test_every_pairing_of_two_counts_lies_within_the_bounds():
    before, after, items = 12, 17, 20
    low, high = pairing_bounds(before, after, items)
    both = range(max(0, before + after - items), min(before, after) + 1)
    values = [tests.binomtest(after - kept, before + after - 2 * kept).pvalue for kept in both]
    assert (low, high) == pytest.approx((min(values), max(values)))
    assert low < high


def test_one_null_cell_in_twenty_is_found_without_correction_and_none_with_it():
    rng, shares = np.random.default_rng(1), np.full((22, 8), 0.3)
    tables = [change_table(drawn_table(rng, shares), drawn_table(rng, shares), 1000) for _ in range(4)]
    assert 0.03 < np.mean([cells["p"] < 0.05 for cells in tables]) < 0.07
    covered = [(cells["low"] <= 0) & (cells["high"] >= 0) for cells in tables]
    assert 0.93 < np.mean(covered) < 0.97
    assert sum((cells["holm"] < 0.05).any() for cells in tables) <= 2


def test_a_table_of_changes_is_in_points_and_corrects_over_all_of_its_cells():
    before = pd.DataFrame({"a": [50.0, 30.0], "b": [20.0, 60.0]}, index=["x", "y"])
    after = pd.DataFrame({"a": [54.0, 31.0], "b": [25.0, 53.0]}, index=["x", "y"])
    cells = change_table(before, after, 1000)
    pd.testing.assert_frame_equal(cells["change"].unstack(), after - before)
    for (row, column), own in cells.iterrows():
        counts = int(10 * before.loc[row, column]), int(10 * after.loc[row, column]), 1000
        difference, paired = share_difference(*counts), pairing_bounds(*counts)
        assert [*own[["low", "high"]] / 100, own["p"], own["p_paired"]] == pytest.approx([*difference[1:], paired[1]])
    assert cells["holm"].min() == pytest.approx(4 * cells["p"].min())
    assert (cells["holm_paired"] >= cells["p_paired"]).all()
    assert (cells["fdr"] <= cells["holm"]).all()
    with pytest.raises(ValueError, match="different rows or columns"):
        change_table(before, after[["b", "a"]], 1000)


def test_a_detectable_change_is_found_as_often_as_its_power_says():
    change = audit.detectable_change(20.0, 1000, power=0.8)
    rng = np.random.default_rng(0)
    counts = rng.binomial(1000, [0.2, 0.2 + change / 100], size=(600, 2)).tolist()
    assert np.mean([share_difference(a, b, 1000).p < 0.05 for a, b in counts]) == pytest.approx(0.8, abs=0.05)


def test_a_detectable_change_is_alike_at_both_ends_and_shrinks_with_items():
    assert audit.detectable_change(20.0, 1000) == pytest.approx(audit.detectable_change(80.0, 1000))
    assert (
        audit.detectable_change(20.0, 4000)
        < audit.detectable_change(20.0, 1000)
        < audit.detectable_change(20.0, 1000, alpha=0.001)
    )


def test_the_largest_change_by_chance_of_one_cell_is_half_normal():
    one = largest_by_chance(50.0, 1000, elements=1, traits=1)
    spread = 100 * np.sqrt(2 * 0.25 / 1000)
    assert one.estimate == pytest.approx(spread * tests.norm.ppf(0.75), abs=0.15)
    assert one.high == pytest.approx(spread * tests.norm.ppf(0.9875), rel=0.1)
    assert largest_by_chance(50.0, 1000, elements=22, traits=8).low > one.estimate
    assert largest_by_chance(0.0, 1000, elements=2, traits=2) == (0.0, 0.0, 0.0)


def test_cosines_are_those_of_vectors_after_an_rms_norm():
    rng = np.random.default_rng(0)
    stream, other, vector = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    pushed, also = stream + 2.5 * vector, other + 2.5 * vector
    normed = [one / np.sqrt(np.mean(one**2)) for one in (stream, pushed, also)]
    cosine = [left @ right / 16 for left, right in (normed[:2], normed[1:])]
    assert [float(audit.cosine_after_push(2.5)), float(audit.cosine_of_pushed(2.5))] == pytest.approx(cosine)
    # A push along the stream turns nothing.
    assert audit.cosine_after_push([0.0, 1.0, 9.0], 1.0) == pytest.approx(1.0)
    assert audit.cosine_of_pushed(1e6, -0.5) == pytest.approx(1.0)


@pytest.fixture
def planted_averages() -> tuple[pd.DataFrame, pd.Series, np.ndarray]:
    rng = np.random.default_rng(3)
    weights = rng.dirichlet(np.full(7, 20.0))
    scores = pd.DataFrame(rng.uniform(25, 60, size=(14, 7)), columns=list("ABCDEFG"))
    return scores, scores @ weights, weights


def test_category_shares_come_back_from_averages_and_a_wrong_average_shows(planted_averages):
    scores, average, weights = planted_averages
    found = infer_weights(scores, average)
    assert found.weights.to_numpy() == pytest.approx(weights, abs=1e-5)
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert found.residual < 1e-4
    assert infer_weights(scores, average + np.resize([3.0, -3.0], 14)).residual > 1


def test_rounding_is_within_the_intervals_of_the_shares(planted_averages):
    scores, average, weights = planted_averages
    found = audit.weight_intervals(scores.round(1), average.round(1), draws=200)
    assert ((found["low"] <= found["estimate"]) & (found["estimate"] <= found["high"])).all()
    assert (found["estimate"] - weights).abs().max() < 0.02
    assert ((found["low"] - 0.005 <= weights) & (weights <= found["high"] + 0.005)).all()


def test_shares_need_matching_conditions_and_enough_of_them(planted_averages):
    scores, average, _ = planted_averages
    with pytest.raises(ValueError, match="different conditions"):
        infer_weights(scores, average.iloc[::-1])
    with pytest.raises(ValueError, match="cannot fix"):
        infer_weights(scores.iloc[:5], average.iloc[:5])


@pytest.mark.parametrize("planted", [0.0, 0.3, 0.9])
def test_a_planted_dilution_comes_back(planted: float):
    rng, items = np.random.default_rng(4), 10_000
    readable = rng.random(items) < 0.55
    guessed = rng.random(items) < 0.35
    mixed = np.where(rng.random(items) < planted, guessed, readable)
    found = audit.dilution_share(100 * readable.mean(), 100 * mixed.mean(), 35.0, items)
    assert found.low <= planted <= found.high
    assert found.high - found.low < 0.15


def test_dilution_covers_the_planted_share_as_often_as_it_says():
    rng, items, planted, chance = np.random.default_rng(5), 5000, 0.6, 36.0
    accuracy = np.array([52.0, 52.0 + planted * (chance - 52.0)]) / 100
    pairs = 100 / items * rng.binomial(items, accuracy, size=(300, 2))
    found = [audit.dilution_share(first, second, chance, items, draws=500) for first, second in pairs.tolist()]
    assert 0.91 <= np.mean([one.low <= planted <= one.high for one in found]) <= 0.99


def test_the_permutation_test_agrees_with_all_orders_and_keeps_its_level():
    assert audit.rank_permutation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == pytest.approx(2 / 120, abs=1e-9)
    rng, labels = np.random.default_rng(6), [1] * 12 + [2] * 6 + [3] * 4
    values = [audit.rank_permutation(labels, rng.normal(size=22), resamples=199) for _ in range(200)]
    assert 0.01 < np.mean([value <= 0.05 for value in values]) < 0.1
    assert audit.rank_permutation(labels, labels, resamples=999) < 0.01


def test_shares_of_one_profile_tell_common_from_own():
    profile = np.array([1.0, -2.0, 3.0])
    assert audit.common_share(np.tile(profile, (4, 1))) == pytest.approx(1.0)
    strengths = np.outer([1.0, 3.0], profile)
    assert audit.common_share(strengths) == pytest.approx(0.8)
    assert audit.one_profile_share(strengths) == pytest.approx(1.0)
    drawn = [audit.common_share(np.random.default_rng(seed).normal(size=(22, 8))) for seed in range(200)]
    assert np.mean(drawn) == pytest.approx(1 / 22, rel=0.1)
