"""Writers: whatever writes about backgrounds, and the loop that has it do so.

The loop checks every draft, asks again for what will not do, and keeps a journal, so that nothing that was written, and
perhaps paid for, is ever lost.
"""

import hashlib
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from personalib.base.storage import Journal
from personalib.stimuli.assignments import Assignment
from personalib.stimuli.backgrounds import Background

_SHINGLE = 5
_ALIKE = 0.5


class Writer(Protocol):
    """Something that writes drafts."""

    @property
    def identity(self) -> str:
        """What determines what it writes; it stands in journals, so it holds no secret."""

    def write(self, assignment: Assignment, background: Background, attempt: int, problems: Sequence[str]) -> BaseModel:
        """A draft in the assignment's form, after so many attempts, of which the last one had these problems.

        What is no draft in this form is Unusable; where nothing can be written at all it is a WriterError.
        """


class WriterError(ValueError):
    """A writer cannot go on; the message says why, and what to do."""


class Unusable(ValueError):  # noqa: N818 - it is an answer that came, not a failure of the writer
    """What a writer wrote, kept as ``written``, is not in the form that was asked for."""

    def __init__(self, problem: str, written: str) -> None:
        super().__init__(problem)
        self.written = written


def read_draft(written: str, assignment: Assignment, background: Background) -> BaseModel:
    """A draft from a text that should be one JSON object, perhaps in a code fence.

    Where it is not, or not in the assignment's form, it is Unusable.
    """
    text = re.sub(r"^\s*```(?:json)?\s*|\s*```\s*$", "", written)
    try:
        return assignment.form(background).model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"not in the form asked for: {where + ': ' if where else ''}{first['msg']}", written) from None


def write_all(
    assignment: Assignment,
    backgrounds: Sequence[Background],
    writer: Writer,
    journal: Journal,
    *,
    workers: int = 1,
    attempts: int = 4,
    progress: str | None = None,
) -> list[Background]:
    """The backgrounds, in their order, with what a writer has written about each.

    Every draft goes to the journal, the unusable ones too. What it holds already, by the same writer about the same
    background, is not written again. So many ``workers`` write at a time, and each background has so many ``attempts``
    in this call. ``progress`` is the text of a progress bar; None shows none. Two backgrounds of the same idx are a
    ValueError. A WriterError where the writer cannot go on, or a background has had all its attempts; the journal has
    the rest.
    """
    if repeated := [idx for idx, count in Counter(one.idx for one in backgrounds).items() if count > 1]:
        raise ValueError(f"two backgrounds have the idx {repeated[0]}; give each a number of its own")
    desk = _Desk(assignment, writer, journal, attempts)
    todo = [background for background in backgrounds if not desk.take_over(background)]
    bar = tqdm(total=len(backgrounds), initial=len(backgrounds) - len(todo), desc=progress, disable=progress is None)
    with bar, ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(desk.write, background) for background in todo]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            # What is being asked for comes to its end and into the journal; nothing else is begun.
            desk.closed = True
            pool.shutdown(wait=False, cancel_futures=True)
    if desk.failed:
        idx, problems = next(iter(desk.failed.items()))
        raise WriterError(
            f"{len(desk.failed)} of {len(backgrounds)} have no usable {assignment.name} after {attempts} attempts, "
            f"background {idx} for one: {'; '.join(problems)}. The others are kept in {journal.path}; "
            "run again to go on"
        )
    return [assignment.finish(desk.drafts[background.idx], background) for background in backgrounds]


@dataclass
class _Desk:
    """What has been written so far."""

    assignment: Assignment
    writer: Writer
    journal: Journal
    attempts: int
    drafts: dict[int, BaseModel] = field(default_factory=dict)
    failed: dict[int, list[str]] = field(default_factory=dict)
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        # by runs of five words whose texts have them, to find one that is much like another
        self._owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._entries: Mapping[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.journal.entries:
            self._entries[entry.get("key", "")].append(entry)

    def take_over(self, background: Background) -> bool:
        """Whether the journal has a draft that will do by today's checks; if so it is used."""
        return any(
            not self._judge(draft, background)
            for entry in self._entries[self._key(background)]
            if (draft := self._stored(entry, background)) is not None
        )

    def write(self, background: Background) -> None:
        """Ask for a draft until one will do, the attempts are used up, or something fails."""
        try:
            self._write(background)
        except BaseException:
            self.closed = True  # at once, before another thread asks for anything
            raise

    def _write(self, background: Background) -> None:
        key = self._key(background)
        before = self._entries[key]
        problems: list[str] = before[-1].get("problems", []) if before else []
        for attempt in range(len(before), len(before) + self.attempts):
            if self.closed:
                return
            entry: dict[str, Any] = {"key": key, "idx": background.idx, "attempt": attempt}
            try:
                draft = self.writer.write(self.assignment, background, attempt, problems)
            except Unusable as error:
                problems = [str(error)]
                self.journal.add(entry | {"written": error.written, "problems": problems})
                continue
            try:
                problems = self._judge(draft, background)
            finally:
                # Also where a check fails: what was written is kept.
                self.journal.add(entry | {"draft": draft.model_dump(), "problems": problems})
            if not problems:
                return
        self.failed[background.idx] = problems

    def _stored(self, entry: Mapping[str, Any], background: Background) -> BaseModel | None:
        """The draft of a journal's entry, if there is one and it has today's form."""
        with suppress(KeyError, ValidationError):
            return self.assignment.form(background).model_validate(entry["draft"])
        return None

    def _judge(self, draft: BaseModel, background: Background) -> list[str]:
        """What is wrong with a draft; one that will do is kept."""
        text = self.assignment.text(draft)
        problems = self.assignment.problems(draft, background)
        with self._lock:
            if (other := self._alike(text)) is not None:
                problems = [*problems, f"it is much like the {self.assignment.name} of background {other}"]
            if not problems:
                for shingle in _shingles(text):
                    self._owners[shingle].append(background.idx)
                self.drafts[background.idx] = draft
        return problems

    def _key(self, background: Background) -> str:
        told = [self.assignment.name, self.assignment.person, self.writer.identity, background.idx]
        content = json.dumps([*told, dict(background.elements), dict(background.keywords)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _alike(self, text: str) -> int | None:
        """Whose text shares at least half of its runs with this one."""
        shingles = _shingles(text)
        shared = Counter(owner for shingle in shingles for owner in self._owners.get(shingle, ()))
        alike = [owner for owner, count in shared.most_common(1) if count >= _ALIKE * len(shingles)]
        return alike[0] if alike else None


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w']+", text.lower())
    return {tuple(words[start : start + _SHINGLE]) for start in range(max(1, len(words) - _SHINGLE + 1))}
