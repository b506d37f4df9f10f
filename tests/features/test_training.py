"""Training of SAEs: a seed gives one SAE, killed or not, and planted directions are found again."""

import json
import shutil
import zipfile
from dataclasses import replace
from itertools import pairwise
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_saes import tiny_llama

from personalib.base.data import DataError
from personalib.base.records import ItemError
from personalib.base.storage import alone
from personalib.features import training as sae_training
from personalib.features.metrics import reconstruction
from personalib.features.saes import load_sae, usual_saes
from personalib.features.training import (
    Dictionary,
    Recipe,
    SaeTraining,
    TokenBatches,
    load_recipe,
    own_recipe,
    train_saes,
    trained_sae,
)
from personalib.models.activations import capture
from personalib.models.load import load_model
from personalib.models.parts import Site

D_MODEL, K = 16, 3
DICTIONARY = Dictionary(Site(1), width=32, k=K)
RECIPE = Recipe(
    seed=3,
    documents=10,
    mix={"stories": 0.7, "neutral": 0.3},
    samples=64 * 30,
    batch=64,
    learning_rate=1e-2,
    checkpoint_every=8,
    saes=(DICTIONARY,),
)


# Matrices are so small that threads would mostly wait for each other.
pytestmark = pytest.mark.usefixtures("one_thread")


def planted(tokens, directions=20, d_model=D_MODEL, active=0.1, seed=0):
    """Tokens that are sums of few of some known directions, and the directions."""
    generator = np.random.default_rng(seed)
    known = generator.normal(size=(directions, d_model))
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    strengths = generator.uniform(1, 2, (tokens, directions)) * (generator.random((tokens, directions)) < active)
    return (strengths @ known + generator.normal(scale=0.02, size=(tokens, d_model))).astype(np.float32), known


VALUES = planted(64 * 10)[0]


def training(folder, recipe=RECIPE, values=VALUES, dictionary=DICTIONARY, model="tiny"):
    return SaeTraining(recipe, dictionary, values, folder, model)


def trained(folder, **changes):
    made = training(folder, **changes)
    made.run()
    return made


def state(made):
    """The weights, and what else has to be as it was for the next step to be the same."""
    trainer = made.trainer
    found = {name: value.clone() for name, value in trainer.sae.state_dict().items()}
    found |= {name: getattr(trainer, name).clone() for name in ("act_freq_scores", "n_forward_passes_since_fired")}
    counts = [trainer.n_training_steps, trainer.n_training_samples, trainer.n_frac_active_samples]
    rate, scale = trainer.optimizer.param_groups[0]["lr"], trainer.activation_scaler.scaling_factor
    return found | {"numbers": torch.tensor([*counts, made.batches.position, rate, scale], dtype=torch.float64)}


def log(folder):
    """The log without the time that it took."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(entry.pop("seconds") >= 0 for entry in entries)
    return entries


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder), folder


# Batches


@pytest.mark.parametrize("tokens", [48, 50])
def test_no_token_comes_twice_in_a_round(tokens):
    """What does not fill a batch is left out, another part of the tokens each time."""
    batches = TokenBatches(np.arange(tokens, dtype=np.float32)[:, None], 12, seed=1)
    rounds = [torch.cat([next(batches) for _ in range(4)])[:, 0].tolist() for _ in range(30)]
    assert all(len(set(one)) == 48 for one in rounds) and {token for one in rounds for token in one} == {*range(tokens)}
    assert len({tuple(one) for one in rounds}) == 30, "each in an order of its own"


def test_batches_go_on_from_a_position():
    batches = TokenBatches(VALUES, 64, seed=1)
    seen = [next(batches) for _ in range(25)]
    assert batches.position == 25
    for position in (0, 9, 10, 17):
        fresh = TokenBatches(VALUES, 64, seed=1)
        fresh.position = position
        for expected in seen[position : position + 3]:
            torch.testing.assert_close(next(fresh), expected, rtol=0, atol=0)


def test_batches_of_half_precision_on_disk_are_full_precision(tmp_path):
    np.save(tmp_path / "values.npy", VALUES.astype(np.float16))
    batch = next(TokenBatches(np.load(tmp_path / "values.npy", mmap_mode="r"), 64, seed=1))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, next(TokenBatches(VALUES, 64, seed=1)), atol=2e-3, rtol=1e-3)


def test_too_few_tokens_for_a_batch_are_named():
    with pytest.raises(ValueError, match="640 tokens do not fill a batch of 641; take more documents"):
        TokenBatches(VALUES, 641, seed=1)


# Seeds, and runs that were stopped


def test_a_seed_gives_the_same_weights_and_another_gives_others(whole, tmp_path):
    again = trained(tmp_path / "again")
    assert_same(state(again), state(whole[0]))
    assert log(tmp_path / "again") == log(whole[1])
    other = trained(tmp_path / "other", recipe=replace(RECIPE, seed=4))
    assert not torch.allclose(other.trainer.sae.W_enc, again.trainer.sae.W_enc, atol=0.01)


def test_the_log_says_how_it_went(whole):
    entries = log(whole[1])
    assert [entry["step"] for entry in entries] == [8, 16, 24, 30]
    assert [entry["tokens"] for entry in entries] == [64 * entry["step"] for entry in entries]
    variances = [entry["explained_variance"] for entry in entries]
    assert variances[0] < variances[-1] and 0.3 < variances[-1] < 1
    # over a batch each token has k features on average, if so many are above zero
    assert all(0 < entry["l0"] <= K for entry in entries) and entries[0]["l0"] == K
    assert all(0 <= entry["resting"] <= 32 for entry in entries)


def test_the_learning_rate_falls_to_zero_over_the_last_quarter(tmp_path):
    made, rates = training(tmp_path), []
    step = made.trainer.step
    made.trainer.step = lambda batch: (rates.append(made.trainer.optimizer.param_groups[0]["lr"]), step(batch))[1]
    made.run()
    assert rates[3:23] == pytest.approx([RECIPE.learning_rate] * 20)
    assert rates[0] < rates[1] < rates[2] and all(a > b for a, b in pairwise(rates[23:]))
    assert made.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


class KilledError(Exception):
    """In the place of a signal that ends the process."""


def _stop_before_step(made, number):
    step = made.trainer.step
    made.trainer.step = lambda batch: _killed() if made.trainer.n_training_steps == number else step(batch)


def _stop_between_log_and_checkpoint(made, number):
    checkpoint = made._checkpoint
    made._checkpoint = lambda: _killed() if made.trainer.n_training_steps == number else checkpoint()


def _killed():
    raise KilledError


def stop(folder, number, how=_stop_before_step):
    """A run that is stopped."""
    made = training(folder)
    how(made, number)
    with pytest.raises(KilledError):
        made.run()


def assert_ends_like(whole, folder):
    """Goes on in a folder, to the same end as a run that nobody stopped."""
    assert_same(state(trained(folder)), state(whole[0]))
    assert log(folder) == log(whole[1])


STOPS = {
    "before the first step": (_stop_before_step, 0),
    "before the first checkpoint": (_stop_before_step, 5),
    "at a checkpoint": (_stop_before_step, 16),
    "between two checkpoints": (_stop_before_step, 21),
    "after the last checkpoint": (_stop_before_step, 29),
    "before the first checkpoint is written": (_stop_between_log_and_checkpoint, 8),
    "before another checkpoint is written": (_stop_between_log_and_checkpoint, 24),
    "before the last checkpoint is written": (_stop_between_log_and_checkpoint, 30),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(name, whole, tmp_path):
    how, number = STOPS[name]
    stop(tmp_path, number, how)
    again = training(tmp_path)
    last = number - 1 if how is _stop_between_log_and_checkpoint else number
    assert again.trainer.n_training_steps == last // 8 * 8, "what was trained before the checkpoint is not lost"
    assert not torch.equal(again.trainer.sae.W_enc, whole[0].trainer.sae.W_enc)
    assert_ends_like(whole, tmp_path)


def test_a_run_may_be_stopped_again_and_again(whole, tmp_path):
    for number in (9, 17, 23, 29):
        stop(tmp_path, number)
    assert_ends_like(whole, tmp_path)


def test_half_a_line_and_half_a_checkpoint_are_thrown_away(whole, tmp_path):
    """What a process leaves that is killed while it writes."""
    stop(tmp_path, 18)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 24, "tok')
    (tmp_path / "checkpoint.partial").write_bytes(b"half of")
    assert_ends_like(whole, tmp_path)


CHANGES = {
    "learning rate": {"recipe": replace(RECIPE, learning_rate=1e-3)},
    "length": {"recipe": replace(RECIPE, samples=64 * 31)},
    "seed": {"recipe": replace(RECIPE, seed=9)},
    "documents": {"recipe": replace(RECIPE, mix={"stories": 1.0})},
    "features a token": {"dictionary": replace(DICTIONARY, k=4)},
    "site": {"dictionary": replace(DICTIONARY, site=Site(2))},
    "width": {"dictionary": replace(DICTIONARY, width=40)},
    "tokens": {"values": VALUES[:-1]},
    "model": {"model": "another"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_does_not_go_on_from_a_checkpoint(name, tmp_path):
    stop(tmp_path, 17)
    other, fresh = training(tmp_path, **CHANGES[name]), training(tmp_path / "fresh", **CHANGES[name])
    assert other.trainer.n_training_steps == other.trainer.n_training_samples == 0
    assert not (tmp_path / "log.jsonl").exists() and other.batches.position == fresh.batches.position
    assert_same(state(other), state(fresh))


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"", lambda content: content[:8] + b"x"]
)
def test_a_damaged_checkpoint_is_one_error(whole, tmp_path, damage):
    shutil.copytree(whole[1], tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: cannot be read \(.*; remove it to begin anew"):
        training(tmp_path / "run")


def test_weights_that_are_not_finite_end_a_run_before_its_log_is_written(tmp_path):
    made = training(tmp_path)
    with torch.no_grad():
        made.trainer.sae.b_dec.fill_(torch.nan)
    with pytest.raises(DataError, match=r"step 8: .* holds NaN or infinity; lower learning_rate"):
        made.run()
    assert (tmp_path / "log.jsonl").read_text() == "" and not (tmp_path / "checkpoint.safetensors").exists()


def test_nothing_in_a_checkpoint_is_a_pickle(whole):
    folder = whole[1]
    assert {path.name for path in folder.iterdir()} == {"checkpoint.safetensors", "log.jsonl"}
    assert not zipfile.is_zipfile(folder / "checkpoint.safetensors"), "as torch.save writes"
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        names, plain = set(file.keys()), file.metadata()
    assert {"sae.W_enc", "sae.topk_threshold", "adam.0.exp_avg", "n_forward_passes_since_fired"} <= names
    assert {name: json.loads(text) for name, text in plain.items()}["counts"]["n_training_steps"] == 30


# What is learned, and how it is saved


def test_planted_directions_are_found(tmp_path):
    values, known = planted(256 * 100, directions=20, d_model=24)
    dictionary = Dictionary(Site(0, "resid_pre"), width=32, k=2)
    recipe = replace(RECIPE, seed=2, samples=256 * 600, batch=256, checkpoint_every=600)
    made = training(tmp_path, recipe=recipe, values=values, dictionary=dictionary)

    def share_found(directions):
        likeness = known @ torch.nn.functional.normalize(directions.detach(), dim=1).numpy().T
        return (likeness.max(1) > 0.9).mean()

    assert share_found(made.trainer.sae.W_dec) < 0.2, "not by chance"
    made.run()
    made.export(tmp_path / "sae")
    sae = load_sae(str(tmp_path / "sae"))
    assert share_found(sae.directions) >= 0.8
    unseen = planted(4000, directions=20, d_model=24)[0]
    found = reconstruction(sae, unseen)
    assert found.explained_variance > 0.8 and found.l0 == pytest.approx(2, rel=0.3)


def by_hand(made, x):
    """Features and reconstruction as in training, but with the threshold in the place of the k strongest."""
    sae, factor = made.trainer.sae, made.trainer.activation_scaler.scaling_factor
    with torch.no_grad():
        size = sae.W_dec.norm(dim=1)
        before = ((x * factor - sae.b_dec) @ sae.W_enc + sae.b_enc) * size
        features = before * (before > sae.topk_threshold)
        output = (features / size) @ sae.W_dec + sae.b_dec
    return features / factor, output / factor, before > 0


def test_an_exported_sae_encodes_as_the_one_in_training(tmp_path):
    made, x = trained(tmp_path / "run"), torch.from_numpy(planted(300, seed=5)[0])
    features, output, above_zero = by_hand(made, x)
    made.export(tmp_path / "sae")
    sae = load_sae(str(tmp_path / "sae"))
    torch.testing.assert_close(sae.encode(x), features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sae.reconstruct(x), output, atol=1e-4, rtol=1e-4)
    assert 0 < (features > 0).sum() < 0.9 * above_zero.sum(), "the threshold leaves features out"
    assert float(made.trainer.activation_scaler.scaling_factor) != pytest.approx(1, abs=0.05)


def test_an_exported_sae_says_what_it_is_and_is_the_same_files_whenever_it_is_written(tmp_path):
    first, again = (trained(tmp_path / name) for name in ("first", "again"))
    for run, name in ((first, "one"), (first, "other"), (again, "third")):
        run.export(tmp_path / name)
    sae = load_sae(str(tmp_path / "one"))
    assert (sae.site, sae.width, sae.model, sae.centred) == (Site(1), 32, "tiny", False)
    assert sae.record()["architecture"] == "jumprelu"
    one, other, third = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other", "third")
    )
    assert one.keys() == {"cfg.json", "sae_weights.safetensors", "training_log.jsonl"}
    assert one == other and one | {"training_log.jsonl": b""} == third | {"training_log.jsonl": b""}
    assert one["training_log.jsonl"] == (tmp_path / "first" / "log.jsonl").read_bytes()
    assert str(tmp_path).encode() not in one["cfg.json"]


def test_the_size_of_activations_makes_no_difference(tmp_path):
    """They are brought to one size for training, and the exported SAE takes them at their own."""
    for name, factor in (("small", 1), ("large", 128)):
        trained(tmp_path / name, values=VALUES * np.float32(factor)).export(tmp_path / name / "sae")
    small, large = (load_sae(str(tmp_path / name / "sae")) for name in ("small", "large"))
    x = torch.from_numpy(VALUES[:50])
    torch.testing.assert_close(large.encode(128 * x), 128 * small.encode(x))
    torch.testing.assert_close(large.reconstruct(128 * x), 128 * small.reconstruct(x))


# Several SAEs of one model

TEXTS = [f"My friend number {number} is a {trait} person." for number in range(12) for trait in ("kind", "loud")]
SEVERAL = replace(
    RECIPE, samples=32 * 8, batch=32, saes=(Dictionary(Site(1), 24, 2), Dictionary(Site(0, "resid_pre"), 32, 3))
)


def small_model(seed=0):
    return tiny_llama("tiny", seed, hidden_size=D_MODEL, head_dim=8)


def exported(out):
    return {one.sae_id: (out / one.sae_id / "sae_weights.safetensors").read_bytes() for one in SEVERAL.saes}


def test_all_saes_of_a_recipe_are_trained_on_their_own_site(tmp_path):
    model = small_model()
    train_saes(SEVERAL, model, TEXTS, tmp_path / "work", tmp_path / "out")
    for one in SEVERAL.saes:
        sae = load_sae(str(tmp_path / "out" / one.sae_id))
        assert (sae.site, sae.width, sae.model) == (one.site, one.width, "tiny")
        values = capture(model, TEXTS, [one.site], tmp_path / "again", tokens="all", dtype="float16").values(one.site)
        alone = trained(tmp_path / "alone", recipe=SEVERAL, values=values, dictionary=one)
        alone.export(tmp_path / "alone" / "sae")
        torch.testing.assert_close(sae.directions, load_sae(str(tmp_path / "alone" / "sae")).directions)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tokens"] == len(values) and set(manifest["seconds"]) == {one.sae_id for one in SEVERAL.saes}
    assert manifest["model"] == {"name": "tiny", "digest": model.digest()}
    assert manifest["recipe"]["saes"][1] == {"site": "resid_pre.0", "width": 32, "k": 3}


def test_a_recipe_may_keep_activations_that_half_precision_cannot_hold(tmp_path):
    model = small_model()
    model.model.get_input_embeddings().weight.data *= 1e8
    with pytest.raises(ItemError, match=r"does not fit into float16 on disk; keep float32 \(dtype\)"):
        train_saes(SEVERAL, model, TEXTS, tmp_path / "work", tmp_path / "out")
    train_saes(replace(SEVERAL, dtype="float32"), model, TEXTS, tmp_path / "work", tmp_path / "out")
    assert len(exported(tmp_path / "out")) == len(SEVERAL.saes)


def test_saes_that_are_trained_are_not_trained_again(tmp_path, monkeypatch):
    model = small_model()
    train_saes(SEVERAL, model, TEXTS, tmp_path / "work", tmp_path / "out")
    monkeypatch.setattr("sae_lens.training.sae_trainer.SAETrainer.step", lambda *_: pytest.fail("trained again"))
    train_saes(SEVERAL, model, TEXTS, tmp_path / "work", tmp_path / "again")
    assert exported(tmp_path / "again") == exported(tmp_path / "out")


@pytest.mark.parametrize("change", ["model", "texts"])
def test_saes_of_what_was_there_before_are_not_taken_for_those_of_now(change, tmp_path):
    """A model of the same name with other weights, or as many tokens of other texts."""
    train_saes(SEVERAL, small_model(), TEXTS, tmp_path / "work", tmp_path / "out")
    now = (small_model(seed=1), TEXTS) if change == "model" else (small_model(), TEXTS[::-1])
    train_saes(SEVERAL, *now, tmp_path / "work", tmp_path / "out")
    train_saes(SEVERAL, *now, tmp_path / "fresh", tmp_path / "expected")
    assert exported(tmp_path / "out") == exported(tmp_path / "expected")


# Recipes

WRITTEN = {
    "seed": 1,
    "documents": 100,
    "mix": {"stories": 0.5, "neutral": 0.5},
    "samples": 1000,
    "batch": 10,
    "learning_rate": 0.001,
    "checkpoint_every": 20,
    "saes": [{"site": "resid_post.2", "width": 512, "k": 8}, {"site": "resid_pre.0", "width": 64, "k": 4}],
}


def test_a_recipe_is_read(write_yaml):
    recipe = load_recipe(write_yaml(**WRITTEN))
    assert recipe.saes == (Dictionary(Site(2), 512, 8), Dictionary(Site(0, "resid_pre"), 64, 4))
    assert [one.sae_id for one in recipe.saes] == ["resid_post.2/width_512", "resid_pre.0/width_64"]
    assert (recipe.seed, recipe.samples, recipe.learning_rate, recipe.mix["neutral"]) == (1, 1000, 0.001, 0.5)


def one_sae(**changes):
    return {"saes": [WRITTEN["saes"][0] | changes]}


NO_RECIPES = {
    "no seed": {"seed": "left out"},
    "no SAEs": {"saes": "left out"},
    "an unknown field": {"learning_speed": 1},
    "a number of SAEs": {"saes": 5},
    "an unknown site": one_sae(site="resid_mid.2"),
    "no features a token": one_sae(k=0),
    "more features a token than there are": one_sae(k=513),
    "a negative width": one_sae(width=-512),
    "an unknown field of an SAE": one_sae(levels=[64, 128]),
    "samples in words": {"samples": "many"},
    "a learning rate of zero": {"learning_rate": 0},
    "a share below zero": {"mix": {"stories": -1}},
    "a seed below zero": {"seed": -1},
    "an empty batch": {"batch": 0},
    "no checkpoints": {"checkpoint_every": None},
}


@pytest.mark.parametrize("name", NO_RECIPES)
def test_what_is_no_recipe_is_one_error(name, write_yaml):
    changed = WRITTEN | NO_RECIPES[name]
    path = write_yaml(**{field: value for field, value in changed.items() if value != "left out"})
    with pytest.raises(DataError, match=f"{path}: not a recipe for SAEs"):
        load_recipe(path)


# SAEs that are trained on the spot

QUICK = {"per_element": 2, "pairs": 1, "samples": 4096, "batch": 256, "checkpoint_every": 4}


@pytest.fixture
def stranger(copied_organism):
    """A model that no table knows: the organism in another folder."""
    return load_model(copied_organism("stranger"))


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A recipe that takes seconds."""
    recipe = own_recipe().model_copy(update=QUICK)
    monkeypatch.setattr(sae_training, "own_recipe", lambda: recipe)
    monkeypatch.setenv("PERSONALIB_CACHE", str(tmp_path / "saes"))
    return tmp_path / "saes"


def test_one_is_trained_for_a_stranger_and_found_again(stranger, quick, monkeypatch):
    with pytest.raises(DataError, match=r"no SAEs are known for .*stranger; say of which release a are"):
        usual_saes(stranger, ids=["a"])
    release, ids = usual_saes(stranger)
    assert ids == ("",)
    sae = load_sae(release)
    sae.check_fits(stranger)
    # Behind the block in the middle, eight features a coordinate.
    assert (sae.site.layer, sae.width) == (3, 8 * 128)
    assert torch.isfinite(sae.reconstruct(torch.randn(5, 128))).all()
    monkeypatch.setattr(sae_training, "train_saes", lambda *_: pytest.fail("trained again"))
    assert usual_saes(stranger) == (release, ids)


def test_a_training_on_the_spot_that_was_stopped_goes_on(stranger, quick):
    folder = trained_sae(stranger)
    [place], [log] = quick.iterdir(), quick.rglob("work/**/log.jsonl")
    (place / "manifest.json").unlink()
    before = log.read_text()
    assert trained_sae(stranger) == folder and log.read_text() == before and (place / "manifest.json").is_file()


def test_other_weights_get_another_sae(stranger, quick, monkeypatch):
    monkeypatch.setattr(sae_training, "train_saes", lambda *_: None)
    first = trained_sae(stranger)
    stranger.model.get_submodule("model.layers.0.mlp.down_proj").weight.data.mul_(1.5)
    assert first.parents[1] != trained_sae(stranger).parents[1]


def test_the_own_recipe_is_read_from_its_file(tmp_path, monkeypatch):
    assert own_recipe().expansion == 8
    (tmp_path / "own_saes.yaml").write_text("seed: x\n")
    monkeypatch.setenv("PERSONALIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"own_saes\.yaml: seed: Input should be a valid integer"):
        own_recipe()


def test_chapters_side_by_side_train_one(stranger, quick, monkeypatch):
    monkeypatch.setattr(sae_training, "train_saes", lambda *_: pytest.fail("trained twice"))
    with pytest.raises(pytest.fail.Exception):
        trained_sae(stranger)
    [place], found = quick.iterdir(), []
    other = Thread(target=lambda: found.append(trained_sae(stranger)))
    with alone(place, doing="trains"):
        other.start()
        other.join(2)
        assert other.is_alive() and not found
        (place / "manifest.json").write_text("{}")
    other.join(60)
    assert found and found[0].is_relative_to(place)
