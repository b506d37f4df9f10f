"""Blocks of an evaluation: what is asked in one go, and what its answers come to as rows.

The arms of a block are told the same, so that they share their prompts; its questions have the same labels.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, Self

import numpy as np
import pandas as pd

from personalib.base.provenance import digest
from personalib.evaluation.keys import condition_key
from personalib.evaluation.store import Reply
from personalib.models.batches import check_rows
from personalib.models.encoding import encode_prompts
from personalib.models.load import LanguageModel
from personalib.models.sampling import Sampling
from personalib.questionnaires.questions import Question
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, steered_batches
from personalib.steering.interventions import Condition

Replies = dict[str, Reply]
Done = Callable[[int], object]
# An answer in words is read up to here; which option it names is said early or not at all.
_TOKENS = 24
# How many forward passes a shard has at least, if there is so much to ask: more than it takes to begin one.
_PASSES = 16


@dataclass(frozen=True)
class Block(ABC):
    """Some arms, by their places among all, each with its condition, on some questions of one questionnaire."""

    reading: ClassVar[str]
    name: str
    model: str
    arms: tuple[int, ...]
    conditions: tuple[Condition, ...]

    @abstractmethod
    def units(self) -> list[str]:
        """What is asked, as texts that tell everything that an answer depends on beside model and condition."""

    @abstractmethod
    def check(self, language_model: LanguageModel) -> None:
        """Raise an :class:`ItemError` that names what is too long, or has a token that the model does not embed."""

    @abstractmethod
    def missing(
        self, language_model: LanguageModel, known: Container[str], batch_size: int, done: Done
    ) -> Iterator[Replies]:
        """Ask what is not known yet, batch by batch; ``done`` is told how many answers were read each time."""

    @abstractmethod
    def shards(self, language_model: LanguageModel, known: set[str], batch_size: int) -> Iterator[Self]:
        """What is not known yet as blocks of whole batches, each of which can be asked elsewhere.

        :meth:`missing` of a shard with nothing known has the batches that :meth:`missing` of the block would have, so
        that sums are rounded alike. Keys of each batch are added to those that are known when it is handed out.
        """

    @abstractmethod
    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """One row an arm and unit: ``arm``, ``place`` (of the question) and what is known of question and answer."""

    def _part(self, numbers: Sequence[int]) -> Self:
        """The block with some of its arms."""
        arms, conditions = zip(*((self.arms[each], self.conditions[each]) for each in numbers), strict=True)
        return replace(self, arms=arms, conditions=conditions)

    def _lacking(self, batch: Sequence[int], known: Container[str]) -> list[int]:
        """The arms under which a unit of a batch is not known yet."""
        return [number for number, own in enumerate(self.keys) if any(own[place] not in known for place in batch)]

    @cached_property
    def keys(self) -> list[list[str]]:
        """The key of each answer, by arm and unit."""
        asked = [digest(self.model, self.reading, unit) for unit in self.units()]
        return [[digest(own, one) for one in asked] for own in map(condition_key, self.conditions)]


@dataclass(frozen=True)
class Asked(Block):
    """Questions with the same labels, their places in the questionnaire, and their prompts up to the answer."""

    written: ClassVar[int] = 0
    questions: tuple[Question, ...]
    places: tuple[int, ...]
    prompts: tuple[str, ...]

    def check(self, language_model: LanguageModel) -> None:
        """See that each prompt can be read, and answered."""
        names = [f"{self.name}, item {one.item}" for one in self.questions]
        rows = encode_prompts(language_model.tokenizer, self.prompts)
        check_rows(language_model.model, names, rows, self.written)

    def _shard(self, numbers: Sequence[int], batches: Sequence[Sequence[int]]) -> Self:
        """Some batches under some arms."""
        units = [place for batch in batches for place in batch]
        return replace(
            self._part(numbers),
            questions=tuple(self.questions[each] for each in units),
            places=tuple(self.places[each] for each in units),
            prompts=tuple(self.prompts[each] for each in units),
        )

    def _about(self) -> pd.DataFrame:
        """What is known of each question, once an arm."""
        about = pd.DataFrame(
            {
                "place": self.places,
                "item": [one.item for one in self.questions],
                "cluster": [one.cluster or one.item for one in self.questions],
                "group": [one.group for one in self.questions],
                "template": [one.template for one in self.questions],
                "order": [one.order for one in self.questions],
            }
        )
        return pd.concat([about.assign(arm=arm) for arm in self.arms], ignore_index=True)


@dataclass(frozen=True)
class Options(Asked):
    """Questions that are answered by the probability of each option's first token."""

    reading = "options"

    def units(self) -> list[str]:
        """Prompt and labels."""
        return [json.dumps([prompt, one.labels]) for prompt, one in zip(self.prompts, self.questions, strict=True)]

    def missing(
        self, language_model: LanguageModel, known: Container[str], batch_size: int, done: Done
    ) -> Iterator[Replies]:
        """Batches of prompts, each under all arms that lack an answer to one of them."""
        if not self._lacking(range(len(self.prompts)), known):
            return
        for batch, numbers, found in steered_batches(
            language_model,
            self.prompts,
            self.questions[0].labels,
            self.conditions,
            batch_size=batch_size,
            wanted=partial(self._lacking, known=known),
            done=done,
        ):
            yield {
                self.keys[number][place]: Reply(tuple(chances))
                for number, rows in zip(numbers, found.tolist(), strict=True)
                for place, chances in zip(batch, rows, strict=True)
            }

    def shards(self, language_model: LanguageModel, known: set[str], batch_size: int) -> Iterator[Self]:
        """Batches that lack the same arms; where these are few, several together."""
        waiting: list[list[int]] = []
        under: list[int] = []
        if not self._lacking(range(len(self.prompts)), known):
            return
        for batch in self._batches(language_model, batch_size):
            numbers = self._lacking(batch, known)
            if waiting and (numbers != under or len(waiting) * len(under) >= _PASSES):
                yield self._shard(under, waiting)
                waiting = []
            if numbers:
                under = numbers
                waiting.append(batch)
                known.update(self.keys[number][place] for number in numbers for place in batch)
        if waiting:
            yield self._shard(under, waiting)

    def _batches(self, language_model: LanguageModel, batch_size: int) -> list[list[int]]:
        """The prompts that share a batch, in the order in which batches are asked."""
        found: list[list[int]] = []

        def nothing(batch: Sequence[int]) -> list[int]:
            found.append(list(batch))
            return []

        labels, size = self.questions[0].labels, batch_size
        for _ in steered_batches(
            language_model, self.prompts, labels, self.conditions, batch_size=size, wanted=nothing
        ):
            pass
        return found

    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """With a column ``p_…`` for each role, and their sum ``mass``."""
        values = np.array([replies[key].values for own in self.keys for key in own])
        columns = [[f"p_{role}" for role in one.roles] for one in self.questions] * len(self.arms)
        chances = pd.DataFrame([dict(zip(names, row, strict=True)) for names, row in zip(columns, values, strict=True)])
        return self._about().join(chances).assign(mass=values.sum(1))


@dataclass(frozen=True)
class Words(Asked):
    """Questions that are answered in words."""

    reading = "words"
    written = _TOKENS
    sampling: Sampling

    def units(self) -> list[str]:
        """Prompt, length of the answer and, where it is sampled, how and as which sample; all those of a prompt."""
        if self.sampling.greedy:
            return [json.dumps([prompt, _TOKENS]) for prompt in self.prompts]
        # More samples leave the first ones as they were.
        how = self.sampling.model_dump(exclude={"samples"})
        samples = range(self.sampling.samples)
        return [json.dumps([prompt, _TOKENS, how, sample]) for prompt in self.prompts for sample in samples]

    def missing(
        self, language_model: LanguageModel, known: Container[str], batch_size: int, done: Done
    ) -> Iterator[Replies]:
        """Batches of prompts under one arm each."""
        for own, condition in zip(self.keys, self.conditions, strict=True):
            for places in self._batches(batch_size):
                batch = self._of(own, places)
                if any(key not in known for key in batch):
                    texts = generate(
                        language_model,
                        [self.prompts[place] for place in places],
                        condition,
                        tokens=_TOKENS,
                        sampling=self.sampling,
                        batch_size=batch_size,
                    )
                    done(len(batch))
                    yield {key: Reply(text=text) for key, text in zip(batch, texts, strict=True)}

    def shards(self, language_model: LanguageModel, known: set[str], batch_size: int) -> Iterator[Self]:
        """Each batch under one arm: to answer takes a pass a token."""
        for number, own in enumerate(self.keys):
            for places in self._batches(batch_size):
                batch = self._of(own, places)
                if any(key not in known for key in batch):
                    known.update(batch)
                    yield self._shard([number], [places])

    def _batches(self, batch_size: int) -> list[range]:
        """The places of prompts that are answered together."""
        count = len(self.prompts)
        return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]

    def _of(self, own: Sequence[str], places: range) -> Sequence[str]:
        """The keys of all samples of some prompts."""
        return own[places.start * self.sampling.samples : places.stop * self.sampling.samples]

    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """With each ``sample``'s ``text``, and ``labels``, ``roles`` and ``options`` of the question as JSON lists."""
        lists = pd.DataFrame(
            {
                "labels": [json.dumps(one.labels) for one in self.questions],
                "roles": [json.dumps(one.roles) for one in self.questions],
                "options": [json.dumps(one.options, ensure_ascii=False) for one in self.questions],
            }
        )
        texts = [replies[key].text for own in self.keys for key in own]
        about = self._about().join(pd.concat([lists] * len(self.arms), ignore_index=True))
        count = self.sampling.samples
        rows = about.loc[about.index.repeat(count)].reset_index(drop=True)
        return rows.assign(sample=rows.index % count, text=texts)


@dataclass(frozen=True)
class Losses(Block):
    """Neutral questions with given answers: how surprising these are."""

    reading = "loss"
    exchanges: tuple[tuple[str, str], ...]

    def check(self, language_model: LanguageModel) -> None:
        """See that each question can be read with its answer."""
        texts = [prompt + answer for prompt, answer in self.exchanges]
        check_rows(language_model.model, texts, encode_prompts(language_model.tokenizer, texts))

    def units(self) -> list[str]:
        """Prompt and answer."""
        return [json.dumps(exchange) for exchange in self.exchanges]

    def missing(
        self, language_model: LanguageModel, known: Container[str], batch_size: int, done: Done
    ) -> Iterator[Replies]:
        """All exchanges under the arms that lack one."""
        for lacking in self._batches(known, batch_size):
            losses, lengths = answer_losses(
                language_model,
                self.exchanges,
                [self.conditions[number] for number in lacking],
                skip=1,
                batch_size=max(1, batch_size // 4),
            )
            done(losses.size)
            yield {
                key: Reply((loss, float(length)))
                for keys, row in zip([self.keys[number] for number in lacking], losses.tolist(), strict=True)
                for key, loss, length in zip(keys, row, lengths.tolist(), strict=True)
            }

    def shards(self, language_model: LanguageModel, known: set[str], batch_size: int) -> Iterator[Self]:
        """All exchanges under a batch of arms."""
        for lacking in self._batches(known, batch_size):
            known.update(key for number in lacking for key in self.keys[number])
            yield self._part(lacking)

    def _batches(self, known: Container[str], batch_size: int) -> Iterator[list[int]]:
        """Arms that lack an exchange: those of each whole batch, so that a killed run does the same ones again."""
        for start in range(0, len(self.keys), batch_size):
            numbers = range(start, min(start + batch_size, len(self.keys)))
            lacking = [number for number in numbers if any(key not in known for key in self.keys[number])]
            if lacking:
                yield lacking

    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """With each answer's ``loss``, in nats, summed over its ``tokens`` but the first."""
        values = np.array([replies[key].values for own in self.keys for key in own])
        count = len(self.exchanges)
        return pd.DataFrame(
            {
                "arm": np.repeat(self.arms, count),
                "place": np.tile(np.arange(count), len(self.arms)),
                "loss": values[:, 0],
                "tokens": values[:, 1].astype(int),
            }
        )
