"""The options of commands that execute chapters."""

import click

parameter_option = click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a parameter; a list or a mapping is written as in YAML. May be repeated.",
)

jobs_option = click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Chapters at a time, which share the cores unless OMP_NUM_THREADS is set.",
)
