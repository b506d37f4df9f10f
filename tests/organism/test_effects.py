"""What is planted in a world, against its probabilities and against cases computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from personalib.organism import world as effects
from personalib.organism.world import Profile
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import POLES, TRAITS, load_factors


def test_two_elements_are_alike_by_the_cosine_of_their_planted_effects(world):
    table = effects.effect_similarity(world)
    female, poor = world.effects["gender", "female"], world.effects["socioeconomic_status", "poor"]
    expected = female @ poor / np.linalg.norm(female) / np.linalg.norm(poor)
    assert table.loc["gender.female", "socioeconomic_status.poor"] == pytest.approx(expected)
    np.testing.assert_allclose(np.diag(table), 1.0)
    assert table.loc["gender.female", "gender.male"] == pytest.approx(-1.0)


@pytest.mark.parametrize("family", ["pressures", "elements"])
def test_planted_effects_have_a_row_for_each_contrast_and_a_column_for_each_trait(world, family):
    table = effects.planted_effects(world, family)
    assert sorted(table.index) == sorted(one.key for one in contrasts(family))
    assert list(table.columns) == list(TRAITS) and np.isfinite(table.to_numpy()).all()


def test_the_poles_of_a_pressure_differ_by_twice_its_planted_effect(world):
    table = effects.planted_effects(world, "pressures")
    for key, row in table.iterrows():
        np.testing.assert_array_equal(row, 2 * world.pressures[key])
        up, down = (world.logit(Profile(pressure=(key, pole))) for pole in ("positive", "negative"))
        np.testing.assert_allclose(row, up - down)
    assert table.loc["trust"].abs().max() > 3


@pytest.mark.parametrize("factor", load_factors(), ids=lambda factor: factor.key)
def test_an_element_is_held_against_the_mean_of_the_others_of_its_factor(world, factor):
    table = effects.planted_effects(world, "elements")
    told = {each.key: world.logit(Profile({factor.key: each.key})) for each in factor.elements}
    for key, own in told.items():
        others = [other for name, other in told.items() if name != key]
        np.testing.assert_allclose(table.loc[f"{factor.key}.{key}"], own - np.mean(others, axis=0), atol=1e-9)
        # own effects sum to zero but for their two decimals
        count = len(told)
        expected = world.effects[factor.key, key] * count / (count - 1)
        np.testing.assert_allclose(table.loc[f"{factor.key}.{key}"], expected, atol=0.03)


def test_of_two_elements_one_does_twice_its_effect_and_the_other_the_opposite(world):
    table = effects.planted_effects(world, "elements")
    np.testing.assert_allclose(table.loc["gender.female"], 2 * world.effects["gender", "female"])
    np.testing.assert_allclose(table.loc["gender.male"], -table.loc["gender.female"])
    assert table.loc["gender.female"].abs().max() > 1


def test_planted_effects_sum_to_zero_over_a_factor_whatever_its_elements_have_in_common(world):
    """What all elements of a factor do alike tells none of them from the others."""
    shifted = replace(world, effects={label: own + len(label[0]) for label, own in world.effects.items()})
    tables = [effects.planted_effects(one, "elements") for one in (world, shifted)]
    for table in tables:
        names = [name.split(".")[0] for name in table.index]
        np.testing.assert_allclose(table.groupby(names).sum(), 0, atol=1e-9)
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-9)


@pytest.mark.parametrize("family", ["facets", "traits", "moods"])
def test_effects_of_a_family_that_is_not_planted_are_refused(world, family):
    with pytest.raises(ValueError, match=f"nothing of the family '{family}' is planted; choose pressures or elements"):
        effects.planted_effects(world, family)


def profile_of(key, pole):
    """What a text tells of a person of a pole."""
    if "." in key:
        assert pole == "positive"
        return Profile(dict([key.split(".")]))
    return Profile(pressure=(key, pole))


@pytest.mark.parametrize("family", ["pressures", "elements"])
def test_planted_changes_are_the_worlds_between_being_told_and_not(world, family):
    table = effects.planted_changes(world, family)
    assert list(table) == ["key", "pole", "group", "truth"]
    nobody = world.probability(Profile())
    for row in table.itertuples():
        change = world.probability(profile_of(row.key, row.pole)) - nobody
        assert row.truth == pytest.approx(100 * change[TRAITS.index(row.group)], abs=1e-12)
    assert table["truth"].abs().max() > 10 and table["truth"].between(-100, 100).all()


@pytest.mark.parametrize(("family", "poles"), [("pressures", list(POLES)), ("elements", ["positive"])])
def test_planted_changes_have_a_row_for_each_contrast_pole_and_trait(world, family, poles):
    """Both poles of a pressure are planted, and of an element only that it is told."""
    table = effects.planted_changes(world, family)
    rows = {(one.key, pole, trait) for one in contrasts(family) for pole in poles for trait in TRAITS}
    assert set(table[["key", "pole", "group"]].itertuples(index=False, name=None)) == rows and len(table) == len(rows)


@pytest.mark.parametrize(
    ("family", "key", "pole", "sign"),
    [
        ("pressures", "trust", "positive", 1),
        ("pressures", "trust", "negative", -1),
        ("elements", "gender.female", "positive", 1),
    ],
)
def test_a_planted_change_is_a_mean_over_the_noise_of_an_answer(world, family, key, pole, sign):
    """Log-odds of the baseline, with and without what is told, and normal noise of which each answer has its own."""
    effect = world.pressures[key] if family == "pressures" else world.effects[tuple(key.split("."))]

    def chance(logit):
        return quad(lambda z: norm.pdf(z) / (1 + np.exp(-logit - world.noise * z)), -10, 10)[0]

    table = effects.planted_changes(world, family).set_index(["key", "pole", "group"])["truth"].sort_index()
    expected = [100 * (chance(one + sign * own) - chance(one)) for one, own in zip(world.baseline, effect, strict=True)]
    np.testing.assert_allclose(table.loc[key, pole].loc[list(TRAITS)], expected, atol=1e-6)


def test_the_poles_of_a_pressure_change_opposite_ways_and_not_by_as_much(world):
    """As far from the middle as a baseline is, a step up and a step down differ in probability."""
    table = effects.planted_changes(world, "pressures").pivot(index=["key", "group"], columns="pole", values="truth")
    planted = np.concatenate(list(world.pressures.values())) != 0
    assert planted.any() and not planted.all()
    assert (np.sign(table["positive"]) == -np.sign(table["negative"])).all()
    assert (table["positive"] != 0).sum() == planted.sum()
    moved = table[table["positive"] != 0]
    assert ((moved["positive"] + moved["negative"]).abs() > 1).all()


@pytest.mark.parametrize("family", ["facets", "traits", "moods"])
def test_changes_of_a_family_that_is_not_planted_are_refused(world, family):
    with pytest.raises(ValueError, match=f"nothing of the family '{family}' is planted; choose pressures or elements"):
        effects.planted_changes(world, family)
