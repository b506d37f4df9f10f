"""Measured numbers compared with published ones, cell by cell, by a rule that is stated.

Both are taken as independent. Where the very same items were asked they are not, and a difference is then surer than
its interval says: the rule errs toward "cannot tell", and toward "agrees".
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, adjust, clustered_rank_correlation
from personalib.paper.cells import CELL, LEVEL, OPTIONS, QUANTITIES

AGREES, DIFFERS, UNSURE, COLLAPSED, MISSING = "agrees", "differs", "cannot tell", "collapsed", "not measured"
VERDICTS = (AGREES, DIFFERS, UNSURE, COLLAPSED, MISSING)
_DIFFERENCE = ("difference", "low", "high", "p")


@dataclass(frozen=True)
class Rule:
    """When two numbers agree.

    Attributes:
        alpha: they differ where the p-value of no difference is below it after Holm's correction over all cells of the
            quantity.
        width: they agree where the interval of the difference (1 - alpha) holds zero and reaches no further than so
            many points to either side; else nothing can be told.

    Raises:
        ValueError: no cell could pass.
    """

    alpha: float = 0.05
    width: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or self.width <= 0:
            raise ValueError(
                f"alpha {self.alpha:g}, width {self.width:g}; take an alpha inside of 0..1, a width above 0"
            )

    def __str__(self) -> str:
        return (
            f"A cell *differs* where the p-value of no difference is below {self.alpha:g} after Holm's correction over "
            f"all measured cells of its quantity. It *agrees* where the {1 - self.alpha:.0%} interval of the "
            f"difference holds zero and reaches at most {self.width:g} points to either side. Where neither holds one "
            "*cannot tell*. An arm under which the model no longer answers has *collapsed*, whatever its numbers are."
        )


def compare(published: pd.DataFrame, measured: pd.DataFrame, rule: Rule | None = None) -> pd.DataFrame:
    """Compare the cells of ``measured_cells`` with those of ``reference_cells``.

    Returns:
        One row a published number: its columns and the measured ones; ``difference`` (measured minus published, in
        points or percent) from ``low`` to ``high``, its ``p`` and ``p_holm``; ``apart``, whether the interval leaves
        out zero, before any correction; ``verdict``, one of :data:`VERDICTS`; and ``without_guard``, what the verdict
        would be if no arm counted as collapsed.

        The interval is Student's, made of the two numbers' own bounds on the sides that face each other. For option
        probabilities, which are of one published item, it is where one item's difference lies in 95 of 100 cases, and
        the p-value is the rank of the published one among the measured items.

    Source:
        Zou and Donner, *Statistics in Medicine* 27 (2008), 1693-1702, for intervals of differences from two intervals;
        Welch, *Biometrika* 34 (1947), for their freedom.
    """
    rule = rule or Rule()
    cells = published.merge(measured, on=list(CELL), how="left", validate="one_to_one")
    differences = pd.DataFrame(np.nan, index=cells.index, columns=list(_DIFFERENCE))
    for make, rows in ((_of_items, cells["quantity"] == OPTIONS), (_of_means, cells["quantity"] != OPTIONS)):
        part = cells[rows & cells["measured"].notna()]
        if len(part):
            differences.loc[part.index] = make(part, rule.alpha).to_numpy()
    return _judged(pd.concat([cells.drop(columns="values"), differences], axis=1), rule)


def _of_means(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    difference = (cells["measured"] - cells["published"]).to_numpy(dtype=np.float64)
    # The difference's lower side is the measured number's lower and the published one's upper, and the other way.
    below, above = _side(cells, "measured_low", "published_high"), _side(cells, "measured_high", "published_low")
    error, freedom = np.where(difference >= 0, below, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(difference == 0, 0.0, np.abs(difference) / error)
    low = difference - below[0] * stats.t.isf(alpha / 2, below[1])
    high = difference + above[0] * stats.t.isf(alpha / 2, above[1])
    rows = np.column_stack([difference, low, high, 2 * stats.t.sf(scaled, freedom)])
    return pd.DataFrame(rows, index=cells.index, columns=list(_DIFFERENCE))


def _side(cells: pd.DataFrame, *ends: str) -> NDArray[np.float64]:
    """How far the difference of two numbers is uncertain on one side: its standard errors and their freedom."""
    halves = [np.abs(cells[end] - cells[end.partition("_")[0]]).to_numpy(dtype=np.float64) for end in ends]
    freedoms = [np.maximum(cells[name].to_numpy(dtype=np.float64) - 1, 1) for name in ("n", "published_n")]
    pairs = list(zip(halves, freedoms, strict=True))
    squares = [(half / stats.t.isf((1 - LEVEL) / 2, freedom)) ** 2 for half, freedom in pairs]
    total = sum(squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / sum(square**2 / own for square, own in zip(squares, freedoms, strict=True))
    return np.array([np.sqrt(total), np.where(np.isfinite(freedom), freedom, 1.0)])


def _of_items(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One published item among the measured ones: it differs where few of them lie as far out."""
    rows = []
    for cell in cells.to_dict("records"):
        values, published = np.asarray(cell["values"]), cell["published"]
        outside = min((values <= published).sum(), (values >= published).sum())
        bounds = [cell[name] - published for name in ("measured", "measured_low", "measured_high")]
        rows.append([*bounds, min(1.0, 2 * (1 + outside) / (len(values) + 1))])
    return pd.DataFrame(rows, index=cells.index, columns=list(_DIFFERENCE))


def _judged(cells: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    measured = cells["p"].notna()
    cells["p_holm"] = np.nan
    for _, part in cells[measured].groupby("quantity", sort=False):
        cells.loc[part.index, "p_holm"] = adjust(part["p"])
    reach = np.maximum(cells["difference"] - cells["low"], cells["high"] - cells["difference"])
    cells["apart"] = measured & (cells["p"] < rule.alpha)
    verdicts = {
        MISSING: ~measured,
        DIFFERS: cells["p_holm"] < rule.alpha,
        AGREES: ~cells["apart"] & (reach <= rule.width),
    }
    cells["without_guard"] = np.select(list(verdicts.values()), list(verdicts), UNSURE)
    cells["verdict"] = cells["without_guard"].mask(cells["collapsed"].eq(True), COLLAPSED)
    return cells


def summary(cells: pd.DataFrame, rule: Rule | None = None) -> pd.DataFrame:
    """What the cells of :func:`compare`, judged by a rule, come to by quantity.

    Returns:
        One row a quantity: ``cells``, the published numbers; how many have each verdict; ``apart``, the share of those
        measured and not collapsed whose interval leaves out zero before any correction, beside ``by_chance``, the share
        to be expected where nothing differs; ``mean_size``, the mean absolute difference, beside ``noise``, what the
        uncertainty of both numbers alone would give; and Spearman's ``rank_correlation`` of measured and published
        cells, the pattern, from ``rank_low`` to ``rank_high`` over conditions. What cannot be had is missing.
    """
    alpha = (rule or Rule()).alpha
    rows = [_summed(name, cells[cells["quantity"] == name], alpha) for name in QUANTITIES]
    return pd.DataFrame([one for one in rows if one["cells"]])


def _summed(name: str, cells: pd.DataFrame, alpha: float) -> dict[str, object]:
    sound = cells[cells["verdict"].isin((AGREES, DIFFERS, UNSURE))]
    counts = cells["verdict"].value_counts()
    # Of a normal difference with these bounds the mean size is so many of its standard errors.
    error = (sound["high"] - sound["low"]) / 2 / stats.norm.isf(alpha / 2)
    return {
        "quantity": name,
        "cells": len(cells),
        **{verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
        "apart": sound["apart"].mean() if len(sound) else np.nan,
        "by_chance": alpha,
        "mean_size": sound["difference"].abs().mean(),
        "noise": np.nan if name == OPTIONS else error.mean() * np.sqrt(2 / np.pi),
        **dict(zip(("rank_correlation", "rank_low", "rank_high"), _pattern(sound), strict=True)),
    }


def _pattern(cells: pd.DataFrame) -> Interval:
    if len(cells) < 3 or cells["measured"].nunique() < 2 or cells["published"].nunique() < 2:
        return Interval(np.nan, np.nan, np.nan)
    where = (cells["condition"] + " " + cells["coefficient"].astype(str)).to_list()
    return clustered_rank_correlation(cells["measured"].astype(float), cells["published"], where)
