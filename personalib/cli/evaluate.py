"""The commands ``evaluate`` and ``report``. Each imports what it needs itself, so that help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from personalib.cli.engine_options import engine_options, named_engine
from personalib.cli.model_options import Finite

if TYPE_CHECKING:
    from personalib.evaluation.engines import Engine
    from personalib.evaluation.plan import EvaluationPlan
    from personalib.evaluation.runs import EvaluationRun

_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("grids", metavar="GRID...", nargs=-1, required=True)
@click.option(
    "--output-dir", type=_folder, help="Where the answers go.  [default: results/evaluation/NAME OF THE PLAN]"
)
@click.option("--protocol", help="Ask and push as it says: paper, book, or a YAML file.  [default: as the plan says]")
@click.option("--prompts", help="A YAML file of templates and contrast prompts that the protocol has instead.")
@click.option("--plan", "show", is_flag=True, help="Show the plan with its defaults, and ask nothing.")
@engine_options
def evaluate(
    grids: tuple[str, ...],
    output_dir: Path | None,
    protocol: str | None,
    prompts: str | None,
    show: bool,
    where: str,
    address: str | None,
    workers: int | None,
) -> None:
    """Put questionnaires to models under many arms, as each GRID declares: a YAML file, or a name in data/grids.

    A run that was stopped goes on where it was when the command is given again, with whichever engine. With a protocol
    the answers have a folder of their own, results/evaluation/PLAN-PROTOCOL.
    """
    from personalib.evaluation.plan import dump_plan

    if output_dir and len(grids) > 1:
        raise click.UsageError("--output-dir is the place of one plan; leave it out for several")
    engine = named_engine(where, address, workers)
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
    from personalib.evaluation.runs import model_folder, run_plan
    from personalib.features.published import bare_name
    from personalib.paper.published_cells import reference_models

    folder = output_dir or _default(grid)
    for run, model in zip(run_plan(plan, folder, True, engine), plan.models, strict=True):
        count = len(run.answers)
        click.echo(f"{run.model}: {count:,} answers of {run.manifest['arms']} arms in {model_folder(folder, model)}")
        _say_what_is_left_out(run)
    where = f" --output-dir {output_dir}" if output_dir else ""
    click.echo(f"tables: python -m personalib report {grid}{where}")
    if any(bare_name(one.name) in reference_models() for one in plan.models):
        click.echo(f"beside the published numbers: python -m personalib compare {grid}{where}")


@click.command()
@click.argument("grid")
@click.option("--output-dir", type=_folder, help="Where `evaluate` put the answers; the tables go to its `report`.")
@click.option("--mass", default=0.9, show_default=True, type=Finite(0, 1), help="Least answer mass of an arm.")
@click.option("--perplexity", default=2.0, show_default=True, type=Finite(min=1), help="Largest perplexity of an arm.")
def report(grid: str, output_dir: Path | None, mass: float, perplexity: float) -> None:
    """Write the tables of an evaluation as CSV, Markdown and LaTeX: effects, intervals, corrected p-values, guards.

    Mass and perplexity, in units of the unsteered model's, say from where on an arm counts as collapsed.
    """
    from personalib.evaluation.report import write_report
    from personalib.evaluation.runs import read_runs
    from personalib.steering.guards import Guard

    folder = output_dir or _default(grid)
    runs = read_runs(folder)
    written = write_report(runs, folder / "report", Guard(mass, perplexity))
    for run in runs:
        _say_what_is_left_out(run)
    click.echo(f"{len(written)} files in {folder / 'report'}")


def _say_what_is_left_out(run: "EvaluationRun") -> None:
    for name, own in run.left_out.groupby("questionnaire", sort=False):
        first = own.iloc[0]
        click.echo(f"{name}: {len(own):,} rows left out, the first: {first['where']}: {first['problem']}")


def _default(grid: str) -> Path:
    from personalib.evaluation.plan import plan_name

    return Path("results") / "evaluation" / plan_name(grid)
