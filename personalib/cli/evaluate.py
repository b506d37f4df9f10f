"""The commands ``evaluate``, ``report`` and ``compare``. Each imports what it needs itself: help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from personalib.cli import options
from personalib.steering.settings import Guard

if TYPE_CHECKING:
    from personalib.evaluation.engines import Engine
    from personalib.evaluation.plan import EvaluationPlan
    from personalib.evaluation.runs import EvaluationRun


@click.command()
@click.argument("grids", metavar="GRID...", nargs=-1, required=True)
@options.option(
    "--output-dir", "Where the answers go.  [default: results/evaluation/NAME OF THE PLAN]", type=options.FOLDER
)
@options.option("--protocol", "Ask and push as it says: paper, book, or a YAML file.  [default: as the plan says]")
@options.prompts
@options.flag("--plan show", "Show the plan with its defaults, and ask nothing.")
@options.engine
def evaluate(
    grids: tuple[str, ...],
    output_dir: Path | None,
    protocol: str | None,
    prompts: str | None,
    show: bool,
    engine: "Engine | None",
) -> None:
    """Put questionnaires to models under many arms, as each GRID declares: a YAML file, or a name in data/grids.

    A run that was stopped goes on where it was when the command is given again, with whichever engine. With a protocol
    the answers have a folder of their own, results/evaluation/PLAN-PROTOCOL.
    """
    from personalib.evaluation.plan import dump_plan

    if output_dir and len(grids) > 1:
        raise click.UsageError("--output-dir is the place of one plan; leave it out for several")
    for name, plan in [_planned(grid, protocol, prompts) for grid in grids]:
        if show:
            click.echo(dump_plan(plan), nl=False)
        else:
            _evaluate(name, plan, output_dir, engine)


def _planned(grid: str, protocol: str | None, prompts: str | None) -> "tuple[str, EvaluationPlan]":
    """A plan, in the manner of a protocol where there is one, and the name of its folder."""
    from personalib.evaluation.plan import load_plan, plan_name
    from personalib.paper.protocol import apply_protocol, load_protocol

    plan = load_plan(grid)
    if protocol is None:
        if prompts:
            raise click.UsageError("--prompts belong to a protocol; add --protocol")
        return grid, plan
    manner = load_protocol(protocol, prompts)
    if len(plan.models) > 1:
        raise click.UsageError(f"{grid} asks {len(plan.models)} models; a protocol is for one, write a plan for each")
    return f"{plan_name(grid)}-{manner.name}", apply_protocol(plan, manner, plan.models[0].name)


def _evaluate(grid: str, plan: "EvaluationPlan", output_dir: Path | None, engine: "Engine | None") -> None:
    """Run one plan, and say where its answers are."""
    from personalib.evaluation.plan import plan_name
    from personalib.evaluation.runs import run_plan
    from personalib.features.published import bare_name
    from personalib.paper.cells import reference_models

    folder = output_dir or Path("results") / "evaluation" / plan_name(grid)
    for run, model in zip(run_plan(plan, folder, True, engine), plan.models, strict=True):
        count = len(run.answers)
        click.echo(f"{run.model}: {count:,} answers of {run.manifest['arms']} arms in {folder / model.folder}")
        _say_what_is_left_out(run)
    where = f" --output-dir {output_dir}" if output_dir else ""
    click.echo(f"tables: python -m personalib report {grid}{where}")
    if any(bare_name(model.name) in reference_models() for model in plan.models):
        click.echo(f"beside the published numbers: python -m personalib compare {grid}{where}")


@click.command()
@click.argument("grid")
@options.option("--output-dir", "Where `evaluate` put the answers; the tables go to its `report`.", type=options.FOLDER)
@options.guard
def report(grid: str, output_dir: Path | None, guard: Guard) -> None:
    """Write the tables of an evaluation as CSV, Markdown and LaTeX: effects, intervals, corrected p-values, guards.

    Mass and perplexity, in units of the unsteered model's, say from where on an arm counts as collapsed.
    """
    from personalib.evaluation.report import write_report
    from personalib.evaluation.runs import read_runs

    folder = options.answers_folder(grid, output_dir)
    runs = read_runs(folder)
    written = write_report(runs, folder / "report", guard)
    for run in runs:
        _say_what_is_left_out(run)
    click.echo(f"{len(written)} files in {folder / 'report'}")


def _say_what_is_left_out(run: "EvaluationRun") -> None:
    for name, rows in run.left_out.groupby("questionnaire", sort=False):
        first = rows.iloc[0]
        click.echo(f"{name}: {len(rows):,} rows left out, the first: {first['where']}: {first['problem']}")


@click.command()
@click.argument("grid")
@options.option(
    "--output-dir", "Where `evaluate` put the answers; the report goes to its `reproduction`.", type=options.FOLDER
)
@options.option("--protocol", "Whose scoring is used: a file, or a name.", "paper")
@options.prompts
@options.option("--width", "Points of agreement.", 10.0, options.Finite(min=0, min_open=True))
@options.guard
def compare(grid: str, output_dir: Path | None, protocol: str, prompts: str | None, width: float, guard: Guard) -> None:
    """Compare a finished evaluation with the numbers that were published of its model, cell by cell.

    GRID is the plan that `evaluate` ran, or the folder of its answers. A cell agrees where the interval of its
    difference holds zero and reaches no further than --width points to either side.
    """
    from personalib.evaluation.runs import read_runs
    from personalib.features.published import bare_name
    from personalib.paper.cells import reference_models
    from personalib.paper.protocol import load_protocol
    from personalib.paper.report import reproduce, write_reproduction
    from personalib.paper.reproduction import VERDICTS

    folder = options.answers_folder(grid, output_dir)
    manner, runs = load_protocol(protocol, prompts), read_runs(folder)
    published = [run for run in runs if bare_name(run.model) in reference_models()]
    # Where nothing was published of any model, the first one's error says so.
    for run in published or runs:
        reproduction = reproduce(run, manner, width, guard)
        written = write_reproduction(reproduction, folder / "reproduction")
        counts = reproduction.cells["verdict"].value_counts()
        summary = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
        click.echo(f"{run.model}: {summary}; {len(written)} files in {written[0].parent}")
