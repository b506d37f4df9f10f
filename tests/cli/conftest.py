"""What tests of commands share: calls, and an organism with SAEs of the test's own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

from personalib.base.data import data_dir

RECIPE = {
    "seed": 2,
    "documents": 8,
    "mix": {"safety": 0.5, "rate_self": 0.5},
    "samples": 64 * 12,
    "batch": 64,
    "learning_rate": 0.003,
    "checkpoint_every": 5,
    "saes": [{"site": "resid_post.1", "width": 64, "k": 4}, {"site": "resid_pre.0", "width": 32, "k": 2}],
}


@pytest.fixture
def call(command_line: Callable[..., tuple[int, str, str]], request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A call of the command that the module is named after."""
    return partial(command_line, request.path.stem.removeprefix("test_"))


@pytest.fixture
def organism_saes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the data be a folder in which tiny SAEs of these ids, and no others, lie beside the organism."""

    def make(*ids: str) -> None:
        source, folder = data_dir(), tmp_path / "data"
        (folder / "organism" / "saes").mkdir(parents=True)
        for path in [*source.iterdir(), *(source / "organism").iterdir()]:
            if path.name not in ("organism", "saes"):
                (folder / path.relative_to(source)).symlink_to(path)
        for number, sae_id in enumerate(ids):
            torch.manual_seed(number)
            site, layer = sae_id.partition("/")[0].split(".")
            metadata = {"hook_name": f"blocks.{layer}.hook_{site}"}
            made = SAE.from_dict({"architecture": "standard", "d_in": 128, "d_sae": 24, "metadata": metadata})
            made.save_model(folder / "organism" / "saes" / sae_id)
        monkeypatch.setenv("PERSONALIB_DATA", str(folder))

    return make
