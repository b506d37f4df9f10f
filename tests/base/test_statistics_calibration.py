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
from scipy.stats import kstest

from personalib.base.statistics import (
    bootstrap_interval,
    clustered_interval,
    clustered_rank_correlation,
    correlation_interval,
    effect_size,
    paired_difference,
    paired_means,
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


@pytest.mark.parametrize(
    ("draw", "n", "share"), [(normal, 12, 0.95), (normal, 50, 0.95), (skewed, 200, 0.95), (skewed, 12, 0.91)]
)
def test_the_bootstrap_covers_a_mean_and_of_few_skewed_values_as_rarely_as_its_documentation_says(draw, n, share):
    found = seeded(bootstrap_interval, [(one,) for one in draw(default_rng(n), n)], 600)
    assert coverage(found, 1.0) == pytest.approx(share, abs=0.02)
    assert str(share) in str(bootstrap_interval.__doc__)


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


@pytest.mark.parametrize("true", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("n", [4, 8, 20, 50])
def test_effect_sizes_are_right_on_average_and_cover_the_true_ones(n, true):
    found = effect_size(true + default_rng(n).normal(size=(4_000, n)))
    assert 0.93 <= coverage(np.transpose(found), true) <= 0.97
    error = found.estimate.std() / np.sqrt(4_000)
    assert found.estimate.mean() == pytest.approx(true, abs=4 * error)
