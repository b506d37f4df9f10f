"""The commands ``python -m personalib sae``. Each imports what it needs itself, so that help comes at once."""

from collections.abc import Mapping
from pathlib import Path

import click

from personalib.cli import options


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
@options.count("--documents", 400, "Held-out documents to measure on.")
@options.work("results/saes")
@options.json
def evaluate(documents: int, work: Path, target: Path | None) -> None:
    """Measure the organism's SAEs on held-out documents."""
    from personalib.base.storage import write_json
    from personalib.features.report import faithfulness, measure
    from personalib.features.saes import load_sae, organism_saes
    from personalib.models.load import load_model
    from personalib.organism.corpus import held_out_documents

    model, texts = load_model(), held_out_documents(documents)
    results = {name: faithfulness(measure(model, load_sae(sae_id=name), texts, work, name)) for name in organism_saes()}
    if target:
        write_json(target, results)
    for name, found in results.items():
        click.echo(f"{name:<28} {measures(found)}")


def measures(found: Mapping[str, float]) -> str:
    """What an SAE keeps of a model's stream, in a line."""
    return (
        f"explained variance {found['explained_variance']:.3f}   L0 {found['l0']:5.1f}   "
        f"dead {found['dead_fraction']:.1%}   cross-entropy recovered {found['cross_entropy_recovered']:.4f}"
    )
