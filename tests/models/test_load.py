"""Models load from safetensors by name, and what cannot be loaded is one error."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub import put
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Gemma2ForCausalLM

from personalib.base.data import DataError, data_dir
from personalib.models.load import load_model
from personalib.models.registry import ORGANISM, find_entry


def test_the_organism_is_a_model_like_any_other():
    loaded, folder = load_model(), data_dir() / "organism"
    model = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert loaded.name == ORGANISM and not loaded.model.training and loaded.revision is None
    assert loaded.model.config._attn_implementation == "eager"
    ids = torch.tensor([loaded.tokenizer.encode("You are a woman.")])
    assert ids.tolist() == [AutoTokenizer.from_pretrained(folder).encode("You are a woman.")]
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits)
    assert loaded.tokenizer.chat_template


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
    torch.save(load_model().model.state_dict(), folder / "pytorch_model.bin")
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


@pytest.mark.parametrize("absent", ["model.norm.weight", "model.layers.2.mlp.up_proj.weight"])
def test_weights_that_are_in_no_file_are_not_made_up(absent, copied_organism):
    folder = copied_organism("torn")
    weights = load_file(f"{folder}/model.safetensors")
    del weights[absent]
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(
        DataError, match=re.escape(f"torn: 1 of its weights are in no file, such as {absent}, and would be of")
    ):
        load_model(folder)


def test_an_output_of_its_own_that_is_in_no_file_is_not_made_up(copied_organism):
    folder = Path(copied_organism("headless"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(DataError, match=r"in no file, such as lm_head\.weight"):
        load_model(str(folder))


@pytest.mark.parametrize("template", ["{{ messages[0]['content'", "{{ raise_exception('no users') }}"])
def test_a_chat_template_that_cannot_be_used_is_one_error_unless_it_is_not(template, copied_organism, tmp_path):
    folder = copied_organism("chatty")
    Path(folder, "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=r"chatty: its chat template cannot be used .*YAML file with form: base"):
        load_model(folder)
    (tmp_path / "chatty.yaml").write_text(f"hub: {folder}\nform: base\n")
    assert load_model(str(tmp_path / "chatty.yaml")).form == "base"


def test_a_format_that_needs_another_package_is_one_error(copied_organism):
    folder = Path(copied_organism("packed"))
    config = json.loads((folder / "config.json").read_text())
    packed = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (folder / "config.json").write_text(json.dumps(config | packed))
    with pytest.raises(DataError, match="packed: cannot be loaded"):
        load_model(str(folder))


def test_a_file_of_the_cache_that_is_broken_is_not_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = {name: (data_dir() / "organism" / name).read_bytes() for name in names}
    put(tmp_path, "openai-community/gpt2", find_entry("gpt2").revision, files | {"model.safetensors": b"half of it"})
    with pytest.raises(
        DataError, match=r"gpt2: cannot be loaded: .*; if files of it are missing, run: hf download"
    ) as no:
        load_model("gpt2")
    assert "is not on this machine" not in str(no.value)
