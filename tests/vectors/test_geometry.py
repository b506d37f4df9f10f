"""Angles, readings, traits' directions and sparse explanations are what was planted or computed by hand."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_saes import sae_of

from personalib.features.vectors import sparse_reconstruction
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import ContrastPair, Wording
from personalib.vectors.contrast import PairActivations, fit_vector
from personalib.vectors.geometry import (
    composed,
    cosines,
    cross_readings,
    dealt_vectors,
    shuffled_cosines,
    trait_directions,
)
from personalib.vectors.methods import direction
from personalib.vectors.vector import SteeringVector

D_MODEL, WIDTH = 64, 96
AXES, SITE = np.eye(4), Site(1)


def vector(direction, site=SITE, name="one", model="toy"):
    return SteeringVector(torch.as_tensor(np.array(direction)), site, name, "planted", model, "1")


def by_name(**directions):
    return {name: vector(direction, name=name) for name, direction in directions.items()}


def rows(vectors):
    """The directions below each other, shape (vectors, d_model)."""
    return np.array([one.direction.double().numpy() for one in vectors.values()])


def random_vectors(count, seed=0, width=D_MODEL):
    rng = np.random.default_rng(seed)
    return by_name(**{f"random_{number}": rng.standard_normal(width) for number in range(count)})


# Cosines


def test_cosines_are_symmetric_with_a_unit_diagonal_and_those_of_a_plain_product():
    vectors = random_vectors(6)
    table = cosines(vectors)
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)
    values = rows(vectors)
    lengths = np.sqrt((values**2).sum(1))
    np.testing.assert_allclose(table, values @ values.T / np.outer(lengths, lengths), atol=1e-6)


def test_two_sets_of_vectors_give_one_in_rows_and_the_other_in_columns():
    table = cosines(by_name(a=[1, 0, 0], b=[0, 2, 0]), by_name(x=[0, 0, 5], y=[1, 1, 0], z=[0, -1, 0]))
    assert list(table.index) == ["a", "b"] and list(table.columns) == ["x", "y", "z"]
    np.testing.assert_allclose(table, [[0, 0.5**0.5, 0], [0, 0.5**0.5, -1]], atol=1e-6)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (vector([1.0, 0], Site(2)), "differ in site"),
        (vector([1.0, 0], model="else"), "differ in model"),
        (vector([0.0, 0], name="nothing"), "nothing is zero and has no direction"),
    ],
)
def test_vectors_that_do_not_belong_together_have_no_cosine(other, problem):
    with pytest.raises(ValueError, match=problem):
        cosines({"one": vector([1.0, 0]), "other": other})
    with pytest.raises(ValueError, match=problem):
        cosines({"one": vector([1.0, 0])}, {"other": other})


def read(positive, negative, pairs=()):
    """Activations of two poles, by site."""
    return PairActivations("planted", pairs, positive, negative, "toy", "1", "last", "")


# Shuffled cosines


def contrasted(seed, spread, distance=0.0, phrases=40, repeats=2):
    """Pairs of two poles that lie apart along the first axis; each phrase has a place of its own."""
    rng = np.random.default_rng(seed)
    poles = []
    for side in (distance / 2, -distance / 2):
        places = rng.standard_normal((phrases, len(spread))) * spread
        places[:, 0] += side
        poles.append({SITE: np.repeat(places, repeats, axis=0).astype(np.float32)})
    named = [str(phrase) for phrase in range(phrases) for _ in range(repeats)]
    pairs = tuple(ContrastPair(Wording(f"+{each}", f"+{each}"), Wording(f"-{each}", f"-{each}"), "?") for each in named)
    return {"train": read(*poles, pairs)}


def test_directions_of_shuffled_poles_have_the_cosines_of_random_vectors_where_texts_vary_alike_everywhere():
    isotropic = np.ones(D_MODEL)
    readings = {str(seed): contrasted(seed, isotropic, distance=30) for seed in range(3)}
    fitted = [direction(own["train"].positive[SITE], own["train"].negative[SITE]) for own in readings.values()]
    for one, other in pairwise(fitted):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.9, "the poles' own directions are alike"
    found = shuffled_cosines(readings, SITE, shuffles=300)
    assert found.shape == (300,) and abs(found.mean()) < 0.05
    assert found.std() == pytest.approx(D_MODEL**-0.5, rel=0.25)


def test_cosines_of_shuffled_poles_are_large_where_texts_vary_mostly_in_one_direction():
    narrow = np.where(np.arange(D_MODEL) == 5, 500, 1)
    found = shuffled_cosines({str(seed): contrasted(seed, narrow) for seed in range(3)}, SITE, shuffles=100)
    assert np.median(np.abs(found)) > 0.9 and (np.abs(found) <= 1 + 1e-6).all()
    assert 0.3 < (found > 0).mean() < 0.7, "either way round"


def test_a_shuffled_cosine_is_of_two_different_contrasts():
    """One varies along one axis alone and the other along another, so that their directions are orthogonal."""
    axes = np.eye(D_MODEL)
    readings = {"one": contrasted(0, axes[3]), "two": contrasted(1, axes[7])}
    np.testing.assert_allclose(shuffled_cosines(readings, SITE, shuffles=30), 0, atol=1e-6)


def test_the_seed_decides_how_the_poles_are_dealt():
    readings = {str(seed): contrasted(seed, np.ones(8)) for seed in range(2)}
    one, same, other = (shuffled_cosines(readings, SITE, shuffles=20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.isclose(one, other).any()
    assert len(set(one)) == 20


# Cross-readings


def halves(positive, negative):
    """Held-out activations as given; those to train on have the poles the other way round."""
    return {"train": read({SITE: negative}, {SITE: positive}), "held_out": read({SITE: positive}, {SITE: negative})}


def clouds(axis, seed=0, texts=400, distance=20):
    """Two clouds that lie apart along one axis."""
    rng = np.random.default_rng(seed)
    positive, negative = rng.standard_normal((2, texts, len(AXES))).astype(np.float32)
    return halves(positive + np.float32(distance) * AXES[axis].astype(np.float32), negative)


def test_a_vector_reads_the_contrast_that_lies_along_it_and_no_other():
    vectors = by_name(first=AXES[0], reversed=-3 * AXES[0], second=AXES[1], both=AXES[0] - AXES[1], neither=AXES[2])
    table = cross_readings(vectors, {"one": clouds(0), "two": clouds(1, seed=1)})
    assert list(table.index) == list(vectors) and list(table.columns) == ["one", "two"]
    assert table.loc["first", "one"] == table.loc["second", "two"] == table.loc["both", "one"] == 1
    assert table.loc["reversed", "one"] == table.loc["both", "two"] == 0
    blind = [("first", "two"), ("second", "one"), ("reversed", "two"), ("neither", "one"), ("neither", "two")]
    for place in blind:
        assert table.loc[place] == pytest.approx(0.5, abs=0.08)


def test_readings_with_ties_are_those_of_sklearn():
    rng = np.random.default_rng(3)
    positive = rng.integers(0, 4, (30, 4)).astype(np.float32)
    negative = rng.integers(0, 3, (50, 4)).astype(np.float32)
    table = cross_readings({str(axis): vector(AXES[axis]) for axis in range(4)}, {"few": halves(positive, negative)})
    poles = np.repeat([1, 0], [30, 50])
    expected = [roc_auc_score(poles, np.concatenate([positive, negative])[:, axis]) for axis in range(4)]
    np.testing.assert_allclose(table["few"], expected)
    assert len(set(expected)) == 4


def test_a_vector_reads_the_site_where_it_stands():
    high, low = np.ones((5, 4), np.float32), -np.ones((5, 4), np.float32)
    own = {"held_out": read({Site(1): high, Site(2): low}, {Site(1): low, Site(2): high})}
    table = cross_readings({"one": vector(AXES[0], Site(1)), "two": vector(AXES[0], Site(2))}, {"crossed": own})
    assert table["crossed"].tolist() == [1, 0]


# Traits' directions

PLANTED = np.array([[4, 0, 1, 0, -2], [0, 3, 0, -1, 1], [1, 1, 5, 2, 0]])
EFFECTS = pd.DataFrame(
    [[2, 0, 0], [0, 2, -1], [1, 1, 0], [-1, 0, 3], [0, -2, 1]], index=list("abcde"), columns=["warm", "calm", "bold"]
)


def planted_vectors(noise=0.0):
    values = EFFECTS.to_numpy() @ PLANTED
    values = values + noise * np.random.default_rng(2).standard_normal(values.shape)
    return by_name(**dict(zip(EFFECTS.index, values, strict=True)))


def test_directions_that_vectors_were_composed_of_are_recovered():
    vectors = planted_vectors()
    found = trait_directions(vectors, EFFECTS)
    few = trait_directions({name: vectors[name] for name in "abd"}, EFFECTS)
    np.testing.assert_allclose(rows(few), PLANTED, atol=1e-5, err_msg="as many as traits are enough")
    assert list(found) == ["warm", "calm", "bold"]
    np.testing.assert_allclose(rows(found), PLANTED, atol=1e-5)
    for trait, one in found.items():
        assert (one.site, one.model, one.revision) == (Site(1), "toy", "1")
        assert (one.name, one.method) == (f"traits.{trait}", "least_squares")


def test_the_order_of_vectors_and_of_effects_makes_no_difference():
    vectors = planted_vectors(noise=0.5)
    expected = rows(trait_directions(vectors, EFFECTS))
    more = pd.concat([EFFECTS.iloc[::-1], pd.DataFrame([[9, 9, 9]], index=["unused"], columns=EFFECTS.columns)])
    np.testing.assert_allclose(rows(trait_directions(vectors, more)), expected, atol=1e-5)
    turned = dict(reversed(vectors.items()))
    np.testing.assert_allclose(rows(trait_directions(turned, EFFECTS)), expected, atol=1e-5)


def test_noisy_vectors_give_the_least_squares_solution():
    vectors, weights = planted_vectors(noise=0.5), EFFECTS.to_numpy(dtype=float)
    found = rows(trait_directions(vectors, EFFECTS))
    np.testing.assert_allclose(found, np.linalg.lstsq(weights, rows(vectors), rcond=None)[0], atol=1e-5)
    left = rows(vectors) - weights @ found
    np.testing.assert_allclose(weights.T @ left, 0, atol=1e-4)
    assert np.abs(left).max() > 0.1, "the noise cannot be composed of the traits"


def test_composing_is_the_inverse_of_finding_the_traits():
    vectors = planted_vectors()
    back = composed(trait_directions(vectors, EFFECTS), EFFECTS)
    assert list(back) == list(vectors)
    np.testing.assert_allclose(rows(back), rows(vectors), atol=1e-4)
    for name, one in back.items():
        assert one.name == f"composed {name}" and one.cosine(vectors[name]) == pytest.approx(1)


def test_effects_are_taken_by_the_traits_names():
    traits = trait_directions(planted_vectors(), EFFECTS)
    other = EFFECTS[["bold", "warm", "calm"]].assign(unknown=7.0)
    np.testing.assert_allclose(rows(composed(traits, other)), rows(composed(traits, EFFECTS)), atol=1e-5)


@pytest.mark.parametrize(
    ("names", "effects", "problem"),
    [
        ("ab", EFFECTS, "2 vectors do not tell 3 traits apart; pass more of them"),
        ("abcde", EFFECTS.assign(bold=2 * EFFECTS["warm"] - EFFECTS["calm"]), "5 vectors do not tell 3 traits apart"),
        ("abcde", EFFECTS.drop(index=["b", "d"]), "there are no effects of b, d; pass a row for each vector"),
        ("", EFFECTS, "there are no vectors"),
    ],
)
def test_vectors_that_tell_no_traits_are_refused(names, effects, problem):
    vectors = planted_vectors()
    with pytest.raises(ValueError, match=problem):
        trait_directions({name: vectors[name] for name in names}, effects)


def test_vectors_of_several_sites_are_not_mixed():
    vectors = planted_vectors() | {"e": vector(PLANTED[0], Site(2))}
    with pytest.raises(ValueError, match=r"differ in site: resid_post\.1 and resid_post\.2"):
        trait_directions(vectors, EFFECTS)
    traits = trait_directions(planted_vectors(), EFFECTS) | {"bold": vector(PLANTED[2], Site(2))}
    with pytest.raises(ValueError, match="differ in site"):
        composed(traits, EFFECTS)


# Sparse explanations


@pytest.fixture(scope="module")
def sae():
    """Random rows of different lengths."""
    rng = np.random.default_rng(1)
    decoder = rng.standard_normal((WIDTH, D_MODEL)) * rng.uniform(0.5, 3, (WIDTH, 1))
    return sae_of(SITE, WIDTH, D_MODEL, W_dec=decoder)


def units(values):
    return values / np.sqrt((values**2).sum(1, keepdims=True))


def pursuit(target, dictionary, count):
    """Orthogonal matching pursuit as it is written in the paper: what is explained, and the rows by their weight."""
    target = target / np.linalg.norm(target)
    left, picked = target, []
    for _ in range(count):
        picked.append(int(np.abs(dictionary @ left).argmax()))
        weights = np.linalg.lstsq(dictionary[picked].T, target, rcond=None)[0]
        left = target - weights @ dictionary[picked]
    return 1 - left @ left, [picked[number] for number in np.argsort(-np.abs(weights))]


def test_a_vector_of_three_rows_is_explained_by_these_three(sae):
    unit = units(sae.directions.double().numpy())
    made = {"three": 3 * unit[7] - 2 * unit[40] + 1.5 * unit[81], "reversed": -unit[12] - 2 * unit[3] + 1.2 * unit[95]}
    table = sparse_reconstruction(by_name(**made), sae, (1, 2, 3)).set_index(["name", "features"])
    assert table.loc[("three", 3), "chosen"] == [7, 40, 81] and table.loc[("reversed", 3), "chosen"] == [3, 95, 12]
    for name in made:
        shares = table.loc[name]
        assert shares.loc[3, "explained"] == pytest.approx(1, abs=1e-9) and shares.loc[2, "explained"] < 0.95
        assert (shares["explained"] > shares["chance"] + 0.2).all() and (shares["chance"] > 0).all()
        assert (shares["explained"] > shares["random"] + 0.2).all() and (shares["random"] > 0).all()


def test_explanations_are_those_of_a_pursuit_written_by_hand(sae):
    vectors, unit = random_vectors(4, seed=6), units(sae.directions.double().numpy())
    table = sparse_reconstruction(vectors, sae, (1, 2, 5, 12))
    assert list(table.columns) == ["name", "features", "explained", "chance", "random", "chosen"]
    assert list(zip(table["name"], table["features"], strict=True)) == [(n, c) for c in (1, 2, 5, 12) for n in vectors]
    for row in table.itertuples():
        share, chosen = pursuit(vectors[row.name].direction.double().numpy(), unit, row.features)
        assert row.explained == pytest.approx(share, abs=1e-9) and row.chosen == chosen


def test_a_random_vector_is_explained_as_well_by_chance_as_by_the_features(sae):
    """The SAE's rows are random here as well, so that all three numbers measure the same."""
    table = sparse_reconstruction(random_vectors(40, seed=9), sae, (5,))
    means = table[["explained", "chance", "random"]].mean()
    assert means.max() - means.min() < 0.05 and means.min() > 0.2
    assert table["random"].nunique() == 1 and table["chance"].nunique() == table["explained"].nunique() == 40


def test_the_length_of_a_vector_and_its_company_make_no_difference(sae):
    vectors = random_vectors(3, seed=8)
    table = sparse_reconstruction(vectors, sae, (1, 6)).set_index(["name", "features"])
    alone = sparse_reconstruction({"random_1": 50 * vectors["random_1"]}, sae, (6,)).iloc[0]
    together = table.loc[("random_1", 6)]
    assert alone["explained"] == pytest.approx(together["explained"]) and alone["chosen"] == together["chosen"]
    assert alone["chance"] == pytest.approx(together["chance"]) and alone["random"] == pytest.approx(together["random"])


def test_the_seed_decides_what_chance_does_and_nothing_else(sae):
    vectors = random_vectors(2, seed=8)
    one, same, other = (sparse_reconstruction(vectors, sae, (3,), seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    pd.testing.assert_frame_equal(one[["explained", "chosen"]], other[["explained", "chosen"]])
    assert (one[["chance", "random"]] != other[["chance", "random"]]).all(axis=None)


def test_a_vector_at_another_site_is_named(sae):
    vectors = random_vectors(1) | {"deep": vector(np.ones(D_MODEL), Site(2))}
    with pytest.raises(ValueError, match=r"deep stands at resid_post\.2, and tiny reads resid_post\.1"):
        sparse_reconstruction(vectors, sae)
    with pytest.raises(ValueError, match="nothing is zero and made of nothing; leave it out"):
        sparse_reconstruction({"nothing": vector(np.zeros(D_MODEL))}, sae)


def test_dealt_vectors_are_of_the_same_texts_and_mean_nothing():
    readings = {"a": contrasted(0, np.ones(D_MODEL), distance=6)}
    real = {"a": fit_vector(readings["a"]["train"], SITE)}
    drawn = [dealt_vectors(readings, real, seed=seed)["a"] for seed in range(40)]
    assert dealt_vectors(readings, real, seed=0)["a"] == drawn[0] != drawn[1]
    assert all(one.site == SITE and one.name == "dealt planted" for one in drawn)
    assert abs(np.mean([one.cosine(real["a"]) for one in drawn])) < 0.2
    assert max(one.norm for one in drawn) < real["a"].norm
