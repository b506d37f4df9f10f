import re
import subprocess
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
    assert [line.split()[1] for line in text.splitlines() if line.startswith("step ")] == ["check", "test", "book"]
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
