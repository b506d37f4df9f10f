"""The chapter about more machines as a remote run gives the numbers of a local run: rehearsed, and over HTTP."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from personalib.base.provenance import repository_root
from personalib.models.registry import ORGANISM, find_entry

CHAPTER = "18_more_than_one_machine"
LITTLE = ("-p", "items_per_trait", "1", "-p", "pairs", "4", "-p", "randoms", "2")
NAME, COMMIT = "somebody/model", "0123456789abcdef0123456789abcdef01234567"
KEY = "right"


def run(out, *parameters, **environment):
    known = {name: value for name, value in os.environ.items() if not name.startswith("NDIF")}
    return subprocess.run(
        [sys.executable, "-m", "personalib", "run", CHAPTER, *LITTLE, *parameters, "--output-dir", str(out)],
        env={**known, "HF_HUB_OFFLINE": "1", **environment},
        cwd=repository_root(),
        capture_output=True,
        text=True,
        check=False,
    )


def said(page):
    """All that the cells of a page put out."""
    return json.dumps([cell.get("outputs") for cell in json.loads(page.read_text())["cells"]])


def done(out, *parameters, **environment):
    """The folder of a run that went well."""
    found = run(out, *parameters, **environment)
    assert found.returncode == 0, found.stderr.replace("\r", "\n")[-1500:]
    return out


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A folder with a model, as a service holds it."""
    place = tmp_path_factory.mktemp("remote") / "models"
    shutil.copytree(find_entry(ORGANISM).source, place / "model")
    return place


@pytest.fixture(scope="module")
def local(held):
    return done(held.parent / "local", "-p", "model", str(held / "model"))


@pytest.fixture(scope="module")
def rehearsed(held):
    given = ("-p", "model", str(held / "model"), "-p", "remote", "true")
    return done(held.parent / "rehearsed", *given, NDIF_HOST="rehearsal")


@pytest.fixture(scope="module")
def served(held):
    """The output of a run by a service, where the hub's cache has a configuration and a tokenizer alone."""
    place = held.parent
    base = place / "hub" / f"models--{NAME.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(COMMIT)
    weightless = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(held / "model", base / "snapshots" / COMMIT, ignore=weightless)
    # The hub is asked how a name is spelt, which it cannot be here.
    (place / "site").mkdir()
    known = f"from nnsight.modeling import huggingface\nhuggingface._ID_CACHE[{NAME!r}] = {NAME!r}\n"
    (place / "site" / "sitecustomize.py").write_text(known)
    environment = {"HF_HUB_CACHE": str(place / "hub"), "PYTHONPATH": str(place / "site"), "NDIF_API_KEY": KEY}
    script = Path(__file__).with_name("remote_service.py")
    command = [sys.executable, str(script), str(held), "somebody"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        host = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        try:
            return done(place / "served", "-p", "model", NAME, "-p", "remote", "true", NDIF_HOST=host, **environment)
        finally:
            process.terminate()


@pytest.fixture(params=["rehearsed", "served"])
def results(request, local):
    """Folders with the output of a local and of a remote run."""
    return local, request.getfixturevalue(request.param)


def tables(results, name):
    return [pd.read_csv(out / "results" / CHAPTER / f"{name}.csv") for out in results]


def test_steering_by_a_service_gives_what_a_local_run_gives(results):
    here, there = tables(results, "steered")
    pd.testing.assert_frame_equal(there, here, rtol=1e-4, atol=1e-3)
    assert len(here) == 6 and here["value"].notna().all() and (here["value"] != 0).all()


def test_its_questionnaire_gives_what_a_local_run_gives(results):
    here, there = tables(results, "items")
    pd.testing.assert_frame_equal(there, here, rtol=0, atol=1e-3)
    assert here["truth"].abs().max() > 1


def test_the_page_says_what_was_left_out(results):
    here, there = (said(out / f"{CHAPTER}.ipynb") for out in results)
    assert "not checked by a run" in there and "not checked by a run" not in here
    assert json.loads((results[1] / f"{CHAPTER}.manifest.json").read_text())["parameters"]["remote"] is True


def test_the_page_says_who_ran_the_model(local, rehearsed, served):
    here, trial, there = (said(out / f"{CHAPTER}.ipynb") for out in (local, rehearsed, served))
    assert "This was a rehearsal of a remote run" in trial
    assert "The model of this page is run by http://127.0.0.1:" in there.replace("\\", "")
    assert "rehearsal" not in here + there and "is run by" not in here + trial


def test_what_no_service_has_is_one_message(tmp_path):
    found = run(tmp_path, "-p", "remote", "true")
    message = found.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "organism: is on this machine, and no service has it" in message and "NDIF_HOST=rehearsal" in message
    assert not (tmp_path / f"{CHAPTER}.ipynb").exists()
