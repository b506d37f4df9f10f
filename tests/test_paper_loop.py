"""The grid's answers are those of the paper's own loop, run with TransformerLens on the same weights."""

import numpy as np
import pytest
import torch
from paper_loop import hooked_transformer, paper_loop
from small_models import DEPTH, LABELS, WINDOW, small, small_sae, vector

from personalib.features.saes import DEFAULT_SAE, load_sae
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.prompts import encode_prompts, format_prompt, option_tokens
from personalib.questionnaires.items import load_trait, some_of_each
from personalib.questionnaires.questions import trait_questions
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add, sae_rule
from personalib.stimuli.factors import TRAITS

# Of one token, of two, of more than a sliding window, and between.
PROMPTS = [
    "",
    "w3 ",
    "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 w21 w17 w9 w18 w11 w22 w19 w13 ",
    "w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ",
]
# Half of the 12 coordinates of a head; of the 3 that are a quarter, transformers and TransformerLens make two things.
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
MODELS = {
    "gemma2": ("gemma2", {}),
    "gemma2 without soft caps": ("gemma2", CAPS),
    "gemma2 with a wide window and slow rotary positions": (
        "gemma2",
        {"sliding_window": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    ),
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {}),
    "gpt-neox": ("gpt-neox", HALF),
    "gpt-neox in sequence": ("gpt-neox", HALF | {"use_parallel_residual": False}),
}
COEFFICIENTS = (0.0, 0.7, -1.5, 40.0)
CLOSE = 1e-4  # in log-probability
FEATURES = (3, 17, 406)
every_model = pytest.mark.parametrize("name", MODELS)
every_layer = pytest.mark.parametrize("layer", range(DEPTH))


@pytest.fixture(scope="module")
def made():
    """By name: a tiny model, and TransformerLens's of the same weights."""
    models = {name: small(kind, **changes) for name, (kind, changes) in MODELS.items()}
    return {name: (model, hooked_transformer(model.model)) for name, model in models.items()}


@pytest.fixture(scope="module")
def organism():
    """The organism, TransformerLens's of the same weights, and four trait prompts."""
    model = load_model()
    items = some_of_each(load_trait(), 1)[:: len(TRAITS) // 2]
    questions = trait_questions(items)
    prompts = [format_prompt(model.tokenizer, question.text) for question in questions]
    return model, hooked_transformer(model.model), prompts, questions[0].labels


def ids_and_options(language_model, prompts, labels):
    rows = encode_prompts(language_model.tokenizer, prompts)
    return rows, option_tokens(language_model.tokenizer, prompts, [labels] * len(prompts), rows)


def by_the_paper(language_model, hooked, prompts, labels, conditions):
    """The loop under conditions that each add one vector at every prompt token but the last."""
    rows, options = ids_and_options(language_model, prompts, labels)
    pushes = [(one.site.layer, one.vector.direction, one.coefficient) for (one,) in conditions]
    return np.array([paper_loop(hooked, rows, options, *push) for push in pushes])


def check_logits(language_model, hooked, rows):
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            ours, theirs = language_model.model(ids, use_cache=False).logits, hooked(ids)
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs.numpy(), ours.numpy(), rtol=1e-5, atol=5e-5)
        assert ours.std() > 0.1, "far above the tolerance"


# TransformerLens's model


@every_model
def test_the_transformer_lens_model_has_the_logits_of_the_one_it_was_made_from(name, made):
    language_model, hooked = made[name]
    check_logits(language_model, hooked, encode_prompts(language_model.tokenizer, PROMPTS))


def test_the_organism_in_transformer_lens_has_its_logits(organism):
    language_model, hooked, prompts, labels = organism
    check_logits(language_model, hooked, ids_and_options(language_model, prompts, labels)[0])


def test_what_is_told_of_gemma_2_to_transformer_lens_makes_a_difference(made):
    """Soft caps, windows and rotary positions, so that one that was lost would show."""
    longest = torch.tensor(encode_prompts(made["gemma2"][0].tokenizer, PROMPTS[2:3]))
    assert longest.shape[1] > 2 * WINDOW
    with torch.inference_mode():
        found = [made[name][1](longest)[0, -1] for name in MODELS if name.startswith("gemma2")]
    assert all((one - other).abs().max() > 0.01 for one in found for other in found if one is not other)
    (alternating,) = {tuple(made[name][1].cfg.attn_types) for name in MODELS if name.startswith("gemma2")}
    assert alternating == ("local", "global", "local")


@pytest.mark.parametrize(
    ("name", "problem"), [("qwen2", "'qwen2'.*gemma2, llama, gpt2, gpt_neox"), ("gpt-neox", "3 of 12 coordinates")]
)
def test_an_architecture_and_an_odd_number_of_rotary_coordinates_that_are_not_converted_are_refused(name, problem):
    with pytest.raises(ValueError, match=problem):
        hooked_transformer(small(name).model)


# The loop


@every_layer
@every_model
@pytest.mark.parametrize("batch_size", [2, 64])
def test_steered_answers_are_those_of_the_papers_loop(name, layer, batch_size, made):
    language_model, hooked = made[name]
    conditions = [(Add(vector(Site(layer), layer), size, "prompt_except_last"),) for size in COEFFICIENTS]
    ours = ask_steered(language_model, PROMPTS, LABELS, conditions, batch_size=batch_size)
    theirs = by_the_paper(language_model, hooked, PROMPTS, LABELS, conditions)
    np.testing.assert_allclose(np.log(ours), np.log(theirs), rtol=0, atol=CLOSE)
    changes = abs(np.log(theirs) - np.log(theirs[0])).max((1, 2))
    # What the last block leaves at earlier tokens is not read by the last.
    assert (changes[1:] == 0).all() if layer == DEPTH - 1 else (changes[1:] > 0.01).all()


@every_layer
@every_model
def test_the_rule_for_sae_features_is_the_papers_loop_with_the_sum_of_decoder_rows(name, layer, made):
    language_model, hooked = made[name]
    sae = small_sae(Site(layer), layer)
    rules = [sae_rule(sae, [1, 5, 30], size, language_model) for size in COEFFICIENTS]
    ours = ask_steered(language_model, PROMPTS, LABELS, rules)
    rows, options = ids_and_options(language_model, PROMPTS, LABELS)
    added = sae.network.W_dec[1] + sae.network.W_dec[5] + sae.network.W_dec[30]
    theirs = np.array([paper_loop(hooked, rows, options, layer, added, size) for size in COEFFICIENTS])
    np.testing.assert_allclose(np.log(ours), np.log(theirs), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("coefficient", [0.0, 1.0, -3.0, 60.0])
def test_the_organisms_features_steer_as_in_the_papers_loop(coefficient, organism):
    language_model, hooked, prompts, labels = organism
    sae = load_sae(sae_id=DEFAULT_SAE)
    ours = ask_steered(language_model, prompts, labels, [sae_rule(sae, FEATURES, coefficient, language_model)])[0]
    rows, options = ids_and_options(language_model, prompts, labels)
    added = sae.directions[list(FEATURES)].sum(0)
    theirs = np.array(paper_loop(hooked, rows, options, sae.site.layer, added, coefficient))
    np.testing.assert_allclose(np.log(ours), np.log(theirs), rtol=0, atol=CLOSE)
    unsteered = ask_steered(language_model, prompts, labels, [()])[0]
    apart = abs(np.log(ours) - np.log(unsteered)).max()
    assert apart < CLOSE if coefficient == 0 else apart > 0.01


@pytest.mark.parametrize("layer", range(6))
def test_random_vectors_steer_the_organism_as_in_the_papers_loop_after_every_block(layer, organism):
    language_model, hooked, prompts, labels = organism
    added = vector(Site(layer), layer, width=128, size=0.5)
    conditions = [(Add(added, size, "prompt_except_last"),) for size in COEFFICIENTS]
    ours = ask_steered(language_model, prompts, labels, conditions)
    theirs = by_the_paper(language_model, hooked, prompts, labels, conditions)
    np.testing.assert_allclose(np.log(ours), np.log(theirs), rtol=0, atol=CLOSE)


def test_the_loop_leaves_no_hook_behind(organism):
    language_model, hooked, prompts, labels = organism
    rows, options = ids_and_options(language_model, prompts, labels)
    before = hooked(torch.tensor(rows[:1]))
    paper_loop(hooked, rows[:1], options[:1], 2, torch.ones(128), 9.0)
    torch.testing.assert_close(hooked(torch.tensor(rows[:1])), before, rtol=0, atol=0)
