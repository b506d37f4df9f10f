"""A model that is pushed too hard is told from one that still answers, by its answers to neutral questions."""

import numpy as np
import pytest

from personalib.steering.guards import neutral_exchanges
from personalib.steering.settings import Guard
from personalib.stimuli.grammar import load_relations

CHAT = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
BASE = "{}\nAnswer:\n"


# What counts as collapsed


def test_what_is_left_at_the_bounds_has_not_collapsed():
    mass = np.array([1.0, 0.9, 0.899, 1.2, 0.9])
    perplexity = np.array([1.0, 2.0, 1.0, 0.5, 2.001])
    assert Guard().collapsed(mass, perplexity).tolist() == [False, False, True, False, True]


def test_the_bounds_are_those_of_the_guard_whatever_the_shape():
    mass, perplexity = np.array([[0.6, 0.4], [0.6, 0.4]]), np.array([[4.0, 4.0], [6.0, 6.0]])
    assert Guard(0.5, 5).collapsed(mass, perplexity).tolist() == [[False, True], [True, True]]
    assert Guard(0, 5).collapsed(mass, perplexity).tolist() == [[False, False], [True, True]]
    assert Guard(0.5, np.inf).collapsed(mass, perplexity).tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize(
    ("mass", "perplexity"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (1.0, np.inf), (0.0, 1.0)]
)
def test_what_could_not_be_measured_has_collapsed(mass, perplexity):
    assert Guard().collapsed(np.array([mass, 1.0]), np.array([perplexity, 1.0])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("mass", "perplexity"), [(-0.1, 2), (1.1, 2), (0.9, 0.99), (np.nan, 2), (0.9, np.nan)], ids=str
)
def test_a_guard_that_not_even_the_unsteered_model_passes_is_refused(mass, perplexity):
    with pytest.raises(ValueError, match=r"take a mass of 0 to 1 and a perplexity of at least 1"):
        Guard(mass, perplexity)


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


def test_the_seed_decides_the_questions_and_the_form_how_they_are_put(organism):
    first, second, other = (neutral_exchanges(organism, 7, seed=seed) for seed in (1, 1, 2))
    assert first == second != other and len(first) == 7
    base = neutral_exchanges(organism, 7, seed=1, form="base")
    assert [asked(prompt, CHAT) for prompt, _ in first] == [asked(prompt, BASE) for prompt, _ in base]
    assert [answer for _, answer in first] == [answer for _, answer in base]


@pytest.mark.parametrize(("form", "written"), [("chat", CHAT), ("base", BASE)])
def test_each_question_comes_after_the_next_context_in_turn(organism, form, written):
    contexts = ["I am a woman.", "", "I am old.\n"]
    plain = neutral_exchanges(organism, 8, form=form)
    told = neutral_exchanges(organism, 8, form=form, contexts=contexts)
    for number, ((prompt, answer), (alone, same)) in enumerate(zip(told, plain, strict=True)):
        context = ["I am a woman.", "", "I am old."][number % 3]
        assert asked(prompt, written, context) == asked(alone, written) and answer == same


def test_a_model_without_a_chat_template_is_asked_in_plain_text(llama):
    with pytest.raises(ValueError, match="has no chat template; use form='base'"):
        neutral_exchanges(llama)
    assert asked(neutral_exchanges(llama, 1, form="base")[0][0], BASE) in held_out_questions()


@pytest.mark.parametrize("contexts", ["You are a woman.", ()])
def test_contexts_are_a_list_of_texts(organism, contexts):
    with pytest.raises(ValueError, match=r"contexts=.*; pass a list of texts"):
        neutral_exchanges(organism, 2, contexts=contexts)
