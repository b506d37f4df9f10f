"""Scales are read from the book's own form and the pool's; a bad row is named with its file, row, field and fix."""

import csv
import json

import pytest

from personalib.base.data import DataError
from personalib.base.records import ItemError
from personalib.questionnaires.scales import ScaleItem, load_ratings, load_scale, scale_questions

OWN = [
    {"id": "e1", "statement": "I like a party, a big one.", "key": "Extraversion", "reverse": False},
    {"id": "e2", "statement": "I keep to {myself}.", "key": "extraversion", "reverse": True},
]
# The columns of the pool's assignment table.
POOL = [
    {"instrument": "BFAS", "alpha": "0.85", "key": "1", "text": "Make friends easily", "label": "Extraversion"},
    {"instrument": "BFAS", "alpha": "0.85", "key": "-1", "text": "Am hard to get to know.", "label": "Extraversion"},
]


def write(path, rows):
    """The rows in the format the path's name says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def without(row, *fields):
    return {key: value for key, value in row.items() if key not in fields}


def error_of(tmp_path, *rows, name="scale.jsonl"):
    with pytest.raises(ItemError) as caught:
        load_scale(write(tmp_path / name, rows))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_the_books_own_form_is_read_from_every_kind_of_file(tmp_path, suffix):
    unnamed = write(tmp_path / f"unnamed{suffix}", [without(row, "id") for row in OWN])
    assert [item.id for item in load_scale(str(unnamed))] == ["0", "1"]
    assert load_scale(write(tmp_path / f"scale{suffix}", OWN)) == [
        ScaleItem("e1", "I like a party, a big one.", "extraversion", False),
        ScaleItem("e2", "I keep to {myself}.", "extraversion", True),
    ]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_the_pools_table_is_read_as_it_is(tmp_path, suffix):
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


@pytest.mark.parametrize("mark", ["maybe", "-1", 2, "x"])
def test_another_mark_is_refused_with_row_field_and_fix(tmp_path, mark):
    message = error_of(tmp_path, OWN[0], OWN[1] | {"reverse": mark})
    assert "scale.jsonl, row 2, field 'reverse'" in message and repr(mark) in message and "true or false" in message


@pytest.mark.parametrize("row", [without(OWN[1], "reverse"), OWN[1] | {"reverse": None}])
def test_a_missing_mark_is_not_taken_for_a_plain_statement(tmp_path, row):
    message = error_of(tmp_path, OWN[0], row)
    assert "row 2, field 'reverse': is missing; write true" in message


@pytest.mark.parametrize("field", ["statement", "key"])
def test_a_row_without_a_text_names_row_field_and_fix(tmp_path, field):
    assert f"row 1, field {field!r}: is missing; add it" in error_of(tmp_path, without(OWN[0], field))
    assert f"row 1, field {field!r}: is empty; fill it in" in error_of(tmp_path, OWN[0] | {field: "  "})
    assert f"row 1, field {field!r}: is 3; write a text" in error_of(tmp_path, OWN[0] | {field: 3})


def test_two_statements_of_one_name_are_refused(tmp_path):
    message = error_of(tmp_path, OWN[0], OWN[1] | {"id": "e1"})
    assert "row 2, field 'id': is e1, and row 1 has it too; give each row its own" in message
    # nor do a number that is given and one that is counted mix
    assert "field 'id': is 1, and row 1 has it too" in error_of(tmp_path, OWN[0] | {"id": 1}, without(OWN[1], "id"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "0"}, "field 'key': is 0; write 1 or -1"),
        ({"key": "openness"}, "field 'key': is 'openness'; write a whole number"),
        ({"text": ""}, "field 'text': is empty"),
        ({"text": None}, "field 'text': is missing"),
    ],
)
def test_a_bad_row_of_the_pool_names_row_field_and_fix(tmp_path, change, message):
    assert f"row 2, {message}" in error_of(tmp_path, POOL[0], POOL[1] | change)


def test_files_that_are_no_scale_are_refused(tmp_path):
    with pytest.raises(ItemError, match=r"missing.csv: No such file"):
        load_scale(tmp_path / "missing.csv")
    with pytest.raises(ItemError, match=r"unknown kind of file '\.xlsx'; use one of"):
        load_scale("pool.xlsx")
    (tmp_path / "none.csv").write_text("statement,key,reverse\n")
    with pytest.raises(ItemError, match="holds no rows"):
        load_scale(tmp_path / "none.csv")


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


def test_an_unknown_rating_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown rating 'seven'; use one of five, yes_no"):
        scale_questions([], "seven")


def test_ratings_of_another_file_are_read_and_bad_ones_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('ratings: {three: {labels: [1, 2, 3], text: "Rate: {statement}"}}\n')
    assert load_ratings(path)["three"].labels == ("1", "2", "3") and load_ratings(path)["three"].opening == ""
    for number, content in enumerate(("ratings: {a: {labels: [1]}}", "ratings: 3", "other: {}", "")):
        bad = tmp_path / f"bad{number}.yaml"
        bad.write_text(content)
        with pytest.raises(DataError, match=rf"bad{number}.yaml: ratings: "):
            load_ratings(bad)
