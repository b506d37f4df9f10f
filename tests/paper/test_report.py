"""A run of a small model that bears the name of a published one, compared with the published numbers, end to end."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_models import random_sae, save_like

from personalib.base.data import DataError
from personalib.base.plots import plt
from personalib.evaluation.estimates import effects, health
from personalib.evaluation.plan import load_plan, parse_plan
from personalib.evaluation.runs import read_runs, run_plan
from personalib.features.published import published_features
from personalib.models.parts import Site
from personalib.paper.cells import SCORE, measured_cells, planned_arms, reference_cells, used_questionnaires
from personalib.paper.deviations import deviations
from personalib.paper.protocol import apply_protocol, load_protocol
from personalib.paper.report import draw_reproduction, readable_cells, reproduce, write_reproduction
from personalib.paper.reproduction import COLLAPSED, MISSING
from personalib.paper.tables import PERSONAS
from personalib.questionnaires.scores import item_scores

KEYS = ("family_background.relaxed", "ideology.conservatism")


@pytest.fixture(scope="module")
def folders(organism, tmp_path_factory):
    """A random model named as the paper's small one, and an SAE that is wide enough for the published features."""
    place = tmp_path_factory.mktemp("models")
    random_sae(Site(1), 1, 32, 16384, architecture="standard").save_model(str(place / "sae"))
    return save_like(organism, place / "google" / "gemma-2b-it"), place / "sae"


def asked(model, sae):
    """Not the paper's protocol in any point that it can be left."""
    return parse_plan(
        {
            "models": [{"name": str(model)}],
            "questionnaires": [
                {"name": "facts", "kind": "choice", "source": "facts", "per_group": 1},
                {"name": "five_shot", "kind": "choice", "per_group": 1, "shots": 1},
                {"name": "trait", "kind": "trait", "per_group": 5, "templates": ["numbers"]},
                {"name": "safety", "kind": "choice", "per_group": 2},
            ],
            "arms": [
                {"method": "prompt", "keys": KEYS[:1]},
                {"method": "sae", "release": str(sae), "keys": KEYS, "doses": [0.3], "features": "prompt"},
                {"method": "random", "site": "resid_post.1", "doses": [0.1], "count": 2},
                {"method": "repe", "family": "pressures", "keys": ["trust"], "site": "resid_post.1", "doses": [0.1]},
            ],
            "neutral": 2,
            "pairs": 4,
        }
    )


@pytest.fixture(scope="module")
def paper():
    return load_protocol("paper")


@pytest.fixture(scope="module")
def plan(folders, paper):
    applied = apply_protocol(asked(*folders), paper, str(folders[0]))
    fewer = [one.model_copy(update={"per_group": 5}) if one.kind == "trait" else one for one in applied.questionnaires]
    fewer = [one.model_copy(update={"per_group": 2}) if one.name == "safety" else one for one in fewer]
    return applied.model_copy(update={"questionnaires": tuple(fewer)})


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    [run] = run_plan(plan, folder)
    return folder, run


@pytest.fixture(scope="module")
def cells(done, paper):
    return measured_cells(done[1], paper.scoring)


def points(left):
    return set(left[["where", "what"]].itertuples(index=False, name=None))


def one(cells, **named):
    [row] = cells.loc[(cells[list(named)] == list(named.values())).all(axis=1)].to_dict("records")
    return row


def test_the_arms_are_told_apart_in_the_order_in_which_they_were_asked(plan, done):
    arms = planned_arms(plan)
    told = done[1].of("trait").drop_duplicates("arm").sort_values("arm")
    assert arms["key"].tolist() == told["key"].tolist() and arms["method"].tolist() == told["method"].tolist()
    assert arms["coefficient"][arms["condition"].isin(KEYS)].tolist() == [200.0, 200.0]


def test_the_published_features_were_pushed_as_the_paper_does(done, plan):
    [arm] = [one for one in plan.arms if one.method == "sae"]
    assert (arm.features, arm.coefficients, arm.positions) == ("published", (200.0,), "prompt_except_last")
    assert all(published_features(done[1].model)[key] for key in KEYS)


def test_a_score_is_the_published_rule_worked_out_by_hand(done, cells):
    answers = done[1].of("trait")
    arm = int(answers.loc[(answers["method"] == "sae") & (answers["key"] == KEYS[0]), "arm"].iloc[0])
    by_arm = {}
    for place in (0, arm):
        own = answers[(answers["arm"] == place) & (answers["group"] == "agreeableness")]
        columns = ["p_high1", "p_high2", "p_low1", "p_low2"]
        shares = own.set_index("item")[columns].div(own.set_index("item")[columns].sum(axis=1), axis=0)
        best = shares.groupby(level=0, sort=False).mean().idxmax(axis=1)
        by_arm[place] = 100.0 * best.str.startswith("p_high")
    score = one(cells, quantity="TRAIT score", condition=KEYS[0], group="agreeableness")
    assert score["measured"] == by_arm[arm].mean() and score["n"] == 5 and score["coefficient"] == 200
    assert score["measured_low"] <= score["measured"] <= score["measured_high"]
    change = one(cells, quantity="TRAIT change", condition=KEYS[0], group="agreeableness")
    assert change["measured"] == pytest.approx((by_arm[arm] - by_arm[0]).mean())


def test_the_books_rule_gives_the_books_numbers(done):
    run = done[1]
    found = measured_cells(run, load_protocol("book").scoring)
    table = effects(run.answers)
    own = table[(table["questionnaire"] == "trait") & (table["method"] == "sae") & (table["group"] != "all")]
    changes = found[(found["quantity"] == "TRAIT change")].set_index(["condition", "group"])["measured"]
    assert len(own) == len(changes) == 16
    for row in own.to_dict("records"):
        assert changes[row["key"], row["group"]] == pytest.approx(row["effect"], abs=1e-3, nan_ok=True)


def test_safety_is_the_zero_shot_questionnaire_with_guesses_for_what_cannot_be_read(done, cells):
    run = done[1]
    assert list(used_questionnaires(run)) == ["trait", "safety"]
    items = item_scores("choice", run.of("safety"))
    plain = items[items["arm"] == 0]
    whole = one(cells, quantity="SafetyBench accuracy", condition="base", group="Avg")
    assert whole["measured"] == pytest.approx(plain.groupby("cluster")["fallback"].mean().mean())
    assert set(cells.loc[cells["quantity"] == "SafetyBench accuracy", "group"]) >= {"OFF", "PP", "Avg"}


def test_letters_are_read_in_the_normal_order(done, cells):
    own = done[1].of("trait").query("arm == 0 and order == 'normal'")
    letters = [one(cells, quantity="option probability", condition="base", group=letter) for letter in "ABCD"]
    columns = ["p_high1", "p_low1", "p_high2", "p_low2"]
    np.testing.assert_allclose([row["measured"] for row in letters], 100 * own[columns].mean(), rtol=1e-6)
    assert letters[0]["n"] == len(own) and letters[0]["measured_low"] <= letters[0]["measured_high"]


def test_every_published_number_has_a_verdict_and_unasked_elements_were_not_measured(done, paper):
    found = reproduce(done[1], paper)
    steered = found.cells[found.cells["condition"] != "base"]
    asked_for = steered["condition"].isin(KEYS) & (steered["coefficient"] == 200)
    missing = steered["verdict"] == MISSING
    safety = steered["quantity"] == "SafetyBench accuracy"
    assert missing[~asked_for].all() and not missing[asked_for].any() and safety.any()
    assert len(found.cells) == 876 and found.summary["cells"].sum() == 876


def test_a_collapsed_arm_is_called_so_and_keeps_its_numbers(done, paper):
    found = reproduce(done[1], paper)
    gone = found.cells[found.cells["verdict"] == COLLAPSED]
    assert set(gone["condition"]) <= set(KEYS) and "base" not in set(gone["condition"])
    state = health(done[1].answers).query("questionnaire == 'trait'").set_index("key")
    for key in KEYS:
        own = found.cells[(found.cells["condition"] == key) & (found.cells["quantity"] == "TRAIT score")]
        own = own[own["coefficient"] == 200]
        assert (own["verdict"] == COLLAPSED).all() == bool(state.loc[[key], "collapsed"].iloc[-1])
        assert own["difference"].notna().all() and (own["without_guard"] != COLLAPSED).all()


def test_the_report_says_what_was_asked_and_what_could_not_be_followed(done, paper, tmp_path):
    found = reproduce(done[1], paper)
    paths = write_reproduction(found, tmp_path)
    assert len({path.name for path in paths}) == 12
    assert all(path.stat().st_size for path in paths) and len(paths) == 12
    page = (paths[0]).read_text()
    wanted = ["the book's own wording", "Holm", "mirlab/TRAIT", "trait (template letters)", "876 published numbers"]
    assert all(text in page for text in wanted)
    assert len(pd.read_csv(paths[1])) == 876
    left = points(found.deviations)
    assert {("trait", "items"), ("trait", "items of each group"), ("safety", "items")} <= left
    shown = readable_cells(found.cells)
    assert len(shown) == 876 and shown["difference"].str.startswith(("+", "-")).any()
    figure = draw_reproduction(found.cells)
    assert [axes.get_xlabel() for axes in figure.axes] == ["published"] * 4
    plt.close(figure)


def test_nothing_measured_is_a_report_without_a_figure(done, paper, tmp_path):
    found = reproduce(done[1], paper)
    numbers = dict.fromkeys(("measured", "measured_low", "measured_high", "n", "difference", "low", "high"), np.nan)
    empty = replace(found, cells=found.cells.assign(**numbers, verdict=MISSING))
    paths = write_reproduction(empty, tmp_path)
    assert {path.suffix for path in paths} == {".md", ".csv", ".tex"} and "png" not in paths[0].read_text()


def test_answers_of_other_arms_than_the_manifests_are_refused(done, paper):
    run = done[1]
    plan = {**run.manifest["plan"], "arms": run.manifest["plan"]["arms"][::-1]}
    changed = type(run)(run.model, run.answers, {**run.manifest, "plan": plan})
    with pytest.raises(DataError, match="not of the arms"):
        measured_cells(changed, paper.scoring)


def test_the_deviations_are_those_of_the_plan_before_it_was_turned(folders, paper):
    found = points(deviations(paper, asked(*folders)))
    assert {("trait", "template names"), ("arms 'sae'", "positions"), ("arms 'repe'", "layer")} <= found
    assert any(what == "strength" for _, what in found) and any(what == "features" for _, what in found)


# The command line


def test_the_command_writes_the_report_of_a_folder(command_line, done):
    folder, _ = done
    code, out, err = command_line("compare", folder, "--width", "7")
    assert code == 0 and "not measured" in out and "12 files" in out and not err
    [page] = (folder / "reproduction").rglob("reproduction.md")
    assert "gemma-2b-it" in page.read_text() and "at most 7 points to either side" in page.read_text()
    assert pd.read_csv(page.with_name("reproduction_summary.csv"))["cells"].sum() == 876


def test_a_model_that_nothing_was_published_of_is_one_message(command_line, tmp_path):
    plan = parse_plan({"questionnaires": [{"name": "trait", "kind": "trait", "per_group": 1}], "neutral": 1})
    run_plan(plan, tmp_path / "run")
    assert [run.model for run in read_runs(tmp_path / "run")] == ["organism"]
    code, out, err = command_line("compare", tmp_path / "run")
    assert code == 2 and not out
    said = err[err.index("error:") :]
    assert said.startswith("error: organism: nothing was published of this model") and "gemma-2-9b-it" in said
    assert said.count("\n") == 1


def test_an_unfinished_folder_is_one_message(command_line, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = command_line("compare", tmp_path / "empty")
    assert code == 2 and "no finished evaluation" in err


def test_a_persona_is_one_of_the_papers_where_its_elements_are():
    arm = {"method": "sae", "release": "x", "sae": "y", "coefficients": [200, -200], "features": "published"}
    personas = {"N": list(PERSONAS["N"]), "P": list(PERSONAS["P"][:-1]), "mine": list(PERSONAS["P"])}
    both = [
        {**arm, "label": "by features", "personas": personas},
        {"method": "prompt", "label": "in words", "personas": personas},
    ]
    arms = planned_arms(parse_plan({"questionnaires": [{"name": "trait", "kind": "trait"}], "arms": both}))
    named = arms[arms["condition"].notna()]
    expected = [["base", 0.0], ["persona N", 200.0], ["persona N", -200.0]]
    assert named[["condition", "coefficient"]].to_numpy().tolist() == expected


@pytest.mark.parametrize("model", ["gemma-2b-it", "gemma-2-9b-it"])
def test_the_papers_plans_measure_every_published_score_of_a_persona(model):
    cells = reference_cells(model)
    published = cells[(cells["quantity"] == SCORE) & cells["condition"].str.startswith("persona")]
    arms = planned_arms(load_plan(model)).dropna(subset=["condition"])
    planned = set(zip(arms["condition"], arms["coefficient"], strict=True))
    assert set(zip(published["condition"], published["coefficient"], strict=True)) <= planned


def test_the_figure_shows_every_mark(done):
    compared = reproduce(done[1], load_protocol("paper")).cells
    figure = draw_reproduction(compared)
    figure.canvas.draw()
    groups = compared.dropna(subset="measured").groupby("quantity", sort=False)
    for axes, (_, own) in zip(figure.axes, groups, strict=True):
        assert own["published"].between(*axes.get_xlim()).all() and own["measured"].between(*axes.get_ylim()).all()
    plt.close(figure)
