"""Write ``locks/*.txt``: every package of the book and of its tests in one version, with the hashes of its files.

Run by ``make lock``. Versions stay as they are unless a pin of ``pyproject.toml`` asks for another; with ``--latest``
the newest are taken, and ``pyproject.toml`` gets them as its pins. ``environment.yml`` repeats the pins either way.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
PROJECT = ROOT / "pyproject.toml"
CONDA = ROOT / "environment.yml"
PYTHON = "3.11"
HEAD = "# Written by `make lock`; not to be edited."
MACHINES = [("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64")]
# The platforms that wheels for each of them name.
WHEELS = [r"any|manylinux\w*_x86_64", r"any|macosx\w*_(arm64|universal2)"]
# Installed first: the two packages below that come as sources only are built with them, and so is this one.
BUILD = ("setuptools", "wheel")
# torch, and what its build for GPUs asks for: several GB, installed only where there is no build for CPUs.
GPU = re.compile(r"(nvidia|cuda)-|triton$|torch$")
# The hash of torch's build for CPUs by version: not on PyPI, but found where pip is told of more places to look.
CPU_BUILDS = {"2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}


def main(latest: bool) -> None:
    """Resolve the book's packages, then those that the tests add, and write the four lists."""
    project = PROJECT.read_text(encoding="utf-8")
    kept = [] if latest else [line for path in LOCKS.glob("*.txt") for line in _pins(path.read_text(encoding="utf-8"))]
    wanted = re.sub(r'^( +"[\w.\[\]-]+)==[^"]*"', r'\1"', project, flags=re.MULTILINE) if latest else project
    book = resolve(wanted, kept)
    pins = [f"{name}=={package['version']}" for name, package in book.items()]
    tests = resolve(wanted, kept + pins, "--extra", "test")
    peers = resolve((ROOT / "tests" / "peers.txt").read_text(encoding="utf-8"), [], "--no-deps", name="peers.txt")
    write("build", (book[name] for name in BUILD))
    write("gpu", (package for name, package in book.items() if GPU.match(name)))
    write("book", (package for name, package in book.items() if not GPU.match(name) and name not in BUILD))
    write_cpu(book["torch"]["version"])
    write("test", (package for name, package in {**tests, **peers}.items() if name not in book))
    if latest:
        project = re.sub(
            r'"([\w.-]+)(\[\w+\])?==[^"]*"',
            lambda pin: f'"{pin[1]}{pin[2] or ""}=={ {**tests, **book}[pin[1]]["version"] }"',
            project,
        )
        PROJECT.write_text(project, encoding="utf-8")
    repeat_for_conda(tomllib.loads(project)["project"]["dependencies"])


def resolve(
    wanted: str, kept: Sequence[str], *options: str, name: str = "pyproject.toml"
) -> dict[str, Mapping[str, Any]]:
    """One version of each package that is asked for, with its files, by name; those of ``kept`` where they fit."""
    with TemporaryDirectory() as folder:
        source, pins, files = (Path(folder) / file for file in (name, "pins.txt", "pylock.toml"))
        source.write_text(wanted, encoding="utf-8")
        pins.write_text("\n".join(kept), encoding="utf-8")
        for before, after, more in ((source, pins, options), (pins, files, ("--no-deps",))):
            command = ["uv", "pip", "compile", before.name, "-o", after.name, "--universal", "--python-version", PYTHON]
            subprocess.run([*command, "-q", "--no-header", "--no-annotate", *more], cwd=folder, check=True)
        packages = tomllib.loads(files.read_text(encoding="utf-8"))["packages"]
    return {package["name"]: package for package in packages if any(_machines(package))}


def write(name: str, packages: Iterable[Mapping[str, Any]]) -> None:
    """Write one list: a package a line, and below it the hash of each of its files that one of the machines takes."""
    lines = [HEAD]
    for package in packages:
        at = _machines(package)
        marker = "" if all(at) else f" ; {_marker(at)}"
        hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in _hashes(package))
        lines.append(f"{package['name']}=={package['version']}{marker}{hashes}")
    (LOCKS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_cpu(version: str) -> None:
    """Write the list of one that is tried before that for GPUs; there is none where the hash is not known."""
    list_of_one = LOCKS / "cpu.txt"
    list_of_one.unlink(missing_ok=True)
    if version in CPU_BUILDS:
        text = f"{HEAD}\ntorch=={version}+cpu \\\n    --hash=sha256:{CPU_BUILDS[version]}\n"
        list_of_one.write_text(text, encoding="utf-8")


def repeat_for_conda(dependencies: Sequence[str]) -> None:
    """Repeat the pins in ``environment.yml``."""
    start, _, _ = CONDA.read_text(encoding="utf-8").partition("  - pip:\n")
    lines = "".join(f'      - "{line}"\n' for line in (*dependencies, "--editable ."))
    CONDA.write_text(f"{start}  - pip:\n{lines}", encoding="utf-8")


def _pins(lock: str) -> list[str]:
    return re.findall(r"^[\w.-]+==[^ \n]+", lock, re.MULTILINE)


def _machines(package: Mapping[str, Any]) -> list[bool]:
    """Whether each of the machines needs a package."""
    marker = Marker(package["marker"]) if "marker" in package else None
    keys = ("sys_platform", "platform_system", "platform_machine")
    about = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "implementation_name": "cpython"}
    return [marker is None or marker.evaluate(about | dict(zip(keys, one, strict=True))) for one in MACHINES]


def _marker(at: Sequence[bool]) -> str:
    """The marker of a package that only some of the machines need."""
    systems = {one[0] for one, needs in zip(MACHINES, at, strict=True) if needs}
    if at != [one[0] in systems for one in MACHINES]:
        raise SystemExit(f"no marker for machines {at}; write one")
    return " or ".join(f"sys_platform == '{system}'" for system in sorted(systems))


def _hashes(package: Mapping[str, Any]) -> list[str]:
    """The wheels for the machines that need a package, and its source where one of them has no wheel."""
    files = []
    for machine, platforms, needs in zip(MACHINES, WHEELS, _machines(package), strict=True):
        own = [one for one in package.get("wheels", ()) if needs and _fits(one["url"].rpartition("/")[2], platforms)]
        files += own or ([package.get("sdist")] if needs else [])
        if None in files:
            raise SystemExit(f"{package['name']}: neither wheel nor source for {machine}; pin another version")
    return sorted({file["hashes"]["sha256"] for file in files})


def _fits(file: str, platforms: str) -> bool:
    """Whether a wheel is for this Python on some platforms."""
    return any(
        (tag.interpreter in ("py3", "cp311") or (tag.abi == "abi3" and int(tag.interpreter[3:]) <= 11))
        and tag.abi in ("none", "abi3", "cp311")
        and re.fullmatch(platforms, tag.platform)
        for tag in parse_wheel_filename(file.replace("%2B", "+"))[3]
    )


if __name__ == "__main__":
    main(latest="--latest" in sys.argv[1:])
