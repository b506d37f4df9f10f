"""Execution of one notebook by papermill, which takes seconds to import; a bar names the chapter and the cell."""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from nbformat.v4 import new_code_cell
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.exceptions import PapermillExecutionError
from papermill.execute import raise_for_execution_errors
from papermill.iorw import load_notebook_node
from tqdm import tqdm
from traitlets.config import Config

from personalib.base.data import cut
from personalib.base.progress import progress_bar
from personalib.base.provenance import RESULTS_VARIABLE, repository_root
from personalib.book.chapters import Chapter, headings
from personalib.book.kernels import forked
from personalib.book.parameters import finite
from personalib.models.loaded import VARIABLE

_INJECTED = "injected-parameters"
_LAUNCHER = "ipykernel_launcher"
_LABEL_WIDTH = 40
# Variables of the environment that name a folder.
_FOLDERS = ("PERSONALIB_CACHE", "PERSONALIB_DATA")
# what the kernel and the runner tell each other stays unreadable to other users of the machine
_KERNEL = Config(KernelManager={"transport_encryption": "auto"})
# those whose kernels run, in whatever thread
_CLIENTS: set[PapermillNotebookClient] = set()


class CellError(Exception):
    """A cell failed: its ``place``, by number and heading, and the ``reason``, an error's type and first line."""

    def __init__(self, place: str, error: str, message: str) -> None:
        super().__init__(place, error, message)
        first_line = next(iter(message.strip().splitlines()), "")
        self.place, self.reason = place, f"{error}: {first_line}" if first_line else error


@dataclass(frozen=True)
class _Forked:
    """A process that another one has forked, as far as Jupyter asks for it; that one sees to its end."""

    pid: int
    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None as long as it runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        """It is only asked for once it has ended."""
        return 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Provisioner(LocalProvisioner):
    """Has kernels forked where a nursery is open, and else started."""

    async def launch_kernel(self, cmd: list[str], **how: Any) -> Any:
        ours = cmd[0] == sys.executable and _LAUNCHER in cmd
        arguments = cmd[cmd.index(_LAUNCHER) :] if ours else []
        number = forked(arguments, how["env"], str(how["cwd"])) if ours else 0
        if not number:
            return await super().launch_kernel(cmd, **how)
        process: Any = _Forked(number)
        # It leads a group of its own.
        self.process, self.pid, self.pgid, self.cwd = process, number, number, how["cwd"]
        return self.connection_info


class _Manager(NotebookExecutionManager):
    """Papermill's record of an execution, which also names the running cell in the bar."""

    def __init__(self, notebook: Any, output: Path, bar: "tqdm[Any]", chapter: str) -> None:
        super().__init__(notebook, output_path=str(output), progress_bar=False)
        self.pbar = bar
        self.chapter = chapter
        self.labels = _cell_labels(notebook.cells)
        self.current = ""

    def cell_start(self, cell: Any, cell_index: int) -> None:
        self.current = self.labels[cell_index]
        self.pbar.set_postfix_str("", refresh=False)
        self.pbar.set_description(f"{self.chapter}: {cut(self.current, _LABEL_WIDTH)}")
        super().cell_start(cell, cell_index)

    def complete_pbar(self) -> None:
        """Leave the bar where the execution stopped; papermill would fill it after a failure too."""


class _Relay:
    """Shows the last line that a cell writes to standard error, such as its own progress bar, beside ours."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.bar = bar

    def write(self, text: str) -> None:
        lines = text.replace("\r", "\n").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last:
            self.bar.set_postfix_str(cut(last, _LABEL_WIDTH), refresh=False)
            self.bar.update(0)
            self.bar.refresh()

    def flush(self) -> None:
        """Nothing is held back."""


def execute(chapter: Chapter, overrides: Mapping[str, object], output: Path, results: Path, loaded: Path) -> None:
    """Execute a chapter into ``output``, which holds what has been done so far at any moment.

    A cell that is tagged ``raises-exception`` may fail. Temporary files of the chapter are gone afterwards.

    Args:
        chapter: the source notebook; its folder is the kernel's working directory, as in JupyterLab.
        overrides: the parameters that differ from the defaults.
        output: the file to write; after an error it has papermill's mark at the failing cell.
        results: the folder for figures and tables, in the kernel's ``PERSONALIB_RESULTS``.
        loaded: where the kernel notes what it loads; see :mod:`personalib.models.loaded`.

    Raises:
        CellError: a cell failed, or the kernel died in it.
    """
    notebook = load_notebook_node(str(chapter.path))
    _inject(notebook, overrides)
    with (
        progress_bar(len(notebook.cells), "cell") as bar,
        TemporaryDirectory(prefix="personalib-", ignore_cleanup_errors=True) as scratch,
    ):
        manager = _Manager(notebook, output, bar, chapter.name)
        try:
            _execute_cells(manager, chapter, _environment(results, loaded) | {"TMPDIR": scratch})
            # papermill takes a cell that was meant to fail for a failure; nbclient has not stopped there
            if any(cell.metadata.papermill.get("exception") for cell in notebook.cells):
                raise_for_execution_errors(notebook, str(output))
        except PapermillExecutionError as error:
            raise CellError(manager.labels[error.cell_index], error.ename, error.evalue) from None


def _inject(notebook: Any, overrides: Mapping[str, object]) -> None:
    """Put a cell that sets parameters after the one that declares them; papermill's own is not exact for all values."""
    if not overrides:
        return
    # repr writes NaN and infinity by these names
    lines = [] if finite(dict(overrides)) else ["from math import inf, nan"]
    lines += [f"{name} = {value!r}" for name, value in overrides.items()]
    declared = next(place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.tags)
    cell = new_code_cell("\n".join(["# Parameters", *lines]), metadata={"tags": [_INJECTED]})
    notebook.cells.insert(declared + 1, cell)


def kill_kernels() -> None:
    """End all kernels of this process with what they have started, at once; whoever executes a chapter is told."""
    for client in tuple(_CLIENTS):
        # none before the kernel has started; each kernel leads a group of its own
        group = getattr(getattr(client.km, "provisioner", None), "pgid", None)
        if group:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def _execute_cells(manager: _Manager, chapter: Chapter, environment: dict[str, str]) -> None:
    manager.notebook_start()
    client = PapermillNotebookClient(
        manager,
        kernel_name="python3",
        startup_timeout=120,
        stderr_file=_Relay(manager.pbar),
        config=_KERNEL,
        resources={"metadata": {"path": str(chapter.path.parent)}},
    )
    client.km = kernel = client.create_kernel_manager()
    kernel.provisioner = _Provisioner(parent=kernel, kernel_spec=kernel.kernel_spec, kernel_id=chapter.name)
    _CLIENTS.add(client)
    try:
        client.execute(env=environment)
    except RuntimeError as error:  # of nbclient: the kernel did not start, or ended
        raise CellError(manager.current, type(error).__name__, f"{error} Did it run out of memory?") from None
    finally:
        _CLIENTS.discard(client)
        manager.notebook_complete()


def _environment(results: Path, loaded: Path) -> dict[str, str]:
    """The kernel's environment: it imports this very library, whatever else may be installed."""
    path = os.pathsep.join(filter(None, (str(repository_root()), os.environ.get("PYTHONPATH"))))
    # The kernel runs in the chapter's folder, where a relative path would name another one.
    folders = {name: str(Path(os.environ[name]).resolve()) for name in _FOLDERS if os.environ.get(name)}
    places = {RESULTS_VARIABLE: str(results.resolve()), VARIABLE: str(loaded.resolve())}
    return {**os.environ, "PYTHONPATH": path, **folders, **places}


def _cell_labels(cells: Any) -> list[str]:
    """For each cell its number in the source notebook and the heading it stands under."""
    numbers = accumulate(int(_INJECTED not in cell.metadata.get("tags", ())) for cell in cells)
    return [
        f"cell {number} ({heading})" if heading else f"cell {number}"
        for number, heading in zip(numbers, headings(cells), strict=True)
    ]
