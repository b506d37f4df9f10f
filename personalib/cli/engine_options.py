"""The options by which commands name an engine, and the engine that they name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from personalib.evaluation.engines import Engine


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :func:`named_engine`."""
    options = [
        click.option(
            "--engine",
            "where",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Work in this process, or by the workers of a Ray cluster.",
        ),
        click.option("--address", help="HOST:PORT of the cluster's head, or auto.  [default: Ray on this machine]"),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Of the cluster.  [default: one a GPU, else one a machine]"
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def named_engine(where: str, address: str | None, workers: int | None) -> "Engine | None":
    """The engine that the options name; none for this process.

    Raises:
        DataError: see :func:`personalib.evaluation.engines.ray_engine`.
    """
    from personalib.evaluation.engines import ray_engine

    if where == "ray":
        return ray_engine(address, workers)
    if address or workers:
        raise click.UsageError("--address and --workers are of a cluster; add --engine ray")
    return None
