"""The command line: ``python -m personalib``."""

import sys
import warnings

import click

from personalib.book.chapters import RunError
from personalib.cli.backgrounds import backgrounds
from personalib.cli.book import book, reproduce, run, sweep
from personalib.cli.contrast import contrast
from personalib.cli.directions import directions
from personalib.cli.evaluate import compare, evaluate, report
from personalib.cli.features import features, sae
from personalib.cli.models import models
from personalib.cli.organism import organism
from personalib.cli.steering import steering


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Where does a language model's personality come from? A research book that runs."""


for group in (organism, backgrounds, sae, features, contrast, directions, steering):
    cli.add_command(group)
for command in (run, book, models, reproduce, evaluate, report, compare, sweep):
    cli.add_command(command)


def _refusal(error: Exception) -> str:
    """What was refused; of the system in one line: errors of connections and of libraries have no more than a text."""
    if not isinstance(error, OSError):
        return str(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Run the command line; what the library or the system refuses is one message and exit code 2, no traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
            cli(prog_name="python -m personalib")
    except (ValueError, RunError, OSError) as error:
        click.echo(f"error: {_refusal(error)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
