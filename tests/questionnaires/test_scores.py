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
    with pytest.raises(ValueError, match="unknown kind 'quiz'; use one of trait, choice, judgement, scale, pairs"):
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


@pytest.mark.parametrize("chances", [{"right": 0.04, "wrong1": 0.05}, {"right": 0, "wrong1": 0}])
def test_a_choice_with_hardly_any_mass_is_missing(chances):
    found = scored("choice", [row("1", **chances), row("2", right=0.1, wrong1=0.0)])
    assert np.isnan(found.loc["1", "value"]) and found.loc["2", "value"] == 100
    assert found.loc["1", "mass"] == pytest.approx(sum(chances.values()))


def test_a_choice_whose_chances_are_no_numbers_is_missing():
    rows = [row("1", right=np.nan, wrong1=np.nan), row("2", right=0.2, wrong1=0.5)]
    assert scored("choice", rows)["value"].isna().to_dict() == {"1": True, "2": False}


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


@pytest.mark.parametrize(("yes", "no"), [(0.05, 0.04), (np.nan, np.nan), (0.0, 0.0)])
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


def test_a_rating_by_yes_and_no_is_the_share_of_yes():
    found = scored("scale", [row("1", **{"1": 0.2, "2": 0.6}), row("2", order="reversed", **{"1": 0.2, "2": 0.6})])
    assert found["value"].to_dict() == pytest.approx({"1": 75, "2": 25})


@pytest.mark.parametrize("end", [0, 100])
def test_sure_ratings_are_at_the_ends(end):
    chances = {str(n): float(n == (1 if end == 0 else 5)) for n in range(1, 6)}
    assert scored("scale", [row("1", **chances)])["value"].tolist() == [end]


@pytest.mark.parametrize("chances", [(0.05, 0.04), (0.0, 0.0), (np.nan, np.nan)])
def test_a_rating_that_cannot_be_read_is_missing(chances):
    rows = [row("1", **dict(zip("12", chances, strict=True))), row("2", **{"1": 0.5, "2": 0.5})]
    assert scored("scale", rows)["value"].isna().to_dict() == {"1": True, "2": False}


def test_a_word_pair_is_the_difference_of_two_log_probabilities():
    rows = [
        row("1", attribute=0.02, opposite=0.01),
        row("2", attribute=1e-9, opposite=1e-6),
        row("3", attribute=0.3, opposite=0.3),
    ]
    found = scored("pairs", rows)
    assert found["value"].to_dict() == pytest.approx({"1": np.log(2), "2": -np.log(1000), "3": 0})
    assert found["mass"].isna().all()


@pytest.mark.parametrize(("attribute", "opposite"), [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0), (np.nan, 0.1)])
def test_a_word_without_any_probability_is_missing(attribute, opposite):
    rows = [row("1", attribute=attribute, opposite=opposite), row("2", attribute=0.1, opposite=0.1)]
    assert scored("pairs", rows)["value"].isna().to_dict() == {"1": True, "2": False}


def test_clusters_groups_and_arms_are_passed_on():
    rows = [
        row(item, arm=arm, group=group, cluster="question 1", right=0.9, wrong1=0.1)
        for arm in (0, 1)
        for item, group in (("1", "a"), ("2", "b"))
    ]
    found = item_scores("choice", pd.DataFrame(rows))
    assert found[["arm", "group", "item"]].to_numpy().tolist() == [
        [arm, group, item] for arm in (0, 1) for item, group in (("1", "a"), ("2", "b"))
    ]
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
