"""Evaluations: questionnaires put to a model under many arms, kept as they are answered.

A run that was killed goes on with the batch that it was at, and ends with the same files as one that nothing stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from personalib.base.storage import write_whole
from personalib.evaluation.arms import NONE, Arm
from personalib.evaluation.blocks import Block, Done, Losses, Options, Replies, Words
from personalib.evaluation.engines import Engine
from personalib.evaluation.keys import model_key
from personalib.evaluation.shards import Asker
from personalib.evaluation.store import AnswerStore, MemoryStore, Store, parquet
from personalib.models.load import LanguageModel
from personalib.models.prompts import format_prompt
from personalib.questionnaires.questions import Questionnaire
from personalib.steering.guards import neutral_exchanges

NEUTRAL = "neutral"


@dataclass(frozen=True)
class Evaluation:
    """One model, some questionnaires, and the arms under which they are put; see :func:`evaluate`."""

    language_model: LanguageModel
    questionnaires: Sequence[Questionnaire]
    arms: Sequence[Arm]
    form: str = "chat"
    neutral: int = 12
    seed: int = 0
    batch_size: int = 64
    baseline: bool = True

    def __post_init__(self) -> None:
        names = [one.name for one in self.questionnaires]
        if len({*names, NEUTRAL}) <= len(names):
            raise ValueError(f"questionnaires {', '.join(names)}; give each a name of its own, and none {NEUTRAL!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}; run at least one prompt at a time")
        if self.baseline and (not self.arms or self.arms[0] != NONE):
            object.__setattr__(self, "arms", (NONE, *self.arms))
        if not self.arms:
            raise ValueError("there are no arms; pass at least one, or ask the model as it is with baseline=True")

    def run(
        self, folder: Path | None = None, progress: str | None = None, engine: Engine | None = None
    ) -> pd.DataFrame:
        """Ask whatever is not answered yet, see :func:`evaluate`.

        A folder gets ``parts``, what was answered batch by batch, and, once all is answered, one Parquet file a
        questionnaire. Evaluations may share one, as long as their questionnaires have other names.
        """
        store: Store = AnswerStore(folder / "parts") if folder else MemoryStore()
        with store.writing():
            known = store.keys()
            answered = [key in known for block in self._blocks for own in block.keys for key in own]
            count, before = len(answered), sum(answered)
            with tqdm(total=count, initial=before, desc=progress, disable=progress is None, unit="answer") as bar:
                for batch in self._asked(known, bar.update, engine):
                    # What shares a batch with what is new is asked again, and stays as it was.
                    store.add({key: reply for key, reply in batch.items() if key not in known})
                    known.update(batch)
            replies, tables = store.replies(), dict[str, list[pd.DataFrame]]()
            for block in self._blocks:
                tables.setdefault(block.name, []).append(block.table(replies))
            answers = {name: self._in_order(name, pd.concat(own, ignore_index=True)) for name, own in tables.items()}
            if folder:
                for name, table in answers.items():
                    write_whole(folder / f"{name}.parquet", parquet(pa.Table.from_pandas(table, preserve_index=False)))
        return pd.concat(answers.values(), ignore_index=True)

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

    def _in_order(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Rows by arm, and then as the questions were declared, with the arms' names."""
        table = table.sort_values(["arm", "place"], kind="stable", ignore_index=True)
        named = pd.DataFrame(
            {
                "questionnaire": name,
                "kind": {each.name: each.kind for each in self.questionnaires}.get(name, NEUTRAL),
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
        # Number 0 is kept for the model as it is, so that no arm is taken for it where it was not asked.
        number = table["arm"] + int(self.arms[0] != NONE)
        return pd.concat([rows.assign(arm=number), table[[*others, *last]]], axis=1)

    @cached_property
    def _blocks(self) -> list[Block]:
        """What is asked in one go: arms that are told the same; those that are told nothing come first."""
        told: dict[tuple[str, ...], list[int]] = {(): []}
        for number, arm in enumerate(self.arms):
            told.setdefault(tuple(arm.contexts), []).append(number)
        return [block for arms in told.values() if arms for block in self._blocks_of(arms)]

    def _blocks_of(self, arms: Sequence[int]) -> Iterator[Block]:
        """The blocks of arms that are told the same."""
        contexts = self.arms[arms[0]].contexts or ("",)
        # The same text may be a chat, or plain, to which the tokenizer adds special tokens.
        shared = f"{self._model} {self.form}", tuple(arms), tuple(tuple(self.arms[number].condition) for number in arms)
        for one in self.questionnaires:
            texts = prompts(self.language_model, one, self.form, contexts)
            # Questions with the same labels; answers in words need none.
            groups: dict[tuple[str, ...], list[int]] = {}
            for place, question in enumerate(one.questions):
                groups.setdefault(question.labels if one.reading == "options" else (), []).append(place)
            for places in groups.values():
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


def prompts(
    language_model: LanguageModel,
    questionnaire: Questionnaire,
    form: str | None = None,
    contexts: Sequence[str] = ("",),
) -> list[str]:
    """A questionnaire's questions as a model reads them, up to the answer.

    Of the contexts, which are told before, each item gets the next in turn, the same in all its questions.
    """
    numbers = {item: place for place, item in enumerate(dict.fromkeys(each.item for each in questionnaire.questions))}
    return [
        format_prompt(
            language_model.tokenizer,
            question.text,
            form=form or language_model.form,
            context=contexts[numbers[question.item] % len(contexts)],
        )
        + question.opening
        for question in questionnaire.questions
    ]


def evaluate(  # noqa: PLR0913 - each argument is one choice in the design of a measurement
    language_model: LanguageModel,
    questionnaires: Questionnaire | Sequence[Questionnaire],
    arms: Sequence[Arm] = (),
    store: Path | None = None,
    *,
    form: str | None = None,
    neutral: int = 12,
    seed: int = 0,
    batch_size: int = 64,
    baseline: bool = True,
    engine: Engine | None = None,
    progress: str | None = None,
) -> pd.DataFrame:
    """Put questionnaires to a model, as it is and under arms.

    Args:
        language_model: who is asked.
        questionnaires: what is asked.
        arms: what is steered or told; the model as it is comes first without being named.
        store: a folder in which answers are kept as they come, so that a killed run goes on; None keeps them in memory.
        form: ``"chat"`` or ``"base"``; None for what the model is.
        neutral: questions of general knowledge whose answers' perplexity is measured under every arm; 0 for none.
        seed: draws them.
        batch_size: rows of a forward pass.
        baseline: whether the model as it is is asked as well; nothing can be compared without it.
        engine: where it is asked; None asks the model that is loaded. Other processes load it by its name, and have to
            have the same one. The answers are the same to the last bit on machines of one kind.
        progress: text of a progress bar; None shows none.

    Returns:
        One row a question and arm: ``questionnaire``, its ``kind``, ``model``, ``method``, ``key``, ``pole``, ``dose``,
        ``arm`` (its place; 0 is the model as it is), ``item``, ``cluster``, ``group``, ``template``, ``order``; then
        one column ``p_…`` for each role, over the whole vocabulary and missing for a question without it, and their sum
        ``mass``; for answers in words ``sample``, ``text``, and ``labels``, ``roles`` and ``options`` of the question
        as JSON lists. Rows of the questionnaire ``"neutral"`` have ``loss``, in nats, and ``tokens``.

    Raises:
        DataError: the folder cannot be written to, another process writes to it, or the engine cannot do it; see
            :meth:`personalib.evaluation.engines.Engine.run`.
        ValueError: two questionnaires have one name, there is nothing to ask under, or an arm does not fit the model.
        ItemError: a question cannot be read or answered, or the model overflows without steering.

    Example:
        >>> effects(evaluate(model, trait_questionnaire(items), push.arms("repe", vectors)))  # doctest: +SKIP
    """
    asked = [questionnaires] if isinstance(questionnaires, Questionnaire) else list(questionnaires)
    form = form or language_model.form
    evaluation = Evaluation(language_model, asked, tuple(arms), form, neutral, seed, batch_size, baseline)
    return evaluation.run(store, progress, engine)
