"""Evaluations: questionnaires put to a model under many arms, kept as they are answered.

A run can be killed at any point and started again: it goes on with the batch that it was at, and ends with the same
files as a run that nothing stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from personalib.base.data import DataError
from personalib.base.records import Skipped
from personalib.base.storage import write_whole
from personalib.evaluation.blocks import Block, Done, Losses, Options, Replies, Words
from personalib.evaluation.engines import Engine
from personalib.evaluation.keys import model_key
from personalib.evaluation.shards import Asker
from personalib.evaluation.store import AnswerStore, parquet
from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.models.sampling import GREEDY, Sampling
from personalib.questionnaires.questions import Question
from personalib.steering.effects import Arm
from personalib.steering.guards import neutral_exchanges

NONE = Arm("none", "none")
NEUTRAL = "neutral"


@dataclass(frozen=True)
class Questionnaire:
    """Questions that are asked and scored together.

    Attributes:
        name: of its table of answers.
        kind: how it is scored: ``"trait"``, ``"choice"``, ``"judgement"``, ``"scale"`` or ``"pairs"``.
        questions: what is asked.
        reading: ``"options"``, the probability of each option's first token; or ``"words"``, an answer in free words.
        sampling: how answers in words are written, and how many each question has.
        skipped: rows of its files, and items, that are left out.
    """

    name: str
    kind: str
    questions: tuple[Question, ...]
    reading: Literal["options", "words"] = "options"
    sampling: Sampling = GREEDY
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One model, some questionnaires, and the arms under which they are put.

    Attributes:
        language_model: who is asked.
        questionnaires: what is asked.
        arms: what is steered or told; the model as it is (:data:`NONE`) always comes first.
        form: ``"chat"``, or ``"base"`` for a model without a chat template.
        neutral: questions of general knowledge whose answers' perplexity is measured under every arm.
        seed: draws them.
        batch_size: rows of a forward pass. What a killed run loses is at most one batch of prompts under its arms.

    Raises:
        ValueError: two questionnaires have one name.
    """

    language_model: LanguageModel
    questionnaires: Sequence[Questionnaire]
    arms: Sequence[Arm]
    form: str = "chat"
    neutral: int = 12
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        names = [one.name for one in self.questionnaires]
        if len({*names, NEUTRAL}) <= len(names):
            raise ValueError(f"questionnaires {', '.join(names)}; give each a name of its own, and none {NEUTRAL!r}")
        if not self.arms or self.arms[0] != NONE:
            object.__setattr__(self, "arms", (NONE, *self.arms))

    def run(self, folder: Path, progress: str | None = None, engine: Engine | None = None) -> None:
        """Ask whatever is not answered yet, and write every answer to a folder.

        The folder has ``parts``, what was answered batch by batch, and, once all is answered, one Parquet file a
        questionnaire, in the order in which questions and arms were declared.

        Args:
            folder: where to; several evaluations may share one as long as their questionnaires have other names.
            progress: text of a progress bar over all answers; None shows none.
            engine: where it is asked; None asks the model that is loaded. Other processes load it by its name, have to
                have the same one, and use as many threads. The answers are the same to the last bit on machines of one
                kind; this process alone writes them, as they come.

        Raises:
            DataError: the folder cannot be written to, another process writes to it, or the engine cannot do it; see
                :meth:`personalib.evaluation.engines.Engine.run` and ``personalib.evaluation.shards.Asker``.
            ValueError: see :func:`~personalib.steering.grid.ask_steered` and
                :func:`~personalib.steering.generation.generate`.
        """
        store = AnswerStore(folder / "parts")
        with store.writing():
            known = store.keys()
            wanted = self._keys()
            done = sum(key in known for key in wanted)
            with tqdm(total=len(wanted), initial=done, desc=progress, disable=progress is None, unit="answer") as bar:
                for replies in self._asked(known, bar.update, engine):
                    # What shares a batch with what is new is asked again, and stays as it was.
                    store.add({key: reply for key, reply in replies.items() if key not in known})
                    known.update(replies)
            for name, table in self.answers(folder).items():
                write_whole(folder / f"{name}.parquet", parquet(pa.Table.from_pandas(table, preserve_index=False)))

    def answers(self, folder: Path) -> dict[str, pd.DataFrame]:
        """The answers in a folder, by questionnaire, and the losses of neutral answers under ``"neutral"``.

        Returns:
            One row a question and arm: ``model``, ``arm`` (its place), ``method``, ``key``, ``pole``, ``dose``,
            ``item``, ``cluster``, ``group``, ``template``, ``order``; then one column ``p_…`` for each role, over the
            whole vocabulary and missing for a question without it, and their sum ``mass``; or, for answers in words,
            ``sample``, ``text``, and ``labels``, ``roles`` and ``options`` of the question as JSON lists. Neutral
            answers have ``loss``, in nats, and ``tokens``.

        Raises:
            DataError: not everything is answered yet.
        """
        replies = AnswerStore(folder / "parts").replies()
        wanted = self._keys()
        missing = sum(key not in replies for key in wanted)
        if missing:
            raise DataError(f"{folder}: {missing:,} of {len(wanted):,} answers are still to be asked; run it again")
        tables: dict[str, list[pd.DataFrame]] = {}
        for block in self._blocks:
            tables.setdefault(block.name, []).append(block.table(replies))
        return {name: self._in_order(pd.concat(own, ignore_index=True)) for name, own in tables.items()}

    def _asked(self, known: set[str], done: Done, engine: Engine | None) -> Iterator[Replies]:
        """What is not known yet, batch by batch."""
        for block in self._blocks:
            block.check(self.language_model)
        if engine:
            conditions = [tuple(arm.condition) for arm in self.arms]
            asker = Asker.of(self.language_model, conditions, self._model, self.batch_size)
            yield from asker.replies(self.language_model, self._blocks, known, engine, done)
            return
        for block in self._blocks:
            yield from block.missing(self.language_model, known, self.batch_size, done)

    def _keys(self) -> list[str]:
        return [key for block in self._blocks for own in block.keys for key in own]

    def _in_order(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows by arm, and then as the questions were declared, with the arms' names."""
        table = table.sort_values(["arm", "place"], kind="stable", ignore_index=True)
        named = pd.DataFrame(
            {
                "model": self.language_model.name,
                "method": [arm.method for arm in self.arms],
                "key": [arm.key for arm in self.arms],
                "pole": [arm.pole for arm in self.arms],
                "dose": [arm.dose for arm in self.arms],
            }
        )
        rows = named.iloc[table["arm"].to_numpy()].reset_index(drop=True)
        chances = sorted(name for name in table if name.startswith("p_"))
        last = [*chances, "mass"] if chances else []
        others = [name for name in table if name not in ("arm", "place", *last)]
        return pd.concat([rows.assign(arm=table["arm"]), table[[*others, *last]]], axis=1)

    @cached_property
    def _blocks(self) -> list[Block]:
        """What is asked in one go, told arms last."""
        steered = [number for number, arm in enumerate(self.arms) if not arm.contexts]
        told = [[number] for number, arm in enumerate(self.arms) if arm.contexts]
        return [block for arms in [steered, *told] for block in self._blocks_of(arms)]

    def _blocks_of(self, arms: Sequence[int]) -> Iterator[Block]:
        """The blocks of arms that are told the same."""
        contexts = self.arms[arms[0]].contexts or ("",)
        # The same text may be a chat, or plain, to which the tokenizer adds special tokens.
        shared = f"{self._model} {self.form}", tuple(arms), tuple(tuple(self.arms[number].condition) for number in arms)
        for one in self.questionnaires:
            texts = self._prompts(one, contexts)
            for places in _by_labels(one):
                questions = tuple(one.questions[place] for place in places)
                asked = one.name, *shared, questions, tuple(places), tuple(texts[place] for place in places)
                yield Options(*asked) if one.reading == "options" else Words(*asked, one.sampling)
        if self.neutral:
            plain = neutral_exchanges(
                self.language_model, self.neutral, seed=self.seed, form=self.form, contexts=contexts
            )
            yield Losses(NEUTRAL, *shared, tuple(plain))

    @cached_property
    def _model(self) -> str:
        return model_key(self.language_model)

    def _prompts(self, questionnaire: Questionnaire, contexts: Sequence[str]) -> list[str]:
        """The prompts after contexts, of which each item gets the next in turn, the same in all its questions."""
        numbers = {item: place for place, item in enumerate(dict.fromkeys(q.item for q in questionnaire.questions))}
        return [
            format_prompt(
                self.language_model.tokenizer,
                one.text,
                form=self.form,
                context=contexts[numbers[one.item] % len(contexts)],
            )
            + one.opening
            for one in questionnaire.questions
        ]


def _by_labels(questionnaire: Questionnaire) -> list[list[int]]:
    """The places of questions with the same labels; answers in words need none."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, one in enumerate(questionnaire.questions):
        groups.setdefault(one.labels if questionnaire.reading == "options" else (), []).append(place)
    return list(groups.values())
