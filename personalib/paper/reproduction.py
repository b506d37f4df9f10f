"""Reproduction: a finished evaluation compared with the published numbers, cell by cell, by a rule that is stated.

A difference is measured minus published. Both numbers are taken as independent, each with its own uncertainty. Where
the very same items were asked they are not, and a difference is then surer than its interval says: the rule errs toward
"cannot tell", and toward "agrees".
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from personalib.base.statistics import Interval, adjust, clustered_rank_correlation
from personalib.evaluation.runs import EvaluationRun
from personalib.paper.measured_cells import LEVEL, measured_cells
from personalib.paper.protocol import Protocol
from personalib.paper.published_cells import CELL, OPTIONS, QUANTITIES, reference_cells
from personalib.steering.settings import Guard

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


class _Sides(NamedTuple):
    """How far two numbers are uncertain on the sides that face each other, in standard errors and their freedom."""

    error: NDArray[np.float64]
    freedom: NDArray[np.float64]


def compare_run(
    run: EvaluationRun, protocol: Protocol, rule: Rule | None = None, guard: Guard | None = None
) -> pd.DataFrame:
    """Compare a run with everything that was published of its model.

    Args:
        run: a finished evaluation of one model.
        protocol: whose rule of scoring is used.
        rule: when two numbers agree.
        guard: from where on an arm counts as collapsed.

    Returns:
        See :func:`compare`.

    Raises:
        DataError: nothing was published of this model, or the run is not whole.
    """
    published = reference_cells(run.model)
    return compare(published, measured_cells(run, protocol.scoring, guard), rule)


def compare(published: pd.DataFrame, measured: pd.DataFrame, rule: Rule | None = None) -> pd.DataFrame:
    """Compare measured cells with published ones.

    Args:
        published: of :func:`personalib.paper.published_cells.reference_cells`.
        measured: of :func:`personalib.paper.measured_cells.measured_cells`.
        rule: when two numbers agree.

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
    found = pd.DataFrame(np.nan, index=cells.index, columns=list(_DIFFERENCE))
    for make, rows in ((_of_items, cells["quantity"] == OPTIONS), (_of_means, cells["quantity"] != OPTIONS)):
        own = cells[rows & cells["measured"].notna()]
        if len(own):
            found.loc[own.index] = make(own, rule.alpha).to_numpy()
    cells = pd.concat([cells.drop(columns="values"), found], axis=1)
    return _judged(cells, rule)


def _of_means(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    difference = (cells["measured"] - cells["published"]).to_numpy(dtype=np.float64)
    below, above = _sides(cells, upper=False), _sides(cells, upper=True)
    facing = _Sides(*(np.where(difference >= 0, one, other) for one, other in zip(below, above, strict=True)))
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(difference == 0, 0.0, np.abs(difference) / facing.error)
    found = {
        "difference": difference,
        "low": difference - below.error * stats.t.isf(alpha / 2, below.freedom),
        "high": difference + above.error * stats.t.isf(alpha / 2, above.freedom),
        "p": 2 * stats.t.sf(scaled, facing.freedom),
    }
    return pd.DataFrame(found, index=cells.index)[list(_DIFFERENCE)]


def _sides(cells: pd.DataFrame, *, upper: bool) -> _Sides:
    """The difference's upper side is the measured number's upper and the published one's lower, and the other way."""
    tail = (1 - LEVEL) / 2
    ends = ("measured_high", "published_low") if upper else ("measured_low", "published_high")
    halves = [np.abs(cells[end] - cells[end.partition("_")[0]]).to_numpy(dtype=np.float64) for end in ends]
    freedoms = [np.maximum(cells[name].to_numpy(dtype=np.float64) - 1, 1) for name in ("n", "published_n")]
    squares = [(half / stats.t.isf(tail, freedom)) ** 2 for half, freedom in zip(halves, freedoms, strict=True)]
    total = sum(squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / sum(one**2 / own for one, own in zip(squares, freedoms, strict=True))
    return _Sides(np.sqrt(total), np.where(np.isfinite(freedom), freedom, 1.0))


def _of_items(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One published item among the measured ones: it differs where few of them lie as far out."""
    rows = []
    for one in cells.to_dict("records"):
        values, there = np.asarray(one["values"]), one["published"]
        outside = min((values <= there).sum(), (values >= there).sum())
        p = min(1.0, 2 * (1 + outside) / (len(values) + 1))
        low, high = one["measured_low"] - there, one["measured_high"] - there
        rows.append((one["measured"] - there, low, high, p))
    return pd.DataFrame(rows, index=cells.index, columns=list(_DIFFERENCE))


def _judged(cells: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    cells["p_holm"] = np.nan
    for _, own in cells[cells["p"].notna()].groupby("quantity", sort=False):
        cells.loc[own.index, "p_holm"] = adjust(own["p"])
    there = cells["p"].notna()
    reach = np.maximum(cells["difference"] - cells["low"], cells["high"] - cells["difference"])
    cells["apart"] = there & (cells["p"] < rule.alpha)
    cells["without_guard"] = np.select(
        [~there, cells["p_holm"] < rule.alpha, ~cells["apart"] & (reach <= rule.width)],
        [MISSING, DIFFERS, AGREES],
        UNSURE,
    )
    collapsed = cells["collapsed"].eq(True)
    cells["verdict"] = cells["without_guard"].mask(collapsed, COLLAPSED)
    return cells


def summary(cells: pd.DataFrame, rule: Rule | None = None) -> pd.DataFrame:
    """What the cells come to, by quantity.

    Args:
        cells: of :func:`compare`.
        rule: the one that they were judged by.

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
