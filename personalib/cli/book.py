"""The commands that execute chapters. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from personalib.book.chapters import RunError
from personalib.cli import options

if TYPE_CHECKING:
    from personalib.book.editions import Comparison, EditionPlan
    from personalib.book.runs import Run
    from personalib.book.sweeps import Outcome
    from personalib.evaluation.engines import Engine


@click.command()
@click.argument("notebook")
@options.parameter
@options.option("--output-dir", "Where the outputs go.  [default: results/runs]", type=options.FOLDER)
@options.flag("--force", "Execute even where nothing changed.")
def run(notebook: str, parameters: dict[str, str], output_dir: Path | None, force: bool) -> None:
    """Execute one notebook: a file, or the name of a chapter."""
    from personalib.base.provenance import repository_root
    from personalib.book.chapters import Chapter
    from personalib.book.runs import run_notebook

    path = Path(notebook)
    if not path.suffix:
        path = repository_root() / "notebooks" / f"{notebook}.ipynb"
    given = Chapter.read(path).parse(parameters)
    done = run_notebook(path, given, output_dir or repository_root() / "results" / "runs", reuse=not force)
    verb = "unchanged since" if done.reused else "executed at"
    click.echo(f"{done.name}: {verb} {done.manifest['started']}, {done.manifest['seconds']:.1f} s")
    click.echo(_shown_path(done.notebook))


@click.command()
@options.parameter
@click.option("--only", multiple=True, metavar="CHAPTER", help="Execute this chapter alone. May be repeated.")
@options.flag("--force", "Execute chapters even where nothing changed.")
@options.jobs
@options.option("--root", "The folder with _config.yml.  [default: this repository]", type=options.FOLDER)
def book(parameters: dict[str, str], only: tuple[str, ...], force: bool, jobs: int, root: Path | None) -> None:
    """Execute the chapters that changed and build the pages."""
    from personalib.base.provenance import repository_root
    from personalib.book.build import build_book
    from personalib.book.pages import Book

    built = build_book(Book(root or repository_root()), parameters, only, force, jobs)
    click.echo(_shown_runs(built.runs))
    if built.index is None:
        click.echo(f"no pages: {', '.join(built.outdated)} out of date; run without --only to build them")
        return
    click.echo("pages: unchanged" if built.pages_reused else "pages: built")
    click.echo(_shown_path(built.index))


@click.command()
@click.option("--model", required=True, help=options.MODEL_HELP)
@click.option("--chapters", multiple=True, metavar="CHAPTER", help="Execute this chapter alone. May be repeated.")
@options.parameter
@options.jobs
@click.option("--compare", "grid", metavar="GRID", help="Compare this plan with what was published of the model.")
@options.flag("--no-compare", "Leave that out; by default it is done where the model has a plan.")
@options.flag("--plan only_plan", "Say what it will take, and do nothing.")
@options.option("--output-dir", "Where it goes.  [default: results/editions/MODEL]", type=options.FOLDER)
def reproduce(
    model: str,
    chapters: tuple[str, ...],
    parameters: dict[str, str],
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
    from personalib.book.editions import edition_book, make_edition, plan_comparison, plan_edition

    if grid and no_compare:
        raise click.UsageError("--compare and --no-compare contradict each other; leave one out")
    book = edition_book(model, output_dir)
    plan = plan_edition(book, model, parameters, chapters, jobs)
    wanted = grid is not None or not (no_compare or chapters)
    comparison = plan_comparison(model, plan.device, parameters, grid) if wanted else None
    click.echo(_shown_plan(plan) + (f"\n{_shown_comparison(comparison, plan.rate)}" if comparison else ""))
    if only_plan:
        return
    built = make_edition(book, model, parameters, chapters, jobs, comparison)
    click.echo(_shown_runs(built.runs))
    click.echo(f"results: {book.executed / 'results'}")
    if comparison and not comparison.missing:
        click.echo(f"compared: {book.products / 'reproduction'}")
    if built.index is None:
        click.echo(f"no pages yet: {len(built.outdated)} chapters have not been executed on {model}")
    else:
        click.echo(f"pages: {built.index}")


@click.command()
@click.argument("source", metavar="SWEEP")
@options.option("--output-dir", "Where everything goes.  [default: results/sweeps/NAME]", type=options.FOLDER)
@options.flag("--plan only_plan", "List the points and what is done, and run nothing.")
@options.engine
def sweep(source: str, output_dir: Path | None, only_plan: bool, engine: "Engine | None") -> None:
    """Execute one chapter at every combination of parameters that SWEEP declares.

    SWEEP is a YAML file, or a name in data/sweeps. A run that was stopped goes on where it was when the command is
    given again, with whichever engine.
    """
    from tabulate import tabulate

    from personalib.book.sweeps import load_sweep, outcomes, run_sweep

    declared = load_sweep(source)
    folder = output_dir or Path("results") / "sweeps" / declared.name
    found = outcomes(declared, folder) if only_plan else run_sweep(declared, folder, engine)
    done = sum(outcome.state == "done" for outcome in found)
    if only_plan:
        rows = [[*outcome.point.texts.values(), outcome.state] for outcome in found]
        table = tabulate(rows, [*found[0].point.varied, "state"], disable_numparse=True)
        click.echo(f"{declared.chapter.name}, {len(found)} points, {done} done, in {folder}\n\n{table}")
        return
    click.echo(f"{declared.name}: {done} of {len(found)} points done; tables and figure in {folder}")
    _tell_failures(declared.chapter.name, found)


def _shown_path(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _shown_runs(runs: "Sequence[Run]") -> str:
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


def _shown_plan(plan: "EditionPlan") -> str:
    from tabulate import tabulate

    rows = []
    for chapter in plan.chapters:
        due = "" if chapter.seconds is None else _time(chapter.seconds)
        asks = "this model" if chapter.asks else "no other model"
        rows.append([chapter.name, asks, "done" if chapter.done else due])
    each = f" of each of {plan.at_once} chapters at a time" if plan.at_once > 1 else ""
    return (
        f"{tabulate(rows, ['chapter', 'asks', 'time, by the probe'])}\n\n"
        f"{plan.model} on {plan.device}: {_left(plan)}\n"
        f"memory{each}: {_memory(plan)}"
    )


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


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tell_failures(chapter: str, found: "Sequence[Outcome]") -> None:
    """Stop with one line for each point that failed."""
    lines = []
    for outcome in found:
        if outcome.failure:
            notebook = outcome.folder / f"{chapter}.failed.ipynb"
            place = f"; the notebook up to there is {notebook}" if notebook.is_file() else ""
            lines.append(f"{outcome.point.name}: {outcome.failure}{place}")
    if lines:
        points = "1 point" if len(lines) == 1 else f"{len(lines)} points"
        raise RunError("\n".join([f"{points} failed; the tables hold the others", *lines]))
