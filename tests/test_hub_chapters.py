"""Chapters run on a model of the hub's cache, by the path that a user with the real weights takes.

The stand-in (see ``hub.py``) has weights of chance, so nothing is asked of the numbers; chapters are asked for little.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest

from personalib.provenance import repository_root

MODEL = "gemma-2-9b-it"
LITTLE = {
    "00_start_here": {"items_per_trait": 2},
    "05_what_is_a_feature": {"documents": 12, "per_element": 6, "concepts": 16, "coordinates": 8},
    "06_finding_background_features": {"per_element": 6, "shuffles": 19, "documents": 4, "stories": 2},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a process sees that has the stand-in in the hub's cache and no network."""
    place = tmp_path_factory.mktemp("hub")
    hub.put_gemma_9b(place / "cache", place / "scratch")
    hub.narrow(place / "narrow")
    return {"place": place, "HF_HUB_CACHE": str(place / "cache"), "PYTHONPATH": str(place / "narrow")}


def call(environment, *arguments):
    given = {name: value for name, value in environment.items() if name != "place"}
    return subprocess.run(
        [sys.executable, "-m", "personalib", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **given},
        cwd=repository_root(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("chapter", sorted(LITTLE))
def test_a_chapter_runs_on_gemma(chapter, environment):
    given = {"model": MODEL, **LITTLE[chapter]}
    parameters = [part for name, value in given.items() for part in ("-p", name, str(value))]
    out = environment["place"] / "out"
    done = call(environment, "run", chapter, *parameters, "--output-dir", str(out))
    assert done.returncode == 0, done.stderr.replace("\r", "\n")[-1500:]
    manifest = json.loads((out / f"{chapter}.manifest.json").read_text())
    assert manifest["parameters"]["model"] == MODEL
    page = (out / f"{chapter}.ipynb").read_text()
    assert "This run asks another model" in page
    figures = list((out / "results" / chapter).glob("*.png"))
    assert figures and all(path.with_suffix(".csv").is_file() for path in figures)


def test_without_the_weights_there_is_one_message(tmp_path):
    environment = {"HF_HUB_CACHE": str(tmp_path)}
    done = call(environment, "run", "00_start_here", "-p", "model", MODEL, "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    for part in ("gemma-2-9b-it", "18.5 GB", "hf download google/gemma-2-9b-it --revision 11c9b309abf7"):
        assert part in message
    assert not Path(tmp_path / "out" / "00_start_here.ipynb").exists()


def test_without_the_sae_there_is_one_message(environment, tmp_path):
    hidden = {**environment, "HF_HUB_CACHE": str(tmp_path)}
    source = Path(environment["HF_HUB_CACHE"]) / "models--google--gemma-2-9b-it"
    (tmp_path / source.name).symlink_to(source)
    out = tmp_path / "out"
    done = call(hidden, "run", "05_what_is_a_feature", "-p", "model", MODEL, "--output-dir", str(out))
    message = done.stderr.replace("\r", "\n").strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "hf download google/gemma-scope-9b-it-res --include 'layer_31/width_131k/average_l0_109/*'" in message
