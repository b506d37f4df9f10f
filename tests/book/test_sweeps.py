"""Declarations of sweeps: their points and the points' names, and one error for what does not fit the chapter."""

import re
from itertools import combinations

import pytest

from personalib.base.data import DataError, data_dir, parse_yaml
from personalib.book.sweeps import Point, load_sweep, parse_sweep

PARAMETERS = """
model: str = "organism"
doses: list[float] = [0.5]
note: str | None = None
anything: Any = 0
level: float = 0.5
seed: int = 0
"""


@pytest.fixture
def declare(write_notebook):
    """Reads a sweep of a tiny chapter from YAML."""
    notebook = write_notebook("1", parameters=PARAMETERS)

    def read(text):
        return parse_sweep({"chapter": str(notebook), **parse_yaml(text, "tiny.yaml")}, "tiny", "tiny.yaml")

    return read


def names(sweep):
    return [point.name for point in sweep.points]


def test_points_are_all_combinations_in_order_with_what_is_fixed(declare):
    sweep = declare("{vary: {model: [organism, gpt2], seed: [0, 1, 2]}, fixed: {level: 1}}")
    assert names(sweep) == [f"model={model},seed={seed}" for model in ("organism", "gpt2") for seed in range(3)]
    assert sweep.points[4].varied == {"model": "gpt2", "seed": 1}
    assert sweep.points[4].parameters == {"model": "gpt2", "seed": 1, "level": 1.0}
    assert isinstance(sweep.points[0].parameters["level"], float), "in the declared type"


def test_a_list_is_one_value(declare):
    sweep = declare("vary: {doses: [[0.5], [0.5, 1]]}")
    assert [point.varied["doses"] for point in sweep.points] == [[0.5], [0.5, 1.0]]
    assert names(sweep) == ["doses=0.5_", "doses=0.5_1.0"]


def test_distinct_points_have_distinct_safe_names_whatever_their_values():
    values = [
        *(0, 1, -1, 1.0, 1e-5, 1e300, float("inf"), True, False, None, "", "1", "1.0", "true", "null", "a", "A", "a b"),
        *(
            "a_b",
            "a/b",
            "..",
            "../a",
            "a,b=c",
            "ä",
            "x" * 300,
            "x" * 301,
            [1],
            [1, 2],
            ["1"],
            "1_",
            [],
            [[1]],
            {"a": 1},
        ),
        *([True], "a~b", "con\n", "-", "e"),
    ]
    found = [Point({"value": value}, {}).name for value in values]
    for one, other in combinations(found, 2):
        assert one.lower() != other.lower(), "on file systems that do not tell case apart either"
    for name in found:
        assert re.fullmatch(r"value=[A-Za-z0-9_.+=,~-]*", name) and len(name) < 120
    assert Point({"a": "b,c=d"}, {}).name != Point({"a": "b", "c": "d"}, {}).name


def test_a_name_depends_on_the_own_values_alone(declare):
    few, many = declare("vary: {model: [A/b], seed: [3]}"), declare("vary: {model: [x, A/b], seed: [2, 3]}")
    assert names(few)[0] in names(many)
    assert re.fullmatch(r"model=A_b,seed=3~[0-9a-f]{16}", names(few)[0])


def test_a_path_that_is_there_is_found_by_the_chapter_too(declare, tmp_path, monkeypatch):
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


def test_a_model_folder_here_is_found_by_the_chapter_too(declare, tmp_path, monkeypatch):
    (tmp_path / "distilgpt2").mkdir()
    (tmp_path / "distilgpt2" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    sweep = declare("vary: {model: [distilgpt2, gpt2]}")
    assert [point.varied["model"] for point in sweep.points] == [str(tmp_path / "distilgpt2"), "gpt2"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vary: {sed: [1]}", "vary.sed: chapter 01_tiny has no such parameter; it has model, doses, note, anything, "),
        ("{vary: {seed: [1]}, fixed: {pairs: 1}}", "fixed.pairs: chapter 01_tiny has no such parameter; it has model"),
        ("vary: {seed: [0, one]}", "vary.seed: parameter 'seed' is int (default 0), not 'one'"),
        ("vary: {doses: [0.5]}", "vary.doses: parameter 'doses' is list[float] (default [0.5]), not 0.5"),
        ("vary: {api_key: [a]}", "vary.api_key: parameter 'api_key' looks like a secret"),
        ("{vary: {seed: [1]}, fixed: {hub_token: a}}", "fixed.hub_token: parameter 'hub_token' looks like a secret"),
        ("vary: {level: [1, 2, 1.0]}", "vary.level: 1.0 is there twice; remove one"),
        ("vary: {seed: []}", "vary.seed: it is empty; give at least one"),
        ("vary: {seed: 1}", "vary.seed: give a list of values, also where it is one"),
        ("vary: {}", "vary: it is empty; give at least one"),
        ("fixed: {seed: 1}", "vary: is missing"),
        ("{vary: {seed: [1]}, fixd: {}}", "fixd: there is no such field; remove it, or correct its name"),
        ("{vary: {seed: [1]}, fixed: {seed: 1}}", "fixed.seed: it varies, too"),
        ("{vary: {seed: [1]}, collect: [a, a]}", "collect: name each result once"),
        ("{vary: {seed: [1]}, collect: [a], show: {table: b, x: c, y: d}}", "show.table: 'b' is not collected"),
        ("{vary: {seed: [1]}, show: {table: b, x: c}}", "show.y: is missing"),
        ("{vary: {seed: [1]}, chapter: 99_none}", "99_none.ipynb: no such notebook"),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_file_key_and_fix(declare, text, problem):
    with pytest.raises(DataError, match=f"^tiny.yaml: .*{re.escape(problem)}"):
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
