"""The table of models fits the published shapes, sae-lens and the organism, and a wrong entry names the place."""

from pathlib import Path

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, GPT2Config, LlamaConfig, Qwen2Config

from personalib.base.data import DataError, data_dir
from personalib.features.published import sae_features
from personalib.features.saes import DEFAULT_SAE, load_sae, organism_saes
from personalib.models.load import load_model
from personalib.models.registry import find_entry, load_registry

SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def sizes(*numbers):
    """The sizes by their names, in the order of ``SIZES``."""
    return dict(zip(SIZES, numbers, strict=True))


# The published shapes, from which the numbers of parameters follow.
SHAPES = {
    "gemma-2b-it": GemmaConfig(**sizes(18, 2048, 16384, 8, 1)),
    "gemma-2-9b-it": Gemma2Config(**sizes(42, 3584, 14336, 16, 8)),
    "gemma-2-2b-it": Gemma2Config(**sizes(26, 2304, 9216, 8, 4), head_dim=256),
    "gemma-2-2b": Gemma2Config(**sizes(26, 2304, 9216, 8, 4), head_dim=256),
    "gpt2": GPT2Config(),
    "llama-3.1-8b-instruct": LlamaConfig(**sizes(32, 4096, 14336, 32, 8), vocab_size=128256),
    "qwen-2.5-0.5b-instruct": Qwen2Config(**sizes(24, 896, 4864, 14, 2), tie_word_embeddings=True),
    "qwen-2.5-7b-instruct": Qwen2Config(**sizes(28, 3584, 18944, 28, 4), vocab_size=152064, tie_word_embeddings=False),
}


@pytest.mark.parametrize("name", sorted(load_registry()))
def test_an_entry_has_the_number_of_parameters_that_its_shape_gives(name):
    if name == "organism":
        counted = load_model().model.num_parameters()
    else:
        with torch.device("meta"):
            counted = AutoModelForCausalLM.from_config(SHAPES[name]).num_parameters()
    assert load_registry()[name].parameters == counted


@pytest.mark.parametrize(
    "name", sorted(name for name, one in load_registry().items() if one.saes and one.saes.release != "organism")
)
def test_the_saes_of_an_entry_are_in_the_table_of_sae_lens_and_read_a_model_of_its_shape(name):
    saes = load_registry()[name].saes
    table = get_pretrained_saes_directory()[saes.release]
    assert set(saes.ids) <= set(table.saes_map)
    # Those of Llama and of the instructed Gemma 2 of 2B were trained on the model before it was instructed.
    made_from = table.model.lower().removesuffix("-small").rpartition("/")[2]
    assert name.replace("llama-3.1-8b-instruct", "llama-3.1-8b").startswith(made_from)


def test_the_organism_has_the_saes_that_lie_in_its_folder():
    assert sorted(load_registry()["organism"].saes.ids) == organism_saes()
    assert load_registry()["organism"].saes.ids[0] == DEFAULT_SAE
    assert load_sae(sae_id=DEFAULT_SAE).site.layer == 1


def test_the_models_with_coefficients_are_those_of_the_published_features():
    paper = set(sae_features()["model"])
    assert {name for name, entry in load_registry().items() if entry.coefficients} == paper


@pytest.mark.parametrize("name", sorted(set(load_registry()) - {"organism"}))
def test_a_model_of_the_hub_is_pinned_and_says_how_to_fetch_it(name):
    entry = load_registry()[name]
    assert len(entry.revision) == 40 and set(entry.revision) <= set("0123456789abcdef")
    assert f"hf download {entry.hub} --revision {entry.revision}" in entry.fetching()
    assert ("accept the licence" in entry.fetching()) == entry.gated
    assert entry.licence


def test_sizes_are_those_of_the_weights():
    table = load_registry()
    assert round(table["gemma-2-9b-it"].gigabytes, 1) == 18.5
    assert round(table["gpt2"].gigabytes, 1) == 0.5


def test_a_model_is_found_by_its_names_and_a_stranger_by_its_own(tmp_path, monkeypatch):
    table = load_registry()
    for name in ("gemma-2b-it", "google/gemma-2b-it", "Google/Gemma-2b-it"):
        assert find_entry(name) is table["gemma-2b-it"]
    stranger = find_entry("somebody/model")
    assert (stranger.name, stranger.hub, stranger.saes, stranger.gigabytes) == ("somebody/model",) * 2 + (None, None)
    # A folder is what it holds, even where it has the name of a model of the hub.
    monkeypatch.chdir(tmp_path)
    Path("google/gemma-2b-it").mkdir(parents=True)
    assert find_entry("google/gemma-2b-it").revision is None


def test_an_entry_of_ones_own_is_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    parts = "{blocks: model.layers, norm: model.norm}"
    file.write_text(f"hub: {data_dir() / 'organism'}\ndtype: bfloat16\nparts: {parts}\n")
    assert find_entry(str(file)).name == "mine"
    loaded = load_model(str(file))
    assert (loaded.model.dtype, loaded.form) == (torch.bfloat16, "chat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hubb: x\n", r"mine\.yaml: hubb: .*there are name, title, hub"),
        ("dtype: float8\n", r"mine\.yaml: dtype: Input should be 'float32'"),
        ("- x\n", r"mine\.yaml: entry: "),
        ("saes: {ids: [x]}\n", r"mine\.yaml: saes\.release: is missing"),
        ("hub: a/b\nsaes: {release: x, ids: []}\n", r"mine\.yaml: saes\.ids: .*give at least one"),
        # It would be the organism under another name.
        ("title: my model\n", r"mine\.yaml: hub: missing; write a folder, or a name on the hub"),
        ("hub: ''\n", r"mine\.yaml: hub: missing"),
    ],
)
def test_a_wrong_entry_names_file_and_field(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        find_entry(str(tmp_path / "mine.yaml"))
    with pytest.raises(DataError, match=r"other\.yaml: no such file"):
        find_entry(str(tmp_path / "other.yaml"))


def test_a_name_in_the_wrong_place_is_one_error(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"hub: {data_dir() / 'organism'}\nparts: {{blocks: model.blocks, norm: model.norm}}\n")
    with pytest.raises(DataError, match=r"has no 'model\.blocks' of that kind; lists of modules are model\.layers"):
        load_model(str(file))


def test_an_entry_has_what_the_table_knows_of_its_model_and_what_is_its_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("hub: Google/gemma-2-9b-it\ndtype: float32\ndevice_map: balanced\n")
    mine, known = find_entry(str(tmp_path / "mine.yaml")), load_registry()["gemma-2-9b-it"]
    own = {"name": "mine", "hub": "Google/gemma-2-9b-it", "dtype": "float32", "device_map": "balanced"}
    assert mine == known.model_copy(update=own)
    assert mine.saes.release == "gemma-scope-9b-it-res-canonical" and mine.revision == known.revision


def test_what_is_beside_an_entry_is_found_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "sae").mkdir()
    (tmp_path / "mine.yaml").write_text("hub: weights\nsaes: {release: ./sae}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mine = find_entry("../mine.yaml")
    assert mine.hub == str(tmp_path / "weights") and mine.saes.release == str(tmp_path / "sae")


def test_an_empty_name_is_no_model():
    with pytest.raises(DataError, match="the model's name is empty"):
        find_entry("")
