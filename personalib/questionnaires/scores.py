"""Scores of an evaluation: what each item's answers come to under each arm, by kind of questionnaire.

Every kind comes to one table of the same form, so that arms are compared in the same way whatever was asked.
"""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from personalib.questionnaires.extraction import chosen_option
from personalib.questionnaires.scoring import DECIMALS, FLOOR, per_item

_UNIT = ("arm", "group", "item", "cluster", "template")


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
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of {', '.join(_KINDS)}")
    return _KINDS[kind](answers)


def named_options(answers: pd.DataFrame) -> list[int | None]:
    """The place of the option that each answer in words names; see :mod:`personalib.questionnaires.extraction`."""
    lists = answers[["labels", "options"]].map(json.loads)
    asked = zip(answers["text"], lists["labels"], lists["options"], strict=True)
    return [chosen_option(text, labels, options) for text, labels, options in asked]


def _trait(answers: pd.DataFrame) -> pd.DataFrame:
    rows = answers.rename(columns={"group": "personality", "item": "idx"})
    items = per_item(rows, by=("arm", "template")).rename(columns={"personality": "group", "idx": "item"})
    items["value"] = 100 * items["high"]
    items["published"] = (100.0 * (items["pole"] == "high")).where(items["read"])
    return items.assign(cluster=items["item"])[[*_UNIT, "value", "published", "mass"]]


def _choice(answers: pd.DataFrame) -> pd.DataFrame:
    return _words(answers, "right", ["value", "fallback", "mass"]) if "text" in answers else _options(answers)


def _options(answers: pd.DataFrame) -> pd.DataFrame:
    shares = answers.filter(regex="^p_").fillna(-1.0)
    # To so many decimals as elsewhere, so that rounding errors decide nothing.
    shares = shares.round(DECIMALS)
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
    groups = rows.groupby(list(_UNIT), sort=False)[columns]
    return (
        groups.mean()
        .where(rows[columns].isna().groupby([rows[one] for one in _UNIT], sort=False).sum() == 0)
        .reset_index()
    )


_KINDS: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "trait": _trait,
    "choice": _choice,
    "judgement": _judgement,
    "scale": _scale,
    "pairs": _pairs,
}
