"""The comparison finds what was planted: nothing where both sides have one truth, a shift where there is one."""

import numpy as np
import pandas as pd
import pytest

from personalib.base.statistics import proportion_interval
from personalib.paper.cells import CELL, CHANGE, OPTIONS, SAFETY, SCORE, reference_cells
from personalib.paper.reproduction import AGREES, COLLAPSED, DIFFERS, MISSING, UNSURE, Rule, compare, summary


@pytest.fixture(scope="module")
def published():
    return reference_cells("gemma-2b-it")


def measured(published, n, seed, shift=0.0, where=None):
    """Scores of n items each, drawn from the published ones, some of them shifted by so many points."""
    rng, rows = np.random.default_rng(seed), []
    moved = where if where is not None else pd.Series(False, published.index)
    for one, further in zip(published.to_dict("records"), moved, strict=True):
        truth = np.clip(one["published"] + shift * further, 0, 100) / 100
        found = proportion_interval(int(rng.binomial(n, truth)), n)
        bounds = dict(zip(("measured", "measured_low", "measured_high"), 100 * np.array(found), strict=True))
        rows.append({name: one[name] for name in CELL} | bounds | {"n": n, "values": None, "collapsed": False})
    return pd.DataFrame(rows)


def shares(published):
    return published[published["quantity"].isin((SCORE, SAFETY))].reset_index(drop=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_table_drawn_from_the_published_one_agrees(published, seed):
    own = shares(published)
    found = compare(own, measured(own, 1000, seed + 10))
    assert (~found["apart"]).mean() >= 0.95 and (found["verdict"] == AGREES).mean() >= 0.95
    assert not (found["verdict"] == DIFFERS).any()


def test_where_both_are_drawn_from_one_truth_one_interval_in_twenty_leaves_out_zero(published):
    own = published[published["quantity"] == SCORE].reset_index(drop=True)
    apart, wrong = [], 0
    for seed in range(30):
        other = measured(own, 1000, 100 + seed)
        theirs = own.assign(
            published=other["measured"], published_low=other["measured_low"], published_high=other["measured_high"]
        )
        found = compare(theirs, measured(own, 300, seed))
        apart.append(found["apart"].mean())
        wrong += (found["verdict"] == DIFFERS).any()
    assert 0.04 < np.mean(apart) < 0.06
    assert wrong <= 5


def test_a_shift_is_caught_where_it_is_and_nowhere_else(published):
    own = published[(published["quantity"] == SCORE)].reset_index(drop=True)
    where = (own["condition"] == "gender.female") & own["published"].between(25, 70)
    found = compare(own, measured(own, 1000, 3, 20.0, where))
    assert where.sum() >= 6
    assert (found.loc[where, "verdict"] == DIFFERS).all() and not (found.loc[~where, "verdict"] == DIFFERS).any()
    assert (found.loc[where, "difference"] > 10).all() and (found.loc[where, "p_holm"] >= found.loc[where, "p"]).all()


def test_few_items_tell_nothing(published):
    own = shares(published)
    found = compare(own, measured(own, 12, 0))
    assert not (found["verdict"] == AGREES).any() and (found["verdict"] == UNSURE).mean() > 0.99


def test_the_interval_leaves_out_zero_exactly_where_the_p_value_is_small(published):
    own = shares(published)
    for n in (5, 40, 1000):
        found = compare(own, measured(own, n, n, 8.0, pd.Series(True, own.index)))
        outside = (found["low"] > 0) | (found["high"] < 0)
        assert (outside == (found["p"] < 0.05)).all() and outside.any()
        assert (found["low"] <= found["difference"]).all() and (found["difference"] <= found["high"]).all()


def test_a_wider_rule_lets_more_agree_and_a_number_is_only_as_sure_as_both(published):
    own = shares(published)
    drawn = measured(own, 100, 1)
    strict, lax = (compare(own, drawn, Rule(width=width))["verdict"].eq(AGREES).sum() for width in (8, 16))
    assert strict < lax
    exact = own.assign(published_low=own["published"], published_high=own["published"])
    narrow, wide = (compare(one, drawn) for one in (exact, own))
    assert ((narrow["high"] - narrow["low"]) < (wide["high"] - wide["low"])).all()


def test_a_collapsed_arm_is_no_evidence_and_what_was_not_asked_is_not_measured(published):
    own = published[published["quantity"] == SCORE].reset_index(drop=True)
    drawn = measured(own, 1000, 2, 40.0, own["condition"] == "age.older")
    drawn["collapsed"] = drawn["condition"] == "age.older"
    found = compare(own, drawn[drawn["condition"] != "gender.male"])
    verdicts = found.groupby("condition")["verdict"].unique()
    assert list(verdicts["age.older"]) == [COLLAPSED] and list(verdicts["gender.male"]) == [MISSING]
    assert (found.loc[found["condition"] == "age.older", "without_guard"] == DIFFERS).any()
    [row] = summary(found).to_dict("records")
    assert (row["collapsed"], row["not measured"]) == (16, 16)
    assert row["cells"] == 372 == sum(row[name] for name in (AGREES, DIFFERS, UNSURE, COLLAPSED, MISSING))


def test_the_summary_holds_the_pattern_and_the_size_of_differences_beside_their_noise(published):
    own = published[published["quantity"] == SCORE].reset_index(drop=True)
    [same] = summary(compare(own, measured(own, 1000, 5))).to_dict("records")
    assert same["rank_correlation"] > 0.98 and same["rank_low"] > 0.9
    assert same["apart"] < same["by_chance"] and same["mean_size"] < 1.1 * same["noise"]
    drawn = measured(own, 1000, 5)
    numbers = drawn[["measured", "measured_low", "measured_high"]].sample(frac=1, random_state=0)
    other = drawn.assign(**numbers.reset_index(drop=True))
    [dealt] = summary(compare(own, other)).to_dict("records")
    assert abs(dealt["rank_correlation"]) < 0.2 and dealt["apart"] > 0.5 and dealt["mean_size"] > 3 * dealt["noise"]


def test_one_published_item_is_held_against_the_spread_of_items(published):
    own = published[published["quantity"] == OPTIONS].reset_index(drop=True)
    values = np.linspace(0, 10, 999)
    spread = {"measured": values.mean(), "measured_low": values[24], "measured_high": values[-25], "n": 999}
    drawn = pd.DataFrame([{name: one[name] for name in CELL} | spread for one in own.to_dict("records")])
    found = compare(own.assign(published=5.0), drawn.assign(values=[values] * len(own), collapsed=False))
    assert (found["p"] > 0.9).all() and (found["verdict"] == AGREES).all()
    found = compare(own.assign(published=11.0), drawn.assign(values=[values] * len(own), collapsed=False))
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


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"width": 0.0}])
def test_a_rule_that_nothing_could_pass_is_refused(wrong):
    with pytest.raises(ValueError, match="take an alpha in"):
        Rule(**wrong)


@pytest.mark.parametrize("grid", ["qwen-2.5-0.5b", "plans/qwen-2.5-0.5b.yaml", "qwen-2.5-0.5b.yml"])
def test_the_answers_of_a_plan_are_looked_for_by_its_whole_name(command_line, grid):
    code, _, err = command_line("compare", grid)
    assert code == 2 and "results/evaluation/qwen-2.5-0.5b" in err
