"""The command ``python -m personalib sweep``. It imports what it needs itself, so that help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from personalib.cli.engine_options import engine_options, named_engine

if TYPE_CHECKING:
    from personalib.book.sweep_tables import Outcome
    from personalib.book.sweeps import Sweep

_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("source", metavar="SWEEP")
@click.option("--output-dir", type=_folder, help="Where everything goes.  [default: results/sweeps/NAME]")
@click.option("--plan", "only_plan", is_flag=True, help="List the points and what is done, and run nothing.")
@engine_options
def sweep(
    source: str, output_dir: Path | None, only_plan: bool, where: str, address: str | None, workers: int | None
) -> None:
    """Execute one chapter at every combination of parameters that SWEEP declares.

    SWEEP is a YAML file, or a name in data/sweeps. A run that was stopped goes on where it was when the command is
    given again, with whichever engine.
    """
    from personalib.book.sweep_runs import run_sweep
    from personalib.book.sweeps import load_sweep

    engine = named_engine(where, address, workers)
    declared = load_sweep(source)
    folder = output_dir or Path("results") / "sweeps" / declared.name
    if only_plan:
        click.echo(_shown(declared, folder))
        return
    outcomes = run_sweep(declared, folder, engine)
    done = sum(one.state == "done" for one in outcomes)
    click.echo(f"{declared.name}: {done} of {len(outcomes)} points done; tables and figure in {folder}")
    _tell_failures(outcomes)


def _shown(sweep: "Sweep", folder: Path) -> str:
    """The points with what is there of them."""
    from tabulate import tabulate

    from personalib.book.sweep_runs import point_states
    from personalib.book.sweeps import text_of

    states = point_states(sweep, folder)
    rows = [[*map(text_of, point.varied.values()), state] for point, state in states]
    table = tabulate(rows, [*sweep.plan.vary, "state"], disable_numparse=True)
    done = sum(state == "done" for _, state in states)
    return f"{sweep.chapter.name}, {len(states)} points, {done} done, in {folder}\n\n{table}"


def _tell_failures(outcomes: "tuple[Outcome, ...]") -> None:
    """Stop with one line for each point that failed.

    Raises:
        RunError: some did.
    """
    from personalib.book.chapters import RunError

    failed = [one for one in outcomes if one.failure is not None]
    if failed:
        lines = [f"{one.point.name}: {one.failure}" for one in failed]
        points = "1 point" if len(failed) == 1 else f"{len(failed)} points"
        raise RunError("\n".join([f"{points} failed; the tables hold the others", *lines]))
