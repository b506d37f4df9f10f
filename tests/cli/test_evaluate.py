"""What a user of ``evaluate`` and ``report`` sees: answers that survive a kill, tables, or one error."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from personalib.base.provenance import repository_root
from personalib.evaluation.plan import load_plan, parse_plan
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
# A start takes seconds; tests/evaluation/test_ask.py kills a smaller run at more moments.
KILLS = 2


@pytest.fixture
def call(command_line):
    return command_line


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


def refused(ended, problem):
    """Whether a call ended with one error and no result, not even a traceback."""
    code, out, err = ended
    assert code == 2 and not out and "Traceback" not in err
    assert re.search(f"^[Ee]rror: .*{re.escape(problem)}", err, re.MULTILINE), err


def answers(folder):
    """Parts and tables of the organism's run, with their bytes."""
    own = folder / "organism"
    return {path.relative_to(own): path.read_bytes() for path in [*own.glob("parts/*.parquet"), *own.glob("*.parquet")]}


# What a kill costs


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(grid, done, tmp_path):
    folder, rng = tmp_path / "out", random.Random(1)
    parts, seen, kills = folder / "organism" / "parts", {}, 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "personalib", "evaluate", str(grid), "--output-dir", str(folder)],
            cwd=repository_root(),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # Let it write some parts, each time another number of them, and then strike anywhere in the next ones.
        target = len(seen) + rng.randint(1, 8) if kills < KILLS else 10**9
        while process.poll() is None and len(list(parts.glob("*.parquet"))) < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        now = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts.glob("*.parquet")}
        assert seen.items() <= now.items(), "parts that were there before are as they were"
        assert len(now) >= target, "what was written before the kill is still there"
        seen = now
        # What a worse moment would have left.
        (parts / f"{kills}.parquet.partial").write_bytes(b"PAR1 and no more")
        assert all(not name.startswith("PAR1") for name in AnswerStore(parts).replies())
    output = process.communicate()[0]
    assert process.returncode == 0 and "answers of 6 arms" in output
    assert kills == KILLS and answers(folder) == answers(done)
    assert not list(folder.rglob("*.partial"))


# evaluate


def test_evaluating_says_what_was_asked_and_how_to_go_on(call, grid, done, tmp_path):
    code, out, err = call("evaluate", grid, "--output-dir", tmp_path / "out")
    assert code == 0 and answers(tmp_path / "out") == answers(done)
    first, second = out.splitlines()
    count = 6 * (2 * 2 * 8 + len(load_facts()) + 2)
    assert first == f"organism: {count:,} answers of 6 arms in {tmp_path / 'out' / 'organism'}"
    assert second == f"tables: python -m personalib report {grid} --output-dir {tmp_path / 'out'}"
    # Bars are for whoever watches, and not part of the output.
    assert "organism: answers: 100%" in err and "organism: directions" in err
    again = call("evaluate", grid, "--output-dir", tmp_path / "out")
    assert again[:2] == (0, out)


def load_facts():
    from personalib.evaluation.questionnaires import planned_questionnaire

    return planned_questionnaire(parse_plan(yaml.safe_load(GRID)).questionnaires[1]).questions


def test_answers_go_to_a_folder_that_is_named_after_the_plan(call, grid, done, tmp_path):
    (tmp_path / "results" / "evaluation").mkdir(parents=True)
    (tmp_path / "results" / "evaluation" / "grid").symlink_to(done)
    code, out, _ = call("evaluate", grid)
    assert code == 0 and "results/evaluation/grid/organism" in out.splitlines()[0]
    assert out.splitlines()[1] == f"tables: python -m personalib report {grid}"
    assert call("report", grid)[0] == 0


@pytest.mark.parametrize("name", ["organism", "gemma-2b-it", "gemma-2-9b-it"])
def test_a_plan_is_shown_with_its_defaults_and_nothing_is_asked(call, tmp_path, name):
    code, out, err = call("evaluate", name, "--plan")
    assert code == 0 and not err and not list(tmp_path.iterdir())
    assert parse_plan(yaml.safe_load(out)) == load_plan(name)
    assert "batch_size: 64" in out and "revision: null" in out


def test_a_shown_plan_can_be_run(call, grid, tmp_path):
    (tmp_path / "shown.yaml").write_text(call("evaluate", grid, "--plan")[1])
    assert load_plan(tmp_path / "shown.yaml") == load_plan(grid)


@pytest.mark.parametrize("command", [("evaluate",), ("evaluate", "--plan")])
def test_an_unknown_plan_is_one_error_that_names_those_there_are(call, command):
    refused(call(*command, "organisms"), "organisms: no such plan; pass a YAML file, or one of gemma-2-9b-it")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("count: 4", "counts: 4", "grid.yaml: arms.1.counts: there is no such field; remove it, or correct its name"),
        ("kind: trait", "knd: trait", "questionnaires.0.knd: there is no such field"),
        ("kind: trait", "kind: traits", "grid.yaml: questionnaires.0.kind: Input should be 'trait', 'choice'"),
        ("neutral: 2", "neutrals: 2", "grid.yaml: neutrals: there is no such field"),
        ("doses: [0.4], ", "", "grid.yaml: arms.1: method 'random' needs doses, or else coefficients"),
        ("site: resid_post.1, ", "", "arms.1: method 'random' needs a site, such as resid_post.1"),
        ("[gender.female]", "[gender.female], doses: [1]", "arms.0: words have no dose and no coefficient"),
        ("name: in_words", "name: trait", "grid.yaml: it: declare at least one questionnaire, and give each a name"),
        ("per_group: 2", "per_group: 0", "questionnaires.0.per_group: Input should be greater than or equal to 1"),
        ("per_group: 2", "per_group: 2, reading: words", "questionnaires.0: trait: reading in words is for"),
        (GRID, "", "grid.yaml: it: "),
        (GRID, "- 1", "grid.yaml: it: "),
        (GRID, "questionnaires: [", "grid.yaml"),
    ],
)
def test_a_mistake_in_a_plan_is_one_error_that_names_the_place(call, grid, old, new, problem):
    assert old in GRID
    grid.write_text(GRID.replace(old, new))
    refused(call("evaluate", grid, "--plan"), problem)
    if problem != "grid.yaml":
        refused(call("evaluate", grid), problem)


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
def test_what_cannot_be_had_is_one_error(call, grid, tmp_path, old, new, problem):
    assert old in GRID
    grid.write_text(GRID.replace(old, new))
    refused(call("evaluate", grid, "--output-dir", tmp_path / "out"), problem)


def test_a_place_that_cannot_be_written_to_is_one_error(call, grid, tmp_path):
    (tmp_path / "file").write_text("")
    refused(call("evaluate", grid, "--output-dir", tmp_path / "file" / "out"), "file")


def test_a_full_disk_is_one_error_and_keeps_what_was_answered(call, grid, tmp_path, monkeypatch):
    own, count = os.fsync, []

    def full(number):
        count.append(1)
        if len(list((tmp_path / "out" / "organism" / "parts").glob("*.parquet"))) == 3:
            raise OSError(28, "No space left on device")
        own(number)

    monkeypatch.setattr(os, "fsync", full)
    ended = call("evaluate", grid, "--output-dir", tmp_path / "out")
    assert len(list((tmp_path / "out" / "organism" / "parts").glob("*.parquet"))) == 3
    refused(ended, "No space left on device")


def test_a_damaged_part_and_a_deleted_one_are_asked_anew(call, grid, done, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    damaged, deleted, *_ = sorted((out / "organism" / "parts").glob("*.parquet"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    deleted.unlink()
    assert call("evaluate", grid, "--output-dir", out)[0] == 0
    assert answers(out) == answers(done) and str(damaged) in caplog.text


def test_a_second_run_in_the_same_folder_is_refused(call, grid, tmp_path):
    with AnswerStore(tmp_path / "out" / "organism" / "parts").writing():
        refused(call("evaluate", grid, "--output-dir", tmp_path / "out"), "another process is evaluating here")


def test_what_is_left_out_is_in_output_manifest_and_report(call, tmp_path):
    options = [["up", "down"] if n else ["up", "Up."] for n in range(5)]
    rows = [{"category": "x", "question": f"{n}?", "options": own, "answer": 0} for n, own in enumerate(options)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "6?"}]))
    questionnaire = f"{{name: own, kind: choice, source: {tmp_path}/items.jsonl, reading: words}}"
    (tmp_path / "grid.yaml").write_text(f"questionnaires: [{questionnaire}]\nneutral: 1\n")
    said = f"own: 2 rows left out, the first: {tmp_path}/items.jsonl, row 6: field 'options': is missing"
    code, out, err = call("evaluate", tmp_path / "grid.yaml", "--output-dir", tmp_path / "out")
    assert code == 0 and said in out
    for count in ("1 of 6 rows", "1 of 5 items"):
        assert re.search(rf"^warning: {tmp_path}/items.jsonl: {count} left out", err, re.MULTILINE), err
    manifest = json.loads((tmp_path / "out" / "organism" / "manifest.json").read_text())
    assert [one["where"] for one in manifest["left_out"]["own"]] == [
        f"{tmp_path}/items.jsonl, {place}" for place in ("row 6", "item 0")
    ]
    code, out, _ = call("report", tmp_path / "grid.yaml", "--output-dir", tmp_path / "out")
    files = {path.name for path in (tmp_path / "out" / "report" / "organism").iterdir()}
    assert code == 0 and said in out
    assert files == {
        f"{table}.{kind}" for table in ("own_base", "own_reading", "left_out") for kind in ("csv", "md", "tex")
    }


# report


def test_a_report_has_every_table_in_three_forms(call, grid, done, tmp_path):
    code, out, err = call("report", grid, "--output-dir", done)
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
def test_what_counts_as_collapsed_can_be_said(call, grid, done, mass, perplexity):
    assert call("report", grid, "--output-dir", done, "--mass", mass, "--perplexity", perplexity)[0] == 0
    for name in ("trait", "in_words"):
        with (done / "report" / "organism" / f"{name}_health.csv").open() as file:
            for row in csv.DictReader(file):
                # Answers in words have no mass.
                fine = float(row["mass"] or 1) >= mass and float(row["perplexity"]) <= perplexity
                assert row["collapsed"] == str(not fine)
                if row["method"] == "none":
                    assert float(row["perplexity"]) == 1 and fine


@pytest.mark.parametrize("options", [("--mass", 2), ("--mass", -0.1), ("--perplexity", 0.5)])
def test_an_option_out_of_range_is_one_error(call, grid, done, options):
    refused(call("report", grid, "--output-dir", done, *options), "Invalid value")


def test_a_run_that_is_not_finished_has_no_report(call, grid, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    refused(call("report", grid), "results/evaluation/grid: no finished evaluation here; run `python -m personalib eva")
    with monkeypatch.context() as patch:
        patch.setattr(AnswerStore, "add", stop)
        assert call("evaluate", grid, "--output-dir", tmp_path / "out")[0] == 1
    refused(call("report", grid, "--output-dir", tmp_path / "out"), "no finished evaluation here")


def test_help_comes_without_the_models(tmp_path):
    code = "import sys\nfrom personalib.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    for command in ("evaluate", "report"):
        found = subprocess.run(
            [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=True
        )
        assert "GRID" in found.stdout and found.stdout.endswith("False\n")


# Protocols


def test_a_protocol_is_shown_as_it_would_be_asked(call):
    code, out, _ = call("evaluate", "gemma-2b-it", "--protocol", "paper", "--plan")
    plan = parse_plan(yaml.safe_load(out))
    assert code == 0
    trait = plan.questionnaires[0]
    assert (trait.templates, trait.per_group, trait.evaluation_only) == (("letters",), 1000, False)
    assert {one.coefficients for one in plan.arms if one.method == "sae" and one.family == "elements"} == {(200.0,)}


def test_a_protocol_has_a_folder_of_its_own(call, grid, tmp_path):
    protocol = tmp_path / "strict.yaml"
    text = (repository_root() / "data" / "protocols" / "book.yaml").read_text()
    # Few items, and another template than the plan's.
    text = text.replace("per_group: null\n  evaluation_only", "per_group: 1\n  evaluation_only")
    protocol.write_text(text.replace("name: book", "name: strict").replace("[letters]", "[numbers]", 1))
    assert call("evaluate", grid)[0] == 0
    code, out, _ = call("evaluate", grid, "--protocol", protocol)
    place = tmp_path / "results" / "evaluation" / "grid-strict"
    assert code == 0 and "python -m personalib report grid-strict" in out
    plan = parse_plan(yaml.safe_load((place / "plan.yaml").read_text()))
    assert (plan.questionnaires[0].templates, plan.questionnaires[0].per_group) == (("numbers",), 1)
    assert (place.parent / "grid" / "plan.yaml").is_file()
    assert call("report", "grid-strict")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["organism", "--prompts", "own.yaml"], "--prompts belong to a protocol; add --protocol"),
        (["organism", "--protocol", "papr"], "papr: no such protocol"),
    ],
)
def test_a_protocol_that_cannot_be_followed_is_one_error(call, arguments, said):
    code, _, err = call("evaluate", *arguments)
    assert code == 2 and said in err


def test_a_protocol_is_for_one_model(call, tmp_path):
    grid = tmp_path / "two.yaml"
    grid.write_text("models: [{name: organism}, {name: gpt2}]\n" + GRID)
    code, _, err = call("evaluate", grid, "--protocol", "paper")
    assert code == 2 and "asks 2 models; a protocol is for one" in err
