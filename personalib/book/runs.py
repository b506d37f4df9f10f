"""Runs of notebooks: executed by papermill, reused while nothing changed, each with a manifest."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from personalib.base import provenance
from personalib.base.data import data_dir
from personalib.base.storage import alone, write_whole, writing
from personalib.book.chapters import Chapter, RunError
from personalib.book.named_inputs import named_inputs, without_places
from personalib.models.loaded import read_loaded

_PUBLISHED_TEXT = (".csv", ".json", ".md", ".svg", ".tex")


@dataclass(frozen=True)
class Run:
    """A chapter's executed notebook with its manifest; ``reused`` if an earlier run was found to be still valid."""

    name: str
    notebook: Path
    manifest: Mapping[str, Any]
    reused: bool


class _Outputs:
    """The files that a run of one chapter may leave in an output folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.published = folder / f"{name}.ipynb"
        self.partial = folder / f"{name}.partial.ipynb"
        self.failed = folder / f"{name}.failed.ipynb"
        self.manifest = folder / f"{name}.manifest.json"
        self.loaded = folder / f"{name}.loaded.jsonl"
        self.results = folder / "results" / name

    def spare(self, source: Path) -> None:
        """Stop where a run would replace its own source notebook, by whatever path or link."""
        notebooks = (self.published, self.partial, self.failed)
        replaced = any(path.exists() and path.samefile(source) for path in notebooks)
        if replaced or source.resolve().is_relative_to(self.results.resolve()):
            raise RunError(f"{source}: a run into {self.folder} would replace this notebook; choose another folder")

    def clear(self) -> None:
        """Remove all of them, what says that the others are valid first."""
        for path in (self.manifest, self.published, self.partial, self.failed, self.loaded):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.results, ignore_errors=True)

    def hide_places(self, parameters: Mapping[str, object]) -> None:
        """Leave no folder of this machine that parameters name in the notebook and in results that are text."""
        results = (path for path in self.results.rglob("*") if path.suffix in _PUBLISHED_TEXT)
        for path in (self.published, *results):
            text = path.read_bytes().decode(errors="surrogateescape")  # a result may be in another encoding
            if (public := without_places(text, parameters)) != text:
                write_whole(path, public.encode(errors="surrogateescape"))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the executed notebook and of each result, by their path in the output folder."""
        files = [self.published, *sorted(self.results.rglob("*"))]
        there = (path for path in files if path.is_file())
        return {path.relative_to(self.folder).as_posix(): provenance.file_hash(path) for path in there}


def run_notebook(notebook: Path, parameters: Mapping[str, object], output_dir: Path, *, reuse: bool = True) -> Run:
    """Execute a notebook, or find that an earlier execution is still valid.

    While it runs there is only ``NAME.partial.ipynb``; then ``NAME.ipynb``, ``results/NAME/`` and
    ``NAME.manifest.json`` (parameters, hashes of inputs and outputs, what was loaded, versions, times), or, after an
    error, ``NAME.failed.ipynb`` for reading and nothing else. The source notebook is never written. One process at a
    time runs a chapter in a folder.

    Args:
        notebook: the source notebook.
        parameters: values for some of its parameters, in their declared types.
        output_dir: where the outputs go; it is made if it is missing.
        reuse: whether a valid earlier execution will do.

    Raises:
        RunError: a parameter is unknown, of another type or a secret, or the outputs would replace the source (nothing
            has run then); or a cell failed.
        DataError: another process runs the chapter in that folder, or it cannot be written to.
    """
    chapter = Chapter.read(notebook)
    merged = chapter.merge(parameters)
    outputs = _Outputs(output_dir, chapter.name)
    # Without the lock first: an unchanged run can be in a folder that cannot be written to.
    earlier = _earlier(chapter, merged, outputs) if reuse else None
    if earlier is not None:
        return earlier
    with alone(output_dir, doing=f"runs {chapter.name}", lock=f".{chapter.name}.lock"):
        outputs.spare(notebook)
        # Another process may have run it between the look and the lock.
        earlier = _earlier(chapter, merged, outputs) if reuse else None
        return earlier or _execute(chapter, merged, outputs)


def read_run(notebook: Path, parameters: Mapping[str, object], output_dir: Path) -> Run | None:
    """The valid run of a notebook with these parameters, or None; nothing is executed."""
    chapter = Chapter.read(notebook)
    return _earlier(chapter, chapter.merge(parameters), _Outputs(output_dir, chapter.name))


def inputs_hash(notebook: Path, parameters: Mapping[str, object]) -> str:
    """SHA-256 of all that determines a run: notebook, parameters and what they name, library, data, pinned versions."""
    chapter = Chapter.read(notebook)
    return _hashes(chapter, chapter.merge(parameters))["inputs"]


def _hashes(chapter: Chapter, merged: Mapping[str, object]) -> dict[str, Any]:
    """The hash of each input, and under ``inputs`` that of all of them with the parameters."""
    hashes: dict[str, Any] = {
        "notebook": chapter.source_hash(),
        "library": provenance.library_hash(),
        "data": provenance.data_hash(),
        "dependencies": hashlib.sha256("\n".join(provenance.dependencies()).encode()).hexdigest(),
    }
    if named := named_inputs(merged):
        hashes["named"] = named
    essence = json.dumps([hashes, merged], sort_keys=True)
    return hashes | {"inputs": hashlib.sha256(essence.encode()).hexdigest()}


def _earlier(chapter: Chapter, merged: Mapping[str, object], outputs: _Outputs) -> Run | None:
    """An earlier run whose inputs were these and whose outputs are as it left them, or None."""
    inputs = _hashes(chapter, merged)["inputs"]
    try:
        manifest = json.loads(outputs.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    match manifest:
        case {"hashes": {"inputs": known}, "outputs": left, "started": str(), "seconds": float(), "git": _}:
            if known == inputs and left == outputs.hashes():
                return Run(chapter.name, outputs.published, manifest, reused=True)
    return None  # stale or torn, or something else


def _execute(chapter: Chapter, merged: Mapping[str, Any], outputs: _Outputs) -> Run:
    outputs.clear()
    outputs.results.mkdir(parents=True)
    # hashed before the run, so that an edit during it makes the run stale
    hashes = _hashes(chapter, merged)
    started = datetime.now(UTC)
    clock = time.perf_counter()
    loaded = _run_cells(chapter, merged, outputs)
    seconds = round(time.perf_counter() - clock, 2)
    outputs.partial.replace(outputs.published)
    outputs.hide_places(merged)
    manifest = {
        "chapter": chapter.name,
        "parameters": dict(merged),
        **{name: merged.get(name) for name in ("model", "device", "dtype", "seed")},
        "hashes": {**hashes, "organism": provenance.folder_hash(data_dir() / "organism")},
        "git": provenance.commit(),
        "packages": provenance.package_versions(),
        "machine": provenance.machine(),
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "loaded": loaded,
        "outputs": outputs.hashes(),
    }
    text = without_places(json.dumps(manifest, indent=2, ensure_ascii=False), merged)
    # In one step: a manifest says that the run is complete, so there is never half of one. What UTF-8 cannot hold,
    # half of a surrogate pair, is written as JSON escapes it.
    write_whole(outputs.manifest, f"{text}\n".encode(errors="backslashreplace"))
    return Run(chapter.name, outputs.published, json.loads(text), reused=False)


def _run_cells(chapter: Chapter, merged: Mapping[str, Any], outputs: _Outputs) -> list[dict[str, str | None]]:
    """Run a chapter's cells; gives what they loaded. Where one fails, the notebook up to there is all that stays."""
    # papermill: seconds to import, and not needed to reuse a run
    from personalib.book.execution import CellError, execute

    try:
        with writing(outputs.partial):
            execute(chapter, chapter.overrides(merged), outputs.partial, outputs.results, outputs.loaded)
        return read_loaded(outputs.loaded)
    except CellError as error:
        shutil.rmtree(outputs.results)
        outputs.partial.replace(outputs.failed)
        where = f"{chapter.name}: {error.place} failed; the notebook up to there is {outputs.failed}"
        raise RunError(f"{where}\n{error.reason}") from None
    finally:
        outputs.loaded.unlink(missing_ok=True)
