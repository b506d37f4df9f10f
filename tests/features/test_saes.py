"""SAEs load by name with what has to be known to use them, compute what sae-lens does, and are never unpickled."""

import inspect
import io
import json

import numpy as np
import pytest
import torch
from hostile import Trap
from hub import put
from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save

from personalib.base.data import DataError
from personalib.features import saes
from personalib.features.saes import load_sae, organism_saes, usual_saes
from personalib.models.parts import Site
from personalib.models.registry import load_registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"
D_IN, WIDTH = 8, 24
ARCHITECTURES = ["standard", "jumprelu", "topk", "gated"]
NORMALISATIONS = ["none", "layer_norm", "constant_norm_rescale"]


def network(architecture="standard", normalisation="none", hook="blocks.1.hook_resid_post", seed=0, **metadata):
    """An SAE of sae-lens of random weights, biases and thresholds."""
    made = SAE.from_dict(
        {
            "architecture": architecture,
            "d_in": D_IN,
            "d_sae": WIDTH,
            "k": 3,
            "normalize_activations": normalisation,
            "metadata": {"hook_name": hook, "model_name": "tiny"} | metadata,
        }
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in made.named_parameters():
            values.normal_(generator=generator)
            if name == "threshold":
                values.abs_()
    return made


def activations(rows=50):
    """Activations with a mean of their own at each token, some large and some small."""
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(rows, D_IN, generator=generator) + torch.randn(rows, 1, generator=generator)
    return found * torch.logspace(-1, 1, rows)[:, None]


@pytest.fixture
def folder(tmp_path):
    network().save_model(tmp_path / "sae")
    return tmp_path / "sae"


def edit(folder, **changes):
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_gives_what_sae_lens_gives(architecture, normalisation, tmp_path):
    made, x = network(architecture, normalisation), activations()
    made.save_model(tmp_path)
    sae = load_sae(str(tmp_path))
    with torch.no_grad():
        features, output = made.encode(x), made(x)
    sae.encode(x.flip(0))  # leaves nothing behind that the next call could take for its own
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.reconstruct(x), output)
    assert 0.02 < float((features > 0).float().mean()) < 0.7 and not torch.allclose(output, x, atol=0.1)
    assert sae.normalisation == normalisation and sae.record()["architecture"] == architecture


def test_a_folder_says_what_the_sae_is_for(folder):
    sae = load_sae(str(folder))
    assert (sae.site, sae.model, sae.width, sae.directions.shape) == (Site(1), "tiny", WIDTH, (WIDTH, D_IN))
    assert (sae.name, sae.revision, sae.address(3)) == (str(folder), None, None)
    assert not sae.centred and not sae.network.training
    assert not any(value.requires_grad for value in sae.network.parameters())


def test_half_precision_weights_take_full_precision_activations(folder):
    sae, x = load_sae(str(folder), dtype="bfloat16"), activations()
    assert sae.encode(x).dtype == sae.directions.dtype == torch.bfloat16
    torch.testing.assert_close(sae.reconstruct(x).float(), load_sae(str(folder)).reconstruct(x), atol=0.5, rtol=0.1)


def test_the_digest_is_that_of_the_weights(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        network(seed=seed).save_model(tmp_path / name)
    one, same, other = (load_sae(str(tmp_path / name)).digest() for name in ("one", "same", "other"))
    assert one == same != other


def test_the_organisms_saes_go_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    for layer, seed in ((1, 0), (3, 1)):
        made = network(hook=f"blocks.{layer}.hook_resid_post", seed=seed)
        made.save_model(tmp_path / "organism" / "saes" / f"resid_post.{layer}" / "width_24")
    assert organism_saes() == ["resid_post.1/width_24", "resid_post.3/width_24"]
    sae = load_sae("organism", "resid_post.3/width_24")
    assert (sae.site, sae.release, sae.name) == (Site(3), "organism", "organism/resid_post.3/width_24")
    torch.testing.assert_close(sae.directions, network(seed=1).W_dec.detach())
    with pytest.raises(DataError, match=r"no SAE 'resid_post\.2/width_24'; choose one of resid_post\.1/width_24, re"):
        load_sae("organism", "resid_post.2/width_24")


def test_the_usual_saes_are_those_named_or_known(organism, tmp_path):
    release, ids = usual_saes(organism)
    assert release == "organism" and sorted(ids) == organism_saes()
    assert usual_saes(organism, "organism") == (release, ids)
    assert usual_saes(organism, ids=["resid_post.3/width_512"]) == ("organism", ("resid_post.3/width_512",))
    assert usual_saes(organism, str(tmp_path)) == (str(tmp_path), ("",)), "a folder has one SAE"
    assert usual_saes(organism, "gpt2-small-res-jb", ["a"]) == ("gpt2-small-res-jb", ("a",))
    with pytest.raises(DataError, match="gpt2-small-res-jb: say which SAEs of it are meant"):
        usual_saes(organism, "gpt2-small-res-jb")
    assert all("on the spot" in entry.title for entry in load_registry().values() if entry.saes is None)


# Releases, laid out as the hub's cache has them


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts files of a repository into an empty cache of the hub, which nothing can be fetched into."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda repository, files: put(tmp_path / "hub", repository, COMMIT, files)


# The fields that the first releases came with, before configurations had a version.
OLD_CONFIG = {
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "is_dataset_tokenized": False,
    "context_size": 128,
    "d_in": D_IN,
    "d_sae": WIDTH,
    "expansion_factor": 3,
    "dtype": "torch.float32",
    "device": "cuda",
    "b_dec_init_method": "zeros",
    "l1_coefficient": 8e-05,
    "seed": 42,
}
RECORD = {"revision": COMMIT, "normalisation": "none", "centred": False}
GEMMA = "jbloom/Gemma-2b-IT-Residual-Stream-SAEs", "gemma_2b_it_blocks.12.hook_resid_post_16384"
GPT2 = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre"


def old_files(folder, model, hook, weights, **changes):
    config = OLD_CONFIG | {"model_name": model, "hook_point": hook, "hook_point_layer": 0} | changes
    tensors = {name: value.detach().contiguous() for name, value in weights.items()}
    return {
        f"{folder}/cfg.json": json.dumps(config).encode(),
        f"{folder}/sae_weights.safetensors": save(tensors | {"scaling_factor": torch.ones(WIDTH)}),
        f"{folder}/sparsity.safetensors": save({"sparsity": torch.full((WIDTH,), -2.0)}),
    }


def put_gemma(hub, **changes):
    weights = network().state_dict()
    files = old_files(GEMMA[1], "gemma-2b-it", "blocks.12.hook_resid_post", weights, **changes)
    hub(GEMMA[0], files)
    return weights


def load_gemma():
    return load_sae("gemma-2b-it-res-jb", "blocks.12.hook_resid_post")


def by_hand(weights, x):
    """A standard SAE that takes its decoder's bias off first."""
    features = torch.relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    return features, features @ weights["W_dec"] + weights["b_dec"]


def test_the_sae_of_gemma_2b_it(hub):
    weights, x = put_gemma(hub), activations()
    sae = load_gemma()
    features, output = by_hand(weights, x)
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.reconstruct(x), output)
    assert sae.name == "gemma-2b-it-res-jb/blocks.12.hook_resid_post"
    assert sae.address(5) == "https://www.neuronpedia.org/gemma-2b-it/12-res-jb/5"
    expected = {"release": "gemma-2b-it-res-jb", "id": "blocks.12.hook_resid_post", "site": "resid_post.12"}
    expected |= {"width": WIDTH, "model": "gemma-2b-it", "digest": sae.digest(), "architecture": "standard"}
    assert sae.record() == RECORD | expected


def test_a_release_without_its_statistics_loads_too(hub):
    files = old_files(GEMMA[1], "gemma-2b-it", "blocks.12.hook_resid_post", network().state_dict())
    hub(GEMMA[0], {name: content for name, content in files.items() if "sparsity" not in name})
    assert load_gemma().revision == COMMIT


def test_a_release_of_today_has_its_page_from_the_table(hub, folder):
    """Its configuration keeps what the first releases had beside the sizes in a part of its own."""
    release, hook = "gemma-2-2b-res-matryoshka-dc", "blocks.12.hook_resid_post"
    entry = get_pretrained_saes_directory()[release]
    edit(folder, metadata={"hook_name": hook, "model_name": "google/gemma-2-2b", "sae_lens_version": "6.0.0"})
    hub(entry.repo_id, {f"{entry.saes_map[hook]}/{path.name}": path.read_bytes() for path in folder.iterdir()})
    sae = load_sae(release, hook)
    assert (sae.site, sae.model, sae.revision) == (Site(12), "google/gemma-2-2b", COMMIT)
    assert sae.address(4) == "https://www.neuronpedia.org/gemma-2-2b/12-res-matryoshka-dc/4"


def test_the_saes_of_gpt2_take_the_mean_off_and_put_it_back(hub):
    weights, x = network().state_dict(), activations()
    hub(GPT2[0], old_files(GPT2[1], "gpt2-small", "blocks.8.hook_resid_pre", weights))
    sae = load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert sae.centred and sae.record()["centred"] and sae.site == Site(8, "resid_pre")
    assert sae.address(0) == "https://www.neuronpedia.org/gpt2-small/8-res-jb/0" and sae.revision == COMMIT
    mean = x.mean(1, keepdim=True)
    features, output = by_hand(weights, x - mean)
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.reconstruct(x), output + mean)
    torch.testing.assert_close(sae.encode(x + 5), sae.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.reconstruct(x + 5), sae.reconstruct(x) + 5, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(by_hand(weights, x)[0], features, atol=0.1)


def test_a_factor_of_the_table_is_part_of_the_weights(hub):
    """Trained on activations of another size: the table has the factor."""
    weights, x = network().state_dict(), activations()
    repository, folder = "jbloom/Gemma-2b-Residual-Stream-SAEs", "gemma_2b_blocks.12.hook_resid_post_16384"
    changes = {"normalize_activations": "expected_average_only_in"}
    hub(repository, old_files(folder, "gemma-2b", "blocks.12.hook_resid_post", weights, **changes))
    sae, factor = load_sae("gemma-2b-res-jb", "blocks.12.hook_resid_post"), 0.21381938399317255
    features, output = by_hand(weights, x * factor)
    torch.testing.assert_close(sae.encode(x), features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.reconstruct(x), output / factor, atol=1e-3, rtol=1e-4)


def test_a_normalisation_of_the_table_is_done_to_every_token(hub):
    """The configuration of this release does not say it, the table of sae-lens does."""
    entry = get_pretrained_saes_directory()["mistral-7b-res-wg"]
    hook, weights, x = "blocks.8.hook_resid_pre", network().state_dict(), activations()
    hub(entry.repo_id, old_files(entry.saes_map[hook], "mistral-7b", hook, weights))
    sae = load_sae("mistral-7b-res-wg", hook)
    assert sae.normalisation == sae.record()["normalisation"] == "constant_norm_rescale"
    size = x.norm(dim=1, keepdim=True) / D_IN**0.5
    features, output = by_hand(weights, x / size)
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.reconstruct(x), output * size, atol=1e-4, rtol=1e-5)


def put_gemma_scope(hub, monkeypatch, release, sae_id, width, repository, **changes):
    """Weights of the width that the id says, on a residual stream that is narrow enough for a test."""
    entry = get_pretrained_saes_directory()[release]
    monkeypatch.setattr(entry, "config_overrides", {"d_in": D_IN})
    generator = np.random.default_rng(0)
    shapes = {"w_enc": (D_IN, width), "w_dec": (width, D_IN), "b_enc": width, "b_dec": D_IN, "threshold": width}
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | changes
    arrays["threshold"] = np.abs(arrays["threshold"])
    content = io.BytesIO()
    np.savez(content, **arrays)
    hub(repository, {f"{entry.saes_map[sae_id]}/params.npz": content.getvalue()})
    return arrays


@pytest.mark.parametrize(
    ("size", "layer", "width", "model"), [("9b-it", 31, "131k", "gemma-2-9b-it"), ("2b-pt", 12, "16k", "gemma-2-2b")]
)
def test_the_saes_of_gemma_scope(size, layer, width, model, hub, monkeypatch):
    release, sae_id = f"gemma-scope-{size}-res-canonical", f"layer_{layer}/width_{width}/canonical"
    features_of = {"131k": 131072, "16k": 16384}[width]
    arrays = put_gemma_scope(hub, monkeypatch, release, sae_id, features_of, f"google/gemma-scope-{size}-res")
    sae, x = load_sae(release, sae_id), activations(6)
    # the encoder takes the activations as they are, and each feature has a threshold of its own
    before = x.numpy() @ arrays["w_enc"] + arrays["b_enc"]
    features = before * (before > arrays["threshold"])
    found = sae.encode(x).numpy()
    near = np.abs(before - arrays["threshold"]) < 1e-4
    np.testing.assert_allclose(found[~near], features[~near], atol=1e-4, rtol=1e-4)
    assert ((found > 0) & (before < arrays["threshold"] * 2)).any() and ((found == 0) & (before > 0)).any()
    np.testing.assert_allclose(
        sae.reconstruct(x).numpy(), found @ arrays["w_dec"] + arrays["b_dec"], atol=0.05, rtol=1e-3
    )
    assert sae.address(77) == f"https://www.neuronpedia.org/{model}/{layer}-gemmascope-res-{width}/77"
    expected = {"release": release, "id": sae_id, "site": f"resid_post.{layer}", "width": features_of, "model": model}
    assert sae.record() == RECORD | expected | {"digest": sae.digest(), "architecture": "jumprelu"}


# What is refused


def test_weights_of_another_width_than_the_id_says_are_one_error(hub, monkeypatch):
    place = "gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical"
    put_gemma_scope(hub, monkeypatch, *place, 100, "google/gemma-scope-2b-pt-res")
    with pytest.raises(DataError, match=r"gemma-scope-2b-pt-res-canonical, layer_12/width_16k/canonical: cannot be"):
        load_sae(*place)


def _releases_by_loader():
    found = {}
    for release, entry in get_pretrained_saes_directory().items():
        found.setdefault(entry.conversion_func or "sae_lens", release)
    return found


def test_a_release_in_another_format_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(SAE, "from_pretrained_with_cfg_and_sparsity", lambda *_, **__: pytest.fail("fetched"))
    refused = {loader: release for loader, release in _releases_by_loader().items() if loader not in saes._LOADERS}
    assert {"connor_rob_hook_z", "dictionary_learning_1", "goodfire", "deepseek_r1", "qwen_scope"} <= set(refused)
    for loader, release in refused.items():
        sae_id = next(iter(get_pretrained_saes_directory()[release].saes_map))
        with pytest.raises(DataError, match=rf"{release}: its weights are not in safetensors .*\({loader}\)"):
            load_sae(release, sae_id)


@pytest.mark.parametrize("loader", saes._LOADERS)
def test_no_loader_that_is_used_unpickles(loader):
    """The list stands on what sae-lens does today: it has to be read again when that changes."""
    code = inspect.getsource(NAMED_PRETRAINED_SAE_LOADERS[loader])
    assert "torch.load" not in code and "pickle" not in code
    assert any(
        reader in code for reader in ("safetensors", "read_sae_components", "np.load(sae_path)", "sparsify_disk")
    )


def test_a_pickle_among_the_weights_is_not_loaded(hub, monkeypatch, folder, tmp_path):
    place = "gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical"
    trap = np.array([Trap(tmp_path / "ran")], dtype=object)
    put_gemma_scope(hub, monkeypatch, *place, 16384, "google/gemma-scope-2b-pt-res", w_dec=trap)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_sae(*place)
    torch.save({"W_dec": Trap(tmp_path / "ran")}, folder / "sae_weights.safetensors")
    with pytest.raises(DataError, match="cannot be loaded as an SAE of sae-lens"):
        load_sae(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("release", "sae_id", "problem"),
    [
        ("gemma-2b-it-res-xx", "", "a release of SAEs; did you mean gemma-2b-it-res-jb"),
        ("/no/such/folder", "", "/no/such/folder: neither a folder nor a release of SAEs; see the table"),
        ("nobody/such-saes", "x", "nobody/such-saes: neither a folder nor a release"),
        ("gemma-2b-it-res-jb", "blocks.3.hook_resid_post", r"no SAE 'blocks\.3\.hook_.*there are blocks\.12\.hook_res"),
        ("gemma-2b-it-res-jb", "", "gemma-2b-it-res-jb has no SAE ''; there are"),
    ],
)
def test_an_sae_that_there_is_not_is_named(release, sae_id, problem, hub):
    with pytest.raises(DataError, match=problem):
        load_sae(release, sae_id)


def test_an_sae_that_was_never_fetched_is_one_error_offline(hub):
    with pytest.raises(DataError, match=r"res-jb, blocks\.12\.hook_resid_post: cannot be loaded \(.*connec"):
        load_gemma()


def test_a_folder_takes_no_id(folder):
    with pytest.raises(DataError, match=r"is a folder, which holds one SAE; leave out the id 'resid_post\.2'"):
        load_sae(str(folder), "resid_post.2")


@pytest.mark.parametrize(
    "hook", ["blocks.1.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_mid", "hook_embed", None]
)
def test_an_sae_of_another_stream_is_refused(hook, tmp_path):
    network(hook=hook).save_model(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}.*: reads {hook}; only the residual stream is known here"):
        load_sae(str(tmp_path))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


BREAK = {
    "no configuration": lambda folder: (folder / "cfg.json").unlink(),
    "no weights": lambda folder: (folder / "sae_weights.safetensors").unlink(),
    "half a configuration": lambda folder: _cut(folder / "cfg.json"),
    "a list": lambda folder: (folder / "cfg.json").write_text("[]"),
    "no bytes of text": lambda folder: (folder / "cfg.json").write_bytes(b"\xff\xfe"),
    "weights of another kind": lambda folder: (folder / "sae_weights.safetensors").write_bytes(b"nothing of the kind"),
    "half of the weights": lambda folder: _cut(folder / "sae_weights.safetensors"),
    "another width": lambda folder: edit(folder, d_sae=WIDTH + 1),
    "an unknown architecture": lambda folder: edit(folder, architecture="strange"),
    "an unknown normalisation": lambda folder: edit(folder, normalize_activations="strange"),
    "a width in words": lambda folder: edit(folder, d_sae="wide"),
    "no metadata": lambda folder: edit(folder, metadata=None),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_folder_that_holds_no_sae_is_one_error(name, folder):
    BREAK[name](folder)
    with pytest.raises(DataError, match=f"{folder}: cannot be loaded as an SAE of sae-lens"):
        load_sae(str(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_one_error_that_names_them(value, folder):
    made = network()
    made.b_enc.data[3] = value
    made.save_model(folder)
    with pytest.raises(DataError, match=f"{folder}: b_enc holds NaN or infinity in float32; .*fetch or train it again"):
        load_sae(str(folder))


@pytest.mark.parametrize(
    "changes", [{"d_in": None}, {"architecture": "strange"}, {"normalize_activations": "strange"}, {"d_sae": 7}]
)
def test_a_release_with_a_strange_configuration_is_one_error(changes, hub):
    put_gemma(hub, **changes)
    with pytest.raises(DataError, match=r"gemma-2b-it-res-jb, blocks\.12\.hook_resid_post: cannot be loaded"):
        load_gemma()


@pytest.mark.parametrize("length", [0, 3, 500, -30])
def test_weights_of_gemma_scope_that_were_cut_off_are_one_error(length, hub):
    content = io.BytesIO()
    np.savez(content, w_enc=np.zeros((D_IN, 100)), w_dec=np.zeros((100, D_IN)))
    folder = "layer_12/width_16k/average_l0_82"
    hub("google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": content.getvalue()[:length]})
    with pytest.raises(DataError, match="cannot be loaded"):
        load_sae("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")


@pytest.mark.parametrize("written", ["expected_average_only_in", True])
def test_an_sae_whose_factor_is_not_in_its_weights_or_the_table_is_refused(written, folder, hub):
    """Activations would go in at a size that the SAE was not trained on."""
    edit(folder, normalize_activations="expected_average_only_in")
    put_gemma(hub, normalize_activations=written)
    for load in (lambda: load_sae(str(folder)), load_gemma):
        with pytest.raises(DataError, match="expected_average_only_in"):
            load()


@pytest.mark.parametrize("settings", [{"device": "toaster"}, {"dtype": "float7"}])
def test_a_device_or_format_that_there_is_not_is_one_error(settings, folder, hub):
    put_gemma(hub)
    for place in ((str(folder),), ("gemma-2b-it-res-jb", "blocks.12.hook_resid_post")):
        with pytest.raises(DataError, match=next(iter(settings.values()))):
            load_sae(*place, **settings)
