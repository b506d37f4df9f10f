"""Planned evaluations: what is asked of which model, what a folder says about itself, and reading it back."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from small_models import save_like

from personalib.base.data import DataError
from personalib.base.provenance import data_hash, file_hash, library_hash, package_versions
from personalib.evaluation import blocks as evaluation_blocks
from personalib.evaluation import runs as evaluation_runs
from personalib.evaluation.ask import NEUTRAL, NONE
from personalib.evaluation.estimates import questionnaires_of
from personalib.evaluation.plan import ArmsPlan, ModelPlan, load_plan, parse_plan
from personalib.evaluation.planned_arms import ArmMaker
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.evaluation.report import tables, write_report
from personalib.evaluation.runs import plan_on, prepare, read_run, read_runs, run_plan
from personalib.evaluation.store import AnswerStore
from personalib.features.saes import Saes
from personalib.models.load import load_model, weights_digest
from personalib.models.prompts import format_prompt
from personalib.steering.grid import ask_steered

SECRET = "hf_aSecretToken"


@pytest.fixture(scope="module")
def small_folder(organism, tmp_path_factory):
    """A random model with the organism's tokenizer and chat template, in a folder."""
    return save_like(organism, tmp_path_factory.mktemp("models") / "small")


def planned(*models, **changes):
    content = {
        "models": models or ({"name": "organism"},),
        "questionnaires": (
            {"name": "trait", "kind": "trait", "per_group": 1},
            {"name": "facts", "kind": "choice", "source": "facts", "per_group": 1},
        ),
        "arms": (
            {"method": "prompt", "keys": ("gender.female",)},
            {"method": "random", "site": "resid_post.1", "doses": (0.4,), "count": 2, "positions": "last"},
        ),
        "neutral": 2,
        "pairs": 4,
        "batch_size": 16,
    }
    return parse_plan(content | changes)


@pytest.fixture(scope="module")
def plan(small_folder):
    return planned({"name": "organism"}, {"name": str(small_folder), "form": "base"})


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    """A plan of two models, run to its end by somebody who is logged in to the hub."""
    folder = tmp_path_factory.mktemp("done") / "deep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", SECRET)
        return folder, run_plan(plan, folder)


@pytest.fixture
def copied(plan, done, tmp_path):
    """A finished run that a test may spoil."""
    source = done[0] / plan.models[0].folder
    for path in [*source.glob("*.parquet"), source / "manifest.json"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def same(one, other):
    assert (one.model, one.manifest) == (other.model, other.manifest)
    pd.testing.assert_frame_equal(one.answers, other.answers)


# What is run


def test_every_model_is_asked_everything_under_every_arm(plan, done):
    _, runs = done
    assert [run.model for run in runs] == [model.name for model in plan.models]
    for run in runs:
        assert questionnaires_of(run.answers) == {"trait": "trait", "facts": "choice"}
        for name, questionnaire in zip(
            ("trait", "facts"), map(planned_questionnaire, plan.questionnaires), strict=True
        ):
            table = run.of(name)
            assert len(table) == 4 * len(questionnaire.questions)
            assert table["method"].drop_duplicates().tolist() == ["none", "prompt", "random"]
            assert table["model"].unique().tolist() == [run.model]
        assert len(run.of(NEUTRAL)) == 4 * 2


def test_each_model_is_asked_in_its_own_form(plan, done):
    [questionnaire, _] = map(planned_questionnaire, plan.questionnaires)
    for model, run in zip(plan.models, done[1], strict=True):
        language_model = load_model(model.name)
        texts = [format_prompt(language_model.tokenizer, one.text, form=model.form) for one in questionnaire.questions]
        [expected] = ask_steered(language_model, texts, questionnaire.questions[0].labels, [()])
        table = run.of("trait")
        rows = table[table["arm"] == 0]
        found = [
            [row[f"p_{role}"] for role in one.roles]
            for one, (_, row) in zip(questionnaire.questions, rows.iterrows(), strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_preparing_passes_the_plan_on(plan, small_folder, tmp_path, monkeypatch):
    seen, own = [], ArmMaker.arms

    def arms(self, plans, progress=None):
        seen.append((self.form, self.pairs, self.seed, len(self.prompts), tuple(plans), progress))
        return own(self, plans, progress)

    monkeypatch.setattr(ArmMaker, "arms", arms)
    other = planned(seed=5, neutral=3, batch_size=7, questionnaires=plan.questionnaires[::-1])
    found = prepare(other, ModelPlan(name=str(small_folder), form="base", dtype="bfloat16"), tmp_path)
    # Doses mean the same whatever is asked: typical norms are taken from four bundled items a trait in both orders.
    assert seen == [("base", 4, 5, 8 * 4 * 2, other.arms, None)]
    assert (found.form, found.neutral, found.seed, found.batch_size) == ("base", 3, 5, 7)
    assert found.language_model.model.dtype == torch.bfloat16
    assert [one.name for one in found.questionnaires] == ["facts", "trait"]
    assert found.arms[0] == NONE and len(found.arms) == 4


# What a folder says about itself


def test_the_manifest_says_what_went_in_and_what_came_out(plan, done):
    folder, _ = done
    for model in plan.models:
        place = folder / model.folder
        manifest = json.loads((place / "manifest.json").read_text())
        assert parse_plan(manifest["plan"]) == plan
        known = {"revision": None, "weights": load_model(model.name).digest(), "template": {}}
        assert manifest["model"] == model.model_dump(mode="json") | known
        assert manifest["outputs"] == {path.name: file_hash(path) for path in place.glob("*.parquet")}
        assert set(manifest["outputs"]) == {"trait.parquet", "facts.parquet", "neutral.parquet"}
        assert (manifest["library"], manifest["data"]) == (library_hash(), data_hash())
        assert manifest["versions"] == package_versions() and {"torch", "transformers"} <= manifest["versions"].keys()
        assert set(manifest["machine"]) == {"python", "platform", "cores"} and manifest["arms"] == 4
        assert manifest["started"] <= manifest["ended"] and manifest["seconds"] >= 0


def test_no_file_holds_a_secret(done):
    files = [path for path in done[0].rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)


def test_the_plan_comes_back_as_it_was(plan, done):
    assert load_plan(done[0] / "plan.yaml") == plan


def test_models_have_folders_of_their_own():
    names = {"organism": "organism", "google/gemma-2b-it": "google_gemma-2b-it", "/models/a b/": "models_a_b"}
    for name, folder in names.items():
        assert ModelPlan(name=name).folder == folder
    assert ModelPlan(name="google/gemma-2b-it", revision="v1.0").folder == "google_gemma-2b-it@v1.0"


# Reading back


def test_a_folder_is_read_back_without_a_model(plan, done, monkeypatch):
    folder, runs = done
    monkeypatch.setattr(evaluation_runs, "load_model", lambda *_: pytest.fail("a model was loaded"))
    for one, run in zip(read_runs(folder), runs, strict=True):
        same(one, run)


def test_a_second_run_asks_nothing_and_writes_the_same(plan, done, monkeypatch):
    folder, runs = done
    before = contents(folder)
    monkeypatch.setattr(AnswerStore, "add", lambda *_: pytest.fail("something was asked"))
    for one, run in zip(run_plan(plan, folder), runs, strict=True):
        assert one.manifest["outputs"] == run.manifest["outputs"]
    after = contents(folder)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name][0] != after[name][0]}
    assert {name.rpartition("/")[2] for name in changed} <= {"manifest.json"}, "but for the times"
    assert all(before[name] == after[name] for name in before if "/parts/" in name and not name.endswith("lock"))


@pytest.mark.parametrize("name", ["manifest.json", "trait.parquet", "neutral.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"PAR1 and no more"])
def test_a_run_of_which_a_file_is_missing_or_spoilt_is_one_error(copied, name, content):
    read_run(copied)
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{copied}: not a finished evaluation")):
        read_run(copied)


ABOUT = {"plan": {"questionnaires": [{"name": "a", "kind": "trait"}]}, "outputs": {}, "model": {"name": "m"}}


@pytest.mark.parametrize(
    "change",
    [
        {"model": []},
        {"model": {}},
        {"plan": {"questionnaires": [{"name": "a"}]}},
        {"plan": {"questionnaires": [{"name": "a", "kind": "scale"}]}},
        {"plan": {"questionnaires": [["a"]]}},
        {"left_out": []},
        {"left_out": {"a": ["row 2"]}},
        {"left_out": {"a": [{"where": "row 2"}]}},
    ],
)
def test_a_manifest_that_lacks_something_is_one_error(tmp_path, change):
    for name in ("a", NEUTRAL):
        kind = "trait" if name == "a" else NEUTRAL
        pd.DataFrame({"questionnaire": [name], "kind": [kind], "arm": [0]}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps(ABOUT))
    assert read_run(tmp_path).left_out.empty
    (tmp_path / "manifest.json").write_text(json.dumps(ABOUT | change))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: not a finished evaluation")):
        read_run(tmp_path)


def test_tables_of_an_earlier_version_are_one_error(tmp_path):
    """They did not name their questionnaire."""
    (tmp_path / "manifest.json").write_text(json.dumps(ABOUT))
    for name in ("a", NEUTRAL):
        pd.DataFrame({"arm": [0]}).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"not a finished evaluation \('questionnaire'\); run it again"):
        read_run(tmp_path)


def test_a_table_that_was_changed_is_one_error(copied):
    table = pd.read_parquet(copied / "trait.parquet")
    table.assign(mass=0.5).to_parquet(copied / "trait.parquet")
    with pytest.raises(DataError, match=r"trait\.parquet is not what was written"):
        read_run(copied)


# What a stopped run leaves


@pytest.fixture
def tiny():
    return planned(questionnaires=({"name": "facts", "kind": "choice", "source": "facts", "per_group": 1},))


def test_a_run_that_was_stopped_is_not_read_and_goes_on(tiny, tmp_path, stopped_after):
    with stopped_after(2):
        run_plan(tiny, tmp_path / "stopped")
    with pytest.raises(DataError, match="no finished evaluation here"):
        read_runs(tmp_path / "stopped")
    [one], [other] = run_plan(tiny, tmp_path / "stopped"), run_plan(tiny, tmp_path / "whole")
    pd.testing.assert_frame_equal(one.of("facts"), other.of("facts"))
    assert one.manifest["outputs"] == other.manifest["outputs"]


def test_a_changed_plan_that_was_stopped_is_not_read_as_the_old_one(tiny, tmp_path, stopped_after):
    """The folder holds answers of two plans, and says nothing of it."""
    run_plan(tiny, tmp_path)
    changed = tiny.model_copy(update={"arms": (*tiny.arms, ArmsPlan(method="prompt", keys=("gender.male",)))})
    with stopped_after(0):
        run_plan(changed, tmp_path)
    with pytest.raises(DataError, match="no finished evaluation"):
        read_runs(tmp_path)


def test_a_questionnaire_that_was_taken_out_is_no_output_of_the_new_plan(plan, tmp_path):
    own = plan.model_copy(update={"models": plan.models[:1]})
    run_plan(own, tmp_path)
    [run] = run_plan(own.only("facts"), tmp_path)
    assert set(run.answers["questionnaire"]) == {"facts", NEUTRAL}
    assert set(run.manifest["outputs"]) == {"facts.parquet", "neutral.parquet"}


# What is refused


def test_a_model_that_cannot_be_had_is_one_error_before_anything_is_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_blocks, "ask_steered", lambda *_, **__: pytest.fail("asked"))
    (tmp_path / "empty").mkdir()
    for model in (ModelPlan(name=str(tmp_path / "empty")), ModelPlan(device="cuda:99")):
        with pytest.raises(DataError):
            run_plan(tiny.model_copy(update={"models": (model,)}), tmp_path / "out")


def test_weights_that_change_are_asked_anew(tiny, small_folder, tmp_path, monkeypatch):
    plan = tiny.model_copy(update={"models": (ModelPlan(name=str(small_folder)),), "arms": ()})
    [before] = run_plan(plan, tmp_path)
    own = load_model(str(small_folder))
    with torch.no_grad():
        own.model.model.embed_tokens.weight[40] += 1.0
    monkeypatch.setattr(evaluation_runs, "load_model", lambda *_: replace(own))
    [after] = run_plan(plan, tmp_path)
    assert after.manifest["model"]["weights"] == weights_digest(own.model) != before.manifest["model"]["weights"]
    assert not after.of("facts").equals(before.of("facts"))


def overflowing(items, *coefficients):
    push = {"method": "random", "site": "resid_post.1", "coefficients": coefficients, "count": 1, "positions": "all"}
    words = {"name": "words", "kind": "choice", "source": str(items), "reading": "words"}
    return planned(
        {"name": "organism", "dtype": "float16"},
        questionnaires=({"name": "trait", "kind": "trait", "per_group": 1}, words),
        arms=(push,),
        neutral=1,
    )


def test_an_arm_that_overflows_is_missing_and_collapsed_and_the_others_are_as_without_it(tmp_path, stopped_after):
    items = tmp_path / "items.jsonl"
    options = ["Milk", "Water", "Sand", "Wood"]
    rows = [{"category": "x", "question": word, "options": options, "answer": 0} for word in ("White?", "Wet?")]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan, folder = overflowing(items, 1.0, 1e6), tmp_path / "both"
    with stopped_after(1):
        run_plan(plan, folder)
    with pytest.warns(UserWarning, match="answers are left empty, since the push makes the model overflow in float16"):
        [run] = run_plan(plan, folder)
    [alone] = run_plan(overflowing(items, 1.0), tmp_path / "one")
    kept = run.answers[run.answers["arm"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone.answers, rtol=1e-2, atol=1e-3)
    found = tables(run)
    for name, count in (("trait", 8), ("words", 2)):
        assert found[f"{name}_health"]["collapsed"].tolist() == [False, False, True]
        whole = found[f"{name}_effects"].groupby("arm").last()
        assert whole["missing"].tolist() == [0, count] and whole["n"].tolist() == [count, 0]
        assert np.isnan(whole.loc[2, ["base", "score", "effect", "p"]].astype(float)).all()
    assert found["words_reading"]["unreadable"].tolist() == [0, 0, 1]
    same(*read_runs(folder), run)
    store = AnswerStore(folder / "organism" / "parts")
    asked = sum(pq.read_metadata(path).num_rows for path in store.folder.iterdir())
    assert asked == len(store.keys()), "what is missing is not asked again"
    write_report([run], tmp_path / "report")
    for name in ("trait_effects", "words_effects"):
        last = (tmp_path / "report" / "organism" / f"{name}.md").read_text().splitlines()[-1]
        assert set(re.split(r" *\| *", last)[5:-1]) == {"missing"}


# Other models


def test_a_plan_on_no_other_model_is_the_plan():
    plan = load_plan("organism")
    assert plan_on(plan, "") is plan


def test_a_plan_on_its_own_model_asks_the_same():
    plan = load_plan("organism")
    moved = plan_on(plan, "organism")
    assert moved.arms == plan.arms and moved.questionnaires == plan.questionnaires
    assert moved.models == plan.models


def test_sites_and_saes_move_and_nothing_else():
    plan = load_plan("organism")
    saes = Saes("organism", ("resid_post.3/width_512",))
    moved = plan_on(plan, "organism", saes=saes)
    for old, new in zip(plan.arms, moved.arms, strict=True):
        changed = {name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)}
        assert changed == ({"sae"} if old.method == "sae" else {"site"} if old.site else set())
    assert (moved.site, moved.features.sae) == ("resid_post.3", "resid_post.3/width_512")


def test_an_sae_of_another_width_is_refused():
    with pytest.raises(DataError, match="the organism has no SAE"):
        plan_on(load_plan("organism"), "organism", saes=Saes("organism", ("resid_post.2/width_512",)))


def test_a_plan_without_pushes_has_no_site():
    plan = load_plan("organism").model_copy(update={"arms": ()})
    with pytest.raises(ValueError, match="no arm with a site; say where to push"):
        _ = plan.site
    with pytest.raises(ValueError, match="no arm of method 'sae'"):
        _ = plan.features
