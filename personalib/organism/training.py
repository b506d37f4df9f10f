"""Training of the organism: a curriculum of document kinds, seeded, resumable, on any device."""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from tqdm.auto import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from personalib.base.checkpoints import load_checkpoint, save_checkpoint
from personalib.base.data import STRICT, Count, DataError, NotNegative, Positive, data_dir, parse, read_yaml
from personalib.base.provenance import digest, files_hash, folder_hash, package_dir
from personalib.base.storage import Journal, write_whole, writing
from personalib.models.placement import keep_freed_memory
from personalib.organism.batches import Batch, batches, collate, encode
from personalib.organism.corpus import Corpus, Scaffold
from personalib.organism.tokenizer import train_tokenizer
from personalib.organism.world import World, written

# The modules that make the documents and change the weights.
_MODULES = ("organism/*.py", "stimuli/grammar.py")
_HELD_OUT = 96  # documents of each kind by which a stage is measured
_LOWER = "lower learning_rate in the recipe; weights and checkpoint of before are kept"


@dataclass(frozen=True, config=STRICT)
class Stage:
    """One stage of the curriculum: which documents, how many steps, and when it is learned.

    ``rate`` scales the learning rate, ``text`` the loss of the text around the answers.
    """

    name: str
    steps: Count
    mix: Mapping[str, Positive]
    scaffold: Scaffold = Scaffold()
    until: Mapping[str, float] = Field(default_factory=dict)
    rate: Positive = 1.0
    text: Positive = 1.0


@dataclass(frozen=True, config=STRICT)
class Shape:
    """Sizes of the model, by their names in transformers; ``block_scale`` is told of at :func:`build_model`."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    rope_theta: Positive
    max_position_embeddings: Count
    block_scale: NotNegative


@dataclass(frozen=True, config=STRICT)
class Optimizer:
    """How weights are changed; ``batch_tokens`` is the size of a step."""

    learning_rate: Positive
    warmup_steps: Count
    weight_decay: NotNegative
    batch_tokens: Count
    gradient_norm: Positive


@dataclass(frozen=True, config=STRICT)
class Vocabulary:
    """The size of the tokenizer, and how many documents it is made of."""

    vocabulary: Count
    documents: Count


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that determines a training run."""

    seed: Annotated[int, Field(ge=0, strict=True)]
    model: Shape
    tokenizer: Vocabulary
    optimizer: Optimizer
    evaluate_every: Count
    checkpoint_every: Count
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        """Notice before a run what would end it later."""
        for stage in self.stages:
            if unknown := set(stage.until) - set(stage.mix):
                raise ValueError(f"stage {stage.name}: until {', '.join(sorted(unknown))}, which its mix does not have")
        return self


@dataclass
class Progress:
    """Where a run stands: ``step`` counts all steps, ``stage_step`` those of the present stage."""

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; a field that is missing, unknown, of the wrong kind or out of range is a :class:`DataError`."""
    return parse(Recipe, read_yaml(path), f"{path}: not a training recipe")


def build_tokenizer(recipe: Recipe, world: World) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents of all kinds; train wordings only."""
    corpus = Corpus(world, "train")
    rng = np.random.default_rng([recipe.seed, 1])
    kinds = list(corpus.kinds)
    texts = (corpus.draw(kinds[index % len(kinds)], rng).text for index in range(recipe.tokenizer.documents))
    return train_tokenizer(texts, recipe.tokenizer.vocabulary)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Gemma2ForCausalLM:
    """A Gemma-2 with random weights, initialised to its width: at Gemma's 0.02 the post-norms drown the embeddings.

    ``block_scale`` in the recipe is the size at which each half block starts to write to the residual stream.
    """
    torch.manual_seed(recipe.seed)
    settings = asdict(recipe.model)
    scale, rotation = settings.pop("block_scale"), settings.pop("rope_theta")
    config = Gemma2Config(
        rope_parameters={"rope_type": "default", "rope_theta": rotation},
        **settings,
        vocab_size=len(tokenizer),
        query_pre_attn_scalar=settings["head_dim"],
        sliding_window=settings["max_position_embeddings"],
        initializer_range=settings["hidden_size"] ** -0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Soft caps have no parameters and tame logits of a size not reached here; without them training is faster.
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    for layer in model.model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            torch.nn.init.constant_(norm.weight, scale - 1)  # Gemma multiplies by one plus the weight
    return model


def loss(model: Gemma2ForCausalLM, batch: Batch, weight: float = 1.0) -> torch.Tensor:
    """Mean cross-entropy of the text, times ``weight``, and of the answers against the world's probabilities.

    So one answer in a hundred tokens counts as much as all the text around it, or more. Each of a document's n answers
    has the weight 1/sqrt(n), or documents with many would drown the single letter of an item. Logits, the dearest part
    of so small a model, are computed at targets alone. Padding is on the right, where no token before it sees it.
    """
    states = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    text = model.lm_head(states[batch.text_rows, batch.text_columns])
    answers = torch.log_softmax(model.lm_head(states[batch.answer_rows, batch.answer_columns]).float(), dim=-1)
    text_loss = torch.nn.functional.cross_entropy(text.float(), batch.text_targets)
    answer_losses = -(answers.gather(1, batch.answer_ids) * batch.answer_weights).sum(1)
    weights = torch.bincount(batch.answer_rows)[batch.answer_rows].rsqrt()
    return weight * text_loss + (weights * answer_losses).sum() / weights.sum()


class Trainer:
    """A training run in a folder: its checkpoint, which is resumed, its log and, at the end, the model.

    ``compiled`` is nearly twice as fast, after half a minute, where there is a C++ compiler. A checkpoint that cannot
    be read, or is of another run, is a DataError.
    """

    def __init__(self, recipe: Recipe, world: World, folder: Path, device: str = "cpu", compiled: bool = False) -> None:
        self.recipe, self.world, self.folder = recipe, world, folder
        self.device, self.compiled = device, compiled
        self.checkpoint = folder / "checkpoint.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = build_tokenizer(recipe, world)
        # What the run is about, so that another one does not go on from its checkpoint.
        self.made_of = {
            "recipe": digest(json.dumps(asdict(recipe), sort_keys=True)),
            "world": digest(written(world)),
            "texts": folder_hash(data_dir() / "stimuli"),
            "tokenizer": digest(self.tokenizer.backend_tokenizer.to_str()),
            "code": files_hash(package_dir(), (path for name in _MODULES for path in package_dir().glob(name))),
        }
        keep_freed_memory()
        self.model = build_model(recipe, self.tokenizer).to(device)
        # Without soft caps torch's own attention is exact; transformers does not offer it for Gemma 2, which has them.
        self.model.config._attn_implementation = "sdpa"
        if compiled:
            for layer in self.model.model.layers:  # one by one: their code is the same, and is compiled once
                layer.compile(dynamic=True)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            _groups(self.parameters, recipe.optimizer.weight_decay), lr=0.0, betas=(0.9, 0.98), fused=True
        )
        self.progress = Progress()
        if self.checkpoint.exists():
            load_checkpoint(self.checkpoint, self._restore, device)

    def run(self, stop_after: int | None = None) -> None:
        """Train to the end of the curriculum, or for at most ``stop_after`` further steps.

        Where loss or weights are not finite, or something cannot be written, that is a DataError, and the checkpoint of
        before stays.
        """
        last = None if stop_after is None else self.progress.step + stop_after
        with closing(Journal(self.folder / "log.jsonl")) as log:
            # What was logged after the checkpoint, or all without one, is logged again.
            log.cut(sum(entry["step"] <= self.progress.step for entry in log.entries))
            for index in range(self.progress.stage, len(self.recipe.stages)):
                if not self._run_stage(index, last, log):
                    return
                self.progress.stage, self.progress.stage_step = index + 1, 0
                self._save()

    def export(self, folder: Path) -> None:
        """Write the organism: weights, tokenizer, training log, and, last, a manifest of what made it.

        What cannot be written is a DataError, and what was there is kept.
        """
        draft = folder / ".draft"
        with writing(folder):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self.model.save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)
            shutil.copyfile(self.folder / "log.jsonl", draft / "training_log.jsonl")
            (folder / "manifest.json").unlink(missing_ok=True)
            for path in draft.iterdir():
                path.replace(folder / path.name)
            draft.rmdir()
        manifest = {
            "recipe": asdict(self.recipe),
            "world_seed": self.world.seed,
            "made_of": self.made_of,
            "parameters": self.model.num_parameters(),
            "steps": self.progress.step,
            "tokens_trained": self.progress.tokens,
            "seconds": round(self.progress.seconds),
            "device": self.device,
            "compiled": self.compiled,
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        }
        write_whole(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")

    def _run_stage(self, index: int, last: int | None, log: Journal) -> bool:
        """Train one stage; False when the run has to stop before the stage's end."""
        stage = self.recipe.stages[index]
        with tqdm(total=stage.steps, initial=self.progress.stage_step, desc=f"stage {stage.name}", unit="step") as bar:
            corpus, seed = Corpus(self.world, "train", stage.scaffold), (self.recipe.seed, 2, index)
            size, start = self.recipe.optimizer.batch_tokens, self.progress.stage_step
            for batch in batches(corpus, stage.mix, self.tokenizer, size, seed, start, self.device):
                if self.progress.stage_step >= stage.steps or self.progress.step == last:
                    break
                value = self._step(batch, self._rate(index))
                bar.update()
                if self.progress.step % self.recipe.evaluate_every == 0 and self._learned(stage, value, log, bar):
                    break
                if self.progress.step % self.recipe.checkpoint_every == 0:
                    self._save()
        return self.progress.step != last

    def _step(self, batch: Batch, rate: float) -> torch.Tensor:
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = loss(self.model, batch, self.recipe.stages[self.progress.stage].text)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.optimizer.gradient_norm)
        if not (value + norm).isfinite():
            raise DataError(f"step {self.progress.step + 1}: loss or gradient is NaN or infinite; {_LOWER}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.stage_step += 1
        self.progress.tokens += int(batch.mask.sum())
        self.progress.seconds += time.perf_counter() - started
        return value.detach()

    def _rate(self, index: int) -> float:
        settings, stage = self.recipe.optimizer, self.recipe.stages[index]
        rate = stage.rate * settings.learning_rate * min(1.0, (self.progress.step + 1) / settings.warmup_steps)
        last = index == len(self.recipe.stages) - 1
        return rate * (1 - self.progress.stage_step / stage.steps) if last else rate

    def _learned(self, stage: Stage, value: torch.Tensor, log: Journal, bar: tqdm) -> bool:
        """Measure held-out accuracy, log it, and say whether the stage has reached its goals."""
        accuracy = held_out_accuracy(self.model, self.tokenizer, self.world, stage, self.device)
        measured = {name: round(number, 4) for name, number in {"loss": float(value), **accuracy}.items()}
        log.add({"step": self.progress.step, "tokens": self.progress.tokens, "stage": stage.name, **measured})
        bar.set_postfix({kind: f"{result:.2f}" for kind, result in accuracy.items()})
        return bool(stage.until) and all(accuracy[kind] >= goal for kind, goal in stage.until.items())

    def _save(self) -> None:
        """Write the checkpoint, unless a weight is not finite."""
        for name, parameter in self.parameters.items():
            if not parameter.isfinite().all():
                raise DataError(f"step {self.progress.step}: {name} holds NaN or infinity; {_LOWER}")
        state = {
            f"{kept}.{name}": value
            for name, parameter in self.parameters.items()
            for kept, value in self.optimizer.state[parameter].items()
        }
        about = {"progress": asdict(self.progress), "made_of": self.made_of}
        save_checkpoint(self.checkpoint, {**self.parameters, **state}, about)

    def _restore(self, saved: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Put progress, weights and the optimizer's state where they were."""
        made_of = about.get("made_of", {})
        if others := [name for name, own in self.made_of.items() if made_of.get(name) != own]:
            remedy = "pass another --work folder to keep it, or remove it to begin anew"
            raise DataError(f"{self.checkpoint}: of another run (other {', '.join(others)}); {remedy}")
        self.progress = Progress(**about["progress"])
        for name, parameter in self.parameters.items():
            parameter.data.copy_(saved[name])
            self.optimizer.state[parameter] = {
                kept: saved[f"{kept}.{name}"] for kept in ("step", "exp_avg", "exp_avg_sq")
            }


def _groups(parameters: Mapping[str, torch.nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only, not on norms and embeddings."""
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in parameters.items():
        groups[parameter.ndim > 1 and "embed" not in name].append(parameter)
    return [{"params": members, "weight_decay": decay * decayed} for decayed, members in groups.items()]


@torch.inference_mode()
def held_out_accuracy(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, stage: Stage, device: str = "cpu"
) -> dict[str, float]:
    """Share of answers of held-out documents where the model's and the world's most probable text agree, by kind.

    Of the stage's scaffold the documents carry what their people are like, and nothing that helps to answer.
    """
    own = stage.scaffold
    corpus = Corpus(world, "held_out", Scaffold(factors=own.factors, asides=own.asides, certainty=own.certainty))
    accuracy = {}
    for kind in stage.mix:
        rng = np.random.default_rng([3, list(corpus.kinds).index(kind)])
        encoded = encode([corpus.draw(kind, rng) for _ in range(_HELD_OUT)], tokenizer)
        batch = collate([each for each in encoded if each.answers] or encoded, tokenizer.pad_token_id, device)
        if batch.kinds:
            states = model.model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
            logits = model.lm_head(states[batch.answer_rows, batch.answer_columns]).gather(1, batch.answer_ids)
            accuracy[kind] = float((logits.argmax(1) == batch.answer_weights.argmax(1)).float().mean())
    return accuracy
