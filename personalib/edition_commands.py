"""The command ``python -m personalib reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from personalib.editions import EditionPlan


@click.command()
@click.option("--model", required=True, help="A name of the table of models or of the hub, a folder, or a YAML file.")
@click.option("--chapters", multiple=True, metavar="CHAPTER", help="Execute this chapter alone. May be repeated.")
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Chapters at a time.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it will take, and do nothing.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Where it goes.  [default: results/editions/MODEL]")
def reproduce(
    model: str,
    chapters: tuple[str, ...],
    parameters: tuple[tuple[str, str], ...],
    jobs: int,
    only_plan: bool,
    output_dir: Path | None,
) -> None:
    """Execute the book on a model and build its edition of the pages; a run that was stopped goes on."""
    from personalib.editions import edition_book, make_edition, plan_edition

    book = edition_book(model, output_dir)
    click.echo(_shown(plan_edition(book, model, dict(parameters), chapters)))
    if only_plan:
        return
    built = make_edition(book, model, dict(parameters), chapters, jobs)
    executed = [run for run in built.runs if not run.reused]
    click.echo(f"chapters: {len(executed)} executed, {len(built.runs) - len(executed)} unchanged")
    click.echo(f"results: {book.executed / 'results'}")
    if built.index is None:
        click.echo(f"no pages yet: {len(built.outdated)} chapters have not been executed on {model}")
    else:
        click.echo(f"pages: {built.index}")


def _shown(plan: "EditionPlan") -> str:
    from tabulate import tabulate

    rows = [
        [
            chapter.name,
            "this model" if chapter.asks else "no other model",
            "done" if chapter.done else "" if chapter.seconds is None else _time(chapter.seconds),
        ]
        for chapter in plan.chapters
    ]
    lines = [
        tabulate(rows, ["chapter", "asks", "time, by the probe"]),
        "",
        f"{plan.model} on {plan.device}: {plan.rate:.1f} prompts a second, about {_time(plan.seconds)} in all",
        f"memory: at most {plan.memory}; {plan.free / 1e9:.1f} GB are free",
    ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
