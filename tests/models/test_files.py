"""Adapters and pickles among a model's files are refused, and no pickle is opened."""

import json
import pickle
from pathlib import Path

import pytest

from personalib.base.data import DataError
from personalib.models.load import load_model


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_an_adapter_beside_the_weights_is_refused(copied_organism):
    folder = copied_organism("adapted")
    Path(folder, "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    with pytest.raises(DataError, match=r"adapted: is an adapter, .*merge_and_unload .*or name the base model"):
        load_model(folder)


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "explicit"),
    [
        ({INDEX: {"weight_map": {"model.norm.weight": "trap.bin"}}}, None),
        ({"own.safetensors.index.json": {"weight_map": {"x": "trap.bin"}}}, "own.safetensors.index.json"),
        ({}, "adapter_model.bin"),
        ({}, "trap.bin"),
    ],
)
def test_weights_that_are_pickles_are_refused_and_not_opened(files, explicit, copied_organism, tmp_path):
    folder, made = Path(copied_organism("trapped")), tmp_path / "opened"
    for name in ("trap.bin", "adapter_model.bin", "pytorch_model.bin", "vocab.pkl", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(made)))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    if files:
        (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": explicit}))
    with pytest.raises(
        DataError, match=r"trapped: its weights are said to be in '.*\.bin', which is no safetensors file"
    ):
        load_model(str(folder))
    assert not made.exists()
    pickle.loads((folder / "trap.bin").read_bytes())
    assert made.exists(), "the trap works"


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', "{"])
def test_an_index_that_is_none_is_one_error(content, copied_organism):
    folder = Path(copied_organism("odd"))
    (folder / INDEX).write_text(content)
    with pytest.raises(DataError, match=r"model\.safetensors\.index\.json: "):
        load_model(str(folder))


def test_pickles_that_nothing_names_are_left_alone(copied_organism, tmp_path):
    folder, made = Path(copied_organism("beside")), tmp_path / "opened"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Trap(made)))
    assert load_model(str(folder)).digest() == load_model().digest() and not made.exists()
