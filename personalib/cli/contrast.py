"""The commands ``python -m personalib contrast``. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli.features import in_a_folder
from personalib.cli.model_options import Finite, model_options, named_model

if TYPE_CHECKING:
    from personalib.evaluation.choice import PushChoice
    from personalib.models.load import LanguageModel
    from personalib.vectors.contrast import Halves

_path = click.Path(path_type=Path, dir_okay=False)
_folder = click.Path(path_type=Path, file_okay=False)
_METHODS = ["difference_of_means", "pca", "pca_centred", "cluster_means", "logistic_probe", "lda"]


def _reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which model reads which pairs."""
    options = [
        click.option(
            "--family",
            default="pressures",
            show_default=True,
            type=click.Choice(["pressures", "facets", "elements", "traits"]),
            help="What is contrasted.",
        ),
        click.option("--pairs", "count", default=128, show_default=True, help="Pairs of each contrast and split."),
        click.option(
            "--position",
            default="last",
            show_default=True,
            type=click.Choice(["last", "sentence_last", "sentence_mean"]),
            help="Token that is read.",
        ),
        click.option("--method", default=_METHODS[0], show_default=True, type=click.Choice(_METHODS)),
        click.option("--seed", default=0, show_default=True),
        click.option(
            "--work", type=_folder, default=Path("results/contrast"), show_default=True, help="Where activations go."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return model_options(command)


def _choice_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the choice of a push."""
    options = [
        click.option("--items", default="bundled", show_default=True, help="Trait items: a file, or a hub's name."),
        click.option("--per-trait", default=4, show_default=True, help="Items of each trait to choose by."),
        click.option("--template", default="letters", show_default=True, help="Template of the items."),
        click.option(
            "--dose",
            "doses",
            multiple=True,
            type=Finite(min=0, min_open=True),
            default=(0.2, 0.4, 0.6, 0.8),
            show_default=True,
            help="Length of a push as a share of the residual stream's. May be repeated.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def contrast() -> None:
    """Fit directions to contrast pairs, read with them, and choose where to steer."""


@contrast.command()
@_reading_options
@click.option("--site", help="Site of the vectors, such as resid_post.3.  [default: every block's output]")
@click.option("--out", required=True, type=_folder, help="Folder of the files, one a contrast.")
@click.option("--gguf", is_flag=True, help="Write control vectors of llama.cpp beside them.")
def fit(site: str | None, out: Path, gguf: bool, method: str, **options: Any) -> None:
    """Write the vectors of a family, one safetensors file a contrast with a vector a site."""
    from personalib.models.parts import Site
    from personalib.vectors.contrast import fit_vector
    from personalib.vectors.files import write_directions
    from personalib.vectors.forms import placed
    from personalib.vectors.vector import save_vectors

    model, readings = _read([Site.parse(site)] if site else None, **options)
    out.mkdir(parents=True, exist_ok=True)
    for key, own in readings.items():
        vectors = [fit_vector(own["train"], each, method) for each in own["train"].sites]
        save_vectors(vectors, out / f"{key}.safetensors")
        # llama.cpp leaves block 0 out, and so what block 1 reads.
        if gguf and (later := placed(vectors, "gguf")):
            write_directions(later, out / f"{key}.gguf", "gguf", model)
    click.echo(f"{out}: vectors of {len(readings)} {options['family']}")


@contrast.command()
@_reading_options
@_choice_options
@click.option("--out", required=True, type=_path, callback=in_a_folder, help="The JSON file to write.")
def choose(out: Path, **options: Any) -> None:
    """Choose positions, site and dose from data, and write them with the table they were chosen from.

    A killed choice goes on where it was, if it is started again with the same --work.
    """
    choice = _choose(**options)[1]
    choice.save(out)
    click.echo(_shown(choice))


@contrast.command()
@_reading_options
@_choice_options
@click.option("--shuffles", default=200, show_default=True, type=click.IntRange(min=1), help="Shuffles of each null.")
@click.option("--json", "target", type=_path, callback=in_a_folder, help="Write the numbers to this file.")
def report(shuffles: int, target: Path | None, **options: Any) -> None:
    """Choose where to steer, read held-out texts there, and compare that with shuffled labels and other methods."""
    from personalib.base.storage import write_json
    from personalib.evaluation.contrast_report import report as write

    readings, choice = _choose(**options)
    found = write(readings, choice, options["method"], shuffles, options["seed"])
    if target:
        write_json(target, found, 1)
    click.echo(_shown(choice))
    for key, value in found["reading_accuracy"].items():
        low, high = found["reading_interval"][key]
        null = found["null_accuracy"][key]
        click.echo(f"{key:24} read {value:.3f} [{low:.3f}, {high:.3f}]  shuffled {null:.3f}")


def _choose(  # noqa: PLR0913 - each argument is an option
    family: str,
    items: str,
    per_trait: int,
    template: str,
    doses: tuple[float, ...],
    method: str,
    form: str | None,
    count: int,
    position: str,
    seed: int,
    work: Path,
    **which: Any,
) -> "tuple[Mapping[str, Halves], PushChoice]":
    from personalib.evaluation.choice import choose_push
    from personalib.evaluation.study import Study
    from personalib.questionnaires.items import load_trait, some_of_each, validation_split
    from personalib.questionnaires.questionnaire import trait_questionnaire
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites

    if family == "traits":
        raise click.UsageError("the traits' contrasts are made of the items' own acts, so no item can judge them")
    questionnaire = trait_questionnaire(some_of_each(validation_split(load_trait(items))[0], per_trait), [template])
    model = named_model(**which)
    sites = all_sites(model)
    how: dict[str, Any] = {"form": form, "pairs": count, "position": position, "seed": seed, "progress": family}
    study = Study.read(model, list(contrasts(family)), questionnaire, work, sites=sites, **how)
    candidates = {str(site): study.contrast_vectors(site, method) for site in sites}
    choice = choose_push(
        study, candidates, positions=("last", "prompt"), doses=doses, store=work / "answers", progress="answers"
    )
    return study.readings, choice


def _read(
    sites: Any,
    model: str,
    revision: str | None,
    device: str,
    dtype: str | None,
    form: str | None,
    family: str,
    work: Path,
    **choices: Any,
) -> "tuple[LanguageModel, Mapping[str, Halves]]":
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites, read_contrasts

    loaded = named_model(model, revision, device, dtype)
    where, form = sites or all_sites(loaded), form or loaded.form
    return loaded, read_contrasts(loaded, list(contrasts(family)), where, work, form=form, progress=family, **choices)


def _shown(choice: "PushChoice") -> str:
    """What was tried, and what was chosen."""
    push = choice.push
    return (
        f"{choice.table.drop(columns=['source', 'layer']).round(3).to_string(index=False)}\n"
        f"chosen: a dose of {push.dose:g} at {push.site}, positions {push.positions}"
    )
