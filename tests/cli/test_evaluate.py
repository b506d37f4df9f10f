"""What a user of ``evaluate`` and ``report`` sees: answers, tables, or one error; for kills see ``test_kills.py``."""

import csv
import json
import re

import pytest
import yaml
from calls import assert_refused

from personalib.base.provenance import repository_root
from personalib.evaluation.plan import load_plan, parse_plan
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.evaluation.runs import run_plan
from personalib.evaluation.store import AnswerStore

GRID = """
questionnaires:
  - {name: trait, kind: trait, per_group: 2}
  - {name: in_words, kind: choice, source: facts, per_group: 1, reading: words}
arms:
  - {method: prompt, keys: [gender.female]}
  - {method: random, site: resid_post.1, doses: [0.4], count: 4}
neutral: 2
pairs: 4
batch_size: 4
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


# As many threads in this process as in those that it starts, so that sums are rounded alike.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("done")
    run_plan(parse_plan(yaml.safe_load(GRID)), folder)
    return folder


def answers(folder):
    """Parts and tables of the organism's run, with their bytes."""
    own = folder / "organism"
    return {path.relative_to(own): path.read_bytes() for path in [*own.glob("parts/*.parquet"), *own.glob("*.parquet")]}


# evaluate


def test_evaluating_says_what_was_asked_and_how_to_go_on(command_line, grid, done, tmp_path):
    code, out, err = command_line("evaluate", grid, "--output-dir", tmp_path / "out")
    assert code == 0 and answers(tmp_path / "out") == answers(done)
    first, second = out.splitlines()
    facts = planned_questionnaire(parse_plan(yaml.safe_load(GRID)).questionnaires[1]).questions
    count = 6 * (2 * 2 * 8 + len(facts) + 2)
    assert first == f"organism: {count:,} answers of 6 arms in {tmp_path / 'out' / 'organism'}"
    assert second == f"tables: python -m personalib report {grid} --output-dir {tmp_path / 'out'}"
    # Bars are for whoever watches, and not part of the output.
    assert "organism: answers: 100%" in err and "organism: directions" in err
    again = command_line("evaluate", grid, "--output-dir", tmp_path / "out")
    assert again[:2] == (0, out)


def test_answers_go_to_a_folder_that_is_named_after_the_plan(command_line, grid, done, tmp_path):
    (tmp_path / "results" / "evaluation").mkdir(parents=True)
    (tmp_path / "results" / "evaluation" / "grid").symlink_to(done)
    code, out, _ = command_line("evaluate", grid)
    assert code == 0 and "results/evaluation/grid/organism" in out.splitlines()[0]
    assert out.splitlines()[1] == f"tables: python -m personalib report {grid}"
    assert command_line("report", grid)[0] == 0


@pytest.mark.parametrize("name", ["organism", "gemma-2b-it", "gemma-2-9b-it"])
def test_a_plan_is_shown_with_its_defaults_and_nothing_is_asked(command_line, tmp_path, name):
    code, out, err = command_line("evaluate", name, "--plan")
    assert code == 0 and not err and not list(tmp_path.iterdir())
    assert parse_plan(yaml.safe_load(out)) == load_plan(name)
    assert "batch_size: 64" in out and "revision: null" in out


def test_a_shown_plan_can_be_run(command_line, grid, tmp_path):
    (tmp_path / "shown.yaml").write_text(command_line("evaluate", grid, "--plan")[1])
    assert load_plan(tmp_path / "shown.yaml") == load_plan(grid)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("count: 4", "counts: 4", "grid.yaml: arms.1.counts: there is no such field; remove it, or correct its name"),
        ("doses: [0.4], ", "", "grid.yaml: arms.1: method 'random' needs doses, or else coefficients"),
        (GRID, "", "grid.yaml: it: "),
        (GRID, "questionnaires: [", "grid.yaml"),
    ],
)
def test_a_mistake_in_a_plan_is_one_error_that_names_the_place(command_line, grid, old, new, problem):
    assert old in GRID
    grid.write_text(GRID.replace(old, new))
    assert_refused(command_line("evaluate", grid, "--plan"), problem)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("gender.female", "gender.femal", "elements have no 'gender.femal'; choose among"),
        ("resid_post.1", "resid_post.11", "resid_post.11"),
        ("{name: trait, kind: trait, per_group: 2}", "{name: trait, kind: trait, source: none.jsonl}", "none.jsonl"),
        ("neutral: 2", "neutral: 2\nmodels: [{device: 'cuda:77'}]", "device 'cuda:77'"),
        ("neutral: 2", "neutral: 2\nmodels: [{name: ./no/such/model}]", "./no/such/model: cannot be loaded"),
    ],
)
def test_what_cannot_be_had_is_one_error(command_line, grid, tmp_path, old, new, problem):
    assert old in GRID
    grid.write_text(GRID.replace(old, new))
    assert_refused(command_line("evaluate", grid, "--output-dir", tmp_path / "out"), problem)


def test_a_place_that_cannot_be_written_to_is_one_error(command_line, grid, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(command_line("evaluate", grid, "--output-dir", tmp_path / "file" / "out"), "file")


def test_what_is_left_out_is_in_output_manifest_and_report(command_line, tmp_path):
    options = [["up", "down"] if n else ["up", "Up."] for n in range(5)]
    rows = [{"category": "x", "question": f"{n}?", "options": own, "answer": 0} for n, own in enumerate(options)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "6?"}]))
    questionnaire = f"{{name: own, kind: choice, source: {tmp_path}/items.jsonl, reading: words}}"
    (tmp_path / "grid.yaml").write_text(f"questionnaires: [{questionnaire}]\nneutral: 1\n")
    said = f"own: 2 rows left out, the first: {tmp_path}/items.jsonl, row 6: field 'options': is missing"
    code, out, err = command_line("evaluate", tmp_path / "grid.yaml", "--output-dir", tmp_path / "out")
    assert code == 0 and said in out
    for count in ("1 of 6 rows", "1 of 5 items"):
        assert re.search(rf"^warning: {tmp_path}/items.jsonl: {count} left out", err, re.MULTILINE), err
    manifest = json.loads((tmp_path / "out" / "organism" / "manifest.json").read_text())
    assert [one["where"] for one in manifest["left_out"]["own"]] == [
        f"{tmp_path}/items.jsonl, {place}" for place in ("row 6", "item 0")
    ]
    code, out, _ = command_line("report", tmp_path / "grid.yaml", "--output-dir", tmp_path / "out")
    files = {path.name for path in (tmp_path / "out" / "report" / "organism").iterdir()}
    assert code == 0 and said in out
    assert files == {
        f"{table}.{kind}" for table in ("own_base", "own_reading", "left_out") for kind in ("csv", "md", "tex")
    }


# report


def test_a_report_has_every_table_in_three_forms(command_line, grid, done, tmp_path):
    code, out, err = command_line("report", grid, "--output-dir", done)
    place = done / "report" / "organism"
    files = sorted(path.name for path in place.iterdir())
    assert code == 0 and not err and out == f"{len(files)} files in {done / 'report'}\n"
    tables = ["trait_base", "trait_base_published", "trait_effects", "trait_effects_published", "trait_health"]
    tables += ["in_words_base", "in_words_effects", "in_words_health", "in_words_reading"]
    assert files == sorted(f"{table}.{kind}" for table in tables for kind in ("csv", "md", "tex"))
    for path in place.iterdir():
        assert path.stat().st_size > 20
    with (place / "trait_effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"prompt", "random"} and {row["model"] for row in rows} == {"organism"}


@pytest.mark.parametrize(("mass", "perplexity"), [(0, 1e9), (0.9, 2), (1, 1e9), (0, 1.0), (1, 1.0)])
def test_what_counts_as_collapsed_can_be_said(command_line, grid, done, mass, perplexity):
    assert command_line("report", grid, "--output-dir", done, "--mass", mass, "--perplexity", perplexity)[0] == 0
    for name in ("trait", "in_words"):
        with (done / "report" / "organism" / f"{name}_health.csv").open() as file:
            for row in csv.DictReader(file):
                # Answers in words have no mass.
                fine = float(row["mass"] or 1) >= mass and float(row["perplexity"]) <= perplexity
                assert row["collapsed"] == str(not fine)
                if row["method"] == "none":
                    assert float(row["perplexity"]) == 1 and fine


@pytest.mark.parametrize("options", [("--mass", 2), ("--mass", -0.1), ("--perplexity", 0.5)])
def test_an_option_out_of_range_is_one_error(command_line, grid, done, options):
    assert_refused(command_line("report", grid, "--output-dir", done, *options), "Invalid value")


def test_a_run_that_is_not_finished_has_no_report(command_line, grid, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    assert_refused(
        command_line("report", grid),
        "results/evaluation/grid: no finished evaluation here; run `python -m personalib eva",
    )
    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "add", stop)
        assert command_line("evaluate", grid, "--output-dir", tmp_path / "out")[0] == 1
    assert_refused(command_line("report", grid, "--output-dir", tmp_path / "out"), "no finished evaluation here")


# Protocols


def test_a_protocol_is_shown_as_it_would_be_asked(command_line):
    code, out, _ = command_line("evaluate", "gemma-2b-it", "--protocol", "paper", "--plan")
    plan = parse_plan(yaml.safe_load(out))
    assert code == 0
    trait = plan.questionnaires[0]
    assert (trait.templates, trait.per_group, trait.evaluation_only) == (("letters",), 1000, False)
    assert {one.coefficients for one in plan.arms if one.method == "sae" and one.family == "elements"} == {(200.0,)}


def test_a_protocol_has_a_folder_of_its_own(command_line, grid, tmp_path):
    protocol = tmp_path / "strict.yaml"
    text = (repository_root() / "data" / "protocols" / "book.yaml").read_text()
    # Few items, and another template than the plan's.
    text = text.replace("per_group: null\n  evaluation_only", "per_group: 1\n  evaluation_only")
    protocol.write_text(text.replace("name: book", "name: strict").replace("[letters]", "[numbers]", 1))
    assert command_line("evaluate", grid)[0] == 0
    code, out, _ = command_line("evaluate", grid, "--protocol", protocol)
    place = tmp_path / "results" / "evaluation" / "grid-strict"
    assert code == 0 and "python -m personalib report grid-strict" in out
    plan = parse_plan(yaml.safe_load((place / "plan.yaml").read_text()))
    assert (plan.questionnaires[0].templates, plan.questionnaires[0].per_group) == (("numbers",), 1)
    assert (place.parent / "grid" / "plan.yaml").is_file()
    assert command_line("report", "grid-strict")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["organisms"], "organisms: no such plan; pass a YAML file, or one of gemma-2-9b-it"),
        (["organism", "--prompts", "own.yaml"], "--prompts belong to a protocol; add --protocol"),
        (["organism", "--protocol", "papr"], "papr: no such protocol"),
        (["two.yaml", "--protocol", "paper"], "asks 2 models; a protocol is for one"),
    ],
)
def test_a_plan_or_protocol_that_cannot_be_followed_is_one_error(command_line, tmp_path, arguments, said):
    (tmp_path / "two.yaml").write_text("models: [{name: organism}, {name: gpt2}]\n" + GRID)
    assert_refused(command_line("evaluate", *arguments), said)
