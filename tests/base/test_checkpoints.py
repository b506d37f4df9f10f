"""A checkpoint comes back as it was, and a damaged one is one error."""

import pytest
import torch
from safetensors.torch import save_file

from personalib.base.checkpoints import load_checkpoint, save_checkpoint
from personalib.base.data import DataError

TENSORS = {"weights": torch.arange(6.0).reshape(2, 3).T, "count": torch.tensor(3)}
STATE = {"step": 4, "groups": [{"lr": 0.1}], "name": "a", "scale": None}


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    tensors, state = load_checkpoint(path, lambda *found: found)
    assert state == STATE and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(value, TENSORS[name]) for name, value in tensors.items())


def half(path):
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES = {
    "cut off": half,
    "empty": lambda path: path.write_bytes(b""),
    "no state": lambda path: save_file({"weights": torch.ones(2)}, path),
    "no tensor": lambda path: save_checkpoint(path, {}, STATE),
    "another size": lambda path: save_checkpoint(path, {"weights": torch.ones(5)}, STATE),
    "another kind": lambda path: save_checkpoint(path, TENSORS, {"step": "x"}),
    "no JSON": lambda path: save_file(TENSORS | {"weights": torch.ones(2)}, path, {"step": "{"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_one_error(name, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    DAMAGES[name](path)
    with pytest.raises(DataError, match=r"a\.safetensors: cannot be read \(.*\); remove it to begin anew"):
        load_checkpoint(path, lambda tensors, state: torch.ones(3, 2).copy_(tensors["weights"]) + (state["step"] + 1))


def test_what_it_is_about_may_be_refused(tmp_path):
    def refuse(*_):
        raise DataError("of another run")

    save_checkpoint(tmp_path / "a", TENSORS, STATE)
    with pytest.raises(DataError, match=r"^of another run$"):
        load_checkpoint(tmp_path / "a", refuse)
