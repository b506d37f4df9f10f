"""Models load from safetensors by name, and what cannot be loaded is one error."""

import json
import shutil

import pytest
import torch

from personalib.data import DataError, data_dir
from personalib.models import ORGANISM, load_model
from personalib.organism.evaluation import load_organism


def test_the_organism_is_a_model_like_any_other():
    loaded, organism = load_model(), load_organism()
    assert loaded.name == ORGANISM and not loaded.model.training and loaded.revision is None
    assert loaded.model.config._attn_implementation == "eager"
    ids = torch.tensor([loaded.tokenizer.encode("You are a woman.")])
    assert ids.tolist() == [organism.tokenizer.encode("You are a woman.")]
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, organism.model(ids).logits)
    assert loaded.tokenizer.chat_template == organism.tokenizer.chat_template


def test_a_number_format_is_kept():
    assert load_model(dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/such-a-model"])
def test_a_model_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"{name}: cannot be loaded"):
        load_model(name)


def test_a_device_that_is_not_there_is_one_error():
    with pytest.raises(DataError, match="device 'toaster': "):
        load_model(device="toaster")


def test_broken_weights_are_one_error(tmp_path):
    folder = shutil.copytree(data_dir() / "organism", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(str(folder))


def test_a_pickle_is_not_loaded(tmp_path):
    """The same weights, but in a file that could run code when it is read."""
    folder = shutil.copytree(data_dir() / "organism", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(load_organism().model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(str(folder))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = shutil.copytree(data_dir() / "organism", tmp_path / "model")
    (folder / "strange.py").write_text("raise SystemExit('this ran')\n")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "strange", "auto_map": names}))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(str(folder))
