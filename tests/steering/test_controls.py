"""Random directions are as long as a vector, stand where it stands, and have nothing to do with it or each other."""

from collections import Counter

import numpy as np
import pytest
import torch
from small_models import small, vector

from personalib.models.parts import Site
from personalib.steering.controls import dealt, random_directions
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add

LIKE = vector(Site(2, "resid_pre"), 5, width=128)


def test_random_directions_are_as_long_as_the_vector_and_stand_at_its_site():
    found = random_directions(LIKE, 6)
    assert len(found) == 6
    for one in found:
        assert one.norm == pytest.approx(LIKE.norm, rel=1e-6) and one.direction.dtype == torch.float32
        assert (one.site, one.model, one.revision) == (LIKE.site, LIKE.model, LIKE.revision)
        assert one.method == "random" and one.texts == ""
        LIKE.check_fits(one)
    assert len({one.name for one in found}) == 6


@pytest.mark.parametrize("size", [1e-3, 1.0, 250.0])
def test_they_are_no_longer_or_shorter_by_chance(size):
    like = vector(Site(1), 2, size=size)
    assert [one.norm for one in random_directions(like, 20)] == pytest.approx([like.norm] * 20, rel=1e-6)


def test_there_are_ten_or_as_many_as_are_asked_for():
    assert len(random_directions(LIKE)) == 10
    assert [len(random_directions(LIKE, count)) for count in (0, 1, 3)] == [0, 1, 3]


def test_the_seed_decides_the_directions():
    first, second, other = (random_directions(LIKE, 4, seed) for seed in (1, 1, 2))
    assert first == second
    assert all(abs(one.cosine(another)) < 0.5 for one in first for another in other)


def test_directions_of_one_seed_are_all_different():
    found = random_directions(LIKE, 20)
    assert max(abs(one.cosine(other)) for place, one in enumerate(found) for other in found[:place]) < 0.5


def test_they_are_at_right_angles_to_each_other_and_to_the_vector_on_average():
    """The cosines are 0 in their mean, and their squares one over the number of coordinates."""
    found = random_directions(LIKE, 80)
    among = np.array([one.cosine(other) for place, one in enumerate(found) for other in found[:place]])
    with_it = np.array([one.cosine(LIKE) for one in found])
    assert abs(among.mean()) < 0.01 and (among**2).mean() == pytest.approx(1 / 128, rel=0.15)
    assert abs(with_it.mean()) < 0.03 and (with_it**2).mean() == pytest.approx(1 / 128, rel=0.5)


def test_no_coordinate_is_preferred():
    found = np.array([one.direction.numpy() for one in random_directions(vector(Site(1)), 3000)])
    length = vector(Site(1)).norm
    assert abs(found.mean(0)).max() < 0.02 * length
    np.testing.assert_allclose((found**2).mean(0), length**2 / 24, rtol=0.15)


def test_a_model_is_steered_by_them():
    model = small("llama")
    found = random_directions(vector(Site(1)), 3)
    answers = ask_steered(model, ["w1 w2 "], "ABCD", [(), *((Add(one),) for one in found)])
    assert all(abs(one - other).max() > 1e-3 for place, one in enumerate(answers) for other in answers[:place])


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


def test_nothing_has_no_controls_and_no_direction_cannot_be_dealt():
    nothing = vector(Site(1), 1) * 0.0
    with pytest.raises(ValueError, match="is zero, and so would be its controls"):
        random_directions(nothing)
    with pytest.raises(ValueError, match="there are no directions to deal"):
        dealt(0, ["a"], np.random.default_rng(0))
    assert dealt(3, [], np.random.default_rng(0)) == {}
