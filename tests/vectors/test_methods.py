"""Every method gives what its formula says, finds what was planted, and has its sign and length from the labels."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from personalib.vectors import methods
from personalib.vectors.methods import DEFAULT_METHOD, METHODS, direction

PAIRS, WIDTH = 300, 12
AXES = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0].T
PLANTED, OF_PAIRS, OF_QUESTIONS = AXES[:3]


def planted(seed=0, gap=4.0, of_pairs=2.0, pairs=PAIRS):
    """Two clouds that differ along one direction, with nuisance along two others.

    One nuisance is drawn for every text, so that pairs differ in it; the other for every pair, as by its question, and
    varies most of all.
    """
    rng = np.random.default_rng(seed)
    question = 5 * rng.normal(size=(pairs, 1)) * OF_QUESTIONS
    clouds = [
        sign * gap / 2 * PLANTED
        + question
        + of_pairs * rng.normal(size=(pairs, 1)) * OF_PAIRS
        + rng.normal(size=(pairs, WIDTH))
        for sign in (1, -1)
    ]
    return clouds[0] + 3, clouds[1] + 3


def unit(vector):
    return vector / np.linalg.norm(vector)


def cosine(one, other):
    return float(unit(one) @ unit(other))


def same_line(found, expected):
    """Whether two vectors are the same up to sign and length."""
    return abs(cosine(found, expected)) == pytest.approx(1, abs=1e-9)


# Each is its formula


def test_the_difference_of_means_is_that_and_nothing_else():
    assert len(METHODS) == 6 and DEFAULT_METHOD == "difference_of_means"
    positive, negative = planted()
    expected = positive.mean(0) - negative.mean(0)
    np.testing.assert_array_equal(direction(positive, negative), expected)
    np.testing.assert_allclose(direction(positive, negative), (positive - negative).mean(0), atol=1e-12)


def test_pca_is_that_of_differences_taken_both_ways():
    positive, negative = planted()
    differences = positive - negative
    found = direction(positive, negative, "pca")
    assert same_line(found, PCA().fit(np.vstack([differences, -differences])).components_[0])
    assert same_line(found, np.linalg.svd(differences)[2][0])


def test_centred_pca_is_that_of_the_differences_themselves():
    positive, negative = planted()
    found = direction(positive, negative, "pca_centred")
    assert same_line(found, PCA().fit(positive - negative).components_[0])
    assert same_line(found, np.linalg.eigh(np.cov((positive - negative).T))[1][:, -1])


def test_cluster_means_are_where_lloyds_steps_stay():
    """Reassigning points to the nearer of the two centres and averaging again gives the same centres."""
    positive, negative = planted(gap=3.0)
    half = (positive - negative) / 2
    points = np.vstack([half, -half])
    found = direction(positive, negative, "cluster_means")
    near = points @ found > 0
    assert same_line(found, points[near].mean(0) - points[~near].mean(0))
    assert 0 < (~near[:PAIRS]).sum() < PAIRS / 10, "the clusters are nearly the labels, not quite"


def test_lda_is_the_pooled_shrunk_covariance_inverted():
    positive, negative = planted()
    pooled = np.zeros((WIDTH, WIDTH))
    for own in (positive, negative):
        scaler = StandardScaler().fit(own)
        pooled += np.outer(scaler.scale_, scaler.scale_) * ledoit_wolf(scaler.transform(own))[0] / 2
    expected = np.linalg.solve(pooled, positive.mean(0) - negative.mean(0))
    assert cosine(direction(positive, negative, "lda"), expected) == pytest.approx(1, abs=1e-6)


def test_a_logistic_probe_is_where_its_penalised_loss_is_least():
    positive, negative = planted(gap=2.0)
    rows, signs = np.vstack([positive, negative]), np.repeat([1.0, -1.0], PAIRS)
    standardised = (rows - rows.mean(0)) / rows.std(0)

    def loss(at):
        weights, intercept = at[:-1], at[-1]
        return np.logaddexp(0, -signs * (standardised @ weights + intercept)).sum() + weights @ weights / (2 * 0.1)

    least = minimize(loss, np.zeros(WIDTH + 1)).x[:-1]
    assert cosine(direction(positive, negative, "logistic_probe"), least / rows.std(0)) == pytest.approx(1, abs=1e-6)


# What was planted is found


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pca_centred"])
@pytest.mark.parametrize("seed", range(3))
def test_the_planted_direction_is_found_beside_nuisance_of_high_variance(method, seed):
    positive, negative = planted(seed)
    both = np.vstack([positive, negative])
    assert np.var(both @ OF_QUESTIONS) > 4 * np.var(both @ PLANTED), "most of the variance is none of the poles'"
    assert cosine(direction(positive, negative, method), PLANTED) > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_centred_pca_finds_the_nuisance_in_which_pairs_differ(seed):
    positive, negative = planted(seed)
    found = direction(positive, negative, "pca_centred")
    assert abs(cosine(found, OF_PAIRS)) > 0.97 and abs(cosine(found, PLANTED)) < 0.2


# Sign and length


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_swapping_the_poles_turns_the_direction_round(method, seed):
    positive, negative = planted(seed)
    found = direction(positive, negative, method)
    np.testing.assert_allclose(direction(negative, positive, method), -found, atol=1e-3 * np.linalg.norm(found))
    assert found @ (positive.mean(0) - negative.mean(0)) > 0


@pytest.mark.parametrize("method", METHODS)
def test_adding_it_once_carries_one_mean_to_the_other_along_the_direction(method):
    positive, negative = planted()
    found = direction(positive, negative, method)
    assert (negative + found).mean(0) @ unit(found) == pytest.approx(positive.mean(0) @ unit(found), abs=1e-9)
    gap = positive.mean(0) - negative.mean(0)
    np.testing.assert_allclose(found, unit(found) * (unit(found) @ gap), atol=1e-12)
    assert 0 < np.linalg.norm(found) <= np.linalg.norm(gap) + 1e-9, "a part of the difference is not longer than it"


@pytest.mark.parametrize("method", METHODS)
def test_where_the_origin_is_and_which_pair_comes_first_make_no_difference(method):
    positive, negative = planted()
    found = direction(positive, negative, method)
    tolerance = {"atol": 2e-3 * np.linalg.norm(found)}
    shift, order = np.arange(WIDTH), np.random.default_rng(0).permutation(PAIRS)
    np.testing.assert_allclose(direction(positive + shift, negative + shift, method), found, **tolerance)
    np.testing.assert_allclose(direction(positive[order], negative[order], method), found, **tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_is_computed_in_double_and_inputs_stay_as_they_are(method):
    positive, negative = (each.astype(np.float32) for each in planted())
    before = positive.copy(), negative.copy()
    found = direction(positive, negative, method)
    assert found.dtype == np.float64 and found.shape == (WIDTH,)
    np.testing.assert_array_equal(found, direction(positive.astype(float), negative.astype(float), method))
    np.testing.assert_array_equal([positive, negative], before)
    assert np.isfinite(direction(*planted(pairs=6), method)).all(), "fewer pairs than coordinates are enough"


# What is refused


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 'mean'; choose one of difference_of_means, pca, pca_centred"):
        direction(*planted(), "mean")


@pytest.mark.parametrize(
    "shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((1, 4), (1, 4)), ((4,), (4,)), ((0, 4), (0, 4))]
)
def test_pairs_that_are_none_are_refused(shapes):
    with pytest.raises(ValueError, match=r"activations of shapes \(.*\) and \(.*\); pass two or more pairs of both"):
        direction(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize(("value", "pole"), [(np.nan, 0), (np.inf, 1)])
def test_an_activation_that_is_no_number_is_refused(value, pole):
    poles = planted()
    poles[pole][2, 3] = value
    with pytest.raises(ValueError, match="not finite; run the model in float32 or bfloat16"):
        direction(*poles)


@pytest.mark.parametrize("method", METHODS)
def test_poles_with_the_same_mean_have_no_direction(method):
    positive = np.array([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="same mean; there is no direction"):
        direction(positive, positive[::-1], method)


@pytest.mark.filterwarnings("error")
def test_a_probe_that_finds_nothing_is_refused():
    positive = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match="logistic_probe finds no direction in 2 pairs; pass more, or pairs that"):
        direction(positive, positive[::-1] + np.array([0, 0, 1e-4]), "logistic_probe")


@pytest.mark.parametrize("found", [0.0, np.nan, np.inf])
def test_what_has_no_length_is_no_direction(found, monkeypatch):
    broken = {"broken": lambda positive, _: np.full(positive.shape[1], found)}
    monkeypatch.setattr(methods, "METHODS", broken)
    with pytest.raises(ValueError, match="broken finds no direction in 300 pairs"):
        direction(*planted(), "broken")
