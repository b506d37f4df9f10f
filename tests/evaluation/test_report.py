"""Reports hold every number as CSV, and tables that can be read as Markdown and set by LaTeX."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from personalib.evaluation.ask import NEUTRAL
from personalib.evaluation.estimates import base_scores, effects, health
from personalib.evaluation.report import SIGNIFICANT, readable_effects, reading, tables, write_report
from personalib.evaluation.runs import EvaluationRun
from personalib.steering.settings import Guard

# Names with what LaTeX and Markdown take for something else.
ARMS = [
    ("none", "none", np.nan),
    ("repe", "age.young", 0.4),
    ("repe", "ai_familiarity.familiar", -0.4),
    ("100 % words & more", "N", np.nan),
]
GROUPS = ("one_group", "50%")
KINDS = {
    "trait": "trait",
    "safety": "choice",
    "in_words": "choice",
    "check": "judgement",
    "self": "scale",
    "bias": "pairs",
}
ROLES = {
    "trait": ("high1", "high2", "low1", "low2"),
    "choice": ("right", "wrong1", "wrong2"),
    "judgement": ("yes", "no"),
    "scale": ("1", "2"),
    "pairs": ("attribute", "opposite"),
}
ORDERS = {"trait": ("normal", "reversed"), "judgement": ("right", "wrong")}


def named(table):
    names = pd.DataFrame(ARMS, columns=["method", "key", "dose"]).assign(model="own/model", pole="positive")
    return names.rename_axis("arm").reset_index().merge(table, on="arm")


def asked(kind, templates=("letters",), items=8, seed=0):
    """Answers of every arm to items of two groups; the last arm answers hardly anything."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm in range(len(ARMS)):
        for template in templates:
            for order in ORDERS.get(kind, ("normal",)):
                for item in range(items):
                    chances = rng.dirichlet([1.0] * len(ROLES[kind])) * (0.5 if arm == 3 else 0.98)
                    about = {"arm": arm, "item": str(item), "cluster": str(item), "group": GROUPS[item % 2]}
                    named_chances = {f"p_{role}": chance for role, chance in zip(ROLES[kind], chances, strict=True)}
                    rows.append(
                        about | {"template": template, "order": order} | named_chances | {"mass": chances.sum()}
                    )
    return named(pd.DataFrame(rows))


def worded(texts, orders=("normal",)):
    """Answers in words, texts[arm][item][order]; the first item has two options, and the others four."""
    rows = []
    for arm, own in enumerate(texts):
        for item, answers in enumerate(own):
            count = 2 if item == 0 else 4
            roles = ["right", "wrong1", "wrong2", "wrong3"][:count]
            for order, text in zip(orders, [answers] if isinstance(answers, str) else answers, strict=True):
                lists = {
                    "labels": list("ABCD"[:count]),
                    "roles": roles if order == "normal" else roles[::-1],
                    "options": [f"Option number {n}, and so on" for n in range(count)],
                }
                about = {"arm": arm, "item": str(item), "cluster": str(item), "group": GROUPS[item % 2]}
                about |= {"template": "letters", "order": order, "text": text}
                rows.append(about | {name: json.dumps(value) for name, value in lists.items()})
    return named(pd.DataFrame(rows))


WORDS = [["A", "A", "B", "A"], ["B", "hm", "hm", "A"], ["hm", "hm", "hm", "hm"], ["A", "D", "A", "A"]]


@pytest.fixture(scope="module")
def run():
    neutral = named(pd.DataFrame([{"arm": arm, "loss": 3.0 + arm, "tokens": 10} for arm in range(len(ARMS))]))
    answers = {
        "trait": asked("trait", ("letters", "bare")),
        "safety": asked("choice"),
        "in_words": worded(WORDS),
        "check": asked("judgement"),
        "self": asked("scale"),
        "bias": asked("pairs"),
        "neutral": neutral,
    }
    told = {name: table.assign(questionnaire=name, kind=KINDS.get(name, NEUTRAL)) for name, table in answers.items()}
    return EvaluationRun("own/model", pd.concat(told.values(), ignore_index=True), {})


def health_of(run, name):
    """The health of one questionnaire of a run."""
    whole = health(run.answers)
    return whole[whole["questionnaire"] == name].reset_index(drop=True)


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report([run], folder)


def test_every_questionnaire_has_its_tables(run):
    every = {f"{name}_{table}" for name in KINDS for table in ("base", "effects", "health")}
    others = {"trait_effects_published", "trait_effects_by_template", "check_effects_yes", "in_words_reading"}
    others |= {"trait_base_published", "check_base_yes"}
    assert set(tables(run)) == every | others


def test_tables_are_those_of_direct_calls(run):
    found = tables(run)
    for name in KINDS:
        state = health_of(run, name)
        pd.testing.assert_frame_equal(found[f"{name}_health"], state)
        pd.testing.assert_frame_equal(found[f"{name}_effects"], effects(run.of(name), state=state))
        pd.testing.assert_frame_equal(found[f"{name}_base"], base_scores(run.of(name)))
    state = found["trait_health"]
    published = effects(run.of("trait"), state=state, column="published")
    pd.testing.assert_frame_equal(found["trait_effects_published"], published)
    apart = effects(run.of("trait"), state=state, by_template=True)
    pd.testing.assert_frame_equal(found["trait_effects_by_template"], apart)
    assert set(apart["template"]) == {"letters", "bare"}


def test_a_guard_of_ones_own_is_used(run):
    assert tables(run)["safety_health"]["collapsed"].tolist() == [False, False, False, True]
    loose = tables(run, Guard(0.1, 9.0))
    assert not loose["safety_health"]["collapsed"].any() and not loose["safety_effects"]["collapsed"].any()


def test_answers_in_words_say_how_they_were_sampled(run):
    assert set(tables(run)["in_words_reading"]["sampling"]) == {"greedy"}
    how = {"temperature": 0.2, "frequency_penalty": 1.0, "seed": 16}
    manifest = {"plan": {"questionnaires": [{"name": "trait"}, {"name": "in_words", "sampling": how}]}}
    found = tables(replace(run, manifest=manifest))["in_words_reading"]
    assert set(found["sampling"]) == {"temperature 0.2, frequency penalty 1, seed 16"}


def test_every_table_is_written_in_three_forms(run, written):
    folder, paths = written
    expected = {folder / "own_model" / f"{name}.{kind}" for name in tables(run) for kind in ("csv", "md", "tex")}
    assert set(paths) == expected == {path for path in folder.rglob("*") if path.is_file()}
    assert all(path.stat().st_size for path in paths)


def test_what_is_read_back_from_csv_is_the_table(run, written):
    folder, _ = written
    for name, table in tables(run).items():
        read = pd.read_csv(folder / "own_model" / f"{name}.csv")
        pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-12)


def test_a_table_for_latex_holds_no_character_that_means_something_else(run, written):
    folder, _ = written
    for name in tables(run):
        text = (folder / "own_model" / f"{name}.tex").read_text(encoding="utf-8")
        assert text.startswith("\\begin{tabular}") and "\\toprule" in text and "nan" not in text
        body = text.split("\\toprule")[1].split("\\bottomrule")[0]
        assert not re.search(r"(?<!\\)[%_#$^~]", body), name
        # Cells are told apart by the only bare ampersands: as many in each row.
        rows = [row for row in body.replace("\\midrule", "").split("\\\\\n") if row.strip()]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1, name
    effect = (folder / "own_model" / "trait_effects.tex").read_text(encoding="utf-8")
    assert "100 \\% words \\& more" in effect and "ai\\_familiarity.familiar" in effect
    assert "one\\_group" in effect and "50\\%" in effect


def found_effects(**columns):
    base = {"arm": 1, "method": "repe", "key": "a", "pole": "positive", "dose": 0.4, "group": "g"}
    numbers = {"effect": 12.345, "low": 2.0, "high": -0.04, "p_holm": 0.2, "collapsed": False, "size": 0.5}
    return base | numbers | columns


@pytest.mark.parametrize(
    ("columns", "cell"),
    [
        ({}, "+12.3 [+2.0, -0.0]"),
        ({"p_holm": SIGNIFICANT - 1e-6}, "+12.3 [+2.0, -0.0]*"),
        ({"effect": 0.0, "low": -15.5, "high": 15.5, "size": np.nan}, "+0.0 [-15.5, +15.5]="),
        ({"p_holm": SIGNIFICANT}, "+12.3 [+2.0, -0.0]"),
        ({"collapsed": True}, "(+12.3 [+2.0, -0.0])"),
        ({"collapsed": True, "p_holm": 0.0}, "(+12.3 [+2.0, -0.0]*)"),
        ({"effect": -3.0, "low": np.nan, "high": np.nan, "p_holm": np.nan}, "-3.0"),
        ({"effect": np.nan, "low": np.nan, "high": np.nan, "p_holm": np.nan}, "missing"),
        ({"effect": np.nan, "low": np.nan, "high": np.nan, "p_holm": np.nan, "collapsed": True}, "missing"),
    ],
)
def test_a_cell_has_bounds_a_star_and_brackets_where_they_belong(columns, cell):
    [found] = readable_effects(pd.DataFrame([found_effects(**columns)]))["g"]
    assert found == cell


def test_effects_are_a_row_an_arm_and_a_column_a_group():
    rows = [
        found_effects(arm=arm, key=key, dose=dose, group=group, effect=float(10 * arm + place))
        for arm, (key, dose) in enumerate([("z", 0.4), ("a", -0.4), ("m", np.nan)], start=1)
        for place, group in enumerate(("later", "earlier", "all"))
    ]
    found = readable_effects(pd.DataFrame(rows))
    assert list(found) == ["method", "key", "pole", "dose", "later", "earlier", "all"]
    assert found["key"].tolist() == ["z", "a", "m"] and found["dose"].tolist() == ["+0.40", "-0.40", ""]
    assert [cell.split()[0] for cell in found["earlier"]] == ["+11.0", "+21.0", "+31.0"]


def test_two_arms_of_one_name_keep_their_rows():
    rows = [found_effects(arm=arm, effect=float(arm)) for arm in (1, 2)]
    assert [cell.split()[0] for cell in readable_effects(pd.DataFrame(rows))["g"]] == ["+1.0", "+2.0"]


def test_templates_have_rows_of_their_own():
    rows = [found_effects(template=template, effect=effect) for template, effect in (("x", 1.0), ("y", 2.0))]
    found = readable_effects(pd.DataFrame(rows))
    assert found["template"].tolist() == ["x", "y"] and next(iter(found)) == "template"


def test_a_group_that_an_arm_lacks_is_left_empty(tmp_path):
    rows = pd.DataFrame([found_effects(), found_effects(arm=2), found_effects(arm=2, group="h")])
    assert readable_effects(rows)["h"].isna().tolist() == [True, False]


def test_reading_counts_answers_that_could_not_be_read_and_guesses_for_them(run):
    answers = run.of("in_words")
    found = reading(answers, health_of(run, "in_words")).set_index("arm")
    # One item of two options and three of four: a blind guess is right in (50 + 3 · 25) / 4 percent.
    assert found["chance"].tolist() == [31.25] * 4
    assert found["unreadable"].tolist() == [0, 0.5, 1, 0]
    assert found["accuracy"].tolist() == pytest.approx([75, 50, np.nan, 75], nan_ok=True)
    assert found["fallback"].tolist() == pytest.approx([75, (0 + 25 + 25 + 100) / 4, 31.25, 75])
    assert found["key"].tolist() == [key for _, key, _ in ARMS]


def test_the_share_of_unreadable_answers_is_one_of_answers_in_two_orders_too(run):
    # The right option is A in one order and the last one in the other.
    texts = [[("A", "B"), ("A", "hm")], [("hm", "hm"), ("A", "D")], [("A", "A"), ("A", "A")], [("A", "B"), ("A", "D")]]
    answers = worded(texts, ("normal", "reversed")).assign(kind="choice")
    found = reading(answers, health_of(run, "in_words"))
    assert found["unreadable"].tolist() == [0.25, 0.5, 0, 0]
    assert found["fallback"].tolist() == [(100 + 62.5) / 2, (50 + 100) / 2, 50, 100]


def test_several_models_and_revisions_have_folders_of_their_own(run, tmp_path):
    revised = [replace(run, manifest={"model": {"name": run.model, "revision": name}}) for name in ("old", "new")]
    paths = write_report([run, replace(run, model="/folder/of/mine/"), *revised], tmp_path)
    assert {path.parent.name for path in paths} == {"own_model", "folder_of_mine", "own_model@old", "own_model@new"}


def test_one_questionnaire_of_one_group_is_reported_too(run, tmp_path):
    alone = replace(run, answers=pd.concat([run.of("safety").assign(group=""), run.of(NEUTRAL)]))
    assert len(write_report([alone], tmp_path)) == 9
    assert tables(alone)["safety_effects"]["group"].unique().tolist() == [""]


def test_what_was_left_out_is_a_table(run):
    rows = [{"where": "items.csv, row 3", "problem": "field 'id': is missing"}]
    found = tables(replace(run, manifest={"left_out": {"safety": rows, "self": []}}))["left_out"]
    assert found.to_dict("records") == [{"questionnaire": "safety", **rows[0]}]


def test_what_an_earlier_report_left_out_is_no_table_of_a_later_one(run, tmp_path):
    alone = replace(run, answers=pd.concat([run.of("self").assign(questionnaire="scale"), run.of(NEUTRAL)]))
    rows = [{"where": "items.csv, row 3", "problem": "field 'id': is missing"}]
    for manifest, more in (({"left_out": {"scale": rows}}, 3), ({}, 0)):
        written = write_report([replace(alone, manifest=manifest)], tmp_path)
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)
        assert len([path for path in written if path.stem == "left_out"]) == more


def test_without_arms_there_are_the_scores_of_the_model_as_it_is(run, tmp_path):
    alone = replace(run, answers=run.answers[run.answers["arm"] == 0])
    found, whole = tables(alone), tables(run)
    assert not [name for name in found if "effects" in name or "health" in name]
    for name in (f"{kind}_base" for kind in KINDS):
        pd.testing.assert_frame_equal(found[name], whole[name])
        low, value, high = (found[name][column] for column in ("low", "value", "high"))
        assert (low <= value).all() and (value <= high).all()
    paths = write_report([alone], tmp_path)
    assert len(paths) == 3 * len(found) and all(path.stat().st_size for path in paths)
