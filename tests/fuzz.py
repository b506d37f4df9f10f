"""Readers under damaged files: seeded mutations of valid files, and what each reader makes of them.

Whatever a file holds, a reader takes it or refuses it with one short error, and soon. Run ``make fuzz`` for many.
"""

# ruff: noqa: T201 - it is a command, and its table goes to the terminal

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper, partial
from multiprocessing import get_context
from pathlib import Path
from traceback import extract_tb
from types import FrameType
from typing import Any

import torch
import yaml

from personalib.base.data import DataError, data_dir, parse_json, parse_yaml

SECONDS, MESSAGE = 2.0, 1000
RAW = "@@raw@@"
# What takes the place of a value, as it stands in the file.
_SCALARS = "null true Yes no 0 -1 1e999 1e-3 .nan NaN -.inf Infinity -Infinity ~ 2024-05-01 12:30:45 010 0x1F 1_000"
_NESTED = r""" -1.5 '' "" [] {} [[]] [null] [1] ["a","a"] {"":""} [1,2,3,4,5,6,7,8] {"a":{"a":{"a":1}}} *a | > """
_QUOTED = r""" "\ud800" "\u0000" "{x}" "{I.__class__}" "{I:>999999999}" "{" "}" "{0}" "../x" "/" "~" "\n" "%s%n" """
_NAMES = """ "a.b" "resid_post.99" "resid_post.²" "NaN" "inf" "1e999" "٣" """
ODD = (
    *" ".join((_SCALARS, _NESTED, _QUOTED, _NAMES)).split(),
    *("!!timestamp 2024-05-01", "!!python/object/apply:os.getcwd []", "!!float x", "!x y"),
    *("&a [*a]", "&a 1", "{<<: 1}", "a: b: c", "'\u2028'", '" "'),
    *("1" * 5000, str(2**63), str(2**64), "[" * 100 + "]" * 100, "[" * 50 + "]" * 50, "[" * 20_000, '{"a":' * 5000),
    *("- " * 500, '"' + "x" * 300_000 + '"', '"' + "é" * 5000 + '"', "[" + "1," * 30_000 + "1]"),
)
BYTES = (*b"\x00 \xff \xef\xbb\xbf { ] \" ' # , \xed\xa0\x80".split(), b"\n---\n", b"\t", b": ", b"\r", b"&a ")


@dataclass(frozen=True)
class Reader:
    """A reader of files, and the valid files that it is tried with."""

    name: str
    files: tuple[Path, ...]
    read: Callable[[Path], object]
    refuses: tuple[type[Exception], ...] = (DataError,)


@dataclass
class Outcome:
    """What came of some tries of a reader."""

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, bytes] = field(default_factory=dict)


class TookTooLong(BaseException):
    """No reader may take it for an error of its own."""


def mutated(path: Path, rng: random.Random) -> bytes:
    """A file's content with one to three changes."""
    content = path.read_bytes()
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _insert, _lines]
    if path.suffix in (".yaml", ".json", ".jsonl", ".ipynb"):
        kinds = [*kinds, *[lambda given, own: _restructured(given, path.suffix, own)] * 8]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(kinds)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    if content:
        changed[rng.randrange(min(len(content), rng.choice((100, 10**9))))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(BYTES) + content[place:]


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines.insert(other, lines[place])
    else:
        del lines[place]
    return b"\n".join(lines)


def _restructured(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """A change of one value, key or entry; content that is valid no longer stays as it is."""
    try:
        text = content.decode()
        lines = text.splitlines() if suffix == ".jsonl" else [text]
        number = rng.randrange(len(lines))
        value = (parse_yaml if suffix == ".yaml" else parse_json)(lines[number], "a change")
        holder = [deepcopy(value)]
        raw = _change(holder, rng)
        if suffix == ".yaml" and rng.random() < 0.5:
            written = yaml.dump(holder[0], Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=10**6)
            written = written.replace(f"'{RAW}'", raw).replace(RAW, raw)
        else:
            written = json.dumps(holder[0], ensure_ascii=rng.random() < 0.5).replace(f'"{RAW}"', raw)
        lines[number] = written
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError, IndexError, TypeError, RecursionError, OverflowError):
        return content


def _change(holder: list[Any], rng: random.Random) -> str:
    """Change one place within a value, and say what stands for the mark there."""
    places = list(_places(holder))
    inner, key = rng.choice(places[: rng.choice((2, 12, 60, 10**6))])
    kind = rng.choice(("replace", "replace", "replace", "delete", "rename", "double", "wrap", "twice", "swap"))
    if kind == "delete" and inner is not holder:
        del inner[key]
    elif kind == "rename" and isinstance(inner, dict):
        inner[rng.choice(("", "x", "id", RAW, "<<", "name", "a" * 5000))] = inner.pop(key)
    elif kind == "double" and isinstance(inner, list):
        inner.insert(0, deepcopy(inner[key]))
    elif kind == "wrap":
        inner[key] = rng.choice(([inner[key]], {"a": inner[key]}, [inner[key]] * 2))
    elif kind == "twice" and isinstance(inner, dict):
        inner[RAW] = inner[key]
        return json.dumps(key)
    elif kind == "swap":
        other, second = rng.choice(places)
        inner[key] = deepcopy(other[second])
    else:
        inner[key] = RAW
    return rng.choice(ODD)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or object within a value with each of its places, the outer ones first."""
    level = [value]
    while level:
        following = []
        for inner in level:
            for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
                yield inner, key
                if isinstance(inner[key], dict | list):
                    following.append(inner[key])
        level = following


def fuzz(reader: Reader, tries: int, seed: int, folder: Path, seconds: float = SECONDS) -> Outcome:
    """Try a reader with mutated files, of which the same seed makes the same ones."""
    outcome = Outcome()
    for number in range(tries):
        rng = random.Random(f"{seed} {reader.name} {number}")
        source = rng.choice(reader.files)
        content = mutated(source, rng)
        path = folder / f"file{source.suffix}"
        path.write_bytes(content)
        fault = _fault(reader, path, outcome, seconds)
        outcome.tried += 1
        if fault:
            outcome.faults[fault] += 1
            outcome.examples.setdefault(fault, content)
    return outcome


def _fault(reader: Reader, path: Path, outcome: Outcome, seconds: float) -> str | None:
    """What is wrong with how a reader takes a file."""
    try:
        # Rows that are left out are told by a warning.
        with _limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except reader.refuses as error:
        outcome.refused += 1
        return f"a message of more than {MESSAGE} signs: {str(error)[:160]}" if len(str(error)) > MESSAGE else None
    except TookTooLong:
        return f"longer than {seconds:g} s"
    except Exception as error:
        lines = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in extract_tb(error.__traceback__)
            if "/personalib/" in frame.filename
        ]
        return f"{type(error).__name__} at {lines[-1] if lines else '?'}: {str(error)[:120]!r}"
    outcome.accepted += 1
    return None


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End what takes longer, in this thread's time, so that neither a busy machine nor another thread makes a fault."""
    begun = time.thread_time()

    def stop(_: int, __: FrameType | None) -> None:
        if time.thread_time() - begun > seconds:
            raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 4)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forget() -> None:
    """Forget what the library's readers have kept."""
    for name, module in list(sys.modules.items()):
        if name.startswith("personalib"):
            for value in list(vars(module).values()):
                # Not whatever has such an attribute: traitlets' settings make up any that they are asked for.
                if isinstance(value, _lru_cache_wrapper):
                    value.cache_clear()


def _as_data(relative: str, read: Callable[[], object]) -> Callable[[Path], object]:
    """A reader of one file of the data folder, tried with a data folder that has another one in its place."""

    def reading(path: Path) -> object:
        kept = os.environ.get("PERSONALIB_DATA")
        with tempfile.TemporaryDirectory() as folder:
            _linked(Path(folder), data_dir(), Path(relative), path)
            try:
                os.environ["PERSONALIB_DATA"] = folder
                forget()
                return read()
            finally:
                os.environ.pop("PERSONALIB_DATA")
                os.environ.update({} if kept is None else {"PERSONALIB_DATA": kept})
                forget()

    return reading


def _linked(folder: Path, data: Path, relative: Path, path: Path) -> None:
    """A data folder of links, but for one file."""
    for here in reversed(relative.parents):
        (folder / here).mkdir(exist_ok=True)
        for each in (data / here).iterdir():
            inside = each.relative_to(data)
            if inside != relative and inside not in relative.parents:
                (folder / inside).symlink_to(each)
    shutil.copy(path, folder / relative)


def main() -> int:
    """Try all readers, or those whose names hold a text, and print what came of it."""
    from fuzz_readers import readers

    parser = argparse.ArgumentParser(description="Try every reader of files with damaged files.")
    parser.add_argument("--tries", type=int, default=10_000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the readers' names")
    parser.add_argument("--examples", type=Path, help="a folder for a file of each fault")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more would not outlive a fork
    total = 0
    print(f"{'reader':28} {'tried':>7} {'refused':>8} {'accepted':>8} {'faults':>7}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        _READERS.extend(reader for reader in readers(Path(place) / "valid") if options.only in reader.name)
        with get_context("fork").Pool() as pool:
            run = partial(_in_its_own_folder, options.tries, options.seed)
            for reader, outcome in zip(_READERS, pool.imap(run, range(len(_READERS))), strict=True):
                _show(reader.name, outcome, options.examples)
                total += sum(outcome.faults.values())
    return 1 if total else 0


# What a forked process has as it stands here, since a reader is no value that it could be sent.
_READERS: list[Reader] = []


def _in_its_own_folder(tries: int, seed: int, number: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return fuzz(_READERS[number], tries, seed, Path(folder))


def _show(name: str, outcome: Outcome, examples: Path | None) -> None:
    found = sum(outcome.faults.values())
    print(f"{name:28} {outcome.tried:7} {outcome.refused:8} {outcome.accepted:8} {found:7}", flush=True)
    for number, (fault, count) in enumerate(outcome.faults.most_common(12)):
        print(f"    {count:5} {fault}", flush=True)
        if examples:
            examples.mkdir(parents=True, exist_ok=True)
            (examples / f"{name}-{number}".replace(" ", "_")).write_bytes(outcome.examples[fault])


if __name__ == "__main__":
    sys.exit(main())
