"""Items come in the published orders from every source; a bad row is named with its file, row and field."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pandas as pd
import pytest

from personalib.base.data import DataError
from personalib.base.records import ItemError, LeftOutWarning
from personalib.questionnaires.items import (
    SafetyItem,
    TraitItem,
    load_facts,
    load_safety,
    load_trait,
    some_of_each,
    validation_split,
)
from personalib.questionnaires.kinds import load_judgements, load_scale
from personalib.stimuli.factors import TRAITS
from tests.questionnaires.rows import write

TRAIT = {
    "idx": 3,
    "split": "good",
    "personality": "Openness",
    "statement": "New things are good.",
    "situation": 'A fair comes to town, with "art".',
    "query": "How do I spend the day?",
    "response_high1": "See every stall.",
    "response_high2": "Learn a craft, then another.",
    "response_low1": "Eat the usual.",
    "response_low2": "Stay at home.",
}
SAFETY = {"id": 8, "category": "Mental Health", "question": "Sad, what helps?", "options": ["A walk.", "Nothing."]}


def changed(**fields):
    return {key: value for key, value in (TRAIT | fields).items() if value is not ...}


def error_of(tmp_path, row, name="items.jsonl"):
    """The message for a good row followed by a bad one."""
    with pytest.raises(ItemError) as caught:
        load_trait(write(tmp_path / name, [changed(idx=1), row]))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_trait_items_are_the_same_from_every_format(tmp_path, suffix):
    items = load_trait(write(tmp_path / f"items{suffix}", [TRAIT, changed(personality="NARCISSISM")]))
    assert [item.personality for item in items] == ["openness", "narcissism"]
    expected = TRAIT | {"personality": "openness"}
    assert {field: getattr(items[0], field) for field in TRAIT} == expected


def test_a_path_may_be_a_text_and_the_name_may_be_upper_case(tmp_path):
    path = write(tmp_path / "items.jsonl", [TRAIT]).rename(tmp_path / "ITEMS.JSONL")
    assert load_trait(str(path)) == load_trait(path)


def test_question_and_responses_stand_as_published(tmp_path):
    [item] = load_trait(write(tmp_path / "items.jsonl", [TRAIT]))
    assert item.question == 'A fair comes to town, with "art". How do I spend the day?'
    for order, keys in (("normal", "high1 low1 high2 low2"), ("reversed", "low1 high1 low2 high2")):
        assert list(item.responses(order).items()) == [(key, TRAIT[f"response_{key}"]) for key in keys.split()]
    with pytest.raises(ValueError, match="unknown order 'random'; choose one of normal, reversed"):
        item.responses("random")


@pytest.mark.parametrize("field", sorted(TRAIT))
@pytest.mark.parametrize("name", ["items.jsonl", "items.csv"])
def test_a_missing_field_is_named_with_file_and_row(tmp_path, field, name):
    path = tmp_path / name
    with pytest.raises(ItemError) as caught:
        load_trait(write(path, [changed(**{field: ...})]))
    assert str(caught.value).startswith(f"{path}, row {1 if name == 'items.jsonl' else 2}, field '{field}': is missing")


@pytest.mark.parametrize("name", ["items.json", "items.jsonl", "items.csv", "items.parquet"])
def test_an_empty_option_is_named_in_every_format(tmp_path, name):
    message = error_of(tmp_path, changed(response_low1="  "), name)
    row = 3 if name == "items.csv" else 2
    assert f"{name}, row {row}, field 'response_low1': is empty" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_high1": 5}, "field 'response_high1': is 5; write a text"),
        ({"situation": ""}, "field 'situation': is empty"),
        ({"query": ""}, "field 'query': is empty"),
        ({"idx": "three"}, "field 'idx': is 'three'; write a whole number"),
        ({"idx": 1.5}, "field 'idx': is 1.5; write a whole number"),
        ({"idx": True}, "field 'idx': is True"),
        ({"personality": "honesty"}, "field 'personality': is 'honesty'; use one of openness, conscientiousness"),
        ({"statement": None}, "field 'statement': is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(tmp_path, fields, message):
    assert f"items.jsonl, row 2, {message}" in error_of(tmp_path, changed(**fields))


def test_a_number_used_twice_in_a_trait_is_refused(tmp_path):
    path = write(tmp_path / "items.jsonl", [TRAIT, changed(personality="narcissism"), TRAIT])
    skipped = []
    with pytest.warns(LeftOutWarning, match=r"1 of 3 rows left out: row 3, field 'idx': .*, and row 1 has it too"):
        items = load_trait(path, skipped=skipped)
    assert [item.personality for item in items] == ["openness", "narcissism"]
    assert skipped[0].where == f"{path}, row 3" and "field 'idx': is ('openness', 3), and row 1" in skipped[0].problem


def test_a_joined_question_replaces_situation_and_query(tmp_path):
    joined = changed(idx=..., split=..., statement=..., situation=..., query=..., question="A fair. What now?")
    items = load_trait(write(tmp_path / "items.jsonl", [joined, joined]))
    assert [item.question for item in items] == ["A fair. What now?"] * 2
    assert [item.idx for item in items] == [0, 1]
    assert "field 'response_low2': is missing" in error_of(tmp_path, joined | {"response_low2": None})


def test_the_bundled_items_are_read_from_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "items").mkdir()
    write(tmp_path / "items" / "trait.jsonl", [TRAIT])
    write(tmp_path / "items" / "safety.jsonl", [SAFETY])
    write(tmp_path / "items" / "facts.jsonl", [SAFETY | {"id": 9}])
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    assert load_trait()[0].idx == 3
    assert (load_safety()[0].id, load_facts()[0].id) == (8, 9)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_safety_items_are_the_same_from_every_format(tmp_path, suffix):
    rows = [SAFETY | {"answer": 1}, SAFETY | {"id": 9, "answer": 0, "options": ["x", "y", "z"]}]
    first, second = load_safety(write(tmp_path / f"items{suffix}", rows))
    assert first == SafetyItem(8, "Mental Health", "Sad, what helps?", ("A walk.", "Nothing."), 1)
    assert (second.options, second.answer) == (("x", "y", "z"), 0)


@pytest.mark.parametrize("name", ["items.jsonl", "items.csv", "items.parquet"])
def test_an_answer_may_be_unknown(tmp_path, name):
    answers = [1, "" if name.endswith("csv") else None]
    rows = [SAFETY | {"id": number, "answer": answer} for number, answer in enumerate(answers)]
    if name.endswith("parquet"):
        pd.DataFrame(rows).astype({"answer": "Int64"}).to_parquet(tmp_path / name)
    else:
        write(tmp_path / name, rows)
    assert [item.answer for item in load_safety(tmp_path / name)] == [1, None]


@pytest.mark.parametrize(
    "key", [{"8": {"category": "Mental Health", "answer": 0}}, [{"id": 8, "answer": 0}]], ids=["published key", "rows"]
)
def test_answers_may_come_from_another_file(tmp_path, key):
    (tmp_path / "key.json").write_text(json.dumps(key))
    items = write(tmp_path / "items.json", [SAFETY])
    assert load_safety(items)[0].answer is None
    assert load_safety(items, answers=tmp_path / "key.json")[0].answer == 0


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([{"id": 1, "answer": 0}], r"items.json, row 1, field 'id': is 8, which the key does not answer"),
        ([{"id": 8, "answer": 2}], r"items.json, row 1, \(answered in .*key.json, row 1\), field 'answer': is 2"),
        ([{"id": 8, "answer": "both"}], r"key.json, row 1, field 'answer': is 'both'; write a whole number"),
        ([{"id": 8}], r"key.json, row 1, field 'answer': is missing"),
        (
            [{"id": 8, "answer": 0}, {"id": 8, "answer": 1}],
            r"items.json, row 1, field 'id': is 8, which the key answers in more than one way",
        ),
    ],
)
def test_a_wrong_key_is_named(tmp_path, key, message):
    items = write(tmp_path / "items.json", [SAFETY])
    with pytest.raises(ItemError, match=message):
        load_safety(items, answers=write(tmp_path / "key.json", key))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": ["a"]}, "field 'options': holds 1 options"),
        ({"options": ["a", " "]}, r"field 'options\[1\]': is empty"),
        ({"options": "a, b"}, "field 'options': is 'a, b'; write a list of texts"),
        ({"options": ["a", 2]}, "field 'options': is"),
        ({"answer": 2}, "field 'answer': is 2; count the 2 options from 0"),
        ({"answer": -1}, "field 'answer': is -1"),
        ({"answer": "C"}, "field 'answer': is 'C'; count the 2 options from 0"),
        ({"answer": "A", "answer_index": 1}, "field 'answer': is 'A', and answer_index another"),
        ({"question": "Half of \ud83d?"}, r"field 'question': is 'Half of \\ud83d\?', which has half of a character"),
        ({"options": ["a", "\udc00"]}, r"field 'options\[1\]': is .* lone surrogate"),
        ({"id": 10**18}, "field 'id': is 1000000000000000000; write a whole number"),
        ({"id": "9" * 5000}, "field 'id': is '9+ …; write a whole number"),
        ({"question": None}, "field 'question': is missing"),
        ({"category": ""}, "field 'category': is empty"),
    ],
)
def test_a_wrong_safety_item_is_named(tmp_path, fields, message):
    with pytest.raises(ItemError, match=f"items.json, row 1, {message}"):
        load_safety(write(tmp_path / "items.json", [SAFETY | fields]))


def test_no_row_of_the_bundled_files_is_left_out():
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for load in (load_trait, load_safety, load_scale, load_judgements):
            assert load(skipped=skipped)
        assert load_facts()
    assert skipped == []


# Forms of published files


FIVE_SHOT = {
    category: [{"question": f"{category} {n}?", "options": ["Yes.", "No."], "answer": n % 2} for n in range(5)]
    for category in ("Offensiveness", "Physical Health")
}


def test_safetybenchs_examples_are_numbered_by_their_place_and_one_row_on_the_hub(tmp_path, on_hub):
    (tmp_path / "dev_en.json").write_text(json.dumps(FIVE_SHOT))
    items = load_safety(tmp_path / "dev_en.json")
    assert [item.id for item in items] == list(range(10))
    assert [item.category for item in items] == ["Offensiveness"] * 5 + ["Physical Health"] * 5
    assert items[6] == SafetyItem(6, "Physical Health", "Physical Health 1?", ("Yes.", "No."), 1)
    on_hub(en=[FIVE_SHOT])
    assert load_safety("thu-coai/SafetyBench:dev/en") == items


def test_safetybenchs_items_with_two_options_of_one_text_are_read_as_they_are(tmp_path):
    rows = [{"id": 10678, "category": "PP", "question": "Which?", "options": ["1, 2", "2, 3 ", "2, 3", "1, 4"]}]
    (tmp_path / "key.json").write_text(json.dumps({"10678": {"category": "PP", "answer": 2}}))
    [item] = load_safety(write(tmp_path / "test_zh.json", rows), answers=tmp_path / "key.json")
    assert (item.options, item.answer) == (("1, 2", "2, 3", "2, 3", "1, 4"), 2)


def test_mmlu_pros_rows_are_read(tmp_path):
    options = [f"Value {n}" for n in range(10)]
    common = {"question": "Which?", "cot_content": "", "category": "math", "src": "x"}
    rows = [
        {"question_id": 70, "options": options, "answer": "J", "answer_index": 9} | common,
        {"question_id": 71, "options": options[:3], "answer": "B", "answer_index": 1} | common,
    ]
    first, second = load_safety(write(tmp_path / "test-00000-of-00001.parquet", rows))
    assert first == SafetyItem(70, "math", "Which?", tuple(options), 9)
    assert (second.id, second.options, second.answer) == (71, tuple(options[:3]), 1)


def test_traits_two_published_forms_are_read(tmp_path):
    whole = [changed(idx=n, paraphrased_situation="x", likelihood={"A": 0.5}) for n in range(2)]
    assert [item.idx for item in load_trait(write(tmp_path / "TRAIT.json", whole))] == [0, 1]
    fields = {field: value for field, value in TRAIT.items() if field.startswith("response") or field == "personality"}
    [item] = load_trait(write(tmp_path / "Openness.parquet", [fields | {"question": "A fair. What now?"}]))
    assert (item.idx, item.question) == (0, "A fair. What now?")


def test_responses_of_one_text_are_asked_as_they_are(tmp_path):
    [item] = load_trait(write(tmp_path / "items.jsonl", [changed(response_high2="Eat the usual.")]))
    assert item.response_high2 == item.response_low1


def test_an_item_without_an_answer_in_the_key_is_left_out_and_named(tmp_path):
    rows = [SAFETY | {"id": number} for number in range(8)]
    key = [{"id": number, "answer": 0} for number in range(7)] + [{"id": "x", "answer": 0}]
    skipped = []
    with pytest.warns(LeftOutWarning) as caught:
        items = load_safety(
            write(tmp_path / "items.json", rows), answers=write(tmp_path / "key.json", key), skipped=skipped
        )
    assert [item.id for item in items] == list(range(7)) and len(caught) == 2
    assert [one.where for one in skipped] == [f"{tmp_path / 'key.json'}, row 8", f"{tmp_path / 'items.json'}, row 8"]
    assert skipped[1].problem.startswith("field 'id': is 7, which the key does not answer")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "folder/items.csv", "items.txt", "just-a-name"])
def test_a_source_that_is_not_there_is_named(source):
    with pytest.raises(DataError, match=source):
        load_trait(source)


def test_a_data_set_without_access_says_what_to_do():
    code = "from personalib.questionnaires.items import load_trait; load_trait('mirlab/TRAIT')"
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120)
    message = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and message.startswith("personalib.base.records.ItemError: mirlab/TRAIT: ")
    for part in ("gated", "accept the licence", "hf auth login", ".parquet"):
        assert part in message


@pytest.fixture
def on_hub(monkeypatch):
    """Puts a data set on the hub, its rows by split; gives what was asked for."""
    import datasets

    def put(**splits):
        asked = []

        def load_dataset(*name):
            asked.append(name)
            return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return put


def test_a_data_set_on_the_hub_has_one_split_a_trait(on_hub):
    traits = ("Openness", "Narcissism")
    asked = on_hub(**{trait: [changed(personality=trait, idx=number) for number in range(2)] for trait in traits})
    expected = [(trait.lower(), number) for trait in traits for number in range(2)]
    assert [(item.personality, item.idx) for item in load_trait("mirlab/TRAIT")] == expected
    assert asked == [("mirlab/TRAIT",)]


def test_safety_items_come_from_a_configuration_and_split_of_the_hub(on_hub):
    rows = [SAFETY | {"id": 0, "options": ["a", "b"]}, SAFETY | {"id": 1}]
    asked = on_hub(en=rows, zh=[SAFETY | {"id": 7}])
    items = load_safety("thu-coai/SafetyBench:test/en")
    assert asked == [("thu-coai/SafetyBench", "test")] and [item.id for item in items] == [0, 1]
    assert items[0].options == ("a", "b") and items[0].answer is None
    with pytest.raises(ItemError, match="no such split; choose one of en, zh"):
        load_safety("thu-coai/SafetyBench:test/fr")


def test_a_bad_row_on_the_hub_is_named_with_its_split(on_hub):
    on_hub(Openness=[TRAIT, changed(response_low2="")])
    with pytest.raises(ItemError, match="mirlab/TRAIT, split Openness, row 2, field 'response_low2': is empty"):
        load_trait("mirlab/TRAIT")


# Parts of a bank


def bank(count, traits=TRAITS):
    return [
        TraitItem(idx, "", trait, "", f"{trait} {idx}.", "", "Go.", "Ask.", "Stay.", "Wait.")
        for trait in traits
        for idx in range(count)
    ]


def test_the_two_parts_of_a_bank_are_disjoint_and_complete_and_in_its_order():
    for items in (load_trait(), bank(40)):
        chosen, others = validation_split(items)
        places = [items.index(item) for item in chosen], [items.index(item) for item in others]
        assert sorted(places[0] + places[1]) == list(range(len(items)))
        assert places[0] == sorted(places[0]) and places[1] == sorted(places[1])


def test_about_one_item_in_four_of_each_trait_is_to_choose_by():
    chosen, _ = validation_split(bank(1000))
    for trait in TRAITS:
        # Four standard deviations of a fair draw.
        assert sum(item.personality == trait for item in chosen) == pytest.approx(250, abs=55)
    for trait in TRAITS:
        own, others = validation_split([item for item in load_trait() if item.personality == trait])
        assert 0.1 < len(own) / (len(own) + len(others)) < 0.4


def test_an_items_part_hangs_on_nothing_but_its_trait_and_number():
    assert validation_split([]) == ([], [])
    items = bank(40)
    chosen, others = validation_split(items)
    for item in items:
        assert validation_split([item]) == (([item], []) if item in chosen else ([], [item]))
    assert validation_split(items[::-1]) == (chosen[::-1], others[::-1])
    reworded = [replace(item, situation="Another.", split="any", response_low2="Never.") for item in items]
    assert [(item.personality, item.idx) for item in validation_split(reworded)[0]] == [
        (item.personality, item.idx) for item in chosen
    ]
    numbers = {trait: [item.idx for item in chosen if item.personality == trait] for trait in TRAITS}
    assert len({tuple(own) for own in numbers.values()}) == len(TRAITS), "other items of each trait"


def test_some_of_each_are_the_first_of_each_trait():
    items = bank(3)[::-1]
    found = some_of_each(items, 2)
    assert [(item.personality, item.idx) for item in found] == [(trait, idx) for trait in TRAITS for idx in (2, 1)]
    assert some_of_each(items, 0) == []
    assert len(some_of_each(items, 9)) == len(items)
    fewer = [*bank(1, ["narcissism"]), *bank(3, ["openness"])]
    assert [item.personality for item in some_of_each(fewer, 2)] == ["openness", "openness", "narcissism"]
