"""Commands that are ended at any moment and started again leave the files of a run that nothing stopped.

Each is ended once here. ``PERSONALIB_KILLS=20 python -m pytest tests/test_kills.py`` ends each so many times.
"""

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli.conftest import RECIPE
from filelock import lock_descriptor
from organism.conftest import TINY

from personalib.__main__ import main
from personalib.stimuli.backgrounds import draw_backgrounds
from personalib.stimuli.paper_files import publish, save_backgrounds

# What the commands import when they are called: once here, and not in every process.
MODULES = "vectors.contrast evaluation.runs organism.training features.training stimuli.writers stimuli.assignments"
for module in MODULES.split():
    importlib.import_module(f"personalib.{module}")

KILLS = int(os.environ.get("PERSONALIB_KILLS", "1"))
PATIENCE = 240
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SECRET = "sk-not-to-be-written-anywhere"
INPUTS = {
    "plan.yaml": {
        "questionnaires": [{"name": "trait", "kind": "trait", "per_group": 1}],
        "arms": [{"method": "random", "site": "resid_post.1", "doses": [0.4], "count": 2}],
        "neutral": 2,
        "pairs": 4,
        "batch_size": 4,
    },
    "saes.yaml": RECIPE | {"samples": 64 * 40, "saes": RECIPE["saes"][:1]},
    "organism.yaml": TINY | {"tokenizer": {"vocabulary": 1200, "documents": 300}, "stages": TINY["stages"][:1]},
}
COMMANDS = {
    "evaluate": "evaluate plan.yaml --output-dir out",
    "sae": "sae train --recipe saes.yaml --work work --out out",
    "organism": "organism train --recipe organism.yaml --work work --out out",
    "contrast": "contrast fit --pairs 8 --work work --out out",
    "backgrounds": "backgrounds generated people.json --out out/stories.json",
}


# One thread, so that sums are rounded alike, and a process that is forked has no thread to wait for.
pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder, command):
    """The command line in a process of its own, which has imported everything already."""
    os.chdir(folder)
    os.environ["OPENAI_API_KEY"] = SECRET
    sys.stdout = sys.stderr = Path("messages").open("w", buffering=1)  # noqa: SIM115 - the process ends with it
    sys.argv = ["personalib", *command.split()]
    main()


def start(folder, command):
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, command))
    process.start()
    return process


def ended(process):
    """Its exit code; one that does not end is killed, since nothing ends while a process of its own is there."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def is_stopped_and_holds_a_lock(process, folder):
    """Stop a process; it goes on where it holds no lock yet: a lock is a file first, and held a moment later."""
    os.kill(process.pid, signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (folder / "messages").read_text()
    for path in (*folder.rglob(".lock"), *folder.rglob("batches.jsonl")):
        with path.open("r+b") as file:
            if not lock_descriptor(file.fileno(), blocking=False):
                return True
    os.kill(process.pid, signal.SIGCONT)
    return False


def prepared(folder):
    (folder / "out").mkdir(parents=True)
    for name, content in INPUTS.items():
        (folder / name).write_text(yaml.safe_dump(content))
    save_backgrounds((publish(one) for one in draw_backgrounds(40, seed=3)), folder / "people.json")
    return folder


def contents(folder):
    """The data files; manifests and logs tell times."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in (".safetensors", ".parquet", ".npy") or path.name in ("stories.json", "tokenizer.json"):
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.name == "training_log.jsonl":
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            found[str(path.relative_to(folder))] = [entry | {"seconds": 0} for entry in entries]
    return {name: own for name, own in found.items() if not name.endswith("checkpoint.safetensors")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_ended_at_any_moment_ends_as_if_nothing_had_been(name, tmp_path):
    rng, command = random.Random(name), COMMANDS[name]
    whole, broken = prepared(tmp_path / "whole"), prepared(tmp_path / "broken")
    began = time.monotonic()
    assert ended(start(whole, command)) == 0, (whole / "messages").read_text()
    duration = time.monotonic() - began
    for kill in range(KILLS):
        process = start(broken, command)
        process.join(rng.uniform(0.1, 0.7) * duration)
        if process.is_alive():  # the later ones have less to do
            os.kill(process.pid, SIGNALS[(kill + list(COMMANDS).index(name)) % len(SIGNALS)])
        ended(process)
    assert ended(start(broken, command)) == 0, (broken / "messages").read_text()
    assert contents(broken) == contents(whole) != {}
    assert not [path for path in broken.rglob("*") if path.name.endswith((".partial", ".lock", ".draft"))]
    assert not [path for path in broken.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "backgrounds"])
def test_a_second_process_is_refused(name, tmp_path):
    """While one is at work in the folders; what it writes is not touched."""
    folder = prepared(tmp_path / "one")
    first = start(folder, COMMANDS[name])
    while not is_stopped_and_holds_a_lock(first, folder):
        time.sleep(0.001)
    try:
        assert ended(start(folder, COMMANDS[name])) == 2 and "another process" in (folder / "messages").read_text()
    finally:
        os.kill(first.pid, signal.SIGCONT)
        code = ended(first)
    assert code == 0
