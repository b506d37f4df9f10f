"""How long each chapter takes on the organism: written to ``data/benchmarks/chapters.json`` from the last build.

Run by ``make times`` after a ``make book`` with nothing else running, which executed all chapters on one machine.
"""

import json

import torch

from personalib.base.data import data_dir
from personalib.base.provenance import repository_root
from personalib.base.storage import write_json
from personalib.book import probe
from personalib.models import load_model

ABOUT = (
    "Seconds that each chapter took on the organism with its default parameters, with a thread to itself, two chapters "
    "at a time on two x86-64 cores; and prompts a second that the organism answered in the probe of "
    "personalib.book.editions, with one thread on the same machine. Written by make times."
)


def main() -> None:
    """Read the manifests of the last build, and probe the organism."""
    torch.set_num_threads(1)
    folder = repository_root() / "book" / "_build" / "executed"
    manifests = {path.name.split(".")[0]: json.loads(path.read_text()) for path in folder.glob("*.manifest.json")}
    chapters = sorted(path.stem for path in (repository_root() / "notebooks").glob("*.ipynb"))
    if missing := [name for name in chapters if name not in manifests]:
        raise SystemExit(f"not built: {', '.join(missing)}; run make book first")
    seconds = {name: round(manifests[name]["seconds"]) for name in chapters}
    organism = load_model()
    rate = round(max(probe(organism) for _ in range(3)), 1)
    write_json(
        data_dir() / "benchmarks" / "chapters.json", {"about": ABOUT, "rate": rate, "seconds": seconds}, indent=1
    )


if __name__ == "__main__":
    main()
