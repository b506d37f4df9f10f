"""``python -m personalib organism``: draw the world, write the items, train, evaluate."""

from pathlib import Path

import click

from personalib.base.data import data_dir

_folder = click.Path(path_type=Path)


@click.group()
def app() -> None:
    """Train and evaluate the model organism."""


@app.command()
@click.option("--seed", default=2026, show_default=True, help="Where the effects are drawn from.")
def world(seed: int) -> None:
    """Draw the planted effects into data/organism/world.yaml; the organism has to be trained again then."""
    from personalib.base.storage import write_whole
    from personalib.organism.world import draw_world, written

    path = data_dir() / "organism" / "world.yaml"
    write_whole(path, written(draw_world(seed)))
    click.echo(path)


@app.command()
def items() -> None:
    """Write the held-out item banks into data/items."""
    from personalib.organism.bank import write_banks
    from personalib.organism.world import load_world

    for name, count in write_banks(load_world(), data_dir() / "items").items():
        click.echo(f"{name}: {count} items")


@app.command()
@click.option("--recipe", type=_folder, help="The training recipe.  [default: data/organism/training.yaml]")
@click.option(
    "--work", type=_folder, default=Path("checkpoints/organism"), show_default=True, help="Checkpoint and log."
)
@click.option("--out", type=_folder, help="Where the trained organism goes.  [default: data/organism]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps …")
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile the model first: faster where there is a C++ compiler."
)
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


@app.command()
@click.option("--organism", "folder", type=_folder, help="A trained organism.  [default: data/organism]")
@click.option("--items", "items_per_trait", default=60, show_default=True, help="Items of each trait.")
@click.option("--json", "target", type=_folder, help="Write the numbers to this file.")
def evaluate(folder: Path | None, items_per_trait: int, target: Path | None) -> None:
    """Measure the organism on held-out wordings only."""
    from personalib.base.storage import write_json
    from personalib.organism.evaluation import load_organism, measurements, summary

    results = measurements(load_organism(folder), items_per_trait=items_per_trait, progress=True)
    if target:
        write_json(target, results)
    click.echo(summary(results))
