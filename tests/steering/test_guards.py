"""A model that is pushed too hard is told from one that still answers, by its answers to neutral questions."""

from itertools import product

import numpy as np
import pytest
import torch
from small_models import SITES, small, steered_alone, untouched, vector

from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.prompts import format_prompt
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.questionnaires.questions import trait_questions
from personalib.steering.doses import at_dose, site_norms
from personalib.steering.grid import ask_steered
from personalib.steering.guards import neutral_exchanges, perplexities, perplexity_of_each
from personalib.steering.interventions import POSITIONS, Add
from personalib.steering.settings import Guard
from personalib.stimuli.grammar import load_relations
from personalib.vectors.vector import SteeringVector

CHAT = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
BASE = "{}\nAnswer:\n"
# Prompts and answers of several lengths, the shortest of one token that counts.
EXCHANGES = [
    ("w1 w2 w3 ", "w4 w5"),
    ("w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ", "w3 w1 w4 w1 w5 w9 w2 w6 w5 w3 w5"),
    ("w3 ", "w24 w23 w22 w21 w20 w19"),
]


@pytest.fixture(scope="module")
def organism():
    return load_model()


# What counts as collapsed


def test_what_is_left_at_the_bounds_has_not_collapsed():
    mass = np.array([1.0, 0.9, 0.899, 1.2, 0.9])
    perplexity = np.array([1.0, 2.0, 1.0, 0.5, 2.001])
    assert Guard().collapsed(mass, perplexity).tolist() == [False, False, True, False, True]


def test_the_bounds_are_those_of_the_guard():
    mass, perplexity = np.array([0.6, 0.4, 0.6, 0.4]), np.array([4.0, 4.0, 6.0, 6.0])
    assert Guard(0.5, 5).collapsed(mass, perplexity).tolist() == [False, True, True, True]
    assert Guard(0, 5).collapsed(mass, perplexity).tolist() == [False, False, True, True]
    assert Guard(0.5, np.inf).collapsed(mass, perplexity).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("mass", "perplexity"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (1.0, np.inf), (0.0, 1.0)]
)
def test_what_could_not_be_measured_has_collapsed(mass, perplexity):
    assert Guard().collapsed(np.array([mass, 1.0]), np.array([perplexity, 1.0])).tolist() == [True, False]


def test_a_guard_keeps_the_shape_of_what_it_looks_at():
    mass = np.array([[1.0, 0.5, 1.0], [1.0, 1.0, 0.2]])
    found = Guard().collapsed(mass, np.ones((2, 3)))
    assert found.dtype == bool and found.tolist() == [[False, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("mass", "perplexity"), [(-0.1, 2), (1.1, 2), (0.9, 0.99), (np.nan, 2), (0.9, np.nan)], ids=str
)
def test_a_guard_that_not_even_the_unsteered_model_passes_is_refused(mass, perplexity):
    with pytest.raises(ValueError, match=r"take a mass of 0 to 1 and a perplexity of at least 1"):
        Guard(mass, perplexity)


@pytest.mark.parametrize("guard", [Guard(), Guard(1, 1), Guard(0, 1), Guard(1, np.inf)], ids=str)
def test_the_unsteered_model_has_not_collapsed(guard):
    assert not guard.collapsed(np.array(1.0), np.array(1.0))


# Neutral questions


def held_out_questions():
    """Relation and subject of each question that is held out of training."""
    return {
        question.format(subject=fact.subject): (relation, fact.subject)
        for relation in load_relations()
        for question in relation.questions["held_out"]
        for fact in relation.facts
    }


def sentences(relation, subject):
    """All true answers about a subject, each in a sentence."""
    told = [
        statement.format(subject=subject, object=fact.object)
        for fact in relation.facts
        if fact.subject == subject
        for statement in relation.statements
    ]
    return {text[0].upper() + text[1:] for text in told}


def asked(prompt, form, context=""):
    """The question of a prompt, which has to be written as the form says."""
    before, after = form.format(f"{context}\n{{}}" if context else "{}").split("{}")
    assert prompt.startswith(before) and prompt.endswith(after)
    return prompt[len(before) : len(prompt) - len(after)]


@pytest.mark.parametrize(("form", "written"), [("chat", CHAT), ("base", BASE)])
def test_questions_are_held_out_ones_and_answers_true_sentences_to_them(organism, form, written):
    found, known = neutral_exchanges(organism, 200, form=form), held_out_questions()
    assert len(found) == 200
    for prompt, answer in found:
        relation, subject = known[asked(prompt, written)]
        assert answer in sentences(relation, subject)
        assert answer[0] == answer[0].upper() and answer.endswith(".")
    assert len({prompt for prompt, _ in found}) > 100
    assert {known[asked(prompt, written)][0].key for prompt, _ in found} == {one.key for one in load_relations()}


def test_there_are_as_many_as_are_asked_for(organism):
    assert [len(neutral_exchanges(organism, count)) for count in (0, 1, 7)] == [0, 1, 7]
    assert len(neutral_exchanges(organism)) == 24


def test_the_seed_decides_the_questions(organism):
    first, second, other = (neutral_exchanges(organism, seed=seed) for seed in (1, 1, 2))
    assert first == second and len(set(first) & set(other)) < 6


def test_the_form_changes_how_a_question_is_put_and_not_which(organism):
    chat, base = (neutral_exchanges(organism, form=form) for form in ("chat", "base"))
    assert [asked(prompt, CHAT) for prompt, _ in chat] == [asked(prompt, BASE) for prompt, _ in base]
    assert [answer for _, answer in chat] == [answer for _, answer in base]


@pytest.mark.parametrize(("form", "written"), [("chat", CHAT), ("base", BASE)])
def test_each_question_comes_after_the_next_context_in_turn(organism, form, written):
    contexts = ["I am a woman.", "", "I am old.\n"]
    plain = neutral_exchanges(organism, 8, form=form)
    told = neutral_exchanges(organism, 8, form=form, contexts=contexts)
    for number, ((prompt, answer), (alone, same)) in enumerate(zip(told, plain, strict=True)):
        context = ["I am a woman.", "", "I am old."][number % 3]
        assert asked(prompt, written, context) == asked(alone, written) and answer == same


def test_a_model_without_a_chat_template_is_asked_in_plain_text():
    model = small("llama")
    with pytest.raises(ValueError, match="has no chat template; use form='base'"):
        neutral_exchanges(model)
    assert asked(neutral_exchanges(model, 1, form="base")[0][0], BASE) in held_out_questions()


# Perplexity


def perplexity_by_hand(language_model, condition):
    """All tokens of all answers but the first of each: e to minus the mean logarithm of their probabilities."""
    chances = []
    for prompt, answer in EXCHANGES:
        ids, length = language_model.tokenizer.encode(prompt + answer), len(language_model.tokenizer.encode(prompt))
        own = steered_alone(language_model.model, ids, length, condition).double().log_softmax(-1)
        chances += [float(own[place - 1, ids[place]]) for place in range(length + 1, len(ids))]
    assert len(chances) == 1 + 10 + 5
    return np.exp(-np.mean(chances))


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_perplexity_is_that_of_each_answer_by_itself_steered_as_the_positions_say(name, batch_size):
    model = small(name)
    conditions = [(), *((Add(vector(Site(1), 2), 1.0, positions),) for positions in POSITIONS)]
    conditions.append((Add(vector(SITES[0], 3), -1.0, "all"), Add(vector(Site(2), 4), 1.0, "last")))
    found = perplexities(model, EXCHANGES, conditions, batch_size=batch_size)
    assert found.shape == (len(conditions),) and found.dtype == np.float64
    np.testing.assert_allclose(found, [perplexity_by_hand(model, one) for one in conditions], rtol=1e-5)
    assert all(abs(one - other) > 0.01 for place, one in enumerate(found) for other in found[:place])


def test_the_first_token_of_an_answer_does_not_count_and_is_read_all_the_same():
    """Nothing but its own probability depends on it where the model reads no other token."""
    model = small("llama")
    deaf = small("llama")
    for block in deaf.model.model.layers:
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
    exchanges, others = [("w1 ", "w2 w3 w4")], [("w1 ", "w9 w3 w4")]
    ids = deaf.tokenizer.encode("w1 w2 w3 w4")
    with torch.inference_mode():
        chances = deaf.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = np.exp(-(chances[2, ids[3]] + chances[3, ids[4]]).item() / 2)
    np.testing.assert_allclose(perplexities(deaf, exchanges, [()]), [expected], rtol=1e-5)
    assert perplexities(model, exchanges, [()]) != pytest.approx(perplexities(model, others, [()]), rel=0.01)


def test_long_answers_count_more_than_short_ones():
    model = small("llama")
    together = perplexities(model, EXCHANGES, [()])
    alone = [np.log(perplexities(model, [one], [()])[0]) for one in EXCHANGES]
    np.testing.assert_allclose(np.log(together), [np.average(alone, weights=[1, 10, 5])], rtol=1e-5)


@pytest.mark.parametrize("condition", [(), (Add(vector(Site(1), 3), 1.0, "prompt"),)])
def test_groups_are_as_perplexing_together_as_each_by_itself(condition):
    model = small("llama")
    groups = [EXCHANGES[:1], EXCHANGES[1:], EXCHANGES]
    alone = [perplexities(model, group, [condition])[0] for group in groups]
    np.testing.assert_allclose(perplexity_of_each(model, groups, condition, batch_size=2), alone, rtol=1e-5)


@pytest.mark.parametrize("groups", [[], [EXCHANGES, []]])
def test_a_group_without_exchanges_is_refused(groups):
    with pytest.raises(ValueError, match="pass at least one in each group"):
        perplexity_of_each(small("llama"), groups)


def test_a_model_to_which_all_words_are_alike_is_as_perplexed_as_there_are_words():
    model = small("llama")
    torch.nn.init.zeros_(model.model.lm_head.weight)
    np.testing.assert_allclose(perplexities(model, EXCHANGES, [(), ()]), model.model.config.vocab_size, rtol=1e-5)


def test_without_exchanges_there_is_no_perplexity():
    with pytest.raises(ValueError, match="there are no exchanges to measure the perplexity of"):
        perplexities(small("llama"), [], [()])


def test_an_answer_of_one_token_has_none_that_counts():
    with pytest.raises(ValueError, match="the answer 'w7' has no 2 tokens of its own after its prompt"):
        perplexities(small("llama"), [*EXCHANGES, ("w1 ", "w7")], [()])


def test_a_vector_of_another_model_is_refused():
    with pytest.raises(ValueError, match="has 8 coordinates at"):
        perplexities(small("llama"), EXCHANGES, [(), (Add(vector(Site(1), width=8)),)])


def test_measuring_shows_its_progress_and_leaves_the_model_as_it_was(capsys):
    model = small("llama")
    before, conditions = model.digest(), [(), (Add(vector(Site(1)), 1.0, "all"),)]
    perplexities(model, EXCHANGES, conditions)
    assert capsys.readouterr() == ("", "")
    perplexities(model, EXCHANGES, conditions, progress="Neutral questions")
    shown = capsys.readouterr().err
    assert "Neutral questions" in shown and "6/6" in shown
    assert model.digest() == before and untouched(model.model)


# The organism


def test_neutral_answers_are_sentences_to_the_organism(organism):
    """It finds them far likelier than the same words the other way round."""
    exchanges = neutral_exchanges(organism, 16)
    turned = [(prompt, " ".join(reversed(answer.split()))) for prompt, answer in exchanges]
    right, wrong = (perplexities(organism, one, [()]).item() for one in (exchanges, turned))
    assert 1 < right < wrong / 2


def test_the_organism_collapses_under_a_huge_push_and_not_under_a_small_one(organism, tmp_path):
    questions = trait_questions(some_of_each(validation_split(load_trait())[0], 1))
    asked = [format_prompt(organism.tokenizer, question.text) for question in questions]
    exchanges, sites = neutral_exchanges(organism, 8), [Site(1), Site(3)]
    norms = site_norms(organism, asked, sites, tmp_path)
    units = list(product(sites, (0.02, -0.02, 20.0, -20.0)))
    generator = torch.Generator().manual_seed(0)
    some = {
        site: SteeringVector(torch.randn(128, generator=generator), site, "some", "random", "organism", "1")
        for site in sites
    }
    conditions = [(), *((Add(at_dose(some[site], dose, norms[site]), 1.0, "all"),) for site, dose in units)]
    answers = ask_steered(organism, asked, questions[0].labels, conditions)
    mass = answers.sum(2).mean(1)
    perplexity = perplexities(organism, exchanges, conditions)
    collapsed = Guard().collapsed(mass / mass[0], perplexity / perplexity[0])
    assert collapsed.tolist() == [False, *(abs(dose) > 1 for _, dose in units)]


@pytest.mark.parametrize("contexts", ["You are a woman.", ()])
def test_contexts_are_a_list_of_texts(organism, contexts):
    with pytest.raises(ValueError, match=r"contexts=.*; pass a list of texts"):
        neutral_exchanges(organism, 2, contexts=contexts)
