"""Options that several commands have, each declared once, and what they name. Importing this loads no torch."""

from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.steering.settings import Guard

if TYPE_CHECKING:
    from personalib.evaluation.engines import Engine
    from personalib.features.saes import SparseAutoencoder
    from personalib.models.load import LanguageModel

Option = Callable[[Callable[..., None]], Callable[..., None]]
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
MODEL_HELP = "A name of the table of models or of the hub, a folder, or a YAML file."


class Finite(click.FloatRange):
    """A finite number in a range; NaN lies in every range of click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number of a text."""
        if not isfinite(number := super().convert(value, param, ctx)):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def group(*each: Option) -> Option:
    """Several options as one decorator; help lists them in this order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(each):
            command = option(command)
        return command

    return decorate


def text(names: str, help: str, default: str | None = None) -> Option:
    """A text; the names are those of click, the option's and, where it differs, the argument's."""
    return click.option(*names.split(), default=default, show_default=bool(default), help=help)


def choice(names: str, choices: Iterable[str], default: str | None, help: str) -> Option:
    """One of several words."""
    return click.option(*names.split(), default=default, show_default=True, type=click.Choice([*choices]), help=help)


def count(names: str, default: int | None, help: str, least: int | None = None) -> Option:
    """A whole number."""
    return click.option(
        *names.split(), default=default, show_default=True, type=click.IntRange(least) if least else int, help=help
    )


def number(names: str, default: float, help: str, **limits: Any) -> Option:
    """A finite number; for the limits see :class:`click.FloatRange`."""
    return click.option(*names.split(), default=default, show_default=True, type=Finite(**limits), help=help)


def repeated(names: str, default: Iterable[Any], type: Any, help: str) -> Option:
    """An option that may be repeated."""
    help = f"{help} May be repeated."
    return click.option(*names.split(), default=[*default], show_default=True, multiple=True, type=type, help=help)


def flag(names: str, help: str) -> Option:
    """A switch, off by default."""
    return click.option(*names.split(), is_flag=True, help=help)


def file(names: str, help: str, required: bool = False) -> Option:
    """A file to read."""
    return click.option(*names.split(), required=required, type=FILE, help=help)


def folder(names: str, help: str, default: str | None = None) -> Option:
    """A folder."""
    return click.option(*names.split(), default=default, show_default=True, type=FOLDER, help=help)


def result(names: str, help: str, required: bool = False) -> Option:
    """A file to write, in a folder that has to be there before a long search begins."""

    def check(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value and not value.parent.is_dir():
            raise click.BadParameter(f"there is no folder {value.parent}; make it first")
        return value

    return click.option(*names.split(), required=required, type=FILE, callback=check, help=help)


def training(recipe: str, work: str, out: str) -> Option:
    """What is trained, and where; the defaults of recipe and result are only told."""
    return group(
        file("--recipe", f"What is trained, and how.  [default: {recipe}]"),
        folder("--work", "Checkpoints, and what is made once.", work),
        folder("--out", f"Where the result goes.  [default: {out}]"),
        text("--device", "cpu, cuda, cuda:1, mps …", "cpu"),
    )


def work(default: str) -> Option:
    """The folder of activations."""
    return folder("--work", "Where activations go.", default)


json = result("--json target", "Write the numbers to this file.")
out = result("--out", "The JSON file to write.", required=True)
seed = count("--seed", 0, "The same seed gives the same result.")
jobs = count("--jobs", 1, "Chapters at a time, which share the cores unless OMP_NUM_THREADS is set.", 1)
parameter = click.option(
    *("-p", "--parameter", "parameters"),
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a parameter; a list or a mapping is written as in YAML. May be repeated.",
)
prompts = text("--prompts", "A YAML file of templates and contrast prompts that the protocol has instead.")
loading = group(
    text("--model", MODEL_HELP, "organism"),
    text("--revision", "Branch, tag or commit of a hub's model."),
    text("--device", "cpu, cuda, cuda:1, balanced, mps …; auto: the CPU for the organism, else a GPU if any.", "auto"),
    choice(
        "--dtype",
        ["float32", "bfloat16", "float16"],
        None,
        "Number format.  [default: that of the table of models, or of the weights]",
    ),
)
model = group(
    loading,
    choice("--form", ["chat", "base"], None, "Chat or plain text.  [default: what the model is made for]"),
)
saes = group(
    text("--sae release", "A release of SAEs, or a folder.  [default: the model's]", ""),
    repeated("--sae-id sae_ids", (), click.STRING, "An SAE of the release."),
)
items = group(
    text("--items", "Trait items: a file, or a hub's name.", "bundled"),
    text("--template", "Template of the items.", "letters"),
)
guard = group(
    number("--mass", Guard.mass, "Least answer mass of an arm.", min=0, max=1),
    number("--perplexity", Guard.perplexity, "Largest perplexity of an arm.", min=1),
)
engine = group(
    choice("--engine where", ["local", "ray"], "local", "Work in this process, or by the workers of a Ray cluster."),
    text("--address", "HOST:PORT of the cluster's head, or auto.  [default: Ray on this machine]"),
    count("--workers", None, "Of the cluster.  [default: one a GPU, else one a machine]", 1),
)


def named_engine(where: str, address: str | None, workers: int | None) -> "Engine | None":
    """The engine of :data:`engine`; none for this process."""
    from personalib.evaluation.engines import ray_engine

    if where == "ray":
        return ray_engine(address, workers)
    if address or workers:
        raise click.UsageError("--address and --workers are of a cluster; add --engine ray")
    return None


def named_model(model: str, revision: str | None, device: str, dtype: str | None) -> "LanguageModel":
    """The model of :data:`loading`."""
    import torch

    from personalib.models.load import load_model

    return load_model(model, revision, device, getattr(torch, dtype) if dtype else None)


def named_saes(
    model: "LanguageModel", release: str, sae_ids: tuple[str, ...], dtype: str | None = None, only_first: bool = False
) -> "dict[str, SparseAutoencoder]":
    """The SAEs of :data:`saes` by their names; where none is named, all that are known, or the first of them."""
    from personalib.features.own_saes import usual_saes
    from personalib.features.saes import load_sae

    device = str(model.model.device)
    found = usual_saes(model, release, sae_ids, device)
    chosen = found.ids[:1] if only_first and not sae_ids else found.ids
    return {name or found.release: load_sae(found.release, name, device, dtype or "float32") for name in chosen}


def answers_folder(grid: str, output_dir: Path | None) -> Path:
    """Where `evaluate` has put a plan's answers; ``grid`` may be that folder itself."""
    from personalib.evaluation.plan import plan_name

    if output_dir or Path(grid).is_dir():
        return output_dir or Path(grid)
    return Path("results") / "evaluation" / plan_name(grid)
