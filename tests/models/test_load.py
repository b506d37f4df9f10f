"""Models load from safetensors by name; what cannot be loaded is one error, and no pickle and no code is run."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from hostile import Trap
from hub import put
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Gemma2ForCausalLM

from personalib.base.data import DataError, data_dir
from personalib.models.load import load_model
from personalib.models.registry import ORGANISM, find_entry


def changed(folder, **settings):
    """A folder whose configuration has other settings."""
    path = Path(folder, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


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


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        *(({"name": name}, f"{name}: cannot be loaded") for name in ("/no/such/folder", "nobody/such-a-model")),
        ({"device": "toaster"}, "device 'toaster': "),
    ],
)
def test_a_model_or_device_that_is_not_there_is_named(asked, problem, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=problem):
        load_model(**asked)


def broken(folder):
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")


def pickled(folder):
    """The same weights, but in a file that could run code when it is read."""
    (folder / "model.safetensors").unlink()
    torch.save(load_model().model.state_dict(), folder / "pytorch_model.bin")


def strange(folder):
    """Code that comes with the model."""
    (folder / "strange.py").write_text("raise SystemExit('this ran')\n")
    names = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    changed(folder, model_type="strange", auto_map=names)


def packed(folder):
    """A format that needs another package."""
    changed(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})


@pytest.mark.parametrize("spoil", [broken, pickled, strange, packed])
def test_what_cannot_be_loaded_is_one_error(spoil, copied_organism):
    folder = copied_organism("spoilt")
    spoil(Path(folder))
    with pytest.raises(DataError, match="spoilt: cannot be loaded"):
        load_model(folder)


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
    with pytest.raises(DataError, match=r"in no file, such as lm_head\.weight"):
        load_model(changed(copied_organism("headless"), tie_word_embeddings=False))


@pytest.mark.parametrize("template", ["{{ messages[0]['content'", "{{ raise_exception('no users') }}"])
def test_a_chat_template_that_cannot_be_used_is_one_error_unless_it_is_not(template, copied_organism, tmp_path):
    folder = copied_organism("chatty")
    Path(folder, "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=r"chatty: its chat template cannot be used .*YAML file with form: base"):
        load_model(folder)
    (tmp_path / "chatty.yaml").write_text(f"hub: {folder}\nform: base\n")
    assert load_model(str(tmp_path / "chatty.yaml")).form == "base"


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


# Adapters and pickles


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
    changed(folder, transformers_weights=explicit)
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
