"""Measured numbers compared with published ones, cell by cell, by a rule that is stated.

Both are taken as independent. Where the very same items were asked they are not, and a difference is then surer than
its interval says: the rule errs toward "cannot tell", and toward "agrees".
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, adjust, clustered_rank_correlation
from personalib.paper.cells import CELL, LEVEL, OPTIONS, QUANTITIES

AGREES, DIFFERS, UNSURE, COLLAPSED, MISSING = "agrees", "differs", "cannot tell", "collapsed", "not measured"
VERDICTS = (AGREES, DIFFERS, UNSURE, COLLAPSED, MISSING)
ALPHA, WIDTH = 0.05, 10.0
RULE = (
    f"A cell *differs* where the p-value of no difference is below {ALPHA:g} after Holm's correction over all measured "
    f"cells of its quantity. It *agrees* where the {LEVEL:.0%} interval of the difference holds zero and reaches at "
    "most {width:g} points to either side. Where neither holds one *cannot tell*. An arm under which the model no "
    "longer answers has *collapsed*, whatever its numbers are."
)
_DIFFERENCE = ["difference", "low", "high", "p"]


def compare(published: pd.DataFrame, measured: pd.DataFrame, width: float = WIDTH) -> pd.DataFrame:
    """Compare the cells of ``measured_cells`` with those of ``reference_cells``, by ``RULE`` and its width.

    Returns:
        One row a published number: its columns and the measured ones; ``difference`` (measured minus published, in
        points or percent) from ``low`` to ``high``, its ``p`` and ``p_holm``; ``apart``, whether the interval leaves
        out zero, before any correction; ``verdict``, one of :data:`VERDICTS`; and ``without_guard``, what the verdict
        would be if no arm counted as collapsed.

        The interval is Student's, made of the two numbers' own bounds on the sides that face each other (Zou and
        Donner, *Statistics in Medicine* 27, 2008; Welch, *Biometrika* 34, 1947, for its freedom). For option
        probabilities, which are of one published item, it is where one item's difference lies in 95 of 100 cases, and
        the p-value is the rank of the published one among the measured items.
    """
    cells = published.merge(measured, on=list(CELL), how="left", validate="one_to_one")
    differences = pd.DataFrame(np.nan, index=cells.index, columns=_DIFFERENCE)
    measured, options = cells["measured"].notna(), cells["quantity"] == OPTIONS
    if (measured & options).any():
        differences[measured & options] = _of_items(cells[measured & options])
    if (measured & ~options).any():
        differences[measured & ~options] = _of_means(cells[measured & ~options])
    return _judged(pd.concat([cells.drop(columns="values"), differences], axis=1), width)


def _of_means(cells: pd.DataFrame) -> NDArray[np.float64]:
    difference = (cells["measured"] - cells["published"]).to_numpy(dtype=np.float64)
    # The difference's lower side is the measured number's lower and the published one's upper, and the other way.
    below, above = _side(cells, "measured_low", "published_high"), _side(cells, "measured_high", "published_low")
    error, freedom = np.where(difference >= 0, below, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(difference == 0, 0.0, np.abs(difference) / error)
    low = difference - below[0] * stats.t.isf(ALPHA / 2, below[1])
    high = difference + above[0] * stats.t.isf(ALPHA / 2, above[1])
    return np.column_stack([difference, low, high, 2 * stats.t.sf(scaled, freedom)])


def _side(cells: pd.DataFrame, *ends: str) -> NDArray[np.float64]:
    """How far the difference of two numbers is uncertain on one side: its standard errors and their freedom."""
    halves = [np.abs(cells[end] - cells[end.partition("_")[0]]).to_numpy(dtype=np.float64) for end in ends]
    freedoms = [np.maximum(cells[name].to_numpy(dtype=np.float64) - 1, 1) for name in ("n", "published_n")]
    pairs = list(zip(halves, freedoms, strict=True))
    squares = [(half / stats.t.isf(ALPHA / 2, freedom)) ** 2 for half, freedom in pairs]
    total = sum(squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / sum(square**2 / own for square, own in zip(squares, freedoms, strict=True))
    return np.array([np.sqrt(total), np.where(np.isfinite(freedom), freedom, 1.0)])


def _of_items(cells: pd.DataFrame) -> NDArray[np.float64]:
    """One published item among the measured ones: it differs where few of them lie as far out."""
    rows = []
    for cell in cells.to_dict("records"):
        values, published = np.asarray(cell["values"]), cell["published"]
        outside = min((values <= published).sum(), (values >= published).sum())
        bounds = [cell[name] - published for name in ("measured", "measured_low", "measured_high")]
        rows.append([*bounds, min(1.0, 2 * (1 + outside) / (len(values) + 1))])
    return np.array(rows)


def _judged(cells: pd.DataFrame, width: float) -> pd.DataFrame:
    measured = cells["p"].notna()
    cells["p_holm"] = cells[measured].groupby("quantity")["p"].transform(adjust)
    reach = np.maximum(cells["difference"] - cells["low"], cells["high"] - cells["difference"])
    cells["apart"] = measured & (cells["p"] < ALPHA)
    verdicts = {MISSING: ~measured, DIFFERS: cells["p_holm"] < ALPHA, AGREES: ~cells["apart"] & (reach <= width)}
    cells["without_guard"] = np.select(list(verdicts.values()), list(verdicts), UNSURE)
    cells["verdict"] = cells["without_guard"].mask(cells["collapsed"].eq(True), COLLAPSED)
    return cells


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """What the cells of :func:`compare` come to by quantity.

    Returns:
        One row a quantity: ``cells``, the published numbers; how many have each verdict; ``apart``, the share of those
        measured and not collapsed whose interval leaves out zero before any correction, beside ``by_chance``, the share
        to be expected where nothing differs; ``mean_size``, the mean absolute difference, beside ``noise``, what the
        uncertainty of both numbers alone would give; and Spearman's ``rank_correlation`` of measured and published
        cells, the pattern, from ``rank_low`` to ``rank_high`` over conditions. What cannot be had is missing.
    """
    parts = {name: cells[cells["quantity"] == name] for name in QUANTITIES}
    return pd.DataFrame([_summed(name, part) for name, part in parts.items() if len(part)])


def _summed(name: str, cells: pd.DataFrame) -> dict[str, object]:
    sound = cells[cells["verdict"].isin((AGREES, DIFFERS, UNSURE))]
    counts = cells["verdict"].value_counts()
    # Of a normal difference with these bounds the mean size is so many of its standard errors.
    error = (sound["high"] - sound["low"]) / 2 / stats.norm.isf(ALPHA / 2)
    return {
        "quantity": name,
        "cells": len(cells),
        **{verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
        "apart": sound["apart"].mean() if len(sound) else np.nan,
        "by_chance": ALPHA,
        "mean_size": sound["difference"].abs().mean(),
        "noise": np.nan if name == OPTIONS else error.mean() * np.sqrt(2 / np.pi),
        **dict(zip(("rank_correlation", "rank_low", "rank_high"), _pattern(sound), strict=True)),
    }


def _pattern(cells: pd.DataFrame) -> Interval:
    if len(cells) < 3 or cells["measured"].nunique() < 2 or cells["published"].nunique() < 2:
        return Interval(np.nan, np.nan, np.nan)
    where = (cells["condition"] + " " + cells["coefficient"].astype(str)).to_list()
    return clustered_rank_correlation(cells["measured"].astype(float), cells["published"], where)
