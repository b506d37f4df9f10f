"""A steered model does at every token, of every row, what a hook written out for it does to the row alone."""

import pytest
import torch
from small_models import CONFIGS, SITES, hooked, small, small_sae, steered_alone, untouched, vector
from transformers import DynamicCache

from personalib.models.batches import left_padded
from personalib.models.parts import Site
from personalib.steering.application import steer
from personalib.steering.interventions import POSITIONS, Ablate, Add, Clamp

every_model = pytest.mark.parametrize("name", CONFIGS)
every_rule = pytest.mark.parametrize("positions", POSITIONS)
every_rule_and_all_mixed = pytest.mark.parametrize("positions", [*POSITIONS, "mixed"])
# Of one token, of more than a sliding window, and between.
ROWS = [[1, 9, 8, 7, 12], [1], [1, 8, 9, 11, 15, 23, 14, 21, 10, 13, 19, 31], [1, 10], [1, 9, 8, 7, 12, 30, 3]]


def at_two_sites(positions):
    """Interventions of which the upper ones do not commute with each other; or some of many kinds and positions."""
    if positions == "mixed":
        return at_mixed_positions()
    return [
        Add(vector(Site(0, "resid_pre"), 1), 0.5, positions),
        Add(vector(Site(1), 2), -1.0, positions),
        Ablate(vector(Site(1), 3), 1.0, positions),
    ]


def at_mixed_positions():
    return [
        Add(vector(Site(0), 4), 1.0, "prompt_except_last"),
        Add(vector(Site(0), 5), 1.0, "last"),
        Clamp(small_sae(Site(1), 6), (3, 17), 2.0, "response"),
        Ablate(vector(Site(2, "resid_pre"), 7), 0.5, "all"),
        Add(vector(Site(2), 8), -1.0, "prompt"),
    ]


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**{name: value for name, value in inputs.items() if name != "logits_to_keep"}).logits


def right_padded(model, rows):
    """Model inputs whose rows begin together."""
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        "input_ids": pad([torch.tensor(row) for row in rows], batch_first=True),
        "attention_mask": pad([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True),
    }
    if "position_ids" in left_padded(model, rows):
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return inputs


# One pass


@every_rule_and_all_mixed
@every_model
@pytest.mark.parametrize("padded", [left_padded, right_padded])
def test_every_row_of_a_padded_batch_is_steered_like_the_row_alone(name, positions, padded):
    language_model, interventions = small(name), at_two_sites(positions)
    inputs = padded(language_model.model, ROWS)
    plain = logits_of(language_model.model, inputs)
    with steer(language_model, interventions):
        found = logits_of(language_model.model, inputs)
    changed = (found - plain).abs().amax(2)
    for row, logits, real, change in zip(ROWS, found, inputs["attention_mask"].bool(), changed, strict=True):
        own = steered_alone(language_model.model, row, len(row), interventions)
        torch.testing.assert_close(logits[real], own, rtol=1e-4, atol=1e-4)
        # The last token reads from all those before it.
        untold = positions == "response" or (positions == "prompt_except_last" and len(row) == 1)
        assert (change[real][-1] < 1e-5) if untold else (change[real][-1] > 1e-2)


def test_what_a_block_leaves_is_steered_before_what_the_next_one_reads(llama):
    """Whichever is named first, since it is another site."""
    first, second = Add(vector(Site(0), 1), 1.0, "all"), Ablate(vector(Site(1, "resid_pre"), 2), 1.0, "all")
    found = []
    for interventions in ([first, second], [second, first]):
        with steer(llama, interventions):
            found.append(logits_of(llama.model, {"input_ids": torch.tensor([ROWS[0]])}))
    assert torch.equal(found[0], found[1])


def test_blocks_within_blocks_come_together(llama):
    outer, inner = Add(vector(Site(1), 1), 1.0, "all"), Add(vector(Site(0), 2), 1.0, "last")
    inputs = {"input_ids": torch.tensor([ROWS[0]])}
    plain = logits_of(llama.model, inputs)
    with steer(llama, [outer]):
        with steer(llama, [inner]):
            both = logits_of(llama.model, inputs)
        alone = logits_of(llama.model, inputs)
    for found, interventions in ((both, [outer, inner]), (alone, [outer])):
        own = steered_alone(llama.model, ROWS[0], len(ROWS[0]), interventions)
        torch.testing.assert_close(found[0], own, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits_of(llama.model, inputs), plain)


def test_without_a_mask_there_is_no_padding(llama):
    """A token is not taken for padding because it is written with the same number."""
    ids = [0, 0, 9, 8]
    with steer(llama, at_two_sites("prompt")):
        found = logits_of(llama.model, {"input_ids": torch.tensor([ids])})[0]
    torch.testing.assert_close(found, steered_alone(llama.model, ids, 4, at_two_sites("prompt")), rtol=1e-5, atol=1e-5)


@every_rule
def test_embeddings_may_be_given_for_tokens(llama, positions):
    inputs = left_padded(llama.model, ROWS)
    with steer(llama, at_two_sites(positions)):
        found = logits_of(llama.model, inputs)
        embedded = llama.model.get_input_embeddings()(inputs["input_ids"])
        others = {name: value for name, value in inputs.items() if name != "input_ids"}
        same = logits_of(llama.model, others | {"inputs_embeds": embedded})
        assert torch.equal(found, same)


def test_inputs_may_be_given_without_their_names(llama):
    inputs = left_padded(llama.model, ROWS)
    with steer(llama, at_two_sites("last")), torch.inference_mode():
        found = llama.model(inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]).logits
        base = llama.model.base_model(inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"])
        assert torch.equal(found, logits_of(llama.model, inputs))
        assert torch.equal(found, llama.model.lm_head(base.last_hidden_state))


@every_rule
@every_model
def test_a_coefficient_of_zero_changes_no_bit(name, positions):
    language_model = small(name)
    inputs = left_padded(language_model.model, ROWS)
    plain = logits_of(language_model.model, inputs)
    zero = [Add(vector(site, 1), 0.0, positions) for site in SITES] + [Ablate(vector(Site(1), 2), 0.0, positions)]
    with steer(language_model, zero):
        assert torch.equal(logits_of(language_model.model, inputs), plain)
    with steer(language_model, []):
        assert torch.equal(logits_of(language_model.model, inputs), plain)


def test_gradients_go_through_what_is_added(llama):
    ids = torch.tensor([ROWS[0]])
    embedded = llama.model.get_input_embeddings()(ids).detach().requires_grad_()
    with steer(llama, at_two_sites("all")):
        llama.model(inputs_embeds=embedded).logits[0, -1].max().backward()
    assert embedded.grad.abs().min(2).values.max() > 0


def test_a_prompt_that_is_prepared_by_hand_is_a_prompt(llama):
    ids = torch.tensor([ROWS[0]])
    with steer(llama, at_two_sites("prompt")):
        found = logits_of(llama.model, {"input_ids": ids})
        given = {"attention_mask": torch.ones_like(ids), "use_cache": False}
        prepared = llama.model.prepare_inputs_for_generation(ids, **given)
        assert torch.equal(logits_of(llama.model, prepared), found)


# Text that is generated

NEW = 7


def generated_by_hand(model, row, condition, tokens=NEW):
    """At every step the whole sequence anew, without a cache."""
    ids = list(row)
    for _ in range(tokens):
        ids.append(int(steered_alone(model, ids, len(row), condition)[-1].argmax()))
    return ids


def generated(language_model, rows, interventions, tokens=NEW, **options):
    inputs = left_padded(language_model.model, rows)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    greedy = {"do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}
    with steer(language_model, interventions):
        made = language_model.model.generate(**given, **greedy, max_new_tokens=tokens, **options)
    start = inputs["input_ids"].shape[1]
    return [row + line[start:].tolist() for row, line in zip(rows, made, strict=True)]


@every_rule_and_all_mixed
@every_model
def test_a_batch_of_texts_is_generated_as_if_each_were_run_anew_for_every_token(name, positions):
    language_model, interventions = small(name), at_two_sites(positions)
    found = generated(language_model, ROWS, interventions)
    assert found == [generated_by_hand(language_model.model, row, interventions) for row in ROWS]
    assert found != generated(language_model, ROWS, [])


@pytest.mark.parametrize("positions", ["last", "response", "all"])
@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2"])
def test_several_tokens_of_an_answer_may_be_read_at_once(name, positions):
    """Into a cache that holds the prompt, with padding before it."""
    language_model, interventions = small(name), at_two_sites(positions)
    model, answers = language_model.model, torch.tensor([[9, 20, 8], [30, 3, 3]])
    rows = [ROWS[0], ROWS[3]]
    inputs = left_padded(model, rows)
    mask, cache = inputs["attention_mask"], DynamicCache(config=model.config)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids")}
    with steer(language_model, interventions), torch.inference_mode():
        model(**given, past_key_values=cache)
        logits = model(
            input_ids=answers,
            attention_mask=torch.cat([mask, torch.ones_like(answers)], 1),
            position_ids=mask.sum(1, keepdim=True) + torch.arange(3),
            past_key_values=cache,
        ).logits
    for row, answer, found in zip(rows, answers.tolist(), logits, strict=True):
        own = steered_alone(model, row + answer, len(row), interventions)
        torch.testing.assert_close(found, own[-3:], rtol=1e-4, atol=1e-4)


def test_a_new_text_has_a_prompt_of_its_own(llama):
    """Within one block the same prompts give the same texts, and other passes come between."""
    interventions = at_two_sites("last")
    with steer(llama, interventions):
        first = generated(llama, ROWS, [])
        logits_of(llama.model, {"input_ids": torch.tensor([ROWS[2]])})
        assert generated(llama, ROWS, []) == first
    assert first == [generated_by_hand(llama.model, row, interventions) for row in ROWS]


def test_beams_are_steered_too(llama):
    """A text of two beams is at least as likely, steered, as the greedy one."""
    interventions = at_two_sites("all")

    def likelihood(row, text):
        chances = steered_alone(llama.model, text, len(row), interventions).log_softmax(-1)
        return float(sum(chances[place - 1, text[place]] for place in range(len(row), len(text))))

    beams = generated(llama, ROWS, interventions, tokens=3, num_beams=32)
    greedy = generated(llama, ROWS, interventions, tokens=3)
    better = [
        likelihood(row, one) - likelihood(row, other) for row, one, other in zip(ROWS, beams, greedy, strict=True)
    ]
    assert min(better) > -1e-4


# What is left behind


@every_model
def test_the_model_is_untouched_afterwards(name):
    language_model = small(name)
    inputs, before = left_padded(language_model.model, ROWS), language_model.digest()
    plain = logits_of(language_model.model, inputs)
    with steer(language_model, at_mixed_positions()):
        assert not untouched(language_model.model)
        logits_of(language_model.model, inputs)
    assert untouched(language_model.model) and language_model.digest() == before
    assert torch.equal(logits_of(language_model.model, inputs), plain)


def test_the_model_is_untouched_after_an_exception_in_the_middle_of_a_pass(llama):
    def broken(*_):
        raise KeyboardInterrupt

    handle = llama.model.model.layers[1].mlp.register_forward_hook(broken)
    with pytest.raises(KeyboardInterrupt), steer(llama, at_mixed_positions()):
        logits_of(llama.model, {"input_ids": torch.tensor([ROWS[0]])})
    handle.remove()
    assert untouched(llama.model)


def test_other_hooks_stay(llama):
    seen = []
    handle = hooked(llama.model, Site(1), lambda stream: seen.append(1) or stream)
    with steer(llama, at_mixed_positions()):
        pass
    logits_of(llama.model, {"input_ids": torch.tensor([ROWS[0]])})
    handle.remove()
    assert seen == [1]


# What is refused


@pytest.mark.parametrize(
    "one", [Add(vector(Site(1), width=16)), Ablate(vector(Site(3))), Clamp(small_sae(Site(5), 7), (1,), 0.0)]
)
def test_what_is_of_another_model_is_refused_before_anything_is_run(llama, one):
    with pytest.raises(ValueError, match="it was made for another model"), steer(llama, [Add(vector(Site(0))), one]):
        raise AssertionError
    assert untouched(llama.model)


@pytest.mark.parametrize("form", [lambda mask: mask, lambda mask: {"full_attention": mask}])
def test_a_mask_of_pairs_of_tokens_is_refused(llama, form):
    inputs = {"input_ids": torch.tensor([ROWS[0]]), "attention_mask": form(torch.zeros(1, 1, 5, 5))}
    problem = r"an attention mask of shape \(rows, tokens\); pass such a one"
    with steer(llama, at_two_sites("last")), pytest.raises(ValueError, match=problem):
        logits_of(llama.model, inputs)
    assert untouched(llama.model)
