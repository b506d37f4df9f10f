"""Jobs on a cluster of two machines, of which processes are killed: the results are those of this process alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import ray
import torch
import yaml
from cli.test_evaluate import GRID as SMALL
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.cli.evaluate import evaluate
from personalib.evaluation.blocks import Options
from personalib.evaluation.engines import LocalEngine, map_jobs
from personalib.evaluation.plan import parse_plan
from personalib.evaluation.ray_workers import RayEngine
from personalib.evaluation.runs import run_plan
from personalib.evaluation.shards import Asker
from personalib.evaluation.store import AnswerStore
from personalib.models.load import load_model

GRID = SMALL.replace("count: 4}", "count: 15, positions: prompt}").replace("batch_size: 4", "batch_size: 8")
# Seconds to connect to a cluster that is there, however busy the machine is.
PATIENCE = 60.0


# As many threads in this process as in those that it starts.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cluster():
    """Two machines with room for one worker each, as two processes of this one."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    made.add_node(num_cpus=1, object_store_memory=10**8)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def engine(cluster):
    """The cluster with both machines."""
    if len(cluster.list_all_nodes()) < 2:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    return RayEngine(cluster.address, 2, connect_seconds=PATIENCE, start_seconds=120)


@pytest.fixture
def connected(engine):
    """The cluster, to which this process stays connected from here on: workers start sooner."""
    if not ray.is_initialized():
        ray.init(engine.address, log_to_driver=False)
    yield engine
    assert ray.is_initialized(), "a connection of somebody else is not closed"


@pytest.fixture(scope="module")
def plan():
    return parse_plan(yaml.safe_load(GRID))


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """What this process alone answers."""
    folder = tmp_path_factory.mktemp("whole")
    [run] = run_plan(plan, folder)
    assert run.manifest["engine"] == "local"
    return contents(folder, plan)


def contents(folder, plan):
    place = folder / plan.models[0].folder
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*.parquet")}


# Jobs of any kind


def test_a_killed_process_costs_no_result(engine, tmp_path):
    """The first to have the job ends itself; whoever is in its place does it."""
    mark = tmp_path / "was here"

    def job(number):
        if number == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2

    found = dict(map_jobs(job, [(f"job {number}", number) for number in range(8)], engine))
    assert mark.exists() and found == {f"job {number}": number**2 for number in range(8)}
    assert not ray.is_initialized(), "it leaves nothing open"


def test_an_address_where_nothing_is_or_something_else_is_one_error_in_time():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for port in (1, listener.getsockname()[1]):
            before = time.monotonic()
            with pytest.raises(DataError, match=f"Ray at 127.0.0.1:{port}: .*; start it with `ray start --head"):
                list(map_jobs(str, [("job", 1)], RayEngine(f"127.0.0.1:{port}", connect_seconds=3)))
            assert time.monotonic() - before < 10


def test_a_job_that_loses_every_worker_is_one_error_that_names_it(connected):
    def job(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    found = []
    with pytest.raises(DataError, match=r"deadly: a worker was lost 2 times \(ActorDiedError\); what is done is kept"):
        found.extend(map_jobs(job, [("good", 0), ("deadly", 1)], replace(connected, workers=1, tries=2)))
    assert found == [("good", 0)]


def test_workers_that_are_lost_before_they_are_ready_are_one_error(connected):
    def start():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match="before it was ready: a worker was lost 2 times"):
        list(replace(connected, workers=1, tries=2).run(start, [("job", 1)]))


def test_an_error_of_a_job_or_of_a_start_is_passed_on_and_not_tried_again(connected, tmp_path):
    def job(number):
        (tmp_path / str(time.time_ns())).touch()
        raise ValueError(f"no {number}")

    def start():
        raise DataError("no such model")

    alone = replace(connected, workers=1)
    with pytest.raises(ValueError, match=r"^no 1$"):
        list(map_jobs(job, [("job", 1)], alone))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(DataError, match=r"^no such model$"):
        list(alone.run(start, [("job", 1)]))


def test_without_a_job_nothing_is_connected_to():
    assert list(map_jobs(str, [], RayEngine("127.0.0.1:1"))) == []


def test_no_room_is_one_error(cluster, connected):
    with pytest.raises(DataError, match="3 workers need a CPU each, and the cluster has 2; take fewer workers"):
        list(map_jobs(str, [("job", 1)], RayEngine(cluster.address, 3, connect_seconds=PATIENCE)))
    with pytest.raises(DataError, match="1 workers need a GPU each, and the cluster has 0"):
        list(map_jobs(str, [("job", 1)], RayEngine(cluster.address, connect_seconds=PATIENCE), gpu=True))


def test_an_address_without_the_engine_is_a_usage_error():
    ended = CliRunner().invoke(evaluate, ["organism", "--address", "auto"])
    assert ended.exit_code == 2 and "--address and --workers are of a cluster; add --engine ray" in ended.output


# Evaluations


def test_shards_asked_in_this_process_answer_the_same_byte_for_byte(plan, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(Options, "passes", 1)
    run_plan(plan, tmp_path, engine=LocalEngine())
    assert contents(tmp_path, plan) == whole


def test_a_driver_is_killed_and_then_a_machine_is_lost_and_the_answers_are_the_same_byte_for_byte(
    cluster, connected, plan, whole, tmp_path, monkeypatch
):
    driver_is_killed(connected.address, tmp_path, after=3)
    left = contents(tmp_path / "out", plan)
    assert 3 <= len(left) < len(whole) - 10 and left.items() <= whole.items()

    monkeypatch.setattr(Options, "passes", 1)
    written, add = [], AnswerStore.add

    def losing(self, replies):
        add(self, replies)
        written.append(1)
        if len(written) == 3:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    monkeypatch.setattr(AnswerStore, "add", losing)
    [run] = run_plan(plan, tmp_path / "out", engine=connected)
    assert len(cluster.list_all_nodes()) == 1 and len(written) > 6
    assert contents(tmp_path / "out", plan) == whole
    assert run.manifest["engine"] == "ray"


def driver_is_killed(address, folder, after):
    """Run the plan from the command line, and kill the process when there are so many files of answers."""
    (folder / "grid.yaml").write_text(GRID)
    command = [sys.executable, "-m", "personalib", "evaluate", "grid.yaml", "--output-dir", "out", "--engine", "ray"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository_root())}
    with subprocess.Popen([*command, "--address", address], cwd=folder, env=environment) as driver:
        while driver.poll() is None and len(list(folder.glob("out/*/parts/*.parquet"))) < after:
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)


def test_a_worker_with_another_model_is_refused(plan):
    language_model = load_model()
    asker = Asker.of(language_model, [()], "another key", 8)
    with pytest.raises(DataError, match="same weights, and another configuration or tokenizer, or another version"):
        asker()
    with torch.no_grad():
        language_model.model.model.embed_tokens.weight[40] += 1.0
    changed = Asker.of(language_model, [()], "another key", 8)
    with pytest.raises(DataError, match=f"has weights {asker.weights}, .* has {changed.weights}; have the same"):
        changed()
