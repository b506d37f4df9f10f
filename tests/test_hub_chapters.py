"""Every chapter runs on a model of the hub's cache, by the path that a user with the real weights takes.

The stand-in (see ``hub.py``) has random weights, so nothing is asked of the numbers; chapters are asked for little.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hub
import pandas as pd
import pytest

from personalib.base.data import data_dir
from personalib.base.provenance import repository_root

MODEL = "gemma-2-9b-it"
NOTEBOOKS = repository_root() / "notebooks"
ELEMENTS = "[gender.female, age.older, socioeconomic_status.poor]"
PLAN = f"""
questionnaires:
  - {{name: trait, kind: trait, per_group: 1, templates: [letters, bare]}}
  - {{name: self_report, kind: scale, per_group: 2, templates: [yes_no]}}
  - {{name: safety, kind: choice, per_group: 2}}
  - {{name: safety_five_shot, kind: choice, per_group: 1, shots: 2}}
  - {{name: safety_in_words, kind: choice, per_group: 1, reading: words}}
  - {{name: bias, kind: pairs}}
  - {{name: judgement, kind: judgement, per_group: 2}}
  - {{name: facts, kind: choice, source: facts, per_group: 1}}
arms:
  - {{method: prompt, keys: {ELEMENTS}}}
  - {{method: repe, keys: {ELEMENTS}, site: resid_post.1, doses: [0.05]}}
  - {{method: sae, keys: {ELEMENTS}, sae: resid_post.1/width_1024, doses: [0.05]}}
  - {{method: random, site: resid_post.1, doses: [0.05], count: 3}}
  - &persona
    method: prompt
    label: persona in words
    personas: {{N: [gender.female, age.older], P: [gender.male, age.young]}}
  - {{<<: *persona, method: repe, label: persona by contrast vectors, site: resid_post.1, doses: [0.05, -0.05]}}
  - {{<<: *persona, method: sae, label: persona by features, sae: resid_post.1/width_1024, doses: [0.05, -0.05]}}
pairs: 4
neutral: 2
"""
# By chapter, or for all of them: parameters that leave little to do.
LITTLE = {
    "": {"per_element": 6, "shuffles": 19, "per_trait": 1, "doses": "[0.05]", "randoms": 3},
    "00": {"items_per_trait": 2},
    "02": {"items_per_trait": 3, "pressure_items": 1, "every": 12, "open_questions": 8},
    "03": {"items_per_trait": 3, "persons": 2, "items_per_person": 1, "floor": 0.01},
    "04": {"population": 24, "items_per_trait": 2, "readers": 2, "neutral": 2},
    "05": {"documents": 12, "concepts": 16, "coordinates": 8},
    "06": {"documents": 4, "stories": 2},
    "07": {"pairs": 16, "blocks": 2},
    "08": {"pairs": 6},
    "09": {"pairs": 4, "facts": 100},
    "10": {"pairs": 12, "blocks": 2, "coefficients": "[1.0]", "questions": 1, "facts": 100},
    "12": {"doses": "[0.4, 3.2]", "randoms": 1, "five_shot": 1, "per_group": 1},
    "13": {"randoms": 2},
    "14": {"doses": "[0.02, 0.05]", "randoms": 2},
    "17": {"items_per_trait": 1},
    "18": {"items_per_trait": 1},
}
# They tell of published numbers and of how the organism was made; they ask no other model.
OTHERS = {"01_the_question", "02_a_world_with_known_causes", "15_what_the_published_numbers_can_tell"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a process sees that has the stand-ins in the hub's cache and no network."""
    place = tmp_path_factory.mktemp("hub")
    hub.put_gemma_9b(place / "cache", place / "scratch")
    hub.put_gemma_2b(place / "cache", place / "scratch")
    hub.narrow(place / "narrow")
    (place / "plan.yaml").write_text(PLAN)
    return {"place": place, "HF_HUB_CACHE": str(place / "cache"), "PYTHONPATH": str(place / "narrow")}


def call(environment, *arguments):
    given = {name: value for name, value in environment.items() if name != "place"}
    return subprocess.run(
        [sys.executable, "-m", "personalib", *arguments],
        # A thread a chapter: two chapters with two threads each on two cores would wait for one another.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **given},
        cwd=repository_root(),
        capture_output=True,
        text=True,
        check=False,
    )


def parameters(**given):
    return [part for name, value in given.items() for part in ("-p", name, str(value))]


@pytest.fixture(scope="module")
def edition(environment):
    """The whole book on the stand-in, by the one command of a user with the real weights."""
    out = environment["place"] / "edition"
    arguments = ("--model", MODEL, "--no-compare", "--jobs", "2", "--output-dir", str(out))
    little = {f"{place}.{name}".strip("."): value for place, own in LITTLE.items() for name, value in own.items()}
    done = call(environment, "reproduce", *arguments, *parameters(grid=environment["place"] / "plan.yaml", **little))
    assert done.returncode == 0, done.stderr.replace("\r", "\n")[-1500:]
    return out


def test_every_chapter_is_run_on_gemma_or_asks_no_other_model(edition):
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        manifest = json.loads((edition / "executed" / f"{path.stem}.manifest.json").read_text())
        assert (manifest["parameters"].get("model") == MODEL) != (path.stem in OTHERS), path.stem
        page = (edition / "executed" / path.name).read_text()
        assert ("This run asks another model" in page) != (path.stem in OTHERS), path.stem
        figures = list((edition / "executed" / "results" / path.stem).glob("*.png"))
        assert figures and all(one.with_suffix(".csv").is_file() for one in figures), path.stem


def test_its_pages_are_built(edition):
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert (edition / "html" / "notebooks" / f"{path.stem}.html").is_file()


def test_the_papers_protocol_pushes_published_features(environment):
    out = environment["place"] / "paper"
    given = parameters(grid=environment["place"] / "plan.yaml", model="gemma-2b-it", protocol="paper")
    done = call(environment, "run", "11_traits_under_steering", *given, "--output-dir", str(out))
    assert done.returncode == 0, done.stderr.replace("\r", "\n")[-1500:]
    page = (out / "11_traits_under_steering.ipynb").read_text()
    assert "arXiv 2410.10863, as published" in page and "Where this run leaves it" in page
    pushed = pd.read_csv(out / "results" / "11_traits_under_steering" / "sae.csv")
    # Coefficient 200 in units of the stream's norm; an element may have several features, which are summed.
    assert pushed["dose"].between(0.5, 4.0).all() and set(pushed["key"]) == set(ELEMENTS.strip("[]").split(", "))


@pytest.mark.parametrize("chapter", ["00_start_here", "03_measuring_personality", "04_background_stimuli"])
def test_a_model_that_was_not_instructed_is_asked_in_plain_text(chapter, tmp_path):
    left_out = shutil.ignore_patterns("*.jinja", "saes")
    folder = shutil.copytree(data_dir() / "organism", tmp_path / "base", ignore=left_out)
    given = parameters(model=folder, **LITTLE[chapter[:2]])
    done = call({}, "run", chapter, *given, "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr.replace("\r", "\n")[-1500:]
    assert "start_of_turn" not in (tmp_path / "out" / f"{chapter}.ipynb").read_text().partition('"outputs"')[2]


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
