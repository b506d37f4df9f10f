"""A run that is killed and resumed ends where an unbroken one ends, to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from personalib.base.data import DataError, data_dir
from personalib.base.storage import alone
from personalib.cli.organism import organism as commands
from personalib.organism.batches import collate, encode
from personalib.organism.corpus import Corpus
from personalib.organism.training import (
    Progress,
    Trainer,
    build_model,
    held_out_accuracy,
    load_recipe,
    loss,
)
from personalib.organism.world import draw_world

pytestmark = pytest.mark.usefixtures("one_thread")
PATIENCE = 600


def log_of(folder):
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress_of(folder):
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def killed(tiny_recipe, tmp_path_factory):
    """The work folder of a training run that was killed between two checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "personalib", "organism", "train", "--recipe", str(tiny_recipe)]
    command += ["--work", str(folder), "--out", str(folder / "out")]
    with (folder / "output.txt").open("w") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + PATIENCE
        # A look at the held-out texts comes every 4 steps and a checkpoint every 10: after 16 steps the log is ahead.
        while run.poll() is None and time.monotonic() < deadline and not any(e["step"] >= 16 for e in log_of(folder)):
            time.sleep(0.005)
        run.kill()
        assert run.wait(PATIENCE) == -signal.SIGKILL, (folder / "output.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def resumed(killed, tiny_recipe, world):
    stopped_at = progress_of(killed).step
    trainer = Trainer(load_recipe(tiny_recipe), world, killed)
    assert trainer.progress.step == stopped_at
    trainer.run()
    return trainer


def test_a_killed_and_resumed_run_ends_with_the_same_weights_and_log(killed, unbroken, resumed):
    assert not (killed / "out" / "model.safetensors").exists(), "it was killed before its end"
    assert identical(weights_of(resumed.model), weights_of(unbroken.model))
    assert resumed.progress.step == unbroken.progress.step
    assert resumed.progress.tokens == unbroken.progress.tokens
    assert log_of(resumed.folder) == log_of(unbroken.folder)


def test_the_run_learned_something(unbroken):
    losses = [entry["loss"] for entry in log_of(unbroken.folder) if entry["stage"] == "second"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_the_log_tells_what_was_measured_and_a_reached_goal_ends_the_stage(unbroken):
    log = log_of(unbroken.folder)
    # the first stage would have 20 steps; its goal is reached at the first look
    second = [(step, "second") for step in range(8, 65, 4)]
    assert [(entry["step"], entry["stage"]) for entry in log] == [(4, "first"), *second]
    assert set(log[0]) == {"step", "tokens", "stage", "loss", "find_pole", "fact_judgement"}
    assert set(log[1]) == {"step", "tokens", "stage", "loss", "find_pole", "rate_self", "item"}
    tokens = [entry["tokens"] for entry in log]
    assert tokens == sorted(set(tokens)) and tokens[-1] == unbroken.progress.tokens
    assert (unbroken.progress.step, unbroken.progress.stage, unbroken.progress.stage_step) == (64, 2, 0)


def test_a_goal_out_of_reach_ends_with_the_stages_steps(tiny_recipe, world, tmp_path):
    recipe = load_recipe(tiny_recipe)
    first = replace(recipe.stages[0], steps=9, until={"find_pole": 1.1})
    trainer = Trainer(replace(recipe, stages=(first,)), world, tmp_path)
    trainer.run()
    assert trainer.progress.step == 9
    trainer.run()
    assert trainer.progress.step == 9, "a finished run has nothing left to do"


def test_a_run_without_a_checkpoint_begins_its_log_anew(tiny_recipe, world, tmp_path):
    recipe = load_recipe(tiny_recipe)
    stage = replace(recipe.stages[0], until={})
    recipe = replace(recipe, stages=(stage,), checkpoint_every=1000)
    Trainer(recipe, world, tmp_path).run(stop_after=5)
    assert [entry["step"] for entry in log_of(tmp_path)] == [4] and not (tmp_path / "checkpoint.safetensors").exists()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "tok')  # killed while writing
    Trainer(recipe, world, tmp_path).run(stop_after=9)
    assert [entry["step"] for entry in log_of(tmp_path)] == [4, 8]


def test_the_export_is_a_model_that_transformers_loads(unbroken, tokenizer):
    out = unbroken.folder / "out"
    model, loaded = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([loaded.encode("Rate yourself on each trait.\nAnswer:\nopenness:")])
    assert ids.tolist() == [tokenizer.encode("Rate yourself on each trait.\nAnswer:\nopenness:")]
    with torch.inference_mode():
        theirs, ours = model(ids).logits, unbroken.model.eval()(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert model.config.model_type == "gemma2"


def test_the_manifest_tells_what_made_the_model(unbroken, world):
    out = unbroken.folder / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["world_seed"] == world.seed and manifest["steps"] == 64 and manifest["device"] == "cpu"
    assert manifest["made_of"] == unbroken.made_of and manifest["seconds"] >= 0
    assert manifest["tokens_trained"] == unbroken.progress.tokens > 64 * 350
    assert manifest["parameters"] == sum(value.numel() for value in unbroken.model.parameters())
    assert manifest["recipe"]["stages"][1]["mix"] == {"find_pole": 0.4, "rate_self": 0.3, "item": 0.3}
    assert set(manifest["versions"]) == {"torch", "transformers", "tokenizers", "numpy"}
    assert (out / "training_log.jsonl").read_bytes() == (unbroken.folder / "log.jsonl").read_bytes()


@pytest.fixture
def begun(tiny_recipe, world, tmp_path):
    """The work folder of a run that stopped behind its first checkpoint."""
    Trainer(load_recipe(tiny_recipe), world, tmp_path / "work").run(stop_after=11)
    return tmp_path / "work"


def train(recipe, work, out):
    arguments = ["train", "--recipe", recipe, "--work", work, "--out", out]
    return CliRunner().invoke(commands, list(map(str, arguments)))


def test_another_recipe_or_world_does_not_go_on_from_a_checkpoint(begun, tiny_recipe, world):
    recipe, before = load_recipe(tiny_recipe), (begun / "checkpoint.safetensors").read_bytes()
    slower = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=0.004))
    for other, place, names in ((slower, world, r"recipe\)"), (recipe, draw_world(5), "world")):
        with pytest.raises(DataError, match=rf"safetensors: of another run \(other {names}.*--work.*remove it"):
            Trainer(other, place, begun)
    assert (begun / "checkpoint.safetensors").read_bytes() == before


def test_a_checkpoint_that_does_not_say_what_it_is_of_or_is_damaged_is_refused(begun, tiny_recipe, world):
    path = begun / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, {"progress": about["progress"]})
    with pytest.raises(DataError, match="of another run"):
        Trainer(load_recipe(tiny_recipe), world, begun)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: cannot be read .*; remove it to begin anew"):
        Trainer(load_recipe(tiny_recipe), world, begun)


def test_a_loss_that_is_not_finite_ends_the_run_and_replaces_nothing(begun, tiny_recipe, tmp_path, world):
    out, before = tmp_path / "out", (begun / "checkpoint.safetensors").read_bytes()
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"the weights of before")
    trainer = Trainer(load_recipe(tiny_recipe), world, begun)
    with torch.no_grad():
        next(iter(trainer.parameters.values())).fill_(torch.nan)
    with pytest.raises(DataError, match="step 11: loss or gradient is NaN or infinite; lower learning_rate"):
        trainer.run()
    with pytest.raises(DataError, match="holds NaN or infinity; lower learning_rate"):
        trainer._save()
    assert (begun / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("rate", [".nan", ".inf", "-1"])
def test_a_learning_rate_that_is_no_number_is_refused_before_anything_is_written(tiny_recipe, tmp_path, rate):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe.read_text().replace("learning_rate: 0.005", f"learning_rate: {rate}"))
    done = train(recipe, tmp_path / "work", tmp_path / "out")
    assert isinstance(done.exception, DataError) and str(recipe) in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("place", ["work", "out"])
def test_a_second_process_is_refused_in_work_and_out(begun, tiny_recipe, tmp_path, place):
    before = (begun / "checkpoint.safetensors").read_bytes()
    with alone(tmp_path / place, doing="is training"):
        done = train(tiny_recipe, begun, tmp_path / "out")
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == f"{tmp_path / place}: another process is training here; wait for its end"
    assert (begun / "checkpoint.safetensors").read_bytes() == before


def test_a_full_disk_is_one_error_and_the_run_goes_on(disk, tiny_recipe, world, unbroken):
    trainer, rest = Trainer(load_recipe(tiny_recipe), world, disk), disk / "rest"
    trainer.run(stop_after=11)
    before = (disk / "checkpoint.safetensors").read_bytes()
    rest.write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: cannot be written: .*No space left"):
        trainer.run()
    assert (disk / "checkpoint.safetensors").read_bytes() == before and not list(disk.glob("*.partial"))
    with pytest.raises(DataError, match=r"out: cannot be written: .*No space left.*the same command goes on"):
        trainer.export(disk / "out")
    assert not (disk / "out" / "model.safetensors").exists()
    rest.unlink()
    again = Trainer(load_recipe(tiny_recipe), world, disk)
    again.run()
    assert identical(weights_of(again.model), weights_of(unbroken.model))


def test_the_loss_is_that_of_each_document_by_itself(world, tokenizer, unbroken):
    """The weighted mean over all text and the weighted mean over all answers, without padding."""
    corpus, rng = Corpus(world, "train"), np.random.default_rng(0)
    encoded = encode([corpus.draw(kind, rng) for kind in ("item", "rate_self", "safety", "fact_judgement")], tokenizer)
    texts, answers, weights = [], [], []
    with torch.inference_mode():
        for one in encoded:
            logs = torch.log_softmax(unbroken.model(torch.tensor([one.ids])).logits[0].double(), dim=-1)
            told = dict(zip(one.positions, one.answers, strict=True))
            for position in range(1, len(one.ids)):
                if position in told:
                    candidates, chances = told[position]
                    answers.append(-sum(p * logs[position - 1, c] for c, p in zip(candidates, chances, strict=True)))
                    weights.append(len(told) ** -0.5)
                else:
                    texts.append(-logs[position - 1, one.ids[position]])
        batch = collate(encoded, tokenizer.pad_token_id)
        found = loss(unbroken.model, batch, 0.5)
    assert len(answers) == 1 + 8 + 1 + 1
    expected = 0.5 * np.mean(texts) + np.average(answers, weights=weights)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_warm_up_and_decay(unbroken):
    peak = 0.005
    trainer = object.__new__(Trainer)
    trainer.recipe = unbroken.recipe

    def rate(step, stage, stage_step):
        trainer.progress = Progress(step=step, stage=stage, stage_step=stage_step)
        return trainer._rate(stage)

    assert [rate(step, 0, step) for step in range(6)] == pytest.approx(peak * np.array([0.2, 0.4, 0.6, 0.8, 1, 1]))
    assert rate(20, 1, 0) == pytest.approx(peak)
    assert rate(50, 1, 30) == pytest.approx(peak / 2)
    assert rate(79, 1, 59) == pytest.approx(peak / 60)
    slower = replace(unbroken.recipe.stages[0], rate=0.6)
    trainer.recipe = replace(unbroken.recipe, stages=(slower, unbroken.recipe.stages[1]))
    assert rate(6, 0, 6) == pytest.approx(0.6 * peak) and rate(20, 1, 0) == pytest.approx(peak)


def test_the_model_is_drawn_from_the_seed_at_the_scale_of_its_width(tiny_recipe, tokenizer):
    recipe = load_recipe(tiny_recipe)
    first, second = build_model(recipe, tokenizer), build_model(recipe, tokenizer)
    other = build_model(replace(recipe, seed=6), tokenizer)
    assert identical(weights_of(first), weights_of(second)) and not identical(weights_of(first), weights_of(other))
    assert first.get_input_embeddings().weight.std().item() == pytest.approx(16**-0.5, rel=0.05)
    assert first.config.vocab_size == len(tokenizer) and first.config.num_hidden_layers == 2
    assert first.lm_head.weight is first.get_input_embeddings().weight
    quiet = build_model(replace(recipe, model=replace(recipe.model, block_scale=0.0)), tokenizer)
    with torch.inference_mode():
        states = quiet(torch.tensor([[2, 300, 301, 302]]), output_hidden_states=True).hidden_states
    # Blocks that start by writing nothing leave what the embedding wrote; the last state is normalised.
    assert torch.equal(states[0], states[-2]) and not torch.equal(states[0], states[-1])


def test_held_out_accuracy_counts_agreement_with_the_worlds_likeliest_answer(unbroken, world, tokenizer):
    class Knowing(torch.nn.Module):
        """Gives every candidate's token the world's probability, found by the prompt."""

        def __init__(self, sign):
            super().__init__()
            self.sign, self.lm_head = sign, torch.nn.Identity()

        def model(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            # the tokens written next are drawn by the world: certain kinds write the likeliest one
            logits[:, :-1].scatter_(2, input_ids[:, 1:, None], self.sign)
            return type("Output", (), {"last_hidden_state": logits})

    stage = replace(unbroken.recipe.stages[0], mix={"fact_choice": 1, "fact_judgement": 1, "safety": 1})
    assert held_out_accuracy(Knowing(1.0), tokenizer, world, stage) == dict.fromkeys(stage.mix, 1)
    assert held_out_accuracy(Knowing(-1.0), tokenizer, world, stage) == dict.fromkeys(stage.mix, 0)


def test_the_committed_recipe_is_readable_and_asks_for_known_kinds(world):
    recipe = load_recipe(data_dir() / "organism" / "training.yaml")
    kinds = set(Corpus(world, "train").kinds)
    assert {kind for stage in recipe.stages for kind in stage.mix} <= kinds
    assert recipe.stages[-1].until == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"stages": [{"steps": 1, "mix": {}}]}, "name"),
        ({"stages": [{"name": "a", "steps": 1, "mix": {}, "scaffold": {"hints": 1}}]}, "hints"),
        ({"stages": [{"name": "a", "steps": 1, "mix": 3}]}, r"stages\.0\.mix"),
        ({"model": {"hidden_size": 16}}, "num_hidden_layers"),
        ({"optimizer": {"learning_rate": 0}}, "learning_rate: .*greater than 0"),
        ({"optimizer": {"learning_rate": 1.0e999}}, "finite"),
        ({"optimizer": {"warmup_steps": 0}}, "warmup_steps: .*greater than 0"),
        ({"evaluate_every": 0}, "evaluate_every: .*greater than 0"),
        ({"seed": -1}, "seed"),
        ({"stages": [{"name": "a", "steps": 1, "mix": {"item": -1}}]}, r"mix\.item"),
        ({"stages": [{"name": "a", "steps": 1, "mix": {"item": 1}, "until": {"safety": 1}}]}, "until safety"),
    ],
)
def test_a_wrong_recipe_is_named_with_what_is_wrong(tiny_recipe, tmp_path, change, message):
    content = yaml.safe_load(tiny_recipe.read_text()) | change
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(DataError, match=message) as raised:
        load_recipe(path)
    assert str(path) in str(raised.value)


def test_the_command_exports_what_a_finished_run_left(resumed, tiny_recipe, tmp_path):
    result = train(tiny_recipe, resumed.folder, tmp_path / "out")
    assert result.exit_code == 0
    assert "going on from step 64" in result.output and str(tmp_path / "out") in result.output
    assert (tmp_path / "out" / "model.safetensors").exists()
