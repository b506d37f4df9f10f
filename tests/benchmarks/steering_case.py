"""What the steering benchmark measures on: models, prompts, vectors, and the batches that all competitors share."""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, Gemma2Config

from personalib.models.batches import inference, left_padded
from personalib.models.load import LanguageModel, load_model
from personalib.models.parts import Site, blocks
from personalib.models.prompts import encode_prompts, format_prompt, option_tokens
from personalib.models.registry import ORGANISM
from personalib.questionnaires.items import TraitItem, load_trait, some_of_each, validation_split
from personalib.questionnaires.questions import trait_questions
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add, Condition
from personalib.steering.settings import Positions
from personalib.stimuli.factors import TRAITS
from personalib.vectors.vector import SteeringVector

# The helpers of the tests, for those who import from here.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Array = NDArray[np.float64]
CONDITIONS, BATCH, SEED, ORDERS = 23, 64, 0, 2
# The length of what is added, as a share of the residual stream's median length at the site.
DOSE = 0.5
_SIZES = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "query_pre_attn_scalar"),
)
# By name: what is said to Gemma2Config beside its own defaults, which are those of Gemma 2 (soft caps 50 and 30,
# windows of 4,096 tokens in every other block, a vocabulary of 256,000, tied embeddings).
SHAPES: dict[str, dict[str, int]] = {
    name: dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "gemma2_12x512": (12, 512, 2048, 8, 4, 64, 64),
        "gemma-2-2b": (26, 2304, 9216, 8, 4, 256, 256),
        "gemma-2-9b": (42, 3584, 14336, 16, 8, 256, 256),
    }.items()
}


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, by number, as inputs, with the first token of each option, ``(rows, options)``."""

    numbers: list[int]
    inputs: dict[str, Any]
    options: torch.Tensor

    def chances(self, logits: torch.Tensor) -> Array:
        """The options' probabilities of logits of shape ``(rows, vocabulary)``, by a softmax over all of them."""
        return logits.float().softmax(-1).gather(1, self.options).double().cpu().numpy()


@dataclass(frozen=True)
class Case:
    """A model with a grid of prompts, up to the answer, and vectors, one for each condition, all at one site."""

    language_model: LanguageModel
    prompts: list[str]
    labels: tuple[str, ...]
    vectors: list[SteeringVector]
    batch_size: int = BATCH
    rows: list[list[int]] = field(init=False)
    options: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = self.language_model.tokenizer
        rows = encode_prompts(tokenizer, self.prompts)
        options = option_tokens(tokenizer, self.prompts, [self.labels] * len(self.prompts), rows)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "options", options)

    @property
    def layer(self) -> int:
        """The block after which the vectors are added."""
        return self.vectors[0].site.layer

    def batches(self) -> list[Batch]:
        """Batches of whole prompts, longest first and padded on the left, for whoever shares no beginnings."""
        model, made = self.language_model.model, []
        queue = sorted(range(len(self.rows)), key=lambda number: len(self.rows[number]), reverse=True)
        for numbers in chunks(queue, self.batch_size):
            inputs = left_padded(model, [self.rows[number] for number in numbers])
            options = torch.tensor([self.options[number] for number in numbers], device=model.device)
            made.append(Batch(numbers, inputs, options))
        return made

    def empty(self, conditions: int) -> Array:
        """Room for the answers of so many conditions."""
        return np.empty((conditions, len(self.prompts), len(self.labels)))

    def ours(self, count: int = CONDITIONS, positions: Positions = "prompt_except_last") -> Array:
        """The answers of the grid under the first so many vectors."""
        return self.ask([(Add(vector, 1.0, positions),) for vector in self.vectors[:count]])

    def ask(self, conditions: Sequence[Condition]) -> Array:
        """The answers of the grid under conditions."""
        return ask_steered(self.language_model, self.prompts, self.labels, conditions, batch_size=self.batch_size)


def get_model(name: str, device: str = "cpu") -> LanguageModel:
    """The organism, or a Gemma 2 of one of ``SHAPES`` with random weights, made where it will be."""
    organism = load_model(ORGANISM, device=device if name == ORGANISM else "cpu")
    if name == ORGANISM:
        return organism
    tokenizer = organism.tokenizer
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = Gemma2Config(**SHAPES[name], **special, vocab_size=256_000, attn_implementation="eager")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    # As load_model leaves it: a frozen model multiplies cut inputs row by row, see torch's should_fold.
    return LanguageModel(name, model.eval(), tokenizer)


def sheet_prompts(language_model: LanguageModel, count: int) -> tuple[list[str], tuple[str, ...]]:
    """Prompts of the evaluation split, of all traits in turn, and the labels of their options."""
    items = some_of_each(validation_split(load_trait())[1], -(-count // (len(TRAITS) * ORDERS)))
    questions = trait_questions(_in_turn(items)[: -(-count // ORDERS)])
    return [format_prompt(language_model.tokenizer, one.text) for one in questions[:count]], questions[0].labels


def _in_turn(items: Sequence[TraitItem]) -> list[TraitItem]:
    """Items of all traits in turn, so that any first few are of several."""
    by_trait = [[one for one in items if one.personality == trait] for trait in TRAITS]
    return [one for turn in zip(*by_trait, strict=True) for one in turn]


def random_vectors(language_model: LanguageModel, site: Site, count: int, length: float) -> list[SteeringVector]:
    """Random directions of one length."""
    width = language_model.model.config.get_text_config().hidden_size
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(SEED))
    values *= length / values.norm(dim=1, keepdim=True)
    name = language_model.name
    return [SteeringVector(each, site, f"v{number}", "random", name, "1") for number, each in enumerate(values)]


def make_case(language_model: LanguageModel, prompts: int, layer: int | None = None, count: int = CONDITIONS) -> Case:
    """A grid on a model, by default after the block at three quarters of its depth."""
    depth = len(blocks(language_model.model))
    site = Site(int(0.75 * depth) - 1 if layer is None else layer)
    texts, labels = sheet_prompts(language_model, prompts)
    length = DOSE * _median_length(language_model, texts[0], site)
    return Case(language_model, texts, labels, random_vectors(language_model, site, count, length))


def _median_length(language_model: LanguageModel, prompt: str, site: Site) -> float:
    """The median length of the residual stream over the tokens of a prompt but the first, which is often an outlier."""
    model, met = language_model.model, []
    inputs = left_padded(model, encode_prompts(language_model.tokenizer, [prompt]))

    def keep(_: Any, __: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        met.append(float(stream[0, 1:].float().norm(dim=-1).median()))

    handle = blocks(model)[site.layer].register_forward_hook(keep)
    with inference(model):
        model(**inputs, use_cache=False)
    handle.remove()
    return met[0]


def chunks(values: Sequence[int], size: int) -> Iterator[list[int]]:
    """Several values at a time."""
    yield from (list(values[start : start + size]) for start in range(0, len(values), size))


def machine(device: str, packages: Sequence[str]) -> dict[str, str]:
    """What something was run on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
