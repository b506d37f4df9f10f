"""The planted causes are what their seed draws, and mean what the book says they mean."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml

from personalib.base.data import DataError, data_dir
from personalib.organism.world import Profile, World, draw_world, load_world, written
from personalib.stimuli.factors import TRAITS, elements, load_factors, load_pressures

COMMITTED = data_dir() / "organism" / "world.yaml"


def bare(baseline, noise):
    return World(0, noise, np.array(baseline, dtype=float), {}, {})


def test_the_committed_world_is_what_its_seed_draws(world):
    assert written(draw_world(world.seed)) == COMMITTED.read_text()


def test_another_seed_draws_another_world(world):
    other = draw_world(world.seed + 1)
    assert any(not np.array_equal(other.effects[key], world.effects[key]) for key in world.effects)
    assert not np.array_equal(other.baseline, world.baseline)


def test_effects_sum_to_zero_over_a_factor(world):
    for factor in load_factors():
        values = np.array([world.effects[factor.key, element.key] for element in factor.elements])
        # Each value was rounded to two decimals.
        assert np.abs(values.sum(axis=0)).max() <= 0.005 * len(values) + 1e-9, factor.key


def test_every_element_has_an_effect_and_every_trait_four_causes(world):
    assert set(world.effects) == {(element.factor, element.key) for element in elements()}
    assert all(np.any(values != 0) for values in world.effects.values())
    moved = {
        factor.key: np.any([world.effects[factor.key, element.key] != 0 for element in factor.elements], axis=0)
        for factor in load_factors()
    }
    assert np.sum(list(moved.values()), axis=0).tolist() == [4] * len(TRAITS)


def test_every_pressure_moves_three_traits_strongly(world):
    assert list(world.pressures) == [pressure.key for pressure in load_pressures()]
    for values in world.pressures.values():
        sizes = np.abs(values[values != 0])
        assert len(sizes) == 3 and sizes.min() >= 1.6 and sizes.max() <= 2.4


def test_the_log_odds_are_the_sum_of_what_is_told(world):
    profile = Profile({"gender": "male", "ideology": "anarchism"}, ("trust", "negative"))
    expected = (
        world.baseline
        + world.effects["gender", "male"]
        + world.effects["ideology", "anarchism"]
        - world.pressures["trust"]
    )
    before = world.baseline.copy()
    np.testing.assert_allclose(world.logit(profile), expected)
    np.testing.assert_array_equal(world.baseline, before)
    np.testing.assert_array_equal(world.logit(Profile()), before)


@pytest.mark.parametrize("pressure", [pressure.key for pressure in load_pressures()])
def test_the_poles_of_a_pressure_mirror_each_other(world, pressure):
    around = world.logit(Profile({"age": "young"}))
    positive, negative = (
        world.logit(Profile({"age": "young"}, (pressure, pole))) - around for pole in ("positive", "negative")
    )
    np.testing.assert_allclose(positive, -negative)
    assert np.any(positive)


def test_the_probability_is_the_logistic_averaged_over_the_noise(world):
    noise = world.noise * np.random.default_rng(0).normal(size=(400_000, 1))
    for profile in (Profile(), Profile({"gender": "male", "age": "older"}, ("activity", "positive"))):
        sampled = (1 / (1 + np.exp(-(world.logit(profile) + noise)))).mean(axis=0)
        np.testing.assert_allclose(world.probability(profile), sampled, atol=8e-4)


def test_without_noise_the_probability_is_the_logistic():
    logits = np.linspace(-4, 4, 8)
    np.testing.assert_allclose(bare(logits, 0).probability(Profile()), 1 / (1 + np.exp(-logits)))


def test_the_probability_rises_with_the_log_odds_and_is_symmetric():
    logits = np.linspace(-6, 6, 241)
    for noise in (0, 0.5, 2):
        probability = bare(logits, noise).probability(Profile())
        assert all(low < high for low, high in pairwise(probability))
        assert probability[0] > 0 and probability[-1] < 1
        np.testing.assert_allclose(probability + probability[::-1], 1)


def test_noise_pulls_the_probability_towards_one_half():
    sure, unsure = (bare([2.0], noise).probability(Profile())[0] for noise in (0.1, 2))
    assert 0.5 < unsure < sure


def test_certainty_multiplies_all_log_odds():
    sure = bare([0.5, -1.0], 0.4).probability(Profile(), certainty=3.0)
    np.testing.assert_allclose(sure, bare([1.5, -3.0], 1.2).probability(Profile()))


def test_a_cause_moves_each_trait_in_the_direction_of_its_sign(world):
    middle = replace(world, baseline=np.zeros(len(TRAITS)))
    for (factor, element), effect in world.effects.items():
        moved = middle.probability(Profile({factor: element})) - 0.5
        np.testing.assert_array_equal(np.sign(np.round(moved, 9)), np.sign(effect))


def test_saving_and_loading_returns_the_world(tmp_path):
    drawn = replace(draw_world(11), noise=0.25)
    (tmp_path / "world.yaml").write_text(written(drawn))
    loaded = load_world(tmp_path / "world.yaml")
    assert (loaded.seed, loaded.noise) == (11, 0.25)
    np.testing.assert_array_equal(loaded.baseline, drawn.baseline)
    for mapping in ("effects", "pressures"):
        saved, read = getattr(drawn, mapping), getattr(loaded, mapping)
        assert list(saved) == list(read)
        assert all(np.array_equal(saved[key], read[key]) for key in saved)


def spoil(content, keys, value=None):
    """Put a value at a place of a file's content, or remove what is there."""
    *path, last = keys
    for key in path:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((["traits", 0], "courage"), "not a world file.*courage"),
        ((["traits", 7],), "not a world file"),
        ((["noise"],), "not a world file.*noise"),
        ((["effects", "gender", "male", 0], "much"), "not a world file.*much"),
        ((["effects"], [1, 2]), "not a world file"),
        ((["effects", "gender", "male", 0],), "not a world file.*7"),
        ((["baseline", 0],), "not a world file.*7"),
        ((["effects", "gender", "male"],), "elements or pressures differ"),
        ((["effects", "gender", "robot"], [0.0] * 8), "elements or pressures differ"),
        ((["pressures", "trust"],), "elements or pressures differ"),
        ((["pressures", "haste"], [0.0] * 8), "elements or pressures differ"),
        (None, "not a world file"),
    ],
)
def test_a_wrong_world_file_is_named_with_what_is_wrong(tmp_path, change, message):
    path, content = tmp_path / "world.yaml", yaml.safe_load(COMMITTED.read_text())
    if change:
        spoil(content, *change)
    path.write_text(yaml.safe_dump(content) if change else "")
    with pytest.raises(DataError, match=message) as raised:
        load_world(path)
    assert str(path) in str(raised.value)


def test_an_absent_world_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_world(tmp_path / "absent.yaml")
