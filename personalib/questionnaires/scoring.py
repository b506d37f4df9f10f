"""Scoring: from option probabilities to trait scores, what could not be read, and what the position did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.records import ItemError
from personalib.base.statistics import Interval, bootstrap_interval, proportion_interval
from personalib.questionnaires.items import RESPONSE_ORDERS

POSITIONS = ("A", "B", "C", "D")
# The order of TRAIT's published argmax: at an exact tie the first of these wins.
RESPONSES = ("high1", "high2", "low1", "low2")
# Below this answer mass an item counts as not read: fewer than one next token in ten is an answer at all.
FLOOR = 0.1

_BY = ("template", "context_id")
_ITEM = ("personality", "idx")
# Decimals that decide a choice: shares that differ by less are tied, and not told apart by rounding errors.
DECIMALS = 9
_COLUMNS = [f"p_{response}" for response in RESPONSES]


def per_item(rows: pd.DataFrame, *, by: Sequence[str] = _BY, floor: float = FLOOR) -> pd.DataFrame:
    """Both orders of each item put together: normalised within an order, then averaged per response.

    Args:
        rows: from :func:`personalib.questionnaires.trait_questions.ask_trait`, or any table with ``personality``,
            ``idx``, ``order``, ``p_high1``, ``p_low1``, ``p_high2``, ``p_low2`` and the columns in ``by``.
        by: columns that tell conditions apart, such as ``"coefficient"``.
        floor: least answer mass, in both orders, of an item that counts as read. 0 reads whatever is left, as
            published.

    Returns:
        One row an item and condition: the averaged shares ``high1``, ``high2``, ``low1``, ``low2`` (their sum is
        1), ``high`` (the two high ones together), ``choice`` (the response with the largest share), ``pole``
        (``"high"`` or ``"low"``), ``tied`` (a high and a low response share the largest), ``mass`` (mean over
        the orders) and ``read``. An item that could not be read stays, with missing shares and choice.

    Raises:
        ItemError: a column is missing, an item lacks an order or has one twice, or a probability is not one.

    Example:
        >>> rows = pd.DataFrame({"personality": "openness", "idx": 1, "order": ["normal", "reversed"]})
        >>> rows[["p_high1", "p_low1"]] = list(zip([0.4, 0.2], [0.2, 0.4]))
        >>> rows[["p_high2", "p_low2"]] = [0.1, 0.1]
        >>> per_item(rows, by=())[["high", "pole", "tied", "mass"]].round(6).values.tolist()
        [[0.5, 'high', True, 0.8]]
    """
    orders = _by_order(rows, by)
    mean = sum(order.shares for order in orders.values()) / len(orders)
    masses = pd.concat([order.mass for order in orders.values()], axis=1)
    read = mean.notna().all(axis=1) & masses.ge(floor).all(axis=1)
    table = mean.where(read)
    table["high"] = table["high1"] + table["high2"]
    table["choice"] = _choice(table)
    table["pole"] = table["choice"].str[:-1].where(read)
    rounded = table.round(DECIMALS)
    table["tied"] = rounded[["high1", "high2"]].max(axis=1) == rounded[["low1", "low2"]].max(axis=1)
    return table.assign(mass=masses.mean(axis=1, skipna=False), read=read).reset_index()


def check_read(counts: pd.Series, least: int = 2, what: str = "items") -> None:
    """Notice before anything is made of it that too little could be read.

    Args:
        counts: how much was read of each thing, by its name.
        least: how much has to be.
        what: is counted.

    Raises:
        ItemError: of something less was read.

    Example:
        >>> check_read(pd.Series({"openness": 12, "narcissism": 3}))
    """
    if counts.min() < least:
        raise ItemError(
            f"{counts.idxmin()}: {counts.min():.0f} {what} could be read, and at least {least} are needed; an answer "
            f"is missing where the options get less than {FLOOR:.0%} of the probability: ask more items, put them in "
            "another template or form, or take a model that answers with an option"
        )


def score_published(
    rows: pd.DataFrame,
    *,
    by: Sequence[str] = _BY,
    floor: float = FLOOR,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The published score of each trait: 100 · high / (high + low), counting the pole of each item's choice.

    With ``floor=0`` it is the published number, but for items without any answer mass: the published code
    counts those as high, here they are missing. A tie goes to high, as published; ``tied`` counts how often.

    Args:
        rows: as for :func:`per_item`.
        by: columns that tell conditions apart.
        floor: least answer mass of an item that counts as read.
        level: of the bootstrap interval over items.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        One row a condition and trait: ``score`` (0 to 100), ``ci_low`` and ``ci_high``, ``n`` (items read),
        ``missing`` (items not read), ``mass`` (mean answer mass over all items that have one) and ``tied``.
        Without any item read the score is NaN.

    Raises:
        ItemError: see :func:`per_item`.

    Source:
        Lee et al. (arXiv 2406.14703) and their published code, as used in arXiv 2410.10863.

    Example:
        >>> rows = pd.DataFrame({"personality": "openness", "idx": 1, "order": ["normal", "reversed"]})
        >>> rows[["p_high1", "p_low1"]] = list(zip([0.6, 0.6], [0.2, 0.2]))
        >>> rows[["p_high2", "p_low2"]] = [0.1, 0.1]
        >>> score_published(rows, by=())[["score", "n"]].values.tolist()
        [[100.0, 1.0]]
    """
    items = per_item(rows, by=by, floor=floor)
    items["value"] = 100.0 * (items["pole"] == "high")
    return _score(items, by, level, resamples, seed, counted=("tied",))


def score_mass(
    rows: pd.DataFrame,
    *,
    by: Sequence[str] = _BY,
    floor: float = FLOOR,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The probability-mass score of each trait: 100 × the mean over items of the two high responses' share.

    It uses how sure the model is, where :func:`score_published` keeps only which response came first.

    Args:
        rows: as for :func:`per_item`.
        by: columns that tell conditions apart.
        floor: least answer mass of an item that counts as read.
        level: of the bootstrap interval over items.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        As :func:`score_published`, without ``tied``.

    Raises:
        ItemError: see :func:`per_item`.

    Example:
        >>> rows = pd.DataFrame({"personality": "openness", "idx": 1, "order": ["normal", "reversed"]})
        >>> rows[["p_high1", "p_low1"]] = list(zip([0.6, 0.4], [0.2, 0.4]))
        >>> rows[["p_high2", "p_low2"]] = [0.1, 0.1]
        >>> score_mass(rows, by=())["score"].round(6).tolist()
        [60.0]
    """
    items = per_item(rows, by=by, floor=floor)
    items["value"] = 100.0 * items["high"]
    return _score(items, by, level, resamples, seed, counted=())


def positional_bias(
    rows: pd.DataFrame,
    *,
    by: Sequence[str] = _BY,
    over: Sequence[str] = ("template",),
    floor: float = FLOOR,
) -> pd.DataFrame:
    """How much the place of an option counts: the share of each position, and what survives reversing the order.

    Args:
        rows: as for :func:`per_item`.
        by: columns that tell conditions apart; a unit is an item in a condition.
        over: columns of the result's rows, at least one, out of ``by``, ``"personality"`` and ``"idx"``.
        floor: least answer mass of a unit that counts as read.

    Returns:
        One row for each value of ``over``: ``A`` to ``D``, the mean normalised probability of each position over
        units and orders; ``same_response`` and ``same_pole``, the share of units whose choice, or the pole of
        it, is the same in both orders, each with Wilson's 95 % interval (``…_low``, ``…_high``; too narrow
        where an item counts once in each of many conditions); ``n`` units read and ``missing`` ones.

    Raises:
        ItemError: see :func:`per_item`.

    Example:
        >>> rows = pd.DataFrame({"personality": "openness", "idx": 1, "order": ["normal", "reversed"]})
        >>> rows[["p_high1", "p_low1"]] = list(zip([1.0, 0.0], [0.0, 1.0]))
        >>> rows[["p_high2", "p_low2"]] = [0.0, 0.0]
        >>> positional_bias(rows, by=(), over=("personality",))[["A", "same_pole"]].values.tolist()
        [[1.0, 0.0]]
    """
    orders = _by_order(rows, by)
    units = sum(_positions(order.shares, name) for name, order in orders.items()) / len(orders)
    choices = {name: _choice(order.shares) for name, order in orders.items()}
    units["same_response"] = choices["normal"] == choices["reversed"]
    units["same_pole"] = choices["normal"].str[:-1] == choices["reversed"].str[:-1]
    units["read"] = units[list(POSITIONS)].notna().all(axis=1) & (
        np.minimum(orders["normal"].mass, orders["reversed"].mass) >= floor
    )
    return _summarise(units.reset_index(), over, _bias)


@dataclass(frozen=True)
class _Order:
    """One option order of all items: normalised shares by response, and the answer mass."""

    shares: pd.DataFrame
    mass: pd.Series


def _by_order(rows: pd.DataFrame, by: Sequence[str]) -> dict[str, _Order]:
    """The two orders over the same items in the same sequence."""
    keys = [*by, *_ITEM]
    _check_rows(rows, keys)
    tables = {name: rows[rows["order"] == name].set_index(keys)[_COLUMNS] for name in RESPONSE_ORDERS}
    _check_complete(tables, keys)
    return {name: _normalised(table.reindex(tables["normal"].index)) for name, table in tables.items()}


def _normalised(table: pd.DataFrame) -> _Order:
    mass = table.sum(axis=1, skipna=False)
    # Without any mass there is no share: 0 / 0 is missing, not a tie.
    return _Order(table.div(mass.where(mass > 0), axis=0).set_axis(list(RESPONSES), axis=1), mass)


def _check_rows(rows: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse rows that would be dropped, mixed up or misread on the way."""
    absent = [column for column in (*keys, "order", *_COLUMNS) if column not in rows.columns]
    if absent:
        raise ItemError(f"the rows have no column {', '.join(absent)}; ask_trait writes them, `by` names yours")
    if rows.empty:
        raise ItemError("there are no rows to score; ask at least one item")
    if not rows["order"].isin(list(RESPONSE_ORDERS)).all():
        raise ItemError(f"the rows hold the orders {set(rows['order'])}; use {', '.join(RESPONSE_ORDERS)}")
    if rows[list(keys)].isna().any(axis=None):
        raise ItemError(f"a value of {', '.join(keys)} is missing; every row needs them")
    # Written so that NaN passes: a missing probability is an item not read, a wrong one is a mistake.
    wrong = (rows[_COLUMNS] < 0).any(axis=1) | (rows[_COLUMNS].sum(axis=1) > 1 + 1e-3)
    if wrong.any():
        place = _place(keys, rows.loc[wrong, list(keys)].iloc[0])
        raise ItemError(f"{place}: the probabilities are not between 0 and 1; pass probabilities, not logits")


def _check_complete(tables: Mapping[str, pd.DataFrame], keys: Sequence[str]) -> None:
    """Every item once in every order."""
    for name, table in tables.items():
        repeated = table.index[table.index.duplicated()]
        if len(repeated):
            raise ItemError(
                f"{_place(keys, repeated[0])}: the order {name!r} is there more than once; "
                "name the columns that tell the conditions apart in `by`"
            )
        for other in tables.values():
            lacking = other.index.difference(table.index, sort=False)
            if len(lacking):
                raise ItemError(f"{_place(keys, lacking[0])}: the order {name!r} is missing; ask both orders")


def _place(keys: Sequence[str], values: Sequence[object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))


def _choice(shares: pd.DataFrame) -> pd.Series:
    """The response with the largest share; missing where the shares are."""
    table = shares[list(RESPONSES)]
    first = table.round(DECIMALS).fillna(-1.0).to_numpy().argmax(axis=1)
    chosen = pd.Series(np.array(RESPONSES, dtype=object)[first], index=table.index, dtype="str")
    return chosen.where(table.notna().all(axis=1))


def _positions(shares: pd.DataFrame, order: str) -> pd.DataFrame:
    """The shares by position."""
    return shares[list(RESPONSE_ORDERS[order])].set_axis(list(POSITIONS), axis=1)


def _score(
    items: pd.DataFrame, by: Sequence[str], level: float, resamples: int, seed: int, counted: Sequence[str]
) -> pd.DataFrame:
    """Mean and interval of the items' ``value`` for each condition and trait."""

    def summary(group: pd.DataFrame) -> dict[str, object]:
        values = group.loc[group["read"], "value"].to_numpy(dtype=np.float64)
        interval = _interval(values, level, resamples, seed)
        return {
            "score": interval.estimate,
            "ci_low": interval.low,
            "ci_high": interval.high,
            **_counts(group),
            "mass": group["mass"].mean(),
            **{column: int(group[column].sum()) for column in counted},
        }

    return _summarise(items, [*by, "personality"], summary)


def _summarise(
    table: pd.DataFrame, keys: Sequence[str], summary: Callable[[pd.DataFrame], dict[str, object]]
) -> pd.DataFrame:
    """One row for each value of the keys, in the order they come."""
    groups = table.groupby(list(keys), sort=False)
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | summary(group) for key, group in groups])


def _interval(values: NDArray[np.float64], level: float, resamples: int, seed: int) -> Interval:
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap_interval(values, level=level, resamples=resamples, seed=seed)


def _counts(group: pd.DataFrame) -> dict[str, object]:
    read = int(group["read"].sum())
    return {"n": read, "missing": len(group) - read}


def _bias(group: pd.DataFrame) -> dict[str, object]:
    read = group[group["read"]]
    return {
        **read[list(POSITIONS)].mean().to_dict(),
        **_share("same_response", read),
        **_share("same_pole", read),
        **_counts(group),
    }


def _share(name: str, read: pd.DataFrame) -> dict[str, float]:
    """The share of units for which something holds, with Wilson's interval."""
    interval = Interval(np.nan, np.nan, np.nan)
    if len(read):
        interval = proportion_interval(int(read[name].sum()), len(read))
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
