"""The command ``compare``. It imports what it needs itself, so that help comes at once."""

from pathlib import Path

import click

from personalib.cli.model_options import Finite


@click.command()
@click.argument("grid")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where `evaluate` put the answers; the report goes to its `reproduction`.",
)
@click.option("--protocol", default="paper", show_default=True, help="Whose scoring is used: a file, or a name.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of templates and contrast prompts that the protocol has instead of the book's.",
)
@click.option(
    "--width",
    default=10.0,
    show_default=True,
    type=Finite(0, min_open=True),
    help="Points of agreement.",
)
@click.option("--mass", default=0.9, show_default=True, type=Finite(0, 1), help="Least answer mass of an arm.")
@click.option("--perplexity", default=2.0, show_default=True, type=Finite(min=1), help="Largest perplexity of an arm.")
def compare(
    grid: str,
    output_dir: Path | None,
    protocol: str,
    prompts: Path | None,
    width: float,
    mass: float,
    perplexity: float,
) -> None:
    """Compare a finished evaluation with the numbers that were published of its model, cell by cell.

    GRID is the plan that `evaluate` ran, or the folder of its answers. A cell agrees where the interval of its
    difference holds zero and reaches no further than --width points to either side.
    """
    from personalib.evaluation.runs import read_runs
    from personalib.features.published import bare_name
    from personalib.paper.protocol import load_protocol
    from personalib.paper.published_cells import reference_models
    from personalib.paper.report import reproduce, write_reproduction
    from personalib.paper.reproduction import VERDICTS, Rule
    from personalib.steering.guards import Guard

    folder = output_dir or _folder(grid)
    manner, rule = load_protocol(protocol, prompts), Rule(width=width)
    runs = read_runs(folder)
    published = [run for run in runs if bare_name(run.model) in reference_models()]
    # Where nothing was published of any model, the first one's error says so.
    for run in published or runs:
        found = reproduce(run, manner, rule, Guard(mass, perplexity))
        written = write_reproduction(found, folder / "reproduction")
        counts = found.cells["verdict"].value_counts()
        told = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
        click.echo(f"{run.model}: {told}; {len(written)} files in {written[0].parent}")


def _folder(grid: str) -> Path:
    from personalib.evaluation.plan import plan_name

    return Path(grid) if Path(grid).is_dir() else Path("results") / "evaluation" / plan_name(grid)
