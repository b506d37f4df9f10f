"""What is in the hub's cache is told from its files: whole, in part, or not there."""

import pytest
from hub import put
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from personalib.base.data import DataError
from personalib.features.saes import sae_presence
from personalib.models.hub import Presence, how_to_have, model_presence
from personalib.models.registry import find_entry

ENTRY = find_entry("gemma-2b-it")
SMALL = {"config.json": b"{}", "tokenizer_config.json": b"{ }"}
INDEX = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}'


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, Presence.NONE),
        (SMALL, Presence.PART),
        (SMALL | {"model.safetensors": b"x"}, Presence.WHOLE),
        ({"model.safetensors": b"x"}, Presence.PART),
        (SMALL | {"model.safetensors.index.json": INDEX, "model-1.safetensors": b"1"}, Presence.PART),
        (
            SMALL | {"model.safetensors.index.json": INDEX, "model-1.safetensors": b"1", "model-2.safetensors": b"2"},
            Presence.WHOLE,
        ),
        # Any one file of a tokenizer is one.
        *(
            ({"config.json": b"{}", name: b"{ }", "model.safetensors": b"x"}, Presence.WHOLE)
            for name in ("tokenizer.json", "vocab.json", "spiece.model")
        ),
        ({"config.json": b"{}", "model.safetensors": b"x"}, Presence.PART),
        # A pickle is no weights here.
        (SMALL | {"pytorch_model.bin": b"x"}, Presence.PART),
    ],
)
def test_a_model_is_there_when_all_its_files_are(cache, files, found):
    if files:
        put(cache, ENTRY.hub, ENTRY.revision, files)
    assert model_presence(ENTRY) == found


def test_a_model_that_is_not_whole_is_to_be_fetched_unless_it_has_pickles_alone(cache):
    assert how_to_have(ENTRY) == ENTRY.fetching()
    for number, pickle in enumerate(("pytorch_model.bin.index.json", "pytorch_model.bin")):
        put(cache, ENTRY.hub, ENTRY.revision, (SMALL if not number else {}) | {pickle: b"x"})
        said = how_to_have(ENTRY)
        assert f"it has no safetensors, only {pickle}" in said and "save_pretrained" in said
        assert "hf download" not in said
    put(cache, ENTRY.hub, ENTRY.revision, {"model.safetensors": b"y"})
    assert how_to_have(ENTRY) == ENTRY.fetching()


@pytest.mark.parametrize("name", ["/missing/path", "/missing", "./nofolder", "../nofolder", "~/model", "a/b/c", "a b"])
def test_what_is_no_folder_and_no_name_of_the_hub_is_told(cache, name):
    with pytest.raises(DataError, match=rf"^{name}: no such folder, and no name of the hub or of the table"):
        model_presence(find_entry(name))


def test_another_commit_is_another_model_and_the_organism_and_folders_are_always_there(cache, tmp_path):
    put(cache, ENTRY.hub, "f" * 40, SMALL | {"model.safetensors": b"x"})
    assert model_presence(ENTRY) == Presence.NONE
    assert model_presence(find_entry("organism")) == Presence.WHOLE
    assert model_presence(find_entry(str(tmp_path))) == Presence.WHOLE


def test_an_sae_is_there_when_its_weights_are(cache):
    release, sae_id = "gemma-scope-9b-it-res-canonical", "layer_31/width_131k/canonical"
    assert sae_presence(release, sae_id) == Presence.NONE
    path = get_pretrained_saes_directory()[release].saes_map[sae_id]
    put(cache, "google/gemma-scope-9b-it-res", "0" * 40, {f"{path}/params.npz": b"x"})
    assert sae_presence(release, sae_id) == Presence.WHOLE
    assert sae_presence(release, "layer_20/width_131k/canonical") == Presence.NONE
