import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from personalib.base.data import DataError
from personalib.base.provenance import file_hash, repository_root, results_dir
from personalib.base.storage import held
from personalib.book.chapters import Chapter, RunError
from personalib.book.runs import inputs_hash, read_run, run_notebook

pytestmark = pytest.mark.usefixtures("small_data")
SAVES = "from personalib.base.provenance import results_dir\n(results_dir() / 'table.csv').write_text(str(seed))"
WAIT_SECONDS = 60


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


@pytest.fixture
def notebook(write_notebook):
    return write_notebook(SAVES, parameters="seed: int = 1")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs_of(path: Path) -> str:
    parts = [part for cell in json.loads(path.read_text())["cells"] for part in cell.get("outputs", [])]
    return "".join("".join(part.get("text", "")) for part in parts)


def test_a_run_publishes_notebook_results_and_manifest(write_notebook, output, small_data):
    notebook = write_notebook(
        SAVES,
        "print(seed, labels)",
        parameters="seed: int = 1  # x = y\nlabels: list[str] = ['a']\nmodel: str = 'tiny'",
    )
    source = notebook.read_bytes()
    run = run_notebook(notebook, {"seed": 5}, output)

    assert names(output) == {"01_tiny.ipynb", "01_tiny.manifest.json", "results/01_tiny/table.csv"}
    assert outputs_of(run.notebook).startswith("5 ['a']")
    assert (output / "results/01_tiny/table.csv").read_text() == "5"
    assert notebook.read_bytes() == source

    manifest = json.loads((output / "01_tiny.manifest.json").read_text())
    assert manifest == run.manifest
    assert manifest["parameters"] == {"seed": 5, "labels": ["a"], "model": "tiny"}
    assert (manifest["seed"], manifest["model"], manifest["device"]) == (5, "tiny", None)
    assert manifest["outputs"] == {name: file_hash(output / name) for name in names(output) - {"01_tiny.manifest.json"}}
    assert set(manifest["hashes"]) == {"notebook", "library", "data", "dependencies", "inputs", "organism"}
    assert manifest["hashes"]["inputs"] == inputs_hash(notebook, {"seed": 5})
    assert manifest["packages"]["papermill"]
    assert manifest["machine"]["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert 0 < manifest["seconds"] < WAIT_SECONDS


def test_an_unchanged_chapter_is_reused_whatever_its_time_stamp(notebook, output):
    first = run_notebook(notebook, {}, output)
    os.utime(notebook)
    executed = first.notebook.stat().st_mtime_ns

    again = run_notebook(notebook, {"seed": 1}, output)
    assert again.reused
    assert again.manifest == first.manifest
    assert first.notebook.stat().st_mtime_ns == executed
    assert read_run(notebook, {"seed": 2}, output) is None

    (output / "results/01_tiny/table.csv").write_text("tampered")
    assert read_run(notebook, {}, output) is None
    mended = run_notebook(notebook, {}, output)
    assert not mended.reused
    assert (output / "results/01_tiny/table.csv").read_text() == "1"
    assert not run_notebook(notebook, {}, output, reuse=False).reused


def test_each_input_changes_the_hash(write_notebook, small_library, small_data):
    def current(**given):
        return inputs_hash(write_notebook(code, parameters="seed: int = 1"), given)

    code = "1"
    seen = [current()]
    assert current(seed=1) == seen[0]
    seen.append(current(seed=2))
    (small_data / "numbers.csv").write_text("2\n")
    seen.append(current())
    (small_library / "code.py").write_text("x = 2\n")
    seen.append(current())
    locked = small_library.parent / "locks" / "book.txt"
    locked.write_text(locked.read_text().replace("numpy==2.4.6", "numpy==2.4.7"))
    seen.append(current())
    code = "2"
    seen.append(current())
    assert len(set(seen)) == len(seen)


def test_a_failing_cell_is_told_in_two_lines_and_nothing_stale_stays(write_notebook, output, capfd):
    cell = "if seed > 1:\n    raise ValueError('seed is too large\\nby far')"
    notebook = write_notebook(
        SAVES, cell, parameters="seed: int = 1", markdown=("# Does it run?", "## The part that fails")
    )
    run_notebook(notebook, {}, output)
    with pytest.raises(RunError) as caught:
        run_notebook(notebook, {"seed": 2}, output)

    where, what = str(caught.value).splitlines()
    # the fifth cell of the source; papermill's own cell with the parameters is not counted
    assert where.startswith("01_tiny: cell 5 (The part that fails) failed")
    assert where.endswith("01_tiny.failed.ipynb")
    assert what == "ValueError: seed is too large"
    assert names(output) == {"01_tiny.failed.ipynb"}
    assert "by far" in (output / "01_tiny.failed.ipynb").read_text()
    assert "01_tiny: cell 5 (The part that fails)" in capfd.readouterr().err

    run_notebook(notebook, {}, output)
    assert "01_tiny.failed.ipynb" not in names(output)


def test_a_kernel_that_dies_is_told_with_its_cell(write_notebook, output):
    notebook = write_notebook("1", "import os\nos._exit(1)")
    with pytest.raises(RunError, match=r"(?s)01_tiny: cell 3 .*\nDeadKernelError: .*out of memory"):
        run_notebook(notebook, {}, output)
    assert names(output) == {"01_tiny.failed.ipynb"}


def test_a_cell_s_own_progress_shows_beside_the_chapter_s(write_notebook, output, capfd):
    loop = "import sys, time\nfor i in range(3):\n    print(f'\\rscoring {i}', end='', file=sys.stderr)\n"
    loop += "    time.sleep(0.2)"
    run_notebook(write_notebook(loop), {}, output)
    shown = capfd.readouterr().err
    assert "01_tiny: cell 2 (Does it run?)" in shown
    assert "scoring 2" in shown


def test_a_killed_run_leaves_a_partial_file_and_the_next_starts_over(write_notebook, output, tmp_path):
    marker = tmp_path / "reached"
    cell = f"from pathlib import Path\nimport time\nmarker = Path({str(marker)!r})\nif not marker.exists():\n"
    cell += f"    marker.touch()\n    time.sleep({WAIT_SECONDS})"
    notebook = write_notebook("seed = 1\n" + SAVES, cell)
    command = [sys.executable, "-m", "personalib", "run", str(notebook), "--output-dir", str(output)]
    process = subprocess.Popen(command, cwd=repository_root(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_SECONDS
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(output) == {".01_tiny.lock", "01_tiny.partial.ipynb", "results/01_tiny/table.csv"}
    assert read_run(notebook, {}, output) is None

    run_notebook(notebook, {}, output)
    assert names(output) == {"01_tiny.ipynb", "01_tiny.manifest.json", "results/01_tiny/table.csv"}


def test_a_full_disk_is_one_error_that_names_the_file_and_the_same_command_goes_on(write_notebook, disk):
    notebook, rest = write_notebook("x = 1"), disk / "rest"
    rest.write_bytes(b"x" * shutil.disk_usage(disk).free)
    with pytest.raises(DataError, match=r"01_tiny\.partial\.ipynb: cannot be written: No space left .*goes on"):
        run_notebook(notebook, {}, disk / "out")
    rest.unlink()
    assert not run_notebook(notebook, {}, disk / "out").reused


def test_results_go_to_the_run_s_folder_or_to_an_interactive_one(monkeypatch, tmp_path, small_library):
    monkeypatch.setenv("PERSONALIB_RESULTS", str(tmp_path / "here"))
    assert results_dir() == tmp_path / "here"
    assert results_dir().is_dir()
    monkeypatch.delenv("PERSONALIB_RESULTS")
    assert results_dir() == small_library.parent / "results" / "interactive"


def test_a_run_into_the_notebooks_own_folder_is_refused_and_the_notebook_stays(write_notebook, tmp_path):
    notebook = write_notebook(SAVES, parameters="seed: int = 1")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "01_tiny.partial.ipynb").symlink_to(notebook)
    nested = write_notebook(SAVES, parameters="seed: int = 1", folder=tmp_path / "deep" / "results" / "01_tiny")
    for path, folder in ((notebook, notebook.parent), (notebook, tmp_path / "linked"), (nested, tmp_path / "deep")):
        source = path.read_bytes()
        (folder / "01_tiny.manifest.json").write_text("{}")
        with pytest.raises(RunError, match=r"01_tiny\.ipynb: a run into .* would replace this notebook"):
            run_notebook(path, {}, folder)
        assert path.read_bytes() == source
        assert (folder / "01_tiny.manifest.json").is_file(), "nothing was cleared"


def test_one_process_at_a_time_runs_a_chapter_in_a_folder(write_notebook, output, tmp_path):
    notebook = write_notebook(SAVES, parameters="seed: int = 1")
    other = write_notebook("1", name="02_other")
    first = run_notebook(notebook, {}, output)
    with held(output / ".01_tiny.lock"):
        before = names(output)
        with pytest.raises(DataError, match=r"output: another process runs 01_tiny here; wait for its end$"):
            run_notebook(notebook, {"seed": 2}, output)
        assert names(output) == before, "what the other process does is left alone"
        assert run_notebook(notebook, {}, output).manifest == first.manifest, "what is valid can be read"
        assert not run_notebook(other, {}, output).reused
        assert not run_notebook(notebook, {"seed": 2}, tmp_path / "elsewhere").reused
    assert run_notebook(notebook, {"seed": 2}, output).manifest["seed"] == 2
    assert not [name for name in names(output) if name.endswith("lock")]


def test_what_another_process_has_just_run_is_not_run_again(notebook, output, monkeypatch):

    @contextmanager
    def late(path, **_):
        run_notebook_alone(notebook, {}, output)
        with held(path):
            yield

    def run_notebook_alone(*arguments):
        monkeypatch.setattr("personalib.base.storage.held", held)
        run_notebook(*arguments)

    monkeypatch.setattr("personalib.base.storage.held", late)
    assert run_notebook(notebook, {}, output).reused


def test_folders_of_the_environment_are_the_same_ones_in_the_kernel(write_notebook, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("PERSONALIB_DATA", "data"), ("PERSONALIB_CACHE", "kept/here")):
        monkeypatch.setenv(name, value)
    run = run_notebook(
        write_notebook("import os\nprint(os.environ['PERSONALIB_DATA'], os.environ['PERSONALIB_CACHE'])"), {}, output
    )
    assert outputs_of(run.notebook).split() == [str(tmp_path / "data"), str(tmp_path / "kept" / "here")]


ODD = {
    "text": "\" ' \\ \\n \n\r\t {x} {{y}} $ é \u2028 \ud800",
    "limit": {"a": [1, -0.5, None, True, "\\"], "é": {"b": []}},
    "sizes": [1e300, 5e-324],
}


def test_values_reach_the_cells_exactly(write_notebook, output):
    declared = "text: str = ''\nlimit = None\nsizes: list[float] = []"
    notebook = write_notebook("print(ascii([text, limit, sizes]))", parameters=declared)
    run = run_notebook(notebook, ODD, output)
    assert outputs_of(run.notebook).strip() == ascii(list(ODD.values()))
    assert json.loads((output / "01_tiny.manifest.json").read_text(encoding="utf-8"))["parameters"] == ODD
    assert run_notebook(notebook, ODD, output).reused


def test_a_cell_that_is_meant_to_fail_may_fail_and_may_not(write_notebook, output):
    notebook = write_notebook("1 / 0", "2 + 2", "print('after')")
    content = json.loads(notebook.read_text())
    for cell in content["cells"][1:3]:
        cell["metadata"]["tags"] = ["raises-exception"]
    notebook.write_text(json.dumps(content))
    run = run_notebook(notebook, {}, output)
    assert outputs_of(run.notebook) == "after\n"
    kinds = [
        [part["output_type"] for part in cell.get("outputs", [])]
        for cell in json.loads(run.notebook.read_text())["cells"]
    ]
    assert kinds == [[], ["error"], ["execute_result"], ["stream"]]

    content["cells"].append({**content["cells"][1], "id": "last", "metadata": {}})
    notebook.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"01_tiny: cell 5 .*failed.*\nZeroDivisionError"):
        run_notebook(notebook, {}, output)


USES = """import tempfile
from pathlib import Path
from IPython.display import HTML, Markdown, display
from personalib.base.markdown import escaped
from personalib.base.provenance import results_dir
made = [tempfile.mkdtemp(), tempfile.NamedTemporaryFile(delete=False).name]
(results_dir() / "table.csv").write_text(f"items\\n{items}\\n")
(results_dir() / "old.csv").write_bytes(f"\\xe9\\r\\n{items}\\n".encode("latin-1"))
display(Markdown(escaped(items)))
print(made[0], made[1], Path(items).read_text())
items"""


def test_a_published_run_names_no_folder_of_the_machine(write_notebook, output, tmp_path, monkeypatch):
    folder = tmp_path / "somebody's_home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "x.jsonl").write_text("the items")
    notebook = write_notebook(USES, parameters="items: str = 'bundled'")
    given = Chapter.read(notebook).parse({"items": "./x.jsonl"})
    run = run_notebook(notebook, given, output)

    *made, items = outputs_of(run.notebook).split(" ", 2)
    assert items == "the items\n"
    assert not any(Path(one).exists() for one in made), "temporary files are gone"
    texts = {path.name: path.read_bytes().decode("latin-1") for path in output.rglob("*") if path.is_file()}
    assert set(texts) == {"01_tiny.ipynb", "01_tiny.manifest.json", "table.csv", "old.csv"}
    assert not [name for name, text in texts.items() if "home" in text]
    assert texts["table.csv"] == "items\nx.jsonl\n" and texts["old.csv"] == "\xe9\r\nx.jsonl\n"
    assert run.manifest["parameters"] == {"items": "x.jsonl"} and list(run.manifest["hashes"]["named"]) == ["x.jsonl"]
    assert read_run(notebook, given, output)
    (folder / "x.jsonl").write_text("others")
    assert read_run(notebook, given, output) is None


@pytest.mark.parametrize(
    "torn", ["[]", "{}", "null", '{"hashes": []}', "", "[" * 100_000, '{"hashes": {"inputs": 1}, "outputs": {}}']
)
def test_a_torn_manifest_is_no_run(write_notebook, output, torn):
    output.mkdir()
    (output / "01_tiny.manifest.json").write_text(torn)
    assert read_run(write_notebook("1"), {}, output) is None
