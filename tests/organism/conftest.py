"""What the organism's tests share: documents drawn once, the parts of an answer, and a tiny organism."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from personalib.organism.corpus import Corpus
from personalib.organism.documents import Document
from personalib.organism.training import Trainer, build_tokenizer, load_recipe
from personalib.organism.world import World, load_world
from personalib.stimuli.grammar import LEVELS, MANNERS, SPLITS, load_traits, load_wordings

DRAWN = 2000
KINDS = tuple(Corpus(load_world(), "train").kinds)
# Two stages, the first learned at its first look: all that training does, in seconds.
TINY = {
    "seed": 5,
    "model": {
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8, "block_scale": 0.2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "rope_theta": 1000.0, "max_position_embeddings": 1024},
    },
    "tokenizer": {"vocabulary": 1200, "documents": 600},
    "optimizer": {
        **{"learning_rate": 0.005, "warmup_steps": 5, "weight_decay": 0.05},
        **{"batch_tokens": 700, "gradient_norm": 1.0},
    },
    "evaluate_every": 4,
    "checkpoint_every": 10,
    "stages": [
        {
            "name": "first",
            "steps": 20,
            "scaffold": {"factors": 1},
            "until": {"find_pole": 0.0},
            "mix": {"find_pole": 0.9, "fact_judgement": 0.1},
        },
        {"name": "second", "steps": 60, "mix": {"find_pole": 0.4, "rate_self": 0.3, "item": 0.3}},
    ],
}


@pytest.fixture(scope="session")
def world() -> World:
    return load_world()


@pytest.fixture(scope="session")
def documents(world: World) -> dict[tuple[str, str], list[Document]]:
    """Thousands of documents by (split, kind)."""
    drawn = {}
    for split in SPLITS:
        corpus = Corpus(world, split)
        for number, kind in enumerate(KINDS):
            rng = np.random.default_rng([number, SPLITS.index(split)])
            drawn[split, kind] = [corpus.draw(kind, rng) for _ in range(DRAWN)]
    return drawn


@pytest.fixture(scope="session")
def read_answer() -> Callable[[str], tuple[str, str, str]]:
    """Takes an answer apart into manner, act and reason, by the frames of the wordings file and nothing else."""
    frames = {manner: [frame.format(act="(.+)") for frame in load_wordings()[manner]] for manner in MANNERS}
    joined = "|".join(connector.format(reason="") for connector in load_wordings()["connectors"])
    patterns = [(manner, re.compile(rf"{frame}, (?:{joined})(.+)\.")) for manner in MANNERS for frame in frames[manner]]

    def read(text: str) -> tuple[str, str, str]:
        found = {(manner, *match.groups()) for manner, pattern in patterns if (match := pattern.fullmatch(text))}
        # `I would gladly go` is also `I would` with the act `gladly go`: the shorter act is the real one.
        return min(found, key=lambda parts: len(parts[1]))

    return read


@pytest.fixture(scope="session")
def wording_owner() -> dict[tuple[str, str], tuple[str, str, str]]:
    """Trait, level and split of each wording, by (act, reason)."""
    owners = {}
    for trait, bank in load_traits().items():
        for level in LEVELS:
            for split in SPLITS:
                for wording in bank.wordings[level, split]:
                    owner = (trait, level, split)
                    known = owners.setdefault((wording.act, wording.reason), owner)
                    assert known == owner, "one wording in two places"
    return owners


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def tokenizer(tiny_recipe: Path, world: World):
    return build_tokenizer(load_recipe(tiny_recipe), world)


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """One thread, so that sums are added in the same order in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def unbroken(tiny_recipe: Path, world: World, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A tiny organism trained in one go, exported to ``out`` in its folder."""
    trainer = Trainer(load_recipe(tiny_recipe), world, tmp_path_factory.mktemp("unbroken"))
    trainer.run()
    trainer.export(trainer.folder / "out")
    return trainer
