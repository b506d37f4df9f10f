"""The commands ``python -m personalib directions``. Each imports what it needs itself, so that help comes at once."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from personalib.base.data import DataError
from personalib.cli import options

if TYPE_CHECKING:
    from personalib.models.load import LanguageModel
    from personalib.vectors.forms import Rows
    from personalib.vectors.vector import SteeringVector

_FORMS = ["personalib", "gguf", "persona-vectors", "steering-vectors", "axbench", "safetensors"]
# What can be written, with its suffix.
_SUFFIXES = {
    "personalib": ".safetensors",
    "gguf": ".gguf",
    "persona-vectors": ".pt",
    "steering-vectors": ".pt",
    "safetensors": ".safetensors",
}
# Of the 255 that a file's name may have, less those of the suffixes, here and while it is written.
_NAME_BYTES = 200


class _Source(NamedTuple):
    """A file that was read: its form, what it holds, and the model that it was checked against."""

    file: Path
    form: str
    vectors: "list[SteeringVector]"
    language_model: "LanguageModel | None"


def _read(
    file: Path,
    form: str,
    site: str | None,
    concepts: Path | None,
    rows: "Rows",
    model: str | None,
    revision: str | None,
) -> _Source:
    from personalib.models.load import load_model
    from personalib.models.parts import Site
    from personalib.vectors.files import form_of, read_directions

    loaded, place = load_model(model, revision) if model else None, Site.parse(site) if site else None
    form = form_of(file, concepts) if form == "auto" else form
    vectors = read_directions(file, form, language_model=loaded, site=place, concepts=concepts, rows=rows)
    return _Source(file, form, vectors, loaded)


# The file, and what it may not say itself.
_source = options.together(
    "source",
    _read,
    click.argument("file", type=options.FILE),
    options.choice("--form", ["auto", *_FORMS], "auto", "Form of the file."),
    options.option("--site", "Site of the directions where the file names none, such as resid_post.3."),
    options.option("--concepts", "AxBench's metadata.jsonl.  [default: the one beside the weights]", type=options.FILE),
    options.choice("--rows", ["blocks", "hidden_states"], "blocks", "What the rows of a named tensor are."),
    options.option("--model", "Check against this model: the organism, a folder, or a hub's name."),
    options.option("--revision", "Branch, tag or commit of a hub's model."),
)


@click.group()
def directions() -> None:
    """Read directions of other tools, and write ours in their forms."""


@directions.command()
@_source
def show(source: _Source) -> None:
    """Show a file's form and where it comes from, and name, site and norm of each direction."""
    vectors = source.vectors
    click.echo(f"{source.file}: {len(vectors)} x {len(vectors[0].direction)}, {vectors[0].model}")
    for method in sorted({vector.method for vector in vectors}):
        click.echo(method)
    width = max(len(vector.name) for vector in vectors)
    click.echo(f"{'name':{width}}  {'site':14}  {'norm':>10}  form")
    for vector in vectors:
        click.echo(f"{vector.name:{width}}  {vector.site!s:14}  {vector.norm:10.4g}  {source.form}")


@directions.command()
@_source
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A file; or a folder, of one file a name: what exists as one, or has no suffix.",
)
@click.option("--to", "target", required=True, type=click.Choice(list(_SUFFIXES)), help="Form to write.")
def convert(source: _Source, out: Path, target: str) -> None:
    """Write a file's directions in another form, and tell of those that it has no place for."""
    from personalib.vectors.files import write_directions
    from personalib.vectors.forms import placed

    vectors = placed(source.vectors, target)
    sites, kept = ({str(vector.site) for vector in each} for each in (source.vectors, vectors))
    left_out = ", ".join(sorted(sites - kept))
    if not vectors:
        raise DataError(
            f"{source.file}: holds nothing but {left_out}, where {target} has no place: llama.cpp leaves block 0 out, "
            "and steering-vectors what comes before it; fit other sites, or write another form"
        )
    files = _files(vectors, out, _SUFFIXES[target])
    for path, held in files.items():
        write_directions(held, path, target, source.language_model)
    click.echo(f"{out}: {len(vectors)} directions as {target}, files: {len(files)}")
    if left_out:
        click.echo(f"left out: {left_out}, where {target} has no place")


def _files(vectors: "list[SteeringVector]", out: Path, suffix: str) -> "dict[Path, list[SteeringVector]]":
    """What goes into which file: all into one, or a name into each of a folder's, which is made."""
    try:
        if out.suffix and not out.is_dir():
            return {out: vectors}
        files: dict[Path, list[SteeringVector]] = {}
        for name in dict.fromkeys(vector.name for vector in vectors):
            # Names are a concept's description in some forms, with characters that a file's name cannot have.
            stem = re.sub(r"[^\w.-]+", "_", name).encode()[:_NAME_BYTES].decode(errors="ignore").strip("._")
            path = out / f"{stem or 'direction'}{suffix}"
            if path in files:
                raise ValueError(f"{out}: two of the names give one file; write one file as personalib or safetensors")
            files[path] = [vector for vector in vectors if vector.name == name]
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{out}: no folder can be made there ({error.strerror}); name another, or a file with a suffix"
        ) from None
    return files
