"""Models get the SAEs that are known for them; for another one an SAE is trained, kept, and found again."""

import shutil
from threading import Thread

import pytest
import torch
import yaml

from personalib.base.data import DataError, data_dir
from personalib.base.storage import alone
from personalib.features import own_saes
from personalib.features.own_saes import Saes, trained_sae, usual_saes
from personalib.features.saes import load_sae, organism_saes
from personalib.models.load import load_model
from personalib.models.registry import load_registry

QUICK = {"per_element": 2, "pairs": 1, "samples": 4096, "batch": 256, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A model that no table knows: the organism in another folder."""
    folder = tmp_path_factory.mktemp("models") / "stranger"
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    folder.mkdir()
    for name in names:
        shutil.copy(data_dir() / "organism" / name, folder)
    return load_model(str(folder))


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A recipe that takes seconds."""
    content = yaml.safe_load((data_dir() / "own_saes.yaml").read_text())
    recipe = own_saes.OwnRecipe(**(content | QUICK))
    monkeypatch.setattr(own_saes, "_own_recipe", lambda: recipe)
    monkeypatch.setenv("PERSONALIB_CACHE", str(tmp_path / "saes"))
    return tmp_path / "saes"


def test_the_organism_has_its_own():
    organism = load_model()
    release, ids = usual_saes(organism)
    assert release == "organism" and sorted(ids) == organism_saes()
    assert usual_saes(organism, ids=["resid_post.3/width_512"]) == Saes("organism", ("resid_post.3/width_512",))
    assert usual_saes(organism, "organism") == (release, ids)


def test_a_release_needs_its_ids_and_a_folder_has_one_sae(tmp_path):
    organism = load_model()
    assert usual_saes(organism, str(tmp_path)) == Saes(str(tmp_path), ("",))
    assert usual_saes(organism, "gpt2-small-res-jb", ["a"]) == Saes("gpt2-small-res-jb", ("a",))
    with pytest.raises(DataError, match="gpt2-small-res-jb: say which SAEs of it are meant"):
        usual_saes(organism, "gpt2-small-res-jb")


def test_ids_without_a_release_are_refused_where_none_is_known(stranger):
    with pytest.raises(DataError, match=r"no SAEs are known for .*stranger; say of which release a are"):
        usual_saes(stranger, ids=["a"])


def test_one_is_trained_for_a_stranger_and_found_again(stranger, quick, monkeypatch):
    release, ids = usual_saes(stranger)
    assert ids == ("",)
    sae = load_sae(release)
    sae.check_fits(stranger)
    # Behind the block in the middle, eight features a coordinate.
    assert (sae.site.layer, sae.width) == (3, 8 * 128)
    activations = torch.randn(5, 128)
    assert torch.isfinite(sae.reconstruct(activations)).all()
    monkeypatch.setattr(own_saes, "train_saes", lambda *_: pytest.fail("trained again"))
    assert usual_saes(stranger) == (release, ids)


def test_a_training_that_was_stopped_goes_on(stranger, quick, monkeypatch):
    whole = own_saes.train_saes

    def killed(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(own_saes, "train_saes", killed)
    with pytest.raises(KeyboardInterrupt):
        trained_sae(stranger)
    [place] = quick.iterdir()
    (place / "manifest.json").unlink()
    monkeypatch.setattr(own_saes, "train_saes", whole)
    log = next(place.rglob("work/**/log.jsonl")).read_text()
    folder = trained_sae(stranger)
    assert folder.is_relative_to(place) and next(place.rglob("work/**/log.jsonl")).read_text() == log


def test_other_weights_get_another_sae(stranger, quick):
    first = trained_sae(stranger)
    weights = stranger.model.get_submodule("model.layers.0.mlp.down_proj").weight
    kept = weights.detach().clone()
    try:
        weights.data.mul_(1.5)
        second = trained_sae(stranger)
    finally:
        weights.data.copy_(kept)
    assert first.parents[1] != second.parents[1]


def test_the_recipe_is_read_from_its_file(tmp_path, monkeypatch):
    assert own_saes._own_recipe().expansion == 8
    shutil.copytree(data_dir(), tmp_path / "data", ignore=shutil.ignore_patterns("organism"))
    (tmp_path / "data" / "own_saes.yaml").write_text("seed: x\n")
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"own_saes\.yaml: seed: Input should be a valid integer"):
        own_saes._own_recipe()


def test_every_entry_without_saes_says_so_in_its_title():
    assert all("on the spot" in entry.title for entry in load_registry().values() if entry.saes is None)


def test_chapters_side_by_side_train_one(stranger, quick, monkeypatch):
    place = trained_sae(stranger).parent
    while not (place / "manifest.json").is_file():
        place = place.parent
    manifest = (place / "manifest.json").read_bytes()
    (place / "manifest.json").unlink()
    monkeypatch.setattr(own_saes, "train_saes", lambda *_: pytest.fail("trained twice"))
    found = []
    other = Thread(target=lambda: found.append(trained_sae(stranger)))
    with alone(place, doing="trains"):
        other.start()
        other.join(2)
        assert other.is_alive() and not found
        (place / "manifest.json").write_bytes(manifest)
    other.join(60)
    assert found and found[0].is_relative_to(place)
