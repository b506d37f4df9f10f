"""Contrast vectors of a whole family: what they read, compared with chance and the other methods, and their push."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from personalib.evaluation.choice import PushChoice
from personalib.models.parts import Site
from personalib.vectors.contrast import Halves
from personalib.vectors.methods import DEFAULT_METHOD, METHODS
from personalib.vectors.readings import Null, layer_scan, null_accuracies

READING_GOAL = 0.95


def nulls(
    readings: Mapping[str, Halves], site: Site, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> pd.DataFrame:
    """The two nulls of each contrast at a site; a ``ValueError`` where nothing is shuffled.

    Returns:
        One row a contrast and null: ``contrast``, ``null`` (``"dealt"``: poles dealt anew to phrases in both splits;
        ``"swapped"``: directions of half-swapped pairs, read by the true poles), ``mean``, the middle 95 % from ``low``
        to ``high``, and ``reached``, the share of shuffles at the goal or above.
    """
    if shuffles < 1:
        raise ValueError("shuffle the labels at least once")
    rows = []
    for key, halves in readings.items():
        for name in get_args(Null):
            found = null_accuracies(halves, site, method, shuffles, seed, name)
            low, high = np.quantile(found, [0.025, 0.975])
            rows.append([key, name, found.mean(), low, high, (found >= READING_GOAL).mean()])
    return pd.DataFrame(rows, columns=["contrast", "null", "mean", "low", "high", "reached"])


def by_method(readings: Mapping[str, Halves], sites: Sequence[Site]) -> pd.DataFrame:
    """The layer scan of all methods, with the method under ``method``."""
    scans = [layer_scan(readings, sites, method).assign(method=method) for method in METHODS]
    return pd.concat(scans, ignore_index=True)


def report(
    readings: Mapping[str, Halves], choice: PushChoice, method: str = DEFAULT_METHOD, shuffles: int = 200, seed: int = 0
) -> dict[str, Any]:
    """The numbers of a family of contrasts at the push that was chosen, as values that JSON can hold."""
    sites, site = next(iter(readings.values()))["train"].sites, choice.push.site
    scan = layer_scan(readings, sites, method, seed)
    there = scan[scan["site"] == str(site)].set_index("contrast")
    chance = nulls(readings, site, method, shuffles, seed).set_index(["null", "contrast"])
    methods = by_method(readings, [site]).groupby("method", sort=False)["accuracy"]
    chosen = choice.table[choice.table["chosen"]].iloc[0]
    return {
        "reading_accuracy": there["accuracy"].to_dict(),
        "reading_interval": {key: [row.low, row.high] for key, row in there.iterrows()},
        "null_accuracy": chance.loc["dealt", "mean"].to_dict(),
        "null_interval": {key: [row.low, row.high] for key, row in chance.loc["dealt"].iterrows()},
        "swapped_reaching_goal": chance.loc["swapped", "reached"].to_dict(),
        "layer": site.layer,
        "site": str(site),
        "positions": choice.push.positions,
        "dose": choice.push.dose,
        "fidelity": float(chosen["fidelity"]),
        "answer_mass_left": float(chosen["mass"]),
        "perplexity": float(chosen["perplexity"]),
        "pairs_read": there["pairs"].to_dict(),
        "brier": there["brier"].to_dict(),
        "validation_accuracy": there["validation"].to_dict(),
        "accuracy_by_layer": scan.pivot(index="site", columns="contrast", values="accuracy")
        .loc[[str(each) for each in sites]]
        .to_dict("index"),
        "accuracy_by_method": methods.agg(["mean", "min"]).to_dict("index"),
        "choice": choice.table.replace({np.nan: None}).to_dict("records"),
        "method": method,
        "reached": bool((there["accuracy"] >= READING_GOAL).all()),
    }
