"""Effects are paired by item, over clusters, and agree with SciPy and with what is computed by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from personalib.base.statistics import adjust, effect_size, proportion_interval
from personalib.evaluation.estimates import ALL, base_scores, effects, health, item_effects

ARMS = [("none", "none", np.nan), ("repe", "a", 0.4), ("repe", "b", 0.4), ("prompt", "a", np.nan)]


def named():
    """What names each arm."""
    table = pd.DataFrame(ARMS, columns=["method", "key", "dose"]).assign(model="m", pole="positive")
    return table.rename_axis("arm").reset_index()


def state(count=4):
    return named().iloc[:count].assign(perplexity=1.0, mass=1.0, collapsed=False)


def ratings(values, groups=None, clusters=None, templates=None, items=None):
    """Answers to a scale whose scores are these, shape (arms, items); NaN for what cannot be read."""
    values = np.asarray(values, dtype=float)
    count = values.shape[1]
    table = pd.DataFrame(
        {
            "questionnaire": "q",
            "kind": "scale",
            "arm": np.repeat(np.arange(len(values)), count),
            "group": np.tile(groups or ["g"] * count, len(values)),
            "item": np.tile(items or [f"i{n}" for n in range(count)], len(values)),
            "cluster": np.tile(clusters or items or [f"i{n}" for n in range(count)], len(values)),
            "template": np.tile(templates or ["five"] * count, len(values)),
            "order": "normal",
        }
    )
    share = values.ravel() / 100
    chances = pd.DataFrame({"p_1": 1 - share, "p_2": share}).fillna(0.0)
    return named().merge(table.join(chances).assign(mass=chances.sum(axis=1)), on="arm")


def choices(right, **about):
    """Answers to a choice questionnaire that are right (1), wrong (0) or unreadable (NaN)."""
    table = ratings(100 * np.asarray(right, dtype=float), **about)
    return table.rename(columns={"p_1": "p_wrong1", "p_2": "p_right"}).assign(kind="choice")


def judgements(yes_to_right, yes_to_wrong):
    """Answers to judgements: is it yes, to the right and to the wrong answer of each item?"""
    parts = [
        ratings(100 * np.asarray(said, dtype=float)).assign(order=shown)
        for shown, said in (("right", yes_to_right), ("wrong", yes_to_wrong))
    ]
    table = pd.concat(parts, ignore_index=True).rename(columns={"p_1": "p_no", "p_2": "p_yes"})
    return table.assign(kind="judgement")


def neutral(losses, tokens=10):
    """Losses of neutral answers, shape (arms, exchanges)."""
    table = pd.DataFrame(
        [{"arm": arm, "loss": loss, "tokens": tokens} for arm, row in enumerate(losses) for loss in row]
    )
    return named().merge(table, on="arm").assign(questionnaire="neutral", kind="neutral")


def health_of(answers, losses, guard=None):
    """The health of answers beside those to neutral questions."""
    return health(pd.concat([answers, losses]), guard)


def random_values(arms=4, items=12, seed=0):
    return np.random.default_rng(seed).uniform(5, 95, (arms, items))


def flipped(changes):
    """The exact p-value of flipping the signs of a few changes."""
    table = (np.asarray(changes, dtype=float),)
    return stats.permutation_test(table, np.mean, permutation_type="samples", n_resamples=5000).pvalue


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_an_effect_is_the_paired_difference_with_students_t(level):
    values = random_values()
    found = effects(ratings(values), state=state(), level=level)
    assert found["arm"].tolist() == [1, 2, 3] and found["group"].tolist() == ["g"] * 3
    for place, row in found.set_index("arm").iterrows():
        expected = stats.ttest_rel(values[place], values[0])
        low, high = expected.confidence_interval(level)
        changes = values[place] - values[0]
        assert row["effect"] == pytest.approx(changes.mean()) and row["p"] == pytest.approx(flipped(changes))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert (row["base"], row["score"]) == pytest.approx((values[0].mean(), values[place].mean()))
        freedom = len(changes) - 1
        hedges = changes.mean() / changes.std(ddof=1) * (1 - 3 / (4 * freedom - 1))
        assert row["size"] == pytest.approx(hedges, rel=1e-2)
        assert row[["size", "size_low", "size_high"]].tolist() == pytest.approx(
            [float(bound[0]) for bound in effect_size(changes[None, :], level=level)]
        )
        assert row["size_low"] < row["size"] < row["size_high"] and (row["n"], row["missing"]) == (12, 0)


def test_items_of_one_cluster_count_once():
    base, steered = [10, 20, 30, 40, 50], [20, 40, 33, 46, 59]
    [row] = effects(ratings([base, steered], clusters=["q", "q", "r", "s", "s"]), state=state(2)).to_dict("records")
    changes = [15.0, 3.0, 7.5]
    assert row["effect"] == pytest.approx(np.mean(changes)) and row["n"] == 3
    assert row["p"] == pytest.approx(flipped(changes))
    assert (row["base"], row["score"]) == pytest.approx((np.mean([15, 30, 45]), np.mean([30, 33, 52.5])))


def test_effects_item_by_item_are_what_an_effect_is_the_mean_of():
    values = random_values()
    values[2, 5] = np.nan
    answers = ratings(values, clusters=list("aabbccddeeff"))
    each, whole = item_effects(answers, state=state()), effects(answers, state=state())
    assert each.groupby("arm")["item"].unique().map(list).tolist() == [list("abcdef")] * 3
    np.testing.assert_allclose(each.groupby("arm")["effect"].mean(), whole["effect"])


def test_templates_of_an_item_are_averaged_before_the_items_of_a_cluster():
    # One item of the first cluster in two templates, the other in one.
    about = {"items": list("iijk"), "clusters": list("qqqr"), "templates": list("xyxx")}
    answers = ratings([[0, 0, 0, 0], [10, 30, 80, 6]], **about)
    [row] = effects(answers, state=state(2)).to_dict("records")
    assert row["effect"] == pytest.approx(((20 + 80) / 2 + 6) / 2) and row["n"] == 2


def test_each_template_may_be_compared_on_its_own():
    values = random_values(3, 12)
    templates = ["x", "y"] * 6
    answers = ratings(values, items=[f"i{n // 2}" for n in range(12)], templates=templates)
    found = effects(answers, state=state(3), by_template=True).set_index(["template", "arm"])
    assert set(found.index) == {(template, arm) for template in "xy" for arm in (1, 2)}
    for (template, arm), row in found.iterrows():
        own = slice(0, None, 2) if template == "x" else slice(1, None, 2)
        assert row["p"] == pytest.approx(flipped(values[arm, own] - values[0, own])) and row["n"] == 6
    assert "template" not in effects(answers, state=state(3))


def test_corrections_are_within_a_method_and_apart_for_all_together():
    values = random_values(4, 15, seed=4)
    values[1:] = values[0] + (values[1:] - values[0]) / 2 + np.array([[6], [-4], [3]])
    answers = ratings(np.clip(values, 0, 100), groups=["a"] * 5 + ["b"] * 5 + ["c"] * 5)
    found = effects(answers, state=state())
    assert len(found) == 3 * 4
    for method in ("repe", "prompt"):
        for whole in (True, False):
            own = found[(found["method"] == method) & ((found["group"] == ALL) == whole)]
            assert len(own) == (2 if method == "repe" else 1) * (1 if whole else 3)
            assert own["p_holm"].tolist() == pytest.approx(adjust(own["p"], "holm").tolist())
            assert own["p_fdr"].tolist() == pytest.approx(adjust(own["p"], "fdr_bh").tolist())
    assert (found["p_holm"] >= found["p"]).all() and (found["p_holm"] > found["p"]).any()


def test_there_is_a_group_for_all_only_where_there_are_several():
    values = random_values(2, 6)
    one, several = (
        effects(ratings(values, groups=groups), state=state(2)) for groups in (["a"] * 6, ["a"] * 2 + ["b"] * 4)
    )
    assert one["group"].tolist() == ["a"] and several["group"].tolist() == ["a", "b", ALL]
    # All items together, and not the mean of the groups' means.
    assert several["effect"].iloc[2] == pytest.approx(one["effect"].iloc[0]) and several["n"].tolist() == [2, 4, 6]


@pytest.mark.parametrize("arm", [0, 1])
def test_an_item_unread_in_one_arm_alone_is_left_out_of_both(arm):
    values = random_values(3, 8)
    values[arm, 2] = np.nan
    found = effects(ratings(values), state=state(3)).set_index("arm")
    kept = np.delete(np.arange(8), 2)
    assert found.loc[1, "base"] == pytest.approx(values[0, kept].mean())
    assert found.loc[1, "score"] == pytest.approx(values[1, kept].mean())
    assert found.loc[1, "effect"] == pytest.approx((values[1, kept] - values[0, kept]).mean())
    assert found.loc[1, ["n", "missing"]].tolist() == [7, 1]
    assert found.loc[2, ["n", "missing"]].tolist() == ([7, 1] if arm == 0 else [8, 0])


def test_an_arm_without_any_answer_read_has_no_effect_and_spoils_no_correction():
    values = random_values(3, 8)
    values[1] = np.nan
    found = effects(ratings(values), state=state(3)).set_index("arm")
    columns = ["base", "score", "effect", "low", "high", "p", "size", "p_holm", "p_fdr"]
    assert found.loc[1, columns].isna().all() and found.loc[1, ["n", "missing"]].tolist() == [0, 8]
    assert found.loc[2, "p_holm"] == found.loc[2, "p"]


def test_a_single_item_has_an_effect_and_no_bounds():
    [row] = effects(ratings([[20], [50]]), state=state(2)).to_dict("records")
    assert row["effect"] == pytest.approx(30) and np.isnan([row["low"], row["high"], row["p"], row["p_holm"]]).all()


def test_an_arm_equal_to_the_base_has_no_effect_at_all():
    values = random_values(1, 7).repeat(2, axis=0)
    # What float32 rounds off is no change either.
    values[1] += 1e-5
    [row] = effects(ratings(values), state=state(2)).to_dict("records")
    assert (row["effect"], row["low"], row["high"], row["p"], row["p_holm"]) == (0, 0, 0, 1, 1)


def test_the_order_of_the_rows_changes_nothing():
    values = random_values(4, 12)
    values[1, 3] = np.nan
    answers = ratings(values, groups=["a", "b", "c"] * 4, clusters=[f"q{n // 2}" for n in range(12)])
    one, other = (
        effects(each, state=state()).sort_values(["arm", "group"], ignore_index=True)
        for each in (answers, answers.sample(frac=1, random_state=0))
    )
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("count", [1, 4, 20])
def test_right_answers_that_do_not_change_have_wilsons_width(count):
    right = np.tile(np.arange(count) % 2, (2, 1))
    [row] = effects(choices(right), state=state(2)).to_dict("records")
    reach = 100 * proportion_interval(0, count).high
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((0, -reach, reach))
    assert row["p"] == 1 or count == 1


def test_wilsons_width_counts_clusters_that_were_read():
    right = [[1, 0, 1, 1, 1, 0], [1, 0, 1, np.nan, 1, 0]]
    [row] = effects(choices(right, clusters=list("aabcdd")), state=state(2)).to_dict("records")
    assert row["high"] == pytest.approx(100 * proportion_interval(0, 3).high) and row["n"] == 3


def test_changes_of_right_answers_have_students_bounds():
    base, steered = np.array([1, 1, 0, 1, 0, 1]), np.array([0, 1, 1, 0, 0, 0])
    [row] = effects(choices([base, steered]), state=state(2)).to_dict("records")
    expected = stats.ttest_rel(100 * steered, 100 * base)
    low, high = expected.confidence_interval(0.95)
    # No accuracy can change by more than 100 points.
    p = flipped(100 * (steered - base))
    assert (row["low"], row["high"], row["p"]) == pytest.approx((max(low, -100), high, p))
    assert (row["base"], row["score"], row["effect"]) == pytest.approx((400 / 6, 200 / 6, -200 / 6))


def test_a_few_answers_that_all_turn_wrong_are_no_certainty():
    # Student's t has no width and p = 0 where all changes are alike; four items cannot show that much.
    [row] = effects(choices([[1, 1, 1, 1], [0, 0, 0, 0]]), state=state(2)).to_dict("records")
    assert row["effect"] == -100 and row["p"] > 0.01 and row["high"] > row["low"]


def test_what_is_compared_may_be_the_share_of_yes():
    answers = judgements([[1, 1, 1, 0], [1, 1, 1, 1]], [[0, 0, 1, 0], [1, 1, 1, 1]])
    score, yes = (effects(answers, state=state(2), column=column).iloc[0] for column in ("value", "yes"))
    assert (score["base"], score["score"]) == (75, 50) and (yes["base"], yes["score"]) == (50, 100)
    assert yes["p"] == pytest.approx(flipped([50, 50, 0, 100]))


def test_state_and_names_stand_beside_each_effect():
    there = state().assign(perplexity=[1, 1.5, 3, 1], mass=[1, 0.5, 1, 0.99], collapsed=[False, True, True, False])
    found = effects(ratings(random_values()), state=there)
    columns = ["model", "arm", "method", "key", "pole", "dose", "perplexity", "mass", "collapsed"]
    pd.testing.assert_frame_equal(found[columns], there.iloc[1:][columns].reset_index(drop=True))


def test_the_base_has_students_bounds_over_clusters():
    values = random_values(2, 6)
    values[0, 5] = np.nan
    groups, clusters = ["a"] * 4 + ["b"] * 2, ["p", "p", "q", "r", "s", "t"]
    found = base_scores(ratings(values, groups=groups, clusters=clusters)).set_index("group")
    own = [values[0, :2].mean(), values[0, 2], values[0, 3]]
    low, high = stats.t.interval(0.95, 2, np.mean(own), stats.sem(own))
    assert found.loc["a", ["value", "low", "high", "n"]].tolist() == pytest.approx([np.mean(own), low, high, 3])
    assert found.loc["b", "value"] == pytest.approx(values[0, 4]) and found.loc["b", "n"] == 1
    assert np.isnan(found.loc["b", ["low", "high"]].astype(float)).all()
    assert found.loc[ALL, "value"] == pytest.approx(np.mean([*own, values[0, 4]])) and found.loc[ALL, "n"] == 4


@pytest.mark.parametrize("right", [0, 1, 2, 5, 9, 10])
def test_bounds_of_shares_stay_between_0_and_100_and_are_wilsons_where_all_are_alike(right):
    answers = choices([[1] * right + [0] * (10 - right)])
    [row] = base_scores(answers).to_dict("records")
    assert row["value"] == 10 * right and 0 <= row["low"] <= 10 * right <= row["high"] <= 100
    if right in (0, 10):
        expected = proportion_interval(right, 10)
        assert (row["low"], row["high"]) == pytest.approx((100 * expected.low, 100 * expected.high))
    else:
        assert row["low"] < 10 * right < row["high"]


def test_a_model_that_always_says_yes_has_a_base_with_some_width():
    # Every judgement is then half right: all are alike, and Wilson's bounds are promised for that.
    [row] = base_scores(judgements([[1] * 5], [[1] * 5])).to_dict("records")
    assert row["value"] == 50 and 0 <= row["low"] < 50 < row["high"] <= 100


def test_health_is_mass_and_perplexity_in_units_of_the_unsteered_model():
    answers = ratings(random_values(4, 6))
    answers["mass"] *= answers["arm"].map({0: 0.8, 1: 0.4, 2: 0.8, 3: 0.76})
    losses = [[2.0, 4.0], [2.0, 4.0], [20.0, 20.0], [3.0, 4.0]]
    found = health_of(answers, neutral(losses))
    assert found["mass"].tolist() == pytest.approx([1, 0.5, 1, 0.95])
    assert found["perplexity"].tolist() == pytest.approx([1, 1, np.exp((40 - 6) / 20), np.exp(1 / 20)])
    assert found["collapsed"].tolist() == [False, True, True, False]
    assert found[["method", "key"]].to_numpy().tolist() == [[method, key] for method, key, _ in ARMS]


def test_longer_answers_weigh_more_in_the_perplexity():
    table = neutral([[1.0, 9.0], [2.0, 9.0]]).assign(tokens=[1, 9, 1, 9])
    assert health_of(ratings(random_values(2, 3)), table)["perplexity"].iloc[1] == pytest.approx(np.exp(0.1))


@pytest.mark.parametrize("change", [{"p_1": "p_attribute", "p_2": "p_opposite"}, {"mass": "text"}])
def test_without_an_answer_mass_the_perplexity_alone_decides(change):
    answers = ratings(random_values(3, 4)).rename(columns=change)
    found = health_of(answers, neutral([[1.0], [1.0], [30.0]]))
    assert found["mass"].isna().all() and found["collapsed"].tolist() == [False, False, True]


@pytest.mark.parametrize("what", ["mass", "loss"])
def test_an_arm_whose_answers_are_no_numbers_has_collapsed(what):
    # A push that is too long for float16 gives NaN everywhere.
    answers, losses = ratings(random_values(3, 4)), neutral([[5.0, 5.0]] * 3)
    table = answers if what == "mass" else losses
    table.loc[table["arm"] == 2, what] = np.nan
    assert health_of(answers, losses)["collapsed"].tolist() == [False, False, True]


def test_a_model_that_gives_the_options_no_probability_is_not_whole():
    answers = ratings(random_values(2, 4)).assign(mass=0.0)
    assert health_of(answers, neutral([[1.0], [1.0]]))["collapsed"].all()


def test_the_order_of_the_rows_does_not_change_the_health():
    answers, losses = ratings(random_values(4, 6)), neutral(np.arange(8.0).reshape(4, 2))
    mixed = health_of(answers.sample(frac=1, random_state=1), losses.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(health_of(answers, losses), mixed)


def test_without_neutral_questions_the_answer_mass_alone_decides():
    answers = ratings(random_values(3, 4))
    answers["mass"] *= answers["arm"].map({0: 0.8, 1: 0.8, 2: 0.4})
    found = health(answers)
    assert found["perplexity"].isna().all() and found["collapsed"].tolist() == [False, False, True]


def test_questionnaires_are_compared_apart_and_those_without_the_column_are_left_out():
    scale, choice = ratings(random_values(2, 6)), choices([[1, 1, 0, 0], [0, 0, 0, 0]]).assign(questionnaire="c")
    both = pd.concat([scale, choice, neutral([[1.0], [1.0]])], ignore_index=True)
    found = effects(both)
    for name, alone in (("q", scale), ("c", choice)):
        expected = effects(pd.concat([alone, neutral([[1.0], [1.0]])], ignore_index=True))
        pd.testing.assert_frame_equal(found[found["questionnaire"] == name].reset_index(drop=True), expected)
    with pytest.raises(ValueError, match="no questionnaire here has 'yes'"):
        effects(both, column="yes")
    assert base_scores(both)["questionnaire"].tolist() == ["q", "c"]
