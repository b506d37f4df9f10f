"""Where the repository's data files are, and how they are read."""

import os
from pathlib import Path
from typing import Any

import yaml


class DataError(ValueError):
    """A data file is missing or is not what it should be; the message names the file and the fix."""


def data_dir() -> Path:
    """The folder with the book's data: ``$PERSONALIB_DATA``, or ``data/`` beside the package."""
    configured = os.environ.get("PERSONALIB_DATA")
    return Path(configured) if configured else Path(__file__).resolve().parents[1] / "data"


def named_file(source: str | Path, folder: str, kind: str) -> Path:
    """A YAML file by its path, or by its name in a folder of the data.

    Args:
        source: the path or the name.
        folder: of the data.
        kind: what it is called in the error.

    Raises:
        DataError: there is neither; the message lists the names.

    Example:
        >>> named_file("paper", "protocols", "protocol").name
        'paper.yaml'
    """
    there = data_dir() / folder
    for path in (Path(source), there / f"{source}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(one.stem for one in there.glob("*.yaml"))) or "none"
    raise DataError(f"{source}: no such {kind}; pass a YAML file, or one of {known}")


def read_yaml(path: Path) -> Any:
    """Read one YAML file with the safe loader.

    Raises:
        DataError: the file is missing, or is not UTF-8 or not valid YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set PERSONALIB_DATA to the folder that holds the data") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
