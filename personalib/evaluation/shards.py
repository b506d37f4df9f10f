"""Shards of an evaluation: batches that are asked by other processes, each with a model that it loads itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from personalib.base.data import DataError
from personalib.evaluation.blocks import Block, Done, Replies
from personalib.evaluation.engines import Engine
from personalib.evaluation.keys import model_key
from personalib.models.load import LanguageModel, load_model
from personalib.models.placement import is_spread
from personalib.models.registry import load_registry
from personalib.models.remote import RemoteModel
from personalib.steering.interventions import Condition


@dataclass(frozen=True)
class Asker:
    """What a worker needs to ask the same model in the same way. Called, it loads the model and checks it.

    A folder is named by its whole path, where every machine has to have it; a model of the hub is known by its
    revision, another one by its weights.
    """

    name: str
    revision: str | None
    weights: str | None
    dtype: str
    device: str
    key: str
    # Sums over other numbers of threads are rounded otherwise.
    threads: int
    batch_size: int
    # Of all arms: they are sent once a worker, and not with each shard.
    conditions: Sequence[Condition]

    @classmethod
    def of(cls, language_model: LanguageModel, conditions: Sequence[Condition], key: str, batch_size: int) -> "Asker":
        """Whoever asks what this process would ask of its own model, which has to be here, on one device."""
        if isinstance(language_model, RemoteModel):
            raise DataError(f"{language_model.name} is run by a service, and not by workers; leave the engine out")
        if is_spread(language_model.model):
            raise DataError(
                f"{language_model.name} is spread over several devices, and a worker of a cluster has one; run it in "
                "this process, with the local engine, or take a device that holds all of it"
            )
        name = language_model.name
        if name not in load_registry() and Path(name).exists():
            # Workers have another working folder.
            name = str(Path(name).resolve())
        return cls(name, *_facts(language_model), key, torch.get_num_threads(), batch_size, conditions)

    def replies(
        self, language_model: LanguageModel, blocks: Sequence[Block], known: set[str], engine: Engine, done: Done
    ) -> Iterator[Replies]:
        """The answers that blocks lack, batch by batch, in whatever order workers give them.

        A worker with another model is a DataError; see also :meth:`personalib.evaluation.engines.Engine.run`.
        """
        # What is being asked is known to the shards that follow, as it would be if one came after the other.
        taken = set(known)
        shards = (one for block in blocks for one in block.shards(language_model, taken, self.batch_size))
        # Not the conditions: see there.
        jobs = ((_title(number, one), replace(one, conditions=())) for number, one in enumerate(shards, 1))
        for _, (count, batches) in engine.run(self, jobs, gpu=self.device == "cuda"):
            yield from batches
            done(count)

    def __call__(self) -> Callable[[Block], tuple[int, list[Replies]]]:
        """Load the model, if it is here and the same; what answers a shard: how many answers, and these by batch."""
        torch.set_num_threads(self.threads)
        language_model = load_model(self.name, self.revision, self.device, getattr(torch, self.dtype))
        self._check(language_model)
        return partial(self._answers, language_model)

    def _answers(self, language_model: LanguageModel, shard: Block) -> tuple[int, list[Replies]]:
        whole = replace(shard, conditions=tuple(self.conditions[arm] for arm in shard.arms))
        batches = list(whole.missing(language_model, set(), self.batch_size, lambda _: None))
        return sum(map(len, whole.keys)), batches

    def _check(self, language_model: LanguageModel) -> None:
        names = ("revision", "weights", "number format", "device")
        wanted = (self.revision, self.weights, self.dtype, self.device)
        for name, own, other in zip(names, _facts(language_model), wanted, strict=True):
            if own != other:
                raise DataError(
                    f"{self.name}: a worker has {name} {own}, and the process that sends questions has {other}; have "
                    "the same model on every machine"
                )
        if model_key(language_model) != self.key:
            raise DataError(
                f"{self.name}: a worker has the same weights, and another configuration or tokenizer, or another "
                "version of personalib, torch or transformers; install the same on every machine"
            )


def _facts(language_model: LanguageModel) -> tuple[str | None, str | None, str, str]:
    """Revision or weights, number format, and kind of device."""
    model, revision = language_model.model, language_model.revision
    weights = None if revision else language_model.digest()
    return revision, weights, str(model.dtype).removeprefix("torch."), model.device.type


def _title(number: int, shard: Block) -> str:
    return f"shard {number} ({shard.name}, {len(shard.units()):,} of its questions, {len(shard.arms):,} arms)"
