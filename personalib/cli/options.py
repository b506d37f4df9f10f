"""Options that several commands have, each declared once, and what they name. Importing this loads no torch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from inspect import signature
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
        for decorator in reversed(each):
            command = decorator(command)
        return command

    return decorate


def together(name: str, make: Callable[..., Any], *each: Option) -> Option:
    """Options that come to the command as one argument: what ``make`` makes of those that it has the names of."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def collect(**given: Any) -> None:
            values = {parameter: given.pop(parameter) for parameter in signature(make).parameters if parameter in given}
            command(**given, **{name: make(**values)})

        return group(*each)(collect)

    return decorate


def option(names: str, help: str, default: Any = None, type: Any = None, **settings: Any) -> Option:
    """An option; the names are those of click, the option's and, where it differs, the argument's.

    Without a type it is of the default's, and a number with a fraction is finite.
    """
    if isinstance(default, float) and type is None:
        type = Finite()
    # A default of None is a value to click, and a required option would never be missed.
    if default is not None:
        settings |= {"default": default, "show_default": default != ""}
    return click.option(*names.split(), type=type, help=help, **settings)


def choice(names: str, choices: Iterable[str], default: str | None, help: str) -> Option:
    """One of several words."""
    return option(names, help, default, click.Choice([*choices]))


def repeated(names: str, default: Iterable[Any], type: Any, help: str) -> Option:
    """An option that may be repeated."""
    return option(names, f"{help} May be repeated.", [*default], type, multiple=True)


def flag(names: str, help: str) -> Option:
    """A switch, off by default."""
    return click.option(*names.split(), is_flag=True, help=help)


def result(names: str, help: str, required: bool = False) -> Option:
    """A file to write, in a folder that has to be there before a long search begins."""

    def check(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value and not value.parent.is_dir():
            raise click.BadParameter(f"there is no folder {value.parent}; make it first")
        return value

    return option(names, help, None, FILE, required=required, callback=check)


def training(recipe: str, work: str, out: str) -> Option:
    """What is trained, and where; the defaults of recipe and result are only told."""
    return group(
        option("--recipe", f"What is trained, and how.  [default: {recipe}]", type=FILE),
        option("--work", "Checkpoints, and what is made once.", work, FOLDER),
        option("--out", f"Where the result goes.  [default: {out}]", type=FOLDER),
        option("--device", "cpu, cuda, cuda:1, mps …", "cpu"),
    )


@dataclass(frozen=True)
class Source:
    """Which model is meant, and how it is loaded."""

    model: str
    revision: str | None
    device: str
    dtype: str | None

    def load(self) -> "LanguageModel":
        """The model, in its usual number format where none is named."""
        import torch

        from personalib.models.load import load_model

        return load_model(self.model, self.revision, self.device, getattr(torch, self.dtype) if self.dtype else None)


@dataclass(frozen=True)
class Saes:
    """Which SAEs are meant: those of a release that are named, or else all that are known for a model."""

    release: str
    sae_ids: tuple[str, ...]

    def load(self, model: "LanguageModel", dtype: str | None = None) -> "Iterator[tuple[str, SparseAutoencoder]]":
        """The SAEs with their names, each loaded when it is asked for."""
        from personalib.features.saes import load_sae, usual_saes

        device = str(model.model.device)
        usual = usual_saes(model, self.release, self.sae_ids, device)
        for name in usual.ids:
            yield name or usual.release, load_sae(usual.release, name, device, dtype or "float32")


def named_engine(where: str, address: str | None, workers: int | None) -> "Engine | None":
    """The engine that is meant; none for this process."""
    from personalib.evaluation.engines import ray_engine

    if where == "ray":
        return ray_engine(address, workers)
    if address or workers:
        raise click.UsageError("--address and --workers are of a cluster; add --engine ray")
    return None


def work(default: str) -> Option:
    """The folder of activations."""
    return option("--work", "Where activations go.", default, FOLDER)


json = result("--json target", "Write the numbers to this file.")
out = result("--out", "The JSON file to write.", required=True)
seed = option("--seed", "The same seed gives the same result.", 0)
jobs = option(
    "--jobs", "Chapters at a time, which share the cores unless OMP_NUM_THREADS is set.", 1, click.IntRange(1)
)
parameter = click.option(
    *("-p", "--parameter", "parameters"),
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    callback=lambda _context, _parameter, pairs: dict(pairs),
    help="Set a parameter; a list or a mapping is written as in YAML. May be repeated.",
)
prompts = option("--prompts", "A YAML file of templates and contrast prompts that the protocol has instead.")
source = together(
    "source",
    Source,
    option("--model", MODEL_HELP, "organism"),
    option("--revision", "Branch, tag or commit of a hub's model."),
    option(
        "--device", "cpu, cuda, cuda:1, balanced, mps …; auto: the CPU for the organism, else a GPU if any.", "auto"
    ),
    choice(
        "--dtype",
        ["float32", "bfloat16", "float16"],
        None,
        "Number format.  [default: that of the table of models, or of the weights]",
    ),
)
model = group(
    source, choice("--form", ["chat", "base"], None, "Chat or plain text.  [default: what the model is made for]")
)
saes = together(
    "saes",
    Saes,
    option("--sae release", "A release of SAEs, or a folder.  [default: the model's]", ""),
    repeated("--sae-id sae_ids", (), click.STRING, "An SAE of the release."),
)
items = group(
    option("--items", "Trait items: a file, or a hub's name.", "bundled"),
    option("--template", "Template of the items.", "letters"),
)
guard = together(
    "guard",
    Guard,
    option("--mass", "Least answer mass of an arm.", Guard.mass, Finite(min=0, max=1)),
    option("--perplexity", "Largest perplexity of an arm.", Guard.perplexity, Finite(min=1)),
)
engine = together(
    "engine",
    named_engine,
    choice("--engine where", ["local", "ray"], "local", "Work in this process, or by the workers of a Ray cluster."),
    option("--address", "HOST:PORT of the cluster's head, or auto.  [default: Ray on this machine]"),
    option("--workers", "Of the cluster.  [default: one a GPU, else one a machine]", None, click.IntRange(1)),
)


def write_json(target: Path | None, numbers: Any, indent: int = 2) -> None:
    """Write numbers to the file of :data:`json`, if there is to be one."""
    from personalib.base import storage

    if target:
        storage.write_json(target, numbers, indent)


def answers_folder(grid: str, output_dir: Path | None) -> Path:
    """Where `evaluate` has put a plan's answers; ``grid`` may be that folder itself."""
    from personalib.evaluation.plan import plan_name

    if output_dir or Path(grid).is_dir():
        return output_dir or Path(grid)
    return Path("results") / "evaluation" / plan_name(grid)
