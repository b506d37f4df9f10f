"""The command ``python -m personalib models``."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from personalib.models.registry import Entry


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
def models(names: tuple[str, ...]) -> None:
    """List the models that the book knows, whether they are on this machine, and how to fetch them.

    With names, tell all that is known of each; a name may be one of the hub, a folder or a YAML file too.
    """
    from tabulate import tabulate

    from personalib.models.hub import model_presence
    from personalib.models.registry import find_entry, load_registry

    if names:
        for place, name in enumerate(names):
            click.echo(("\n" if place else "") + _details(find_entry(name)))
        return
    rows = []
    for entry in load_registry().values():
        saes, gated = entry.saes.release if entry.saes else "trained on the spot", "yes" if entry.gated else ""
        rows.append([entry.name, _size(entry), model_presence(entry), gated, saes, entry.title])
    click.echo(tabulate(rows, ["model", "size", "weights", "gated", "SAEs", "what it is"]))
    click.echo("\npython -m personalib models NAME says how to fetch one.")
    click.echo("Any other name of the hub will do as a model, and so will a folder.")


def _details(entry: "Entry") -> str:
    from personalib.models.hub import Presence, how_to_have, model_presence

    there = model_presence(entry)
    facts = {
        "name": entry.name,
        "what it is": entry.title,
        "source": entry.source,
        "commit": entry.revision or "",
        "parameters": f"{entry.parameters:,}" if entry.parameters else "",
        "size": _size(entry),
        "format": entry.dtype or "as its weights are kept",
        "asked": {"chat": "in its chat template", "base": "as plain text"}[entry.form],
        "licence": entry.licence,
        "weights": str(there) if there == Presence.WHOLE else f"{there}; {how_to_have(entry)}",
    }
    lines = [f"{name:12} {value}" for name, value in facts.items() if value]
    if entry.saes is None:
        return "\n".join([*lines, f"{'SAEs':12} none known; one is trained when a chapter first needs it"])
    return "\n".join([*lines, *(_sae(entry.hub, entry.saes.release, sae_id) for sae_id in entry.saes.ids)])


def _sae(hub: str | None, release: str, sae_id: str) -> str:
    from personalib.features.saes import release_files, sae_presence
    from personalib.models.hub import Presence

    said = f"{'SAE':12} {release}, {sae_id}"
    if not hub or not sae_id:
        return said
    repository, [file, *_] = release_files(release, sae_id)
    there = sae_presence(release, sae_id)
    fetch = f"; run: hf download {repository} --include '{file.rpartition('/')[0]}/*'"
    return f"{said} ({there}{'' if there == Presence.WHOLE else fetch})"


def _size(entry: "Entry") -> str:
    size = entry.gigabytes
    if size is None:
        return ""
    return f"{size:.1f} GB" if size >= 1 else f"{1000 * size:.0f} MB"
