"""The rule chooses what does most nearly what words do, of what reads well and lets the model answer."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from personalib.base.data import DataError, data_dir
from personalib.evaluation.ask import evaluate
from personalib.models.load import LanguageModel, load_model
from personalib.models.parts import Site, blocks
from personalib.models.prompts import ask, format_prompt
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.questionnaires.questionnaire import trait_questionnaire
from personalib.questionnaires.scores import FLOOR, per_item, score_mass
from personalib.steering import contrast_choice as steering_choice
from personalib.steering.contrast_choice import (
    Choice,
    Rule,
    Setting,
    TraitSheet,
    choose,
    fidelity,
    load_setting,
    measured_effects,
    steered_effects,
    told_effects,
)
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add
from personalib.stimuli.contrast_pairs import Contrast, Wording, contrasts
from personalib.stimuli.factors import POLES, TRAITS
from personalib.stimuli.templates import ORDERS, load_templates
from personalib.vectors.contrast import fit_vector, read_contrasts
from personalib.vectors.readings import validation_accuracy

SETTING = ["positions", "site", "coefficient"]
SITES = [Site(1), Site(3)]
RULE = Rule(coefficients=(0.5, 1.0), reading=0.2)


@pytest.fixture(scope="module")
def organism():
    return load_model()


@pytest.fixture(scope="module")
def items():
    return some_of_each(validation_split(load_trait())[0], 2)


@pytest.fixture(scope="module")
def sheet(organism, items):
    return TraitSheet(organism, some_of_each(items, 1))


@pytest.fixture(scope="module")
def family():
    return [one for one in contrasts("pressures") if one.key in ("trust", "activity")]


@pytest.fixture(scope="module")
def readings(organism, family, tmp_path_factory):
    return read_contrasts(organism, family, SITES, tmp_path_factory.mktemp("read"), count=32)


@pytest.fixture(scope="module")
def base(sheet):
    """The scores and the answer mass of the organism as it is."""
    return sheet.scores(np.array(ask(sheet.language_model.model, sheet.language_model.tokenizer, *asked(sheet))))


@pytest.fixture(scope="module")
def chosen(sheet, family, readings):
    return choose(sheet, family, readings, RULE)


def asked(sheet, contexts=("",)):
    prompts = sheet.prompts(contexts)
    return prompts, [sheet.labels] * len(prompts)


# Answers


def rows_of(items, answers):
    """The same answers as rows for the scoring module."""
    rows = []
    for (item, order), own in zip(product(items, ORDERS), answers, strict=True):
        named = {f"p_{key}": value for key, value in zip(item.responses(order), own, strict=True)}
        rows.append({"group": item.personality, "item": item.name, "order": order, **named})
    return pd.DataFrame(rows)


def random_answers(items, seed, masses=(0.05, 0.5, 1.0)):
    rng = np.random.default_rng(seed)
    count = len(items) * len(ORDERS)
    return rng.dirichlet([0.5] * 4, count) * rng.choice(masses, (count, 1))


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_scoring_module(organism, seed):
    items = some_of_each(load_trait(), 6)
    answers = random_answers(items, seed)
    scores, mass = TraitSheet(organism, items).scores(answers)
    own = per_item(rows_of(items, answers), by=())
    table = score_mass(rows_of(items, answers), by=()).set_index("group")
    assert 0 < own["read"].sum() < len(own), "some items are read and some are not"
    np.testing.assert_allclose(scores, table.loc[list(TRAITS), "value"], rtol=0, atol=1e-9)
    assert mass == pytest.approx(own["mass"].mean())


def test_scores_of_real_answers_are_those_of_the_same_questionnaire(sheet, base, items):
    asked_items = some_of_each(items, 1)
    rows = evaluate(sheet.language_model, trait_questionnaire(asked_items), neutral=0)
    table = score_mass(rows).set_index("group")
    np.testing.assert_allclose(base[0], table.loc[list(TRAITS), "value"], rtol=0, atol=1e-3)
    assert base[1] == pytest.approx(rows["mass"].mean(), abs=1e-6)
    assert np.ptp(base[0]) > 1, "the traits are told apart"


def test_scores_by_hand(organism, items):
    """Two items of openness; the high responses stand at A and C, and in the other order at B and D."""
    own = TraitSheet(organism, items[:2])
    answers = np.array([[0.6, 0.1, 0.1, 0.0], [0.1, 0.1, 0.2, 0.4], [0.1, 0.3, 0.1, 0.3], [0.0, 0.4, 0.4, 0.2]])
    scores, mass = own.scores(answers)
    assert [item.personality for item in items[:2]] == ["openness"] * 2
    assert scores[0] == pytest.approx(100 * ((0.7 / 0.8 + 0.5 / 0.8) / 2 + (0.2 / 0.8 + 0.6 / 1.0) / 2) / 2)
    assert np.isnan(scores[1:]).all() and mass == pytest.approx((0.8 * 3 + 1.0) / 4)


@pytest.mark.parametrize("order", [0, 1], ids=ORDERS)
def test_an_item_that_is_not_read_in_one_order_is_missing_and_not_zero(organism, items, order):
    own = TraitSheet(organism, items[:2])
    answers = np.full((4, 4), 0.25)
    answers[2:] = [[0.5, 0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.5]]
    assert own.scores(answers)[0][0] == pytest.approx(75)
    answers[order] = FLOOR / 5
    assert own.scores(answers)[0][0] == pytest.approx(100)
    answers[2 + order] *= FLOOR / 5
    scores, mass = own.scores(answers)
    assert np.isnan(scores).all() and mass == pytest.approx(answers.sum(1).mean())


def test_a_missing_answer_has_no_answer_mass(organism, items):
    """Else a push under which half of the prompts overflow would seem to leave all of it."""
    scores, mass = TraitSheet(organism, items[:2]).scores(np.array([[0.25] * 4, [0.25] * 4, [np.nan] * 4, [0.25] * 4]))
    assert scores[0] == pytest.approx(50) and mass == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_the_scoring_module_item_by_item(organism, seed):
    items = some_of_each(load_trait(), 6)
    sheet, answers = TraitSheet(organism, items), random_answers(items, seed)
    own = per_item(rows_of(items, answers), by=()).set_index(["personality", "idx"])
    own = own.loc[[(item.personality, item.idx) for item in items]]
    shares = sheet.shares(answers)
    assert shares.shape == (len(items),) and 0 < np.isnan(shares).sum() < len(items)
    np.testing.assert_array_equal(np.isnan(shares), ~own["read"].to_numpy(bool))
    read = ~np.isnan(shares)
    np.testing.assert_allclose(shares[read], own["high"].to_numpy(float)[read], rtol=0, atol=1e-12)


def test_shares_by_hand(organism, items):
    """The high responses stand at A and C, and in the other order at B and D."""
    own = TraitSheet(organism, items[:2])
    answers = np.array([[0.6, 0.1, 0.1, 0.0], [0.1, 0.1, 0.2, 0.4], [0.1, 0.3, 0.1, 0.3], [0.0, 0.01, 0.0, 0.02]])
    shares = own.shares(answers)
    assert shares[0] == pytest.approx((0.7 / 0.8 + 0.5 / 0.8) / 2) and np.isnan(shares[1])
    assert own.traits.tolist() == ["openness"] * 2


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_mean_shares_of_each_trait(organism, seed):
    """Whatever the order of the items."""
    items = some_of_each(load_trait(), 5)
    items = [items[place] for place in np.random.default_rng(seed).permutation(len(items))]
    sheet, answers = TraitSheet(organism, items), random_answers(items, seed)
    assert sheet.traits.tolist() == [item.personality for item in items]
    shares = pd.Series(sheet.shares(answers)).groupby(sheet.traits).mean()
    np.testing.assert_allclose(sheet.scores(answers)[0], 100 * shares.loc[list(TRAITS)], rtol=0, atol=1e-9)


def test_an_answer_mass_at_the_floor_is_read(organism, items):
    scores, _ = TraitSheet(organism, items[:1]).scores(np.array([[FLOOR, 0, 0, 0], [0, 0, FLOOR, 0]]))
    assert scores[0] == 50


@pytest.mark.parametrize(("template", "form"), [("letters", "chat"), ("numbers", "base")])
def test_an_item_has_the_same_context_in_both_orders_and_the_next_item_the_next(organism, items, template, form):
    sheet, contexts = TraitSheet(organism, items, template, form), ["I am a woman.", "I am a man.", "I am old."]
    found = iter(sheet.prompts(contexts))
    for number, item in enumerate(items):
        for order in ORDERS:
            text = load_templates()[template].render(item.question, list(item.responses(order).values()))
            context = contexts[number % 3]
            assert next(found) == format_prompt(organism.tokenizer, text, form=form, context=context)
    assert next(found, None) is None
    assert sheet.labels == load_templates()[template].labels
    assert sheet.prompts() == sheet.prompts([""]) != sheet.prompts(contexts)


def test_a_sheet_without_items_or_template_is_refused(organism, items):
    with pytest.raises(ValueError, match="there are no trait items"):
        TraitSheet(organism, [])
    with pytest.raises(ValueError, match="unknown template 'letter'; use one of letters, numbers, bare"):
        TraitSheet(organism, items, "letter")


# Effects


def single(wordings):
    """A contrast with one sentence for each pole and split."""
    told = {key: (Wording(text, text),) for key, text in wordings.items()}
    return Contrast("pressures", "single", "Single", told)


def test_told_effects_are_those_of_the_sentences_to_train_on(sheet, base):
    told = {
        ("positive", "train"): "Trust everybody you meet.",
        ("negative", "train"): "Trust nobody at all.",
        ("positive", "held_out"): "Never read.",
        ("negative", "held_out"): "Never read either.",
    }
    found = told_effects(sheet, [single(told)], base[0])
    found = found.set_index(["contrast", "pole", "trait"]).sort_index()["told"]
    model = sheet.language_model
    assert len(found) == len(POLES) * len(TRAITS)
    for pole in POLES:
        answers = np.array(ask(model.model, model.tokenizer, *asked(sheet, [told[pole, "train"]])))
        expected = sheet.scores(answers)[0] - base[0]
        np.testing.assert_allclose(found["single", pole].loc[list(TRAITS)], expected, rtol=0, atol=1e-3)
        assert abs(expected).max() > 1


def test_told_effects_go_through_the_sentences_of_a_pole(sheet, base, family, monkeypatch):
    """The same for both orders of an item, another for the next, and none of those held out."""
    seen = []
    monkeypatch.setattr(
        steering_choice, "ask", lambda *inputs, **options: (seen.extend(inputs[2]), ask(*inputs, **options))[1]
    )
    told_effects(sheet, family[:1], base[0])
    count = len(sheet.prompts())
    assert len(seen) == len(POLES) * count
    for pole, prompts in zip(POLES, (seen[:count], seen[count:]), strict=True):
        phrases = {one.text: one.phrase for one in family[0].wordings[pole, "train"]}
        told = [[text for text in phrases if f"{text}\n" in prompt] for prompt in prompts]
        assert all(len(own) == 1 for own in told) and told[::2] == told[1::2]
        texts = [text for [text] in told[::2]]
        assert len(set(texts)) == len(texts) and len({phrases[text] for text in texts}) > 3
        assert not any(one.text in prompt for one in family[0].wordings[pole, "held_out"] for prompt in prompts)


def test_a_measured_effect_is_that_of_the_positive_pole_minus_that_of_the_negative_one(sheet, base, family):
    found = measured_effects(sheet, family)
    told = told_effects(sheet, family, base[0]).set_index(["contrast", "pole", "trait"]).sort_index()["told"]
    assert list(found.index) == [one.key for one in family] and list(found) == list(TRAITS)
    for one, trait in product(family, TRAITS):
        expected = told[one.key, "positive", trait] - told[one.key, "negative", trait]
        assert found.loc[one.key, trait] == pytest.approx(expected, abs=1e-3)
    assert found.abs().max(axis=None) > 1


@pytest.mark.parametrize("positions", ["last", "prompt"])
def test_steered_effects_add_the_vector_up_and_down(sheet, base, readings, positions):
    vectors = {(site, "trust"): fit_vector(readings["trust"]["train"], site) for site in SITES}
    found = steered_effects(sheet, vectors, [0.5, 1.5], *base, positions)
    assert len(found) == len(SITES) * 2 * len(POLES) * len(TRAITS)
    table = found.set_index(["site", "coefficient", "contrast", "pole", "trait"]).sort_index()
    assert table.index.is_unique
    units = list(product([("negative", -1), ("positive", 1)], [1.5, 0.5], SITES))
    conditions = [[Add(vectors[site, "trust"], sign * size, positions)] for (_, sign), size, site in units]
    answers = ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, conditions)
    for ((pole, _), size, site), own_answers in zip(units, answers, strict=True):
        scores, mass = sheet.scores(own_answers)
        own = table.loc[(str(site), size, "trust", pole)]
        np.testing.assert_allclose(own.loc[list(TRAITS), "steered"], scores - base[0], rtol=0, atol=1e-3)
        assert own["mass"].tolist() == pytest.approx([mass / base[1]] * len(TRAITS), abs=1e-6)
    assert found["steered"].abs().max() > 1


# The table


def effects(steered, told, mass=1.0, **setting):
    """Fabricated effects of one setting."""
    about = {"positions": "last", "site": "resid_post.1", "coefficient": 1.0} | setting
    rows = zip(steered, told, np.broadcast_to(mass, len(told)), strict=True)
    return pd.DataFrame([about | {"steered": one, "told": other, "mass": left} for one, other, left in rows])


def table_of(*parts, reading=(0.9,), doses=(0.5,), **rule):
    sites = [Site(number) for number in range(1, len(reading) + 1)]
    rule = Rule(**{"positions": ("last",), "coefficients": (1.0,)} | rule)
    both = (dict(zip(sites, values, strict=False)) for values in (reading, doses))
    return steering_choice._table(pd.concat(parts), *both, rule)


def test_fidelity_is_the_share_of_the_told_effects_that_steering_reproduces():
    # missed by 2 and by 4: 20 of 200
    [row] = table_of(effects([8.0, -6.0], [10.0, -10.0])).to_dict("records")
    assert row["fidelity"] == pytest.approx(0.9)
    assert row["effect"] == pytest.approx(np.sqrt((64 + 36) / 2))
    assert (row["reading"], row["dose"], row["mass"]) == (0.9, 0.5, 1.0)
    assert (row["positions"], row["site"], row["layer"], row["coefficient"]) == ("last", "resid_post.1", 1, 1.0)
    assert row["eligible"] is True


@pytest.mark.parametrize(
    ("steered", "fidelity"),
    [([3.0, -4.0], 1.0), ([0.0, 0.0], 0.0), ([-3.0, 4.0], -3.0), ([6.0, -8.0], 0.0), ([3.0, 0.0], 0.36)],
    ids=["the same", "nothing", "the opposite", "twice as much", "half of it"],
)
def test_fidelity_of_plain_cases(steered, fidelity):
    assert table_of(effects(steered, [3.0, -4.0]))["fidelity"].item() == pytest.approx(fidelity)


@pytest.mark.parametrize(
    ("steered", "told", "expected"),
    [
        ([3.0, -4.0], [3.0, -4.0], 1.0),
        ([0.0, 0.0], [3.0, -4.0], 0.0),
        ([6.0, -8.0], [3.0, -4.0], 0.0),
        ([-3.0, 4.0], [3.0, -4.0], -3.0),
        ([8.0, -6.0], [10.0, -10.0], 0.9),
        ([8.0, np.nan, 100.0, -6.0], [10.0, 50.0, np.nan, -10.0], 0.9),
        ([5.0, -4.0], [0.0, -4.0], 1 - 25 / 16),
    ],
)
def test_fidelity_by_hand(steered, told, expected):
    assert fidelity(pd.Series(steered), pd.Series(told)) == pytest.approx(expected)


@pytest.mark.parametrize(("steered", "told"), [([], []), ([np.nan, 1.0], [2.0, np.nan]), ([1.0], [0.0])])
def test_fidelity_to_nothing_is_missing(steered, told):
    assert np.isnan(fidelity(pd.Series(steered, dtype=float), pd.Series(told, dtype=float)))


def test_fidelity_does_not_depend_on_the_unit():
    steered, told = (pd.Series(np.random.default_rng(seed).normal(size=20)) for seed in (0, 1))
    assert fidelity(100 * steered, 100 * told) == pytest.approx(fidelity(steered, told))
    assert fidelity(0.5 * told, told) == pytest.approx(0.75)


def test_effects_that_are_not_known_on_both_sides_are_left_out():
    found = table_of(effects([8.0, np.nan, 100.0, -6.0], [10.0, 50.0, np.nan, -10.0]))
    assert found["fidelity"].item() == pytest.approx(0.9) and found["effect"].item() == pytest.approx(np.sqrt(50))
    unread = table_of(effects([np.nan], [1.0]))
    assert np.isnan(unread["fidelity"].item()) and not unread["eligible"].item()


def test_the_least_answer_mass_makes_a_setting_eligible():
    def eligible(mass):
        return table_of(effects([1.0, 1.0], [1.0, 1.0], mass))[["mass", "eligible"]].iloc[0].tolist()

    assert eligible([1.0, 0.9]) == [0.9, True]
    assert eligible([1.0, 0.899]) == [0.899, False]
    assert eligible([1.1, 1.0]) == [1.0, True]
    assert table_of(effects([1.0], [1.0], 0.5), mass=0.4)["eligible"].item()


def test_there_is_a_row_for_each_position_site_and_coefficient_even_where_nothing_was_tried():
    parts = [
        effects([size], [1.0], site="resid_post.2", positions=positions, coefficient=size)
        for positions in ("last", "prompt")
        for size in (0.5, 1.0)
    ]
    found = table_of(
        *parts, reading=(0.5, 0.9), doses=(np.nan, 0.25), positions=("last", "prompt"), coefficients=(0.5, 1.0)
    )
    rows = [tuple(row) for row in found[SETTING].itertuples(index=False)]
    assert rows == list(product(["last", "prompt"], ["resid_post.1", "resid_post.2"], [0.5, 1.0]))
    tried = found["site"] == "resid_post.2"
    assert found.loc[tried, "eligible"].all() and found.loc[tried, "dose"].tolist() == [0.125, 0.25] * 2
    assert found.loc[tried, "fidelity"].tolist() == pytest.approx([0.75, 1.0] * 2)
    missing = found.loc[~tried, ["dose", "fidelity", "effect", "mass"]]
    assert missing.isna().all(axis=None) and not found.loc[~tried, "eligible"].any()
    assert (found.loc[~tried, "reading"] == 0.5).all()


def test_a_dose_is_a_share_of_the_streams_median_norm(readings):
    vectors = {(site, key): fit_vector(readings[key]["train"], site) for site in SITES for key in readings}
    found = steering_choice._doses(vectors, readings)
    for site in SITES:
        norms = [np.linalg.norm(row) for own in readings.values() for row in own["train"].positive[site]]
        lengths = [np.linalg.norm(vectors[site, key].direction) for key in readings]
        assert found[site] == pytest.approx(np.mean(lengths) / np.median(norms), rel=1e-5)
    assert set(found) == set(SITES) and found[Site(1)] != pytest.approx(found[Site(3)], rel=0.01)


# The choice


def test_the_table_has_a_row_for_each_position_site_and_coefficient(chosen):
    rows = [tuple(row) for row in chosen.table[SETTING].itertuples(index=False)]
    assert rows == list(product(["last", "prompt"], ["resid_post.1", "resid_post.3"], [0.5, 1.0]))
    assert chosen.table["layer"].tolist() == [1, 1, 3, 3] * 2
    assert (chosen.table["dose"] > 0).all() and chosen.table["reading"].between(0.5, 1).all()


def test_exactly_one_is_chosen_and_it_is_the_best_of_those_that_are_eligible(chosen):
    [row] = chosen.table[chosen.table["chosen"]].to_dict("records")
    assert row["eligible"] and row["mass"] >= RULE.mass
    assert row["fidelity"] == chosen.table.loc[chosen.table["eligible"], "fidelity"].max()
    assert (chosen.positions, str(chosen.site), chosen.coefficient) == tuple(row[name] for name in SETTING)
    assert chosen.table["fidelity"].nunique() == len(chosen.table)


def test_effects_have_a_row_for_each_contrast_pole_and_trait_of_each_setting(chosen, family):
    keys = [*SETTING, "contrast", "pole", "trait"]
    found = {tuple(row) for row in chosen.effects[keys].itertuples(index=False)}
    settings = [tuple(row) for row in chosen.table[SETTING].itertuples(index=False)]
    whole = product(settings, [one.key for one in family], POLES, TRAITS)
    assert found == {(*setting, *rest) for setting, *rest in whole} and len(chosen.effects) == len(found)
    told = chosen.effects.groupby(["contrast", "pole", "trait"])["told"].nunique()
    assert (told == 1).all(), "what words do does not hang on how the model is steered"


def test_the_table_follows_from_the_effects(chosen):
    for row in chosen.table.to_dict("records"):
        own = chosen.effects
        for name in SETTING:
            own = own[own[name] == row[name]]
        missed = sum((one.steered - one.told) ** 2 for one in own.itertuples())
        assert row["fidelity"] == pytest.approx(1 - missed / sum(one.told**2 for one in own.itertuples()))
        assert row["effect"] == pytest.approx(np.sqrt(np.mean([one.steered**2 for one in own.itertuples()])))
        assert row["mass"] == min(own["mass"])
        assert row["eligible"] == (row["mass"] >= RULE.mass)


def test_the_effects_are_those_that_steering_and_telling_have(chosen, sheet, family, readings, base):
    told = told_effects(sheet, family, base[0]).set_index(["contrast", "pole", "trait"]).sort_index()["told"]
    one = Add(fit_vector(readings["activity"]["train"], Site(3)), -0.5, "prompt")
    answers = ask_steered(sheet.language_model, sheet.prompts(), sheet.labels, [[one]])
    own = chosen.effects.set_index([*SETTING, "contrast", "pole", "trait"]).sort_index()
    own = own.loc[("prompt", "resid_post.3", 0.5, "activity", "negative")].loc[list(TRAITS)]
    np.testing.assert_allclose(own["steered"], sheet.scores(answers[0])[0] - base[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(own["told"], told["activity", "negative"].loc[list(TRAITS)], rtol=0, atol=1e-3)


def test_chosen_effects_are_those_of_what_was_chosen(chosen, family):
    own = chosen.chosen_effects()
    assert len(own) == len(family) * len(POLES) * len(TRAITS)
    assert set(map(tuple, own[SETTING].to_numpy())) == {(chosen.positions, str(chosen.site), chosen.coefficient)}


def test_reading_is_the_accuracy_on_phrases_left_out_of_the_fit(chosen, readings):
    for site in SITES:
        expected = np.mean([validation_accuracy(own["train"], site) for own in readings.values()])
        rows = chosen.table[chosen.table["site"] == str(site)]
        assert rows["reading"].tolist() == [expected] * 4


def scrambled(read, site):
    """The same readings with noise in the place of a site."""
    rng = np.random.default_rng(0)
    shape = read.positive[site].shape
    return replace(
        read,
        positive={**read.positive, site: rng.normal(size=shape).astype(np.float32)},
        negative={**read.negative, site: rng.normal(size=shape).astype(np.float32)},
    )


def test_a_site_that_does_not_read_is_not_tried(sheet, family, readings, chosen):
    """And only the texts to train on are looked at."""
    noisy = {key: {"train": scrambled(own["train"], Site(1))} for key, own in readings.items()}
    rule = replace(RULE, positions=("prompt",), coefficients=(1.0,))
    found = choose(sheet, family, noisy, rule)
    lost, kept = found.table.to_dict("records")
    assert lost["reading"] < 0.8 < kept["reading"] and not lost["eligible"] and np.isnan(lost["fidelity"])
    assert found.site == Site(3) and kept["chosen"]
    before = chosen.table.set_index(SETTING).loc[("prompt", "resid_post.3", 1.0)]
    assert kept["fidelity"] == pytest.approx(before["fidelity"], abs=1e-4)
    assert kept["dose"] == pytest.approx(before["dose"])


def test_how_much_worse_a_site_may_read_is_a_number_of_the_rule(sheet, family, readings):
    both = {key: {"train": scrambled(own["train"], Site(1))} for key, own in readings.items()}
    rule = Rule(positions=("last",), coefficients=(0.25,), reading=1.0)
    assert choose(sheet, family, both, rule).table["fidelity"].notna().all()


def test_the_method_is_that_of_the_directions(sheet, family, readings, chosen):
    rule = replace(RULE, positions=("last",), coefficients=(1.0,))
    found = choose(sheet, family, readings, rule, method="lda").table
    expected = np.mean([validation_accuracy(own["train"], Site(1), "lda") for own in readings.values()])
    assert found["reading"].iloc[0] == expected
    other = chosen.table.set_index(SETTING).loc[("last", "resid_post.1", 1.0)]
    assert found["dose"].iloc[0] != pytest.approx(other["dose"], rel=1e-3)


def test_the_best_of_all_is_not_chosen_where_it_is_not_eligible(sheet, family, readings, chosen):
    before = chosen.table[chosen.table["positions"] == chosen.positions].reset_index(drop=True)
    best = before.loc[before["chosen"], "mass"].item()
    assert before["mass"].max() > best, "another one keeps more of the answer mass"
    rule = replace(RULE, positions=(chosen.positions,), mass=(best + before["mass"][before["mass"] > best].min()) / 2)
    found = choose(sheet, family, readings, rule).table
    assert found["fidelity"].tolist() == pytest.approx(before["fidelity"].tolist(), abs=1e-4)
    [row] = found[found["chosen"]].to_dict("records")
    assert row["eligible"] and row["fidelity"] < found["fidelity"].max()
    assert row["fidelity"] == found.loc[found["eligible"], "fidelity"].max()


def test_where_the_model_no_longer_answers_nothing_is_chosen(sheet, family, readings):
    rule = Rule(positions=("prompt",), coefficients=(500.0,))
    with pytest.raises(ValueError, match=r"nowhere 0\.9 of the unsteered answer mass is left; .* below 500"):
        choose(sheet, family, readings, rule)


def test_a_model_that_does_not_answer_even_without_steering_is_named(organism, items, family, tmp_path):
    """Smaller coefficients would not help there."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(organism.tokenizer), n_embd=32, n_layer=2, n_head=2)
    random = LanguageModel("random", AutoModelForCausalLM.from_config(config).eval(), organism.tokenizer)
    read = read_contrasts(random, family[:1], [Site(0)], tmp_path, count=32)
    rule = Rule(positions=("last",), coefficients=(0.5,))
    with pytest.raises(ValueError, match="random answers none of the items even without steering"):
        choose(TraitSheet(random, items[:4]), family[:1], read, rule)


def test_what_is_tried_by_default_is_the_last_token_and_all_of_them():
    assert Rule().positions == ("last", "prompt")
    assert (Rule().reading, Rule().mass) == (0.02, 0.9)


# On disk


def test_what_was_chosen_is_read_back(chosen, tmp_path):
    chosen.save(tmp_path / "s.json")
    assert load_setting(tmp_path / "s.json") == Setting(chosen.positions, chosen.site, chosen.coefficient)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    written = json.loads((tmp_path / "s.json").read_text())
    assert list(written) == [*SETTING, "table"]
    read = pd.DataFrame(written["table"])
    pd.testing.assert_frame_equal(read, chosen.table, check_dtype=False, rtol=1e-6)


def test_what_was_not_tried_has_no_numbers_in_the_file(tmp_path):
    table = table_of(effects([1.0], [1.0]), reading=(0.9, 0.5)).assign(chosen=[True, False])
    Choice("last", Site(1), 1.0, table, effects([1.0], [1.0])).save(tmp_path / "s.json")
    text = (tmp_path / "s.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    rows = json.loads(text)["table"]
    assert rows[0]["fidelity"] == 1.0 and rows[1]["fidelity"] is None and rows[1]["chosen"] is False


GOOD = {"positions": "last", "site": "resid_post.1", "coefficient": 1.5}


def test_a_file_without_its_table_says_enough(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(GOOD))
    assert load_setting(tmp_path / "s.json") == ("last", Site(1), 1.5)


def test_a_missing_file_is_named_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(DataError, match=r"s\.json: no such file; write it with `python -m personalib contrast choose`"):
        load_setting(tmp_path / "s.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        json.dumps({"site": "resid_post.1", "coefficient": 1}),
        *(
            json.dumps(GOOD | change)
            for change in (
                {"positions": "first"},
                {"positions": None},
                {"site": "mlp.1"},
                {"site": 1},
                {"site": None},
                {"coefficient": "much"},
                {"coefficient": None},
                {"coefficient": [1.0]},
                {"coefficient": float("nan")},
            )
        ),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json: needs positions, site and coefficient"):
        load_setting(tmp_path / "s.json")


def test_what_is_no_text_file_is_named(tmp_path):
    (tmp_path / "s.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"s\.json: needs positions"):
        load_setting(tmp_path / "s.json")
    with pytest.raises(DataError, match=tmp_path.name):
        load_setting(tmp_path)


# What is chosen for the organism


def test_the_organisms_setting_obeys_the_rule(organism):
    setting, rule = load_setting(), Rule()
    path = data_dir() / "organism" / "steering.json"
    assert setting == load_setting(path) and 0 <= setting.site.layer < len(blocks(organism.model))
    table = pd.DataFrame(json.loads(path.read_text())["table"])
    sites = [str(Site(layer)) for layer in range(len(blocks(organism.model)))]
    settings = [tuple(row) for row in table[SETTING].itertuples(index=False)]
    assert settings == list(product(rule.positions, sites, rule.coefficients))
    read = table["reading"] >= table["reading"].max() - rule.reading
    assert (table["eligible"] == (read & (table["mass"] >= rule.mass))).all()
    assert table.loc[~read, "fidelity"].isna().all() and table.loc[read, "fidelity"].notna().all()
    [row] = table[table["chosen"]].to_dict("records")
    assert (row["positions"], Site.parse(row["site"]), row["coefficient"]) == setting
    assert row["eligible"] and row["fidelity"] == table.loc[table["eligible"], "fidelity"].max()


def test_items_to_choose_by_are_none_that_an_evaluation_uses(items):
    _, others = validation_split(load_trait())
    assert not {(item.personality, item.idx) for item in items} & {(item.personality, item.idx) for item in others}
    assert [item.personality for item in items] == [trait for trait in TRAITS for _ in range(2)]
