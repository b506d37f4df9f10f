"""Scores against cases computed by hand and against loops; what cannot be read is counted."""

import numpy as np
import pandas as pd
import pytest

from personalib.base.records import ItemError
from personalib.questionnaires.scores import check_read, per_item, positional_bias, score_mass, score_published
from personalib.stimuli.factors import TRAITS

RESPONSES = ("high1", "low1", "high2", "low2")


def both(item, normal, turned, group="openness", template="letters", arm=0):
    """Answers to one item in both orders; chances by response: high1, low1, high2, low2."""
    about = {"item": item, "group": group, "template": template, "arm": arm}
    return [
        about | {"order": order} | {f"p_{role}": chance for role, chance in zip(RESPONSES, chances, strict=True)}
        for order, chances in (("normal", normal), ("reversed", turned))
    ]


def table(*pairs):
    return pd.DataFrame([single for pair in pairs for single in pair])


def random_rows(rng, items=15, arms=2):
    """Rows of all traits in random sequence, with unreadable items among them."""
    rows = []
    for group in TRAITS:
        for arm in range(arms):
            for item in range(items):
                masses = rng.choice([0.02, 0.5, 1.0], size=2, p=[0.1, 0.3, 0.6])
                chances = rng.dirichlet([0.3] * 4, size=2) * masses[:, None]
                if rng.random() < 0.05:
                    chances[1, 2] = np.nan
                rows += both(item, *chances, group=group, arm=arm)
    return pd.DataFrame(rows).sample(frac=1, random_state=1).reset_index(drop=True)


def loop_scores(rows, group, arm, floor):
    """The published procedure, one item at a time."""
    high = low = missing = 0
    shares = []
    chosen = rows[(rows["group"] == group) & (rows["arm"] == arm)]
    for item in sorted(set(chosen["item"])):
        averaged = dict.fromkeys(RESPONSES, 0.0)
        readable = True
        for order in ("normal", "reversed"):
            [single] = chosen[(chosen["item"] == item) & (chosen["order"] == order)].to_dict("records")
            chances = [single[f"p_{key}"] for key in RESPONSES]
            mass = sum(chances)
            readable = readable and mass >= floor
            for key, chance in zip(RESPONSES, chances, strict=True):
                averaged[key] += chance / mass / 2
        if not readable:
            missing += 1
            continue
        best = max(averaged, key=lambda key: averaged[key])
        high, low = high + best.startswith("high"), low + best.startswith("low")
        shares.append(averaged["high1"] + averaged["high2"])
    return 100 * high / (high + low), 100 * sum(shares) / len(shares), missing, high + low


def test_an_item_is_normalised_within_each_order_before_the_orders_are_averaged():
    # Normal: mass 0.5, shares .4 .4 .1 .1. Reversed: mass 1, shares .1 .7 .1 .1.
    items = per_item(table(both(1, (0.2, 0.2, 0.05, 0.05), (0.1, 0.7, 0.1, 0.1))))
    [item] = items.to_dict("records")
    assert item["high1"] == pytest.approx(0.25) and item["low1"] == pytest.approx(0.55)
    assert item["high2"] == pytest.approx(0.1) and item["low2"] == pytest.approx(0.1)
    assert item["high"] == pytest.approx(0.35)
    assert (item["choice"], item["level"], item["read"], item["tied"]) == ("low1", "low", True, False)
    assert item["mass"] == pytest.approx(0.75)


def test_the_published_score_counts_choices_and_the_mass_score_their_share():
    rows = table(
        both(1, (0.6, 0.2, 0.1, 0.1), (0.6, 0.2, 0.1, 0.1)),  # high, share 0.7
        both(2, (0.1, 0.2, 0.5, 0.2), (0.1, 0.2, 0.5, 0.2)),  # high, share 0.6
        both(3, (0.3, 0.4, 0.2, 0.1), (0.3, 0.4, 0.2, 0.1)),  # low, share 0.5: two split high responses lose
    )
    [published] = score_published(rows).to_dict("records")
    [mass] = score_mass(rows).to_dict("records")
    assert published["value"] == pytest.approx(200 / 3)
    assert mass["value"] == pytest.approx(60.0)
    assert (published["n"], published["missing"], published["mass"]) == (3, 0, pytest.approx(1.0))
    assert published["low"] == 0.0 and published["high"] == 100.0
    assert 50.0 <= mass["low"] < 60.0 < mass["high"] <= 70.0


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_scores_equal_those_of_a_loop_on_random_rows(floor):
    rows = random_rows(np.random.default_rng(0))
    published = score_published(rows, floor=floor).set_index(["group", "arm"])
    mass = score_mass(rows, floor=floor).set_index(["group", "arm"])
    assert len(published) == len(TRAITS) * 2
    for place, scored in published.iterrows():
        expected, expected_mass, missing, read = loop_scores(rows, *place, floor)
        assert scored["value"] == pytest.approx(expected)
        assert mass.loc[place, "value"] == pytest.approx(expected_mass)
        assert (scored["missing"], scored["n"]) == (missing, read) and missing + read == 15
    assert published["missing"].sum() > 0


def test_an_item_below_the_floor_in_one_order_is_missing_and_stays_in_the_table():
    rows = table(
        both(1, (0.9, 0.0, 0.05, 0.05), (0.9, 0.0, 0.05, 0.05)), both(2, (0.0, 0.9, 0.05, 0.05), (0.0, 0.04, 0.0, 0.0))
    )
    items = per_item(rows).set_index("item")
    assert not items.loc[2, "read"] and items["level"].isna().tolist() == [False, True]
    assert items.loc[2, ["high1", "high2", "low1", "low2", "high"]].isna().all()
    [scored] = score_published(rows).to_dict("records")
    assert (scored["value"], scored["n"], scored["missing"]) == (100.0, 1, 1)
    assert scored["mass"] == pytest.approx((1.0 + 0.52) / 2)
    assert score_published(rows, floor=0.01)["value"].tolist() == [50.0]


def test_an_item_without_any_mass_is_missing_even_without_a_floor():
    # The published argmax over 0 / 0 returns the first response and so counts it as high.
    rows = table(both(1, (0.0,) * 4, (0.0,) * 4), both(2, (0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)))
    [scored] = score_published(rows, floor=0.0).to_dict("records")
    assert (scored["value"], scored["n"], scored["missing"]) == (0.0, 1, 1)


def test_a_trait_without_any_item_read_has_no_score_but_a_row():
    rows = table(both(1, (np.nan,) * 4, (0.25,) * 4))
    for score in (score_published, score_mass):
        [scored] = score(rows).to_dict("records")
        assert np.isnan(scored["value"]) and np.isnan(scored["low"])
        assert (scored["n"], scored["missing"]) == (0, 1)


def test_a_model_that_always_answers_a_ties_every_item():
    rows = table(*(both(item, (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)) for item in range(4)))
    [scored] = score_published(rows).to_dict("records")
    assert (scored["value"], scored["tied"]) == (100.0, 4)
    assert score_mass(rows)["value"].tolist() == [50.0]


def test_positions_and_consistency_of_hand_made_answers():
    rows = table(
        both(1, (1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),  # follows the response: A, then B
        both(2, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.8, 0.2)),  # other response, same pole: A, then D and C
        both(3, (0.5, 0.0, 0.0, 0.0), (0.0, 0.5, 0.0, 0.0)),  # follows the position: A, then A
        both(4, (0.01, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)),  # not read
    )
    [bias] = positional_bias(rows).to_dict("records")
    assert [bias[letter] for letter in "ABCD"] == pytest.approx([4 / 6, 1 / 6, 0.2 / 6, 0.8 / 6])
    assert bias["same_response"] == pytest.approx(1 / 3) and bias["same_level"] == pytest.approx(2 / 3)
    assert bias["same_level_low"] < 2 / 3 < bias["same_level_high"]
    assert (bias["template"], bias["n"], bias["missing"]) == ("letters", 3, 1)


def test_an_unbiased_reader_has_no_positional_bias():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([0.5] * 4, size=4000)
    rows = table(*(both(item, chance, chance) for item, chance in enumerate(chances)))
    [bias] = positional_bias(rows).to_dict("records")
    assert [bias[letter] for letter in "ABCD"] == pytest.approx([0.25] * 4, abs=0.02)
    assert bias["same_response"] == 1.0


def test_bias_is_counted_over_contexts_and_split_by_the_columns_asked_for():
    rows = table(
        both(1, (1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), arm=0),
        both(1, (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), arm=1),
    )
    assert positional_bias(rows)["same_response"].tolist() == [0.5]
    assert positional_bias(rows, over=("arm",))["same_response"].tolist() == [1.0, 0.0]


def test_conditions_of_ones_own_are_scored_apart():
    high, low = (0.9, 0.1, 0.0, 0.0), (0.1, 0.9, 0.0, 0.0)
    rows = table(both(1, high, high), both(1, low, low)).assign(dose=[0, 0, 2, 2])
    scored = score_published(rows, by=("template", "arm", "dose"))
    assert scored.set_index("dose")["value"].to_dict() == {0: 100.0, 2: 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="p_low2"), "p_low2"),
        (lambda rows: rows.assign(order="shuffled"), "shuffled"),
        (lambda rows: rows.assign(arm=np.nan), "arm"),
        (lambda rows: rows.assign(p_high1=-2.5), "item 1: the probabilities"),
        (lambda rows: rows.assign(p_high1=1.5), "item 1: the probabilities"),
        (lambda rows: rows.iloc[:0], "no answers"),
        (lambda rows: pd.concat([rows, rows]), "item 1: the order 'normal' is there more than once.*`by`"),
        (lambda rows: rows.iloc[:-1], "group openness, item 2: the order 'reversed' is missing"),
        (lambda rows: rows.iloc[1:], "group openness, item 1: the order 'normal' is missing"),
    ],
)
def test_rows_that_are_not_answers_are_refused(change, message):
    rows = table(*(both(item, (0.25,) * 4, (0.25,) * 4) for item in (1, 2)))
    for score in (per_item, score_published, positional_bias):
        with pytest.raises(ItemError, match=message):
            score(change(rows))


def test_too_little_that_could_be_read_is_told_with_what_to_do():
    check_read(pd.Series({"openness": 2, "narcissism": 5}))
    problem = "openness: 1 items could be read, and at least 2 are needed; .*ask more items"
    with pytest.raises(ItemError, match=problem):
        check_read(pd.Series({"narcissism": 5, "openness": 1}))
    with pytest.raises(ItemError, match="openness: 2 contrasts could be read, and at least 3 are needed"):
        check_read(pd.Series({"openness": 2}), 3, "contrasts")
