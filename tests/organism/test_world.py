"""The planted causes are what their seed draws, and mean what the book says they mean."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from personalib.base.data import DataError, data_dir
from personalib.organism.world import (
    Profile,
    World,
    draw_world,
    effect_similarity,
    load_world,
    planted_changes,
    planted_effects,
    written,
)
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES, TRAITS, elements, load_factors, load_pressures

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


@pytest.mark.parametrize("pressure", [pressure.key for pressure in load_pressures()])
@pytest.mark.parametrize(("pole", "sign"), list(zip(POLES, (1, -1), strict=True)))
def test_the_log_odds_are_the_sum_of_what_is_told(world, pressure, pole, sign):
    profile = Profile({"gender": "male", "ideology": "anarchism"}, (pressure, pole))
    before = world.baseline.copy()
    told = world.effects["gender", "male"] + world.effects["ideology", "anarchism"] + sign * world.pressures[pressure]
    np.testing.assert_allclose(world.logit(profile), before + told)
    np.testing.assert_array_equal(world.baseline, before)
    np.testing.assert_array_equal(world.logit(Profile()), before)


def test_the_probability_is_the_logistic_averaged_over_the_noise(world):
    noise = np.linspace(-10, 10, 2001)[:, None]
    density = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
    told, wide = Profile({"gender": "male", "age": "older"}, ("activity", "positive")), np.linspace(-6, 6, 8)
    for one, profile in ((world, Profile()), (world, told), (bare(wide, 0.5), Profile()), (bare(wide, 2), Profile())):
        expected = (density / (1 + np.exp(-one.logit(profile) - one.noise * noise))).sum(axis=0)
        np.testing.assert_allclose(one.probability(profile), expected, atol=1e-5 if one.noise > 1 else 1e-9)


def test_without_noise_the_probability_is_the_logistic():
    logits = np.linspace(-4, 4, 8)
    np.testing.assert_allclose(bare(logits, 0).probability(Profile()), 1 / (1 + np.exp(-logits)))


def test_certainty_multiplies_all_log_odds():
    sure = bare([0.5, -1.0], 0.4).probability(Profile(), certainty=3.0)
    np.testing.assert_allclose(sure, bare([1.5, -3.0], 1.2).probability(Profile()))


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
        ((["traits", 0], "courage"), "traits, elements or pressures differ"),
        ((["noise"],), "not a world file.*noise"),
        ((["effects", "gender", "male", 0], "much"), "not a world file.*much"),
        ((["effects"], [1, 2]), "not a world file"),
        ((["effects", "gender", "male", 0],), "not a world file.*7"),
        ((["baseline", 0],), "not a world file.*7"),
        ((["effects", "gender", "male"],), "elements or pressures differ"),
        ((["effects", "gender", "robot"], [0.0] * 8), "elements or pressures differ"),
        ((["pressures", "trust"],), "elements or pressures differ"),
        ((["pressures", "haste"], [0.0] * 8), "elements or pressures differ"),
    ],
)
def test_a_wrong_world_file_is_named_with_what_is_wrong(tmp_path, change, message):
    path, content = tmp_path / "world.yaml", yaml.safe_load(COMMITTED.read_text())
    spoil(content, *change)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=message) as raised:
        load_world(path)
    assert str(path) in str(raised.value)


# --- what is planted -------------------------------------------------------------------------------------------------


def test_two_elements_are_alike_by_the_cosine_of_their_planted_effects(world):
    table = effect_similarity(world)
    female, poor = world.effects["gender", "female"], world.effects["socioeconomic_status", "poor"]
    expected = female @ poor / np.linalg.norm(female) / np.linalg.norm(poor)
    assert table.loc["gender.female", "socioeconomic_status.poor"] == pytest.approx(expected)
    np.testing.assert_allclose(np.diag(table), 1.0)
    assert table.loc["gender.female", "gender.male"] == pytest.approx(-1.0)


def test_the_poles_of_a_pressure_differ_by_twice_its_planted_effect(world):
    table = planted_effects(world, "pressures")
    assert sorted(table.index) == sorted(one.key for one in contrasts("pressures")) and list(table) == list(TRAITS)
    for key, row in table.iterrows():
        np.testing.assert_array_equal(row, 2 * world.pressures[key])
        up, down = (world.logit(Profile(pressure=(key, pole))) for pole in ("positive", "negative"))
        np.testing.assert_allclose(row, up - down)
    assert table.loc["trust"].abs().max() > 3


@pytest.mark.parametrize("factor", load_factors(), ids=lambda factor: factor.key)
def test_an_element_is_held_against_the_mean_of_the_others_of_its_factor(world, factor):
    table = planted_effects(world, "elements")
    assert sorted(table.index) == sorted(one.key for one in contrasts("elements")) and list(table) == list(TRAITS)
    told = {each.key: world.logit(Profile({factor.key: each.key})) for each in factor.elements}
    for key, own in told.items():
        others = [other for name, other in told.items() if name != key]
        np.testing.assert_allclose(table.loc[f"{factor.key}.{key}"], own - np.mean(others, axis=0), atol=1e-9)
        # own effects sum to zero but for their two decimals
        count = len(told)
        expected = world.effects[factor.key, key] * count / (count - 1)
        np.testing.assert_allclose(table.loc[f"{factor.key}.{key}"], expected, atol=0.03)


@pytest.mark.parametrize("planted", [planted_effects, planted_changes])
@pytest.mark.parametrize("family", ["facets", "traits", "moods"])
def test_a_family_that_is_not_planted_is_refused(world, planted, family):
    with pytest.raises(ValueError, match=f"nothing of the family '{family}' is planted; choose pressures or elements"):
        planted(world, family)


def profile_of(key, pole):
    """What a text tells of a person of a pole."""
    if "." in key:
        assert pole == "positive"
        return Profile(dict([key.split(".")]))
    return Profile(pressure=(key, pole))


@pytest.mark.parametrize(("family", "poles"), [("pressures", list(POLES)), ("elements", ["positive"])])
def test_planted_changes_are_the_worlds_between_being_told_and_not(world, family, poles):
    """In a row for each contrast, pole and trait: both poles of a pressure, and of an element only that it is told."""
    table = planted_changes(world, family)
    rows = {(one.key, pole, trait) for one in contrasts(family) for pole in poles for trait in TRAITS}
    assert set(table[["key", "pole", "group"]].itertuples(index=False, name=None)) == rows and len(table) == len(rows)
    assert list(table) == ["key", "pole", "group", "truth"]
    nobody = world.probability(Profile())
    for row in table.itertuples():
        change = world.probability(profile_of(row.key, row.pole)) - nobody
        assert row.truth == pytest.approx(100 * change[TRAITS.index(row.group)], abs=1e-12)
    assert table["truth"].abs().max() > 10 and table["truth"].between(-100, 100).all()
