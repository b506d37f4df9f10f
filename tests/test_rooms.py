"""The rooms of the library: what each hands on is there, and is on the library's page."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from personalib.base.provenance import package_dir, repository_root

ROOMS = sorted(path.parent.name for path in package_dir().glob("*/__init__.py"))


def test_the_top_folder_holds_nothing_but_rooms():
    files = {path.name for path in package_dir().glob("*.py")}
    assert files == {"__init__.py", "__main__.py"} and len(ROOMS) <= 12


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "cli"])
def test_a_room_hands_on_what_its_page_says(room):
    module = importlib.import_module(f"personalib.{room}")
    page = (repository_root() / "book" / "api.md").read_text()
    told = re.search(rf"^## `{room}`\n.*?It hands on\n(.*?)\.\n", page, re.DOTALL | re.MULTILINE)[1]
    names = re.findall(r"`~?([\w.]+)`", told)
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_the_page_shows_whatever_a_module_on_it_defines():
    page = (repository_root() / "book" / "api.md").read_text()
    blocks = dict(re.findall(r"^\.\. automodule:: personalib\.(\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    sources = {name: (package_dir() / f"{name.replace('.', '/')}.py").read_text() for name in blocks}
    defined = {name for name, source in sources.items() if re.search(r"^(?:def|class) [^_]", source, re.MULTILINE)}
    assert {name for name in defined if ":members:" not in blocks[name]} == set()


def test_every_module_has_its_tests_in_the_folder_of_its_name():
    for path in Path(__file__).parent.glob("*/test_*.py"):
        assert path.parent.name in ROOMS


HEAVY = ("sae_lens", "transformer_lens", "wandb", "sklearn", "statsmodels", "seaborn", "datasets")
STEERING = """
from personalib.steering import Add, Clamp, ask_steered, generate, steer
from personalib.evaluation import Arm, choose_push, effects, evaluate"""
QUESTIONS = "from personalib.questionnaires import kinds, questions"


@pytest.mark.parametrize(
    ("used", "heavy"), [(STEERING, HEAVY), (QUESTIONS, (*HEAVY, "torch"))], ids=["steering", "questionnaires"]
)
def test_nothing_is_loaded_that_is_not_needed(used, heavy):
    told = f"import sys\n{used}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=repository_root())
    assert done.stdout == "[]\n", done.stderr


def test_what_contributors_are_told_to_look_at_is_there():
    page = (repository_root() / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| [a-z].*?\| (.*) \|$", page, re.MULTILINE)
    named = [re.findall(r"`([\w./]+)`", row) for row in rows]
    assert len([one for one in named if 1 <= len(one) <= 2]) >= 10
    assert [one for files in named for one in files if not (repository_root() / one).exists()] == []
