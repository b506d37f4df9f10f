import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from functools import cache
from importlib import metadata

import pytest
import yaml

import personalib
from personalib.base.provenance import repository_root
from personalib.book.chapters import Chapter, source_text

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


# The lists of packages


def locked(*names):
    """Version by name of the packages in some of the lists, each of which has hashes and no address of a file."""
    found = {}
    for name in names:
        text = (ROOT / "locks" / f"{name}.txt").read_text()
        for entry in re.split(r"\n(?=\S)", text.removeprefix("# Written by `make lock`; not to be edited.\n").rstrip()):
            marker = "(?: ; sys_platform == '(?:linux|darwin)')?"
            form = rf"([a-z0-9-]+)==([\w.+]+){marker}(?: \\\n    --hash=sha256:[0-9a-f]{{64}})+"
            found.update([re.fullmatch(form, entry).groups()])
    return found


# Where the newest torch was taken, the hash of its build for CPUs is yet to be written down.
LISTS = [name for name in ("build", "book", "cpu", "gpu") if (ROOT / "locks" / f"{name}.txt").is_file()]


def test_every_pin_is_in_the_lists_with_its_version(project):
    in_lists = locked(*LISTS, "test") | locked("gpu")  # torch without its suffix
    extras = project["optional-dependencies"]
    for line in (*project["dependencies"], *extras["test"], *extras["ray"]):
        name, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(?:==(.*)|>=.*)", line).groups()
        assert name in in_lists, f"{name} is in no list of locks/; run make lock"
        assert not version or in_lists[name] == version, f"{name}: another version in locks/; run make lock"
    assert {name: version for name, version in locked("test").items() if name in dict(peers())} == dict(peers())


@pytest.mark.parametrize(
    ("wheels", "source", "marker", "kept"),
    [
        (["py3-none-any"], "s", "", ["py3-none-any"]),
        (["cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-macosx_11_0_arm64"], "s", "", None),
        (["cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-macosx_10_9_x86_64"], "s", "", [0, "s"]),
        (["cp311-cp311-manylinux_2_28_x86_64"], None, "sys_platform == 'linux'", None),
        (["cp311-cp311-macosx_10_9_x86_64"], None, "", "Linux"),
        (["cp311-cp311-manylinux_2_28_aarch64"], None, "sys_platform == 'darwin'", "Darwin"),
    ],
)
def test_every_machine_has_a_file_of_each_package_or_no_list_is_written(wheels, source, marker, kept):
    found = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    lock = importlib.util.module_from_spec(found)
    found.loader.exec_module(lock)
    files = [{"url": f"https://a.b/p-1-{tag}.whl", "hashes": {"sha256": tag}} for tag in wheels]
    package = {"name": "p", "wheels": files} | ({"marker": marker} if marker else {})
    package |= {"sdist": {"hashes": {"sha256": source}}} if source else {}
    if isinstance(kept, str):
        with pytest.raises(SystemExit, match=f"p: neither wheel nor source for .*{kept}"):
            lock._hashes(package)
    else:
        assert lock._hashes(package) == sorted(wheels[one] if one == 0 else one for one in kept or wheels)


def test_what_is_for_tests_or_gpus_is_not_in_the_book_s_list():
    book, tests = locked("build", "book"), locked("test")
    assert not book.keys() & tests.keys() and not {"ray", "pytest", "mypy", "fastapi"} & book.keys()
    assert not any(name.startswith(("nvidia", "cuda", "triton", "torch=")) for name in book)
    assert {"torch", "triton"} < locked("gpu").keys()
    assert "cpu" not in LISTS or locked("cpu") == {"torch": locked("gpu")["torch"] + "+cpu"}


def test_what_is_installed_is_what_the_lists_name():
    """The installed packages come from the lists alone, and ask for nothing that is not there."""
    wanted = locked(*LISTS, "test")
    # Not those that setuptools carries, which it puts on the path where it is imported.
    here = metadata.distributions(path=[sysconfig.get_path("purelib")])
    got = {re.sub(r"[._-]+", "-", one.name).lower(): one.version for one in here}
    others = {name for name in got.keys() - wanted.keys() if name not in ("personalib", "pip")}
    assert not others, f"installed, and in no list of locks/: {sorted(others)}; make clean"
    for name in wanted.keys() & got.keys():
        assert got[name].partition("+")[0] == wanted[name].partition("+")[0], f"make clean, or make lock: {name}"
    checked = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    complaints = [line for line in checked.stdout.splitlines() if not line.startswith(tuple(dict(peers())))]
    assert complaints in ([], ["No broken requirements found."])


# What the code imports

# Declared, and used without an import
RUN = {
    "jupyterlab": "make lab",
    "ipykernel": "the kernel of the chapters",
    "jinja2": "chat templates",
    "jupyter-book": "the pages",
    "sphinx": "the pages",
    "myst-nb": "the pages",
    "sphinx-book-theme": "the pages",
    "sphinx-design": "the pages",
    "sphinxcontrib-bibtex": "the pages",
}


def imported_packages(trees):
    """The packages of others that syntax trees import, wherever they do."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"personalib"}


def distributions(names):
    """The distributions that modules belong to, by the modules' names."""
    known = modules_of_distributions()
    return {name: {re.sub(r"[._-]+", "-", one).lower() for one in known[name]} for name in names}


modules_of_distributions = cache(metadata.packages_distributions)


def test_the_book_imports_what_it_declares_and_declares_what_it_imports(project):
    declared = {re.split("[=<>]", line)[0] for line in project["dependencies"]}
    trees = [ast.parse(path.read_text()) for path in ROOT.glob("personalib/**/*.py")]
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = Chapter.read(path).cells
        trees += [ast.parse(source_text(cell)) for cell in cells if cell["cell_type"] == "code"]
    imported = distributions(imported_packages(trees))
    # What only an extra brings: the page of the library is built without it.
    mocked = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["autodoc_mock_imports"]
    assert mocked == [re.split("[=<>]", line)[0] for line in project["optional-dependencies"]["ray"]]
    for name, owners in imported.items():
        assert owners & declared or name in mocked, f"{name} is imported: declare {owners} in pyproject.toml"
    unused = declared - set().union(*imported.values()) - RUN.keys()
    assert not unused, f"declared, and imported nowhere: {unused}"


def test_the_tests_import_what_is_declared(project):
    lines = (*project["dependencies"], *project["optional-dependencies"]["test"], *dict(peers()))
    declared = {re.split(r"[=<>\[]", line)[0] for line in lines}
    trees = [ast.parse(path.read_text()) for path in ROOT.glob("tests/**/*.py")]
    own = {part for path in (ROOT / "tests").glob("**/*.py") for part in (*path.parts, path.stem)}
    for name, owners in distributions(imported_packages(trees) - own).items():
        assert owners & declared, f"{name} is imported by the tests: declare {owners} among the extras"


# Peers


def peers():
    """Name and version of the packages in tests/peers.txt."""
    lines = (ROOT / "tests" / "peers.txt").read_text().splitlines()
    return [line.partition("==")[::2] for line in lines if not line.startswith("#")]


def test_peers_are_pinned_exactly_and_installed():
    assert [name for name, _ in peers()] == ["lm-eval", "repeng", "steering-vectors"]
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
    for name in {*dict(peers())} - {"lm-eval"}:  # its tasks and metrics ask for more, and only its models are used
        asked = {re.match(r"[\w-]+", line)[0] for line in metadata.requires(name)}
        assert {"transformers", "scikit-learn"} <= asked <= pinned


class Installation:
    """A folder with what make installs from, and in the place of pip a script that writes down what it is asked."""

    def __init__(self, folder):
        self.folder, self.stamp, self.calls = folder, folder / "venv" / ".installed-test", folder / "calls"
        shutil.copytree(ROOT / "locks", folder / "locks")
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            '#!/bin/sh\necho "$@" >> calls\nfor last; do :; done\n! ls "without-${last##*/}" 2>/dev/null\n'
        )
        python.chmod(0o755)

    def make(self):
        """Whether it went well, and the last arguments of each call of pip."""
        self.calls.write_text("")
        command = ["make", f"PYTHON={sys.executable}", "VENV=venv", "venv/.installed-test"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        self.said, calls = done.stderr, self.calls.read_text().splitlines()
        return done.returncode == 0, [line.partition("--no-build-isolation ")[2] for line in calls]

    def change(self, name, more=""):
        """Makes a file newer than what was installed, and adds some text to it."""
        with (self.folder / name).open("a") as file:
            file.write(more)
        later = self.stamp.stat().st_mtime + 10
        os.utime(self.folder / name, (later, later))


FIRST = ["--require-hashes -r locks/build.txt", "--require-hashes -r locks/book.txt"]
CPU, GPU = ["--require-hashes -r locks/cpu.txt"], ["--require-hashes -r locks/gpu.txt"]
BOOK = [*FIRST, *CPU, "--editable ."]
TESTS = ["--require-hashes -r locks/test.txt"]


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    assert made.make() == (True, [*BOOK, *TESTS])
    return made


@pytest.mark.parametrize("name", ["locks/test.txt", "locks/book.txt", "pyproject.toml"])
def test_make_installs_nothing_where_nothing_changed(name, installation):
    assert installation.make() == (True, [])
    installation.change(name)
    assert installation.make() == (True, []), "newer, and the same"


@pytest.mark.parametrize(
    ("name", "called"),
    [("locks/test.txt", TESTS), ("locks/book.txt", [*BOOK, *TESTS]), ("pyproject.toml", BOOK + TESTS)],
)
def test_make_installs_what_changed(name, called, installation):
    installation.change(name, "# another\n")
    assert installation.make() == (True, called)
    assert installation.make() == (True, [])


def test_make_tries_again_what_could_not_be_installed(installation):
    installation.change("locks/test.txt", "# another\n")
    (installation.folder / "without-test.txt").touch()
    assert installation.make() == (False, TESTS)
    (installation.folder / "without-test.txt").unlink()
    assert installation.make() == (True, TESTS)


def test_make_takes_the_build_for_gpus_where_there_is_none_for_cpus(installation):
    installation.change("locks/book.txt", "# another\n")
    (installation.folder / "without-cpu.txt").touch()
    assert installation.make() == (True, [*FIRST, *CPU, *GPU, "--editable .", *TESTS])
    assert "No build of torch for CPUs alone, so PyPI's own is taken: without-cpu.txt" in installation.said


def test_the_version_is_the_same_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert project["version"] == personalib.__version__ == str(citation["version"])
    assert f"## {project['version']}" in changelog
    assert project["license"] == citation["license"] == "MIT"


def test_make_help_lists_the_targets():
    command = ["make", "--no-print-directory", "help"]  # `make test` calls this, and a make in a make names its folder
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert sorted(line.split()[1] for line in listed.splitlines()) == sorted(declared)
    assert {"book", "check", "lock", "test"} <= set(declared)


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
    assert steps == ["clean", "book", "check", "test"], "as a newcomer: the book without what the tests need"
    readme = (ROOT / "README.md").read_text()
    assert re.findall("^make (\\w+)", readme, re.MULTILINE)[:2] == ["book", "test"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["build"]["steps"]
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        for action in [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action), f"{path}: pin {action} by its commit"


def test_the_shell_script_parses():
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


def test_build_products_are_ignored():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for product in (".venv/", "book/_build/", "results/"):
        assert product in ignored
