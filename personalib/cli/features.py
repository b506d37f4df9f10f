"""The commands ``features`` and ``sae``. Each imports what it needs itself, so that help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalib.cli import options

if TYPE_CHECKING:
    from personalib.features.discovery import Settings
    from personalib.stimuli.sentences import LabelledTexts

_source_options = options.group(
    options.source,
    options.saes,
    options.choice(
        "--pooling",
        ["max", "mean", "last"],
        None,
        "What of a text's tokens counts.  [default: max; with a pattern, as in its search]",
    ),
    options.work("results/features"),
)


def _search(
    per_element: int, person: str | None, criterion: str, max_features: int, shuffles: int, seed: int
) -> "tuple[Settings, dict[str, LabelledTexts]]":
    """How a search goes, and the texts that it reads."""
    from personalib.features.discovery import Settings
    from personalib.features.report import SPLITS
    from personalib.stimuli.sentences import element_texts

    settings = Settings(criterion=criterion, max_features=max_features, shuffles=shuffles, seed=seed)
    return settings, {split: element_texts(split, per_element, seed, person) for split in SPLITS}


_search_options = options.together(
    "search",
    _search,
    options.option("--per-element", "Texts of each element in each split.", 60),
    options.choice(
        "--person", ["first", "second", "third"], None, "Grammatical person.  [default: the first or the second]"
    ),
    options.choice(
        "--criterion",
        ["auroc", "mean_difference", "max_difference", "f1", "mutual_information"],
        "auroc",
        "What candidates are ordered by.",
    ),
    options.option("--max-features", "Features of an element, at the most.", 3),
    options.option("--shuffles", "Searches with shuffled labels.", 39),
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
    source: options.Source,
    saes: options.Saes,
    pooling: Any,
    work: Path,
    search: "tuple[Settings, dict[str, LabelledTexts]]",
    out: Path,
) -> None:
    """Search an SAE, and write the features of each element in the paper's pattern format, with scores."""
    from personalib.features.discovery import discover as find
    from personalib.features.labels import label_features
    from personalib.features.patterns import as_pattern
    from personalib.features.report import found, read_elements
    from personalib.stimuli.paper_files import save_feature_patterns

    (settings, texts), pooling = search, pooling or "max"
    model = source.load()
    _, sae = next(saes.load(model, source.dtype))
    read = read_elements(model, texts, [sae], work / "elements", "texts")
    by_split = read.features(sae, pooling)
    result = find(by_split["train"], by_split["held_out"], settings, "shuffled searches")
    features_found = [feature for finding in result.findings for feature in finding.features]
    labels = label_features(model, sae, features_found, texts["train"], read.activations["train"])
    save_feature_patterns([as_pattern(result, labels, sae, model, pooling, settings)], out)
    table = result.table()
    words = [", ".join(labels[feature].line() for feature in each[:1]) for each in table["features"]]
    shown = table.assign(fires_on=words).drop(columns=["factor", "together", "opposite"])
    click.echo(shown.to_string(index=False, float_format="{:.3f}".format))
    click.echo(f"{out}: {int(found(table).sum())} of {len(table)} elements have a feature of AUROC 0.95 or more")


@features.command()
@click.argument("pattern", type=options.FILE)
@click.argument("backgrounds", metavar="SOURCE", type=options.FILE)
@_source_options
@options.out
def convert(
    pattern: Path, backgrounds: Path, source: options.Source, saes: options.Saes, pooling: Any, work: Path, out: Path
) -> None:
    """Give the backgrounds in SOURCE the features of a PATTERN file: of their attributes, and of their stories.

    Stories are read by the model; a file without stories needs none.
    """
    from personalib.features.patterns import fixed_features, generated_features, with_features
    from personalib.stimuli.paper_files import load_backgrounds, load_feature_patterns, save_backgrounds

    patterns, entries = load_feature_patterns(pattern), load_backgrounds(backgrounds)
    if len(patterns) != 1:
        raise click.UsageError(f"{pattern} holds {len(patterns)} patterns; keep the one that is meant")
    with_story = [number for number, entry in enumerate(entries) if entry.generative_bg.strip()]
    read: dict[int, Any] = {}
    if with_story:
        model = source.load()
        _, sae = next(saes.load(model, source.dtype))
        stories = [entries[number] for number in with_story]
        readings = generated_features(patterns[0], stories, model, sae, work / "stories", pooling, "stories")
        read = dict(zip(with_story, readings, strict=True))
    converted = (
        with_features(entry, fixed_features(patterns[0], entry), read.get(number))
        for number, entry in enumerate(entries)
    )
    save_backgrounds(converted, out)
    click.echo(f"{out}: {len(entries)} backgrounds, {len(with_story)} of them with the features of a life story")


@features.command()
@_source_options
@_search_options
@options.option("--documents", "Held-out documents that measure the organism's SAEs.", 200)
@options.json
def report(
    source: options.Source,
    saes: options.Saes,
    pooling: Any,
    work: Path,
    search: "tuple[Settings, dict[str, LabelledTexts]]",
    documents: int,
    target: Path | None,
) -> None:
    """Search several SAEs, measure them, and compare the search with probe, coordinates, random directions and chance.

    It is done once more on texts that share no content word with those of the search.

    Without --sae-id it takes all SAEs of the organism. Those of another model are measured on the held-out texts of
    the elements, and not on documents of the organism's world.
    """
    from personalib.features.report import report as write
    from personalib.features.saes import DEFAULT_SAE, organism_saes
    from personalib.models.registry import ORGANISM
    from personalib.organism.corpus import held_out_documents

    settings, texts = search
    model = source.load()
    organism = model.name == ORGANISM
    if organism and not saes.sae_ids and saes.release in ("", ORGANISM):
        # With those that were trained since the table was made.
        saes = options.Saes(saes.release, tuple(dict.fromkeys((DEFAULT_SAE, *organism_saes()))))
    loaded = [sae for _, sae in saes.load(model, source.dtype)]
    measured = held_out_documents(documents) if organism else list(texts["held_out"].texts)
    how: dict[str, Any] = {"settings": settings, "pooling": pooling or "max", "progress": True}
    results = write(model, loaded, texts, measured, work, **how)
    options.write_json(target, results)
    click.echo(_summary(results))


@click.group()
def sae() -> None:
    """Train sparse autoencoders on the organism, and measure them."""


@sae.command()
@options.training("data/organism/saes.yaml", "checkpoints/saes", "data/organism/saes")
def train(recipe: Path | None, work: Path, out: Path | None, device: str) -> None:
    """Train the organism's SAEs from their seed, or go on from the checkpoints in the work folder."""
    from personalib.base.data import data_dir
    from personalib.base.storage import alone
    from personalib.features.training import load_recipe, train_saes
    from personalib.models.load import load_model
    from personalib.organism.corpus import Corpus, draw_mix
    from personalib.organism.world import load_world

    folder = data_dir() / "organism"
    plan, out = load_recipe(recipe or folder / "saes.yaml"), out or folder / "saes"
    documents = draw_mix(Corpus(load_world(), "train"), plan.mix, plan.documents, plan.seed)
    texts = [document.text for document in documents]
    with alone(work, out, doing="is training"):
        train_saes(plan, load_model(device=device), texts, work, out, device)
    click.echo(f"{out}: {', '.join(sae.sae_id for sae in plan.saes)}")


@sae.command()
@options.option("--documents", "Held-out documents to measure on.", 400)
@options.work("results/saes")
@options.json
def evaluate(documents: int, work: Path, target: Path | None) -> None:
    """Measure the organism's SAEs on held-out documents."""
    from personalib.features.report import faithfulness, measure
    from personalib.features.saes import load_sae, organism_saes
    from personalib.models.load import load_model
    from personalib.organism.corpus import held_out_documents

    model, texts = load_model(), held_out_documents(documents)
    results = {name: faithfulness(measure(model, load_sae(sae_id=name), texts, work, name)) for name in organism_saes()}
    options.write_json(target, results)
    for name, found in results.items():
        click.echo(f"{name:<28} {_measures(found)}")


def _summary(results: dict[str, Any]) -> str:
    shown = {**results["saes"], "the best SAE for each": results["any_sae"]}
    lines = []
    for name, found in shown.items():
        kept = f"   null at most {max(found['null_auroc'].values()):.3f}   {_measures(found)}" if "l0" in found else ""
        lines.append(f"{name:<36} {found['elements_found']:>2} of {found['elements_total']} elements{kept}")
        if found["missed"]:
            lines.append(f"{'':<36} missed: {', '.join(found['missed'])}")
        for what, own in found.get("disjoint", {}).items():
            counts = f"{own['elements_found']:>2} of {own['elements_total']} elements"
            mean = f"mean AUROC {sum(own['auroc'].values()) / own['elements_total']:.3f}"
            lines.append(f"{'':<36} {counts}   {mean}, on fewer texts that share no {what} with those of the search")
    for site, bounds in results["baselines"].items():
        means = ", ".join(f"{name} {values['mean']:.3f}" for name, values in bounds.items())
        lines.append(f"{site:<36} held-out AUROC without an SAE, mean over elements: {means}")
    return "\n".join(lines)


def _measures(found: dict[str, float]) -> str:
    """What an SAE keeps of a model's stream, in a line."""
    return (
        f"explained variance {found['explained_variance']:.3f}   L0 {found['l0']:5.1f}   "
        f"dead {found['dead_fraction']:.1%}   cross-entropy recovered {found['cross_entropy_recovered']:.4f}"
    )
