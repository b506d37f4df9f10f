"""Effects in an evaluation: every arm against the model as it is, item by item, with what belongs beside a number."""

from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from personalib.base.statistics import adjust, clustered_interval, effect_size, paired_means, proportion_interval
from personalib.evaluation.ask import NEUTRAL
from personalib.questionnaires.scores import item_scores
from personalib.steering.settings import Guard

Array = NDArray[np.float64]
ALL = "all"
_ARM = ("model", "arm", "method", "key", "pole", "dose")
# What is right or wrong, or yes or no: bounds beyond 0 and 100 would be no bounds.
_SHARES = ("choice", "judgement")
_SHARE_COLUMNS = ("published", "yes", "fallback")
# Changes below this are rounding of float32 arithmetic, and no change.
_ROUNDING = 1e-3


def of_questionnaire(answers: pd.DataFrame, name: str) -> pd.DataFrame:
    """The answers to one questionnaire, without the columns that only others have."""
    rows = answers[answers["questionnaire"] == name]
    lacking = [column for column in rows if column not in _ARM and rows[column].isna().all()]
    return rows.drop(columns=lacking).reset_index(drop=True)


def questionnaires_of(answers: pd.DataFrame) -> dict[str, str]:
    """The kind of each questionnaire, by name; neutral questions are none."""
    rows = answers[answers["questionnaire"] != NEUTRAL]
    return dict(rows[["questionnaire", "kind"]].drop_duplicates().itertuples(index=False))


def health(answers: pd.DataFrame, guard: Guard | None = None) -> pd.DataFrame:
    """How whole the model is under each arm while it answers each questionnaire.

    Where the model as it is was not asked, it is a ValueError, here and for all that compares with it.

    Returns:
        One row a questionnaire and arm: ``questionnaire``, what names the arm, ``mass``, the mean answer mass, and
        ``perplexity`` of neutral answers, both in units of the unsteered model's, and ``collapsed``. Where one of the
        two was not measured, the other decides alone: answers in words, and word pairs, which are two words of many,
        have no answer mass.
    """
    _check_baseline(answers)
    perplexity = _perplexity(answers[answers["questionnaire"] == NEUTRAL])
    parts = []
    for name in questionnaires_of(answers):
        rows = of_questionnaire(answers, name)
        state = rows.drop_duplicates("arm").sort_values("arm")[["questionnaire", *_ARM]].reset_index(drop=True)
        state["perplexity"] = state["arm"].map(perplexity) if len(perplexity) else np.nan
        state["mass"] = np.nan
        measured = "mass" in rows and "p_attribute" not in rows
        if measured:
            masses = rows["mass"].fillna(0.0).groupby(rows["arm"]).mean()
            state["mass"] = (masses / masses.loc[0]).to_numpy()
        left = state["mass"].to_numpy() if measured else np.ones(len(state))
        surprise = state["perplexity"].to_numpy() if len(perplexity) else np.ones(len(state))
        parts.append(state.assign(collapsed=(guard or Guard()).collapsed(left, surprise)))
    return pd.concat(parts, ignore_index=True)


def _check_baseline(answers: pd.DataFrame) -> None:
    if not (answers["arm"] == 0).any():
        raise ValueError("the model as it is was not asked, and nothing can be compared; evaluate with baseline=True")


def _perplexity(neutral: pd.DataFrame) -> pd.Series:
    """By arm, in units of the unsteered model's; a loss that is NaN makes it NaN: that arm has collapsed."""
    if neutral.empty:
        return pd.Series(dtype=float)
    sums = neutral.groupby("arm")[["loss", "tokens"]].agg(lambda values: values.sum(skipna=False))
    perplexity = np.exp(sums["loss"] / sums["tokens"])
    return perplexity / perplexity.loc[0]


def effects(
    answers: pd.DataFrame,
    *,
    column: str = "value",
    by_template: bool = False,
    level: float = 0.95,
    guard: Guard | None = None,
    state: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What each arm does to each group of each questionnaire, against no steering on the same items.

    Items of one cluster are averaged first, and templates of one item, since neither are independent evidence.

    Args:
        answers: of :func:`personalib.evaluation.ask.evaluate`, or some of its rows.
        column: what is compared, such as ``"value"``, ``"published"``, ``"fallback"`` or ``"yes"``; see
            :func:`~personalib.questionnaires.scores.item_scores`. Questionnaires without it are left out; where none
            has it, it is a ValueError.
        by_template: each template on its own.
        level: of the intervals.
        guard: from where on an arm counts as collapsed.
        state: rows of :func:`health` of one questionnaire, where not its own answers tell how whole the model is.

    Returns:
        One row a questionnaire, arm but the first, and group, and the group ``"all"`` where there are several:
        ``questionnaire``, what names the arm, ``group`` (and ``template``); ``base`` and ``score``, the means without
        and with the arm over the items read both times; ``effect``, their difference, from ``low`` to ``high`` with its
        ``p``; ``size``, Cohen's d_z with Hedges' correction, from ``size_low`` to ``size_high``; ``n`` clusters read
        and ``missing`` ones; ``p_holm`` and ``p_fdr``, corrected for all groups and arms of one method; ``mass``,
        ``perplexity`` and ``collapsed``. Bounds and p-values are those of
        :func:`~personalib.base.statistics.paired_means`. For what is right or wrong bounds stay between -100 and 100,
        and where all that were read changed alike they are Wilson's.
    """
    _check_baseline(answers)
    everywhere = health(answers, guard) if state is None else state
    found = []
    for name, kind in questionnaires_of(answers).items():
        items = item_scores(kind, of_questionnaire(answers, name))
        if column not in items:
            continue
        parts = [rows for _, rows in items.groupby("template", sort=False)] if by_template else [items]
        tables = []
        for group, rows in chain.from_iterable(map(_groups, parts)):
            compared = _compare(rows, column, level, shares=_is_share(kind, column)).assign(group=group)
            tables.append(compared.assign(template=rows["template"].iloc[0]) if by_template else compared)
        own = everywhere[everywhere["questionnaire"] == name] if state is None else state.assign(questionnaire=name)
        table = own.merge(pd.concat(tables, ignore_index=True), on="arm", validate="one_to_many")
        # Corrected for all single groups of a method, and "all" for its own comparisons.
        for corrected, method in (("p_holm", "holm"), ("p_fdr", "fdr_bh")):
            table[corrected] = np.nan
            known = table["p"].notna()
            for _, rows in table[known].groupby(["method", table.loc[known, "group"] == ALL], sort=False):
                table.loc[rows.index, corrected] = adjust(rows["p"], method)
        found.append(table)
    if not found:
        raise ValueError(f"no questionnaire here has {column!r}; see personalib.questionnaires.item_scores")
    return pd.concat(found, ignore_index=True)


def item_effects(
    answers: pd.DataFrame, *, column: str = "value", guard: Guard | None = None, state: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What each arm does to each item, or cluster of items, of each group; arguments are those of :func:`effects`.

    Returns:
        One row an arm but the first, group and ``item``, the name of its cluster: what names the arm, ``group``,
        ``effect``, missing where it was not read, and ``collapsed``. What is made of it can resample items as well.
    """
    _check_baseline(answers)
    everywhere, found = health(answers, guard) if state is None else state, []
    for name, kind in questionnaires_of(answers).items():
        own = everywhere[everywhere["questionnaire"] == name] if state is None else state.assign(questionnaire=name)
        for group, rows in item_scores(kind, of_questionnaire(answers, name)).groupby("group", sort=False):
            changes = _by_cluster(_changes(_wide(rows, column))).drop(columns=0).rename_axis("item").reset_index()
            long = changes.melt("item", var_name="arm", value_name="effect").assign(group=group)
            found.append(own.merge(long, on="arm", validate="one_to_many"))
    return pd.concat(found, ignore_index=True)


def _groups(items: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The items of each group, and all of them where there are several."""
    groups = [(str(name), rows) for name, rows in items.groupby("group", sort=False)]
    return [*groups, (ALL, items)] if len(groups) > 1 else groups


def base_scores(answers: pd.DataFrame, *, column: str = "value") -> pd.DataFrame:
    """The scores of the model as it is; see :func:`effects`.

    Returns:
        One row a questionnaire and group, and ``"all"``: ``questionnaire``, ``group``, ``value``, from ``low`` to
        ``high``, and ``n`` clusters read. The bounds are Student's t over clusters; for what is right or wrong they
        resample clusters, or are Wilson's where all are alike, and stay between 0 and 100.
    """
    _check_baseline(answers)
    rows = []
    for name, kind in questionnaires_of(answers).items():
        table = of_questionnaire(answers, name)
        items = item_scores(kind, table[table["arm"] == 0])
        if column not in items:
            continue
        for group, own in _groups(items):
            values = own.dropna(subset=[column]).groupby("cluster", sort=False)[column].mean().to_numpy()
            rows.append([name, group, *_level_of(values, shares=_is_share(kind, column)), len(values)])
    return pd.DataFrame(rows, columns=["questionnaire", "group", "value", "low", "high", "n"])


def _is_share(kind: str, column: str) -> bool:
    return kind in _SHARES or column in _SHARE_COLUMNS


def _level_of(values: Array, *, shares: bool) -> tuple[float, float, float]:
    """The mean of independent values with its bounds."""
    if not len(values):
        return (np.nan,) * 3
    if not shares:
        means = paired_means(values[None, :])
        return float(means.estimate[0]), float(means.low[0]), float(means.high[0])
    if np.ptp(values) == 0:
        # As many trials as values: resampling would give no width.
        found = proportion_interval(round(values.sum() / 100), len(values))
        return float(values[0]), min(100 * found.low, float(values[0])), max(100 * found.high, float(values[0]))
    found = clustered_interval(values / 100, np.arange(len(values)))
    return 100 * found.estimate, 100 * found.low, 100 * found.high


def _compare(items: pd.DataFrame, column: str, level: float, *, shares: bool) -> pd.DataFrame:
    """Every arm but the first against the first, on one group."""
    wide = _wide(items, column)
    both = wide.notna().to_numpy() & wide[0].notna().to_numpy()[:, None]
    before = wide.mul(0.0).add(wide[0], axis=0)
    changes = _by_cluster(_changes(wide)).to_numpy().T
    means, sizes = paired_means(changes, level=level), effect_size(changes, level=level)
    low, high = means.low, means.high
    base, score = (paired_means(_by_cluster(each.where(both)).to_numpy().T).estimate for each in (before, wide))
    if shares:
        low, high = _of_shares(changes, low, high, level)
        low, high = np.maximum(low, -100.0), np.minimum(high, 100.0)
    found = {"arm": wide.columns, "base": base, "score": score}
    found |= {"effect": means.estimate, "low": low, "high": high, "p": means.p}
    found |= {"size": sizes.estimate, "size_low": sizes.low, "size_high": sizes.high}
    found |= {"n": means.n, "missing": changes.shape[1] - means.n}
    return pd.DataFrame(found).iloc[1:]


def _of_shares(changes: Array, low: Array, high: Array, level: float) -> tuple[Array, Array]:
    """Bounds of changes between right and wrong, where all that were read changed alike.

    Student's t would give no width. The bounds are then Wilson's, for none of n changed or for all of them.
    """
    rows = pd.DataFrame(changes.T)
    change = rows.max().where(rows.max() == rows.min()).to_numpy()
    rare = np.array([proportion_interval(0, max(n, 1), level=level).high for n in rows.count()])
    ends = np.where(change == 0, 100 * rare, change * (1 - rare)), np.where(change == 0, -100 * rare, change)
    known = ~np.isnan(change)
    return np.where(known, np.minimum(*ends), low), np.where(known, np.maximum(*ends), high)


def _wide(items: pd.DataFrame, column: str) -> pd.DataFrame:
    """The score of each item and template, a column an arm."""
    return items.pivot(index=["cluster", "item", "template"], columns="arm", values=column)


def _changes(wide: pd.DataFrame) -> pd.DataFrame:
    """What each arm changes of the first one's scores."""
    changes = wide.sub(wide[0], axis=0)
    return changes.mask(changes.abs() < _ROUNDING, 0.0)


def _by_cluster(table: pd.DataFrame) -> pd.DataFrame:
    """Means of the items' templates, and then of the clusters' items: one row a cluster, one column an arm."""
    items = table.groupby(["cluster", "item"], sort=False).mean()
    return items.groupby("cluster", sort=False).mean()
