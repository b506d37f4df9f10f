"""The commands ``python -m personalib contrast``. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from personalib.cli import options
from personalib.stimuli.contrast_pairs import FAMILIES
from personalib.vectors.methods import DEFAULT_METHOD, METHODS, Position

if TYPE_CHECKING:
    from personalib.evaluation.choice import PushChoice
    from personalib.vectors.contrast import Halves

# Which model reads which pairs.
_reading_options = options.group(
    options.model,
    options.choice("--family", FAMILIES, "pressures", "What is contrasted."),
    options.option("--pairs count", "Pairs of each contrast and split.", 128),
    options.choice("--position", get_args(Position), "last", "Token that is read."),
    options.choice("--method", METHODS, DEFAULT_METHOD, "How a direction is fitted."),
    options.seed,
    options.work("results/contrast"),
)
# Among which pushes one is chosen, and by what.
_choice_options = options.group(
    options.items,
    options.option("--per-trait", "Items of each trait to choose by.", 4),
    options.repeated(
        "--dose doses",
        (0.2, 0.4, 0.6, 0.8),
        options.Finite(min=0, min_open=True),
        "Length of a push as a share of the residual stream's.",
    ),
)


@click.group()
def contrast() -> None:
    """Fit directions to contrast pairs, read with them, and choose where to steer."""


@contrast.command()
@_reading_options
@options.option("--site", "Site of the vectors, such as resid_post.3.  [default: every block's output]")
@click.option("--out", required=True, type=options.FOLDER, help="Folder of the files, one a contrast.")
@options.flag("--gguf", "Write control vectors of llama.cpp beside them.")
def fit(
    source: options.Source,
    site: str | None,
    out: Path,
    gguf: bool,
    family: str,
    method: str,
    form: str | None,
    work: Path,
    **how: Any,
) -> None:
    """Write the vectors of a family, one safetensors file a contrast with a vector a site."""
    from personalib.models.parts import Site
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites, fit_vector, read_contrasts
    from personalib.vectors.files import write_directions
    from personalib.vectors.forms import placed
    from personalib.vectors.vector import save_vectors

    model = source.load()
    sites = [Site.parse(site)] if site else all_sites(model)
    readings = read_contrasts(model, contrasts(family), sites, work, form=form or model.form, progress=family, **how)
    out.mkdir(parents=True, exist_ok=True)
    for key, halves in readings.items():
        vectors = [fit_vector(halves["train"], each, method) for each in halves["train"].sites]
        save_vectors(vectors, out / f"{key}.safetensors")
        # llama.cpp leaves block 0 out, and so what block 1 reads.
        if gguf and (later := placed(vectors, "gguf")):
            write_directions(later, out / f"{key}.gguf", "gguf", model)
    click.echo(f"{out}: vectors of {len(readings)} {family}")


@contrast.command()
@_reading_options
@_choice_options
@options.out
def choose(out: Path, **chosen: Any) -> None:
    """Choose positions, site and dose from data, and write them with the table they were chosen from.

    A killed choice goes on where it was, if it is started again with the same --work.
    """
    _, choice = _choose(**chosen)
    choice.save(out)
    click.echo(_shown(choice))


@contrast.command()
@_reading_options
@_choice_options
@options.option("--shuffles", "Shuffles of each null.", 200, click.IntRange(1))
@options.json
def report(shuffles: int, target: Path | None, **chosen: Any) -> None:
    """Choose where to steer, read held-out texts there, and compare that with shuffled labels and other methods."""
    from personalib.evaluation.contrast_report import report as write

    readings, choice = _choose(**chosen)
    numbers = write(readings, choice, chosen["method"], shuffles, chosen["seed"])
    options.write_json(target, numbers, 1)
    click.echo(_shown(choice))
    for key, value in numbers["reading_accuracy"].items():
        low, high = numbers["reading_interval"][key]
        null = numbers["null_accuracy"][key]
        click.echo(f"{key:24} read {value:.3f} [{low:.3f}, {high:.3f}]  shuffled {null:.3f}")


def _choose(  # noqa: PLR0913 - each argument is an option
    source: options.Source,
    family: str,
    count: int,
    items: str,
    per_trait: int,
    template: str,
    doses: tuple[float, ...],
    method: str,
    work: Path,
    **how: Any,
) -> "tuple[Mapping[str, Halves], PushChoice]":
    from personalib.evaluation.choice import choose_push
    from personalib.evaluation.study import Study
    from personalib.questionnaires.items import load_trait, some_of_each, validation_split
    from personalib.questionnaires.questions import trait_questionnaire
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites

    if family == "traits":
        raise click.UsageError("the traits' contrasts are made of the items' own acts, so no item can judge them")
    questionnaire = trait_questionnaire(some_of_each(validation_split(load_trait(items))[0], per_trait), [template])
    model = source.load()
    sites = all_sites(model)
    how |= {"sites": sites, "pairs": count, "progress": family}
    study = Study.read(model, contrasts(family), questionnaire, work, **how)
    candidates = {str(site): study.contrast_vectors(site, method) for site in sites}
    how = {"positions": ("last", "prompt", "before_options"), "store": work / "answers", "progress": "answers"}
    return study.readings, choose_push(study, candidates, doses=doses, **how)


def _shown(choice: "PushChoice") -> str:
    """What was tried, and what was chosen."""
    push = choice.push
    return (
        f"{choice.table.drop(columns=['source', 'layer']).round(3).to_string(index=False)}\n"
        f"chosen: a dose of {push.dose:g} at {push.site}, positions {push.positions}"
    )
