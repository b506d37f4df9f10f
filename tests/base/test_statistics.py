"""Intervals hold what they promise, tests agree with hand counts, and bad input is refused.

How often intervals cover the truth is measured in test_statistics_calibration.
"""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test, spearmanr, t, ttest_1samp
from statsmodels.stats.multitest import multipletests

from personalib.base import holds
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
    two_way_interval,
)


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def clustered(seed, clusters=30):
    """Values around zero in clusters of one to eight, which have much in common."""
    rng = np.random.default_rng(seed)
    places = np.repeat(np.arange(clusters), rng.integers(1, 9, clusters))
    return rng.normal(size=clusters)[places] + 0.5 * rng.normal(size=len(places)), places


def paired_clusters(seed, clusters=20, size=6, noise=0.1):
    """Two measurements in clusters whose rows nearly agree, with a rank correlation of 0.58."""
    rng = np.random.default_rng(seed)
    common = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=clusters)
    rows = np.repeat(common, size, axis=0)
    rows = rows + noise * rng.normal(size=(len(rows), 1))
    return rows[:, 0], rows[:, 1], np.repeat(np.arange(clusters), size)


# What all bootstrap intervals have in common


@pytest.mark.parametrize(
    ("interval", "sample"),
    [
        (bootstrap_interval, (normal(50),)),
        (clustered_interval, clustered(4)),
        (correlation_interval, paired_clusters(5)[:2]),
        (clustered_rank_correlation, paired_clusters(5)),
    ],
)
def test_the_seed_fixes_an_interval_and_a_higher_level_widens_it(interval, sample):
    first, same, other = (interval(*sample, seed=seed) for seed in (1, 1, 2))
    assert first == same != other and first.estimate == other.estimate
    wide, narrow = (interval(*sample, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize(
    ("interval", "sample"), [(clustered_interval, clustered(2)), (clustered_rank_correlation, paired_clusters(4))]
)
def test_the_order_of_the_rows_and_the_kind_of_the_clusters_make_no_difference(interval, sample):
    *values, places = sample
    order = np.random.default_rng(3).permutation(len(places))
    expected = pytest.approx(interval(*sample))
    assert interval(*(each[order] for each in sample)) == expected
    assert interval(*values, [f"phrase {place:02}" for place in places]) == expected


@pytest.mark.parametrize(
    ("interval", "values"),
    [(clustered_interval, [normal(40)]), (clustered_rank_correlation, paired_clusters(3, 25, 1)[:2])],
)
def test_repeating_every_row_of_a_cluster_adds_no_certainty(interval, values):
    places = np.arange(len(values[0]))
    once = interval(*values, places)
    assert once.high - once.low > 0.2
    again = interval(*(np.tile(each, 8) for each in values), np.tile(places, 8))
    assert again == pytest.approx(once, abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("interval", "sample", "expected"),
    [
        (bootstrap_interval, ([0.7],), 0.7),
        (clustered_interval, ([0.7, 0.9], ["a", "a"]), 0.8),
        (clustered_rank_correlation, ([1, 2, 3, 4], [10, 20, 40, 30], ["a"] * 4), 0.8),
    ],
)
def test_a_single_value_or_cluster_has_no_bounds(interval, sample, expected):
    estimate, low, high = interval(*sample)
    assert estimate == pytest.approx(expected) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0], [[1.0, 2.0]]])
def test_values_that_are_missing_are_refused_and_not_dropped(values):
    for ask in (bootstrap_interval, lambda given: clustered_interval(given, [1] * len(given))):
        with pytest.raises(ValueError, match="values"):
            ask(values)


# One mean, one share


@pytest.mark.filterwarnings("error")
def test_equal_values_have_an_interval_without_width():
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0, 2.0)
    assert clustered_interval([0.5] * 4, [1, 1, 2, 3]) == (0.5, 0.5, 0.5)


def test_wilsons_interval_equals_its_formula():
    n, hits, z = 50, 7, 1.959963984540054
    centre = (hits / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(hits / n * (1 - hits / n) / n + z**2 / (4 * n**2))
    assert proportion_interval(hits, n) == pytest.approx((hits / n, centre - half, centre + half))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="trials"):
        proportion_interval(successes, n)


# Clusters


def test_the_clustered_interval_of_two_clusters_is_that_of_all_their_resamples():
    """Twice the one, both, or twice the other: means of 0, 1/4 and 1 in a quarter, half and a quarter of them."""
    values, clusters = [0, 0, 0, 1], ["a", "a", "a", "b"]
    assert clustered_interval(values, clusters, level=0.9) == (0.25, 0.0, 1.0)
    assert clustered_interval(values, clusters, level=0.2) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("share", [0, 1])
def test_where_all_values_are_right_or_wrong_the_interval_is_wilsons_of_the_clusters(share):
    found = clustered_interval([share] * 30, np.arange(30) % 6, level=0.9)
    assert found == proportion_interval(6 * share, 6, level=0.9) and 0.2 < found.high - found.low < 0.5
    assert clustered_interval(np.full(5, share, dtype=bool), list("aabbc")) == proportion_interval(3 * share, 3)


@pytest.mark.parametrize("clusters", [["a"], ["a", "b", "c"], [["a"], ["b"]], "a", []])
def test_each_value_has_a_cluster(clusters):
    with pytest.raises(ValueError, match=r"2 values and clusters of shape .*; pass one cluster a value"):
        clustered_interval([0.0, 1.0], clusters)


# Two ways


def test_both_ways_add_their_variances_and_items_of_a_group_are_drawn_within_it():
    """The mean of a row's part and an item's has the variance of both; a group without a second item has none."""
    rng = np.random.default_rng(1)
    rows, items = rng.normal(size=9), rng.normal(size=(2, 8))
    values = np.broadcast_to(rows[:, None, None] + items, (1, 9, 2, 8)).copy()
    how = {"statistic": lambda means: float(means.mean()), "clusters": np.arange(9), "resamples": 20_000}
    found = two_way_interval(values=values, **how)
    reach = t.ppf(0.975, 8) * np.sqrt(9 / 8) * np.sqrt(rows.var() / 9 + items.var(axis=1).sum() / 8 / 4)
    assert found.estimate == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.06)
    values[:, :, :, 1:] = np.nan
    alone = two_way_interval(values=values, **how)
    assert (alone.high - alone.low) / 2 == pytest.approx(t.ppf(0.975, 8) * rows.std() / np.sqrt(8), rel=0.06)
    assert np.isnan(two_way_interval(values=values[:, :1], **how | {"clusters": [0]})[1:]).all()


# Paired changes


def test_up_to_twelve_changes_have_the_p_value_of_all_sign_flips():
    changes = np.random.default_rng(2).normal(0.5, size=(3, 12))
    expected = [
        permutation_test((row,), np.mean, permutation_type="samples", n_resamples=5000).pvalue for row in changes
    ]
    assert paired_means(changes).p == pytest.approx(expected)
    assert paired_means([[1.0, 2.0, 3.0, 4.0]]).p == 0.125


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
    assert 0 < paired_difference(normal(200) + 1, np.zeros(200), resamples=2000).p < 0.002
    assert paired_difference([1.0, 2.0, 5.0], [1.0, 2.0, 5.0]) == (0.0, 0.0, 0.0, 1.0), "equal lists do not differ"


def test_pairing_needs_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_paired_means_and_effect_sizes_skip_what_is_missing_and_say_what_has_no_spread():
    changes = [[1, 2, 3, np.nan], [0, 0, 0, 0], [0.1, 0.1, 0.1, np.nan], [5, np.nan, np.nan, np.nan], [np.nan] * 4]
    found, size = paired_means(changes), effect_size(changes)
    expected = ttest_1samp([1, 2, 3], 0)
    assert found.n.tolist() == [3, 4, 3, 1, 0] and found.p[:3] == pytest.approx([0.25, 1, 0.25])
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


# Many comparisons


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_p_values_are_corrected_as_statsmodels_does(method):
    values = np.concatenate([np.random.default_rng(5).random(40) ** 3, [0.0, 1.0, 0.01, 0.01]])
    np.testing.assert_allclose(adjust(values, method), multipletests(values, method=method)[1])


@pytest.mark.parametrize(
    ("values", "method", "problem"),
    [([0.1], "none", "fdr_bh"), ([0.1, 1.2], "holm", "between 0 and 1"), ([0.1, np.nan], "holm", "NaN")],
)
def test_a_correction_is_refused_for_other_methods_and_for_what_is_no_p_value(values, method, problem):
    with pytest.raises(ValueError, match=problem):
        adjust(values, method)


# Correlations


@pytest.mark.filterwarnings("error")
def test_the_correlation_is_numpys_and_few_rows_still_have_bounds():
    x, y, _ = paired_clusters(5)
    assert correlation_interval(x, y).estimate == pytest.approx(np.corrcoef(x, y)[0, 1])
    interval = correlation_interval([1, 2, 3], [1, 3, 2])
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("x", "y", "level", "expected"),
    [
        # Both have 0.8; twice the first has 1, and twice the second, with its rows the other way round, -1.
        ([1, 2, 3, 4], [10, 20, 40, 30], 0.9, (0.8, -1.0, 1.0)),
        ([1, 2, 3, 4], [10, 20, 40, 30], 0.3, (0.8, 0.8, 0.8)),
        # Either cluster alone has a constant side; what is left are the resamples of both.
        ([1, 1, 2, 2], [3, 3, 5, 5], 0.95, (1.0, 1.0, 1.0)),
    ],
)
def test_the_rank_correlation_of_two_clusters_is_that_of_all_their_resamples(x, y, level, expected):
    assert clustered_rank_correlation(x, y, list("aabb"), level=level) == pytest.approx(expected)


def test_a_cluster_without_a_name_is_a_cluster_like_others():
    rows = [1, 2, 3, 4, 5, 6], [1, 3, 2, 6, 5, 4]
    named = clustered_rank_correlation(*rows, [1, 1, 2, 2, 3, 3])
    assert clustered_rank_correlation(*rows, [1, 1, 2, 2, np.nan, np.nan]) == named


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
    ],
)
def test_what_has_no_correlation_is_refused(x, y, clusters, message):
    with pytest.raises(ValueError, match=message):
        clustered_rank_correlation(x, y, clusters)
    if "clusters" not in message:
        with pytest.raises(ValueError, match=message):
            correlation_interval(x, y)


# Tables over the same things


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
        one, other = (np.add.outer(own, own) for own in np.random.default_rng(seed).normal(size=(2, 10)))
        found.append(mantel(one, other, permutations=99, seed=seed)[1])
    assert np.mean(np.array(found) <= 0.05) <= 0.09


@pytest.mark.parametrize("shape", [(3, 4), (9,)])
def test_tables_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match="pass two square ones"):
        mantel(np.zeros(shape), np.zeros(shape))


# Verdicts


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((0.1, 0.4), True, False),
        ((-0.4, -0.1), False, True),
        *((each, False, False) for each in ((-0.1, 0.4), (0.0, 0.4), (-0.4, 0.0), (np.nan, 0.4), (-0.4, np.nan))),
        *((each, False, False) for each in ((0.1, np.nan), (np.nan, -0.1))),
    ],
)
def test_an_interval_holds_where_both_bounds_are_beyond_the_value(interval, above, below):
    for than in (0, 5):
        shifted = tuple(bound + than for bound in interval)
        assert holds(shifted, than=than) is above
        assert holds(shifted, than=than, below=True) is below


def test_whatever_has_bounds_is_an_interval():
    estimate = Interval(0.2, 0.1, 0.3)
    table = pd.DataFrame([estimate._asdict()])
    for interval in (estimate, SimpleNamespace(low=0.1, high=0.3), table.iloc[0], next(table.itertuples())):
        assert holds(interval) is True


@pytest.mark.parametrize("wrong", [0.3, (0.1,), (0.2, 0.1, 0.3), "up"])
def test_what_has_no_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pass \(low, high\)"):
        holds(wrong)
