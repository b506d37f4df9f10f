"""Scores: what answers come to, item by item for every kind of questionnaire, and for traits in all.

What could not be read is missing, and never guessed.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from personalib.base.data import choose
from personalib.base.records import ItemError
from personalib.base.statistics import Interval, bootstrap_interval, proportion_interval
from personalib.questionnaires.extraction import chosen_option
from personalib.questionnaires.items import RESPONSE_ORDERS

POSITIONS = ("A", "B", "C", "D")
# Below this answer mass an item counts as not read: fewer than one next token in ten is an answer at all.
FLOOR = 0.1
# The order of TRAIT's published argmax: at an exact tie the first of these wins.
_RESPONSES = ("high1", "high2", "low1", "low2")
# Decimals that decide a choice: shares that differ by less are tied, and not told apart by rounding errors.
_DECIMALS = 9
_UNIT = ("arm", "group", "item", "cluster", "template")
_BY = ("arm", "template")
_ITEM = ("group", "item")
_COLUMNS = [f"p_{response}" for response in _RESPONSES]
_SAME = ("same_response", "same_level")
_UNKNOWN = Interval(np.nan, np.nan, np.nan)


def per_item(answers: pd.DataFrame, *, by: Sequence[str] = _BY, floor: float = FLOOR) -> pd.DataFrame:
    """The share of high answers to each trait item: normalised within an order, then averaged over both.

    Args:
        answers: of :func:`personalib.evaluation.ask.evaluate` to a trait questionnaire, or any table with ``group``,
            ``item``, ``order``, ``p_high1``, ``p_low1``, ``p_high2``, ``p_low2`` and the columns in ``by``.
        by: columns that tell conditions apart, such as ``"dose"``.
        floor: least answer mass, in both orders, of an item that counts as read. 0 reads whatever is left, as
            published.

    Returns:
        One row an item and condition: the averaged shares ``high1``, ``high2``, ``low1``, ``low2`` (their sum is
        1), ``high`` (the two high ones together), ``choice`` (the response with the largest share), its
        ``level`` (``"high"`` or ``"low"``), ``tied`` (a high and a low response share the largest), ``mass`` (mean over
        the orders) and ``read``. An item that could not be read stays, with missing shares and choice.

    Raises:
        ItemError: a column is missing, an item lacks an order or has one twice, or a probability is not one.
    """
    units = _shares(answers, by, floor).groupby([*by, *_ITEM], sort=False)
    read = units["read"].all()
    table = units[list(_RESPONSES)].mean().where(read)
    table["high"] = table["high1"] + table["high2"]
    table["choice"] = _chosen(table)
    table["level"] = table["choice"].str[:-1].where(read)
    rounded = table.round(_DECIMALS)
    table["tied"] = rounded[["high1", "high2"]].max(axis=1) == rounded[["low1", "low2"]].max(axis=1)
    return table.assign(mass=units["mass"].mean(skipna=False), read=read).reset_index()


def check_read(counts: pd.Series, least: int = 2, what: str = "items") -> None:
    """Notice before anything is made of it that too little could be read.

    An ItemError names what, of ``counts``, less than ``least`` was read of.
    """
    if counts.min() < least:
        raise ItemError(
            f"{counts.idxmin()}: {counts.min():.0f} {what} could be read, and at least {least} are needed; an answer "
            f"is missing where the options get less than {FLOOR:.0%} of the probability: ask more items, put them in "
            "another template or form, or take a model that answers with an option"
        )


def score_published(
    answers: pd.DataFrame, *, by: Sequence[str] = _BY, floor: float = FLOOR, seed: int = 0
) -> pd.DataFrame:
    """The published score of each trait: 100 · high / (high + low), counting the level of each item's choice.

    With ``floor=0`` it is the published number, but for items without any answer mass: the published code
    counts those as high, here they are missing. A tie goes to high, as published; ``tied`` counts how often.

    Returns:
        One row a condition and trait: ``value`` (0 to 100), its 95 % bootstrap interval over items from ``low`` to
        ``high``, ``n`` items read, ``missing`` ones, ``mass``, the mean answer mass over all items that have one, and
        ``tied``. Without any item read the value is NaN. Arguments and errors are those of :func:`per_item`.

    Source:
        Lee et al. (arXiv 2406.14703) and their published code, as used in arXiv 2410.10863.
    """
    items = per_item(answers, by=by, floor=floor)
    items["value"] = 100.0 * (items["level"] == "high")
    ties = items.groupby([*by, "group"], sort=False)["tied"].sum()
    return _score(items, by, seed).assign(tied=ties.to_numpy())


def score_mass(answers: pd.DataFrame, *, by: Sequence[str] = _BY, floor: float = FLOOR, seed: int = 0) -> pd.DataFrame:
    """The probability-mass score of each trait: 100 times the mean over items of the two high responses' share.

    It uses how sure the model is, where :func:`score_published` keeps only which response came first. Arguments, errors
    and result are those of :func:`score_published`, without ``tied``.
    """
    items = per_item(answers, by=by, floor=floor)
    return _score(items.assign(value=100.0 * items["high"]), by, seed)


def positional_bias(
    answers: pd.DataFrame, *, by: Sequence[str] = _BY, over: Sequence[str] = ("template",), floor: float = FLOOR
) -> pd.DataFrame:
    """How much the place of an option counts: the share of each position, and what survives reversing the order.

    A unit is an item in a condition. There is a row for each value of ``over``, columns out of ``by``, ``"group"`` and
    ``"item"``, and one in all for none of them; the other arguments and errors are those of :func:`per_item`.

    Returns:
        ``A`` to ``D``, the mean normalised probability of each position over
        units and orders; ``same_response`` and ``same_level``, the share of units whose choice, or the level
        of it, is the same in both orders, each with Wilson's 95 % interval (``…_low``, ``…_high``; too narrow
        where an item counts once in each of many conditions); ``n`` units read and ``missing`` ones.
    """
    rows = _shares(answers, by, floor)
    placed = pd.concat(
        rows.loc[rows["order"] == order, list(responses)].set_axis(list(POSITIONS), axis=1)
        for order, responses in RESPONSE_ORDERS.items()
    )
    choice = _chosen(rows)
    rows = rows.join(placed).assign(same_response=choice, same_level=choice.str[:-1])
    means, same = dict.fromkeys(POSITIONS, "mean"), dict.fromkeys(_SAME, "nunique")
    units = rows.groupby([*by, *_ITEM], sort=False).agg(means | same | {"read": "all"})
    units[list(_SAME)] = units[list(_SAME)] == 1
    groups = _groups(units.reset_index(), over)
    return pd.DataFrame([dict(zip(over, key, strict=True)) | _bias(group) for key, group in groups])


def item_scores(kind: str, answers: pd.DataFrame) -> pd.DataFrame:
    """The score of each item under each arm.

    Args:
        kind: of the questionnaire: ``"trait"``, ``"choice"``, ``"judgement"``, ``"scale"`` or ``"pairs"``.
        answers: of :func:`personalib.evaluation.ask.evaluate`.

    Returns:
        One row an arm, item and template: ``arm``, ``group``, ``item``, ``cluster``, ``template``, ``value``, ``mass``
        and what the kind has besides. A ``value`` is missing where the answer could not be read. It is

        - for traits 100 · the share of the high responses, both orders together; beside it ``published``, 100 where a
          high response has the largest share, as the published score counts;
        - for choices 100 where the right option has the largest share, else 0, the mean over orders; for answers in
          words 100 where the right one is named, the mean over the samples that could be read, with ``fallback``, the
          same over all samples with what blind guessing would get in the place of an unreadable one;
        - for judgements 100 where the judgement is right, the mean over both answers; with ``yes``, 100 · the share
          of yes among them, and ``fallback`` as above where they are in words;
        - for scales the expected rating from 0 to 100, turned round for a reversed item;
        - for word pairs the difference of the two words' logits, in nats.

    Raises:
        ValueError: the kind is unknown.
        ItemError: an item lacks an order.
    """
    return _KINDS[choose(kind, _KINDS, "kind")](answers)


def named_options(answers: pd.DataFrame) -> list[int | None]:
    """The place of the option that each answer in words names; see :mod:`personalib.questionnaires.extraction`."""
    lists = answers[["labels", "options"]].map(json.loads)
    asked = zip(answers["text"], lists["labels"], lists["options"], strict=True)
    return [chosen_option(text, labels, options) for text, labels, options in asked]


def _trait(answers: pd.DataFrame) -> pd.DataFrame:
    items = per_item(answers)
    items["value"] = 100 * items["high"]
    items["published"] = (100.0 * (items["level"] == "high")).where(items["read"])
    return items.assign(cluster=items["item"])[[*_UNIT, "value", "published", "mass"]]


def _choice(answers: pd.DataFrame) -> pd.DataFrame:
    return _words(answers, "right", ["value", "fallback", "mass"]) if "text" in answers else _options(answers)


def _options(answers: pd.DataFrame) -> pd.DataFrame:
    shares = answers.filter(regex="^p_").fillna(-1.0)
    # To so many decimals as elsewhere, so that rounding errors decide nothing.
    shares = shares.round(_DECIMALS)
    best = shares.eq(shares.max(axis=1), axis=0)
    # Where several share the largest probability, the right one is chosen as often as any of them.
    right = 100.0 * best["p_right"] / best.sum(axis=1)
    rows = answers.assign(value=right.where(answers["mass"] >= FLOOR))
    return _mean_over_orders(rows, ["value", "mass"])


def _words(answers: pd.DataFrame, right: str | pd.Series, columns: list[str]) -> pd.DataFrame:
    """Answers in words, of which the one that names a role is right."""
    roles, places = answers["roles"].map(json.loads), named_options(answers)
    said = [None if place is None else own[place] for place, own in zip(places, roles, strict=True)]
    named = pd.Series(said, answers.index, dtype=object)
    value, yes = ((100.0 * (named == role)).where(named.notna()) for role in (right, "yes"))
    rows = answers.assign(value=value, fallback=value.fillna(100.0 / roles.str.len()), yes=yes, mass=np.nan)
    # Of several samples those count that could be read.
    return _mean_over_orders(rows.groupby([*_UNIT, "order"], sort=False)[columns].mean().reset_index(), columns)


def _judgement(answers: pd.DataFrame) -> pd.DataFrame:
    if "text" in answers:
        right = answers["order"].map({"right": "yes"}).fillna("no")
        return _words(answers, right, ["value", "fallback", "yes", "mass"])
    share = (answers["p_yes"] / answers["mass"]).where(answers["mass"] >= FLOOR)
    said = (100.0 * (share > 0.5)).where(share.notna())
    right = said.where(answers["order"] == "right", 100 - said)
    return _mean_over_orders(answers.assign(value=right, yes=said), ["value", "yes", "mass"])


def _scale(answers: pd.DataFrame) -> pd.DataFrame:
    shares = answers.filter(regex="^p_")
    ratings = np.array([int(name.removeprefix("p_")) for name in shares], dtype=np.float64)
    expected = (shares.to_numpy() @ (ratings - 1)) / answers["mass"] / (ratings.max() - 1)
    turned = expected.where(answers["order"] == "normal", 1 - expected)
    return answers.assign(value=(100 * turned).where(answers["mass"] >= FLOOR))[[*_UNIT, "value", "mass"]]


def _pairs(answers: pd.DataFrame) -> pd.DataFrame:
    with np.errstate(divide="ignore"):
        value = np.log(answers["p_attribute"]) - np.log(answers["p_opposite"])
    # A word without any probability has no logit to speak of.
    return answers.assign(value=value.where(np.isfinite(value)), mass=np.nan)[[*_UNIT, "value", "mass"]]


def _mean_over_orders(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row an item: missing where one of its orders is."""
    return rows.groupby(list(_UNIT), sort=False)[columns].mean(skipna=False).reset_index()


def _shares(answers: pd.DataFrame, by: Sequence[str], floor: float) -> pd.DataFrame:
    """The share of each response in each order, the normal one first, and whether it could be read."""
    _check_rows(answers, [*by, *_ITEM])
    rows = answers.sort_values("order", kind="stable", ignore_index=True)
    mass = rows[_COLUMNS].sum(axis=1, skipna=False)
    # Without any mass there is no share: 0 / 0 is missing, not a tie.
    shares = rows[_COLUMNS].div(mass.where(mass > 0), axis=0).set_axis(list(_RESPONSES), axis=1)
    read = shares.notna().all(axis=1) & (mass >= floor)
    return rows[[*by, *_ITEM, "order"]].join(shares).assign(mass=mass, read=read)


def _check_rows(answers: pd.DataFrame, keys: Sequence[str]) -> None:
    """Refuse rows that would be dropped, mixed up or misread on the way, and items that are not once in every order."""
    absent = [column for column in (*keys, "order", *_COLUMNS) if column not in answers.columns]
    if absent:
        raise ItemError(f"the answers have no column {', '.join(absent)}; evaluate writes them, `by` names yours")
    if answers.empty:
        raise ItemError("there are no answers to score; ask at least one item")
    if not answers["order"].isin(list(RESPONSE_ORDERS)).all():
        raise ItemError(f"the answers hold the orders {set(answers['order'])}; use {', '.join(RESPONSE_ORDERS)}")
    if answers[list(keys)].isna().any(axis=None):
        raise ItemError(f"a value of {', '.join(keys)} is missing; every row needs them")
    # Written so that NaN passes: a missing probability is an item not read, a wrong one is a mistake.
    wrong = (answers[_COLUMNS] < 0).any(axis=1) | (answers[_COLUMNS].sum(axis=1) > 1 + 1e-3)
    if wrong.any():
        place = _place(keys, answers[wrong].iloc[0])
        raise ItemError(f"{place}: the probabilities are not between 0 and 1; pass probabilities, not logits")
    repeated = answers[answers.duplicated([*keys, "order"])]
    if len(repeated):
        raise ItemError(
            f"{_place(keys, repeated.iloc[0])}: the order {repeated['order'].iloc[0]!r} is there more than once; "
            "name the columns that tell the conditions apart in `by`"
        )
    alone = answers[~answers.duplicated(list(keys), keep=False)]
    if len(alone):
        [lacking] = set(RESPONSE_ORDERS) - {alone["order"].iloc[0]}
        raise ItemError(f"{_place(keys, alone.iloc[0])}: the order {lacking!r} is missing; ask both orders")


def _place(keys: Sequence[str], row: pd.Series) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys)


def _chosen(shares: pd.DataFrame) -> pd.Series:
    """The response with the largest share; missing where the shares are."""
    table = shares[list(_RESPONSES)]
    first = table.round(_DECIMALS).fillna(-1.0).to_numpy().argmax(axis=1)
    chosen = pd.Series(np.array(_RESPONSES, dtype=object)[first], index=table.index, dtype="str")
    return chosen.where(table.notna().all(axis=1))


def _score(items: pd.DataFrame, by: Sequence[str], seed: int) -> pd.DataFrame:
    """Mean and interval of the items' ``value`` for each condition and trait."""
    keys, rows = [*by, "group"], []
    for key, group in _groups(items, keys):
        values = group.loc[group["read"], "value"].to_numpy(dtype=np.float64)
        interval = bootstrap_interval(values, seed=seed) if len(values) else _UNKNOWN
        score = {"value": interval.estimate, "low": interval.low, "high": interval.high}
        rows.append(dict(zip(keys, key, strict=True)) | score | _counts(group) | {"mass": group["mass"].mean()})
    return pd.DataFrame(rows)


def _groups(table: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    """The rows of each value of the keys, in the order in which they come."""
    return list(table.groupby(list(keys), sort=False)) if keys else [((), table)]


def _counts(group: pd.DataFrame) -> dict[str, object]:
    read = int(group["read"].sum())
    return {"n": read, "missing": len(group) - read}


def _bias(group: pd.DataFrame) -> dict[str, object]:
    read = group[group["read"]]
    found: dict[str, object] = read[list(POSITIONS)].mean().to_dict()
    for name in _SAME:
        share = proportion_interval(int(read[name].sum()), len(read)) if len(read) else _UNKNOWN
        found |= {name: share.estimate, f"{name}_low": share.low, f"{name}_high": share.high}
    return found | _counts(group)


_KINDS: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "trait": _trait,
    "choice": _choice,
    "judgement": _judgement,
    "scale": _scale,
    "pairs": _pairs,
}
