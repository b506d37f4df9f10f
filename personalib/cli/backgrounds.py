"""The commands ``python -m personalib backgrounds``. Each imports what it needs itself, so that help comes at once."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli import options

if TYPE_CHECKING:
    from pandas import DataFrame

    from personalib.stimuli.assignments import Assignment
    from personalib.stimuli.backgrounds import Background
    from personalib.stimuli.writers import Writer

_source = click.argument("source", type=options.FILE)
_person = options.choice("--person", ["first", "second", "third"], "second", "Grammatical person.")


@dataclass(frozen=True)
class _Writing:
    """Who writes, and how."""

    writer: str
    model: str | None
    revision: str | None
    device: str
    temperature: float
    workers: int
    attempts: int
    seed: int

    def write(self, assignment: "Assignment", drawn: "list[Background]", out: Path) -> "list[Background]":
        """What is written for each background, with a journal of all drafts beside the result."""
        from personalib.base.storage import Journal
        from personalib.stimuli.writers import write_all

        # One model on one machine writes one text after the other.
        workers = self.workers if self.writer == "endpoint" else 1
        how: dict[str, Any] = {"workers": workers, "attempts": self.attempts, "progress": assignment.name}
        with closing(Journal(out.with_name(f"{out.name}.journal.jsonl"))) as journal:
            return write_all(assignment, drawn, self._load(), journal, **how)

    def _load(self) -> "Writer":
        if self.writer == "grammar":
            from personalib.stimuli.grammar_writer import GrammarWriter

            return GrammarWriter(self.seed)
        if not self.model:
            raise click.UsageError(f"--writer {self.writer} needs --model")
        if self.writer == "endpoint":
            from personalib.stimuli.endpoint import EndpointWriter, connect

            return EndpointWriter(connect(), self.model, self.temperature)
        from personalib.models.load import load_model
        from personalib.steering.chat_writer import ChatWriter

        return ChatWriter(load_model(self.model, self.revision, self.device), self.seed, self.temperature)


def _writing(ours: str, whose: str, what: str) -> options.Option:
    """The options of a writer; ``ours`` is the one that needs no language model."""
    who = f"Who {what}: the book's {whose}, an OpenAI-compatible endpoint, or a chat model on this machine."
    return options.together(
        "writing",
        _Writing,
        options.choice("--writer", [ours, "endpoint", "chat"], ours, who),
        options.option("--model", "The endpoint's name of a model; or a folder or a hub's name, for chat."),
        options.option("--revision", "Branch, tag or commit of a hub's model, for chat."),
        options.option("--device", "auto, cpu, cuda, cuda:1, mps …, for chat.", "auto"),
        options.option("--temperature", "Of the language model.", 1.0, options.Finite(min=0, max=2)),
        options.option("--workers", "Requests at a time.", 4, click.IntRange(1)),
        options.option("--attempts", "Drafts of each text.", 4, click.IntRange(1)),
        options.seed,
    )


@click.group()
def backgrounds() -> None:
    """Draw persons and tell their backgrounds."""


@backgrounds.command()
@options.option("--num", "How many persons.", 200)
@_writing("stimuli", "phrases", "words the keywords")
@options.out
def keywords(num: int, writing: _Writing, out: Path) -> None:
    """Draw different, plausible combinations of attributes that tell every element equally often.

    An endpoint is found by OPENAI_BASE_URL and OPENAI_API_KEY in the environment.
    """
    from personalib.stimuli.assignments import Keywords
    from personalib.stimuli.backgrounds import coverage, draw_backgrounds
    from personalib.stimuli.paper_files import publish, save_backgrounds

    drawn = draw_backgrounds(num, writing.seed)
    if writing.writer != "stimuli":
        drawn = writing.write(Keywords(), drawn, out)
    save_backgrounds((publish(background, person=None) for background in drawn), out)
    _show_coverage(coverage(drawn))
    click.echo(f"{out}: {len(drawn)} backgrounds")


@backgrounds.command()
@_source
@_person
@options.out
def fixed(source: Path, person: str, out: Path) -> None:
    """Tell each attribute of the backgrounds in SOURCE in a sentence of its own."""
    from personalib.stimuli.paper_files import load_backgrounds, save_backgrounds, with_fixed_text

    entries = [with_fixed_text(entry, person) for entry in load_backgrounds(source)]
    save_backgrounds(entries, out)
    click.echo(f"{out}: {len(entries)} backgrounds")


@backgrounds.command()
@_source
@_person
@_writing("grammar", "grammar", "writes")
@options.out
def generated(source: Path, person: str, writing: _Writing, out: Path) -> None:
    """Write a life story of 100 to 150 words for each of the backgrounds in SOURCE.

    An endpoint is found by OPENAI_BASE_URL and OPENAI_API_KEY in the environment. All drafts are kept in a journal
    beside OUT: after a failure or a kill the same command goes on from there.
    """
    from personalib.stimuli.assignments import LifeStory
    from personalib.stimuli.paper_files import load_backgrounds, save_backgrounds, with_story

    entries = load_backgrounds(source)
    written = writing.write(LifeStory(person), [entry.background() for entry in entries], out)
    with_stories = [with_story(entry, each.generated) for entry, each in zip(entries, written, strict=True)]
    save_backgrounds(with_stories, out)
    click.echo(f"{out}: {len(written)} life stories")


@backgrounds.command()
@_source
def coverage(source: Path) -> None:
    """Count how often each element occurs in a background file."""
    from personalib.stimuli.backgrounds import coverage as count
    from personalib.stimuli.paper_files import load_backgrounds

    _show_coverage(count(entry.background() for entry in load_backgrounds(source)))


def _show_coverage(table: "DataFrame") -> None:
    click.echo(table.to_string(index=False, formatters={"share": "{:.1%}".format}))
