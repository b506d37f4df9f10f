"""A row that cannot be used costs that row and is named; a file of such rows is refused."""

import warnings

import pytest

from personalib.base.records import ItemError, LeftOutWarning, Record, Skipped, leave_out, parse_records


def rows(*odd, count=10):
    return [Record(f"a.csv, row {n}", {"id": "x" if n in odd else n, "text": "t"}) for n in range(1, count + 1)]


def parsed(records, skipped=None):
    return parse_records("a.csv", records, lambda one, _: one.integer("id"), lambda own: own, "id", skipped)


def test_rows_that_can_all_be_used_are_not_spoken_of():
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parsed(rows(), skipped) == list(range(1, 11))
    assert skipped == []


def test_an_odd_row_costs_that_row_and_is_named():
    skipped = []
    with pytest.warns(LeftOutWarning) as caught:
        assert parsed(rows(3), skipped) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    problem = "field 'id': is 'x'; write a whole number"
    assert skipped == [Skipped("a.csv, row 3", problem)]
    assert [str(one.message) for one in caught] == [f"a.csv: 1 of 10 rows left out: row 3, {problem}"]
    assert caught[0].filename == __file__ or "test_records" in caught[0].filename


def test_a_message_names_some_rows_and_the_list_has_all():
    skipped = []
    with pytest.warns(LeftOutWarning, match=r"4 of 10 rows left out: row 1, .*; row 2, .*; row 3, .*; and 1 more$"):
        parsed(rows(1, 2, 3, 4), skipped)
    assert [one.where for one in skipped] == [f"a.csv, row {n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("odd", [5, 6, 10])
def test_a_file_of_which_half_the_rows_are_odd_is_refused(odd):
    message = rf"^a\.csv, row 1, field 'id': is 'x'; write a whole number \({odd} of 10 rows cannot be used\)$"
    with pytest.raises(ItemError, match=message):
        parsed(rows(*range(1, odd + 1)))


def test_a_file_without_the_wanted_columns_says_which_there_are():
    with pytest.raises(ItemError, match=r"row 1, field 'id': is missing; .*\(there are: number, text\) \(2 of 2 rows"):
        parsed([Record(f"a.csv, row {n}", {"number": n, "text": "t"}) for n in (1, 2)])


def test_the_second_of_two_rows_of_one_key_is_left_out():
    records = [*rows(count=4), Record("a.csv, row 5", {"id": 2})]
    with pytest.warns(LeftOutWarning, match="row 5, field 'id': is 2, and row 2 has it too; give each row its own"):
        assert parsed(records) == [1, 2, 3, 4]


def test_a_row_that_cannot_be_read_is_left_out_by_its_problem():
    skipped = []
    with pytest.warns(LeftOutWarning):
        parsed([*rows(count=4), Record("a.csv, row 5", {}, "has more cells")], skipped)
    assert skipped == [Skipped("a.csv, row 5", "has more cells")]


def test_what_is_counted_may_be_other_than_rows():
    with pytest.warns(LeftOutWarning, match="1 of 9 items left out"):
        leave_out("a.csv", [Skipped("a.csv, item 3", "odd")], 9, None, "items")
