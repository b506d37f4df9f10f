"""The commands ``python -m personalib directions``. Each imports what it needs itself, so that help comes at once."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from personalib.direction_files_forms import Rows
    from personalib.models import LanguageModel
    from personalib.vectors import SteeringVector

_path = click.Path(path_type=Path, dir_okay=False)
_FORMS = ["personalib", "gguf", "persona-vectors", "steering-vectors", "axbench", "safetensors"]
# What can be written, with its suffix.
_SUFFIXES = {
    "personalib": ".safetensors",
    "gguf": ".gguf",
    "persona-vectors": ".pt",
    "steering-vectors": ".pt",
    "safetensors": ".safetensors",
}


def _source_options(command: Callable[..., None]) -> Callable[..., None]:
    """The file, and what it may not say itself."""
    options = [
        click.argument("file", type=_path),
        click.option(
            "--form", default="auto", show_default=True, type=click.Choice(["auto", *_FORMS]), help="Form of the file."
        ),
        click.option("--site", help="Site of the directions where the file names none, such as resid_post.3."),
        click.option("--concepts", type=_path, help="AxBench's metadata.jsonl.  [default: the one beside the weights]"),
        click.option(
            "--rows",
            default="blocks",
            show_default=True,
            type=click.Choice(["blocks", "hidden_states"]),
            help="What the rows of a named tensor are.",
        ),
        click.option("--model", help="Check against this model: the organism, a folder, or a hub's name."),
        click.option("--revision", help="Branch, tag or commit of a hub's model."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def directions() -> None:
    """Read directions of other tools, and write ours in their forms."""


@directions.command()
@_source_options
def show(
    file: Path,
    form: str,
    site: str | None,
    concepts: Path | None,
    rows: "Rows",
    model: str | None,
    revision: str | None,
) -> None:
    """Show a file's form and where it comes from, and name, site and norm of each direction."""
    from personalib.direction_files import form_of

    vectors = _read(file, form, site, concepts, rows, _loaded(model, revision))
    click.echo(f"{file}: {len(vectors)} x {len(vectors[0].direction)}, {vectors[0].model}")
    for method in sorted({one.method for one in vectors}):
        click.echo(method)
    found = form_of(file, concepts) if form == "auto" else form
    width = max(len(one.name) for one in vectors)
    click.echo(f"{'name':{width}}  {'site':14}  {'norm':>10}  form")
    for one in vectors:
        click.echo(f"{one.name:{width}}  {one.site!s:14}  {one.norm:10.4g}  {found}")


@directions.command()
@_source_options
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A file; or a folder, of one file a name: what exists as one, or has no suffix.",
)
@click.option("--to", "target", required=True, type=click.Choice(list(_SUFFIXES)), help="Form to write.")
def convert(  # noqa: PLR0913 - one argument an option
    file: Path,
    form: str,
    site: str | None,
    concepts: Path | None,
    rows: "Rows",
    model: str | None,
    revision: str | None,
    out: Path,
    target: str,
) -> None:
    """Write a file's directions in another form, and tell of those that it has no place for."""
    from personalib.direction_files import write_directions
    from personalib.direction_files_writers import placed

    loaded = _loaded(model, revision)
    found = _read(file, form, site, concepts, rows, loaded)
    vectors = placed(found, target)
    files = {out: vectors}
    if out.is_dir() or not out.suffix:
        files = _one_a_name(vectors, out, _SUFFIXES[target])
        out.mkdir(parents=True, exist_ok=True)
    for path, own in files.items():
        write_directions(own, path, target, loaded)
    click.echo(f"{out}: {len(vectors)} directions as {target}, files: {len(files)}")
    if left_out := sorted({str(one.site) for one in found} - {str(one.site) for one in vectors}):
        click.echo(f"left out: {', '.join(left_out)}, where {target} has no place")


def _loaded(model: str | None, revision: str | None) -> "LanguageModel | None":
    from personalib.models import load_model

    return load_model(model, revision) if model else None


def _read(
    file: Path,
    form: str,
    site: str | None,
    concepts: Path | None,
    rows: "Rows",
    language_model: "LanguageModel | None",
) -> "list[SteeringVector]":
    from personalib.activations import Site
    from personalib.direction_files import read_directions

    place = Site.parse(site) if site else None
    return read_directions(file, form, language_model=language_model, site=place, concepts=concepts, rows=rows)


def _one_a_name(vectors: "list[SteeringVector]", folder: Path, suffix: str) -> "dict[Path, list[SteeringVector]]":
    """The vectors of each name with a file named after it.

    Raises:
        ValueError: two names give one file.
    """
    named: dict[str, list[SteeringVector]] = {}
    for one in vectors:
        named.setdefault(one.name, []).append(one)
    # Names are a concept's description in some forms, with characters that a file's name cannot have.
    stems = {name: re.sub(r"[^\w.-]+", "_", name)[:100].strip("._") or "direction" for name in named}
    files = {folder / (stems[name] + suffix): own for name, own in named.items()}
    if len(files) < len(named):
        raise ValueError(f"{folder}: two of the names give one file; write one file as personalib or safetensors")
    return files
