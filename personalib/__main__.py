"""The command line: ``python -m personalib``.

Each command imports what it needs itself, so that help and error messages come at once.
"""

import sys
import warnings
from pathlib import Path

import click

from personalib.book.chapters import RunError
from personalib.cli import options
from personalib.cli.backgrounds import backgrounds
from personalib.cli.contrast import contrast
from personalib.cli.directions import directions
from personalib.cli.evaluate import compare, evaluate, report
from personalib.cli.features import features
from personalib.cli.models import models
from personalib.cli.organism import organism
from personalib.cli.reproduce import executed_and_unchanged, reproduce
from personalib.cli.sae import sae
from personalib.cli.steering import steering
from personalib.cli.sweep import sweep


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Where does a language model's personality come from? A research book that runs."""


@cli.command()
@click.argument("notebook")
@options.parameter
@options.folder("--output-dir", "Where the outputs go.  [default: results/runs]")
@options.flag("--force", "Execute even where nothing changed.")
def run(notebook: str, parameters: tuple[tuple[str, str], ...], output_dir: Path | None, force: bool) -> None:
    """Execute one notebook: a file, or the name of a chapter."""
    from personalib.base.provenance import repository_root
    from personalib.book.chapters import Chapter
    from personalib.book.runs import run_notebook

    path = Path(notebook)
    if not path.suffix:
        path = repository_root() / "notebooks" / f"{notebook}.ipynb"
    given = Chapter.read(path).parse(dict(parameters))
    done = run_notebook(path, given, output_dir or repository_root() / "results" / "runs", reuse=not force)
    verb = "unchanged since" if done.reused else "executed at"
    click.echo(f"{done.name}: {verb} {done.manifest['started']}, {done.manifest['seconds']:.1f} s")
    click.echo(_shown(done.notebook))


@cli.command()
@options.parameter
@click.option("--only", multiple=True, metavar="CHAPTER", help="Execute this chapter alone. May be repeated.")
@options.flag("--force", "Execute chapters even where nothing changed.")
@options.jobs
@options.folder("--root", "The folder with _config.yml.  [default: this repository]")
def book(
    parameters: tuple[tuple[str, str], ...], only: tuple[str, ...], force: bool, jobs: int, root: Path | None
) -> None:
    """Execute the chapters that changed and build the pages."""
    from personalib.base.provenance import repository_root
    from personalib.book.build import build_book
    from personalib.book.pages import Book

    built = build_book(Book(root or repository_root()), dict(parameters), only, force, jobs)
    click.echo(executed_and_unchanged(built.runs))
    if built.index is None:
        click.echo(f"no pages: {', '.join(built.outdated)} out of date; run without --only to build them")
        return
    click.echo("pages: unchanged" if built.pages_reused else "pages: built")
    click.echo(_shown(built.index))


for command in (
    organism,
    models,
    reproduce,
    backgrounds,
    sae,
    features,
    contrast,
    directions,
    steering,
    evaluate,
    report,
    compare,
    sweep,
):
    cli.add_command(command)


def _shown(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _refusal(error: OSError) -> str:
    """What the system refused, in one line; errors of connections and of libraries have no more than their text."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run the command line; what the library or the system refuses is one message and exit code 2, no traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
            cli(prog_name="python -m personalib")
    except (ValueError, RunError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"error: {_refusal(error)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
