"""Intervals cover the truth, and tests reject nothing, as often as they say: measured by simulation.

Every interval is a 95 % one and has to cover the truth in 93 % to 97 % of cases. A coverage that is counted in N cases
has a standard error of sqrt(0.95 * 0.05 / N), and three of them fit within the band from N = 1068 on. A rate of false
rejections is compared with 5 % and three standard errors of its own count. The seeds are fixed.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.stats import binom, kstest, nct

from personalib.base.statistics import (
    adjust,
    bootstrap_interval,
    clustered_interval,
    clustered_rank_correlation,
    correlation_interval,
    effect_size,
    paired_difference,
    paired_means,
    proportion_interval,
)

Array = NDArray[np.float64]
CASES = 1500
assert 3 * np.sqrt(0.95 * 0.05 / CASES) < 0.02


def coverage(intervals: Array, truth: float) -> float:
    """The share of intervals, each a row that starts with estimate, lower and upper bound, that hold the truth."""
    return float(np.mean((intervals[:, 1] <= truth) & (truth <= intervals[:, 2])))


def allowed(cases: int, level: float = 0.05) -> float:
    """The largest rate of false rejections within three standard errors of the level."""
    return level + 3 * float(np.sqrt(level * (1 - level) / cases))


def seeded(interval: Callable[..., tuple[float, ...]], samples: list[tuple[Array, ...]], resamples: int) -> Array:
    """The interval of each sample, each with a seed of its own, as rows."""
    return np.array([interval(*one, resamples=resamples, seed=seed) for seed, one in enumerate(samples)])


# One mean


def normal(rng: Generator, n: int) -> Array:
    """Values with a mean of 1."""
    return 1 + rng.normal(size=(CASES, n))


def skewed(rng: Generator, n: int) -> Array:
    """Values with a mean of 1, of which most are below it."""
    return rng.exponential(size=(CASES, n))


def mean_coverage(draw: Callable[[Generator, int], Array], n: int) -> float:
    """How often the bootstrap covers the mean of n values."""
    return coverage(seeded(bootstrap_interval, [(one,) for one in draw(default_rng(n), n)], 600), 1.0)


@pytest.mark.parametrize(("draw", "n"), [(normal, 12), (normal, 50), (skewed, 200)])
def test_the_bootstrap_covers_a_mean_from_12_values_on_and_of_skewed_ones_where_they_are_many(draw, n):
    assert 0.93 <= mean_coverage(draw, n) <= 0.97


@pytest.mark.parametrize(("n", "documented"), [(12, 0.91), (20, 0.92)])
def test_the_bootstrap_covers_the_mean_of_fewer_skewed_values_as_rarely_as_its_documentation_says(n, documented):
    assert mean_coverage(skewed, n) == pytest.approx(documented, abs=0.025)
    assert str(documented) in str(bootstrap_interval.__doc__)


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("n", [20, 50, 200])
def test_wilsons_interval_covers_a_share_whatever_it_is(p, n):
    """No simulation: every count with its probability. Counts are whole, so coverage jumps about with p; here it is
    averaged over shares within half a standard error, as nobody knows the share to more than that."""
    found = np.array([proportion_interval(hits, n) for hits in range(n + 1)])
    shares = p + np.linspace(-0.5, 0.5, 101) * np.sqrt(p * (1 - p) / n)
    held = (found[:, 1] <= shares[:, None]) & (shares[:, None] <= found[:, 2])
    assert 0.93 <= (held * binom.pmf(np.arange(n + 1), n, shares[:, None])).sum(1).mean() <= 0.97


# Clusters


def clusters(rng: Generator, count: int, share: float) -> tuple[Array, Array]:
    """Values of mean 0 in clusters of one to eight; the share of their variance that lies between clusters."""
    places = np.repeat(np.arange(count), rng.integers(1, 9, count))
    common, own = rng.normal(size=count)[places], rng.normal(size=len(places))
    return np.sqrt(share) * common + np.sqrt(1 - share) * own, places


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("count", [10, 20, 50])
def test_the_clustered_interval_covers_the_mean_from_10_clusters_on(count, share):
    rng = default_rng(count)
    samples = [clusters(rng, count, share) for _ in range(CASES)]
    assert 0.93 <= coverage(seeded(clustered_interval, samples, 600), 0.0) <= 0.97


def rank_rows(rng: Generator, count: int, size: int = 4) -> tuple[Array, Array, Array]:
    """Two measurements in clusters of rows that nearly agree; their rank correlation is known."""
    common = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=count)
    rows = np.repeat(common, size, axis=0) + 0.1 * rng.normal(size=(count * size, 2))
    return rows[:, 0], rows[:, 1], np.repeat(np.arange(count), size)


@pytest.mark.parametrize("count", [20, 40])
def test_the_clustered_rank_correlation_covers_the_true_one_from_20_clusters_on(count):
    rng = default_rng(count)
    samples = [rank_rows(rng, count) for _ in range(CASES)]
    true = 6 / np.pi * np.arcsin(0.6 / 1.01 / 2)
    assert 0.93 <= coverage(seeded(clustered_rank_correlation, samples, 300), true) <= 0.97


@pytest.mark.parametrize("true", [0.0, 0.6])
@pytest.mark.parametrize("n", [20, 50, 100])
def test_the_correlation_covers_the_true_one_from_20_rows_on(n, true):
    pairs = default_rng(n).multivariate_normal([0, 0], [[1, true], [true, 1]], size=(CASES, n))
    samples = [(pair[:, 0], pair[:, 1]) for pair in pairs]
    assert 0.93 <= coverage(seeded(correlation_interval, samples, 500), true) <= 0.97


# Paired changes


@pytest.mark.parametrize("n", [12, 20, 50])
def test_a_paired_difference_covers_the_true_one_and_its_p_value_is_uniform_without_one(n):
    pairs = default_rng(n).normal(size=(CASES, 2, n))
    found = seeded(paired_difference, [(a, b) for a, b in pairs], 500)
    assert 0.93 <= coverage(found, 0.0) <= 0.97
    for level in (0.01, 0.05, 0.2, 0.5):
        assert np.mean(found[:, 3] <= level) <= allowed(CASES, level)
    # One and a half per cent of steps of a p-value, 1 in 500 and of each other, are no departure.
    assert kstest(found[:, 3], "uniform").statistic < 1.63 / np.sqrt(CASES)


def test_a_paired_difference_that_is_there_is_found():
    """Of 0.8 standard deviations in 20 items Student's t finds 92 %."""
    shifted = 0.8 + default_rng(1).normal(size=(300, 20))
    found = seeded(paired_difference, [(one, np.zeros(20)) for one in shifted], 500)
    assert np.mean(found[:, 3] <= 0.05) == pytest.approx(0.92, abs=3 * np.sqrt(0.92 * 0.08 / 300))


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("n", [4, 8, 20, 50])
def test_paired_means_cover_the_true_ones_and_their_p_values_are_uniform_without_one(n, missing):
    rng = default_rng(n)
    changes = rng.normal(size=(40_000, n))
    changes[rng.random(changes.shape) < missing] = np.nan
    null = paired_means(changes)
    # Too few items read is no interval: those are no cases.
    known = null.n >= 2
    assert 0.945 <= coverage(np.transpose(null[:3])[known], 0.0) <= 0.955
    assert kstest(null.p[known], "uniform").pvalue > 0.001 and np.isnan(null.p[~known]).all()
    np.testing.assert_allclose(paired_means(changes + 3).low, null.low + 3)


@pytest.mark.parametrize(("n", "documented"), [(8, 0.89), (20, 0.92), (100, 0.94)])
def test_paired_means_of_skewed_changes_cover_the_true_ones_as_their_documentation_says(n, documented):
    found = paired_means(default_rng(n).exponential(size=(40_000, n)))
    assert coverage(np.transpose(found[:3]), 1.0) == pytest.approx(documented, abs=0.01)
    assert str(documented) in str(paired_means.__doc__)


def test_mean_changes_that_are_there_are_found_as_often_as_theory_says():
    found = paired_means(0.8 + default_rng(2).normal(size=(20_000, 20)))
    bound = nct.isf(0.025, 19, 0), nct.ppf(0.025, 19, 0)
    power = nct.sf(bound[0], 19, 0.8 * np.sqrt(20)) + nct.cdf(bound[1], 19, 0.8 * np.sqrt(20))
    assert np.mean(found.p <= 0.05) == pytest.approx(power, abs=0.01)


@pytest.mark.parametrize("true", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("n", [4, 8, 20, 50])
def test_effect_sizes_are_right_on_average_and_cover_the_true_ones(n, true):
    found = effect_size(true + default_rng(n).normal(size=(4_000, n)))
    assert 0.93 <= coverage(np.transpose(found), true) <= 0.97
    error = found.estimate.std() / np.sqrt(4_000)
    assert found.estimate.mean() == pytest.approx(true, abs=4 * error)


# Many comparisons: 22 factors by 8 traits

COMPARISONS, ITEMS = 22 * 8, 20


def alike(rng: Generator, share: float, cases: int, items: int = ITEMS) -> Array:
    """Changes without effect, shape ``(cases, comparisons, items)``; the correlation of any two comparisons."""
    common = rng.normal(size=(cases, 1, items))
    return np.sqrt(share) * common + np.sqrt(1 - share) * rng.normal(size=(cases, COMPARISONS, items))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_holm_rejects_nothing_where_nothing_is_there_in_19_of_20_families(share):
    families = alike(default_rng(3), share, 600)
    p = paired_means(families.reshape(-1, ITEMS)).p.reshape(600, COMPARISONS)
    assert np.mean([adjust(own).min() <= 0.05 for own in p]) <= allowed(600)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_benjamini_and_hochberg_keep_the_share_of_false_discoveries_and_find_what_is_there(share):
    """A quarter of the comparisons have an effect of one standard deviation."""
    families, there = alike(default_rng(4), share, 600), np.arange(COMPARISONS) % 4 == 0
    families[:, there] += 1.0
    p = paired_means(families.reshape(-1, ITEMS)).p.reshape(600, COMPARISONS)
    rejected = np.array([adjust(own, "fdr_bh") <= 0.05 for own in p])
    false = rejected[:, ~there].sum(1) / np.maximum(rejected.sum(1), 1)
    assert false.mean() <= 0.05 + 3 * false.std() / np.sqrt(600)
    assert rejected[:, there].mean() > 0.9
