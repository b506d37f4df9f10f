"""Blocks of an evaluation: what is asked in one go, and what its answers come to as rows.

The arms of a block are told the same, so that they share their prompts; its questions have the same labels.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import pandas as pd

from personalib.base.provenance import digest
from personalib.evaluation.keys import condition_key
from personalib.evaluation.store import Reply
from personalib.models.batches import check_rows
from personalib.models.load import LanguageModel
from personalib.models.prompts import encode_prompts
from personalib.models.sampling import Sampling
from personalib.questionnaires.questions import Question
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered, prompt_batches
from personalib.steering.interventions import Condition

Replies = dict[str, Reply]
Done = Callable[[int], object]
# The numbers of some arms, and the places of the units that are asked under each of them.
Batch = tuple[Sequence[int], Sequence[int]]
# An answer in words is read up to here; which option it names is said early or not at all.
_TOKENS = 24


@dataclass(frozen=True)
class Block(ABC):
    """Some arms, by their places among all, each with its condition, on some units of one questionnaire."""

    reading: ClassVar[str]
    # How many forward passes a shard has at least, if there is so much to ask.
    passes: ClassVar[int] = 1
    name: str
    model: str
    arms: tuple[int, ...]
    conditions: tuple[Condition, ...]

    @abstractmethod
    def units(self) -> list[str]:
        """What is asked, as texts that tell everything that an answer depends on beside model and condition."""

    @abstractmethod
    def check(self, language_model: LanguageModel) -> None:
        """Raise an :class:`ItemError` that names what cannot be read, or answered, by the model."""

    @abstractmethod
    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """One row an arm and unit: ``arm``, ``place`` (of the question) and what is known of question and answer."""

    @abstractmethod
    def _batches(self, language_model: LanguageModel, batch_size: int) -> Iterator[Batch]:
        """What is asked together, in its order."""

    @abstractmethod
    def _ask(self, language_model: LanguageModel, batch: Batch, batch_size: int, done: Done) -> list[list[Reply]]:
        """The answers of a batch, by arm and unit."""

    @abstractmethod
    def _part(self, batch: Batch) -> Self:
        """The block with some of its arms and units."""

    def missing(
        self, language_model: LanguageModel, known: Container[str], batch_size: int, done: Done
    ) -> Iterator[Replies]:
        """Ask what is not known yet, batch by batch; ``done`` is told how many answers were read each time."""
        for numbers, places in self._waiting(language_model, known, batch_size):
            answers = self._ask(language_model, (numbers, places), batch_size, done)
            yield {
                self.keys[number][place]: reply
                for number, row in zip(numbers, answers, strict=True)
                for place, reply in zip(places, row, strict=True)
            }

    def shards(self, language_model: LanguageModel, known: set[str], batch_size: int) -> Iterator[Self]:
        """What is not known yet as blocks of whole batches, each of which can be asked elsewhere.

        :meth:`missing` of a shard with nothing known has the batches that :meth:`missing` of the block would have, so
        that sums are rounded alike. Keys of each batch are added to those that are known when it is handed out.
        """
        under: Sequence[int] = ()
        together: list[Sequence[int]] = []
        for numbers, places in self._waiting(language_model, known, batch_size):
            if together and (numbers != under or len(together) * len(under) >= self.passes):
                yield self._part((under, [place for one in together for place in one]))
                together = []
            under = numbers
            together.append(places)
            known.update(self.keys[number][place] for number in numbers for place in places)
        if together:
            yield self._part((under, [place for one in together for place in one]))

    def _waiting(self, language_model: LanguageModel, known: Container[str], batch_size: int) -> Iterator[Batch]:
        """The batches of which something is not known, with the arms that lack it."""
        # Where nothing is lacking, no prompt is encoded and no model is tried out.
        if all(key in known for own in self.keys for key in own):
            return
        for numbers, places in self._batches(language_model, batch_size):
            lacking = [each for each in numbers if any(self.keys[each][place] not in known for place in places)]
            if lacking:
                yield lacking, places

    @cached_property
    def keys(self) -> list[list[str]]:
        """The key of each answer, by arm and unit."""
        asked = [digest(self.model, self.reading, unit) for unit in self.units()]
        return [[digest(own, one) for one in asked] for own in map(condition_key, self.conditions)]

    def _under(self, numbers: Sequence[int]) -> Self:
        """The block with some of its arms."""
        arms, conditions = zip(*((self.arms[each], self.conditions[each]) for each in numbers), strict=True)
        return replace(self, arms=arms, conditions=conditions)


@dataclass(frozen=True)
class Asked(Block):
    """Questions with the same labels, their places in the questionnaire, and their prompts up to the answer."""

    written: ClassVar[int] = 0
    questions: tuple[Question, ...]
    places: tuple[int, ...]
    prompts: tuple[str, ...]

    @property
    def samples(self) -> int:
        """How many answers each question has; these are its units."""
        return 1

    def check(self, language_model: LanguageModel) -> None:
        """See that each prompt can be read, and answered."""
        names = [f"{self.name}, item {one.item}" for one in self.questions]
        rows = encode_prompts(language_model.tokenizer, self.prompts)
        check_rows(language_model.model, names, rows, self.written)

    def _part(self, batch: Batch) -> Self:
        numbers, units = batch
        questions = self._of(units)
        return replace(
            self._under(numbers),
            questions=tuple(self.questions[each] for each in questions),
            places=tuple(self.places[each] for each in questions),
            prompts=tuple(self.prompts[each] for each in questions),
        )

    def _of(self, units: Sequence[int]) -> list[int]:
        """The numbers of the questions that whole units belong to."""
        return [unit // self.samples for unit in units[:: self.samples]]

    def _about(self, **columns: Sequence[str]) -> pd.DataFrame:
        """What is known of each question, once an arm."""
        about = pd.DataFrame(
            {
                "place": self.places,
                "item": [one.item for one in self.questions],
                "cluster": [one.cluster or one.item for one in self.questions],
                "group": [one.group for one in self.questions],
                "template": [one.template for one in self.questions],
                "order": [one.order for one in self.questions],
                **columns,
            }
        )
        return pd.concat([about.assign(arm=arm) for arm in self.arms], ignore_index=True)


@dataclass(frozen=True)
class Options(Asked):
    """Questions that are answered by the probability of each option's first token."""

    reading = "options"
    # More than it takes to begin a shard.
    passes = 16

    def units(self) -> list[str]:
        """Prompt and labels."""
        return [json.dumps([prompt, one.labels]) for prompt, one in zip(self.prompts, self.questions, strict=True)]

    def _batches(self, language_model: LanguageModel, batch_size: int) -> Iterator[Batch]:
        numbers = range(len(self.conditions))
        for places in prompt_batches(language_model, self.prompts, batch_size):
            yield numbers, places

    def _ask(self, language_model: LanguageModel, batch: Batch, batch_size: int, done: Done) -> list[list[Reply]]:
        numbers, places = batch
        chances = ask_steered(
            language_model,
            [self.prompts[place] for place in places],
            self.questions[0].labels,
            [self.conditions[number] for number in numbers],
            batch_size=batch_size,
            done=done,
            names=[f"{self.name}, item {self.questions[place].item}" for place in places],
        )
        return [[Reply(tuple(each)) for each in row] for row in chances.tolist()]

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

    @property
    def samples(self) -> int:
        """How many answers each question has; these are its units."""
        return self.sampling.samples

    def units(self) -> list[str]:
        """Prompt, length of the answer and, where it is sampled, how and as which sample; all those of a prompt."""
        if self.sampling.greedy:
            return [json.dumps([prompt, _TOKENS]) for prompt in self.prompts]
        # More samples leave the first ones as they were.
        how = self.sampling.model_dump(exclude={"samples"})
        return [json.dumps([prompt, _TOKENS, how, sample]) for prompt in self.prompts for sample in range(self.samples)]

    def _batches(self, language_model: LanguageModel, batch_size: int) -> Iterator[Batch]:
        """Some prompts under one arm each: to answer takes a pass a token."""
        size, count = batch_size * self.samples, len(self.prompts) * self.samples
        for number in range(len(self.conditions)):
            yield from (([number], range(start, min(start + size, count))) for start in range(0, count, size))

    def _ask(self, language_model: LanguageModel, batch: Batch, batch_size: int, done: Done) -> list[list[Reply]]:
        [number], units = batch
        texts = generate(
            language_model,
            [self.prompts[place] for place in self._of(units)],
            self.conditions[number],
            tokens=_TOKENS,
            sampling=self.sampling,
            batch_size=batch_size,
        )
        done(len(texts))
        return [[Reply(text=text) for text in texts]]

    def table(self, replies: Mapping[str, Reply]) -> pd.DataFrame:
        """With each ``sample``'s ``text``, and ``labels``, ``roles`` and ``options`` of the question as JSON lists."""
        about = self._about(
            labels=[json.dumps(one.labels) for one in self.questions],
            roles=[json.dumps(one.roles) for one in self.questions],
            options=[json.dumps(one.options, ensure_ascii=False) for one in self.questions],
        )
        rows = about.loc[about.index.repeat(self.samples)].reset_index(drop=True)
        texts = [replies[key].text for own in self.keys for key in own]
        return rows.assign(sample=rows.index % self.samples, text=texts)


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

    def _part(self, batch: Batch) -> Self:
        return self._under(batch[0])

    def _batches(self, language_model: LanguageModel, batch_size: int) -> Iterator[Batch]:
        """All exchanges under as many arms as a batch has rows."""
        count, units = len(self.conditions), range(len(self.exchanges))
        yield from ((range(start, min(start + batch_size, count)), units) for start in range(0, count, batch_size))

    def _ask(self, language_model: LanguageModel, batch: Batch, batch_size: int, done: Done) -> list[list[Reply]]:
        losses, lengths = answer_losses(
            language_model,
            self.exchanges,
            [self.conditions[number] for number in batch[0]],
            skip=1,
            batch_size=max(1, batch_size // 4),
        )
        done(losses.size)
        counts = lengths.astype(float).tolist()
        return [[Reply(each) for each in zip(row, counts, strict=True)] for row in losses.tolist()]

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
