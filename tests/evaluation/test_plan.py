"""Plans are read, checked and written; what is wrong in one is named with its place and the fix."""

import pytest
import yaml

from personalib.base.data import DataError, data_dir
from personalib.evaluation.plan import (
    EvaluationPlan,
    ModelPlan,
    QuestionnairePlan,
    dump_plan,
    load_plan,
    parse_plan,
    plan_path,
)

TRAIT = {"name": "trait", "kind": "trait"}
CHOICE = {"name": "safety", "kind": "choice"}
GRIDS = ("gemma-2-9b-it", "gemma-2b-it", "organism")


def plan(**fields):
    return {"questionnaires": [TRAIT]} | fields


def asking(**fields):
    return {"questionnaires": [TRAIT | fields]}


def wording(**sampling):
    return {"questionnaires": [CHOICE | {"reading": "words", "sampling": sampling}]}


def arm(**fields):
    return plan(arms=[{"method": "prompt"}, fields])


def error_of(content):
    with pytest.raises(DataError) as caught:
        parse_plan(content, "my.yaml")
    return str(caught.value)


def test_the_smallest_plan_asks_the_organism_as_it_is():
    found = parse_plan({"questionnaires": [TRAIT]})
    assert found == EvaluationPlan(questionnaires=(QuestionnairePlan(name="trait", kind="trait"),))
    assert found.models == (ModelPlan(),) and found.models[0].name == "organism" and found.arms == ()
    [one] = found.questionnaires
    assert (one.source, one.templates, one.orders, one.shots, one.reading) == ("bundled", (), (), 0, "options")
    assert one.evaluation_only and one.per_group is None
    assert (found.neutral, found.pairs, found.seed, found.batch_size) == (12, 64, 0, 64)
    [_, one] = parse_plan(arm(method="prompt")).arms
    assert (one.family, one.keys, one.poles, one.split) == ("elements", (), ("positive",), "held_out")
    assert (one.positions, one.features, one.combine, one.count) == ("prompt", "prompt", "norm_matched", 10)


@pytest.mark.parametrize(
    ("content", "place", "fix"),
    [
        (None, "it", "valid dictionary"),
        ({}, "questionnaires", "is missing"),
        (plan(questionnaires=[]), "it", "declare at least one questionnaire"),
        (plan(questionnaires=[TRAIT, CHOICE, TRAIT]), "it", "give each a name of its own"),
        (plan(modles=[]), "modles", "there is no such field; remove it, or correct its name"),
        (plan(batch_size=0), "batch_size", "greater than or equal to 1"),
        (plan(neutral=0), "neutral", "greater than or equal to 1"),
        (plan(models=[{"dtype": "int8"}]), "models.0.dtype", "'float32', 'bfloat16' or 'float16'"),
        (plan(models=[{}, {"nam": "x"}]), "models.1.nam", "there is no such field"),
        ({"questionnaires": [{"kind": "trait"}]}, "questionnaires.0.name", "is missing"),
        (asking(kind="quiz"), "questionnaires.0.kind", "'trait', 'choice', 'judgement', 'scale' or 'pairs'"),
        (asking(orders=["up"]), "questionnaires.0.orders.0", "'normal' or 'reversed'"),
        (asking(orders=["normal"]), "questionnaires.0", "trait: traits need both orders"),
        (asking(per_group=0), "questionnaires.0.per_group", "greater than or equal to 1"),
        (asking(shots=-1), "questionnaires.0.shots", "greater than or equal to 0"),
        (asking(shots=5), "questionnaires.0", "are for kind 'choice'"),
        (asking(answers="key.json"), "questionnaires.0", "are for kind 'choice'"),
        (asking(examples="dev.json"), "questionnaires.0", "are for kind 'choice'"),
        (asking(reading="words"), "questionnaires.0", "is for kinds 'choice' and 'judgement'"),
        (asking(sampling={"temperature": 1.0}), "questionnaires.0", "sampling is for reading 'words'"),
        (wording(temperature=-0.2), "questionnaires.0.sampling.temperature", "greater than or equal to 0"),
        (wording(temperature=1.0, top_p=1.5), "questionnaires.0.sampling.top_p", "less than or equal to 1"),
        (wording(samples=3), "questionnaires.0.sampling", "do nothing at temperature 0; set a temperature"),
        (asking(kind="scale", templates=["five", "yes_no"]), "questionnaires.0", "write two for two"),
        (asking(kind="judgement", templates=["a", "b"]), "questionnaires.0", "write two for two"),
        (arm(method="magic"), "arms.1.method", "'prompt', 'repe', 'sae' or 'random'"),
        (arm(method="repe", site="resid_post.1"), "arms.1", "'repe' needs doses, or else coefficients"),
        (arm(method="sae", doses=[1], coefficients=[1]), "arms.1", "'sae' needs doses, or else coefficients"),
        (arm(method="repe", doses=[0.4]), "arms.1", "'repe' needs a site, such as resid_post.1"),
        (arm(method="random", doses=[0.4]), "arms.1", "'random' needs a site, such as resid_post.1"),
        (arm(method="prompt", doses=[0.4]), "arms.1", "leave both out"),
        (arm(method="prompt", coefficients=[2]), "arms.1", "leave both out"),
        (arm(method="sae", doses=[1], features="best"), "arms.1.features", "'prompt' or 'published'"),
        (arm(method="random", site="resid_post.1", doses=[1], count=0), "arms.1.count", "greater than or equal to 1"),
        (arm(method="prompt", poles=["up"]), "arms.1.poles.0", "'positive' or 'negative'"),
        (arm(method="prompt", personas={"N": "gender.female"}), "arms.1.personas.N", "list of values"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_fix(content, place, fix):
    message = error_of(content)
    assert message.startswith(f"my.yaml: {place}") and fix in message


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "pairs", "per_group": 2},
        {"kind": "pairs", "templates": ["letters"]},
        {"kind": "pairs", "orders": ["reversed"]},
        {"kind": "scale", "orders": ["reversed"]},
        {"kind": "judgement", "orders": ["normal"]},
        {"kind": "choice", "examples": "dev.json"},
        # It names the file of answers, beside neutral.parquet; found out at the end of a run, it is too late.
        *({"name": name} for name in ("neutral", "a/b", "../up", "")),
    ],
)
def test_what_would_be_passed_over_in_silence_and_a_name_that_no_file_can_have_are_refused(fields):
    # A file of word pairs that is named and never read would look as if it had been.
    assert "questionnaires.0" in error_of(asking(**fields))


@pytest.mark.parametrize(
    "models",
    [[], [{}, {}], [{}, {"dtype": "bfloat16"}], [{"name": "own/model"}, {"name": "own/model", "form": "base"}]]
    + [[{"name": one}, {"name": other}] for one, other in (("/models/x", "models/x"), ("a/b", "a_b"), ("a b", "a+b"))],
)
def test_models_that_would_share_a_folder_are_refused(models):
    assert "model" in error_of(plan(models=models)).removeprefix("my.yaml")


def test_one_model_at_two_revisions_is_two_models():
    assert len(parse_plan(plan(models=[{"revision": "a"}, {"revision": "b"}])).models) == 2


def test_a_plan_may_be_cut_to_some_questionnaires():
    whole = parse_plan(plan(questionnaires=[TRAIT, CHOICE, {"name": "bias", "kind": "pairs"}], seed=3))
    cut = whole.only("bias", "trait")
    assert [one.name for one in cut.questionnaires] == ["bias", "trait"] and cut.seed == 3
    assert len(whole.questionnaires) == 3
    with pytest.raises(ValueError, match="no questionnaire 'facts', but trait, safety, bias"):
        whole.only("trait", "facts")


@pytest.mark.parametrize("name", GRIDS)
def test_the_committed_plans_are_read_and_written_without_loss(name, tmp_path):
    found = load_plan(name)
    assert parse_plan(yaml.safe_load(dump_plan(found))) == found
    path = tmp_path / "again.yaml"
    path.write_text(dump_plan(found), encoding="utf-8")
    assert load_plan(path) == load_plan(str(path)) == found
    assert {one.kind for one in found.questionnaires} >= {"trait", "choice", "pairs", "judgement"}
    assert {one.method for one in found.arms} == {"prompt", "repe", "sae", "random"}


def test_every_committed_plan_is_known():
    assert sorted(path.stem for path in (data_dir() / "grids").glob("*.yaml")) == sorted(GRIDS)


def test_a_plan_is_found_by_its_path_or_its_name(tmp_path, monkeypatch):
    assert plan_path("organism") == data_dir() / "grids" / "organism.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("questionnaires: [{name: t, kind: trait}]\n")
    monkeypatch.chdir(tmp_path)
    assert plan_path(own) == own and plan_path("own.yaml").samefile(own)
    (tmp_path / "organism").mkdir()
    assert plan_path("organism").name == "organism.yaml"


def test_a_missing_plan_names_those_that_there_are():
    problem = "mine: no such plan; pass a YAML file, or one of gemma-2-9b-it, gemma-2b-it, o"
    with pytest.raises(DataError, match=problem):
        load_plan("mine")


def test_a_file_that_is_no_plan_is_named(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("questionnaires: [")
    with pytest.raises(DataError, match=r"bad.yaml: not valid YAML"):
        load_plan(bad)
    bad.write_text("questionnaires: [{name: t, kind: trial}]")
    with pytest.raises(DataError, match=r"bad.yaml: questionnaires.0.kind: "):
        load_plan(bad)


@pytest.mark.parametrize("name", [".", "..", "/../"])
def test_no_name_leads_out_of_a_plans_folder(name):
    assert ModelPlan(name=name).folder.strip("/").startswith("_.")


def test_files_of_a_plan_are_found_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "key.json").write_text("{}")
    fields = {"source": "some/hub-data", "answers": "key.json"}
    (tmp_path / "plans" / "mine.yaml").write_text(yaml.safe_dump(plan(questionnaires=[CHOICE | fields])))
    [found] = load_plan(tmp_path / "plans" / "mine.yaml").questionnaires
    assert (found.source, found.answers) == ("some/hub-data", str(tmp_path / "plans" / "key.json"))
    # What is in the working folder goes first.
    (tmp_path / "key.json").write_text("{}")
    [found] = load_plan(tmp_path / "plans" / "mine.yaml").questionnaires
    assert found.answers == "key.json"
