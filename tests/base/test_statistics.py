"""Intervals hold what they promise, tests agree with hand counts, and bad input is refused."""

import doctest
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, ttest_1samp
from statsmodels.stats.multitest import multipletests

from personalib.base import comparisons, correlations, holds, intervals
from personalib.base.statistics import (
    Interval,
    adjust,
    bootstrap_interval,
    clustered_interval,
    clustered_rank_correlation,
    correlation_interval,
    effect_size,
    mantel,
    paired_difference,
    paired_means,
    proportion_interval,
)


@pytest.mark.parametrize("module", [comparisons, correlations, intervals])
def test_examples_in_the_documentation_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_the_bootstrap_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(1000, 100)) - rng.normal(size=(1000, 100))
    intervals = [bootstrap_interval(sample, resamples=400, seed=seed) for seed, sample in enumerate(samples)]
    covered = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


def test_the_bootstrap_interval_is_about_two_standard_errors_wide_on_each_side():
    values = np.random.default_rng(0).normal(10, 2, size=400)
    estimate, low, high = bootstrap_interval(values)
    assert estimate == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.1)


def test_the_seed_fixes_the_interval_and_another_seed_moves_it():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_a_higher_level_gives_a_wider_interval():
    values = np.random.default_rng(0).normal(size=50)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_statistic_without_axis_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=20)
    plain = bootstrap_interval(values, lambda sample: float(np.median(sample)), resamples=200)
    assert plain == pytest.approx(bootstrap_interval(values, np.median, resamples=200))


@pytest.mark.filterwarnings("error")
def test_constant_values_have_an_interval_without_width():
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0, 2.0)


def test_a_single_value_has_no_bounds():
    estimate, low, high = bootstrap_interval([0.7])
    assert estimate == 0.7 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0], [[1.0, 2.0]]])
def test_values_that_are_missing_are_refused_and_not_dropped(values):
    with pytest.raises(ValueError, match="values"):
        bootstrap_interval(values)


def test_the_permutation_p_value_is_that_of_all_sign_flips_counted_by_hand():
    a, b = np.array([3.0, 1.0, 4.0, 1.5]), np.array([2.5, 1.2, 1.0, 0.5])
    differences = a - b
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    extreme = np.abs((signs * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    result = paired_difference(a, b)
    assert result.p == pytest.approx(extreme.mean())
    assert result.estimate == pytest.approx(differences.mean())
    assert result.low < result.estimate < result.high


def test_a_large_difference_is_significant_and_never_certain():
    noise = np.random.default_rng(0).normal(size=200)
    assert 0 < paired_difference(noise + 1, np.zeros(200), resamples=2000).p < 0.002


def test_no_difference_is_rejected_no_more_often_than_the_level_says():
    rng = np.random.default_rng(2)
    p = [paired_difference(*rng.normal(size=(2, 12)), resamples=300).p for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.08


def test_equal_lists_do_not_differ():
    result = paired_difference([1.0, 2.0, 5.0], [1.0, 2.0, 5.0])
    assert result == (0.0, 0.0, 0.0, 1.0)


def test_pairing_needs_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_wilsons_interval_equals_its_formula():
    n, hits, z = 50, 7, 1.959963984540054
    centre = (hits / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(hits / n * (1 - hits / n) / n + z**2 / (4 * n**2))
    assert proportion_interval(hits, n) == pytest.approx((hits / n, centre - half, centre + half))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="trials"):
        proportion_interval(successes, n)


def clustered(rng, clusters=30, spread=1.0):
    """Values around zero in clusters of one to eight, which have much in common."""
    places = np.repeat(np.arange(clusters), rng.integers(1, 9, clusters))
    return spread * rng.normal(size=clusters)[places] + 0.5 * rng.normal(size=len(places)), places


def test_the_clustered_interval_covers_the_true_mean_and_one_that_knows_no_clusters_does_not():
    samples = [clustered(np.random.default_rng(seed)) for seed in range(500)]
    whole = [clustered_interval(*sample, resamples=400, seed=seed) for seed, sample in enumerate(samples)]
    single = [bootstrap_interval(values, resamples=400, seed=seed) for seed, (values, _) in enumerate(samples)]
    assert 0.90 <= np.mean([interval.low <= 0 <= interval.high for interval in whole]) <= 0.97
    assert np.mean([interval.low <= 0 <= interval.high for interval in single]) < 0.75


def test_the_clustered_estimate_is_the_mean_of_the_values_and_not_of_the_clusters():
    assert clustered_interval([0, 0, 0, 1], ["a", "a", "a", "b"]).estimate == 0.25


def test_the_clustered_interval_of_two_clusters_is_that_of_all_their_resamples():
    """Twice the one, both, or twice the other: means of 0, 1/4 and 1 in a quarter, half and a quarter of them."""
    values, clusters = [0, 0, 0, 1], ["a", "a", "a", "b"]
    assert clustered_interval(values, clusters, level=0.9) == (0.25, 0.0, 1.0)
    assert clustered_interval(values, clusters, level=0.2) == (0.25, 0.25, 0.25)


def test_clusters_of_one_value_are_a_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=200)
    plain = bootstrap_interval(values, resamples=20_000)
    assert clustered_interval(values, np.arange(200), resamples=20_000) == pytest.approx(plain, abs=0.01)


def test_repeating_every_value_of_a_cluster_adds_no_certainty():
    values = np.random.default_rng(0).normal(size=40)
    once = clustered_interval(values, np.arange(40))
    assert clustered_interval(np.tile(values, 10), np.tile(np.arange(40), 10)) == pytest.approx(once)


def test_the_order_of_the_values_and_the_kind_of_the_clusters_make_no_difference():
    values, places = clustered(np.random.default_rng(2))
    order = np.random.default_rng(3).permutation(len(values))
    expected = pytest.approx(clustered_interval(values, places))
    assert clustered_interval(values[order], places[order]) == expected
    assert clustered_interval(values, [f"phrase {place:02}" for place in places]) == expected


@pytest.mark.parametrize("share", [0, 1])
def test_where_all_values_are_right_or_wrong_the_interval_is_wilsons_of_the_clusters(share):
    found = clustered_interval([share] * 30, np.arange(30) % 6, level=0.9)
    assert found == proportion_interval(6 * share, 6, level=0.9) and 0.2 < found.high - found.low < 0.5
    assert clustered_interval(np.full(5, share, dtype=bool), list("aabbc")) == proportion_interval(3 * share, 3)


def test_equal_values_that_are_no_share_have_no_width():
    assert clustered_interval([0.5] * 4, [1, 1, 2, 3]) == (0.5, 0.5, 0.5)


def test_seed_and_level_of_the_clustered_interval():
    sample = clustered(np.random.default_rng(4))
    assert clustered_interval(*sample, seed=1) == clustered_interval(*sample, seed=1) != clustered_interval(*sample)
    wide, narrow = (clustered_interval(*sample, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize("clusters", [["a"], ["a", "b", "c"], [["a"], ["b"]], "a", []])
def test_each_value_has_a_cluster(clusters):
    with pytest.raises(ValueError, match=r"2 values and clusters of shape .*; pass one cluster a value"):
        clustered_interval([0.0, 1.0], clusters)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_clustered_values_that_are_missing_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        clustered_interval(values, [1] * len(values))


def test_holm_and_benjamini_hochberg_by_hand():
    assert adjust([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([0.01, 0.04, 0.03], method="fdr_bh").tolist() == pytest.approx([0.03, 0.04, 0.04])


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_p_values_are_corrected_as_statsmodels_does(method):
    values = np.concatenate([np.random.default_rng(5).random(40) ** 3, [0.0, 1.0, 0.01, 0.01]])
    np.testing.assert_allclose(adjust(values, method), multipletests(values, method=method)[1])


def test_a_correction_is_refused_for_other_methods_and_for_what_is_no_p_value():
    with pytest.raises(ValueError, match="fdr_bh"):
        adjust([0.1], method="none")
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust([0.1, 1.2])
    with pytest.raises(ValueError, match="NaN"):
        adjust([0.1, np.nan])


def test_the_correlation_is_numpys_and_its_interval_covers_the_true_one():
    rng = np.random.default_rng(5)
    pairs = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=(200, 80))
    intervals = [correlation_interval(*pair.T, resamples=300) for pair in pairs]
    assert intervals[0].estimate == pytest.approx(np.corrcoef(*pairs[0].T)[0, 1])
    assert 0.90 <= np.mean([interval.low <= 0.6 <= interval.high for interval in intervals]) <= 0.98


@pytest.mark.filterwarnings("error")
def test_few_rows_still_have_bounds():
    interval = correlation_interval([1, 2, 3], [1, 3, 2])
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1


def test_the_correlation_with_a_constant_is_refused():
    with pytest.raises(ValueError, match="constant"):
        correlation_interval([1.0, 2.0], [3.0, 3.0])


def paired_clusters(seed, clusters=20, size=6, noise=0.1):
    """Two measurements in clusters whose rows nearly agree, with a rank correlation of 0.58."""
    rng = np.random.default_rng(seed)
    common = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=clusters)
    rows = np.repeat(common, size, axis=0)
    rows = rows + noise * rng.normal(size=(len(rows), 1))
    return rows[:, 0], rows[:, 1], np.repeat(np.arange(clusters), size)


@pytest.mark.parametrize("steps", [3, 10, 1000], ids="{} values".format)
def test_the_rank_correlation_is_scipys_with_few_and_with_many_ties(steps):
    rng = np.random.default_rng(6)
    x = rng.integers(steps, size=60)
    y = x + rng.integers(steps, size=60)
    found = clustered_rank_correlation(x, y, np.arange(60) // 5)
    assert found.estimate == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert found.low < found.estimate < found.high


def test_the_rank_correlation_knows_nothing_but_the_order():
    x, y, clusters = paired_clusters(1)
    found = clustered_rank_correlation(x, y, clusters)
    assert clustered_rank_correlation(np.exp(3 * x), y**3 + 1e9, clusters) == pytest.approx(found)
    assert clustered_rank_correlation(y, x, clusters) == pytest.approx(found)
    flipped = clustered_rank_correlation(x, -y, clusters)
    assert flipped == pytest.approx((-found.estimate, -found.high, -found.low))


def test_the_interval_of_a_rank_correlation_covers_the_true_one_and_one_that_knows_no_clusters_does_not():
    # Of the clusters' normal parts 6/pi * arcsin(0.6 / 2), and the noise, which is the same on both sides, adds to it.
    true = 6 / np.pi * np.arcsin((0.6 + 0.01) / (1 + 0.01) / 2)
    samples = [paired_clusters(seed, clusters=30, size=5) for seed in range(80)]
    whole = [clustered_rank_correlation(*sample, resamples=150) for sample in samples]
    single = [clustered_rank_correlation(x, y, np.arange(len(x)), resamples=150) for x, y, _ in samples]
    assert 0.85 <= np.mean([interval.low <= true <= interval.high for interval in whole]) <= 0.99
    assert np.mean([interval.low <= true <= interval.high for interval in single]) < 0.75


def test_rows_that_agree_within_a_few_clusters_say_less_than_as_many_rows_of_their_own():
    x, y, clusters = paired_clusters(2)
    whole, single = (clustered_rank_correlation(x, y, groups) for groups in (clusters, np.arange(len(x))))
    assert whole.estimate == single.estimate
    assert whole.high - whole.low > 1.5 * (single.high - single.low)


def test_repeating_every_row_of_a_cluster_adds_no_certainty_to_a_rank_correlation():
    x, y, _ = paired_clusters(3, clusters=25, size=1)
    once = clustered_rank_correlation(x, y, np.arange(25))
    assert once.high - once.low > 0.2
    again = clustered_rank_correlation(np.tile(x, 8), np.tile(y, 8), np.tile(np.arange(25), 8))
    assert again == pytest.approx(once, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_the_rank_correlation_of_one_cluster_has_no_bounds():
    estimate, low, high = clustered_rank_correlation([1, 2, 3, 4], [10, 20, 40, 30], ["a"] * 4)
    assert estimate == pytest.approx(0.8) and math.isnan(low) and math.isnan(high)


@pytest.mark.filterwarnings("error")
def test_the_rank_correlation_of_two_clusters_is_that_of_all_their_resamples():
    """Both have 0.8; twice the first has 1, and twice the second, with its rows the other way round, -1."""
    x, y, clusters = [1, 2, 3, 4], [10, 20, 40, 30], list("aabb")
    assert clustered_rank_correlation(x, y, clusters, level=0.9) == pytest.approx((0.8, -1.0, 1.0))
    assert clustered_rank_correlation(x, y, clusters, level=0.3) == pytest.approx((0.8, 0.8, 0.8))


@pytest.mark.filterwarnings("error")
def test_a_resample_with_a_constant_side_is_left_out():
    """Either cluster alone has one value only; what is left are the resamples of both."""
    assert clustered_rank_correlation([1, 1, 2, 2], [3, 3, 5, 5], list("aabb")) == pytest.approx((1.0, 1.0, 1.0))


def test_the_order_of_the_rows_and_the_kind_of_the_clusters_make_no_difference_to_a_rank_correlation():
    x, y, clusters = paired_clusters(4)
    order = np.random.default_rng(3).permutation(len(x))
    expected = pytest.approx(clustered_rank_correlation(x, y, clusters))
    assert clustered_rank_correlation(x[order], y[order], clusters[order]) == expected
    assert clustered_rank_correlation(x, y, [f"phrase {place:02}" for place in clusters]) == expected


def test_seed_and_level_of_a_rank_correlation():
    sample = paired_clusters(5)
    first, second, other = (clustered_rank_correlation(*sample, seed=seed) for seed in (1, 1, 2))
    assert first == second != other and first.estimate == other.estimate
    wide, narrow = (clustered_rank_correlation(*sample, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize(
    ("x", "y", "clusters", "message"),
    [
        ([1, 2, 3], [1, 2], [1, 1, 2], "same items in the same order"),
        ([1], [1], [1], "pass at least two"),
        ([], [], [], "x has shape"),
        ([1, np.nan, 2], [1, 2, 3], [1, 1, 2], "x holds 1 NaN or infinity"),
        ([1, 2, 3], [1, np.inf, 3], [1, 1, 2], "y holds 1 NaN or infinity"),
        ([1, 2, 3], [4, 4, 4], [1, 1, 2], "correlation with a constant is undefined"),
        ([4, 4, 4], [1, 2, 3], [1, 1, 2], "correlation with a constant is undefined"),
        ([1, 2, 3], [1, 2, 3], [1, 2], r"3 rows and clusters of shape \(2,\); pass one cluster a row"),
        ([1, 2, 3], [1, 2, 3], "a", "pass one cluster a row"),
        ([1, 2, 3], [1, 2, 3], [[1], [1], [2]], "pass one cluster a row"),
    ],
)
def test_what_has_no_clustered_rank_correlation_is_refused(x, y, clusters, message):
    with pytest.raises(ValueError, match=message):
        clustered_rank_correlation(x, y, clusters)


def test_two_tables_over_the_same_things_correlate_and_renaming_tests_it():
    rng = np.random.default_rng(4)
    places = rng.normal(size=(15, 2))
    near = -np.linalg.norm(places[:, None] - places, axis=2)
    other = near + rng.normal(scale=0.3, size=near.shape)
    np.fill_diagonal(other, np.nan)
    r, p = mantel(near, other, permutations=199)
    both = ~np.isnan(other)
    assert r == pytest.approx(np.corrcoef(near[both], other[both])[0, 1]) and p == 1 / 200


def test_the_renaming_test_keeps_its_level_where_entries_depend_on_each_other():
    """Distances of one thing are large together; a test that shuffled entries would find differences in nothing."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one, other = (np.add.outer(own, own) for own in rng.normal(size=(2, 10)))
        found.append(mantel(one, other, permutations=99, seed=seed)[1])
    assert np.mean(np.array(found) <= 0.05) <= 0.09


@pytest.mark.parametrize("shape", [(3, 4), (9,)])
def test_tables_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match="pass two square ones"):
        mantel(np.zeros(shape), np.zeros(shape))


def test_a_cluster_without_a_name_is_a_cluster_like_others():
    rows = [1, 2, 3, 4, 5, 6], [1, 3, 2, 6, 5, 4]
    named = clustered_rank_correlation(*rows, [1, 1, 2, 2, 3, 3])
    assert clustered_rank_correlation(*rows, [1, 1, 2, 2, np.nan, np.nan]) == named


def test_paired_means_and_effect_sizes_skip_what_is_missing_and_say_what_has_no_spread():
    changes = [[1, 2, 3, np.nan], [0, 0, 0, 0], [2, 2, 2, 2], [5, np.nan, np.nan, np.nan], [np.nan] * 4]
    found, size = paired_means(changes), effect_size(changes)
    expected = ttest_1samp([1, 2, 3], 0)
    assert found.n.tolist() == [3, 4, 4, 1, 0] and found.p[:3] == pytest.approx([expected.pvalue, 1, 0])
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.estimate[3] == 5 and np.isnan(found.p[3:]).all() and np.isnan(found.low[3:]).all()
    assert np.isnan(size).tolist() == [[False, True, True, True, True]] * 3
    assert size.low[0] < size.estimate[0] < size.high[0]


@pytest.mark.parametrize("function", [paired_means, effect_size])
def test_changes_that_are_no_table_are_refused(function):
    with pytest.raises(ValueError, match="non-empty table"):
        function([1.0, 2.0])
    with pytest.raises(ValueError, match="1 infinities"):
        function([[1.0, np.inf]])


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((0.1, 0.4), True, False),
        ((-0.4, -0.1), False, True),
        ((-0.1, 0.4), False, False),
        ((0.0, 0.4), False, False),
        ((-0.4, 0.0), False, False),
        ((np.nan, 0.4), False, False),
        ((-0.4, np.nan), False, False),
        ((0.1, np.nan), False, False),
        ((np.nan, -0.1), False, False),
        ((np.nan, np.nan), False, False),
    ],
)
def test_an_interval_holds_where_both_bounds_are_beyond_the_value(interval, above, below):
    assert holds(interval) is above
    assert holds(interval, below=True) is below
    shifted = tuple(bound + 5 for bound in interval)
    assert holds(shifted, than=5) is above
    assert holds(shifted, than=5, below=True) is below


def test_whatever_has_bounds_is_an_interval():
    estimate = Interval(0.2, 0.1, 0.3)
    table = pd.DataFrame([estimate._asdict()])
    for interval in (estimate, SimpleNamespace(low=0.1, high=0.3), table.iloc[0], next(table.itertuples())):
        assert holds(interval) is True


@pytest.mark.parametrize("wrong", [0.3, (0.1,), (0.2, 0.1, 0.3), "up"])
def test_what_has_no_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pass \(low, high\)"):
        holds(wrong)
