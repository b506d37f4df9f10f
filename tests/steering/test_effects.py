"""Effects are the items' changes under steering, with honest intervals; what has collapsed says nothing."""

import warnings
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, ttest_1samp
from small_models import small, vector

from personalib.base.statistics import (
    Interval,
    adjust,
    clustered_rank_correlation,
)
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.questionnaires.items import load_trait, validation_split
from personalib.questionnaires.scores import FLOOR
from personalib.steering import effects as steering_effects
from personalib.steering.contrast_choice import TraitSheet
from personalib.steering.controls import dealt, random_directions
from personalib.steering.effects import (
    Arm,
    Push,
    measure,
    random_arms,
    random_correlation,
    rank_ceiling,
    sound,
    told_arms,
    truth_correlation,
    truth_difference,
)
from personalib.steering.grid import ask_steered
from personalib.steering.guards import Guard, neutral_exchanges, perplexities
from personalib.steering.interventions import Add
from personalib.stimuli.contrast_pairs import SPLITS, contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.stimuli.templates import ORDERS
from personalib.vectors.contrast import fit_vector, read_contrasts

SITE, NORM, NEUTRAL = Site(3), 20.0, 4
# How many items of which trait are asked: of one item nothing is known but its change.
COUNTS = {"openness": 6, "neuroticism": 4, "narcissism": 1}
CONTEXTS = ("Trust everybody you meet.", "You are a woman.", "You never rest.")
LOST = 60.0


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def items():
    own = validation_split(load_trait())[1]
    return [
        one for trait, count in COUNTS.items() for one in [each for each in own if each.personality == trait][:count]
    ]


@pytest.fixture(scope="module")
def sheet(organism, items):
    return TraitSheet(organism, items)


@pytest.fixture(scope="module")
def family():
    return [one for one in contrasts("pressures") if one.key in ("trust", "activity")]


@pytest.fixture(scope="module")
def vectors(organism, family, tmp_path_factory):
    read = read_contrasts(organism, family, [SITE], tmp_path_factory.mktemp("read"), count=16)
    return {key: fit_vector(own["train"], SITE) for key, own in read.items()}


@pytest.fixture(scope="module")
def arms(vectors):
    """By name: pushes both ways, one at the last token, words, words with a push, nothing, and far too much."""
    strong, weak = Push(SITE, 0.6, NORM), Push(SITE, 0.2, NORM, "last")
    [up] = strong.arms("push", {"trust": vectors["trust"]})
    [down] = strong.arms("push", {"trust": vectors["trust"]}, "negative")
    [last] = weak.arms("push", {"activity": vectors["activity"]})
    return {
        "up": up,
        "down": down,
        "last": last,
        "told": Arm("prompt", "told", contexts=CONTEXTS),
        "told and pushed": Arm("both", "told", up.condition, CONTEXTS),
        "no time": Arm("nothing", "no time", (Add(vectors["trust"], 0.0),)),
        "no vector": Arm("nothing", "no vector", (Add(vectors["trust"] * 0.0),)),
        "no condition": Arm("nothing", "no condition"),
        "babbling": Push(SITE, 1.0, NORM, "all").arms("push", {"trust": vectors["trust"]})[0],
        "lost": Push(SITE, LOST, NORM).arms("push", {"activity": vectors["activity"]})[0],
    }


@pytest.fixture(scope="module")
def found(sheet, arms):
    return measure(sheet, list(arms.values()), neutral=NEUTRAL)


@pytest.fixture(scope="module")
def answers(sheet, arms):
    """By name of the arm, and without any: what each prompt is answered."""

    def asked(condition, contexts):
        return ask_steered(sheet.language_model, sheet.prompts(contexts or [""]), sheet.labels, [condition])[0]

    return {name: asked(arm.condition, arm.contexts) for name, arm in arms.items()} | {"": asked((), ())}


def changes(items, answers, name):
    """The change of each item in points, by its trait: the share of high answers, both orders, with and without."""
    found = {trait: [] for trait in COUNTS}
    for number, item in enumerate(items):
        shares = []
        for which in (name, ""):
            read = []
            for place, order in enumerate(ORDERS):
                own = dict(zip(item.responses(order), answers[which][2 * number + place], strict=True))
                mass = sum(own.values())
                read.append((own["high1"] + own["high2"]) / mass if mass >= FLOOR else np.nan)
            shares.append(np.mean(read))
        found[item.personality].append(100 * (shares[0] - shares[1]))
    return {trait: np.array(own) for trait, own in found.items()}


@pytest.fixture(scope="module")
def by_hand(items, arms, answers):
    return {name: changes(items, answers, name) for name in arms}


def row(found, arms, name, trait):
    [own] = found[(found["arm"] == list(arms).index(name)) & (found["trait"] == trait)].to_dict("records")
    return own


def everything(arms):
    return list(product(arms, COUNTS))


# What is measured


def test_there_is_a_row_for_each_arm_and_each_trait_that_is_asked(found, arms):
    assert list(zip(found["arm"], found["trait"], strict=True)) == list(product(range(len(arms)), COUNTS))
    for number, arm in enumerate(arms.values()):
        own = found[found["arm"] == number]
        assert set(zip(own["method"], own["key"], own["pole"], strict=True)) == {(arm.method, arm.key, arm.pole)}
        np.testing.assert_array_equal(own["dose"], np.full(len(COUNTS), arm.dose))


def test_effects_are_mean_changes_of_items_in_both_orders(found, arms, by_hand):
    for name, trait in everything(arms):
        own = by_hand[name][trait]
        known = own[~np.isnan(own)]
        expected = known.mean() if len(known) else np.nan
        assert row(found, arms, name, trait)["effect"] == pytest.approx(expected, abs=1e-2, nan_ok=True), (name, trait)
    assert max(abs(by_hand["up"][trait].mean()) for trait in COUNTS) > 1, "the push does something"


def test_words_and_a_push_together_are_a_push_on_prompts_with_words(found, arms, by_hand):
    names = "told and pushed", "told", "up"
    both, told, up = ([row(found, arms, name, trait)["effect"] for trait in COUNTS] for name in names)
    assert both == pytest.approx([by_hand["told and pushed"][trait].mean() for trait in COUNTS], abs=1e-2)
    assert np.abs(np.subtract(both, told)).max() > 1 and np.abs(np.subtract(both, up)).max() > 1


def test_each_item_gets_the_next_text_in_turn(sheet, found, arms):
    """In another order of the texts the answers are others, and one text for all is no mixture of them."""
    [moved, one] = [replace(arms["told"], contexts=own) for own in (CONTEXTS[::-1], CONTEXTS[:1])]
    again = measure(sheet, [moved, one, arms["told"]], neutral=1)
    told = found[found["method"] == "prompt"]["effect"].to_numpy()
    per_arm = [own["effect"].to_numpy() for _, own in again.groupby("arm")]
    np.testing.assert_allclose(per_arm[2], told, rtol=0, atol=1e-2)
    assert all(np.abs(own - told).max() > 0.1 for own in per_arm[:2])


def test_intervals_and_p_values_are_those_of_students_paired_t(found, arms, by_hand):
    compared = 0
    for name, trait in everything(arms):
        own, measured = by_hand[name][trait], row(found, arms, name, trait)
        if np.isnan(own).any() or len(own) < 2 or arms[name].method == "nothing":
            continue
        expected = ttest_1samp(own, 0.0)
        assert measured["p"] == pytest.approx(expected.pvalue, rel=1e-2, abs=1e-9), (name, trait)
        bounds = expected.confidence_interval(0.95)
        assert (measured["low"], measured["high"]) == pytest.approx((bounds.low, bounds.high), abs=1e-2)
        compared += 1
    assert compared >= 6


def test_the_interval_of_few_items_is_students(found, arms, by_hand):
    own, measured = by_hand["up"]["openness"], row(found, arms, "up", "openness")
    by_scipy = ttest_1samp(own, 0.0).confidence_interval(0.95)
    assert (measured["low"], measured["high"]) == pytest.approx(tuple(by_scipy))


def test_one_item_says_nothing_about_the_spread(found):
    alone = found[found["trait"] == "narcissism"]
    assert alone[["low", "high", "p", "p_adjusted"]].isna().all(axis=None) and set(alone["n"]) <= {0, 1}
    assert alone["effect"].notna().sum() >= len(alone) - 1


def test_with_one_item_of_each_trait_there_is_no_p_value_and_no_error(organism, items, arms):
    few = measure(TraitSheet(organism, items[-1:]), [arms["up"]], neutral=1)
    assert few["n"].tolist() == [1] and few["effect"].notna().all() and few["p"].isna().all()
    assert "p_adjusted" in few and few["p_adjusted"].isna().all()


def test_p_values_are_adjusted_for_the_comparisons_of_their_method(found):
    for method, own in found.groupby("method"):
        known = own.dropna(subset=["p"])
        assert len(known) >= 2
        np.testing.assert_allclose(known["p_adjusted"], adjust(known["p"], "fdr_bh"), err_msg=method)
    assert (found["p_adjusted"] > found["p"] + 1e-3).any()


def test_what_does_nothing_has_no_effect_and_has_not_collapsed(found):
    own = found[found["method"] == "nothing"]
    np.testing.assert_allclose(own["effect"], 0, rtol=0, atol=1e-3)
    np.testing.assert_allclose(own[["mass", "perplexity"]], 1, rtol=0, atol=1e-4)
    assert not own["collapsed"].any() and (own["missing"] == 0).all()


def test_what_does_nothing_is_no_evidence_of_anything(found):
    own = found[(found["key"] == "no condition") & found["p"].notna()]
    assert own["effect"].tolist() == [0.0, 0.0] and own["p"].tolist() == own["p_adjusted"].tolist() == [1.0, 1.0]


def test_rounding_is_no_change(sheet, vectors):
    """Nothing is added, but by another way through the model than that of no steering."""
    own = measure(sheet, [Arm("nothing", "no time", (Add(vectors["trust"], 0.0, "last"),))], neutral=1)
    np.testing.assert_allclose(own["effect"], 0, rtol=0, atol=1e-3)
    assert own["p"].dropna().tolist() == [1.0] * 2


# What is missing


def test_items_that_are_not_read_are_missing_and_counted(found, arms, by_hand):
    for name, trait in everything(arms):
        measured, own = row(found, arms, name, trait), by_hand[name][trait]
        assert measured["n"] == (~np.isnan(own)).sum() and measured["n"] + measured["missing"] == COUNTS[trait]


def test_far_too_hard_a_push_has_collapsed(found, arms):
    """Either sign is enough: no option is answered any more, or nothing else is."""
    lost, babbling = (found[found["arm"] == list(arms).index(name)] for name in ("lost", "babbling"))
    assert lost["collapsed"].all() and (lost["mass"] < 0.1).all() and (lost["perplexity"] < 2).all()
    assert babbling["collapsed"].all() and (babbling["mass"] > 0.9).all() and (babbling["perplexity"] > 2).all()
    assert lost["effect"].isna().all() and babbling["effect"].notna().all()
    rest = found[~found["arm"].isin([*lost["arm"], *babbling["arm"]])]
    assert not rest["collapsed"].any() and rest["effect"].notna().all()


def test_where_nothing_is_read_an_effect_is_missing_without_a_warning(sheet, arms):
    """A dose at which no item is answered any more, beside one that is read, and alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        own = measure(sheet, [arms["lost"], arms["up"]], neutral=1)
        alone = measure(sheet, [arms["lost"]], neutral=1)
    none = own[own["arm"] == 0]
    pd.testing.assert_frame_equal(none, alone, rtol=1e-4)
    assert (none["n"] == 0).all() and none[["effect", "low", "high", "p", "p_adjusted"]].isna().all(axis=None)
    assert (none["missing"] == none["trait"].map(COUNTS)).all() and none["collapsed"].all()
    assert own[own["arm"] == 1]["effect"].notna().all()


def test_effects_are_of_the_items_that_can_be_read_under_a_push(sheet, items, vectors):
    """At some dose only part of the items of a trait is answered with an option."""
    doses = np.geomspace(2, 4, 12)
    tried = [Push(SITE, dose, NORM).arms("push", {"trust": vectors["trust"]})[0] for dose in doses]
    found = measure(sheet, tried, neutral=1)
    parts = found[(found["n"] > 0) & (found["missing"] > 0)]
    assert len(parts), found[["dose", "trait", "n"]]
    asked = {"": ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, [()])[0]}
    for number in parts["arm"].unique():
        [asked[number]] = ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, [tried[number].condition])
    for own in parts.to_dict("records"):
        values = changes(items, asked, own["arm"])[own["trait"]]
        assert own["effect"] == pytest.approx(np.nanmean(values), abs=1e-2) and own["n"] == np.isfinite(values).sum()


# The guard


def test_mass_and_perplexity_are_shares_of_the_unsteered_models(sheet, found, arms, answers):
    model = sheet.language_model
    told = neutral_exchanges(model, NEUTRAL, contexts=CONTEXTS)
    plain = neutral_exchanges(model, NEUTRAL)
    [base] = perplexities(model, plain, [()])
    for name, arm in arms.items():
        [expected] = perplexities(model, told if arm.contexts else plain, [arm.condition])
        own = row(found, arms, name, "openness")
        assert own["mass"] == pytest.approx(answers[name].sum(1).mean() / answers[""].sum(1).mean(), rel=1e-4)
        assert own["perplexity"] == pytest.approx(expected / base, rel=1e-3)
    health = found.groupby("arm")[["mass", "perplexity", "collapsed"]].nunique()
    assert (health == 1).all(axis=None), "an arm is as healthy for all traits"


def test_the_guard_says_from_where_on_an_arm_has_collapsed(sheet, arms):
    few = [arms[name] for name in ("up", "down", "lost")]
    open_, own, shut = (
        measure(sheet, few, guard, neutral=NEUTRAL) for guard in (Guard(0.0, np.inf), Guard(), Guard(1.0, 1.0))
    )
    assert not open_["collapsed"].any()
    assert own["collapsed"].tolist() == Guard().collapsed(own["mass"], own["perplexity"]).tolist()
    assert shut["collapsed"].sum() >= own["collapsed"].sum() > 0
    pd.testing.assert_frame_equal(open_.drop(columns="collapsed"), own.drop(columns="collapsed"))


def test_the_seed_draws_neutral_questions_and_no_effect(sheet, arms):
    first, again, other = (measure(sheet, [arms["up"], arms["told"]], neutral=2, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    columns = ["effect", "low", "high", "p"]
    pd.testing.assert_frame_equal(first[columns], other[columns])
    assert not first["perplexity"].equals(other["perplexity"])


def test_the_size_of_a_batch_changes_no_effect(sheet, found, arms):
    names = ("up", "told")
    small = measure(sheet, [arms[name] for name in names], neutral=1, batch_size=3)
    expected = [row(found, arms, name, trait)["effect"] for name, trait in product(names, COUNTS)]
    np.testing.assert_allclose(small["effect"], expected, rtol=0, atol=1e-2)


def test_without_arms_there_is_nothing_to_measure(sheet):
    with pytest.raises(ValueError, match="there are no arms to measure; pass at least one"):
        measure(sheet, [])


def test_a_push_that_steers_the_answer_alone_is_refused(sheet, vectors):
    with pytest.raises(ValueError, match="positions 'response' steer tokens of the answer"):
        measure(sheet, Push(SITE, 0.5, NORM, "response").arms("push", vectors), neutral=1)


# Arms


@pytest.mark.parametrize(("pole", "sign"), [("positive", 1), ("negative", -1)])
def test_a_push_brings_all_vectors_to_one_length(pole, sign):
    vectors = {f"v{seed}": vector(SITE, seed, size=seed + 1.0) for seed in range(3)}
    made = Push(SITE, 0.25, 40.0, "last").arms("some", vectors, pole)
    assert [(arm.method, arm.key, arm.pole, arm.contexts) for arm in made] == [
        ("some", key, pole, ()) for key in vectors
    ]
    for arm in made:
        [one] = arm.condition
        assert arm.dose == sign * 0.25
        assert (one.coefficient, one.positions, one.site) == (1.0, "last", SITE)
        assert one.vector.norm == pytest.approx(0.25 * 40.0)
        assert one.vector.cosine(vectors[arm.key]) == pytest.approx(sign)


def test_a_push_is_at_the_prompt_unless_it_is_told():
    [arm] = Push(SITE, 1.0, 1.0).arms("some", {"v": vector(SITE)})
    assert arm.condition[0].positions == "prompt" and arm.pole == "positive"


def test_what_has_no_direction_cannot_be_pushed():
    with pytest.raises(ValueError, match="is zero and has no direction"):
        Push(SITE, 1.0, 1.0).arms("some", {"v": vector(SITE) * 0.0})


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_those_of_one_split(family, split):
    made = told_arms(family, split, POLES)
    assert [(arm.key, arm.pole) for arm in made] == list(product([one.key for one in family], POLES))
    for arm, (one, pole) in zip(made, product(family, POLES), strict=True):
        assert sorted(arm.contexts) == sorted(wording.text for wording in one.wordings[pole, split])
        assert arm.method == "prompt" and arm.condition == () and np.isnan(arm.dose)
    first, second = ({text for arm in told_arms(family, own) for text in arm.contexts} for own in SPLITS)
    assert not first & second


def test_words_tell_the_positive_pole_unless_both_are_named(family):
    assert [arm.pole for arm in told_arms(family, "train")] == ["positive"] * len(family)
    assert told_arms(family, "train") == told_arms(family, "train", POLES)[::2]


def test_directions_of_chance_have_keys_of_their_own_and_one_length():
    push, like = Push(SITE, 0.5, 8.0, "last"), vector(SITE, size=7.0)
    made = random_arms(push, like, 6, seed=2)
    assert len({arm.key for arm in made}) == 6 and {arm.method for arm in made} == {"random"}
    for arm, one in zip(made, random_directions(like, 6, 2), strict=True):
        [add] = arm.condition
        assert add.vector.norm == pytest.approx(4.0) and add.positions == "last" and arm.dose == 0.5
        assert add.vector.cosine(one) == pytest.approx(1)
    assert made == random_arms(push, like, 6, seed=2) != random_arms(push, like, 6, seed=3)
    assert len(random_arms(push, like)) == 22


# Beside the truth


def table(name, values, pole="positive", keys=None):
    """One row a key and trait."""
    own = keys or [f"k{number}" for number in range(len(values))]
    return pd.DataFrame(
        [
            {"key": key, "pole": pole, "trait": trait, name: value}
            for key, row in zip(own, values, strict=True)
            for trait, value in zip(TRAITS, row, strict=True)
        ]
    )


def measured(values, collapsed=(), **where):
    found = table("effect", values, **where)
    return found.assign(collapsed=found["key"].isin(collapsed))


@pytest.fixture(scope="module")
def true():
    return np.random.default_rng(5).normal(size=(6, len(TRAITS)))


def test_what_has_collapsed_or_is_missing_is_left_out(true):
    values = 2 * true
    values[1, 3] = np.nan
    own = sound(measured(values, ["k0"]), table("truth", true))
    assert own["key"].unique().tolist() == [f"k{number}" for number in range(1, 6)]
    assert len(own) == 5 * len(TRAITS) - 1 and ("k1", TRAITS[3]) not in set(zip(own["key"], own["trait"], strict=True))
    np.testing.assert_allclose(own["effect"], 2 * own["truth"])


def test_effects_stand_beside_those_of_their_own_pole(true):
    both = pd.concat([table("truth", true), table("truth", -3 * true, "negative")])
    effects = pd.concat([measured(true), measured(true, pole="negative")], ignore_index=True)
    own = sound(effects, both).groupby("pole")
    np.testing.assert_allclose(own.get_group("positive")["truth"], own.get_group("positive")["effect"])
    np.testing.assert_allclose(own.get_group("negative")["truth"], -3 * own.get_group("negative")["effect"])


def test_a_reference_that_holds_a_thing_twice_is_refused(true):
    with pytest.raises(ValueError, match="not a many-to-one merge"):
        sound(measured(true), pd.concat([table("truth", true)] * 2))


@pytest.mark.parametrize(("change", "expected"), [(np.exp, 1.0), (lambda own: 5 - own**3, -1.0)])
def test_only_the_order_of_effects_counts(true, change, expected):
    found = truth_correlation(measured(change(true)), table("truth", true))
    assert found == pytest.approx((expected,) * 3)


def test_the_correlation_resamples_what_was_pushed(true):
    rng = np.random.default_rng(1)
    values = true * np.array([1, 1, 1, -1, -1, 1])[:, None] + 0.3 * rng.normal(size=true.shape)
    found = truth_correlation(measured(values), table("truth", true), seed=4)
    keys, rows = np.repeat(np.arange(6), len(TRAITS)), np.arange(true.size)
    assert found == clustered_rank_correlation(true.ravel(), values.ravel(), keys, seed=4)
    assert found.estimate == pytest.approx(spearmanr(true.ravel(), values.ravel()).statistic)
    alone = clustered_rank_correlation(true.ravel(), values.ravel(), rows, seed=4)
    assert found.high - found.low > 1.2 * (alone.high - alone.low), "traits of one key hang together"
    assert truth_correlation(measured(values), table("truth", true), seed=5) != found


def test_what_has_collapsed_counts_neither_for_nor_against(true):
    values = true.copy()
    values[:2] *= -1
    reference = table("truth", true)
    assert truth_correlation(measured(values, ["k0", "k1"]), reference).estimate == pytest.approx(1)
    assert truth_correlation(measured(values), reference).estimate < 0.8


@pytest.mark.parametrize("left", [1, 0])
def test_of_fewer_than_two_keys_there_is_no_correlation(true, left):
    gone = [f"k{number}" for number in range(left, 6)]
    found = truth_correlation(measured(true, gone), table("truth", true))
    assert isinstance(found, Interval) and np.isnan(found).all()


# Chance


@pytest.fixture(scope="module")
def chance():
    return np.random.default_rng(8).normal(size=(22, len(TRAITS)))


def test_many_directions_of_chance_come_to_nothing(true):
    many = measured(np.random.default_rng(8).normal(size=(300, len(TRAITS))))
    found = random_correlation(many, table("truth", true))
    assert found.low < -0.15 and abs(found.estimate) < 0.05 and found.high > 0.15


def test_the_band_of_chance_holds_most_deals(true, chance):
    found = random_correlation(measured(chance), table("truth", true))
    rng, inside = np.random.default_rng(99), []
    for _ in range(400):
        places = list(dealt(22, [f"k{number}" for number in range(6)], rng).values())
        inside.append(found.low <= spearmanr(true.ravel(), chance[places].ravel()).statistic <= found.high)
    assert 0.9 < np.mean(inside) < 0.99


def test_the_same_seed_deals_the_same(true, chance):
    first, again, other = (random_correlation(measured(chance), table("truth", true), 50, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_one_direction_is_dealt_to_all(true, chance):
    """It can only be alike for all keys, and that is worth something where the true effects are."""
    common = true.mean(0)
    found = random_correlation(measured([common]), table("truth", true), deals=20)
    expected = spearmanr(true.ravel(), np.tile(common, 6)).statistic
    assert found == pytest.approx((expected,) * 3) and expected > 0.2


def test_chance_is_held_against_the_positive_poles_alone(true, chance):
    reference = table("truth", true)
    both = pd.concat([reference, table("truth", -7 * true, "negative")], ignore_index=True)
    assert random_correlation(measured(chance), both) == random_correlation(measured(chance), reference)


def test_directions_that_have_collapsed_are_not_dealt(true, chance):
    worse = np.vstack([chance, true])
    keys = [f"r{number:02}" for number in range(28)]
    found = random_correlation(measured(worse, keys[22:], keys=keys), table("truth", true))
    assert found == random_correlation(measured(chance, keys=keys[:22]), table("truth", true))


def test_a_direction_of_which_a_trait_is_missing_is_not_dealt(true, chance):
    holed = chance.copy()
    holed[-1, 2] = np.nan
    keys = [f"r{number:02}" for number in range(22)]
    found = random_correlation(measured(holed, keys=keys), table("truth", true))
    assert found == random_correlation(measured(chance[:-1], keys=keys[:-1]), table("truth", true))


def test_a_trait_that_is_missing_of_all_directions_is_left_out(true, chance):
    """Such as one whose items the model does not answer, steered or not."""
    holed = chance.copy()
    holed[:, 2] = np.nan
    reference, few = table("truth", true), measured(chance)
    expected = random_correlation(few[few["trait"] != TRAITS[2]], reference[reference["trait"] != TRAITS[2]])
    assert random_correlation(measured(holed), reference) == expected


def test_where_all_directions_have_collapsed_there_is_one_error(true, chance):
    with pytest.raises(
        ValueError, match="every random direction has collapsed or could not be read; take a lower dose"
    ):
        random_correlation(measured(chance, [f"k{number}" for number in range(22)]), table("truth", true))


# Whole families


def synthetic(values, method="one"):
    """Effects of keys, one trait after the other."""
    rows = [(method, key, "positive", f"t{n}", value) for key, own in values.items() for n, value in enumerate(own)]
    table = pd.DataFrame(rows, columns=["method", "key", "pole", "trait", "effect"])
    return table.assign(collapsed=False)


def as_truth(effects):
    return effects.rename(columns={"effect": "truth"})[["key", "pole", "trait", "truth"]]


FAMILY = {f"f{n // 2}.e{n}": np.random.default_rng(n).normal(size=5) for n in range(12)}


def test_elements_of_one_factor_are_resampled_together():
    noisy = {key: own + np.random.default_rng(99).normal(size=5) for key, own in FAMILY.items()}
    effects, truth = synthetic(noisy), as_truth(synthetic(FAMILY))
    factors = [key.split(".")[0] for key in effects["key"]]
    merged = effects.merge(truth, on=["key", "pole", "trait"])
    expected = clustered_rank_correlation(merged["truth"], merged["effect"], factors, seed=5)
    assert truth_correlation(effects, truth, 5) == expected


def test_effects_that_are_all_the_same_correlate_with_nothing():
    flat = synthetic({key: np.zeros(5) for key in FAMILY})
    assert np.isnan(truth_correlation(flat, as_truth(synthetic(FAMILY))).estimate)
    assert np.isnan(truth_correlation(synthetic(FAMILY), as_truth(flat)).estimate)


def test_the_difference_of_two_methods_is_that_of_their_correlations_and_clear_where_one_is_noise():
    truth, good = as_truth(synthetic(FAMILY)), synthetic(FAMILY)
    bad = synthetic({key: np.random.default_rng([7, n]).normal(size=5) for n, key in enumerate(FAMILY)})
    found = truth_difference(good, bad, truth, resamples=200)
    alone = [truth_correlation(one, truth).estimate for one in (good, bad)]
    assert found.estimate == pytest.approx(alone[0] - alone[1]) and 0 < found.low < found.estimate < found.high
    back = truth_difference(bad, good, truth, resamples=200)
    assert tuple(back) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert tuple(truth_difference(good, good, truth, resamples=50)) == (0.0, 0.0, 0.0)


def test_methods_are_compared_on_what_neither_lost():
    truth, good, other = as_truth(synthetic(FAMILY)), synthetic(FAMILY), synthetic(FAMILY)
    gone = other["key"] == "f0.e0"
    other.loc[gone, "effect"], other.loc[gone, "collapsed"] = 99.0, True
    assert truth_difference(good, other, truth, resamples=20).estimate == 0
    with pytest.raises(ValueError, match="fewer than two factors or pressures are left"):
        truth_difference(good[good["key"].str.startswith("f0")], other, truth)


def test_the_ceiling_is_one_without_ties_and_what_ties_leave_of_it():
    assert rank_ceiling(as_truth(synthetic(FAMILY))) == pytest.approx(1.0)
    tied = as_truth(synthetic({"a": [0, 0, 0, 3.0], "b": [0, 0, -2.0, 5.0]}))
    rng = np.random.default_rng(0)
    close = [spearmanr(tied["truth"], tied["truth"] + 1e-6 * rng.normal(size=8)).statistic for _ in range(5)]
    assert close == pytest.approx([rank_ceiling(tied)] * 5) and rank_ceiling(tied) < 0.95


def test_a_push_takes_no_vector_of_another_site(vectors):
    other = replace(vectors["trust"], site=Site(1))
    with pytest.raises(ValueError, match=r"stands at resid_post\.1, and the push is made at resid_post\.3"):
        Push(SITE, 0.4, NORM).arms("steered", {"trust": other})


def test_a_draw_without_a_correlation_is_left_out():
    keys = ["a.x", "b.x", "c.x"]
    rows = [{"key": key, "pole": "positive", "trait": TRAITS[0]} for key in keys]
    truth = pd.DataFrame([row | {"truth": float(place)} for place, row in enumerate(rows)])
    one = pd.DataFrame([row | {"effect": float(place), "collapsed": False} for place, row in enumerate(rows)])
    other = one.assign(effect=-one["effect"])
    found = truth_difference(one, other, truth)
    assert found.estimate == 2 and np.isfinite([found.low, found.high]).all()
    with pytest.raises(ValueError, match="several effects on one trait; compare one dose of each method"):
        truth_difference(pd.concat([one, one]), other, truth)


@pytest.mark.parametrize("spoilt", ["mass", "perplexity"])
def test_a_model_that_gives_no_numbers_is_refused(spoilt, monkeypatch):
    arms = [Arm("none", "none")]
    base = steering_effects._Answers(np.zeros(8), 1.0, 1.0)
    monkeypatch.setattr(steering_effects, "_answers", lambda *_: [replace(base, **{spoilt: np.nan})] * 2)
    sheet = SimpleNamespace(language_model=small("llama"), traits=np.array([TRAITS[0]] * 8))
    with pytest.raises(ValueError, match="or NaN; try another template, form='base', or, where"):
        measure(sheet, arms)
