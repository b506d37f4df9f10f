"""The commands ``python -m personalib organism``. Each imports what it needs itself, so that help comes at once."""

from pathlib import Path

import click

from personalib.base.data import data_dir
from personalib.cli import options


@click.group()
def organism() -> None:
    """Train and evaluate the model organism."""


@organism.command()
@options.option("--seed", "Where the effects are drawn from.", 2026)
def world(seed: int) -> None:
    """Draw the planted effects into data/organism/world.yaml; the organism has to be trained again then."""
    from personalib.base.storage import write_whole
    from personalib.organism.world import draw_world, written

    path = data_dir() / "organism" / "world.yaml"
    write_whole(path, written(draw_world(seed)))
    click.echo(path)


@organism.command()
def items() -> None:
    """Write the held-out item banks into data/items."""
    from personalib.organism.bank import write_banks
    from personalib.organism.world import load_world

    for name, count in write_banks(load_world(), data_dir() / "items").items():
        click.echo(f"{name}: {count} items")


@organism.command()
@options.training("data/organism/training.yaml", "checkpoints/organism", "data/organism")
@options.flag("--compile compiled", "Compile the model first: faster where there is a C++ compiler.")
def train(recipe: Path | None, work: Path, out: Path | None, device: str, compiled: bool) -> None:
    """Train the organism from its seed, or go on from the checkpoint in the work folder."""
    from personalib.base.storage import alone
    from personalib.organism.training import Trainer, load_recipe
    from personalib.organism.world import load_world

    folder = data_dir() / "organism"
    plan, out = load_recipe(recipe or folder / "training.yaml"), out or folder
    with alone(work, out, doing="is training"):
        trainer = Trainer(plan, load_world(), work, device, compiled)
        if trainer.progress.step:
            click.echo(f"going on from step {trainer.progress.step}")
        trainer.run()
        trainer.export(out)
    click.echo(f"{out}: {trainer.progress.tokens:,} tokens in {trainer.progress.seconds / 60:.0f} minutes")


@organism.command()
@options.option("--organism folder", "A trained organism.  [default: data/organism]", type=options.FOLDER)
@options.option("--items items_per_trait", "Items of each trait.", 60)
@options.json
def evaluate(folder: Path | None, items_per_trait: int, target: Path | None) -> None:
    """Measure the organism on held-out wordings only."""
    from personalib.organism.evaluation import load_organism, measurements, summary

    results = measurements(load_organism(folder), items_per_trait=items_per_trait, progress=True)
    options.write_json(target, results)
    click.echo(summary(results))
