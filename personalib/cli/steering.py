"""The commands ``python -m personalib steering``. Each imports what it needs itself, so that help comes at once."""

import warnings
from pathlib import Path
from typing import Any, get_args

import click

from personalib.cli import options
from personalib.steering.settings import Positions

_POSITIONS = get_args(Positions)
# Those of :class:`~personalib.models.sampling.Sampling`.
_sampling_options = options.group(
    options.option("--temperature", "0 takes the likeliest token each time.", 0.0),
    options.option("--top-p", "Share of the probability that is drawn from.", 1.0),
    options.option("--frequency-penalty", "On tokens that were there already.", 0.0),
    options.option("--seed", "Of the random numbers.", 0),
    options.option("--samples", "Answers at each coefficient.", 1),
)


@click.group()
def steering() -> None:
    """Push on a model, and measure what it does."""


@steering.command()
@click.argument("question")
@options.model
@options.option("--vector vectors", "A file of `contrast fit`.", type=options.FILE, required=True)
@options.option("--site", "Which vector of the file, such as resid_post.1.  [default: its only one]")
@options.repeated(
    "--coefficient coefficients", (-2.0, -1.0, 0.0, 1.0, 2.0), options.Finite(), "How often the vector is added."
)
@options.choice("--positions", _POSITIONS, "all", "At which tokens.")
@options.option("--tokens", "Tokens of an answer.", 40, click.IntRange(1))
@_sampling_options
def ask(
    question: str,
    source: options.Source,
    vectors: Path,
    site: str | None,
    coefficients: tuple[float, ...],
    positions: Any,
    tokens: int,
    form: str | None,
    **sampling: Any,
) -> None:
    """Answer a question in free words while a saved vector is added so many times."""
    from personalib.base.data import parse
    from personalib.models.prompts import format_prompt
    from personalib.models.sampling import Sampling
    from personalib.steering.generation import generate
    from personalib.steering.interventions import Add
    from personalib.vectors.vector import load_vectors

    how = parse(Sampling, sampling, "sampling")
    known = {str(vector.site): vector for vector in load_vectors(vectors)}
    site = site or (next(iter(known)) if len(known) == 1 else "")
    if site not in known:
        raise click.UsageError(f"{vectors} has vectors at {', '.join(known)}; choose one with --site")
    model = source.load()
    prompt = format_prompt(model.tokenizer, question, form=form or model.form)
    for size in coefficients:
        # Why an answer is empty is said each time.
        with warnings.catch_warnings(action="always"):
            answers = generate(model, [prompt], [Add(known[site], size, positions)], tokens=tokens, sampling=how)
        for answer in answers:
            click.echo(f"{size:+g}  {answer or '(no answer)'}")


@steering.command()
@options.model
@options.choice("--family", ["pressures", "facets", "elements"], "elements", "What pushes are for.")
@options.saes
@options.items
@options.option("--choose-by", "Items of each trait to choose pushes by.", 4, click.IntRange(1))
@options.option("--per-trait", "Other items of each trait to measure effects on.", 20, click.IntRange(1))
@options.option("--pairs", "Contrast pairs of each contrast and split.", 64)
@options.repeated(
    "--position positions",
    ("last", "prompt", "prompt_except_last"),
    click.Choice([name for name in _POSITIONS if name != "response"]),
    "Positions that are tried.",
)
@options.repeated(
    "--dose doses", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8), options.Finite(min=0, min_open=True), "Doses that are tried."
)
@options.option("--randoms", "Random directions.", 22, click.IntRange(10))
@options.seed
@options.work("results/steering")
@options.json
@options.result("--table", "Write every effect to this CSV file.")
def report(  # noqa: PLR0913 - each argument is an option
    source: options.Source,
    form: str | None,
    family: str,
    saes: options.Saes,
    items: str,
    template: str,
    choose_by: int,
    per_trait: int,
    pairs: int,
    seed: int,
    work: Path,
    target: Path | None,
    table: Path | None,
    **pushes: Any,
) -> None:
    """Steer by SAE features, contrast vectors, words and random directions, and compare all of it with the truth."""
    from personalib.base.storage import write_whole
    from personalib.base.tables import to_csv
    from personalib.evaluation.study import Study
    from personalib.evaluation.study_report import report as write
    from personalib.models.registry import ORGANISM
    from personalib.organism.world import load_world, planted_changes
    from personalib.questionnaires.items import load_trait, some_of_each, validation_split
    from personalib.questionnaires.questions import trait_questionnaire
    from personalib.stimuli.contrast_pairs import contrasts
    from personalib.vectors.contrast import all_sites

    model = source.load()
    loaded = dict(saes.load(model))
    to_choose, to_measure = validation_split(load_trait(items))
    by_choice = trait_questionnaire(some_of_each(to_choose, choose_by), [template])
    others = trait_questionnaire(some_of_each(to_measure, per_trait), [template])
    # What the last block leaves at one token is read by no other.
    sites = sorted({*all_sites(model)[:-1], *(sae.site for sae in loaded.values())})
    how: dict[str, Any] = {"sites": sites, "form": form, "pairs": pairs, "seed": seed, "progress": family}
    study = Study.read(model, contrasts(family), by_choice, work, **how)
    known = model.name == ORGANISM and family in ("elements", "pressures")
    truth = planted_changes(load_world(), family) if known else None
    numbers, effects = write(study, others, loaded, work, truth=truth, seed=seed, **pushes)
    options.write_json(target, numbers, 1)
    if table:
        write_whole(table, to_csv(effects))
    for against in ("truth", "told"):
        for method, value in (numbers[f"{against}_correlation"] or {}).items():
            low, high = numbers[f"{against}_interval"][method]
            shown = "missing" if value is None else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            click.echo(f"{method:14} against {against:6} {shown}")
    for method, push in numbers["push"].items():
        click.echo(f"{method:14} " + ", ".join(f"{name} {value}" for name, value in push.items()))
