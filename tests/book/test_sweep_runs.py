"""Runs of sweeps: nothing is done twice, nothing is lost or half written, and a cluster finds the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.book import sweep_runs
from personalib.book.sweep_runs import point_folder, point_states, run_sweep
from personalib.book.sweeps import load_sweep
from personalib.evaluation.engines import LocalEngine, ray_engine
from personalib.evaluation.ray_workers import RayEngine

pytestmark = pytest.mark.usefixtures("small_data")
# The threads are what sums of numbers are rounded by.
CODE = """
import os
from personalib.base.provenance import results_dir
if word == "bad":
    raise ValueError(f"no such word: {word}")
(results_dir() / "found.csv").write_text(f"x,y,threads\\n1,{seed / 3!r},{os.environ.get('OMP_NUM_THREADS')}\\n")
"""
WAIT_SECONDS = 120


@pytest.fixture
def declare(write_notebook, tmp_path):
    """Writes a sweep of a tiny chapter and reads it."""
    notebook = write_notebook(CODE, parameters='word: str = "good"\nseed: int = 0\ndevice: str = "cpu"')

    def write(**plan):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({"chapter": str(notebook), **plan}, sort_keys=False))
        return load_sweep(path)

    return write


class CountingEngine:
    """Does jobs here, and knows which, and whether with a GPU."""

    name = "local"

    def run(self, start, jobs, gpu=False):
        self.names, self.gpu = [], gpu
        for name, result in LocalEngine().run(start, jobs):
            self.names.append(name)
            yield name, result


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(sweep, folder):
    return [state for _, state in point_states(sweep, folder)]


def test_a_failing_point_stops_no_other_and_what_is_done_is_not_run_again(declare, tmp_path):
    sweep, folder, engine = declare(vary={"word": ["bad", "good"], "seed": [1]}), tmp_path / "out", CountingEngine()
    assert states(sweep, folder) == ["to do", "to do"] and not folder.exists()
    bad, good = run_sweep(sweep, folder, engine)

    assert bad.state == "failed" and good.state == "done" and states(sweep, folder) == ["failed", "done"]
    place = point_folder(folder, "word=bad,seed=1")
    assert bad.failure == (
        "01_tiny: cell 3 (Does it run?) failed: ValueError: no such word: bad; "
        f"the notebook up to there is {place / '01_tiny.failed.ipynb'}"
    )
    assert "no such word" in (place / "01_tiny.failed.ipynb").read_text()
    assert set(files(place)) == {"01_tiny.failed.ipynb", "failure.txt"}
    done = point_folder(folder, "word=good,seed=1")
    assert set(files(done)) == {"01_tiny.ipynb", "01_tiny.manifest.json", "results/01_tiny/found.csv"}
    assert json.loads((done / "01_tiny.manifest.json").read_text())["parameters"]["word"] == "good"
    table = (folder / "tables" / "found.csv").read_text()
    assert table == f"word,seed,x,y,threads\ngood,1,1,{1 / 3!r},{os.environ.get('OMP_NUM_THREADS')}\n"
    assert not list((folder / "points").glob(".*")), "no half of a point stays"

    more = declare(vary={"word": ["good"], "seed": [1, 2]})
    run_sweep(more, folder, engine)
    assert engine.names == ["word=good,seed=2"] and engine.gpu is False
    assert (folder / "tables" / "found.csv").read_text().count("\n") == 3

    (folder / "tables" / "stale.csv").write_text("x\n")
    run_sweep(more, folder, engine)
    assert engine.names == [] and [path.name for path in (folder / "tables").iterdir()] == ["found.csv"]
    (done / "results" / "01_tiny" / "found.csv").write_text("tampered")
    assert states(more, folder) == ["to do", "done"]


def test_a_killed_run_loses_only_the_point_under_way(declare, tmp_path, small_data):
    sweep, folder = declare(vary={"seed": [0, 1, 2]}), tmp_path / "out"
    command = [sys.executable, "-m", "personalib", "sweep", str(tmp_path / "tiny.yaml"), "--output-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(repository_root()), "PERSONALIB_DATA": str(small_data)}
    environment["TMPDIR"] = str(tmp_path)  # what a killed process leaves there
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + WAIT_SECONDS
        while process.poll() is None and not point_folder(folder, "seed=0").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = point_folder(folder, "seed=0")
    # What a process leaves that is killed while it writes.
    draft = point_folder(folder, ".seed=1.partial")
    draft.mkdir()
    (draft / "01_tiny.manifest.json").write_text("{}")
    assert states(sweep, folder) == ["done", "to do", "to do"] and not (folder / "tables").exists()

    before, engine = files(left), CountingEngine()
    run_sweep(sweep, folder, engine)
    assert engine.names == ["seed=1", "seed=2"] and files(left) == before
    assert not draft.exists() and (folder / "tables" / "found.csv").read_text().count("\n") == 4


def test_a_second_process_is_refused(declare, tmp_path):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"

    class Meanwhile(LocalEngine):
        def run(self, start, jobs, gpu=False):
            run_sweep(sweep, folder)

    with pytest.raises(DataError, match="out: another process runs a sweep here; wait for its end"):
        run_sweep(sweep, folder, Meanwhile())


def test_what_was_made_of_an_input_that_changed_meanwhile_is_not_in_the_tables(declare, tmp_path, small_data):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"

    class Meanwhile(LocalEngine):
        def run(self, start, jobs, gpu=False):
            yield from super().run(start, jobs, gpu)
            (small_data / "numbers.csv").write_text("2\n")

    [outcome] = run_sweep(sweep, folder, Meanwhile())
    assert outcome.failure == "an input was changed while points were run; run it again"
    assert states(sweep, folder) == ["to do"] and not (folder / "tables").exists()


def test_a_worker_with_other_inputs_is_refused(declare, tmp_path, small_data):
    sweep, folder = declare(vary={"seed": [0]}), tmp_path / "out"

    class Elsewhere(LocalEngine):
        def run(self, start, jobs, gpu=False):
            jobs = list(jobs)
            (small_data / "numbers.csv").write_text("2\n")
            return super().run(start, jobs, gpu)

    with pytest.raises(DataError, match="a worker has another version of the notebook, of personalib, of its data"):
        run_sweep(sweep, folder, Elsewhere())
    assert not list((folder / "points").glob("*"))


def test_a_notebook_that_is_not_on_the_workers_machine_is_one_error(declare, tmp_path):
    sweep = declare(vary={"seed": [0]})

    class Elsewhere(LocalEngine):
        def run(self, start, jobs, gpu=False):
            jobs = list(jobs)
            sweep.chapter.path.unlink()
            return super().run(start, jobs, gpu)

    with pytest.raises(DataError, match=r"a worker: .*no such notebook.*; have the same notebook on every machine"):
        run_sweep(sweep, tmp_path / "out", Elsewhere())


def test_a_gpu_is_asked_for_where_a_point_names_one(declare, tmp_path):
    engine = CountingEngine()
    run_sweep(declare(vary={"device": ["cpu", "cuda:0"]}, fixed={"word": "bad"}), tmp_path / "out", engine)
    assert engine.gpu is True


def test_a_cluster_finds_the_same_bytes_and_tells_of_failures_alike(declare, tmp_path, monkeypatch):
    """Ray itself sets the number of threads of its workers; what counts is that of the caller."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    sweep = declare(vary={"word": ["good", "bad"], "seed": [1]})
    here = run_sweep(sweep, tmp_path / "here")
    there = run_sweep(sweep, tmp_path / "there", ray_engine())
    assert [one.state for one in there] == [one.state for one in here] == ["done", "failed"]
    same = "points/word=good,seed=1/results/01_tiny/found.csv"
    one, other = files(tmp_path / "here"), files(tmp_path / "there")
    assert set(one) == set(other) and one[same] == other[same]
    assert one["tables/found.csv"] == other["tables/found.csv"] and b",2\n" in other["tables/found.csv"]
    failure = "points/word=bad,seed=1/failure.txt"
    assert one[failure] == other[failure]


def test_a_lost_machine_costs_no_point(declare, tmp_path, monkeypatch):
    """Two machines, as processes of this one; one of them is gone as soon as a point is written."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = declare(vary={"seed": [0, 1, 2, 3, 4]})
    run_sweep(sweep, tmp_path / "here")
    room = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=room)
    cluster.add_node(**room)
    cluster.wait_for_nodes()
    publish, written = sweep_runs._publish, []

    def losing(*arguments):
        publish(*arguments)
        written.append(1)
        if len(written) == 1:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    monkeypatch.setattr(sweep_runs, "_publish", losing)
    try:
        outcomes = run_sweep(sweep, tmp_path / "there", RayEngine(cluster.address, 2, start_seconds=WAIT_SECONDS))
        assert len(cluster.list_all_nodes()) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [one.state for one in outcomes] == ["done"] * 5 and len(written) == 5
    one, other = files(tmp_path / "here"), files(tmp_path / "there")
    tables = [name for name in one if name.endswith(".csv") and name != "points.csv"]
    assert len(tables) == 6 and all(one[name] == other[name] for name in tables)
