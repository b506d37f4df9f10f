"""The commands ``python -m personalib features``. Each imports what it needs itself, so that help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli import options
from personalib.cli.sae import measures

if TYPE_CHECKING:
    from personalib.features.discovery import Settings

_source_options = options.group(
    options.loading,
    options.saes,
    options.choice(
        "--pooling",
        ["max", "mean", "last"],
        None,
        "What of a text's tokens counts.  [default: max; with a pattern, as in its search]",
    ),
    options.work("results/features"),
)
_search_options = options.group(
    options.count("--per-element", 60, "Texts of each element in each split."),
    options.choice(
        "--person", ["first", "second", "third"], None, "Grammatical person.  [default: the first or the second]"
    ),
    options.choice(
        "--criterion",
        ["auroc", "mean_difference", "max_difference", "f1", "mutual_information"],
        "auroc",
        "What candidates are ordered by.",
    ),
    options.count("--max-features", 3, "Features of an element, at the most."),
    options.count("--shuffles", 39, "Searches with shuffled labels."),
    options.seed,
)


@click.group()
def features() -> None:
    """Find the SAE features that stand for background elements."""


@features.command()
@_source_options
@_search_options
@options.out
def discover(
    release: str,
    sae_ids: tuple[str, ...],
    pooling: Any,
    work: Path,
    per_element: int,
    person: str | None,
    out: Path,
    **chosen: Any,
) -> None:
    """Search an SAE, and write the features of each element in the paper's pattern format, with scores."""
    from personalib.features.discovery import discover as search
    from personalib.features.labels import label_features
    from personalib.features.patterns import as_pattern
    from personalib.features.report import SPLITS, found, read_elements
    from personalib.stimuli.paper_files import save_feature_patterns
    from personalib.stimuli.sentences import element_texts

    settings, pooling = _settings(chosen), pooling or "max"
    model = options.named_model(**chosen)
    sae, *_ = options.named_saes(model, release, sae_ids, chosen["dtype"], only_first=True).values()
    texts = {split: element_texts(split, per_element, settings.seed, person) for split in SPLITS}
    read = read_elements(model, texts, [sae], work / "elements", "texts")
    by_split = read.features(sae, pooling)
    result = search(by_split["train"], by_split["held_out"], settings, "shuffled searches")
    features_found = [feature for finding in result.findings for feature in finding.features]
    labels = label_features(model, sae, features_found, texts["train"], read.activations["train"])
    save_feature_patterns([as_pattern(result, labels, sae, model, pooling, settings)], out)
    table = result.table()
    click.echo(_shown(table, {feature: label.line() for feature, label in labels.items()}))
    click.echo(f"{out}: {int(found(table).sum())} of {len(table)} elements have a feature of AUROC 0.95 or more")


@features.command()
@click.argument("pattern", type=options.FILE)
@click.argument("source", type=options.FILE)
@_source_options
@options.out
def convert(
    pattern: Path,
    source: Path,
    release: str,
    sae_ids: tuple[str, ...],
    pooling: Any,
    work: Path,
    out: Path,
    **which: Any,
) -> None:
    """Give the backgrounds in SOURCE the features of a PATTERN file: of their attributes, and of their stories.

    Stories are read by the model; a file without stories needs none.
    """
    from personalib.features.patterns import fixed_features, generated_features, with_features
    from personalib.stimuli.paper_files import load_backgrounds, load_feature_patterns, save_backgrounds

    found, entries = load_feature_patterns(pattern), load_backgrounds(source)
    if len(found) != 1:
        raise click.UsageError(f"{pattern} holds {len(found)} patterns; keep the one that is meant")
    with_story = [number for number, entry in enumerate(entries) if entry.generative_bg.strip()]
    read: dict[int, Any] = {}
    if with_story:
        model = options.named_model(**which)
        sae, *_ = options.named_saes(model, release, sae_ids, which["dtype"], only_first=True).values()
        stories = [entries[number] for number in with_story]
        readings = generated_features(found[0], stories, model, sae, work / "stories", pooling, "stories")
        read = dict(zip(with_story, readings, strict=True))
    save_backgrounds(
        [
            with_features(entry, fixed_features(found[0], entry), read.get(number))
            for number, entry in enumerate(entries)
        ],
        out,
    )
    click.echo(f"{out}: {len(entries)} backgrounds, {len(with_story)} of them with the features of a life story")


@features.command()
@_source_options
@_search_options
@options.count("--documents", 200, "Held-out documents that measure the organism's SAEs.")
@options.json
def report(
    release: str,
    sae_ids: tuple[str, ...],
    pooling: Any,
    work: Path,
    per_element: int,
    person: str | None,
    documents: int,
    target: Path | None,
    **chosen: Any,
) -> None:
    """Search several SAEs, measure them, and compare the search with probe, coordinates, random directions and chance.

    Without --sae-id it takes all SAEs of the organism. Those of another model are measured on the held-out texts of
    the elements, and not on documents of the organism's world.
    """
    from personalib.base.storage import write_json
    from personalib.features.report import SPLITS
    from personalib.features.report import report as write
    from personalib.features.saes import DEFAULT_SAE, organism_saes
    from personalib.models.registry import ORGANISM
    from personalib.organism.corpus import held_out_documents
    from personalib.stimuli.sentences import element_texts

    settings = _settings(chosen)
    model = options.named_model(**chosen)
    organism = model.name == ORGANISM
    if organism and not sae_ids and release in ("", ORGANISM):  # with those that were trained since the table was made
        sae_ids = tuple(dict.fromkeys((DEFAULT_SAE, *organism_saes())))
    saes = options.named_saes(model, release, sae_ids, chosen["dtype"])
    texts = {split: element_texts(split, per_element, settings.seed, person) for split in SPLITS}
    measured = held_out_documents(documents) if organism else list(texts["held_out"].texts)
    results = write(
        model,
        list(saes.values()),
        texts,
        measured,
        work,
        settings=settings,
        pooling=pooling or "max",
        progress=True,
    )
    if target:
        write_json(target, results)
    click.echo(_summary(results))


def _settings(chosen: dict[str, Any]) -> "Settings":
    """The settings of a search, taken out of what was chosen; what is left names the model."""
    from personalib.features.discovery import Settings

    return Settings(**{name: chosen.pop(name) for name in ("criterion", "max_features", "shuffles", "seed")})


def _shown(table: Any, lines: dict[int, str]) -> str:
    words = [", ".join(lines[feature] for feature in each[:1]) for each in table["features"]]
    shown = table.assign(fires_on=words).drop(columns=["factor", "together", "opposite"])
    text: str = shown.to_string(index=False, float_format="{:.3f}".format)
    return text


def _summary(results: dict[str, Any]) -> str:
    shown = {**results["saes"], "the best SAE for each": results["any_sae"]}
    lines = []
    for name, found in shown.items():
        kept = f"   null at most {max(found['null_auroc'].values()):.3f}   {measures(found)}" if "l0" in found else ""
        lines.append(f"{name:<36} {found['elements_found']:>2} of {found['elements_total']} elements{kept}")
        if found["missed"]:
            lines.append(f"{'':<36} missed: {', '.join(found['missed'])}")
    for site, bounds in results["baselines"].items():
        means = ", ".join(f"{name} {values['mean']:.3f}" for name, values in bounds.items())
        lines.append(f"{site:<36} held-out AUROC without an SAE, mean over elements: {means}")
    return "\n".join(lines)
