"""The command ``python -m personalib reproduce``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from personalib.cli import options

if TYPE_CHECKING:
    from personalib.book.comparison import Comparison
    from personalib.book.editions import EditionPlan
    from personalib.book.runs import Run


@click.command()
@click.option("--model", required=True, help=options.MODEL_HELP)
@click.option("--chapters", multiple=True, metavar="CHAPTER", help="Execute this chapter alone. May be repeated.")
@options.parameter
@options.jobs
@click.option("--compare", "grid", metavar="GRID", help="Compare this plan with what was published of the model.")
@options.flag("--no-compare", "Leave that out; by default it is done where the model has a plan.")
@options.flag("--plan only_plan", "Say what it will take, and do nothing.")
@options.folder("--output-dir", "Where it goes.  [default: results/editions/MODEL]")
def reproduce(
    model: str,
    chapters: tuple[str, ...],
    parameters: tuple[tuple[str, str], ...],
    jobs: int,
    grid: str | None,
    no_compare: bool,
    only_plan: bool,
    output_dir: Path | None,
) -> None:
    """Execute the book on a model and build its edition of the pages; a run that was stopped goes on.

    Of the paper's own models the published numbers are measured, too, by the plan in data/grids that has the model's
    name, and compared with each other cell by cell on a page of the edition. With some --chapters alone that is left to
    --compare.
    """
    from personalib.book.comparison import plan_comparison
    from personalib.book.editions import edition_book, make_edition, plan_edition

    if grid and no_compare:
        raise click.UsageError("--compare and --no-compare contradict each other; leave one out")
    book, texts = edition_book(model, output_dir), dict(parameters)
    plan = plan_edition(book, model, texts, chapters, jobs)
    wanted = grid is not None or not (no_compare or chapters)
    comparison = plan_comparison(model, plan.device, texts, grid) if wanted else None
    click.echo(_shown(plan) + (f"\n{_shown_comparison(comparison, plan.rate)}" if comparison else ""))
    if only_plan:
        return
    built = make_edition(book, model, texts, chapters, jobs, comparison)
    click.echo(executed_and_unchanged(built.runs))
    click.echo(f"results: {book.executed / 'results'}")
    if comparison and not comparison.missing:
        click.echo(f"compared: {book.products / 'reproduction'}")
    if built.index is None:
        click.echo(f"no pages yet: {len(built.outdated)} chapters have not been executed on {model}")
    else:
        click.echo(f"pages: {built.index}")


def executed_and_unchanged(runs: "Sequence[Run]") -> str:
    """How many of a build's chapters were executed, and how long that took."""
    executed = [run for run in runs if not run.reused]
    seconds = sum(run.manifest["seconds"] for run in executed)
    return f"chapters: {len(executed)} executed in {seconds:.0f} s, {len(runs) - len(executed)} unchanged"


def _shown_comparison(comparison: "Comparison", rate: float | None) -> str:
    start = f"published numbers, plan {comparison.name}, protocol {comparison.protocol.name}:"
    if comparison.missing:
        return f"{start} not compared, since items are missing ({comparison.missing})"
    time = f", about {_time(comparison.questions / rate)}" if rate else ""
    return f"{start} {comparison.questions:,} prompts at the most{time}"


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
        f"{plan.model} on {plan.device}: {_left(plan)}",
        f"memory{_each(plan.at_once)}: {_memory(plan)}",
    ]
    return "\n".join(lines)


def _left(plan: "EditionPlan") -> str:
    if all(chapter.done for chapter in plan.chapters):
        return "nothing is left to execute"
    rate = "it is not asked" if plan.rate is None else f"{plan.rate:.1f} prompts a second"
    return f"{rate}, about {_time(plan.seconds)} in all"


def _memory(plan: "EditionPlan") -> str:
    free = f"{plan.free / 1e9:.1f} GB are free"
    if plan.memory is None:
        return f"not estimated, since the model has no attention; {free}"
    if plan.spread == 1:
        return f"at most {plan.memory}; {free}"
    share = plan.memory.share(plan.spread) / 1e9
    return f"at most {plan.memory}, {share:.2f} GB on each of {plan.spread} GPUs; {free} on the fullest of them"


def _each(at_once: int) -> str:
    return f" of each of {at_once} chapters at a time" if at_once > 1 else ""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
