"""What tests of commands share: an organism with SAEs of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from personalib.base.data import data_dir


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
