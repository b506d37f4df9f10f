"""Tables of sweeps: every cell as the chapter wrote it, beside the parameters; figures of means and spreads."""

import pandas as pd
import pytest
from matplotlib.image import imread

from personalib.base.data import DataError
from personalib.base.plots import WIDTH
from personalib.book.sweep_tables import Outcome, figure_numbers, write_tables
from personalib.book.sweeps import FigurePlan, parse_sweep


@pytest.fixture
def finish(write_notebook, tmp_path):
    """Puts results into the folders of a sweep's points, as text by file, and has the tables written."""
    notebook = write_notebook("1", parameters="model: str = 'a'\nseed: int = 0")
    folder = tmp_path / "out"

    def write(results, failures=None, **plan):
        content = {"chapter": str(notebook), "vary": {"model": ["a", "b"], "seed": list(range(len(results) // 2))}}
        sweep = parse_sweep(content | plan, "tiny")
        outcomes = []
        for point, files in zip(sweep.points, results, strict=True):
            place = folder / "points" / point.name
            (place / "results").mkdir(parents=True)
            for name, text in (files or {}).items():
                path = place / "results" / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            done = (place / "results", 1.5, None) if files is not None else (None, None, "cell 2 failed: no")
            outcomes.append(Outcome(point, place, *done))
        write_tables(sweep, outcomes, folder)
        return folder

    return write


def test_rows_are_in_the_order_of_the_points_and_values_as_they_were_written(finish):
    folder = finish(
        [{"t.csv": "x,y\n0.10,nan\n1e-3,\n"}, {"t.csv": "x,y\nNA,True\n"}], vary={"model": ["a", "b,c"], "seed": [7]}
    )
    assert (folder / "tables" / "t.csv").read_text().splitlines() == [
        "model,seed,x,y",
        "a,7,0.10,nan",
        "a,7,1e-3,",
        '"b,c",7,NA,True',
    ]


def test_a_column_with_a_parameters_name_keeps_it(finish):
    folder = finish([{"t.csv": ",seed\n5,1\n"}, {"t.csv": ",y\n6,2\n"}])
    assert (folder / "tables" / "t.csv").read_text().splitlines() == [
        "model,parameter.seed,,seed,y",
        "a,0,5,1,",
        "b,0,6,,2",
    ]


def test_what_is_collected_is_all_or_what_is_named(finish, tmp_path):
    files = {"t.csv": "x\n1\n", "u.csv": "x\n2\n", "picture.png": ""}
    assert sorted(path.name for path in (finish([files, files]) / "tables").iterdir()) == ["t.csv", "u.csv"]


def test_only_what_is_named_is_collected(finish):
    files = {"t.csv": "x\n1\n", "u.csv": "x\n2\n"}
    assert [path.name for path in (finish([files, files], collect=["u"]) / "tables").iterdir()] == ["u.csv"]


def test_results_in_folders_are_named_as_they_are_collected(finish):
    files = {"sub/t.csv": "x\n1\n", "t.csv": "x\n1\n"}
    with pytest.raises(DataError, match="has no result 'u', but sub/t, t; correct"):
        finish([files, files], collect=["u"])


def test_what_the_error_names_can_be_collected(finish):
    files = {"sub/t.csv": "x\n1\n"}
    assert (finish([files, files], collect=["sub/t"]) / "tables" / "sub" / "t.csv").is_file()


def test_a_failed_point_is_told_of_and_the_tables_hold_the_others(finish):
    folder = finish([None, {"t.csv": "x\n1\n"}], collect=["t"])
    assert (folder / "tables" / "t.csv").read_text() == "model,seed,x\nb,0,1\n"
    assert (folder / "points.csv").read_text().splitlines() == [
        "model,seed,state,seconds,folder,failure",
        'a,0,failed,,"points/model=a,seed=0",cell 2 failed: no',
        'b,0,done,1.5,"points/model=b,seed=0",',
    ]


def test_where_all_points_failed_there_are_no_tables_and_no_error(finish):
    show = {"table": "t", "x": "x", "y": "y"}
    folder = finish([None, None], collect=["t"], show=show)
    assert [path.name for path in folder.glob("*.csv")] == ["points.csv"] and not (folder / "tables").exists()


@pytest.mark.parametrize(
    ("text", "plan", "problem"),
    [
        ("x\n1\n", {"collect": ["u"]}, "tiny: chapter 01_tiny has no result 'u', but t; correct collect or show"),
        ("x\n1\n", {"show": {"table": "u", "x": "x", "y": "x"}}, "has no result 'u', but t"),
        ("x,x\n1,2\n", {}, "t.csv: not a table; give each column a name of its own"),
        ("x,y\n1\n", {}, "t.csv: not a table"),
        (
            "x\n1\n",
            {"show": {"table": "t", "x": "x", "y": "z"}},
            "tiny: show.y: 't' has no column 'z', but model, seed, x",
        ),
        (
            "x\n1\n",
            {"show": {"table": "t", "x": "x", "y": "x", "where": {"w": 1}}},
            "show.where.w: 't' has no column 'w'",
        ),
        (
            "x\n1\n",
            {"show": {"table": "t", "x": "x", "y": "x", "where": {"x": 2}}},
            "show.where: no row of 't' has these",
        ),
        ("x\n1\n", {"show": {"table": "t", "x": "x", "y": "model"}}, "show.y: 'model' of 't' has no numbers"),
    ],
)
def test_what_cannot_be_collected_or_shown_is_one_error(finish, text, plan, problem):
    with pytest.raises(DataError) as caught:
        finish([{"t.csv": text}] * 2, **plan)
    assert problem in str(caught.value)


def test_the_spread_is_that_of_what_is_averaged_over():
    """Two rows a seed: their mean is the seed's value, and the deviation is between seeds."""
    rows = [
        [str(seed), "1.0", str(10 * seed + row), kept]
        for seed in (1, 2, 3)
        for row, kept in ((0, "True"), (2, "True"), (99, "False"))
    ]
    table = pd.DataFrame(rows, columns=["seed", "x", "y", "kept"])
    plan = FigurePlan(table="t", x="x", y="y", over="seed", where={"kept": True, "x": 1})
    [row] = figure_numbers(table, plan).to_dict("records")
    assert row == {"x": 1.0, "kind": "", "value": 21.0, "low": 11.0, "high": 31.0, "n": 3}
    [row] = figure_numbers(table, plan.model_copy(update={"over": None})).to_dict("records")
    assert row["n"] == 6 and row["value"] == 21.0 and row["low"] > 11.0


def test_one_value_has_no_spread_and_what_is_not_measured_is_left_out():
    table = pd.DataFrame({"x": ["2", "1"], "y": ["", "5"], "by": ["b", "a"]})
    [row] = figure_numbers(table, FigurePlan(table="t", x="x", y="y", by="by")).to_dict("records")
    assert row == {"x": 1.0, "kind": "a", "value": 5.0, "low": 5.0, "high": 5.0, "n": 1}


@pytest.mark.parametrize(("values", "inches"), [(("1", "2"), 4.0), (("calm", "loud"), 1.84)])
def test_numbers_make_lines_and_words_make_rows(finish, values, inches):
    text = f"x,y\n{values[0]},3\n{values[1]},4\n"
    show = {"table": "t", "x": "x", "y": "y", "by": "model", "over": "seed"}
    folder = finish([{"t.csv": text}] * 4, show=show)
    height, width, _ = imread(folder / "figures" / "t.png").shape
    assert height / width == pytest.approx(inches / WIDTH, rel=0.01)
    assert pd.read_csv(folder / "figures" / "t.csv")["n"].tolist() == [2] * 4
