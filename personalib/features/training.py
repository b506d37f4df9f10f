"""Training of sparse autoencoders on the residual stream, with sae-lens: seeded, resumable, logged.

The organism's are trained by a recipe; a model for which none are known gets one that is trained on the spot.

The SAEs are BatchTopK ones (Bussmann et al., arXiv 2412.06410): of all features of a batch the strongest are kept, k a
token on average. They are saved as JumpReLU SAEs, whose one threshold lets as many through.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from personalib.base.checkpoints import load_checkpoint, save_checkpoint
from personalib.base.data import STRICT, Count, DataError, Positive, Strict, data_dir, parse, read_yaml
from personalib.base.provenance import repository_root
from personalib.base.storage import Journal, alone, write_whole, writing
from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import contrast_set, contrasts
from personalib.stimuli.sentences import element_texts
from personalib.vectors.contrast import all_sites, prompts

# Batches whose norms give the factor that brings activations to the size that sae-lens expects.
_NORM_BATCHES = 20
_HASHED_ROWS = 2**16
# What the trainer of sae-lens counts.
_COUNTS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")


@dataclass(frozen=True, config=STRICT)
class Dictionary:
    """One SAE of a recipe: the site that it reads, how many features it has, and how many of them fire at a token."""

    site: Annotated[Site, BeforeValidator(lambda site: Site.parse(site) if isinstance(site, str) else site)]
    width: Count
    k: Count

    @model_validator(mode="after")
    def _check(self) -> "Dictionary":
        if self.k > self.width:
            raise ValueError(f"{self.sae_id}: k has to lie between 1 and the width")
        return self

    @property
    def sae_id(self) -> str:
        """The name of the SAE within its release, which is its folder too."""
        return f"{self.site}/width_{self.width}"


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that determines a training run, read from ``data/organism/saes.yaml``.

    ``mix`` is the share of each kind of document, ``samples`` how many tokens each SAE sees, and ``batch`` the tokens
    of a step; Adam's rate falls to zero over the last quarter. Activations are kept on disk in ``dtype``.
    """

    seed: Annotated[int, Field(ge=0, strict=True)]
    documents: Count
    mix: Mapping[str, Positive]
    samples: Count
    batch: Count
    learning_rate: Positive
    checkpoint_every: Count
    saes: tuple[Dictionary, ...]
    dtype: Literal["float16", "float32"] = "float16"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; a DataError where a field is missing, unknown, of the wrong kind or out of range."""
    return parse(Recipe, read_yaml(path), f"{path}: not a recipe for SAEs")


class OwnRecipe(Strict):
    """How an SAE is trained on the spot, read from ``data/own_saes.yaml``; the file explains the fields."""

    seed: int
    per_element: int
    pairs: int
    expansion: int
    widest: int
    k: int
    samples: int
    batch: int
    learning_rate: float
    checkpoint_every: int
    dtype: Literal["float16", "float32"]


def own_recipe() -> OwnRecipe:
    """The recipe of SAEs that are trained on the spot; a DataError as of :func:`load_recipe`."""
    path = data_dir() / "own_saes.yaml"
    return parse(OwnRecipe, read_yaml(path), str(path))


class TokenBatches(Iterator[torch.Tensor]):
    """Batches of tokens in random order: rounds in which no token comes twice; what does not fill a batch is left out.

    Activations, shape ``(tokens, d_model)``, may be memory-mapped; ``position`` is how many batches were given.
    """

    def __init__(self, values: NDArray[Any], size: int, seed: int) -> None:
        if len(values) < size:
            raise ValueError(f"{len(values)} tokens do not fill a batch of {size}; take more documents")
        self.values, self.size, self.seed, self.position = values, size, seed, 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __next__(self) -> torch.Tensor:
        epoch, number = divmod(self.position, len(self.values) // self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.values))
        rows = np.sort(self._order[number * self.size : (number + 1) * self.size])
        self.position += 1
        return torch.from_numpy(self.values[rows].astype(np.float32))


class SaeTraining:
    """One SAE in training on activations, shape ``(tokens, d_model)``, in a folder with its checkpoint and log.

    A checkpoint found there is resumed; it is a DataError where it cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        dictionary: Dictionary,
        values: NDArray[Any],
        folder: Path,
        model: str,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.batches = TokenBatches(values, recipe.batch, recipe.seed)
        torch.manual_seed(recipe.seed)
        self.trainer = _trainer(recipe, dictionary, values.shape[1], self.batches, model, device)
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        # What the run is about, so that another recipe or other activations do not go on from its checkpoint.
        about = [asdict(recipe) | {"saes": asdict(dictionary)}, _digest(values), model]
        self._about = json.loads(json.dumps(about))  # as the checkpoint has it
        self._path = folder / "checkpoint.safetensors"
        if not (self._path.exists() and load_checkpoint(self._path, self._restore)):
            (folder / "log.jsonl").unlink(missing_ok=True)
            self.trainer.activation_scaler.estimate_scaling_factor(values.shape[1], self.batches, _NORM_BATCHES)

    def run(self) -> None:
        """Train to the end; a DataError where a weight is not finite, and the checkpoint of before stays."""
        trainer, every = self.trainer, self.recipe.checkpoint_every
        trainer.sae.train()
        with (
            closing(Journal(self.folder / "log.jsonl")) as log,
            tqdm(total=self.recipe.samples, initial=trainer.n_training_samples, unit="token", unit_scale=True) as bar,
        ):
            # What was logged after the checkpoint is logged again.
            log.cut(sum(entry["step"] <= trainer.n_training_steps for entry in log.entries))
            while trainer.n_training_samples < self.recipe.samples:
                start = time.perf_counter()
                output = trainer.step(next(self.batches))
                trainer.n_training_steps += 1
                self.seconds += time.perf_counter() - start
                bar.update(self.recipe.batch)
                if trainer.n_training_steps % every == 0 or trainer.n_training_samples >= self.recipe.samples:
                    self._check_finite()
                    log.add(self._entry(output))
                    self._checkpoint()

    def export(self, folder: Path) -> None:
        """Write the SAE as sae-lens has it, with its log; the factor of normalisation goes into the weights."""
        scale = self.trainer.activation_scaler.scaling_factor
        assert scale is not None
        sae = deepcopy(self.trainer.sae)  # the one in training stays as its checkpoint has it
        sae.fold_activation_norm_scaling_factor(scale)
        sae.cfg.device = "cpu"  # a file that says where it was trained is another on every machine
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            sae.save_inference_model(folder)
            write_whole(folder / "training_log.jsonl", (self.folder / "log.jsonl").read_bytes())

    @torch.no_grad()
    def _entry(self, output: TrainStepOutput) -> dict[str, float]:
        """What is logged of a step."""
        trainer = self.trainer
        variance = (output.sae_in - output.sae_in.mean(0)).pow(2).sum()
        return {
            "step": trainer.n_training_steps,
            "tokens": trainer.n_training_samples,
            "explained_variance": round(1 - float((output.sae_out - output.sae_in).pow(2).sum() / variance), 4),
            "l0": round(float((output.feature_acts > 0).sum(1).float().mean()), 2),
            "resting": int(trainer.dead_neurons.sum()),
            "seconds": round(self.seconds, 1),
        }

    def _check_finite(self) -> None:
        for name, value in self.trainer.sae.named_parameters():
            if not value.isfinite().all():
                problem = f"{name} holds NaN or infinity; lower learning_rate in the recipe"
                raise DataError(f"{self.folder}: step {self.trainer.n_training_steps}: {problem}")

    def _checkpoint(self) -> None:
        trainer = self.trainer
        tensors = {f"sae.{name}": value for name, value in trainer.sae.state_dict().items()}
        optimizer = trainer.optimizer.state_dict()
        for number, state in optimizer["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors |= {name: getattr(trainer, name) for name in ("act_freq_scores", "n_forward_passes_since_fired")}
        state = {
            "about": self._about,
            "counts": {name: getattr(trainer, name) for name in _COUNTS},
            "position": self.batches.position,
            "groups": optimizer["param_groups"],
            "schedule": trainer.lr_scheduler.state_dict(),
            "scale": trainer.activation_scaler.scaling_factor,
            "seconds": self.seconds,
        }
        save_checkpoint(self._path, tensors, state)

    def _restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> bool:
        """Put everything where it was when the checkpoint was written, if it is one of this very run."""
        if plain.get("about") != self._about:
            return False
        trainer = self.trainer
        trainer.sae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("sae.")})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        trainer.optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
        trainer.lr_scheduler.load_state_dict(plain["schedule"])
        for name in ("act_freq_scores", "n_forward_passes_since_fired"):
            getattr(trainer, name).copy_(tensors[name])
        for name, value in plain["counts"].items():
            setattr(trainer, name, value)
        trainer.activation_scaler.scaling_factor = plain["scale"]
        self.batches.position = plain["position"]
        self.seconds = plain["seconds"]
        return True


def train_saes(
    recipe: Recipe, language_model: LanguageModel, texts: Sequence[str], work: Path, out: Path, device: str = "cpu"
) -> None:
    """Train all SAEs of a recipe on what a model makes of texts; what is done already is not done again.

    Activations, checkpoints and logs are kept in ``work``; the SAEs go to ``out``, each into a folder of its id, with a
    manifest of all.
    """
    sites = sorted({dictionary.site for dictionary in recipe.saes})
    read = capture(
        language_model, texts, sites, work / "activations", tokens="all", dtype=recipe.dtype, progress="activations"
    )
    seconds = {}
    for dictionary in recipe.saes:
        name, values = dictionary.sae_id, read.values(dictionary.site)
        training = SaeTraining(recipe, dictionary, values, work / name, language_model.name, device)
        training.run()
        training.export(out / name)
        seconds[name] = round(training.seconds, 1)
    manifest = {
        "recipe": asdict(recipe) | {"saes": [asdict(each) | {"site": str(each.site)} for each in recipe.saes]},
        "model": {"name": language_model.name, "digest": language_model.digest()},
        "tokens": int(read.offsets[-1]),
        "seconds": seconds,
        "device": device,
        "versions": {name: version(name) for name in ("torch", "sae-lens", "transformers", "nnsight")},
    }
    write_whole(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def trained_sae(language_model: LanguageModel, device: str = "cpu") -> Path:
    """The folder of an SAE of a model's middle block; it is trained first where it is not there.

    It has read little and narrow text, the sentences and questions of this book, so that every chapter runs on any
    model; an SAE that was trained on a corpus is better wherever there is one. It is kept under a hash of the model and
    of all that determines the training, in ``$PERSONALIB_CACHE`` or in ``results/saes`` beside the library; a training
    that was killed goes on.
    """
    recipe, sites = own_recipe(), all_sites(language_model)
    # Sentences that tell an element, and neutral questions after sentences that tell an element or press.
    texts = list(element_texts("train", recipe.per_element, recipe.seed).texts)
    for contrast in (*contrasts("elements"), *contrasts("pressures")):
        for pair in contrast_set(contrast, recipe.pairs, recipe.seed, "train"):
            texts += prompts(language_model, pair, language_model.form)[0]
    model = language_model.revision or language_model.digest()
    about = json.dumps([model, str(language_model.model.dtype), recipe.model_dump(), texts])
    name = re.sub(r"[^\w.-]+", "-", Path(language_model.name).name)
    saes_dir = Path(os.environ.get("PERSONALIB_CACHE") or repository_root() / "results" / "saes")
    place = saes_dir / f"{name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    width = min(recipe.expansion * language_model.model.config.get_text_config().hidden_size, recipe.widest)
    dictionary = Dictionary(sites[len(sites) // 2], width, min(recipe.k, width // 4))
    # The fields that are not about the texts are those of every recipe.
    shared = recipe.model_dump(include=set(Recipe.__dataclass_fields__))
    whole = Recipe(**shared, documents=len(texts), mix={}, saes=(dictionary,))
    # The manifest is written last. Chapters that run side by side want the same SAE: one of them trains it.
    if not (place / "manifest.json").is_file():
        with alone(place, doing="trains an SAE", wait=True):
            if not (place / "manifest.json").is_file():
                train_saes(whole, language_model, texts, place / "work", place, device)
    return place / dictionary.sae_id


def _digest(values: NDArray[Any]) -> str:
    """A hash of activations, block by block."""
    digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
    for start in range(0, len(values), _HASHED_ROWS):
        digest.update(values[start : start + _HASHED_ROWS].tobytes())
    return digest.hexdigest()


def _trainer(
    recipe: Recipe, dictionary: Dictionary, d_model: int, batches: TokenBatches, model: str, device: str
) -> SAETrainer[Any, Any]:
    site, steps = dictionary.site, recipe.samples // recipe.batch
    config = BatchTopKTrainingSAEConfig(
        d_in=d_model,
        d_sae=dictionary.width,
        k=dictionary.k,
        device=device,
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(model_name=model, hook_name=f"blocks.{site.layer}.hook_{site.stream}", prepend_bos=True),
    )
    settings = SAETrainerConfig(
        total_training_samples=recipe.samples,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_end=recipe.learning_rate,
        lr_warm_up_steps=min(100, steps // 10),
        lr_decay_steps=steps // 4,
        device=device,
        dead_feature_window=300,
        feature_sampling_window=steps + 1,
    )
    return SAETrainer(settings, BatchTopKTrainingSAE(config), batches)
