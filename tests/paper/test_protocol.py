"""A protocol turns any plan into its own manner, tells where it could not, and refuses files that are none."""

import pytest
import yaml

from personalib.base.data import DataError, data_dir
from personalib.evaluation.plan import ModelPlan, dump_plan, load_plan, parse_plan
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.features.published import published_features
from personalib.models.sampling import GREEDY, Sampling
from personalib.paper.deviations import Manner, deviations
from personalib.paper.protocol import apply_protocol, load_protocol

MODEL = "google/gemma-2b-it"
TEMPLATES = {"own": {"labels": list("ABCD"), "option": "({label}) {text}", "text": "Q: {question}\n{options}\nA:"}}
PERSONA, PRESSED = {"N": ["age.older"]}, {"family": "pressures"}
CONTRASTS = {"trust": {"positive": ["Trust everybody."], "negative": ["Trust nobody."]}}


@pytest.fixture(scope="module")
def paper():
    return load_protocol("paper")


def arms(plan, **wanted):
    return [one for one in plan.arms if all(getattr(one, name) == value for name, value in wanted.items())]


def points(left):
    return set(left[["where", "what"]].itertuples(index=False, name=None))


def left_by(left, where):
    """In what one thing leaves the protocol."""
    return set(left.loc[left["where"] == where, "what"])


# Application


@pytest.mark.parametrize(
    ("grid", "model", "coefficients"),
    [("gemma-2b-it", MODEL, (200, 1.6)), ("gemma-2-9b-it", "gemma-2-9b-it", (800, 1.8))],
)
def test_features_and_contrast_vectors_are_pushed_as_the_paper_does(paper, grid, model, coefficients):
    plan = apply_protocol(load_plan(grid), paper, model)
    for one in arms(plan, method="sae", family="elements"):
        assert (one.coefficients, one.doses, one.positions) == ((coefficients[0],), (), "prompt_except_last")
        assert (one.features, one.combine, one.poles) == ("published", "sum", ("positive",))
        assert one.personas or set(one.keys) <= set(published_features(model))
    [pressure] = arms(plan, method="repe", family="pressures")
    assert (pressure.coefficients, pressure.positions) == ((coefficients[1],), "last")
    [chance] = arms(plan, method="random")
    assert (chance.coefficients, chance.positions) == ((coefficients[0],), "prompt_except_last")


def test_the_books_own_plan_becomes_the_papers_for_another_model(paper):
    plan = apply_protocol(load_plan("organism"), paper, MODEL)
    assert [one.name for one in plan.models] == [MODEL]
    [single] = arms(plan, method="sae", personas={})
    assert (single.release, single.sae) == ("gemma-2b-it-res-jb", "blocks.12.hook_resid_post")
    assert set(single.keys) == set(published_features(MODEL))
    assert parse_plan(yaml.safe_load(dump_plan(plan))) == plan


def test_the_questionnaires_are_put_as_the_paper_puts_them(paper):
    plan = apply_protocol(load_plan("organism"), paper, MODEL)
    asked = {one.name: one for one in plan.questionnaires}
    trait, safety = asked["trait"], asked["safety"]
    assert (trait.templates, trait.per_group, trait.evaluation_only) == (("letters",), 1000, False)
    assert set(trait.orders) == {"normal", "reversed"}
    assert (safety.reading, safety.shots, safety.per_group) == ("words", 0, None)
    assert safety.sampling == Sampling(temperature=0.2, frequency_penalty=1.0, seed=16)
    assert asked["safety_five_shot"].sampling == trait.sampling == GREEDY
    before = {one.name: one for one in load_plan("organism").questionnaires}
    assert all(asked[name] == before[name] for name in ("self_report", "bias", "facts"))
    # Hallucinations are read as SafetyBench is, and stay what they are otherwise.
    how = {"reading": "words", "sampling": safety.sampling}
    assert asked["judgement"] == before["judgement"].model_copy(update=how)


def test_arms_that_the_protocol_has_no_word_on_stay_and_equal_ones_are_asked_once(paper):
    plan = load_plan("gemma-2b-it")
    found = apply_protocol(plan, paper, MODEL)
    for wanted in (
        {"method": "prompt"},
        {"method": "repe", "family": "elements"},
        {"method": "sae", "family": "pressures"},
    ):
        assert arms(found, **wanted) == arms(plan, **wanted) != []
    twice = plan.model_copy(update={"arms": (plan.arms[1], plan.arms[1].model_copy(update={"coefficients": (7.0,)}))})
    assert len(apply_protocol(twice, paper, MODEL).arms) == 1


def test_applying_it_again_changes_nothing(paper):
    once = apply_protocol(load_plan("gemma-2b-it"), paper, MODEL)
    assert apply_protocol(once, paper, MODEL) == once


def test_a_model_that_the_paper_does_not_have_keeps_the_plans_features_and_says_so(paper):
    plan = apply_protocol(load_plan("organism"), paper, "organism")
    [single] = arms(plan, method="sae", personas={})
    [before] = arms(load_plan("organism"), method="sae", personas={})
    assert (single.features, single.doses, single.sae) == ("prompt", before.doses, before.sae)
    assert (single.positions, single.combine) == ("prompt_except_last", "sum")
    found = points(deviations(paper, plan))
    assert {("arms 'sae', organism", "features"), ("arms 'sae', organism", "coefficient")} <= found


def test_the_books_protocol_gives_doses_to_every_model():
    book = load_protocol("book")
    plan = apply_protocol(load_plan("gemma-2b-it"), book, MODEL)
    for one in (*arms(plan, method="sae", family="elements"), *arms(plan, method="repe", family="pressures")):
        assert (one.doses, one.coefficients, one.positions) == ((0.1, 0.2, 0.4), (), "prompt")
    assert (book.scoring.rule, book.scoring.unreadable) == ("probabilities", "missing")
    assert Manner.read("book").column == "value"
    assert not set(deviations(book, plan)["what"]) & {"strength", "features", "positions", "templates"}


# Deviations


def test_an_applied_plan_leaves_the_paper_only_where_it_cannot_follow(paper):
    found = deviations(paper, apply_protocol(load_plan("gemma-2b-it"), paper, MODEL))
    assert left_by(found, "trait") == {"templates"}
    assert left_by(found, "arms 'pressure'") == {"layer", "contrast prompts", "questions of contrast pairs"}
    assert not found["where"].str.startswith("arms 'sae'").any()
    assert {("templates", "persona"), ("scoring", "unreadable answers in words")} <= points(found)
    assert list(found) == ["where", "what", "protocol", "plan", "why"] and found.map(bool).all(axis=None)


def test_every_point_that_a_plan_leaves_is_told(paper):
    plan = parse_plan(
        {
            "models": [{"name": MODEL}],
            "questionnaires": [
                {"name": "trait", "kind": "trait", "per_group": 3, "templates": ["bare"]},
                {"name": "safety", "kind": "choice", "shots": 1, "orders": ["reversed"]},
            ],
            "arms": [
                {"method": "sae", "release": "mine", "doses": [0.1], "poles": ["negative"], "personas": PERSONA},
                {"method": "repe", **PRESSED, "site": "resid_post.3", "coefficients": [2], "positions": "all"},
                {"method": "sae", "label": "crossed", **PRESSED, "doses": [0.1]},
            ],
        }
    )
    found = deviations(paper, plan)
    for where, what in {
        "trait": {"template names", "items left out", "items of each group", "items", "templates"},
        "safety": {"reading", "examples before an item", "orders", "items"},
        "arms 'sae'": {"positions", "several vectors", "poles"},
        f"arms 'sae', {MODEL}": {"strength", "features", "SAE"},
        "arms 'repe'": {"positions"},
        f"arms 'repe', {MODEL}": {"strength"},
        "arms 'crossed'": {"method"},
    }.items():
        assert what <= left_by(found, where)


# Supplied prompts


def test_a_file_of_prompts_is_what_is_asked_and_fitted(write_yaml):
    path = write_yaml(templates=TEMPLATES, contrasts=CONTRASTS)
    protocol = load_protocol("paper", path)
    plan = apply_protocol(load_plan("organism"), protocol, MODEL)
    [trait] = [one for one in plan.questionnaires if one.name == "trait"]
    assert (trait.template_file, trait.templates) == (str(path), ("own",))
    question = planned_questionnaire(trait.model_copy(update={"per_group": 1})).questions[0]
    assert question.text.startswith("Q: ") and question.text.endswith("\nA:") and question.template == "own"
    pressure = apply_protocol(load_plan("gemma-2b-it"), protocol, MODEL)
    [pressed] = arms(pressure, method="repe", family="pressures")
    assert pressed.contrast_file == str(path)
    left = points(deviations(protocol, pressure))
    assert not {("trait", "templates"), ("arms 'pressure'", "contrast prompts"), ("templates", "persona")} & left
    assert ("trait", "file of templates") in points(deviations(protocol, load_plan("gemma-2b-it")))


def test_a_file_of_one_section_leaves_the_other_to_the_book(write_yaml):
    protocol = load_protocol("paper", write_yaml(contrasts=CONTRASTS))
    assert protocol.supplies("contrasts") and not protocol.supplies("templates")
    plan = apply_protocol(load_plan("gemma-2b-it"), protocol, MODEL)
    assert all(one.template_file is None for one in plan.questionnaires)
    assert ("trait", "templates") in points(deviations(protocol, plan))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "write sections templates or contrasts"),
        ({"templates": TEMPLATES, "forms": {}}, "no other"),
        ({"templates": {}}, "templates: none are there"),
        ({"templates": {"own": TEMPLATES["own"] | {"text": "{question}"}}}, r"own\.text: {options} is missing"),
        ({"contrasts": {"trust": {"positive": ["x"]}}}, r"contrasts\.trust\.negative: is missing; add it"),
        ({"contrasts": CONTRASTS, "questions": ["a?"]}, "questions: Value should have at least 4 items"),
    ],
)
def test_a_bad_file_of_prompts_is_one_error_that_names_file_key_and_fix(write_yaml, content, problem):
    path = write_yaml(**content)
    with pytest.raises(DataError, match=problem) as caught:
        load_protocol("paper", path)
    assert str(caught.value).startswith(str(path))


def test_another_sampling_is_a_deviation_where_both_read_words(paper):
    plan = apply_protocol(load_plan("organism"), paper, MODEL)
    found, written = deviations(paper, plan), {"length of an answer", "sampling in effect", "random numbers"}
    assert "sampling" not in set(found["what"])
    assert left_by(found, "safety_in_words") >= written
    assert left_by(found, "judgement") == {"questionnaire", *written}
    assert "reading" in left_by(deviations(paper, load_plan("organism")), "judgement")
    greedy = tuple(one.model_copy(update={"sampling": GREEDY}) for one in plan.questionnaires)
    left = deviations(paper, plan.model_copy(update={"questionnaires": greedy}))
    sampling = left.loc[(left["where"] == "safety") & (left["what"] == "sampling"), ["protocol", "plan"]]
    assert sampling.to_numpy().tolist() == [["temperature 0.2, frequency penalty 1, seed 16", "greedy"]]


# Files


def test_a_protocol_is_read_from_a_file_or_by_its_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((data_dir() / "protocols" / "paper.yaml").read_text().replace("name: paper", "name: mine"))
    assert load_protocol(path).name == "mine" and load_protocol("book").name == "book"
    with pytest.raises(DataError, match="papper: no such protocol; pass a YAML file, or one of book, paper"):
        load_protocol("papper")


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("rule: published", "rule: publisht", r"scoring\.rule: Input should be 'published'"),
        ("layer: plan", "layer: plan\ndecodign: 1", "decodign: there is no such field"),
        ("  reading: words\n", "", "safety: sampling is for reading 'words'; leave it out, or read words"),
        ("seed: 16", "sede: 16", r"safety\.sampling\.sede: there is no such field"),
        ("  coefficients: {gemma-2b-it: [1.6], gemma-2-9b-it: [1.8]}\n", "", "pressure: write coefficients by model"),
        ("floor: 0.0", "floor: 2", r"scoring\.floor"),
        ("name: paper", "name: [", "not valid YAML"),
    ],
)
def test_a_bad_protocol_is_one_error_that_names_file_and_field(tmp_path, before, after, problem):
    path, text = tmp_path / "mine.yaml", (data_dir() / "protocols" / "paper.yaml").read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(DataError, match=problem) as caught:
        load_protocol(path)
    assert str(caught.value).startswith(str(path))


def test_prompts_that_a_protocol_names_are_those_beside_it_before_those_here(write_yaml, tmp_path, monkeypatch):
    other = {"other": TEMPLATES["own"]}
    for folder, templates in (("mine", TEMPLATES), ("here", other)):
        (tmp_path / folder).mkdir()
        write_yaml(f"{folder}/prompts.yaml", templates=templates)
    protocol = tmp_path / "mine" / "protocol.yaml"
    text = (data_dir() / "protocols" / "paper.yaml").read_text()
    protocol.write_text(text.replace("prompts: null", "prompts: prompts.yaml"))
    monkeypatch.chdir(tmp_path / "here")
    found = load_protocol(protocol)
    assert found.prompts == str(tmp_path / "mine" / "prompts.yaml") and found.trait.templates == ("own",)
    assert load_protocol(protocol, "prompts.yaml").trait.templates == ("other",), "the caller's are where the caller is"
    (tmp_path / "mine" / "prompts.yaml").unlink()
    assert load_protocol(protocol).trait.templates == ("other",)


def test_no_sae_is_not_a_folder(paper):
    arm = {"method": "sae", "release": "", "doses": [0.1]}
    plan = parse_plan({"questionnaires": [{"name": "trait", "kind": "trait"}], "arms": [arm]})
    [arm] = apply_protocol(plan, paper, MODEL).arms
    assert arm.release == "gemma-2b-it-res-jb"


# Manners


@pytest.fixture(scope="module")
def plan():
    """The book's own plan put to the paper's small model, as a chapter does where the weights are there."""
    own = load_plan("organism").only("trait", "safety", "safety_in_words", "facts")
    sae = {"release": "gemma-2b-it-res-jb", "sae": "blocks.12.hook_resid_post"}
    arms = tuple(one.model_copy(update=sae if one.method == "sae" else {"site": "resid_post.12"}) for one in own.arms)
    return own.model_copy(update={"models": (ModelPlan(name=MODEL),), "arms": arms})


def test_without_a_protocol_a_plan_stays_as_it_is(plan):
    manner = Manner.read()
    assert manner.put(plan) is plan and manner.column == "value"
    assert "plan's own manner" in manner.note(plan) and "dropdown" not in manner.note(plan)


def test_a_protocol_pushes_as_published_and_leaves_the_number_of_items(plan):
    manner = Manner.read("paper")
    put = manner.put(plan)
    assert {one.coefficients for one in arms(put, method="sae")} == {(200.0,)} and manner.column == "published"
    trait, safety, words, facts = put.questionnaires
    assert (trait.templates, trait.per_group) == (("letters",), plan.questionnaires[0].per_group)
    assert not trait.evaluation_only
    # Safety is read both ways in one chapter, so that neither becomes the other.
    assert (safety.reading, words.reading) == ("options", "words")
    assert (safety.sampling, words.sampling) == (GREEDY, Sampling(temperature=0.2, frequency_penalty=1.0, seed=16))
    assert facts == plan.questionnaires[3]


def test_a_chapter_that_varies_strength_keeps_its_own(plan):
    put = Manner.read("paper").put(plan, strength=False)
    [single, persona] = arms(put, method="sae")
    assert (single.doses, single.features, single.positions) == ((0.3,), "published", "prompt_except_last")
    assert persona.combine == "sum" and persona.doses == (0.3, -0.3)


def test_readers_are_told_where_a_run_leaves_its_protocol(plan):
    manner = Manner.read("paper")
    note = manner.note(manner.put(plan))
    assert note.startswith("Protocol: **arXiv 2410.10863, as published**. Items whose options have less than 10%")
    assert "| trait " in note and "mirlab/TRAIT" in note and "| safety " in note
    count = int(note.split("leaves it: ")[1].split(" ")[0])
    assert count == note.count("\n| ") - 1


def test_a_foreign_title_is_shown_as_it_is(plan):
    foreign = Manner(Manner.read("paper").protocol.model_copy(update={"title": "<b>{x}"}))
    assert "Protocol: **\\<b\\>\\{x\\}**" in foreign.note(foreign.put(plan))


def test_a_deviation_of_two_plans_is_told_once(plan):
    manner = Manner.read("paper")
    put = manner.put(plan)
    assert manner.note(put, put) == manner.note(put)


def test_prompts_of_ones_own_replace_the_books(plan, write_yaml):
    path = write_yaml(templates=TEMPLATES)
    put = Manner.read("paper", str(path)).put(plan)
    assert put.questionnaires[0].templates == ("own",) and put.questionnaires[0].template_file == str(path)


def test_prompts_without_a_protocol_are_refused():
    with pytest.raises(DataError, match=r"own\.yaml: prompts belong to a protocol; pass `protocol` too"):
        Manner.read(prompts="own.yaml")
