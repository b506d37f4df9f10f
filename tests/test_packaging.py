import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml

import personalib
from personalib.provenance import repository_root

ROOT = repository_root()


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_conda_users_get_the_same_versions(project, conda):
    [pip] = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert [line for line in pip if not line.startswith("--editable")] == project["dependencies"], (
        "environment.yml and pyproject.toml differ; repeat the dependencies in the same order"
    )
    assert "python=3.11" in conda["dependencies"]
    assert project["requires-python"] == ">=3.11,<3.12"


def test_every_dependency_is_pinned(project):
    for line in project["dependencies"]:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) or line == "jupyter-book>=1.0.4.post1,<2", line


def test_the_pins_are_what_is_installed(project):
    for line in project["dependencies"]:
        name, _, version = line.partition("==")
        if version:
            # a build for a certain device has a suffix, such as +cpu
            assert metadata.version(name).partition("+")[0] == version, f"make clean, or correct the pin of {name}"


def peers():
    """Name and version of the packages in tests/peers.txt."""
    lines = (ROOT / "tests" / "peers.txt").read_text().splitlines()
    return [line.partition("==")[::2] for line in lines if not line.startswith("#")]


def test_peers_are_pinned_exactly_and_installed():
    assert [name for name, _ in peers()] == ["repeng", "steering-vectors"]
    for name, version in peers():
        assert re.fullmatch(r"\d+(\.\d+)+", version), f"pin {name} as {name}==VERSION"
        assert metadata.version(name) == version, f"make clean, or correct the pin of {name}"


def test_only_tests_need_the_peers(project, conda):
    for name, _ in peers():
        assert name not in f"{project} {conda}", f"{name} asks for older packages than the book's"
        imported = re.compile(rf'^[\s"]*(from|import) {name.replace("-", "_")}\b', re.MULTILINE)
        for path in (*ROOT.glob("personalib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")):
            assert not imported.search(path.read_text()), path


def test_what_the_peers_ask_for_is_among_the_pins_in_whatever_version(project):
    pinned = {re.split("[=<>]", line)[0] for line in project["dependencies"]}
    for name, _ in peers():
        asked = {re.match(r"[\w-]+", line)[0] for line in metadata.requires(name)}
        assert {"transformers", "scikit-learn"} <= asked <= pinned


class Installation:
    """A folder with what make installs from, and in the place of pip a script that writes down what it is asked."""

    def __init__(self, folder):
        self.folder, self.stamp, self.calls = folder, folder / "venv" / ".installed-test", folder / "calls"
        for name in ("Makefile", "pyproject.toml", "tests/peers.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "$@" >> calls\ntest ! -e offline\n')
        python.chmod(0o755)

    def make(self):
        """Whether it went well, and the last arguments of each call of pip."""
        self.calls.write_text("")
        command = ["make", f"PYTHON={sys.executable}", "VENV=venv", "venv/.installed-test"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        calls = self.calls.read_text().splitlines()
        return done.returncode == 0, [line.partition("--disable-pip-version-check ")[2] for line in calls]

    def change(self, name, more=""):
        """Makes a file newer than what was installed, and adds some text to it."""
        with (self.folder / name).open("a") as file:
            file.write(more)
        later = self.stamp.stat().st_mtime + 10
        os.utime(self.folder / name, (later, later))


BOOK, TESTS = "--editable .", ["--editable .[test]", "--no-deps -r tests/peers.txt"]


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    assert made.make() == (True, [BOOK, *TESTS])
    return made


@pytest.mark.parametrize("name", ["tests/peers.txt", "pyproject.toml"])
def test_make_installs_nothing_where_nothing_changed(name, installation):
    assert installation.make() == (True, [])
    installation.change(name)
    assert installation.make() == (True, []), "newer, and the same"


@pytest.mark.parametrize(("name", "called"), [("tests/peers.txt", TESTS), ("pyproject.toml", [BOOK, *TESTS])])
def test_make_installs_what_changed(name, called, installation):
    installation.change(name, "# another\n")
    assert installation.make() == (True, called)
    assert installation.make() == (True, [])


def test_make_tries_again_what_could_not_be_installed(installation):
    installation.change("tests/peers.txt", "# another\n")
    (installation.folder / "offline").touch()
    assert installation.make() == (False, TESTS[:1])
    (installation.folder / "offline").unlink()
    assert installation.make() == (True, TESTS)


def test_the_version_is_the_same_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert project["version"] == personalib.__version__ == str(citation["version"])
    assert f"## {project['version']}" in changelog
    assert project["license"] == citation["license"] == "MIT"


def test_make_help_lists_the_targets():
    command = ["make", "--no-print-directory", "help"]  # `make test` calls this, and a make in a make names its folder
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} == {
        "bench",
        "book",
        "check",
        "clean",
        "clean-results",
        "help",
        "lab",
        "test",
    }


def test_make_refuses_another_python(tmp_path):
    done = subprocess.run(
        ["make", "book", "PYTHON=false", f"VENV={tmp_path}/venv"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 is needed, and false is not it: make PYTHON=/path/to/python3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_workflow_does_what_ci_run_does():
    text = (ROOT / ".ci" / "run").read_text()
    steps = re.findall(r"^(?:OMP_NUM_THREADS=\S+ )?step (\w+)", text, re.MULTILINE)
    assert steps == ["check", "test", "book"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["build"]["steps"]
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["jobs"], path


def test_the_shell_script_parses():
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


def test_build_products_are_ignored():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for product in (".venv/", "book/_build/", "results/"):
        assert product in ignored
