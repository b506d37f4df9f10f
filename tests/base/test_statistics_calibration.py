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
from scipy.stats import binom, kstest

from personalib.base import intervals
from personalib.base.statistics import (
    bootstrap_interval,
    clustered_interval,
    clustered_rank_correlation,
    correlation_interval,
    effect_size,
    paired_difference,
    paired_means,
    proportion_interval,
    two_way_interval,
)
from personalib.evaluation import fidelity

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


# The book's own sizes: two poles of 7 pressures, or three elements of 9 factors, on 8 items of each of 8 traits


def study(rng: Generator, keys: int, size: int, items: int) -> Array:
    """Known, prompted and two steered effects, shape ``(4, rows, traits, items)``; without items the true means."""
    sign = np.tile([[1.0], [-1.0]], (keys, 1)) if size == 2 else rng.choice([-1, 0.5, 1], size=(keys * size, 1))
    known = np.repeat(15 * rng.normal(size=(keys, 8)) * (rng.random((keys, 8)) < 0.5), size, axis=0) * sign
    ways = [np.repeat(5 * rng.normal(size=(keys, 8)), size, axis=0) * sign for _ in range(2)]
    means = np.stack([known, known, *(0.8 * known + way for way in ways)])[..., None]
    if not items:
        return means
    noise = 5 * rng.normal(size=(4, *known.shape, items))
    noise[0] = 0.0
    return means + noise


def ranks(means: Array) -> float:
    """Spearman's correlation of what is steered with what is known."""
    rows = [np.unique(one, return_inverse=True, return_counts=True)[1:] for one in means[[0, 2]]]
    return float(np.corrcoef([(sizes.cumsum() - sizes / 2)[places.ravel()] for places, sizes in rows])[0, 1])


STATISTICS = {
    "fidelity": lambda means: fidelity(means[2], means[1]),
    "difference of fidelities": lambda means: fidelity(means[2], means[1]) - fidelity(means[3], means[1]),
    "correlation": ranks,
}


@pytest.mark.parametrize(("keys", "size"), [(7, 2), (9, 3)])
@pytest.mark.parametrize("name", list(STATISTICS))
def test_two_way_intervals_cover_the_truth_and_raw_percentiles_over_few_clusters_do_not(name, keys, size, monkeypatch):
    statistic, rng, cases = STATISTICS[name], default_rng(7), 160
    true = statistic(study(default_rng(5), 4000, size, 0)[..., 0])
    tables, clusters = [study(rng, keys, size, 8) for _ in range(cases)], np.repeat(np.arange(keys), size)

    def found(values: list[Array]) -> float:
        rows = [two_way_interval(statistic, own, clusters, resamples=100, seed=n) for n, own in enumerate(values)]
        return coverage(np.array(rows), true)

    margin = 3 * np.sqrt(0.95 * 0.05 / cases)
    # Measured: 0.97, 0.96 and 0.96 with 7 pressures, and 0.93, 0.95 and 0.90 with 9 factors, where noise of the items
    # lowers a correlation more than the shift of the bounds makes up for.
    assert 0.95 - margin - 0.02 * (name == "correlation") <= found(tables) <= 0.995
    monkeypatch.setattr(intervals, "expanded_bounds", lambda drawn, level, n: np.quantile(drawn, [0.025, 0.975]))
    assert found([own.mean(axis=-1, keepdims=True) for own in tables]) < 0.95 - margin


@pytest.mark.parametrize("count", [7, 9])
def test_the_clustered_interval_covers_the_mean_of_as_few_clusters_as_the_book_has(count):
    rng = default_rng(count)
    samples = [clusters(rng, count, 0.5) for _ in range(CASES)]
    assert 0.92 <= coverage(seeded(clustered_interval, samples, 400), 0.0) <= 0.97


@pytest.mark.parametrize("n", [7, 24, 60])
def test_wilsons_interval_covers_a_share_on_average_over_shares(n):
    hits = np.arange(n + 1)
    low, high = np.transpose([proportion_interval(int(one), n)[1:] for one in hits])
    shares = np.linspace(0.02, 0.98, 97)[:, None]
    covered = (binom.pmf(hits, n, shares) * ((low <= shares) & (shares <= high))).sum(1)
    assert 0.94 <= covered.mean() <= 0.97


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
    assert np.isnan(null.p[~known]).all() and all(np.mean(null.p <= at) <= allowed(40_000, at) for at in (0.05, 0.2))
    if n > 12:  # of fewer items it is exact, and has steps
        many = null.n > 12
        assert kstest(null.p[many], "uniform").pvalue > 0.001
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
