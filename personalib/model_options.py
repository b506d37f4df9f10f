"""The options by which commands name a model, and the model that they name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from personalib.models import LanguageModel


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :func:`named_model`, and the form in which the model is asked."""
    options = [
        click.option("--model", default="organism", show_default=True, help="The organism, a folder, or a hub's name."),
        click.option("--revision", help="Branch, tag or commit of a hub's model."),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, balanced, mps …"),
        click.option(
            "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"])
        ),
        click.option(
            "--form", default="chat", show_default=True, type=click.Choice(["chat", "base"]), help="Chat or plain text."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def named_model(model: str, revision: str | None, device: str, dtype: str) -> "LanguageModel":
    """The model that the options name.

    Raises:
        DataError: see :func:`personalib.models.load_model`.
    """
    import torch

    from personalib.models import load_model

    return load_model(model, revision, device, getattr(torch, dtype))
