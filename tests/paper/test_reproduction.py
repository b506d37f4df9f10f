"""The comparison finds what was planted: nothing where both sides have one truth, a shift where there is one."""

import numpy as np
import pandas as pd
import pytest

from personalib.base.statistics import proportion_interval
from personalib.paper.cells import CELL, CHANGE, OPTIONS, SAFETY, SCORE, reference_cells
from personalib.paper.reproduction import AGREES, COLLAPSED, DIFFERS, MISSING, UNSURE, VERDICTS, compare, summary


@pytest.fixture(scope="module")
def published():
    return reference_cells("gemma-2b-it")


@pytest.fixture(scope="module")
def scores(published):
    return published[published["quantity"] == SCORE].reset_index(drop=True)


@pytest.fixture(scope="module")
def shares(published):
    return published[published["quantity"].isin((SCORE, SAFETY))].reset_index(drop=True)


def measured(published, n, seed, shift=0.0):
    """Scores of n items each, drawn from the published ones, shifted by so many points."""
    rng, rows = np.random.default_rng(seed), []
    truths = (published["published"] + shift).clip(0, 100) / 100
    for one, truth in zip(published.to_dict("records"), truths, strict=True):
        found = proportion_interval(int(rng.binomial(n, truth)), n)
        bounds = dict(zip(("measured", "measured_low", "measured_high"), 100 * np.array(found), strict=True))
        rows.append({name: one[name] for name in CELL} | bounds | {"n": n, "values": None, "collapsed": False})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seed", range(3))
def test_a_table_drawn_from_the_published_one_agrees(shares, seed):
    found = compare(shares, measured(shares, 1000, seed + 10))
    assert (~found["apart"]).mean() >= 0.95 and (found["verdict"] == AGREES).mean() >= 0.95
    assert not (found["verdict"] == DIFFERS).any()


def test_where_both_are_drawn_from_one_truth_one_interval_in_twenty_leaves_out_zero(scores):
    apart, wrong = [], 0
    for seed in range(30):
        other = measured(scores, 1000, 100 + seed)
        ends = {f"published{end}": other[f"measured{end}"] for end in ("", "_low", "_high")}
        found = compare(scores.assign(**ends), measured(scores, 300, seed))
        apart.append(found["apart"].mean())
        wrong += (found["verdict"] == DIFFERS).any()
    assert 0.04 < np.mean(apart) < 0.06
    assert wrong <= 5


def test_a_shift_is_caught_where_it_is_and_nowhere_else(scores):
    where = (scores["condition"] == "gender.female") & scores["published"].between(25, 70)
    found = compare(scores, measured(scores, 1000, 3, 20.0 * where))
    assert where.sum() >= 6
    assert (found.loc[where, "verdict"] == DIFFERS).all() and not (found.loc[~where, "verdict"] == DIFFERS).any()
    assert (found.loc[where, "difference"] > 10).all() and (found.loc[where, "p_holm"] >= found.loc[where, "p"]).all()


def test_few_items_tell_nothing(shares):
    found = compare(shares, measured(shares, 12, 0))
    assert not (found["verdict"] == AGREES).any() and (found["verdict"] == UNSURE).mean() > 0.99


def test_the_interval_leaves_out_zero_exactly_where_the_p_value_is_small(shares):
    for n in (5, 40, 1000):
        found = compare(shares, measured(shares, n, n, 8.0))
        outside = (found["low"] > 0) | (found["high"] < 0)
        assert (outside == (found["p"] < 0.05)).all() and outside.any()
        assert (found["low"] <= found["difference"]).all() and (found["difference"] <= found["high"]).all()


def test_a_wider_rule_lets_more_agree_and_a_number_is_only_as_sure_as_both(shares):
    drawn = measured(shares, 100, 1)
    strict, lax = (compare(shares, drawn, width)["verdict"].eq(AGREES).sum() for width in (8, 16))
    assert strict < lax
    exact = shares.assign(published_low=shares["published"], published_high=shares["published"])
    narrow, wide = (compare(one, drawn) for one in (exact, shares))
    assert ((narrow["high"] - narrow["low"]) < (wide["high"] - wide["low"])).all()


def test_a_collapsed_arm_is_no_evidence_and_what_was_not_asked_is_not_measured(scores):
    collapsed = scores["condition"] == "age.older"
    drawn = measured(scores, 1000, 2, 40.0 * collapsed).assign(collapsed=collapsed)
    found = compare(scores, drawn[drawn["condition"] != "gender.male"])
    verdicts = found.groupby("condition")["verdict"].unique()
    assert list(verdicts["age.older"]) == [COLLAPSED] and list(verdicts["gender.male"]) == [MISSING]
    assert (found.loc[found["condition"] == "age.older", "without_guard"] == DIFFERS).any()
    [row] = summary(found).to_dict("records")
    assert (row["collapsed"], row["not measured"]) == (16, 16)
    assert row["cells"] == 372 == sum(row[name] for name in VERDICTS)


def test_the_summary_holds_the_pattern_and_the_size_of_differences_beside_their_noise(scores):
    drawn = measured(scores, 1000, 5)
    [same] = summary(compare(scores, drawn)).to_dict("records")
    assert same["rank_correlation"] > 0.98 and same["rank_low"] > 0.9
    assert same["apart"] < same["by_chance"] and same["mean_size"] < 1.1 * same["noise"]
    numbers = drawn[["measured", "measured_low", "measured_high"]].sample(frac=1, random_state=0)
    [dealt] = summary(compare(scores, drawn.assign(**numbers.reset_index(drop=True)))).to_dict("records")
    assert abs(dealt["rank_correlation"]) < 0.2 and dealt["apart"] > 0.5 and dealt["mean_size"] > 3 * dealt["noise"]


def test_one_published_item_is_held_against_the_spread_of_items(published):
    own = published[published["quantity"] == OPTIONS].reset_index(drop=True)
    values = np.linspace(0, 10, 999)
    spread = {"measured": values.mean(), "measured_low": values[24], "measured_high": values[-25], "n": 999}
    drawn = own[list(CELL)].assign(**spread, values=[values] * len(own), collapsed=False)
    found = compare(own.assign(published=5.0), drawn)
    assert (found["p"] > 0.9).all() and (found["verdict"] == AGREES).all()
    found = compare(own.assign(published=11.0), drawn)
    assert found["apart"].all() and found["p"].to_numpy() == pytest.approx(2 / 1000)


def test_changes_have_published_bounds_that_hold_both_scores_uncertainty(published):
    changes = published[published["quantity"] == CHANGE]
    assert len(changes) == 364 and (changes["published_low"] < changes["published"]).all()
    [relaxed] = changes[
        (changes["condition"] == "family_background.relaxed")
        & (changes["group"] == "agreeableness")
        & (changes["coefficient"] == 200)
    ].to_dict("records")
    assert relaxed["published"] == pytest.approx(-52.5)
    assert relaxed["published_low"] == pytest.approx(-56.1, abs=0.2) and relaxed["published_high"] > -52.5


def test_a_width_that_nothing_could_pass_is_refused(command_line):
    code, _, err = command_line("compare", "qwen-2.5-0.5b", "--width", "0")
    assert code == 2 and "--width" in err


@pytest.mark.parametrize("grid", ["qwen-2.5-0.5b", "plans/qwen-2.5-0.5b.yaml", "qwen-2.5-0.5b.yml"])
def test_the_answers_of_a_plan_are_looked_for_by_its_whole_name(command_line, grid):
    code, _, err = command_line("compare", grid)
    assert code == 2 and "results/evaluation/qwen-2.5-0.5b" in err
