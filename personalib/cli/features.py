"""The commands ``python -m personalib features``. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli.model_options import Option, loading_options, named_model

if TYPE_CHECKING:
    from personalib.features.saes import SparseAutoencoder
    from personalib.models.load import LanguageModel

_path = click.Path(path_type=Path, dir_okay=False)
_folder = click.Path(path_type=Path, file_okay=False)


def in_a_folder(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Notice before a long search that its result has nowhere to go."""
    if value and not value.parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}; make it first")
    return value


_out = click.option("--out", required=True, type=_path, callback=in_a_folder, help="The JSON file to write.")


def _source_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which model and which SAE."""
    options: list[Option] = [
        *loading_options(),
        click.option("--sae", "release", default="", help="A release of SAEs, or a folder.  [default: the model's]"),
        click.option("--sae-id", "sae_ids", multiple=True, help="An SAE of the release. May be repeated for a report."),
        click.option(
            "--pooling",
            type=click.Choice(["max", "mean", "last"]),
            help="What of a text's tokens counts.  [default: max; with a pattern, as in its search]",
        ),
        click.option(
            "--work", type=_folder, default=Path("results/features"), show_default=True, help="Where activations go."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _search_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a search."""
    options = [
        click.option("--per-element", default=60, show_default=True, help="Texts of each element in each split."),
        click.option(
            "--person",
            type=click.Choice(["first", "second", "third"]),
            help="Grammatical person.  [default: the first or the second]",
        ),
        click.option(
            "--criterion",
            type=click.Choice(["auroc", "mean_difference", "max_difference", "f1", "mutual_information"]),
            default="auroc",
            show_default=True,
            help="What candidates are ordered by.",
        ),
        click.option("--max-features", default=3, show_default=True, help="Features of an element, at the most."),
        click.option("--shuffles", default=39, show_default=True, help="Searches with shuffled labels."),
        click.option("--seed", default=0, show_default=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def features() -> None:
    """Find the SAE features that stand for background elements."""


@features.command()
@_source_options
@_search_options
@_out
def discover(
    pooling: Any, work: Path, per_element: int, person: str | None, out: Path, seed: int, **options: Any
) -> None:
    """Search an SAE, and write the features of each element in the paper's pattern format, with scores."""
    from personalib.features.discovery import Settings
    from personalib.features.discovery import discover as search
    from personalib.features.labels import label_features
    from personalib.features.patterns import as_pattern
    from personalib.features.report import SPLITS, found, read_elements
    from personalib.stimuli.paper_files import save_feature_patterns
    from personalib.stimuli.sentences import element_texts

    search_settings = {name: options.pop(name) for name in ("criterion", "max_features", "shuffles")}
    settings = Settings(**search_settings, seed=seed)
    model, saes = _load(**options)
    sae = saes[0]
    texts = {split: element_texts(split, per_element, seed, person) for split in SPLITS}
    read = read_elements(model, texts, [sae], work / "elements", "texts")
    pooling = pooling or "max"
    own = read.features(sae, pooling)
    result = search(own["train"], own["held_out"], settings, "shuffled searches")
    chosen = [feature for finding in result.findings for feature in finding.features]
    labels = label_features(model, sae, chosen, texts["train"], read.activations["train"])
    save_feature_patterns([as_pattern(result, labels, sae, model, pooling, settings)], out)
    table = result.table()
    click.echo(_shown(table, {feature: label.line() for feature, label in labels.items()}))
    click.echo(f"{out}: {int(found(table).sum())} of {len(table)} elements have a feature of AUROC 0.95 or more")


@features.command()
@click.argument("pattern", type=_path)
@click.argument("source", type=_path)
@_source_options
@_out
def convert(pattern: Path, source: Path, pooling: Any, work: Path, out: Path, **options: Any) -> None:
    """Give the backgrounds in SOURCE the features of a PATTERN file: of their attributes, and of their stories.

    Stories are read by the model; a file without stories needs none.
    """
    from personalib.features.patterns import fixed_features, generated_features, with_features
    from personalib.stimuli.paper_files import load_backgrounds, load_feature_patterns, save_backgrounds

    found, entries = load_feature_patterns(pattern), load_backgrounds(source)
    if len(found) != 1:
        raise click.UsageError(f"{pattern} holds {len(found)} patterns; keep the one that is meant")
    told = [number for number, entry in enumerate(entries) if entry.generative_bg.strip()]
    read: dict[int, Any] = {}
    if told:
        model, saes = _load(**options)
        stories = [entries[number] for number in told]
        readings = generated_features(found[0], stories, model, saes[0], work / "stories", pooling, "stories")
        read = dict(zip(told, readings, strict=True))
    save_backgrounds(
        [
            with_features(entry, fixed_features(found[0], entry), read.get(number))
            for number, entry in enumerate(entries)
        ],
        out,
    )
    click.echo(f"{out}: {len(entries)} backgrounds, {len(told)} of them with the features of a life story")


@features.command()
@_source_options
@_search_options
@click.option(
    "--documents", default=200, show_default=True, help="Held-out documents that measure the organism's SAEs."
)
@click.option("--json", "target", type=_path, callback=in_a_folder, help="Write the numbers to this file.")
def report(
    model: str,
    pooling: Any,
    work: Path,
    per_element: int,
    person: str | None,
    documents: int,
    target: Path | None,
    seed: int,
    **options: Any,
) -> None:
    """Search several SAEs, measure them, and compare the search with probe, coordinates, random directions and chance.

    Without --sae-id it takes all SAEs of the organism. Those of another model are measured on the held-out texts of
    the elements, and not on documents of the organism's world.
    """
    from personalib.base.storage import write_json
    from personalib.features.discovery import Settings
    from personalib.features.report import SPLITS
    from personalib.features.report import report as write
    from personalib.models.registry import ORGANISM
    from personalib.organism.corpus import held_out_documents
    from personalib.stimuli.sentences import element_texts

    search_settings = {name: options.pop(name) for name in ("criterion", "max_features", "shuffles")}
    loaded, saes = _load(model=model, **options, several=True)
    texts = {split: element_texts(split, per_element, seed, person) for split in SPLITS}
    measured = held_out_documents(documents) if model == ORGANISM else list(texts["held_out"].texts)
    results = write(
        loaded, saes, texts, measured, work, settings=Settings(**search_settings, seed=seed), pooling=pooling or "max",
        progress=True,
    )  # fmt: skip
    if target:
        write_json(target, results)
    click.echo(_summary(results))


def _load(
    model: str,
    revision: str | None,
    release: str,
    sae_ids: tuple[str, ...],
    device: str,
    dtype: str | None,
    several: bool = False,
) -> "tuple[LanguageModel, list[SparseAutoencoder]]":
    from personalib.features.own_saes import usual_saes
    from personalib.features.saes import load_sae, organism_saes
    from personalib.models.registry import ORGANISM

    language_model = named_model(model, revision, device, dtype)
    first = str(language_model.model.device)
    found = usual_saes(language_model, release, sae_ids, first)
    ids = found.ids if several or sae_ids else found.ids[:1]
    if several and not sae_ids and found.release == ORGANISM:  # those, too, that were trained since the table was made
        ids = tuple(dict.fromkeys((ids[0], *organism_saes())))
    return language_model, [load_sae(found.release, sae_id, first, dtype or "float32") for sae_id in ids]


def _shown(table: Any, lines: dict[int, str]) -> str:
    words = [", ".join(lines[feature] for feature in each[:1]) for each in table["features"]]
    shown = table.assign(fires_on=words).drop(columns=["factor", "together", "opposite"])
    text: str = shown.to_string(index=False, float_format="{:.3f}".format)
    return text


def _summary(results: dict[str, Any]) -> str:
    lines = []
    for name, own in results["saes"].items():
        lines.append(
            f"{name:<36} {own['elements_found']:>2} of {own['elements_total']} elements   "
            f"null at most {max(own['null_auroc'].values()):.3f}   "
            f"explained variance {own['explained_variance']:.3f}   "
            f"L0 {own['l0']:.1f}   dead {own['dead_fraction']:.1%}   "
            f"cross-entropy recovered {own['cross_entropy_recovered']:.4f}"
        )
        if own["missed"]:
            lines.append(f"{'':<36} missed: {', '.join(own['missed'])}")
    best = results["any_sae"]
    lines.append(f"{'the best SAE for each':<36} {best['elements_found']:>2} of {best['elements_total']} elements")
    if best["missed"]:
        lines.append(f"{'':<36} missed: {', '.join(best['missed'])}")
    for site, bounds in results["baselines"].items():
        means = ", ".join(f"{name} {values['mean']:.3f}" for name, values in bounds.items())
        lines.append(f"{site:<36} held-out AUROC without an SAE, mean over elements: {means}")
    return "\n".join(lines)
