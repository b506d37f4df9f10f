"""The command ``python -m personalib sweep``. It imports what it needs itself, so that help comes at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli import options

if TYPE_CHECKING:
    from personalib.book.sweeps import Outcome


@click.command()
@click.argument("source", metavar="SWEEP")
@options.folder("--output-dir", "Where everything goes.  [default: results/sweeps/NAME]")
@options.flag("--plan only_plan", "List the points and what is done, and run nothing.")
@options.engine
def sweep(source: str, output_dir: Path | None, only_plan: bool, **engine: Any) -> None:
    """Execute one chapter at every combination of parameters that SWEEP declares.

    SWEEP is a YAML file, or a name in data/sweeps. A run that was stopped goes on where it was when the command is
    given again, with whichever engine.
    """
    from personalib.book.sweeps import load_sweep, outcomes, run_sweep

    backend = options.named_engine(**engine)
    declared = load_sweep(source)
    folder = output_dir or Path("results") / "sweeps" / declared.name
    found = outcomes(declared, folder) if only_plan else run_sweep(declared, folder, backend)
    done = sum(outcome.state == "done" for outcome in found)
    if only_plan:
        click.echo(f"{declared.chapter.name}, {len(found)} points, {done} done, in {folder}\n\n{_shown(found)}")
        return
    click.echo(f"{declared.name}: {done} of {len(found)} points done; tables and figure in {folder}")
    _tell_failures(declared.chapter.name, found)


def _shown(found: "Sequence[Outcome]") -> str:
    """The points with what is there of them."""
    from tabulate import tabulate

    from personalib.book.sweeps import text_of

    rows = [[*map(text_of, outcome.point.varied.values()), outcome.state] for outcome in found]
    return tabulate(rows, [*found[0].point.varied, "state"], disable_numparse=True)


def _tell_failures(chapter: str, found: "Sequence[Outcome]") -> None:
    """Stop with one line for each point that failed."""
    from personalib.book.chapters import RunError

    lines = []
    for outcome in found:
        if outcome.failure:
            notebook = outcome.folder / f"{chapter}.failed.ipynb"
            place = f"; the notebook up to there is {notebook}" if notebook.is_file() else ""
            lines.append(f"{outcome.point.name}: {outcome.failure}{place}")
    if lines:
        points = "1 point" if len(lines) == 1 else f"{len(lines)} points"
        raise RunError("\n".join([f"{points} failed; the tables hold the others", *lines]))
