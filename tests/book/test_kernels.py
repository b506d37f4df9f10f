"""Kernels that are forked: as fresh as those that are started, and gone with whoever had them forked."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from personalib.base.provenance import repository_root
from personalib.book import kernels
from personalib.book.kernels import nursery
from personalib.book.runs import run_notebook

pytestmark = [
    pytest.mark.usefixtures("small_data"),
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"),
]
WAIT_SECONDS = 120
ABOUT = """import os, sys, tempfile
ours = sorted(name for name in sys.modules if name.split(".")[0] == "personalib")
import personalib
print([personalib.__file__, os.getppid(), "torch" in sys.modules, ours])
print([os.getcwd(), tempfile.gettempdir(), os.environ["ONLY_HERE"]])"""
DRAWS = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
WAITS = """import os, time
from pathlib import Path
(Path(folder) / f"{os.getpid()} {os.getppid()}").touch()
time.sleep(600)"""
RUNS = """import sys
from pathlib import Path
from personalib.book.kernels import nursery
from personalib.book.runs import run_notebook
with nursery(True):
    run_notebook(Path(sys.argv[1]), {"folder": sys.argv[2]}, Path(sys.argv[3]))"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One nursery for all that do no harm to it, which finds another library of our name first."""
    other = tmp_path_factory.mktemp("other")
    (other / "personalib").mkdir()
    (other / "personalib" / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(other))
        with nursery(True):
            yield kernels._OPEN[-1]


def outputs(run):
    return [cell["outputs"] for cell in nbformat.read(run.notebook, 4).cells if cell["cell_type"] == "code"]


def test_a_forked_kernel_has_other_packages_and_nothing_else(opened, write_notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("ONLY_HERE", "yes")
    found = []
    for name in ("01_first", "02_second"):
        [[printed], [figure]] = outputs(run_notebook(write_notebook(ABOUT, DRAWS, name=name), {}, tmp_path / "out"))
        assert "image/png" in figure["data"]
        found.append([value for line in printed["text"].splitlines() for value in ast.literal_eval(line)])
    for library, parent, torch, ours, folder, scratch, told in found:
        assert library == str(repository_root() / "personalib" / "__init__.py")
        assert parent == opened._process.pid and torch and not ours
        assert folder == str(tmp_path / "notebooks") and told == "yes"
        assert Path(scratch).name.startswith("personalib-") and not Path(scratch).exists()


def test_a_kernel_is_started_where_the_nursery_is_gone(write_notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("ONLY_HERE", "yes")
    with nursery(True):
        kernels._OPEN[-1]._process.kill()
        kernels._OPEN[-1]._process.wait()
        [[printed]] = outputs(run_notebook(write_notebook(ABOUT), {}, tmp_path / "out"))
    assert ast.literal_eval(printed["text"].splitlines()[0])[1] == os.getpid()


def test_a_cell_that_ends_its_kernel_is_named(opened, write_notebook, tmp_path):
    path = write_notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Exception, match="01_tiny: cell 2"):
        run_notebook(path, {}, tmp_path / "out")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_kernels_end_with_whoever_had_them_forked(end, write_notebook, tmp_path):
    met = tmp_path / "met"
    met.mkdir()
    given = write_notebook(WAITS, parameters='folder: str = ""'), met, tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(repository_root())}
    with subprocess.Popen(
        [sys.executable, "-c", RUNS, *map(str, given)], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until = time.monotonic() + WAIT_SECONDS
            while not list(met.iterdir()):
                assert time.monotonic() < until and process.poll() is None
                time.sleep(0.1)
            process.send_signal(end)
            process.wait(WAIT_SECONDS)
        finally:
            process.kill()
    left = [int(number) for path in met.iterdir() for number in path.name.split()]
    assert len(left) == 2
    until = time.monotonic() + WAIT_SECONDS / 4
    while any(map(runs, left)):
        assert time.monotonic() < until, "something is left"
        time.sleep(0.1)


def runs(number):
    """Whether a process is there and is more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
