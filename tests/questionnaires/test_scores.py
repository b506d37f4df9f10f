"""Scores of items are those computed by hand, and what could not be read is missing and not a guess."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from personalib.questionnaires.scores import item_scores, per_item


def row(item="1", arm=0, group="g", order="normal", template="letters", cluster="", **chances):
    """An answer; its mass is the sum of its chances unless it is given."""
    mass = chances.pop("mass", sum(chances.values()))
    named = {f"p_{role}": chance for role, chance in chances.items()}
    about = {"arm": arm, "group": group, "item": item, "cluster": cluster or item, "template": template, "order": order}
    return about | named | {"mass": mass}


def both(item, normal, turned, **about):
    roles = ("high1", "low1", "high2", "low2")
    return [
        row(item, order=order, **about, **dict(zip(roles, chances, strict=True)))
        for order, chances in (("normal", normal), ("reversed", turned))
    ]


def said(text, item="1", labels="AB", options=("Run.", "Wait."), right=1, **about):
    """An answer in words."""
    wrong = iter(("wrong1", "wrong2", "wrong3"))
    roles = ["right" if place == right else next(wrong) for place in range(len(options))]
    if about.get("order") == "reversed":
        roles, options = roles[::-1], options[::-1]
    lists = {"labels": list(labels), "roles": roles, "options": list(options)}
    found = row(item, **about) | {name: json.dumps(value) for name, value in lists.items()} | {"text": text}
    found.pop("mass")
    return found


def scored(kind, rows):
    return item_scores(kind, pd.DataFrame(rows)).set_index("item")


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown kind 'quiz'; choose one of trait, choice, judgement, scale, pairs"):
        item_scores("quiz", pd.DataFrame())


def test_a_trait_item_has_its_share_of_high_answers_and_the_level_that_is_chosen():
    rng = np.random.default_rng(5)
    rows = [
        answer
        for arm, template, item in product((0, 1), ("letters", "bare"), range(20))
        for answer in both(
            f"openness:{item}",
            *(rng.dirichlet([0.5] * 4, 2) * rng.choice([0.05, 0.9], (2, 1))),
            arm=arm,
            template=template,
            group="openness",
        )
    ]
    rows += both("tie", (0.5, 0.5, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0))
    answers = pd.DataFrame(rows)
    found, items = item_scores("trait", answers), per_item(answers)
    names = ["arm", "template", "group", "item", "mass"]
    pd.testing.assert_frame_equal(found[names], items[names])
    np.testing.assert_allclose(found["value"], 100 * items["high"])
    assert found["published"].isna().tolist() == (~items["read"]).tolist() and 0 < items["read"].sum() < len(items)
    assert (found.loc[items["read"], "published"] == 100 * items.loc[items["read"], "level"].eq("high")).all()
    assert found["published"].iloc[-1] == 100 and (found["cluster"] == found["item"]).all()


def test_a_choice_is_right_where_the_right_option_has_the_largest_share():
    rows = [
        row("right of four", right=0.3, wrong1=0.25, wrong2=0.25, wrong3=0.2),
        row("wrong of four", right=0.3, wrong1=0.1, wrong2=0.2, wrong3=0.4),
        row("right of two", right=0.6, wrong1=0.4),
        row("wrong of two", right=0.1, wrong1=0.9),
        row("right of three", right=0.5, wrong1=0.2, wrong2=0.3),
    ]
    found = scored("choice", rows)["value"]
    assert found.to_dict() == {name: 100 * name.startswith("right") for name in found.index}


UNREAD = [(0.05, 0.04), (0.0, 0.0), (np.nan, np.nan)]


@pytest.mark.parametrize(
    ("kind", "roles", "unread"),
    [
        *(("choice", ("right", "wrong1"), chances) for chances in UNREAD),
        *(("scale", ("1", "2"), chances) for chances in UNREAD),
        *(("pairs", ("attribute", "opposite"), chances) for chances in ((0.0, 0.1), (0.1, 0.0), *UNREAD[1:])),
    ],
)
def test_an_answer_with_hardly_any_mass_or_a_word_without_any_is_missing(kind, roles, unread):
    # Just enough to be read: a mass of 0.1, or two words that have any.
    read = (0.1, 0.1) if kind == "pairs" else (0.1, 0.0)
    rows = [row(name, **dict(zip(roles, chances, strict=True))) for name, chances in (("1", unread), ("2", read))]
    found = scored(kind, rows)
    assert found["value"].isna().to_dict() == {"1": True, "2": False}
    assert kind == "pairs" or found["mass"].tolist() == pytest.approx([sum(unread), 0.1], nan_ok=True)


def test_two_orders_of_a_choice_are_averaged():
    rows = [
        row("half", right=0.6, wrong1=0.4),
        row("half", order="reversed", right=0.1, wrong1=0.5),
        row("unread", right=0.6, wrong1=0.4),
        row("unread", order="reversed", right=0.01, wrong1=0.01),
    ]
    found = scored("choice", rows)
    assert found.loc["half", "value"] == 50 and found.loc["half", "mass"] == pytest.approx(0.8)
    assert np.isnan(found.loc["unread", "value"]) and found.loc["unread", "mass"] == pytest.approx(0.51)


def test_answers_in_words_are_read_and_guesses_stand_in_for_the_others():
    four = {"labels": "ABCD", "options": ("Run.", "Wait.", "Cry.", "Sing."), "right": 2}
    rows = [
        said("B", "right of two"),
        said("(A) Run", "wrong of two"),
        said("Well.", "unread of two"),
        said("Cry.", "right of four", **four),
        said("The answer is D", "wrong of four", **four),
        said("", "unread of four", **four),
    ]
    found = scored("choice", rows)
    read = found["value"].dropna()
    assert read.to_dict() == {name: 100 * name.startswith("right") for name in found.index if "unread" not in name}
    assert found["fallback"].to_dict() == read.to_dict() | {"unread of two": 50, "unread of four": 25}
    assert found["mass"].isna().all()


def test_samples_are_averaged_where_they_can_be_read():
    texts = {"1": ["A", "B", "hm", "B"], "2": ["hm", "hm", "hm", "hm"]}
    answers = pd.DataFrame(
        [said(text, item, sample=number) for item, own in texts.items() for number, text in enumerate(own)]
    )
    found = item_scores("choice", answers).set_index("item")
    assert found.loc["1", "value"] == pytest.approx(200 / 3) and found.loc["1", "fallback"] == 62.5
    assert np.isnan(found.loc["2", "value"]) and found.loc["2", "fallback"] == 50


def test_judgements_in_words_say_yes_or_no():
    def judged(item, right, wrong):
        lists = {"labels": ["yes", "no"], "roles": ["yes", "no"], "options": ["yes", "no"]}
        about = {name: json.dumps(value) for name, value in lists.items()}
        return [row(item, order=order) | about | {"text": text} for order, text in (("right", right), ("wrong", wrong))]

    rows = [*judged("a", "Yes.", "No, it is not."), *judged("b", "Yes", "Yes"), *judged("c", "no", "Who knows?")]
    found = scored("judgement", rows)
    assert found["value"].dropna().to_dict() == {"a": 100, "b": 50}
    assert found["yes"].dropna().to_dict() == {"a": 50, "b": 100}
    assert found["fallback"].to_dict() == {"a": 100, "b": 50, "c": 25}


def test_two_orders_of_an_answer_in_words_are_averaged():
    rows = [
        said("B", "1"),
        said("A", "1", order="reversed"),
        said("B", "2"),
        said("B", "2", order="reversed"),
        said("B", "3"),
        said("Hm.", "3", order="reversed"),
    ]
    found = scored("choice", rows)
    assert found["value"].iloc[:2].tolist() == [100, 50] and np.isnan(found.loc["3", "value"])
    assert found["fallback"].tolist() == [100, 50, 75]


def test_a_judgement_is_the_mean_over_both_answers_and_yes_is_counted_beside_it():
    answers = {
        "knows": ((0.8, 0.1), (0.2, 0.7)),
        "always yes": ((0.8, 0.1), (0.6, 0.3)),
        "always no": ((0.1, 0.5), (0.1, 0.5)),
        "wrong": ((0.1, 0.5), (0.5, 0.1)),
        "tied": ((0.4, 0.4), (0.4, 0.4)),
    }
    rows = [
        row(item, order=shown, yes=yes, no=no)
        for item, pair in answers.items()
        for shown, (yes, no) in zip(("right", "wrong"), pair, strict=True)
    ]
    found = scored("judgement", rows)
    assert found["value"].to_dict() == {"knows": 100, "always yes": 50, "always no": 50, "wrong": 0, "tied": 50}
    assert found["yes"].to_dict() == {"knows": 50, "always yes": 100, "always no": 0, "wrong": 50, "tied": 0}
    assert found.loc["knows", "mass"] == pytest.approx(0.9)


@pytest.mark.parametrize(("yes", "no"), UNREAD)
def test_a_judgement_that_cannot_be_read_once_is_missing(yes, no):
    rows = [row("1", order="right", yes=0.9, no=0.1), row("1", order="wrong", yes=yes, no=no)]
    found = scored("judgement", rows)
    assert found[["value", "yes"]].isna().all(axis=None)


def test_a_rating_is_the_expected_one_and_turned_round_for_a_reversed_statement():
    chances = {"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.1, "5": 0.4}
    # (0 · 0.1 + 2 · 0.2 + 3 · 0.1 + 4 · 0.4) / 0.8 of at most 4.
    expected = 100 * (2.3 / 0.8) / 4
    found = scored("scale", [row("plain", **chances), row("turned", order="reversed", **chances)])
    assert found["value"].to_dict() == pytest.approx({"plain": expected, "turned": 100 - expected})
    assert found["mass"].tolist() == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    ("chances", "expected"),
    [({"1": 0.2, "2": 0.6}, 75), ({"1": 1.0, "2": 0.0, "3": 0.0}, 0), ({"1": 0.0, "2": 0.0, "3": 1.0}, 100)],
)
def test_a_rating_by_yes_and_no_is_the_share_of_yes_and_sure_ones_are_at_the_ends(chances, expected):
    found = scored("scale", [row("1", **chances), row("2", order="reversed", **chances)])
    assert found["value"].to_dict() == pytest.approx({"1": expected, "2": 100 - expected})


def test_a_word_pair_is_the_difference_of_two_log_probabilities():
    rows = [
        row("1", attribute=0.02, opposite=0.01),
        row("2", attribute=1e-9, opposite=1e-6),
        row("3", attribute=0.3, opposite=0.3),
    ]
    found = scored("pairs", rows)
    assert found["value"].to_dict() == pytest.approx({"1": np.log(2), "2": -np.log(1000), "3": 0})
    assert found["mass"].isna().all()


def test_clusters_groups_and_arms_are_passed_on():
    about = [{"arm": arm, "group": group, "item": item} for arm in (0, 1) for group, item in (("a", "1"), ("b", "2"))]
    rows = [row(**one, cluster="question 1", right=0.9, wrong1=0.1) for one in about]
    found = item_scores("choice", pd.DataFrame(rows))
    assert found[["arm", "group", "item"]].to_dict("records") == about
    assert set(found["cluster"]) == {"question 1"}


@pytest.mark.parametrize("kind", ["trait", "choice", "words", "judgement", "scale", "pairs"])
def test_the_order_of_the_rows_changes_no_score(kind):
    rng = np.random.default_rng(3)
    roles = {
        "trait": ("high1", "low1", "high2", "low2"),
        "choice": ("right", "wrong1"),
        "judgement": ("yes", "no"),
        "scale": ("1", "2", "3"),
        "pairs": ("attribute", "opposite"),
    }
    orders = {"trait": ("normal", "reversed"), "judgement": ("right", "wrong")}
    rows = [
        said(["A", "B", "Hm."][rng.integers(3)], str(item), arm=arm)
        if kind == "words"
        else row(
            str(item),
            arm=arm,
            order=order,
            **dict(zip(roles[kind], rng.dirichlet([1] * (len(roles[kind]) + 2)), strict=False)),
        )
        for arm in (0, 1)
        for order in orders.get(kind, ("normal",))
        for item in range(20)
    ]
    table = pd.DataFrame(rows)
    one, other = (
        item_scores("choice" if kind == "words" else kind, each).sort_values(["arm", "item"], ignore_index=True)
        for each in (table, table.sample(frac=1, random_state=1))
    )
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == 40 and one["value"].nunique() > 1
