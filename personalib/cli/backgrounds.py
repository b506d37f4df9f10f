"""The commands ``python -m personalib backgrounds``. Each imports what it needs itself, so that help comes at once."""

from contextlib import closing
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
_writer_options = options.group(
    options.text("--model", "The endpoint's name of a model; or a folder or a hub's name, for chat."),
    options.text("--revision", "Branch, tag or commit of a hub's model, for chat."),
    options.text("--device", "auto, cpu, cuda, cuda:1, mps …, for chat.", "auto"),
    options.number("--temperature", 1.0, "Of the language model.", min=0, max=2),
    options.count("--workers", 4, "Requests at a time.", 1),
    options.count("--attempts", 4, "Drafts of each text.", 1),
)


@click.group()
def backgrounds() -> None:
    """Draw persons and tell their backgrounds."""


@backgrounds.command()
@options.count("--num", 200, "How many persons.")
@options.choice(
    "--writer",
    ["stimuli", "endpoint", "chat"],
    "stimuli",
    "Who words the keywords: the book's phrases, an OpenAI-compatible endpoint, or a chat model on this machine.",
)
@_writer_options
@options.seed
@options.out
def keywords(num: int, writer: str, seed: int, out: Path, **settings: Any) -> None:
    """Draw different, plausible combinations of attributes that tell every element equally often.

    An endpoint is found by OPENAI_BASE_URL and OPENAI_API_KEY in the environment.
    """
    from personalib.stimuli.assignments import Keywords
    from personalib.stimuli.backgrounds import coverage, draw_backgrounds
    from personalib.stimuli.paper_files import publish, save_backgrounds

    drawn = draw_backgrounds(num, seed)
    if writer != "stimuli":
        drawn = _write(Keywords(), drawn, writer, seed, out, settings)
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
@options.choice(
    "--writer",
    ["grammar", "endpoint", "chat"],
    "grammar",
    "Who writes: the book's grammar, an OpenAI-compatible endpoint, or a chat model on this machine.",
)
@_writer_options
@options.seed
@options.out
def generated(source: Path, person: str, writer: str, seed: int, out: Path, **settings: Any) -> None:
    """Write a life story of 100 to 150 words for each of the backgrounds in SOURCE.

    An endpoint is found by OPENAI_BASE_URL and OPENAI_API_KEY in the environment. All drafts are kept in a journal
    beside OUT: after a failure or a kill the same command goes on from there.
    """
    from personalib.stimuli.assignments import LifeStory
    from personalib.stimuli.paper_files import load_backgrounds, save_backgrounds, with_story

    entries = load_backgrounds(source)
    written = _write(LifeStory(person), [entry.background() for entry in entries], writer, seed, out, settings)
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


def _write(
    assignment: "Assignment", drawn: "list[Background]", writer: str, seed: int, out: Path, settings: dict[str, Any]
) -> "list[Background]":
    from personalib.base.storage import Journal
    from personalib.stimuli.writers import write_all

    with closing(Journal(out.with_name(f"{out.name}.journal.jsonl"))) as journal:
        return write_all(
            assignment,
            drawn,
            _writer(writer, seed, settings),
            journal,
            # One model on one machine writes one text after the other.
            workers=settings["workers"] if writer == "endpoint" else 1,
            attempts=settings["attempts"],
            progress=assignment.name,
        )


def _writer(name: str, seed: int, settings: dict[str, Any]) -> "Writer":
    if name == "grammar":
        from personalib.stimuli.grammar_writer import GrammarWriter

        return GrammarWriter(seed)
    if not settings["model"]:
        raise click.UsageError(f"--writer {name} needs --model")
    if name == "endpoint":
        from personalib.stimuli.endpoint import EndpointWriter, connect

        return EndpointWriter(connect(), settings["model"], settings["temperature"])
    from personalib.models.load import load_model
    from personalib.steering.chat_writer import ChatWriter

    return ChatWriter(
        load_model(settings["model"], settings["revision"], settings["device"]), seed, settings["temperature"]
    )


def _show_coverage(table: "DataFrame") -> None:
    click.echo(table.to_string(index=False, formatters={"share": "{:.1%}".format}))
