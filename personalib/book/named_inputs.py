"""What parameters name, known by its contents: files, folders, and models of the hub.

A run is stale as soon as anything that it was made of is another, and a model folder that was written anew under its
old name is another. Weights are too large to be read whole each time that is asked.
"""

import hashlib
import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from personalib.base import provenance
from personalib.base.data import DataError, data_dir, exists, read_yaml
from personalib.base.markdown import escaped

# Where a chapter keeps what it is asked to keep: it is written to, and no input.
_WRITTEN = ("folder",)
# From this size on a file is known by its size and by samples of its bytes.
LARGE = 64 * 2**20
_SAMPLES, _SAMPLE = 64, 2**16


def named_inputs(parameters: Mapping[str, object]) -> dict[str, str]:
    """Hashes of what parameters name, by the name: SHA-256 of a file or folder, and the commit of a model of the hub.

    A text is a name if a file or a folder has it as its path, but for one that the working directory lies in, or if a
    model of the hub has it that is in this machine's cache. What a YAML file names is looked at, too. Hidden files are
    left out, and files of ``LARGE`` bytes and more are known by their size and by samples of their bytes. A file or
    folder that is named and cannot be read is a DataError.
    """
    found: dict[str, str] = {}
    for text in _texts(value for name, value in parameters.items() if name not in _WRITTEN):
        for name, place in ((text, _path(text)), *_named_in(text)):
            try:
                known = _hub_commit(name) if place is None else _hash(place)
            except OSError as error:
                raise DataError(f"{place}: {error.strerror} ({error.filename}); name what can be read") from None
            if known:
                found[name] = known
    return found


def without_places(text: str, parameters: Mapping[str, object]) -> str:
    """A text that is published, without the folders of this machine that parameters name.

    A path is named by the way to it from the working directory, as whoever gave it there could have done, unless that
    leads over the root of the file system. It is looked for as it stands, in Markdown, in HTML and in JSON.
    """
    here = Path.cwd()
    paths = {name for name in _texts(parameters.values()) if name.startswith("/") and _path(name)}
    for path in sorted(paths, key=len, reverse=True):
        if os.path.commonpath((path, here)) == "/":
            continue
        way = os.path.relpath(path, here)
        for form in (str, escaped, html.escape):
            old, new = form(path), form(way)
            quoted = [json.dumps(each, ensure_ascii=False)[1:-1] for each in (old, new)]
            text = text.replace(quoted[0], quoted[1]).replace(old, new)
    return text


def _texts(values: Iterable[object]) -> Iterator[str]:
    """The texts among values and within them."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _named_in(text: str) -> Iterator[tuple[str, Path | None]]:
    """What a YAML file names, with its place, if the text is the path of one or the name of a plan in the data."""
    path = _path(text) if text.endswith((".yaml", ".yml")) else data_dir() / "grids" / f"{text}.yaml"
    if path is None:
        return
    try:
        names = list(_texts([read_yaml(path)])) if path.is_file() else []
    except (DataError, OSError):  # whoever reads it will say so
        return
    for name in names:
        # In the order in which plans and entries are looked for.
        places = (_path(name), *(_below(folder, name) for folder in (path.parent, provenance.repository_root())))
        yield name, next((place for place in places if place), None)


def _below(folder: Path, name: str) -> Path | None:
    """A file in a folder, or a folder of more than one part: a mere word may have the name of a folder by chance."""
    place = folder / name
    return place if name and _is_there(place, folder) and ("/" in name or place.is_file()) else None


def _hash(path: Path) -> str:
    """The hash of a file or a folder."""
    if path.is_file():
        return _file_hash(path)
    digest = hashlib.sha256()
    for each in provenance.folder_files(path):
        digest.update(f"{each.relative_to(path).as_posix()}\0{_file_hash(each)}\n".encode())
    return digest.hexdigest()


def _path(name: str) -> Path | None:
    """The file or folder of that path; a mere name, such as that of a method, is none, and neither is ``/``."""
    return Path(name) if "/" in name and _is_there(Path(name), Path.cwd()) else None


def _is_there(place: Path, folder: Path) -> bool:
    """Whether there is such a file or folder, other than a folder and those around it."""
    return exists(place) and not folder.resolve().is_relative_to(place.resolve())


def _hub_commit(name: str) -> str | None:
    """The commit that a model of the hub has in the cache as its newest."""
    if name.count("/") != 1:
        return None
    # Here, since most runs name nothing of the kind, and the client takes a while to import.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def _file_hash(path: Path) -> str:
    about = path.stat()
    return _contents(path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _contents(path: Path, size: int, _: int) -> str:
    """The hash of a file, computed once a process as long as its size and time stay as they are."""
    if size < LARGE:
        return provenance.file_hash(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()
