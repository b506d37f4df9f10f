"""The grid scorer gives what every condition gives by itself: each prompt alone, from the start, steered by hand."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from small_models import CONFIGS, LABELS, SITES, WINDOW, small, small_sae, steered_alone, untouched, vector, words

from personalib.base.records import ItemError
from personalib.models.batches import left_padded
from personalib.models.hooks import Shortcuts
from personalib.models.parts import Site, blocks
from personalib.steering.grid import answer_losses, ask_steered, prompt_batches
from personalib.steering.interventions import POSITIONS, Ablate, Add, Clamp

# Of one token, of two, of more than a sliding window, and between; one of them twice, and some that begin alike.
BEGINNING = "w5 w3 w9 w8 w2 w7 w14 w3 w6 w12 w24 w1 w21 w17 "
PROMPTS = [
    "",
    "w3 ",
    "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 w21 w17 w9 w18 w11 w22 w19 w13 ",
    "w9 w9 w5 ",
    "w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ",
    "w3 ",
    BEGINNING + "w4 w8 ",
    BEGINNING + "w11 ",
    BEGINNING + "w4 w20 w2 ",
    BEGINNING + "w4 w20 w19 ",
]
# Those that steer a prompt, of which the last two are the same as long as there is no answer.
RULES = ["last", "prompt_except_last", "prompt", "all"]
every_rule = pytest.mark.parametrize("positions", RULES)
every_model = pytest.mark.parametrize("name", CONFIGS)


# Sites of the first, the middle and the last block in no order, one of them twice, with nothing in between.
PUSHES = [vector(SITES[place], seed) for seed, place in enumerate((5, 0, 2, 4, 1, 2, 3), 1)]
VECTORS = [None, *PUSHES[:3], None, *PUSHES[3:]]


def added(positions):
    """A condition for each of the vectors."""
    return [() if one is None else (Add(one, 1.0, positions),) for one in VECTORS]


def alone(language_model, prompt, condition, length=None):
    """The answers to one prompt by itself, of which so many tokens count as the prompt."""
    ids = language_model.tokenizer.encode(prompt)
    chances = steered_alone(language_model.model, ids, length or len(ids), condition)[-1].softmax(-1)
    return chances[language_model.tokenizer.convert_tokens_to_ids(list(LABELS))].double().numpy()


def one_by_one(language_model, conditions, prompts=PROMPTS):
    return np.array([[alone(language_model, prompt, one) for prompt in prompts] for one in conditions])


@cache
def expected(name, positions):
    return one_by_one(small(name), added(positions))


def mixed():
    """Conditions of every kind, in no order."""
    single = [(Add(vector(site, 10 + number), 1.0, rule),) for number, site in enumerate(SITES) for rule in RULES]
    negative = [(Add(vector(SITES[number], 20 + number), -1.5, rule),) for number, rule in enumerate(RULES)]
    ablated = [(Ablate(vector(SITES[number + 1], 30 + number), 1.0, rule),) for number, rule in enumerate(RULES)]
    low, middle, high = vector(Site(0), 40), vector(Site(1), 41), vector(Site(2, "resid_pre"), 42)
    start, end = vector(Site(0, "resid_pre"), 43), vector(Site(2), 44)
    sae = small_sae(Site(1), 45)
    several = [
        (Add(low, 1.0, "last"), Add(high, 1.0, "prompt")),
        (Add(high, 1.0, "prompt_except_last"), Add(low, 1.0, "last")),
        (Add(end, 2.0, "last"), Add(start, -0.5, "last")),
        (Add(low, 0.5, "all"), Ablate(middle, 0.5, "prompt_except_last"), Add(end, -1.0, "last")),
        (Ablate(start, 1.0, "prompt_except_last"), Add(low, 1.0, "prompt"), Add(middle, -1.0, "last")),
        # In their order at one site, and with other positions there.
        (Add(low, 1.0, "prompt"), Ablate(vector(Site(0), 46), 1.0, "prompt")),
        (Ablate(vector(Site(0), 46), 1.0, "prompt"), Add(low, 1.0, "prompt")),
        (Add(middle, 1.0, "last"), Ablate(vector(Site(1), 47), 1.0, "last")),
        (Ablate(vector(Site(1), 47), 1.0, "last"), Add(middle, 1.0, "last")),
        (Add(start, 0.5, "prompt"), Add(middle, 1.0, "prompt"), Ablate(vector(Site(1), 47), 1.0, "prompt")),
        (Add(start, 0.5, "last"), Ablate(vector(Site(1), 47), 1.0, "last"), Add(middle, 1.0, "last")),
        (Add(middle, 1.0, "prompt_except_last"), Add(middle, -1.0, "last")),
        (Clamp(sae, (3, 17), 2.0, "last"),),
        (Clamp(sae, (5,), 0.0, "prompt"), Add(middle, 0.5, "all")),
        (Add(middle, 0.5, "all"), Clamp(sae, (5,), 4.0, "prompt")),
    ]
    found = [(), *single, *negative, *ablated, *several, ()]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


MIXED = mixed()


@cache
def expected_of_mixed(name):
    return one_by_one(small(name), MIXED)


def rows_of_passes(model):
    """Collects how many rows each pass through each block has."""
    seen = []
    for block in blocks(model):
        block.mlp.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    # What is tried of a new model is not counted.
    Shortcuts.of(model)
    seen.clear()
    return seen


# Exactness


@every_rule
@every_model
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_steering_is_what_a_hook_does_to_each_prompt_alone(name, positions, batch_size):
    found = ask_steered(small(name), PROMPTS, LABELS, added(positions), batch_size=batch_size)
    assert found.shape == (len(VECTORS), len(PROMPTS), len(LABELS)) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected(name, positions), rtol=0, atol=2e-6)


@every_rule
@every_model
def test_the_vectors_and_positions_that_are_compared_really_make_a_difference(name, positions):
    """So that a vector left out, or added elsewhere, would show."""
    changes = abs(expected(name, positions) - expected(name, positions)[0]).max(2)
    for steering, change in zip(VECTORS, changes, strict=True):
        # What the last block leaves at earlier tokens is not read by the last, and a first token has none before it.
        unread = steering is None or (positions == "prompt_except_last" and steering.site == SITES[5])
        for prompt, one in zip(PROMPTS, change, strict=True):
            assert (one == 0) if unread or (positions == "prompt_except_last" and not prompt) else (one > 5e-5)
        assert unread or change.max() > 5e-3
    others = [other for other in RULES if other != positions and {other, positions} != {"prompt", "all"}]
    assert all(abs(expected(name, positions) - expected(name, other)).max() > 0.01 for other in others)


@every_model
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_options_and_what_follows_are_left_alone(name, batch_size):
    """Of lines that open with the first label it is the last; without any, the whole prompt is steered."""
    stems = ["w1 w2 \nA w3 w4 \n", "w5 w6 w7 w8 \n", "w9 \n", "w3 w9 w1 "]
    prompts = [*(f"{stem}A w10 w11 \nB w12 \nC w13 \nD w14 \nw15 " for stem in stems[:-1]), stems[-1]]
    language_model, push = small(name), (Add(PUSHES[1], 1.0, "before_options"),)
    found = ask_steered(language_model, prompts, LABELS, [(), push], batch_size=batch_size)
    # By hand, the stem is the prompt, and what follows is its answer, which is not steered.
    before = [len(language_model.tokenizer.encode(stem)) for stem in stems]
    steered = (Add(PUSHES[1], 1.0, "prompt"),)
    own = [alone(language_model, text, steered, length) for text, length in zip(prompts, before, strict=True)]
    np.testing.assert_allclose(found[1], own, rtol=0, atol=2e-6)
    assert (abs(found[1] - found[0]).max(1) > 1e-4).all()


@every_model
@pytest.mark.parametrize("batch_size", [1, 4, 13, 64])
def test_a_mixed_grid_is_each_condition_and_prompt_by_itself(name, batch_size):
    found = ask_steered(small(name), PROMPTS, LABELS, MIXED, batch_size=batch_size)
    np.testing.assert_allclose(found, expected_of_mixed(name), rtol=0, atol=2e-6)


@every_model
@pytest.mark.parametrize("batch_size", [6, 13, 64])
def test_conditions_that_share_a_pass_do_not_mix(name, batch_size):
    """Few prompts: a pass holds many conditions, and there are too few for the last one."""
    language_model, prompts = small(name), [2, 3]
    seen = rows_of_passes(language_model.model)
    found = ask_steered(language_model, [PROMPTS[number] for number in prompts], LABELS, MIXED, batch_size=batch_size)
    np.testing.assert_allclose(found, expected_of_mixed(name)[:, prompts], rtol=0, atol=2e-6)
    # The largest batch holds more than any group of conditions that can share a pass, and is not filled up.
    full = batch_size - batch_size % len(prompts)
    assert (max(seen) == full or batch_size == 64) and any(len(prompts) < rows < full for rows in seen)


@every_model
def test_the_mixed_conditions_really_differ(name):
    found = expected_of_mixed(name)
    plain = found[MIXED.index(())]
    changed = abs(found - plain).max((1, 2))
    for condition, change in zip(MIXED, changed, strict=True):
        unread = all(one.site == SITES[5] and one.positions == "prompt_except_last" for one in condition)
        assert (change == 0) if unread else (change > 5e-4)
    orders = [
        (place, other)
        for place, condition in enumerate(MIXED)
        for other, turned in enumerate(MIXED)
        if len(condition) > 1 and turned == condition[::-1]
    ]
    assert len(orders) == 4
    assert all(abs(found[place] - found[other]).max() > 1e-3 for place, other in orders)


@every_rule
def test_a_sliding_window_shorter_than_the_prompt_is_kept_to(positions):
    assert small("gemma2").model.config.layer_types.count("sliding_attention") == 2
    wide = one_by_one(small("gemma2", sliding_window=64), added(positions))
    apart = abs(wide - expected("gemma2", positions)).max((0, 2))
    long = np.array([len(prompt.split()) + 1 > WINDOW for prompt in PROMPTS])
    assert (apart[long] > 1e-4).all() and (apart[~long] < 1e-6).all(), "the window is what makes the difference"
    found = ask_steered(small("gemma2", sliding_window=64), PROMPTS, LABELS, added(positions))
    np.testing.assert_allclose(found, wide, rtol=0, atol=2e-6)


@every_rule
@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_a_model_of_half_precision_can_be_steered(name, positions):
    half = small(name)
    half.model.to(torch.bfloat16)
    found = ask_steered(half, PROMPTS, LABELS, added(positions))
    own = one_by_one(half, added(positions))
    np.testing.assert_allclose(found, own, rtol=0, atol=0.02)
    assert abs(own - own[0]).max() > 0.05
    # Probabilities computed in bfloat16 would all be representable in it.
    assert not np.array_equal(found, torch.tensor(found).to(torch.bfloat16).double().numpy())


# What is run


def tokens_of_passes(model):
    """Collects how many tokens each pass through each block's feed-forward part has."""
    seen = [[] for _ in blocks(model)]
    for block, own in zip(blocks(model), seen, strict=True):
        # Of what the part gives out: what goes in may be cut short after this has seen it.
        block.mlp.register_forward_hook(lambda _, __, output, own=own: own.append(output.shape[1]))
    # What is tried of a new model is not counted.
    Shortcuts.of(model)
    for own in seen:
        own.clear()
    return seen


LENGTH = len(PROMPTS[2].split()) + 1


@every_rule
@pytest.mark.parametrize("site", SITES, ids=str)
def test_what_steering_cannot_change_is_run_once(llama, positions, site):
    """Counted in tokens that go through each block; the last one runs a single token where no other is read."""
    seen = tokens_of_passes(llama.model)
    conditions = [(Add(vector(site, seed), 1.0, positions),) for seed in range(5)]
    ask_steered(llama, PROMPTS[2:3], LABELS, conditions, batch_size=1)
    below = site.layer + (site.stream == "resid_post")
    for layer, own in enumerate(seen):
        if positions == "last":
            # The whole prompt for a cache, and then the last token.
            once, anew = [LENGTH if layer < 2 else 1], [1] * 5 if layer >= below else []
        elif layer < below:
            once, anew = [LENGTH], []
        else:
            once, anew = [], [LENGTH if layer < 2 else 1] * 5
        assert own == once + anew


def test_what_conditions_of_different_depth_have_in_common_is_run_once(llama):
    seen = tokens_of_passes(llama.model)
    sites = [Site(1), Site(0), Site(1), Site(0), Site(1)]
    conditions = [(Add(vector(site, seed)),) for seed, site in enumerate(sites)]
    # What steers nothing runs along with what steers latest.
    ask_steered(llama, PROMPTS[2:3], LABELS, [(), *conditions], batch_size=1)
    assert seen[0] == [LENGTH]
    assert seen[1] == [LENGTH] * 2 + [LENGTH]
    assert seen[2] == [1] * 2 + [1] * 4


def test_conditions_without_steering_are_run_once(llama):
    seen = tokens_of_passes(llama.model)
    found = ask_steered(llama, PROMPTS[2:3], LABELS, [(), (), ()], batch_size=1)
    assert seen == [[LENGTH], [LENGTH], [1]]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_prompt_of_one_token_tells_nothing_of_those_that_follow():
    """Falcon without a token at the beginning: of a single token nothing can be cut, whatever the architecture."""
    language_model = replace(small("falcon"), tokenizer=words(bos=False))
    prompts = ["w1\n", "w1 w2 w3 w4\n"]
    one_after_the_other = [ask_steered(language_model, [prompt], LABELS, [()])[0, 0] for prompt in prompts]
    fresh = replace(small("falcon"), tokenizer=words(bos=False))
    np.testing.assert_array_equal(one_after_the_other[1], ask_steered(fresh, prompts[1:], LABELS, [()])[0, 0])


def test_a_model_is_tried_out_once_until_something_is_put_into_its_last_block(llama):
    seen = tokens_of_passes(llama.model)
    for times in (1, 2):
        ask_steered(llama, PROMPTS[2:3], LABELS, [()], batch_size=1)
        assert seen == [[LENGTH] * times, [LENGTH] * times, [1] * times]

    def mix(_, args, output):
        """What every token gets is that of the first, which is gone where the last one is run alone."""
        return output + output[:, :1]

    handle = blocks(llama.model)[-1].mlp.register_forward_hook(mix)
    [found] = ask_steered(llama, PROMPTS[2:3], LABELS, [()])
    np.testing.assert_allclose(found, one_by_one(llama, [()], PROMPTS[2:3])[0], rtol=0, atol=1e-6)
    assert seen[2][-1] == LENGTH
    handle.remove()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 13, 64])
@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_no_pass_has_more_rows_than_a_batch(name, batch_size):
    language_model = small(name)
    seen = rows_of_passes(language_model.model)
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[1:4]):
        ask_steered(language_model, prompts, LABELS, MIXED, batch_size=batch_size)
        answer_losses(language_model, [(one, "w1 w2") for one in prompts], MIXED, batch_size=batch_size)
    assert max(seen) <= batch_size
    # Conditions share passes, so that it is not prompts alone that fill them.
    assert batch_size < 5 or max(seen) > batch_size / 2


@every_rule
def test_nothing_to_ask_or_to_add_gives_nothing(llama, positions):
    assert ask_steered(llama, [], LABELS, added(positions)).shape == (len(VECTORS), 0, 4)
    assert ask_steered(llama, PROMPTS, LABELS, []).shape == (0, len(PROMPTS), 4)


def test_the_progress_bar_is_named_and_counts_answers(llama, capsys):
    ask_steered(llama, PROMPTS, LABELS, added("prompt"), batch_size=4)
    assert capsys.readouterr() == ("", "")
    ask_steered(llama, PROMPTS, LABELS, added("prompt"), batch_size=4, progress="Trust")
    shown = capsys.readouterr().err
    assert "Trust" in shown and f"{len(VECTORS) * len(PROMPTS)}/{len(VECTORS) * len(PROMPTS)}" in shown


# Batch by batch


@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
@pytest.mark.parametrize("name", ["gemma2", "falcon"])
def test_a_batch_has_the_same_answers_by_itself_to_the_last_bit(name, batch_size):
    """Whatever is asked of the others, and whatever comes between."""
    language_model, told = small(name), []
    whole = ask_steered(language_model, PROMPTS, LABELS, MIXED, batch_size=batch_size, done=told.append)
    assert sum(told) == len(MIXED) * len(PROMPTS)
    batches = list(prompt_batches(language_model, PROMPTS, batch_size))
    assert sorted(place for batch in batches for place in batch) == list(range(len(PROMPTS)))
    for batch in batches:
        assert len(batch) <= batch_size
        ask_steered(language_model, PROMPTS[:2], LABELS, added("last"))
        found = ask_steered(language_model, [PROMPTS[one] for one in batch], LABELS, MIXED, batch_size=batch_size)
        assert np.array_equal(found, whole[:, batch])


# What is left behind


@every_rule
def test_the_model_is_unchanged_afterwards(llama, positions):
    before = llama.digest()
    ask_steered(llama, PROMPTS, LABELS, added(positions))
    answer_losses(llama, EXCHANGES, added(positions), batch_size=4)
    assert llama.digest() == before and untouched(llama.model)
    # One that it keeps as its own would hold the block in memory when the model is let go.
    assert not any("forward" in vars(module) for module in llama.model.modules())


@every_rule
@pytest.mark.parametrize("passes", range(6))
def test_the_model_is_unchanged_after_an_exception(llama, positions, passes):
    """The last block breaks, after so many passes."""
    seen = []

    def broken(*_):
        seen.append(1)
        if len(seen) > passes:
            raise KeyboardInterrupt

    handle = blocks(llama.model)[2].mlp.register_forward_hook(broken)
    sites = [Site(0), Site(1), Site(1), Site(0)]
    conditions = [(Add(vector(site, number), 1.0, positions),) for number, site in enumerate(sites)]
    with pytest.raises(KeyboardInterrupt):
        ask_steered(llama, PROMPTS, LABELS, conditions, batch_size=2)
    handle.remove()
    assert len(seen) == passes + 1 and untouched(llama.model)
    found = ask_steered(llama, PROMPTS, LABELS, added(positions))
    np.testing.assert_allclose(found, expected("llama", positions), rtol=0, atol=2e-6)


@every_rule
def test_dropout_is_off_while_steering_and_the_mode_is_put_back(positions):
    training = small("gpt2")
    training.model.train()
    found = ask_steered(training, PROMPTS, LABELS, added(positions))
    np.testing.assert_allclose(found, expected("gpt2", positions), rtol=0, atol=2e-6)
    assert training.model.training


# What is refused


def test_a_vector_of_another_model_is_named_before_anything_is_run(llama):
    seen = rows_of_passes(llama.model)
    condition = (Add(vector(Site(1))), Add(vector(Site(1), 3, width=16)))
    for run in (
        lambda: ask_steered(llama, PROMPTS, LABELS, [(), condition]),
        lambda: answer_losses(llama, EXCHANGES, [(), condition]),
    ):
        with pytest.raises(ValueError, match=r"v3 has 16 coordinates .* it was made for another model"):
            run()
    assert not seen


def test_positions_of_the_answer_alone_are_refused(llama):
    conditions = [(), (Add(vector(Site(1)), 1.0, "prompt"), Add(vector(Site(1)), 1.0, "response"))]
    with pytest.raises(ValueError, match=r"'response'.*choose last, prompt, prompt_except_last, before_options or all"):
        ask_steered(llama, PROMPTS, LABELS, conditions)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(llama, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}; run at least one prompt at a time"):
        ask_steered(llama, PROMPTS, LABELS, [()], batch_size=batch_size)
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        answer_losses(llama, EXCHANGES, [()], batch_size=batch_size)


def test_labels_that_cannot_be_told_apart_are_refused(llama):
    with pytest.raises(ItemError, match="'A' and 'A w1' both start with token"):
        ask_steered(llama, PROMPTS, ["A", "A w1"], added("last"))
    with pytest.raises(ItemError, match="label 'A' is not a token of its own after the prompt ending in 'w1'"):
        ask_steered(llama, ["w1"], LABELS, added("last"))


# How surprising answers are

# Prompts and answers of different lengths: of one token, of more than a sliding window; one prompt with two answers.
EXCHANGES = [
    ("w1 w2 w3 ", "w4 w5"),
    ("", "w7"),
    ("w1 w2 w3 ", "A"),
    ("w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ", "w3 w1 w4 w1 w5 w9 w2 w6 w5 w3 w5"),
    ("w3 ", "w24 w23 w22 w21 w20 w19 w18 w17 w16 w15 w14 w13"),
]


def losses_one_by_one(language_model, conditions, exchanges=EXCHANGES, skip=0):
    """Each exchange by itself: minus the logarithm of the probability of each token of the answer, in their sum."""
    found, tokenizer = np.empty((len(conditions), len(exchanges))), language_model.tokenizer
    for row, condition in enumerate(conditions):
        for column, (prompt, answer) in enumerate(exchanges):
            ids, length = tokenizer.encode(prompt + answer), len(tokenizer.encode(prompt))
            chances = steered_alone(language_model.model, ids, length, condition).double().log_softmax(-1)
            found[row, column] = -sum(chances[place - 1, ids[place]] for place in range(length + skip, len(ids)))
    return found


@cache
def expected_losses(name, positions):
    return losses_one_by_one(small(name), added(positions))


@pytest.mark.parametrize("batch_size", [1, 3, 16, 64])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2", "gpt-neox", "bloom"])
def test_losses_are_those_of_each_exchange_alone(name, positions, batch_size):
    language_model, conditions = small(name), added(positions)
    found, tokens = answer_losses(language_model, EXCHANGES, conditions, batch_size=batch_size)
    assert tokens.tolist() == [2, 1, 1, 11, 12]
    np.testing.assert_allclose(found, expected_losses(name, positions), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_losses_of_a_mixed_grid_are_those_of_each_exchange_alone(name):
    language_model = small(name)
    response = [(Add(vector(Site(1), 50), 1.0, "response"), Add(vector(Site(0), 51), -1.0, "prompt_except_last"))]
    conditions = [*MIXED[::2], *response]
    found, _ = answer_losses(language_model, EXCHANGES, conditions, batch_size=13)
    own = losses_one_by_one(language_model, conditions)
    np.testing.assert_allclose(found, own, rtol=2e-6, atol=2e-5)


def test_positions_make_a_difference_to_losses(llama):
    different = [positions for positions in POSITIONS if positions != "before_options"]  # is "prompt" without options
    found = [answer_losses(llama, EXCHANGES, added(positions))[0] for positions in different]
    for place, one in enumerate(found):
        assert all(abs(one - other).max() > 0.01 for other in found[:place])
    # The last token of an answer is not read any more, and so an answer of one token is not steered by itself.
    response = found[different.index("response")]
    np.testing.assert_allclose(response[:, [1, 2]], np.repeat(response[:1, [1, 2]], len(VECTORS), 0), rtol=0, atol=1e-5)


def test_losses_of_nothing_are_none(llama):
    found, tokens = answer_losses(llama, [], added("all"))
    assert found.shape == (len(VECTORS), 0) and tokens.shape == (0,)
    found, tokens = answer_losses(llama, EXCHANGES, [])
    assert found.shape == (0, len(EXCHANGES)) and tokens.tolist() == [2, 1, 1, 11, 12]


@pytest.mark.parametrize(("prompt", "answer"), [("w1 w", "2"), ("w1", " "), ("w1 w2 ", "")])
def test_an_answer_that_melts_into_its_prompt_is_refused(llama, prompt, answer):
    with pytest.raises(ValueError, match=f"the answer {answer!r} has no 1 tokens of its own after its prompt"):
        answer_losses(llama, [EXCHANGES[0], (prompt, answer)], [()])


def test_an_answer_after_no_token_at_all_is_refused(llama):
    bare = replace(llama, tokenizer=words(bos=False))
    with pytest.raises(ValueError, match="the answer 'w1' has no 1 tokens of its own"):
        answer_losses(bare, [("", "w1")], [()])


def test_skipped_tokens_are_steered_and_not_counted(llama):
    exchanges, conditions = [EXCHANGES[0], *EXCHANGES[3:]], added("response")
    found, tokens = answer_losses(llama, exchanges, conditions, skip=1, batch_size=5)
    assert tokens.tolist() == [1, 10, 11]
    own = losses_one_by_one(llama, conditions, exchanges, skip=1)
    np.testing.assert_allclose(found, own, rtol=2e-6, atol=2e-5)
    with pytest.raises(ValueError, match="the answer 'w7' has no 2 tokens of its own after its prompt"):
        answer_losses(llama, EXCHANGES, conditions, skip=1)


# What steering shares with the questionnaires


def test_rows_end_together_and_count_from_their_own_first_token(llama):
    inputs = left_padded(llama.model, [[1, 8, 9], [1], [1, 7]])
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    mask = inputs["attention_mask"].bool()
    assert inputs["input_ids"][mask].tolist() == [1, 8, 9, 1, 1, 7]
    assert inputs["position_ids"][mask].tolist() == [0, 1, 2, 0, 0, 1]
    assert inputs["position_ids"].min() == 0 and inputs["logits_to_keep"] == 1


def test_a_model_gets_no_inputs_that_it_does_not_take():
    assert set(left_padded(small("bloom").model, [[1]])) == {"input_ids", "attention_mask", "logits_to_keep"}


@pytest.mark.parametrize("positions", ["last", "prompt", "prompt_except_last", "all"])
def test_neighbouring_sites_are_changed_in_the_order_of_the_model(llama, positions):
    """What block 0 leaves is what block 1 reads, and a condition may name them in either order."""
    lower, upper = Add(vector(Site(0), 2), 1.0, positions), Ablate(vector(Site(1, "resid_pre"), 1), 1.0, positions)
    conditions = [(upper, lower), (lower, upper)]
    found = ask_steered(llama, PROMPTS, LABELS, conditions)
    np.testing.assert_allclose(found, one_by_one(llama, conditions), rtol=0, atol=2e-6)
    assert np.abs(found[0] - ask_steered(llama, PROMPTS, LABELS, [(lower,)])[0]).max() > 1e-3
