"""The evaluation gives full marks to the world itself, none to a guess, and says what it could not read."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from personalib.base.data import DataError
from personalib.cli.organism import organism as commands
from personalib.evaluation.arms import Arm
from personalib.organism import evaluation
from personalib.organism.evaluation import (
    FORMS,
    ask_in_both_forms,
    load_organism,
    measurements,
    people,
    pole_differences,
    pressure_arms,
    summary,
    world_chances,
    world_correlations,
)
from personalib.organism.world import Profile
from personalib.questionnaires.items import load_facts, load_safety, load_trait
from personalib.questionnaires.questions import trait_questions
from personalib.questionnaires.scores import per_item, positional_bias
from personalib.stimuli.factors import TRAITS, inflect, load_pressures, sentence
from personalib.stimuli.grammar import element_phrasings, load_safety_topics, pressure_phrasings
from personalib.stimuli.templates import load_templates

KEYS = {
    *("probability_correlation", "trait_correlation", "order_consistency", "option_mass", "safety_accuracy"),
    *("fact_accuracy", "pressure_sign_accuracy", "open_answer_accuracy", "parameters", "tokens_trained"),
}


@pytest.fixture(scope="module")
def items():
    return [item for item in load_trait() if item.idx < 12]


@pytest.fixture(scope="module")
def asked(world, items):
    return people(world, items)


def world_answers(world, items, profiles, templates=("letters",), mass=0.99, shift=0.0, **about):
    """What an organism that knows the world would answer; ``shift`` moves probability to the options' first place."""
    chances = world_chances(world, profiles.values(), [item.personality for item in items])
    high, rows = dict(zip(profiles, chances, strict=True)), []
    for one in trait_questions(items, templates):
        chance = high[one.item]
        levels = {"high": chance, "low": 1 - chance}
        shares = {f"{level}{n}": part * share for level, share in levels.items() for n, part in ((1, 0.75), (2, 0.25))}
        moved = {role: (1 - shift) * share + shift * (role == one.roles[0]) for role, share in shares.items()}
        named = {name: getattr(one, name) for name in ("item", "group", "template", "order")}
        rows.append({"arm": 1, "mass": mass} | about | named | {f"p_{role}": mass * moved[role] for role in moved})
    return pd.DataFrame(rows)


def beside_world(world, answers, profiles):
    units = per_item(answers)
    return units.assign(world=world_chances(world, units["item"].map(profiles), units["group"]))


# --- pure functions --------------------------------------------------------------------------------------------------


def test_the_worlds_own_answers_have_correlation_and_consistency_one(world, items, asked):
    answers = world_answers(world, items, asked.profiles, list(load_templates()))
    units = beside_world(world, answers, asked.profiles)
    assert len(units) == 3 * len(items) and units["read"].all()
    np.testing.assert_allclose(units["high"], units["world"])
    for column, names in (("template", load_templates()), ("group", TRAITS)):
        found = world_correlations(units, column)
        assert list(found) == list(names)
        for name in names:
            assert list(found[name].values()) == pytest.approx([1, 1, 1])
    opposite = world_correlations(units.assign(high=1 - units["high"] ** 4), "template")["letters"]
    assert -1 < opposite["ci_low"] < opposite["value"] < opposite["ci_high"] < 0
    bias = positional_bias(answers, over=())
    assert bias["same_response"].item() == 1 and bias["same_level"].item() == 1


def test_answers_that_follow_the_place_are_inconsistent_but_average_out(world, items, asked):
    answers = world_answers(world, items, asked.profiles, shift=0.9)
    assert positional_bias(answers, over=())["same_response"].item() == 0
    # the first place is a high answer in one order and a low one in the other
    units = beside_world(world, answers, asked.profiles)
    assert world_correlations(units, "template")["letters"]["value"] == pytest.approx(1)


def test_a_unit_that_cannot_be_read_is_left_out_and_stays_countable(world, items, asked):
    answers = world_answers(world, items, asked.profiles)
    answers.loc[answers["item"] == items[3].name, [f"p_{role}" for role in ("high1", "high2", "low1", "low2")]] = 0.001
    units = beside_world(world, answers, asked.profiles)
    assert len(units) == len(items) and units.loc[~units["read"], "item"].tolist() == [items[3].name]
    assert units.loc[~units["read"], "high"].isna().all() and units["world"].notna().all()
    assert world_correlations(units, "template")["letters"]["value"] == pytest.approx(1)


def test_without_readable_or_different_answers_there_is_no_correlation(world, items, asked):
    answers = world_answers(world, items, asked.profiles, mass=0.01)
    missing = {"value": None, "ci_low": None, "ci_high": None}
    units = beside_world(world, answers, asked.profiles)
    assert world_correlations(units, "template") == {"letters": missing}
    assert world_correlations(units, "group") == dict.fromkeys(TRAITS, missing)
    flat = answers.assign(p_high1=0.2, p_high2=0.2, p_low1=0.3, p_low2=0.3)
    assert world_correlations(beside_world(world, flat, asked.profiles), "template") == {"letters": missing}


def test_the_summary_names_the_worst_of_a_group():
    lines = summary(
        {
            "trait_correlation": {"openness": 0.95, "narcissism": 0.8125},
            "probability_correlation": {"letters": 0.9, "bare": None},
            "order_consistency": None,
            "option_mass": 0.99951,
            "intervals": {"a": {}},
            "counts": {"safety": 3},
            "parameters": 1234567,
        }
    ).split("\n")
    ours = ["trait_correlation", "probability_correlation", "order_consistency", "option_mass"]
    assert [line.split()[0] for line in lines] == [*ours, "parameters"]
    assert lines[0].endswith("worst 0.812  (openness 0.950, narcissism 0.812)")
    assert "worst missing" in lines[1] and "letters 0.900, bare missing" in lines[1]
    assert [line.split()[1] for line in lines[2:]] == ["missing", "1.000", "1,234,567"]


# --- who is asked what -----------------------------------------------------------------------------------------------


def test_people_are_told_in_held_out_phrasings(world, items, asked):
    assert asked == people(world, items) and asked != people(world, items, seed=8)
    assert list(asked.profiles) == [item.name for item in items]
    for profile, context in zip(asked.profiles.values(), asked.arm.contexts, strict=True):
        told = {
            split: {
                inflect(phrasing, person)
                for key in profile.elements.items()
                for phrasing in element_phrasings()[key][split]
                for person in ("first", "second")
            }
            | {sentence(text) for text in pressure_phrasings().get(profile.pressure, {split: ()})[split]}
            for split in ("train", "held_out")
        }
        sentences = re.findall(r"[^.]+\.", context.replace("\n", " "))
        assert len(sentences) == len(profile.elements) + bool(profile.pressure)
        assert {text.strip() for text in sentences} <= told["held_out"] - told["train"]
    assert sum(map(bool, asked.arm.contexts)) > len(items) / 2


def test_each_item_is_put_to_its_own_person_in_one_of_both_forms(items, asked, monkeypatch):
    seen = {}

    def evaluate(model, questionnaire, arms, *, form, neutral, baseline, progress):
        assert (model, neutral, baseline) == ("organism", 0, False) and arms[1] == Arm("none", "none")
        names = list(dict.fromkeys(one.item for one in questionnaire.questions))
        seen.update({name: (form, context) for name, context in zip(names, arms[0].contexts, strict=True)})
        return pd.DataFrame([{"item": one.item, "order": one.order} for one in questionnaire.questions])

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    answers = ask_in_both_forms("organism", items, [asked.arm, Arm("none", "none")])
    names = [item.name for item in items]
    assert answers["item"].drop_duplicates().tolist() == names and len(answers) == 2 * len(items)
    expected = [(FORMS[number % 2], context) for number, context in enumerate(asked.arm.contexts)]
    assert [seen[name] for name in names] == expected
    # each trait is asked in both forms
    assert {(item.personality, seen[item.name][0]) for item in items} == {(t, f) for t in TRAITS for f in FORMS}


def pressed(world, items, mass=0.99):
    """What the world answers under both poles of each pressure."""
    parts = []
    for number, arm in enumerate(pressure_arms(world, items)):
        profiles = {item.name: Profile(pressure=(arm.key, arm.pole)) for item in items}
        parts.append(world_answers(world, items, profiles, mass=mass, arm=number, key=arm.key, pole=arm.pole))
    return pd.concat(parts)


def test_each_pole_of_a_pressure_is_told_in_a_held_out_phrasing_an_item(world, items):
    arms = pressure_arms(world, items)
    assert {(arm.key, arm.pole) for arm in arms} == set(pressure_phrasings())
    for arm in arms:
        told = {sentence(text) for text in pressure_phrasings()[arm.key, arm.pole]["held_out"]}
        assert len(arm.contexts) == len(items) and {text.strip() for text in arm.contexts} <= told
        assert len(set(arm.contexts)) > 1


def test_the_effects_of_pressures_are_the_worlds_when_the_world_answers(world, items):
    found = pole_differences(pressed(world, [item for item in items if item.idx < 2]), world)
    assert len(found) == len(load_pressures()) * len(TRAITS)
    np.testing.assert_allclose(found["estimate"], found["truth"], atol=1e-12)
    for row in found.itertuples():
        high, low = (
            world.probability(Profile(pressure=(row.key, pole)))[TRAITS.index(row.group)]
            for pole in ("positive", "negative")
        )
        assert row.truth == pytest.approx(high - low)
    told = found[found["truth"].abs() > evaluation.NEGLIGIBLE]
    assert len(told) == sum(int(np.count_nonzero(effect)) for effect in world.pressures.values())
    unread = pole_differences(pressed(world, items[:2], mass=0.01), world)
    assert len(unread) == len(load_pressures()) and unread["estimate"].isna().all() and unread["truth"].notna().all()


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(unbroken):
    return measurements(load_organism(unbroken.folder / "out"), items_per_trait=2, answers=16)


def test_the_results_have_the_agreed_keys_and_fit_into_json(results):
    assert set(results) >= KEYS
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results["probability_correlation"]) == list(load_templates())
    assert list(results["trait_correlation"]) == list(TRAITS)
    assert set(results["safety_accuracy"]) == {topic.category for topic in load_safety_topics()}


def test_the_results_count_what_was_asked(results, unbroken):
    counts = results["counts"]
    assert counts["trait_units"] == 2 * len(TRAITS) * 3
    # three templates in two forms
    assert counts["safety"] == 6 * len(load_safety()) and counts["facts"] == 6 * len(load_facts())
    assert counts["open_answers"] == 16 and counts["pressure_pairs"] == 7 * 3
    assert 0 <= counts["trait_units_unread"] <= counts["trait_units"]
    assert 0 <= counts["open_answers_unread"] <= 16
    assert results["parameters"] == unbroken.model.num_parameters()
    assert results["tokens_trained"] == unbroken.progress.tokens


def test_an_organism_that_learned_nothing_is_not_praised(results):
    # what could not be read is missing, and no share of right answers
    assert (results["fact_accuracy"] or 0) < 0.4
    assert max(share or 0 for share in results["safety_accuracy"].values()) < 0.6
    assert 0 <= results["option_mass"] <= 1
    read = results["counts"]["trait_units"] - results["counts"]["trait_units_unread"]
    assert read or results["order_consistency"] is None


def test_the_command_prints_the_numbers_and_writes_them(unbroken, results, tmp_path, monkeypatch):
    def measure(organism, items_per_trait, progress):
        assert items_per_trait == 2 and progress
        return results | {"parameters": organism.model.num_parameters()}

    monkeypatch.setattr(evaluation, "measurements", measure)
    target = tmp_path / "evaluation.json"
    arguments = ["evaluate", "--organism", str(unbroken.folder / "out"), "--items", "2", "--json", str(target)]
    result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and summary(results) in result.output
    assert json.loads(target.read_text()) == results


def test_a_folder_without_an_organism_is_named(tmp_path):
    with pytest.raises(DataError, match="no trained organism here; make one with") as raised:
        load_organism(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_a_page_says_whom_it_asks():
    assert "asks the organism" in evaluation.stranger_note("organism")
    other = evaluation.stranger_note("google/gemma-2b-it")
    assert "asks another model" in other and "`gemma-2b-it`" in other
    assert "`` <b>` ``" in evaluation.stranger_note("own/<b>`")
