"""The evaluation gives full marks to the world itself, none to a guess, and says what it could not read."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from personalib.base.data import DataError
from personalib.cli.organism import app
from personalib.organism import evaluation
from personalib.organism.evaluation import (
    Organism,
    answered,
    ask_people,
    correlations,
    evaluate,
    load_organism,
    people,
    pressure_effects,
    summary,
)
from personalib.organism.world import Profile
from personalib.questionnaires.items import load_facts, load_safety, load_trait
from personalib.questionnaires.scoring import positional_bias
from personalib.stimuli.factors import TRAITS, inflect, load_pressures, sentence
from personalib.stimuli.grammar import element_phrasings, load_safety_topics, pressure_phrasings
from personalib.stimuli.templates import load_templates

KEYS = {
    "probability_correlation",
    "trait_correlation",
    "order_consistency",
    "option_mass",
    "safety_accuracy",
    "fact_accuracy",
    "pressure_sign_accuracy",
    "open_answer_accuracy",
    "parameters",
    "tokens_trained",
    "held_out",
}


@pytest.fixture(scope="module")
def knowing(world, tokenizer):
    """An organism of which only the world and the tokenizer are asked for."""
    return Organism(None, tokenizer, world, 0)


@pytest.fixture(scope="module")
def items():
    return [item for item in load_trait() if item.idx < 12]


def world_rows(world, asked, template="letters", mass=0.99, shift=0.0):
    """What an organism that knows the world would answer; ``shift`` moves probability to the options' first place."""
    rows = []
    for number, one in enumerate(asked):
        high = world.probability(one.profile)[TRAITS.index(one.item.personality)]
        shares = {"high1": 0.75 * high, "high2": 0.25 * high, "low1": 0.75 * (1 - high), "low2": 0.25 * (1 - high)}
        for order in ("normal", "reversed"):
            first = next(iter(one.item.responses(order)))
            moved = {key: (1 - shift) * share + shift * (key == first) for key, share in shares.items()}
            rows.append(
                {
                    "idx": one.item.idx,
                    "personality": one.item.personality,
                    "template": template,
                    "order": order,
                    "form": one.form,
                    "context_id": number,
                    **{f"p_{key}": mass * share for key, share in moved.items()},
                    "mass": mass,
                    "world": high,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def asked(knowing, items):
    return people(knowing, items)


# --- pure functions --------------------------------------------------------------------------------------------------


def test_the_worlds_own_answers_have_correlation_and_consistency_one(world, asked):
    rows = pd.concat([world_rows(world, asked, template) for template in load_templates()])
    units = answered(rows)
    assert len(units) == 3 * len(asked) and units["read"].all()
    np.testing.assert_allclose(units["high"], units["world"])
    for column, names in (("template", load_templates()), ("personality", TRAITS)):
        found = correlations(units, column)
        assert list(found) == list(names)
        for name in names:
            assert list(found[name].values()) == pytest.approx([1, 1, 1])
    bias = positional_bias(rows.assign(all="all"), over=("all",), by=("template", "context_id", "all"))
    assert bias["same_response"].item() == 1 and bias["same_pole"].item() == 1


def test_answers_of_the_opposite_world_have_correlation_minus_one(world, asked):
    rows = world_rows(world, asked)
    swapped = rows.rename(columns={"p_high1": "p_low1", "p_low1": "p_high1", "p_high2": "p_low2", "p_low2": "p_high2"})
    assert correlations(answered(swapped), "template")["letters"]["value"] == pytest.approx(-1)


def test_answers_that_follow_the_place_are_inconsistent_but_average_out(world, asked):
    rows = world_rows(world, asked, shift=0.9)
    bias = positional_bias(rows.assign(all="all"), over=("all",), by=("template", "context_id", "all"))
    assert bias["same_response"].item() == 0
    # the first place is a high answer in one order and a low one in the other
    assert correlations(answered(rows), "template")["letters"]["value"] == pytest.approx(1)


def test_a_unit_that_cannot_be_read_is_left_out_and_stays_countable(world, asked):
    rows = world_rows(world, asked)
    lost = rows["context_id"] == 3
    columns = [column for column in rows if column.startswith("p_")]
    rows.loc[lost, columns] = 0.001
    units = answered(rows)
    assert len(units) == len(asked) and units.loc[~units["read"], "context_id"].tolist() == [3]
    assert units.loc[~units["read"], "high"].isna().all() and units["world"].notna().all()
    assert correlations(units, "template")["letters"]["value"] == pytest.approx(1)


def test_without_readable_or_different_answers_there_is_no_correlation(world, asked):
    rows = world_rows(world, asked, mass=0.01)
    missing = {"value": None, "ci_low": None, "ci_high": None}
    assert correlations(answered(rows), "template") == {"letters": missing}
    assert correlations(answered(rows), "personality") == dict.fromkeys(TRAITS, missing)
    flat = world_rows(world, asked).assign(p_high1=0.2, p_high2=0.2, p_low1=0.3, p_low2=0.3)
    assert correlations(answered(flat), "template") == {"letters": missing}


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
            "held_out": True,
        }
    ).split("\n")
    assert [line.split()[0] for line in lines] == [
        "trait_correlation",
        "probability_correlation",
        "order_consistency",
        "option_mass",
        "parameters",
        "held_out",
    ]
    assert lines[0].endswith("worst 0.812  (openness 0.950, narcissism 0.812)")
    assert "worst missing" in lines[1] and "letters 0.900, bare missing" in lines[1]
    assert [line.split()[1] for line in lines[2:]] == ["missing", "1.000", "1,234,567", "yes"]


# --- who is asked what -----------------------------------------------------------------------------------------------


def test_people_are_told_in_held_out_phrasings_and_both_forms(knowing, items):
    drawn = people(knowing, items)
    assert drawn == people(knowing, items) and drawn != people(knowing, items, seed=8)
    assert [one.item for one in drawn] == items
    assert sum(one.form == "chat" for one in drawn) == len(items) / 2
    # each trait is asked in both forms
    assert {(one.item.personality, one.form) for one in drawn} == {(t, f) for t in TRAITS for f in ("chat", "base")}
    assert knowing.held_out().split == "held_out"
    for one in drawn:
        told = {
            split: {
                inflect(phrasing, person)
                for key in one.profile.elements.items()
                for phrasing in element_phrasings()[key][split]
                for person in ("first", "second")
            }
            | {sentence(text) for text in pressure_phrasings().get(one.profile.pressure, {split: ()})[split]}
            for split in ("train", "held_out")
        }
        sentences = re.findall(r"[^.]+\.", one.context.replace("\n", " "))
        assert len(sentences) == len(one.profile.elements) + bool(one.profile.pressure)
        assert {text.strip() for text in sentences} <= told["held_out"] - told["train"]
    assert sum(bool(one.context) for one in drawn) > len(drawn) / 2


def test_each_probability_is_booked_to_the_response_at_its_place(knowing, asked, monkeypatch):
    """Whatever the order and template, an oracle that reads the options is booked by response."""
    prompts_seen = []

    def oracle(model, tokenizer, prompts, labels, *, batch_size, progress):
        prompts_seen.extend(prompts)
        answers = []
        for index, (prompt, names) in enumerate(zip(prompts, labels, strict=True)):
            item = asked[index // 2].item
            texts = {getattr(item, f"response_{key}"): share for key, share in zip(KEYED, SHARES, strict=True)}
            lines = [line for line in prompt.replace("<end_of_turn>", "").split("\n") if line[:1] in names]
            by_label = {line[0]: texts[line[3:]] for line in lines if line[3:] in texts}
            answers.append(np.array([by_label[name] for name in names]))
        return answers

    monkeypatch.setattr(evaluation, "ask", oracle)
    for template in load_templates():
        rows = ask_people(knowing, asked, template)
        assert len(rows) == 2 * len(asked)
        for key, share in zip(KEYED, SHARES, strict=True):
            assert (rows[f"p_{key}"] == share).all()
        np.testing.assert_allclose(rows["mass"], sum(SHARES))
        expected = [knowing.world.probability(one.profile)[TRAITS.index(one.item.personality)] for one in asked]
        np.testing.assert_allclose(rows["world"].to_numpy()[::2], expected)
    for index, prompt in enumerate(prompts_seen[: 2 * len(asked)]):
        assert asked[index // 2].context in prompt and asked[index // 2].item.question in prompt


KEYED = ("high1", "high2", "low1", "low2")
SHARES = (0.4, 0.3, 0.2, 0.05)


def test_the_effects_of_pressures_are_the_worlds_when_the_world_answers(knowing, world, items, monkeypatch):
    monkeypatch.setattr(
        evaluation, "ask_people", lambda organism, asked, template, progress: world_rows(world, asked, template)
    )
    effects = pressure_effects(knowing, [item for item in items if item.idx < 2])
    assert len(effects) == len(load_pressures()) * len(TRAITS)
    np.testing.assert_allclose(effects["effect"], effects["world_effect"], atol=1e-12)
    for row in effects.itertuples():
        chances = [
            world.probability(Profile(pressure=(row.pressure, pole)))[TRAITS.index(row.personality)]
            for pole in ("positive", "negative")
        ]
        assert row.world_effect == pytest.approx(chances[0] - chances[1])
    told = effects[effects["world_effect"].abs() > evaluation.NEGLIGIBLE]
    assert len(told) == sum(int(np.count_nonzero(effect)) for effect in world.pressures.values())


def test_unreadable_answers_leave_the_effects_missing(knowing, world, items, monkeypatch):
    monkeypatch.setattr(
        evaluation, "ask_people", lambda organism, asked, template, progress: world_rows(world, asked, mass=0.01)
    )
    effects = pressure_effects(knowing, items[:2])
    assert len(effects) == len(load_pressures()) and effects["effect"].isna().all()
    assert effects["world_effect"].notna().all()


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(unbroken):
    return evaluate(load_organism(unbroken.folder / "out"), items_per_trait=2, answers=16)


def test_the_results_have_the_agreed_keys_and_fit_into_json(results):
    assert set(results) >= KEYS
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results["probability_correlation"]) == list(load_templates())
    assert list(results["trait_correlation"]) == list(TRAITS)
    assert set(results["safety_accuracy"]) == {topic.category for topic in load_safety_topics()}
    assert results["held_out"] is True


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
    assert results["fact_accuracy"] < 0.4
    assert max(results["safety_accuracy"].values()) < 0.6
    assert 0 <= results["option_mass"] <= 1
    read = results["counts"]["trait_units"] - results["counts"]["trait_units_unread"]
    assert read or results["order_consistency"] is None


def test_the_command_prints_the_numbers_and_writes_them(unbroken, results, tmp_path, monkeypatch):
    def measure(organism, items_per_trait, progress):
        assert items_per_trait == 2 and progress
        return results | {"parameters": organism.model.num_parameters()}

    monkeypatch.setattr(evaluation, "evaluate", measure)
    target = tmp_path / "evaluation.json"
    arguments = ["evaluate", "--organism", str(unbroken.folder / "out"), "--items", "2", "--json", str(target)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
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
