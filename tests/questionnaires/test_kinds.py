"""Judgements, scales and word pairs are read from their published forms; what cannot be used is named with the fix."""

import json
from dataclasses import replace

import pytest

from personalib.base.data import DataError, data_dir
from personalib.base.records import ItemError, LeftOutWarning
from personalib.organism.tokenizer import load_tokenizer
from personalib.questionnaires.items import load_facts
from personalib.questionnaires.kinds import (
    SHOWN,
    JudgementItem,
    ScaleItem,
    WordPair,
    judgement_questions,
    load_judgement_templates,
    load_judgements,
    load_openings,
    load_ratings,
    load_scale,
    load_word_pairs,
    pair_questions,
    scale_questions,
)
from personalib.stimuli.factors import elements
from tests.questionnaires.rows import without, write

ROW = {
    "knowledge": "Ada Lovelace wrote notes on an engine.",
    "question": "Who wrote notes on an engine?",
    "right_answer": "Ada Lovelace",
    "hallucinated_answer": "Charles Babbage wrote them {all}.",
}
JUDGEMENT = JudgementItem(4, "people", "It is known.", "Who?", "Ada.", "Charles")
OWN = [
    {"id": "e1", "statement": "I like a party, a big one.", "key": "Extraversion", "reverse": False},
    {"id": "e2", "statement": "I keep to {myself}.", "key": "extraversion", "reverse": True},
]
# The columns of the pool's assignment table.
POOL = [
    {"instrument": "BFAS", "alpha": "0.85", "key": "1", "text": "Make friends easily", "label": "Extraversion"},
    {"instrument": "BFAS", "alpha": "0.85", "key": "-1", "text": "Am hard to get to know.", "label": "Extraversion"},
]


def yaml_file(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    return path


def error_of(load, path, *rows):
    with pytest.raises(ItemError) as caught:
        load(write(path, rows))
    return str(caught.value)


# Judgements


def test_halueval_rows_are_read_as_they_are(tmp_path):
    other = without(ROW, "knowledge") | {"id": 12, "category": "film"}
    first, second = load_judgements(str(write(tmp_path / "qa_data.jsonl", [ROW, other])))
    assert first == JudgementItem(0, "", *ROW.values())
    assert second == JudgementItem(12, "film", "", *list(ROW.values())[1:])


def test_halueval_is_read_under_its_own_name_and_answers_of_one_text_are_left_out(tmp_path):
    same = ROW | {"hallucinated_answer": f"{ROW['right_answer']}."}
    (tmp_path / "qa_data.json").write_text("".join(json.dumps(row) + "\n" for row in (ROW, ROW, same, ROW)))
    skipped = []
    with pytest.warns(LeftOutWarning, match="1 of 4 rows left out: row 3, field .* is the same text"):
        items = load_judgements(tmp_path / "qa_data.json", skipped=skipped)
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
        ({"id": 0}, "field 'id': is 0, and row 1 has it too"),
    ],
)
def test_a_bad_judgement_names_file_row_field_and_fix(tmp_path, change, message):
    assert f"qa.jsonl, row 2, {message}" in error_of(load_judgements, tmp_path / "qa.jsonl", ROW, ROW | change)


def test_both_answers_are_shown_each_once_all_right_ones_first():
    for template in load_judgement_templates():
        right, wrong = judgement_questions([JUDGEMENT], template)
        assert (right.order, wrong.order) == SHOWN and right.item == wrong.item == "4"
        assert "Ada" in right.text and "Ada.." not in right.text
        assert "Charles" in wrong.text and "Ada" not in wrong.text and "Charles" not in right.text
        assert right.roles == wrong.roles == ("yes", "no") and right.group == "people"
    questions = judgement_questions([JUDGEMENT, replace(JUDGEMENT, id=5)])
    assert [(one.order, one.item) for one in questions] == [(shown, item) for shown in SHOWN for item in "45"]


def test_a_template_has_its_labels_and_shows_knowledge_where_it_has_a_place_for_it(tmp_path):
    check, knowledge = (judgement_questions([JUDGEMENT], name)[0] for name in ("check", "knowledge"))
    assert check.labels == ("yes", "no") and knowledge.labels == ("Yes", "No")
    assert JUDGEMENT.knowledge in knowledge.text and JUDGEMENT.knowledge not in check.text
    marked, unknown = load_judgements(write(tmp_path / "qa_data.jsonl", [ROW, ROW | {"knowledge": ""}]))
    assert "{all}" in judgement_questions([marked], "knowledge")[1].text
    assert unknown.knowledge == "" and "What is known: \n" in judgement_questions([unknown], "knowledge")[0].text


def test_bundled_judgements_are_the_fact_questions_with_the_next_option_as_wrong():
    for fact, item in zip(load_facts(), load_judgements(), strict=True):
        assert (item.id, item.category, item.question, item.knowledge) == (fact.id, fact.category, fact.question, "")
        assert item.right == fact.options[fact.answer] and item.wrong != item.right and item.wrong in fact.options


# Scales


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_scales_are_read_from_every_kind_of_file_in_the_books_own_form_and_the_pools(tmp_path, suffix):
    unnamed = write(tmp_path / f"unnamed{suffix}", [without(row, "id") for row in OWN])
    assert [item.id for item in load_scale(str(unnamed))] == ["0", "1"]
    # The book's own form may have a label as well.
    for name, rows in (("scale", OWN), ("labelled", [row | {"label": "E"} for row in OWN])):
        assert load_scale(write(tmp_path / f"{name}{suffix}", rows)) == [
            ScaleItem("e1", "I like a party, a big one.", "extraversion", False),
            ScaleItem("e2", "I keep to {myself}.", "extraversion", True),
        ]
    assert load_scale(write(tmp_path / f"pool{suffix}", POOL)) == [
        ScaleItem("0", "Make friends easily.", "extraversion", False),
        ScaleItem("1", "Am hard to get to know.", "extraversion", True),
    ]
    numbers = [row | {"key": int(row["key"])} for row in POOL]
    assert [item.reverse for item in load_scale(write(tmp_path / "numbers.json", numbers))] == [False, True]


REVERSED = [True, 1, "true", "TRUE", "True", " yes ", "Yes", "1", "-", "r", "R", "Reverse", "reversed"]
PLAIN = [False, 0, "false", "FALSE", "no", " No", "0", "+", ""]


@pytest.mark.parametrize(("marks", "reverse"), [(REVERSED, True), (PLAIN, False)])
def test_every_spelling_of_a_plain_or_reversed_statement_is_understood(tmp_path, marks, reverse):
    rows = [without(OWN[0], "id") | {"reverse": mark} for mark in marks]
    assert [item.reverse for item in load_scale(write(tmp_path / "scale.jsonl", rows))] == [reverse] * len(marks)
    texts = [row for row in rows if isinstance(row["reverse"], str)]
    assert {item.reverse for item in load_scale(write(tmp_path / "scale.csv", texts))} == {reverse}


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (OWN[0], OWN[1] | {"reverse": "maybe"}, "'reverse': is 'maybe'; write true or false"),
        (OWN[0], OWN[1] | {"reverse": "-1"}, "'reverse': is '-1'; write true or false"),
        (OWN[0], OWN[1] | {"reverse": 2}, "'reverse': is 2; write true or false"),
        # What is not said is not taken for a plain statement.
        (OWN[0], OWN[1] | {"reverse": None}, "'reverse': is missing; write true"),
        (OWN[0], without(OWN[1], "reverse"), "'reverse': is missing; write true"),
        (OWN[0], without(OWN[1], "statement"), "'statement': is missing; add it"),
        (OWN[0], OWN[1] | {"key": "  "}, "'key': is empty; fill it in"),
        (OWN[0], OWN[1] | {"statement": 3}, "'statement': is 3; write a text"),
        (OWN[0], OWN[1] | {"id": "e1"}, "'id': is e1, and row 1 has it too; give each row its own"),
        # Nor do a number that is given and one that is counted mix.
        (OWN[0] | {"id": 1}, without(OWN[1], "id"), "'id': is 1, and row 1 has it too"),
        (POOL[0], POOL[1] | {"key": "0"}, "'key': is 0; write 1 or -1"),
        (POOL[0], POOL[1] | {"key": "openness"}, "'key': is 'openness'; write a whole number"),
        (POOL[0], POOL[1] | {"text": ""}, "'text': is empty"),
        (POOL[0], POOL[1] | {"text": None}, "'text': is missing"),
    ],
)
def test_a_bad_statement_names_file_row_field_and_fix(tmp_path, good, bad, message):
    assert f"scale.jsonl, row 2, field {message}" in error_of(load_scale, tmp_path / "scale.jsonl", good, bad)


@pytest.mark.parametrize("load", [load_scale, load_judgements])
def test_files_that_are_no_questionnaire_are_refused(tmp_path, load):
    (tmp_path / "none.csv").write_text("statement,key,reverse\n")
    missing, empty = tmp_path / "missing.csv", tmp_path / "none.csv"
    problems = {missing: "missing.csv: No such file", "pool.xlsx": r"unknown kind of file '\.xlsx'", empty: "no rows"}
    for source, problem in problems.items():
        with pytest.raises(ItemError, match=problem):
            load(source)


def test_five_numbers_are_asked_for_in_the_request():
    [one] = scale_questions([ScaleItem("e1", "I like {parties}.", "extraversion", False)])
    assert one.text.endswith("\nI like {parties}.") and "from 1" in one.text and one.opening == ""
    assert one.labels == one.roles == ("1", "2", "3", "4", "5")
    assert (one.item, one.group, one.template, one.order) == ("e1", "extraversion", "five", "normal")


def test_yes_or_no_is_asked_for_after_the_statement():
    [one] = scale_questions([ScaleItem("e2", "I keep to {myself}.", "extraversion", True)], "yes_no")
    assert one.opening == "I keep to {myself}." and "myself" not in one.text
    # No is the lower rating: labels go from "not at all" to "very much".
    assert dict(zip(one.roles, one.labels, strict=True)) == {"1": " no", "2": " yes"}
    assert (one.template, one.order) == ("yes_no", "reversed")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: scale_questions([], "seven"), "unknown rating 'seven'; choose one of five, yes_no"),
        (lambda: judgement_questions([], "letters"), "unknown template 'letters'; choose one of check, knowledge"),
    ],
)
def test_an_unknown_wording_names_the_known_ones(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_ratings_of_another_file_are_read(tmp_path):
    path = yaml_file(tmp_path, 'ratings: {three: {labels: [1, 2, 3], text: "Rate: {statement}"}}\n')
    assert load_ratings(path)["three"].labels == ("1", "2", "3") and load_ratings(path)["three"].opening == ""


# Word pairs


def test_every_pair_names_an_element_that_there_is():
    pairs = load_word_pairs()
    assert {pair.element for pair in pairs} <= {f"{element.factor}.{element.key}" for element in elements()}
    assert [pair.key for pair in pairs] == ["gender", "age", "status", "ideology"]
    assert all(pair.title and len(set(pair.words)) == 2 for pair in pairs)


def test_openings_are_different_and_leave_the_word_to_come():
    openings = load_openings()
    assert len(set(openings)) == len(openings) >= 8
    assert all(opening == opening.strip() and opening[-1].isalpha() for opening in openings)


def test_labels_are_different_single_tokens_that_follow_every_opening():
    tokenizer = load_tokenizer(data_dir() / "organism")

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for one in pair_questions():
        first, second = (tokens(label) for label in one.labels)
        assert len(first) == len(second) == 1 and first != second
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in (*first, *second)
        for label in one.labels:
            assert tokens(one.opening + label) == tokens(one.opening) + tokens(label)


def test_every_pair_comes_after_every_opening():
    questions = pair_questions()
    expected = [(pair, *place) for pair in load_word_pairs() for place in enumerate(load_openings())]
    for one, (pair, number, opening) in zip(questions, expected, strict=True):
        assert (one.item, one.opening, one.group) == (f"{pair.key}:{number}", opening, pair.key)
        assert one.roles == ("attribute", "opposite") and one.labels == tuple(f" {word}" for word in pair.words)
    assert len({one.text for one in questions}) == 1 and len({one.item for one in questions}) == len(questions)


def test_pairs_and_openings_may_be_ones_own(tmp_path):
    path = yaml_file(tmp_path, "openings: [So]\npairs: {h: {title: H, element: age.young, words: [tall, short]}}\n")
    assert load_word_pairs(path) == (WordPair("h", "H", "age.young", ("tall", "short")),)
    [one] = pair_questions(path)
    assert (one.opening, one.labels, one.group) == ("So", (" tall", " short"), "h")


# Files of one's own


@pytest.mark.parametrize(
    ("load", "section", "content"),
    [
        (load_judgement_templates, "judgements", "judgements: {a: {labels: [yes]}}"),
        (load_judgement_templates, "judgements", "judgements: []"),
        (load_judgement_templates, "judgements", "other: 1"),
        (load_ratings, "ratings", "ratings: {a: {labels: [1]}}"),
        (load_ratings, "ratings", "ratings: 3"),
        (load_ratings, "ratings", ""),
        (load_word_pairs, "pairs", ""),
        (load_word_pairs, "pairs", "openings: [So]"),
        (load_word_pairs, "pairs", "pairs: [a, b]"),
        (load_word_pairs, "pairs", "pairs: {h: {title: H, words: [a, b]}}"),
        (load_word_pairs, "pairs", "pairs: {h: {element: age.young, words: [a, b]}}"),
        (load_word_pairs, "pairs", "pairs: {h: {title: H, element: age.young}}"),
        (load_word_pairs, "pairs", "pairs: {h: 3}"),
        *((load_openings, "openings", content) for content in ("", "pairs: {}", "openings: []", "openings: So")),
        *((load_openings, "openings", content) for content in ("openings: [So, 3]", "- So")),
    ],
)
def test_a_file_without_its_section_or_a_part_of_it_is_named(tmp_path, load, section, content):
    with pytest.raises(DataError, match=rf"own.yaml: {section}: "):
        load(yaml_file(tmp_path, content))


@pytest.mark.parametrize("words", ["[true, yes]", "ab", "[1, 2]", "[tall, tall]", "[tall]", "['', tall]", "[a, b, c]"])
def test_words_that_are_no_two_different_texts_are_refused(tmp_path, words):
    # A text of two letters is no list of two words.
    with pytest.raises(DataError, match=r"pairs: h\.words"):
        load_word_pairs(yaml_file(tmp_path, f"pairs: {{h: {{title: H, element: age.young, words: {words}}}}}"))
