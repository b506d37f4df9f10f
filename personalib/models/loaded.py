"""What a run has loaded, models and SAEs: noted by the process that loads, and put into the manifest by the runner."""

import json
import os
from pathlib import Path

from personalib.base.data import parse_json, read_text

VARIABLE = "PERSONALIB_LOADED"


def note_loaded(kind: str, **facts: str | None) -> None:
    """Note that a ``"model"`` or ``"sae"`` was loaded, if this process is part of a run."""
    if VARIABLE in os.environ:
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **facts}) + "\n")


def read_loaded(path: Path) -> list[dict[str, str | None]]:
    """What a run has loaded, each once, in the order of the first time; nothing where the file is missing."""
    lines = read_text(path).splitlines() if path.is_file() else []
    return [parse_json(line, str(path)) for line in dict.fromkeys(lines)]
