"""The options by which commands name a model, and the model that they name."""

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from personalib.models.load import LanguageModel

Option = Callable[[Callable[..., None]], Callable[..., None]]


class Finite(click.FloatRange):
    """A finite number in a range; NaN lies in every range of click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number of a text."""
        if not isfinite(number := super().convert(value, param, ctx)):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :func:`named_model`, and the form in which the model is asked."""
    options: list[Option] = [
        *loading_options(),
        click.option(
            "--form",
            type=click.Choice(["chat", "base"]),
            help="Chat or plain text.  [default: what the model is made for]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def loading_options() -> list[Option]:
    """The options of :func:`named_model`."""
    return [
        click.option(
            "--model",
            default="organism",
            show_default=True,
            help="A name of the table of models or of the hub, a folder, or a YAML file.",
        ),
        click.option("--revision", help="Branch, tag or commit of a hub's model."),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1, balanced, mps …; auto: the organism on the CPU, others on a GPU if there is one.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Number format.  [default: that of the table of models, or of the weights]",
        ),
    ]


def named_model(model: str, revision: str | None, device: str, dtype: str | None) -> "LanguageModel":
    """The model that the options name.

    Raises:
        DataError: see :func:`personalib.models.load.load_model`.
    """
    import torch

    from personalib.models.load import load_model

    return load_model(model, revision, device, getattr(torch, dtype) if dtype else None)
