"""Sweeps: points and their names, runs in which nothing is done twice or lost, tables as the chapter wrote them."""

import json
import os
import re
from itertools import combinations

import pandas as pd
import pytest
import yaml
from matplotlib.image import imread

from personalib.base.data import DataError, data_dir
from personalib.base.plots import WIDTH
from personalib.book import sweeps
from personalib.book.sweeps import FigurePlan, Point, figure_numbers, load_sweep, outcomes, run_sweep
from personalib.evaluation.engines import LocalEngine, ray_engine

PARAMETERS = """
model: str = "organism"
doses: list[float] = [0.5]
note: str | None = None
level: float = 0.5
seed: int = 0
device: str = "cpu"
"""
# The threads are what sums of numbers are rounded by.
CODE = """
import os
from personalib.base.provenance import results_dir
if model == "bad":
    raise ValueError(f"no such model: {model}")
(results_dir() / "found.csv").write_text(f"x,y,threads\\n1,{seed / 3!r},{os.environ.get('OMP_NUM_THREADS')}\\n")
"""


@pytest.fixture
def declare(write_notebook, tmp_path):
    """Writes a sweep of a tiny chapter, as YAML or as values, and reads it."""
    notebook = write_notebook(CODE, parameters=PARAMETERS)

    def write(text="{}", **plan):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({"chapter": str(notebook), **yaml.safe_load(text), **plan}, sort_keys=False))
        return load_sweep(path)

    return write


def names(sweep):
    return [point.name for point in sweep.points]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(sweep, folder):
    return [outcome.state for outcome in outcomes(sweep, folder)]


# Declarations


def test_points_are_all_combinations_in_order_with_what_is_fixed(declare):
    sweep = declare("{vary: {model: [organism, gpt2], seed: [0, 1, 2]}, fixed: {level: 1}}")
    assert names(sweep) == [f"model={model},seed={seed}" for model in ("organism", "gpt2") for seed in range(3)]
    assert sweep.points[4].varied == {"model": "gpt2", "seed": 1}
    assert sweep.points[4].parameters == {"model": "gpt2", "seed": 1, "level": 1.0}
    assert isinstance(sweep.points[0].parameters["level"], float), "in the declared type"


def test_a_list_is_one_value(declare):
    sweep = declare("vary: {doses: [[0.5], [0.5, 1]]}")
    assert [point.varied["doses"] for point in sweep.points] == [[0.5], [0.5, 1.0]]
    assert len(set(names(sweep))) == 2 and all(name.startswith("doses=_0.5") for name in names(sweep))


def test_distinct_points_have_distinct_safe_names_whatever_their_values():
    values = [0, 1, -1, 1.0, 1e-5, 1e300, float("inf"), True, False, None, "", "1", "1.0", "true", "null", "a", "A"]
    values += ["a b", "a_b", "a/b", "..", "../a", "a,b=c", "ä", "x" * 300, "x" * 301, "1_", "a~b", "con\n", "-", "e"]
    values += [[1], [1, 2], ["1"], [], [[1]], [True], {"a": 1}]
    found = [Point({"value": value}, {}).name for value in values]
    for one, other in combinations(found, 2):
        assert one.lower() != other.lower(), "on file systems that do not tell case apart either"
    for name in found:
        assert re.fullmatch(r"value=[A-Za-z0-9_.+=,~-]*", name) and len(name) < 120
    assert Point({"a": "b,c=d"}, {}).name != Point({"a": "b", "c": "d"}, {}).name


def test_a_model_that_lies_here_is_found_by_the_chapter_too(declare, tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sweep = declare("{vary: {model: [models/mine, models/other]}, fixed: {note: 'None'}}")
    assert [point.varied["model"] for point in sweep.points] == [str(tmp_path / "models" / "mine"), "models/other"]
    assert sweep.points[0].parameters["note"] == "None", "text in quotes stays text"


def test_a_notebook_is_looked_for_beside_the_sweep_and_then_here(tmp_path, write_notebook, monkeypatch):
    (tmp_path / "mine").mkdir()
    here = write_notebook("1", parameters="seed: int = 0", name="tiny", folder=tmp_path / "here")
    source = tmp_path / "mine" / "sweep.yaml"
    source.write_text("{chapter: tiny.ipynb, vary: {seed: [1]}}")
    monkeypatch.chdir(here.parent)
    assert load_sweep(source).chapter.path.resolve() == here
    beside = write_notebook("2", parameters="seed: int = 0", name="tiny", folder=tmp_path / "mine")
    assert load_sweep(source).chapter.path == beside
    monkeypatch.chdir(tmp_path)
    assert load_sweep("mine/sweep.yaml").chapter.path.resolve() == beside


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vary: {sed: [1]}", "vary.sed: 01_tiny: no parameter 'sed'; did you mean 'seed'?"),
        ("{vary: {seed: [1]}, fixed: {pairs: 1}}", "fixed.pairs: 01_tiny: no parameter 'pairs'; it has model, doses"),
        ("vary: {seed: [0, one]}", "vary.seed: 01_tiny: parameter 'seed' is int (default 0), not 'one'"),
        ("vary: {doses: [0.5]}", "vary.doses: 01_tiny: parameter 'doses' is list[float] (default [0.5]), not 0.5"),
        ("vary: {api_key: [a]}", "vary.api_key: 01_tiny: parameter 'api_key' looks like a secret"),
        ("{vary: {seed: [1]}, fixed: {hub_token: a}}", "fixed.hub_token: 01_tiny: parameter 'hub_token' looks like a"),
        ("vary: {level: [1, 2, 1.0]}", "vary.level: 1.0 is there twice; remove one"),
        ("vary: {seed: []}", "vary.seed: it is empty; give at least one"),
        ("vary: {seed: 1}", "vary.seed: give a list of values, also where it is one"),
        ("vary: {}", "vary: it is empty; give at least one"),
        ("fixed: {seed: 1}", "vary: is missing"),
        ("{vary: {seed: [1]}, fixd: {}}", "fixd: there is no such field; remove it, or correct its name"),
        ("{vary: {seed: [1]}, fixed: {seed: 1}}", "fixed.seed: it varies, too"),
        ("{vary: {seed: [1]}, show: {table: b, x: c}}", "show.y: is missing"),
        ("{vary: {seed: [1]}, chapter: 99_none}", "99_none.ipynb: no such notebook"),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_file_key_and_fix(declare, text, problem):
    with pytest.raises(DataError, match=f"tiny.yaml: .*{re.escape(problem)}"):
        declare(text)


def test_a_file_that_holds_no_sweep_is_one_error(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(DataError, match=r"empty.yaml: it: .*dictionary"):
        load_sweep(tmp_path / "empty.yaml")
    with pytest.raises(DataError, match=r"nowhere: no such sweep; pass a YAML file, or one of .*contrast_pairs"):
        load_sweep("nowhere")


@pytest.mark.parametrize("path", sorted((data_dir() / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_books_sweeps_fit_their_chapters(path):
    sweep = load_sweep(path.stem)
    assert sweep.name == path.stem and 1 < len(sweep.points) <= 9
    assert len(set(names(sweep))) == len(sweep.points)
    assert sweep.plan.show


# Runs


class Meanwhile(LocalEngine):
    """Does jobs here, and knows which, and whether with a GPU; something may happen before or after."""

    def __init__(self, before=None, after=None):
        vars(self).update(before=before, after=after)

    def run(self, start, jobs, gpu=False):
        vars(self).update(names=[], gpu=gpu)
        if self.before:
            jobs = list(jobs)
            self.before()
        for name, result in super().run(start, jobs):
            self.names.append(name)
            yield name, result
        if self.after:
            self.after()


def test_a_failing_point_stops_no_other_and_what_is_done_is_not_run_again(declare, tmp_path, small_data):
    sweep, folder, engine = declare(vary={"model": ["bad", "good"], "seed": [1]}), tmp_path / "out", Meanwhile()
    assert states(sweep, folder) == ["to do", "to do"] and not folder.exists()
    bad, good = run_sweep(sweep, folder, engine)

    assert bad.state == "failed" and good.state == "done" and states(sweep, folder) == ["failed", "done"]
    assert bad.failure == "01_tiny: cell 3 (Does it run?) failed: ValueError: no such model: bad"
    assert "no such model" in (bad.folder / "01_tiny.failed.ipynb").read_text()
    assert set(files(bad.folder)) == {"01_tiny.failed.ipynb"} and bad.folder.name == "model=bad,seed=1"
    done = folder / "points" / "model=good,seed=1"
    assert set(files(done)) == {"01_tiny.ipynb", "01_tiny.manifest.json", "results/01_tiny/found.csv"}
    assert json.loads((done / "01_tiny.manifest.json").read_text())["parameters"]["model"] == "good"
    table = (folder / "tables" / "found.csv").read_text()
    assert table == f"model,seed,x,y,threads\ngood,1,1,{1 / 3!r},{os.environ.get('OMP_NUM_THREADS')}\n"
    header, first, second = (folder / "points.csv").read_text().splitlines()
    assert header == "model,seed,state,seconds,failure,folder"
    assert first == f'bad,1,failed,,{bad.failure},"points/model=bad,seed=1"', "nothing names a folder of this machine"
    assert re.fullmatch(r'good,1,done,[\d.]+,,"points/model=good,seed=1"', second)

    more = declare(vary={"model": ["good"], "seed": [1, 2]})
    run_sweep(more, folder, engine)
    assert engine.names == ["model=good,seed=2"] and engine.gpu is False
    assert (folder / "tables" / "found.csv").read_text().count("\n") == 3

    (folder / "tables" / "stale.csv").write_text("x\n")
    run_sweep(more, folder, engine)
    assert engine.names == [] and [path.name for path in (folder / "tables").iterdir()] == ["found.csv"]
    (done / "results" / "01_tiny" / "found.csv").write_text("tampered")
    assert states(more, folder) == ["to do", "done"]


def test_a_run_that_was_ended_loses_only_the_point_under_way(declare, tmp_path, small_data):
    folder, engine = tmp_path / "out", Meanwhile()
    run_sweep(declare(vary={"seed": [0]}), folder)
    # What a process leaves that is killed while it writes: no manifest.
    half = folder / "points" / "seed=1"
    half.mkdir()
    (half / "01_tiny.ipynb").write_text("{}")
    sweep = declare(vary={"seed": [0, 1, 2]})
    assert states(sweep, folder) == ["done", "to do", "to do"]

    before = files(folder / "points" / "seed=0")
    run_sweep(sweep, folder, engine)
    assert engine.names == ["seed=1", "seed=2"] and files(folder / "points" / "seed=0") == before
    assert (folder / "tables" / "found.csv").read_text().count("\n") == 4


def test_a_second_process_is_refused(declare, tmp_path, small_data):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"
    with pytest.raises(DataError, match="out: another process runs a sweep here; wait for its end"):
        run_sweep(sweep, folder, Meanwhile(before=lambda: run_sweep(sweep, folder)))


def test_what_was_made_of_an_input_that_changed_meanwhile_is_not_in_the_tables(declare, tmp_path, small_data):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"
    [outcome] = run_sweep(sweep, folder, Meanwhile(after=lambda: (small_data / "numbers.csv").write_text("2\n")))
    assert outcome.failure == "an input was changed while points were run; run it again"
    assert states(sweep, folder) == ["to do"] and not (folder / "tables").exists()


@pytest.mark.parametrize("lacks", ["data", "notebook"])
def test_a_worker_with_other_inputs_is_refused(declare, tmp_path, small_data, lacks):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"

    def change():
        if lacks == "data":
            (small_data / "numbers.csv").write_text("2\n")
        else:
            sweep.chapter.path.unlink()

    with pytest.raises(DataError, match="a worker has another version of the notebook, of personalib, of its data"):
        run_sweep(sweep, folder, Meanwhile(before=change))
    assert not list((folder / "points").glob("*"))


def test_a_gpu_is_asked_for_where_a_point_names_one(declare, tmp_path, small_data):
    engine = Meanwhile()
    run_sweep(declare(vary={"device": ["cpu", "cuda:0"]}, fixed={"model": "bad"}), tmp_path / "out", engine)
    assert engine.gpu is True


def test_a_cluster_finds_the_same_bytes_and_tells_of_failures_alike(declare, tmp_path, monkeypatch, small_data):
    """Ray itself sets the number of threads of its workers; what counts is that of the caller."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    sweep = declare(vary={"model": ["good", "bad"], "seed": [1]})
    here, there = run_sweep(sweep, tmp_path / "here"), run_sweep(sweep, tmp_path / "there", ray_engine())
    assert [one.state for one in there] == [one.state for one in here] == ["done", "failed"]
    assert there[1].failure == here[1].failure
    same = "points/model=good,seed=1/results/01_tiny/found.csv"
    one, other = files(tmp_path / "here"), files(tmp_path / "there")
    assert set(one) == set(other) and one[same] == other[same]
    assert one["tables/found.csv"] == other["tables/found.csv"] and b",2\n" in other["tables/found.csv"]


# Tables and figures


@pytest.fixture
def finish(declare, tmp_path, small_data, monkeypatch):
    """Runs a sweep whose points leave the given files, by name as text, or fail where there are none."""

    def run(results, **plan):
        sweep = declare(**{"vary": {"model": ["a", "b"], "seed": list(range(len(results) // 2))}} | plan)
        left = dict(zip(names(sweep), results, strict=True))

        def products(*_):
            for name, made in left.items():
                texts = {f"results/01_tiny/{file}": text.encode() for file, text in (made or {}).items()}
                yield name, ({"01_tiny.failed.ipynb": b""} if made is None else texts, "no" if made is None else "")

        def finished(notebook, parameters, place):
            done = type("Run", (), {"name": "01_tiny", "manifest": {"seconds": 1.5}})
            return done if (place / "results").is_dir() else None

        monkeypatch.setattr(sweeps, "_products", products)
        monkeypatch.setattr(sweeps, "read_run", finished)
        run_sweep(sweep, tmp_path / "out")
        return tmp_path / "out"

    return run


def test_rows_are_in_the_order_of_the_points_and_values_as_they_were_written(finish):
    found = [{"t.csv": "x,y\n0.10,nan\n1e-3,\n"}, {"t.csv": "x,y\nNA,True\n"}]
    folder = finish(found, vary={"model": ["a", "b,c"], "seed": [7]})
    lines = (folder / "tables" / "t.csv").read_text().splitlines()
    assert lines == ["model,seed,x,y", "a,7,0.10,nan", "a,7,1e-3,", '"b,c",7,NA,True']


def test_a_column_with_a_parameters_name_keeps_it(finish):
    folder = finish([{"t.csv": "z,seed\n5,1\n"}, {"t.csv": "z,y\n6,2\n"}])
    lines = (folder / "tables" / "t.csv").read_text().splitlines()
    assert lines == ["model,parameter.seed,z,seed,y", "a,0,5,1,", "b,0,6,,2"]
    folder = finish([{"t.csv": "seed,parameter.seed\n5,1\n"}] * 2)
    lines = (folder / "tables" / "t.csv").read_text().splitlines()
    assert lines == ["model,parameter.seed,seed,parameter.seed", "a,0,5,1", "b,0,5,1"]


SHOWN = {"table": "u", "x": "x", "y": "x"}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [({}, ["sub/t", "u"]), ({"collect": ["u"]}, ["u"]), ({"collect": ["sub/t"], "show": SHOWN}, ["sub/t", "u"])],
)
def test_what_is_collected_is_all_or_what_is_named(finish, plan, expected):
    made = {"sub/t.csv": "x\n1\n", "u.csv": "x\n2\n", "picture.png": ""}
    assert sorted(files(finish([made, made], **plan) / "tables")) == [f"{name}.csv" for name in expected]


def test_the_tables_hold_what_did_not_fail(finish):
    show = {"table": "t", "x": "x", "y": "x"}
    folder = finish([None, {"t.csv": "x\n1\n"}], collect=["t"], show=show)
    assert (folder / "tables" / "t.csv").read_text() == "model,seed,x\nb,0,1\n"
    finish([None, None], collect=["t"], show=show)
    assert [path.name for path in folder.glob("*.csv")] == ["points.csv"] and not (folder / "tables").exists()


@pytest.mark.parametrize(
    ("text", "plan", "problem"),
    [
        ("x\n1\n", {"collect": ["u"]}, "tiny: the chapter has no result 'u', but sub/t, t; correct collect or show"),
        ("x\n1\n", {"show": {"table": "u", "x": "x", "y": "x"}}, "has no result 'u', but sub/t, t"),
        ("", {}, "t.csv: not a table: No columns"),
        ("x\n1\n", {"show": {"table": "t", "x": "x", "y": "z"}}, "show.y: 't' has no column 'z', but model, seed, x"),
        ("x\n1\n", {"show": {"table": "t", "x": "x", "y": "x", "where": {"w": 1}}}, "show.where.w: 't' has no column"),
        ("x\n1\n", {"show": {"table": "t", "x": "x", "y": "x", "where": {"x": 2}}}, "show.where: no row of 't' has"),
        ("x\n1\n", {"show": {"table": "t", "x": "x", "y": "model"}}, "show.y: 'model' of 't' has no numbers"),
    ],
)
def test_what_cannot_be_collected_or_shown_is_one_error(finish, text, plan, problem):
    with pytest.raises(DataError, match=f"^tiny: .*{re.escape(problem.removeprefix('tiny: '))}"):
        finish([{"t.csv": text, "sub/t.csv": text}] * 2, **plan)


def test_the_spread_is_that_of_what_is_averaged_over():
    """Two rows a seed: their mean is the seed's value, and the deviation is between seeds."""
    rows = [
        (seed, 1.0, 10 * seed + row, kept) for seed in (1, 2, 3) for row, kept in ((0, True), (2, True), (99, False))
    ]
    table = pd.DataFrame(rows, columns=["seed", "x", "y", "kept"])
    plan = FigurePlan(table="t", x="x", y="y", over="seed", where={"kept": True, "x": 1})
    [row] = figure_numbers(table, plan).to_dict("records")
    assert row == {"x": 1.0, "kind": "", "value": 21.0, "low": 11.0, "high": 31.0, "n": 3}
    [row] = figure_numbers(table, plan.model_copy(update={"over": None})).to_dict("records")
    assert row["n"] == 6 and row["value"] == 21.0 and row["low"] > 11.0


def test_one_value_has_no_spread_and_what_is_not_measured_is_left_out():
    table = pd.DataFrame({"x": [2, 1], "y": [None, 5.0], "by": ["b", "a"]})
    [row] = figure_numbers(table, FigurePlan(table="t", x="x", y="y", by="by")).to_dict("records")
    assert row == {"x": 1.0, "kind": "a", "value": 5.0, "low": 5.0, "high": 5.0, "n": 1}


@pytest.mark.parametrize(("values", "inches"), [(("1", "2"), 4.0), (("calm", "loud"), 1.84)])
def test_numbers_make_lines_and_words_make_rows(finish, values, inches):
    show = {"table": "t", "x": "x", "y": "y", "by": "model", "over": "seed"}
    folder = finish([{"t.csv": f"x,y\n{values[0]},3\n{values[1]},4\n"}] * 4, show=show)
    height, width, _ = imread(folder / "figures" / "t.png").shape
    assert height / width == pytest.approx(inches / WIDTH, rel=0.01)
    assert pd.read_csv(folder / "figures" / "t.csv")["n"].tolist() == [2] * 4
