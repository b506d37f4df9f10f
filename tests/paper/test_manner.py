"""A chapter's manner: the plan's own or a protocol's, and what readers are told of it."""

import pytest
import yaml

from personalib.base.data import DataError
from personalib.evaluation.plan import ModelPlan, load_plan
from personalib.models.sampling import GREEDY, Sampling
from personalib.paper.deviations import Manner

SMALL = "google/gemma-2b-it"


@pytest.fixture(scope="module")
def plan():
    """The book's own plan put to the paper's small model, as a chapter does where the weights are there."""
    own = load_plan("organism").only("trait", "safety", "safety_in_words", "facts")
    sae = {"release": "gemma-2b-it-res-jb", "sae": "blocks.12.hook_resid_post"}
    arms = tuple(one.model_copy(update=sae if one.method == "sae" else {"site": "resid_post.12"}) for one in own.arms)
    return own.model_copy(update={"models": (ModelPlan(name=SMALL),), "arms": arms})


def features(plan):
    return [one for one in plan.arms if one.method == "sae"]


def test_without_a_protocol_a_plan_stays_as_it_is(plan):
    manner = Manner.read()
    assert manner.put(plan) is plan and manner.column == "value"
    assert "plan's own manner" in manner.note(plan) and "dropdown" not in manner.note(plan)


def test_a_protocol_pushes_as_published_and_leaves_the_number_of_items(plan):
    manner = Manner.read("paper")
    put = manner.put(plan)
    assert {one.coefficients for one in features(put)} == {(200.0,)} and manner.column == "published"
    trait, safety, words, facts = put.questionnaires
    assert (trait.templates, trait.per_group) == (("letters",), plan.questionnaires[0].per_group)
    assert not trait.evaluation_only
    # Safety is read both ways in one chapter, so that neither becomes the other.
    assert (safety.reading, words.reading) == ("options", "words")
    assert (safety.sampling, words.sampling) == (GREEDY, Sampling(temperature=0.2, frequency_penalty=1.0, seed=16))
    assert facts == plan.questionnaires[3]


def test_a_chapter_that_varies_strength_keeps_its_own(plan):
    put = Manner.read("paper").put(plan, strength=False)
    [single, persona] = features(put)
    assert (single.doses, single.features, single.positions) == ((0.2,), "published", "prompt_except_last")
    assert persona.combine == "sum" and persona.doses == (0.2, -0.2)


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


def test_prompts_of_ones_own_replace_the_books(plan, tmp_path):
    path = tmp_path / "prompts.yaml"
    template = {"labels": list("ABCD"), "option": "({label}) {text}", "text": "Q: {question}\n{options}\nA:"}
    path.write_text(yaml.safe_dump({"templates": {"own": template}}))
    put = Manner.read("paper", str(path)).put(plan)
    assert put.questionnaires[0].templates == ("own",) and put.questionnaires[0].template_file == str(path)


def test_prompts_without_a_protocol_are_refused():
    with pytest.raises(DataError, match=r"own\.yaml: prompts belong to a protocol; pass `protocol` too"):
        Manner.read(prompts="own.yaml")


def test_the_books_protocol_counts_probabilities():
    assert Manner.read("book").column == "value"
