"""The commands ``python -m personalib backgrounds``. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli.model_options import Finite

if TYPE_CHECKING:
    from pandas import DataFrame

    from personalib.stimuli.assignments import Assignment
    from personalib.stimuli.backgrounds import Background
    from personalib.stimuli.writers import Writer

_seed = click.option("--seed", default=0, show_default=True, help="The same seed gives the same file.")
_out = click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The JSON file to write."
)
_source = click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
_person = click.option("--person", type=click.Choice(["first", "second", "third"]), default="second", show_default=True)


def _writer_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how a language model writes."""
    options = [
        click.option("--model", help="The endpoint's name of a model; or a folder or a hub's name, for chat."),
        click.option("--revision", help="Branch, tag or commit of a hub's model, for chat."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps …, for chat."),
        click.option("--temperature", default=1.0, show_default=True, type=Finite(0.0, 2.0)),
        click.option("--workers", default=4, show_default=True, type=click.IntRange(1), help="Requests at a time."),
        click.option("--attempts", default=4, show_default=True, type=click.IntRange(1), help="Drafts of each text."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def backgrounds() -> None:
    """Draw persons and tell their backgrounds."""


@backgrounds.command()
@click.option("--num", default=200, show_default=True, help="How many persons.")
@click.option(
    "--writer",
    type=click.Choice(["stimuli", "endpoint", "chat"]),
    default="stimuli",
    show_default=True,
    help="Who words the keywords: the book's phrases, an OpenAI-compatible endpoint, or a chat model on this machine.",
)
@_writer_options
@_seed
@_out
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
    save_backgrounds((publish(one, person=None) for one in drawn), out)
    _show_coverage(coverage(drawn))
    click.echo(f"{out}: {len(drawn)} backgrounds")


@backgrounds.command()
@_source
@_person
@_out
def fixed(source: Path, person: str, out: Path) -> None:
    """Tell each attribute of the backgrounds in SOURCE in a sentence of its own."""
    from personalib.stimuli.paper_files import load_backgrounds, save_backgrounds, with_fixed_text

    told = [with_fixed_text(one, person) for one in load_backgrounds(source)]
    save_backgrounds(told, out)
    click.echo(f"{out}: {len(told)} backgrounds")


@backgrounds.command()
@_source
@_person
@click.option(
    "--writer",
    type=click.Choice(["grammar", "endpoint", "chat"]),
    default="grammar",
    show_default=True,
    help="Who writes: the book's grammar, an OpenAI-compatible endpoint, or a chat model on this machine.",
)
@_writer_options
@_seed
@_out
def generated(source: Path, person: str, writer: str, seed: int, out: Path, **settings: Any) -> None:
    """Write a life story of 100 to 150 words for each of the backgrounds in SOURCE.

    An endpoint is found by OPENAI_BASE_URL and OPENAI_API_KEY in the environment. All drafts are kept in a journal
    beside OUT: after a failure or a kill the same command goes on from there.
    """
    from personalib.stimuli.assignments import LifeStory
    from personalib.stimuli.paper_files import load_backgrounds, save_backgrounds, with_story

    entries = load_backgrounds(source)
    written = _write(LifeStory(person), [one.background() for one in entries], writer, seed, out, settings)
    told = [with_story(entry, one.generated) for entry, one in zip(entries, written, strict=True)]
    save_backgrounds(told, out)
    click.echo(f"{out}: {len(written)} life stories")


@backgrounds.command()
@_source
def coverage(source: Path) -> None:
    """Count how often each element occurs in a background file."""
    from personalib.stimuli.backgrounds import coverage as count
    from personalib.stimuli.paper_files import load_backgrounds

    _show_coverage(count(one.background() for one in load_backgrounds(source)))


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
