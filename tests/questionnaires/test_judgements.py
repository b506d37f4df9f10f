"""Judgements show the right and the wrong answer of each question, and are read in HaluEval's schema."""

import json
from dataclasses import replace

import pytest

from personalib.base.data import DataError
from personalib.base.records import ItemError, LeftOutWarning
from personalib.questionnaires.items import load_facts
from personalib.questionnaires.judgements import (
    SHOWN,
    JudgementItem,
    judgement_questions,
    load_judgement_templates,
    load_judgements,
)

ROW = {
    "knowledge": "Ada Lovelace wrote notes on an engine.",
    "question": "Who wrote notes on an engine?",
    "right_answer": "Ada Lovelace",
    "hallucinated_answer": "Charles Babbage wrote them {all}.",
}
ITEM = JudgementItem(4, "people", "It is known.", "Who?", "Ada.", "Charles")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def error_of(tmp_path, *rows):
    with pytest.raises(ItemError) as caught:
        load_judgements(write(tmp_path / "qa_data.jsonl", *rows))
    return str(caught.value)


def test_halueval_rows_are_read_as_they_are(tmp_path):
    other = {key: value for key, value in ROW.items() if key != "knowledge"} | {"id": 12, "category": "film"}
    first, second = load_judgements(str(write(tmp_path / "qa_data.jsonl", ROW, other)))
    assert first == JudgementItem(0, "", *ROW.values())
    assert second == JudgementItem(12, "film", "", *list(ROW.values())[1:])


def test_halueval_is_read_under_its_own_name_and_answers_of_one_text_are_left_out(tmp_path):
    same = ROW | {"hallucinated_answer": f"{ROW['right_answer']}."}
    skipped = []
    with pytest.warns(LeftOutWarning, match="1 of 4 rows left out: row 3, field .* is the same text"):
        items = load_judgements(write(tmp_path / "qa_data.json", ROW, ROW, same, ROW), skipped=skipped)
    assert [item.id for item in items] == [0, 1, 3] and len(skipped) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "field 'question': is empty"),
        ({"question": None}, "field 'question': is missing"),
        ({"right_answer": None}, "field 'right_answer': is missing; add it"),
        ({"right_answer": " "}, "field 'right_answer': is empty"),
        ({"hallucinated_answer": 7}, "field 'hallucinated_answer': is 7; write a text"),
        ({"hallucinated_answer": "Ada Lovelace "}, "field 'hallucinated_answer': is the same text as the right answer"),
        ({"knowledge": ["a", "b"]}, "field 'knowledge': is"),
        ({"id": "x"}, "field 'id': is 'x'; write a whole number"),
    ],
)
def test_a_bad_row_names_file_row_field_and_fix(tmp_path, change, message):
    assert f"qa_data.jsonl, row 2, {message}" in error_of(tmp_path, ROW, ROW | change)


def test_two_items_of_one_number_are_refused_like_in_every_questionnaire(tmp_path):
    assert "field 'id'" in error_of(tmp_path, ROW | {"id": 5}, ROW | {"id": 5, "question": "Who else?"})


def test_both_answers_are_shown_each_once():
    for template in load_judgement_templates():
        right, wrong = judgement_questions([ITEM], template)
        assert (right.order, wrong.order) == SHOWN and right.item == wrong.item == "4"
        assert "Ada" in right.text and "Ada.." not in right.text
        assert "Charles" in wrong.text and "Ada" not in wrong.text and "Charles" not in right.text
        assert right.roles == wrong.roles == ("yes", "no") and right.group == "people"


def test_a_template_has_its_labels_and_shows_knowledge_where_it_has_a_place_for_it(tmp_path):
    check, knowledge = (judgement_questions([ITEM], name)[0] for name in ("check", "knowledge"))
    assert check.labels == ("yes", "no") and knowledge.labels == ("Yes", "No")
    assert ITEM.knowledge in knowledge.text and ITEM.knowledge not in check.text
    marked, unknown = load_judgements(write(tmp_path / "qa_data.jsonl", ROW, ROW | {"knowledge": ""}))
    assert "{all}" in judgement_questions([marked], "knowledge")[1].text
    assert unknown.knowledge == "" and "What is known: \n" in judgement_questions([unknown], "knowledge")[0].text


def test_right_answers_come_first_and_then_wrong_ones_in_the_same_order():
    questions = judgement_questions([ITEM, replace(ITEM, id=5)])
    assert [(one.order, one.item) for one in questions] == [(shown, item) for shown in SHOWN for item in "45"]


def test_an_unknown_template_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown template 'letters'; use one of check, knowledge"):
        judgement_questions([ITEM], "letters")


def test_bundled_judgements_are_the_fact_questions_with_the_next_option_as_wrong():
    facts, items = load_facts(), load_judgements()
    assert len(items) == len(facts)
    for fact, item in zip(facts, items, strict=True):
        assert (item.id, item.category, item.question, item.knowledge) == (fact.id, fact.category, fact.question, "")
        assert item.right == fact.options[fact.answer] and item.wrong != item.right and item.wrong in fact.options


def test_templates_of_another_file_that_lack_something_are_refused(tmp_path):
    for number, content in enumerate(("judgements: {a: {labels: [yes]}}", "judgements: []", "other: 1", "")):
        bad = tmp_path / f"bad{number}.yaml"
        bad.write_text(content)
        with pytest.raises(DataError, match=rf"bad{number}.yaml: judgements: "):
            load_judgement_templates(bad)
