"""Where a result comes from: hashes of its inputs, the commit, the versions and the machine."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from personalib.base.data import data_dir

# The folder for figures and tables of the notebook that runs.
RESULTS_VARIABLE = "PERSONALIB_RESULTS"
# Neither changes a result: an editor's or Python's own folders, and training in progress.
_PASSING_FOLDERS = ("__pycache__", "checkpoints")


def package_dir() -> Path:
    """The folder of the library's code."""
    return Path(__file__).resolve().parents[1]


def repository_root() -> Path:
    """The folder that holds the library, the notebooks and the data."""
    return package_dir().parent


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def results_dir() -> Path:
    """The folder for a notebook's figures and tables, made if missing: the run's, or else ``results/interactive``."""
    configured = os.environ.get(RESULTS_VARIABLE)
    folder = Path(configured) if configured else repository_root() / "results" / "interactive"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts: str | bytes) -> str:
    """A hash of texts and bytes, each with its length so that no two lists are taken for one another."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:32]


def folder_hash(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and contents of a folder's files, see :func:`folder_files`; a missing one is empty."""
    return files_hash(folder, folder_files(folder, pattern))


def folder_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files under a folder in the order of their names, hidden and passing ones left out."""

    def is_kept(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.is_file() and not any(part.startswith(".") or part in _PASSING_FOLDERS for part in parts)

    return [path for path in sorted(folder.rglob(pattern)) if is_kept(path)]


def files_hash(base: Path, files: Iterable[Path]) -> str:
    """SHA-256 over files' names below a base folder, and their contents, in the order of the names."""
    found = sorted((path.relative_to(base).as_posix(), path) for path in files)
    return hashlib.sha256("".join(f"{name}\0{file_hash(path)}\n" for name, path in found).encode()).hexdigest()


def library_hash() -> str:
    """SHA-256 of the library's code, ``personalib/**/*.py``."""
    return folder_hash(package_dir(), "*.py")


def data_hash() -> str:
    """SHA-256 of every data file."""
    return folder_hash(data_dir())


def dependencies() -> list[str]:
    """The pinned packages, from ``locks/`` or, in an installed copy, from the package's metadata.

    A build for one kind of device counts as the version that the others have.
    """
    locks = [path for path in sorted((repository_root() / "locks").glob("*.txt")) if path.stem != "test"]
    if locks:
        text = "\n".join(path.read_text(encoding="utf-8") for path in locks)
        return sorted(set(re.findall(r"^[\w.-]+==[^\s;+]+", text, re.MULTILINE)))
    return sorted(line for line in metadata.requires("personalib") or () if "extra ==" not in line)


def package_versions() -> dict[str, str]:
    """The versions of the pinned packages that are installed; some are for another system or for GPUs."""
    versions = {}
    for line in dependencies():
        name = re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0]
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def commit() -> dict[str, Any] | None:
    """The repository's commit and whether files differ from it; None outside a Git repository."""
    head = _git("rev-parse", "HEAD")
    return None if head is None else {"commit": head.strip(), "dirty": bool(_git("status", "--porcelain"))}


def machine() -> dict[str, Any]:
    """Python's version, the operating system and the number of processor cores."""
    return {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count()}


def _git(*arguments: str) -> str | None:
    """What a Git command prints; None where Git or the repository is missing."""
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
