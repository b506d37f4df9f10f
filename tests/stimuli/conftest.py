"""What tests of the stimuli share: a data folder that holds one file of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from personalib.stimuli.factors import load_factors


@pytest.fixture
def write_stimuli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes one of the stimuli's files in the place of all; the factors that others name stay the book's."""
    load_factors()

    def write(name: str, content: str) -> Path:
        path = tmp_path / "stimuli" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
        return path

    return write
