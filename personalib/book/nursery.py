"""A process that has imported what every chapter needs, which takes seconds, and from which kernels are forked.

It runs as a script, so that it has imported other packages only, nothing of this library, and has run nothing of them:
what is forked from it is as fresh as a kernel that was started. It ends when its standard input does, and a kernel ends
soon after it.
"""

import atexit
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from importlib import import_module

_PACKAGES = (
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "scipy.stats",
    "seaborn",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.gemma2.modeling_gemma2",
    "nnsight",
)
_FIGURES = "MPLBACKEND", "module://matplotlib_inline.backend_inline"


def main() -> None:
    """For each line, a JSON list of a kernel's arguments, environment and folder, fork one, and write its number."""
    # What packages print goes to standard error; on our own output there are numbers alone.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # As a kernel would have it; matplotlib looks for it but once.
    os.environ.setdefault(*_FIGURES)
    del sys.path[0]  # the folder of this script
    for name in _PACKAGES:
        with suppress(ImportError):  # a chapter that needs it says so
            import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a kernel that has ended
    for line in sys.stdin:
        arguments, environment, folder = json.loads(line)
        nursery, number = os.getpid(), os.fork()
        if not number:
            told.close()
            _become_kernel(arguments, environment, folder, nursery)
        print(number, file=told, flush=True)


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str, nursery: int) -> None:
    """Be what Jupyter would have started with these arguments."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault(*_FIGURES)
    os.chdir(folder)
    first = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*first, *(path for path in sys.path if path not in first)]
    tempfile.tempdir = None  # it may have been looked up
    sys.argv = arguments
    from ipykernel.kernelapp import launch_new_instance

    # A kernel ends with its parent.
    launch_new_instance(argv=[*arguments[1:], f"--IPKernelApp.parent_handle={nursery}"])
    # What is to be done at the end is done; to take all modules apart would be two seconds more.
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    main()
