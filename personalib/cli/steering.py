"""The commands ``python -m personalib steering``. Each imports what it needs itself, so that help comes at once."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli.features import in_a_folder
from personalib.cli.model_options import Finite, Option, model_options, named_model

if TYPE_CHECKING:
    from personalib.features.saes import SparseAutoencoder
    from personalib.models.load import LanguageModel

_path = click.Path(path_type=Path, dir_okay=False)
_folder = click.Path(path_type=Path, file_okay=False)
_POSITIONS = ["last", "prompt", "prompt_except_last", "response", "all"]


def _sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`~personalib.models.sampling.Sampling`."""
    number = partial(click.option, show_default=True, type=Finite())
    whole = partial(click.option, show_default=True)
    options: list[Option] = [
        number("--temperature", default=0.0, help="0 takes the likeliest token each time."),
        number("--top-p", default=1.0, help="Share of the probability that is drawn from."),
        number("--frequency-penalty", default=0.0, help="On tokens that were there already."),
        whole("--seed", default=0, help="Of the random numbers."),
        whole("--samples", default=1, help="Answers at each coefficient."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def steering() -> None:
    """Push on a model, and measure what it does."""


@steering.command()
@click.argument("question")
@model_options
@click.option("--vector", "source", required=True, type=_path, help="A file of `contrast fit`.")
@click.option("--site", help="Which vector of the file, such as resid_post.1.  [default: its only one]")
@click.option(
    "--coefficient",
    "coefficients",
    multiple=True,
    type=Finite(),
    default=(-2.0, -1.0, 0.0, 1.0, 2.0),
    show_default=True,
    help="How often the vector is added. May be repeated.",
)
@click.option("--positions", default="all", show_default=True, type=click.Choice(_POSITIONS), help="At which tokens.")
@click.option("--tokens", default=40, show_default=True, type=click.IntRange(min=1), help="Tokens of an answer.")
@_sampling_options
def ask(  # noqa: PLR0913 - each argument is an option
    question: str,
    source: Path,
    site: str | None,
    coefficients: tuple[float, ...],
    positions: Any,
    tokens: int,
    form: str | None,
    temperature: float,
    top_p: float,
    frequency_penalty: float,
    seed: int,
    samples: int,
    **which: Any,
) -> None:
    """Answer a question in free words while a saved vector is added so many times."""
    from personalib.base.data import parse
    from personalib.models.prompts import format_prompt
    from personalib.models.sampling import Sampling
    from personalib.steering.generation import generate
    from personalib.steering.interventions import Add
    from personalib.vectors.vector import load_vectors

    how = {"temperature": temperature, "top_p": top_p, "frequency_penalty": frequency_penalty}
    sampling = parse(Sampling, how | {"seed": seed, "samples": samples}, "sampling")

    known = {str(one.site): one for one in load_vectors(source)}
    if (site or next(iter(known))) not in known or (site is None and len(known) > 1):
        raise click.UsageError(f"{source} has vectors at {', '.join(known)}; choose one with --site")
    vector, model = known[site or next(iter(known))], named_model(**which)
    prompt = format_prompt(model.tokenizer, question, form=form or model.form)
    for size in coefficients:
        # Why an answer is empty is said each time.
        with warnings.catch_warnings(action="always"):
            found = generate(model, [prompt], [Add(vector, size, positions)], tokens=tokens, sampling=sampling)
        for answer in found:
            click.echo(f"{size:+g}  {answer or '(no answer)'}")


@steering.command()
@model_options
@click.option("--family", default="elements", show_default=True, type=click.Choice(["pressures", "facets", "elements"]))
@click.option("--sae", "release", default="", help="A release of SAEs, or a folder.  [default: the model's]")
@click.option("--sae-id", "saes", multiple=True, help="SAE of the release. May be repeated.  [default: all known]")
@click.option("--items", default="bundled", show_default=True, help="Trait items: a file, or a hub's name.")
@click.option("--template", default="letters", show_default=True, help="Template of the items.")
@click.option(
    "--choose-by",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="Items of each trait to choose pushes by.",
)
@click.option(
    "--per-trait",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Other items of each trait to measure effects on.",
)
@click.option("--pairs", default=64, show_default=True, help="Contrast pairs of each contrast and split.")
@click.option(
    "--position",
    "positions",
    multiple=True,
    default=("last", "prompt", "prompt_except_last"),
    show_default=True,
    type=click.Choice([one for one in _POSITIONS if one != "response"]),
    help="Positions that are tried. May be repeated.",
)
@click.option(
    "--dose",
    "doses",
    multiple=True,
    type=Finite(min=0, min_open=True),
    default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    show_default=True,
    help="Doses that are tried. May be repeated.",
)
@click.option("--randoms", default=22, show_default=True, type=click.IntRange(min=10), help="Random directions.")
@click.option("--seed", default=0, show_default=True)
@click.option("--work", type=_folder, default=Path("results/steering"), show_default=True, help="For activations.")
@click.option("--json", "target", type=_path, callback=in_a_folder, help="Write the numbers to this file.")
@click.option("--table", type=_path, callback=in_a_folder, help="Write every effect to this CSV file.")
def report(  # noqa: PLR0913 - each argument is an option
    family: str,
    release: str,
    saes: tuple[str, ...],
    items: str,
    template: str,
    choose_by: int,
    per_trait: int,
    pairs: int,
    positions: Any,
    doses: tuple[float, ...],
    randoms: int,
    seed: int,
    work: Path,
    target: Path | None,
    table: Path | None,
    form: str | None,
    **which: Any,
) -> None:
    """Steer by SAE features, contrast vectors, words and random directions, and compare all of it with the truth."""
    from personalib.base.storage import write_json, write_whole
    from personalib.base.tables import to_csv
    from personalib.evaluation.study import Study
    from personalib.evaluation.study_report import report as write
    from personalib.models.registry import ORGANISM
    from personalib.organism.effects import planted_changes
    from personalib.organism.world import load_world
    from personalib.questionnaires.items import load_trait, some_of_each, validation_split
    from personalib.questionnaires.questionnaire import trait_questionnaire
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites

    model = named_model(**which)
    found = _saes(model, release, saes)
    to_choose, to_measure = validation_split(load_trait(items))
    by_choice = trait_questionnaire(some_of_each(to_choose, choose_by), [template])
    others = trait_questionnaire(some_of_each(to_measure, per_trait), [template])
    # What the last block leaves at one token is read by no other.
    sites = sorted({*all_sites(model)[:-1], *(sae.site for sae in found.values())})
    how: dict[str, Any] = {"sites": sites, "form": form, "pairs": pairs, "seed": seed, "progress": family}
    study = Study.read(model, contrasts(family), by_choice, work, **how)
    known = model.name == ORGANISM and family in ("elements", "pressures")
    numbers, effects = write(
        study,
        others,
        found,
        work,
        positions=positions,
        doses=doses,
        randoms=randoms,
        truth=planted_changes(load_world(), family) if known else None,
        seed=seed,
    )
    if target:
        write_json(target, numbers, 1)
    if table:
        write_whole(table, to_csv(effects))
    click.echo(_shown(numbers))


def _saes(model: "LanguageModel", release: str, names: tuple[str, ...]) -> "dict[str, SparseAutoencoder]":
    from personalib.features.own_saes import usual_saes
    from personalib.features.saes import load_sae

    device = str(model.model.device)
    found = usual_saes(model, release, names, device)
    return {name or found.release: load_sae(found.release, name, device) for name in found.ids}


def _shown(numbers: dict[str, Any]) -> str:
    """The correlations and what was chosen, as lines for a terminal."""
    lines = []
    for against in ("truth", "told"):
        for method, value in (numbers[f"{against}_correlation"] or {}).items():
            low, high = numbers[f"{against}_interval"][method]
            shown = "missing" if value is None else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            lines.append(f"{method:14} against {against:6} {shown}")
    for method, push in numbers["push"].items():
        lines.append(f"{method:14} " + ", ".join(f"{name} {value}" for name, value in push.items()))
    return "\n".join(lines)
