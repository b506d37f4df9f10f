"""Steered answers are those of each prompt alone, run from the start with a hook that adds the vector."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from personalib.activations import Site, blocks, capture
from personalib.models import LanguageModel
from personalib.questionnaires import ask, check_option_tokens, encode_prompts, left_padded, option_tokens
from personalib.records import ItemError
from personalib.steering import POSITIONS, adding, ask_steered, check_fits
from personalib.vectors import SteeringVector

LABELS = ("A", "B", "C", "D")
VOCABULARY = ["<pad>", "<bos>", "<unk>", *LABELS, *(f"w{number}" for number in range(25))]
WIDTH, WINDOW = 24, 8
# Of one token, of two, of more than a sliding window, and between; one of them twice.
PROMPTS = [
    "",
    "w3 ",
    "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 w21 w17 w9 w18 w11 w22 w19 w13 ",
    "w9 w9 w5 ",
    "w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ",
    "w3 ",
]
SMALL = {"vocab_size": len(VOCABULARY), "bos_token_id": 1, "eos_token_id": 0, "initializer_range": 0.4}
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
FALCON = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS = {
    "gemma2": Gemma2Config(**SMALL, **LLAMA, head_dim=12, sliding_window=WINDOW, attn_implementation="eager"),
    "llama": LlamaConfig(**SMALL, **LLAMA),
    "qwen2": Qwen2Config(**SMALL, **LLAMA),
    "gpt2": GPT2Config(**SMALL, n_embd=WIDTH, n_layer=3, n_head=2),
    "gpt-neox": GPTNeoXConfig(**SMALL, **{key: LLAMA[key] for key in LLAMA if key != "num_key_value_heads"}),
    # Their blocks return the residual stream in a tuple; the first knows positions from its attention mask alone.
    "bloom": BloomConfig(**SMALL, hidden_size=WIDTH, n_layer=3, n_head=2),
    "falcon": FalconConfig(**SMALL, **FALCON),
}
SITES = [Site(layer, stream) for layer in range(3) for stream in ("resid_pre", "resid_post")]
every_position = pytest.mark.parametrize("positions", POSITIONS)


def words(bos=True):
    """A tokenizer of whole words, with a token at the beginning."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>")


def small(name, **changes):
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[name])
    for key, value in changes.items():
        setattr(config, key, value)
    return LanguageModel(name, AutoModelForCausalLM.from_config(config).eval(), words())


@pytest.fixture
def llama():
    return small("llama")


def vector(site, seed=0, width=WIDTH, size=3.0):
    values = size * torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, site, f"v{seed}", "random", "another model", "1")


# Sites of the first, the middle and the last block in no order, one of them twice, with nothing in between.
CONDITIONS = [
    None,
    vector(SITES[5], 1),
    vector(SITES[0], 2),
    vector(SITES[2], 3),
    None,
    vector(SITES[4], 4),
    vector(SITES[1], 5),
    vector(SITES[2], 6),
    vector(SITES[3], 7),
]
STEERED = {"last": slice(-1, None), "prompt": slice(None), "prompt_except_last": slice(0, -1)}


def hooked(model, steering, added):
    """Adds rows of shape (tokens, width) at a vector's site, by a hook written out for it."""
    block = blocks(model)[steering.site.layer]

    def after(module, inputs, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    def before(module, inputs, keywords):
        if inputs:
            return (inputs[0] + added, *inputs[1:]), keywords
        return inputs, keywords | {"hidden_states": keywords["hidden_states"] + added}

    if steering.site.stream == "resid_post":
        return block.register_forward_hook(after)
    return block.register_forward_pre_hook(before, with_kwargs=True)


@torch.inference_mode()
def alone(language_model, prompt, steering, positions):
    """One prompt by itself, without padding and without a cache."""
    model, tokenizer = language_model.model, language_model.tokenizer
    ids = torch.tensor([tokenizer.encode(prompt)])
    handle = None
    if steering is not None:
        added = torch.zeros(ids.shape[1], WIDTH, dtype=model.dtype)
        added[STEERED[positions]] = steering.direction.to(model.dtype)
        handle = hooked(model, steering, added)
    logits = model(ids, use_cache=False).logits[0, -1].float()
    if handle is not None:
        handle.remove()
    return logits.softmax(-1)[tokenizer.convert_tokens_to_ids(list(LABELS))].double().numpy()


def one_by_one(language_model, conditions, positions, prompts=PROMPTS):
    return np.array([[alone(language_model, prompt, one, positions) for prompt in prompts] for one in conditions])


@cache
def expected(name, positions):
    return one_by_one(small(name), CONDITIONS, positions)


# Exactness


@every_position
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_steering_is_what_a_hook_does_to_each_prompt_alone(name, positions, batch_size):
    found = ask_steered(small(name), PROMPTS, LABELS, CONDITIONS, positions=positions, batch_size=batch_size)
    assert found.shape == (len(CONDITIONS), len(PROMPTS), len(LABELS)) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected(name, positions), rtol=0, atol=2e-6)


@every_position
@pytest.mark.parametrize("name", CONFIGS)
def test_the_vectors_and_positions_that_are_compared_really_make_a_difference(name, positions):
    """So that a vector left out, or added elsewhere, would show."""
    changes = abs(expected(name, positions) - expected(name, positions)[0]).max(2)
    for steering, change in zip(CONDITIONS, changes, strict=True):
        # What the last block leaves at earlier tokens is not read by the last, and a first token has none before it.
        unread = steering is None or (positions == "prompt_except_last" and steering.site == SITES[5])
        for prompt, one in zip(PROMPTS, change, strict=True):
            assert (one == 0) if unread or (positions == "prompt_except_last" and not prompt) else (one > 5e-5)
        assert unread or change.max() > 5e-3
    others = [expected(name, other) for other in POSITIONS if other != positions]
    assert all(abs(expected(name, positions) - other).max() > 0.01 for other in others)


@every_position
def test_a_sliding_window_shorter_than_the_prompt_is_kept_to(positions):
    assert small("gemma2").model.config.layer_types.count("sliding_attention") == 2
    wide = one_by_one(small("gemma2", sliding_window=64), CONDITIONS, positions)
    apart = abs(wide - expected("gemma2", positions)).max((0, 2))
    long = np.array([len(prompt.split()) + 1 > WINDOW for prompt in PROMPTS])
    assert (apart[long] > 1e-4).all() and (apart[~long] < 1e-6).all(), "the window is what makes the difference"
    found = ask_steered(small("gemma2", sliding_window=64), PROMPTS, LABELS, CONDITIONS, positions=positions)
    np.testing.assert_allclose(found, wide, rtol=0, atol=2e-6)


@every_position
def test_the_order_of_conditions_makes_no_difference(llama, positions):
    order = np.random.default_rng(0).permutation(len(CONDITIONS))
    found = ask_steered(llama, PROMPTS, LABELS, [CONDITIONS[place] for place in order], positions=positions)
    np.testing.assert_allclose(found, expected("llama", positions)[order], rtol=0, atol=2e-6)


@every_position
def test_without_a_vector_answers_are_those_of_the_questionnaires(llama, positions):
    zero = vector(Site(1)) * 0.0
    found = ask_steered(llama, PROMPTS, LABELS, [None, zero], positions=positions)
    own = np.array(ask(llama.model, llama.tokenizer, PROMPTS, [LABELS] * len(PROMPTS)))
    np.testing.assert_allclose(found, [own, own], rtol=0, atol=1e-6)


@every_position
@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_a_model_of_half_precision_can_be_steered(name, positions):
    half = small(name)
    half.model.to(torch.bfloat16)
    found = ask_steered(half, PROMPTS, LABELS, CONDITIONS, positions=positions)
    own = one_by_one(half, CONDITIONS, positions)
    np.testing.assert_allclose(found, own, rtol=0, atol=0.01)
    assert abs(own - own[0]).max() > 0.05
    # Probabilities computed in bfloat16 would all be representable in it.
    assert not np.array_equal(found, torch.tensor(found).to(torch.bfloat16).double().numpy())


def test_the_only_token_of_a_prompt_is_its_last(llama):
    first, whole, rest = (ask_steered(llama, [""], LABELS, CONDITIONS, positions=each) for each in POSITIONS)
    np.testing.assert_allclose(first, whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(rest, np.repeat(first[:1], len(CONDITIONS), axis=0), rtol=0, atol=1e-6)


@every_position
@pytest.mark.parametrize("site", SITES, ids=str)
def test_what_steering_cannot_change_is_run_once(llama, positions, site):
    """Counted in tokens that go through each block."""
    seen = [[], [], []]
    for block, own in zip(blocks(llama.model), seen, strict=True):
        block.mlp.register_forward_pre_hook(lambda _, inputs, own=own: own.append(inputs[0].shape[1]))
    ask_steered(llama, PROMPTS[2:3], LABELS, [vector(site, seed) for seed in range(5)], positions=positions)
    length = len(PROMPTS[2].split()) + 1
    for layer, own in enumerate(seen):
        if positions == "last":
            assert own == [length - 1] + 5 * [1]
        else:
            above = layer > site.layer or site == Site(layer, "resid_pre")
            assert own == (6 if above else 1) * [length]


@every_position
def test_nothing_to_ask_or_to_add_gives_nothing(llama, positions):
    assert ask_steered(llama, [], LABELS, CONDITIONS, positions=positions).shape == (len(CONDITIONS), 0, 4)
    assert ask_steered(llama, PROMPTS, LABELS, [], positions=positions).shape == (0, len(PROMPTS), 4)


def test_the_progress_bar_is_named_and_counts_answers(llama, capsys):
    ask_steered(llama, PROMPTS, LABELS, CONDITIONS, batch_size=4)
    assert capsys.readouterr() == ("", "")
    ask_steered(llama, PROMPTS, LABELS, CONDITIONS, batch_size=4, progress="Trust")
    shown = capsys.readouterr().err
    assert "Trust" in shown and "54/54" in shown


# What is left behind


def untouched(model):
    """Whether no module has a hook or another forward than its class's."""
    return all(
        not (module._forward_hooks or module._forward_pre_hooks) and module.forward.__func__ is type(module).forward
        for module in model.modules()
    )


@every_position
def test_the_model_is_unchanged_afterwards(llama, positions):
    before = llama.digest()
    ask_steered(llama, PROMPTS, LABELS, CONDITIONS, positions=positions)
    assert llama.digest() == before and untouched(llama.model)
    # One that it keeps as its own would hold the block in memory when the model is let go.
    assert not any("forward" in vars(module) for module in llama.model.modules())


@every_position
@pytest.mark.parametrize("passes", range(4))
def test_the_model_is_unchanged_after_an_exception(llama, positions, passes):
    """The last block breaks, after so many passes."""
    seen = []

    def broken(*_):
        seen.append(1)
        if len(seen) > passes:
            raise KeyboardInterrupt

    handle = blocks(llama.model)[2].mlp.register_forward_hook(broken)
    conditions = [vector(Site(0), 1), vector(Site(1), 2), vector(Site(1), 3)]
    with pytest.raises(KeyboardInterrupt):
        ask_steered(llama, PROMPTS, LABELS, conditions, positions=positions)
    handle.remove()
    assert len(seen) == passes + 1 and untouched(llama.model)
    found = ask_steered(llama, PROMPTS, LABELS, CONDITIONS, positions=positions)
    np.testing.assert_allclose(found, expected("llama", positions), rtol=0, atol=2e-6)


def test_a_forward_of_its_own_that_a_block_had_is_put_back(llama):
    block = blocks(llama.model)[0]
    own, calls = block.forward, []

    def counting(*inputs, **keywords):
        calls.append(1)
        return own(*inputs, **keywords)

    block.forward = counting
    found = ask_steered(llama, PROMPTS, LABELS, CONDITIONS, positions="prompt")
    np.testing.assert_allclose(found, expected("llama", "prompt"), rtol=0, atol=2e-6)
    assert block.forward is counting and calls


@every_position
def test_dropout_is_off_while_steering_and_the_mode_is_put_back(positions):
    training = small("gpt2")
    training.model.train()
    found = ask_steered(training, PROMPTS, LABELS, CONDITIONS, positions=positions)
    np.testing.assert_allclose(found, expected("gpt2", positions), rtol=0, atol=2e-6)
    assert training.model.training


def test_reading_and_steering_do_not_disturb_each_other(llama, tmp_path):
    texts, sites = ["w1 w2 w3", "w4"], [Site(0), Site(2)]
    before = capture(llama, texts, sites, tmp_path / "before")
    for positions in POSITIONS:
        found = ask_steered(llama, PROMPTS, LABELS, CONDITIONS, positions=positions)
        np.testing.assert_allclose(found, expected("llama", positions), rtol=0, atol=2e-6)
    after = capture(llama, texts, sites, tmp_path / "after")
    for site in sites:
        np.testing.assert_array_equal(after.values(site), before.values(site))


# What is refused


@pytest.mark.parametrize(
    ("steering", "problem"),
    [
        (vector(Site(1), 3, width=16), r"v3 has 16 coordinates at resid_post\.1, and llama has 24 and blocks 0 to 2"),
        (vector(Site(1), 3, width=16), "the vector was made for another model"),
        (vector(Site(3), 4), r"v4 has 24 coordinates at resid_post\.3, and llama has 24 and blocks 0 to 2"),
        (vector(Site(-1, "resid_pre"), 5), r"v5 has 24 coordinates at resid_pre\.-1"),
        (vector(Site(1, "mlp"), 6), r"v6 has 24 coordinates at mlp\.1"),
    ],
)
def test_a_vector_of_another_model_is_named(llama, steering, problem):
    with pytest.raises(ValueError, match=problem):
        check_fits(llama, steering)
    with pytest.raises(ValueError, match=problem):
        ask_steered(llama, PROMPTS, LABELS, [None, steering])


def test_a_vector_of_the_model_fits_and_so_does_none(llama):
    for steering in CONDITIONS:
        check_fits(llama, steering)


def test_unknown_positions_are_refused_with_those_that_there_are(llama):
    problem = "unknown positions 'first'; choose one of last, prompt, prompt_except_last"
    with pytest.raises(ValueError, match=problem):
        ask_steered(llama, PROMPTS, LABELS, CONDITIONS, positions="first")


def test_labels_that_cannot_be_told_apart_are_refused(llama):
    with pytest.raises(ItemError, match="'A' and 'A w1' both start with token"):
        ask_steered(llama, PROMPTS, ["A", "A w1"], CONDITIONS)
    with pytest.raises(ItemError, match="label 'A' is not a token of its own after the prompt ending in 'w1'"):
        ask_steered(llama, ["w1"], LABELS, CONDITIONS)


# Adding to whatever is run


@torch.inference_mode()
def stream_of(model, site, ids):
    """What a hook sees at the site, shape (tokens, width)."""
    seen = []
    block = blocks(model)[site.layer]
    if site.stream == "resid_post":
        handle = block.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    else:
        handle = block.register_forward_pre_hook(
            lambda _, inputs, keywords: seen.append(inputs[0] if inputs else keywords["hidden_states"]),
            with_kwargs=True,
        )
    model(ids)
    handle.remove()
    return seen[0][0]


IDS = torch.tensor([[1, 9, 8, 7, 12, 30]])


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_vector_is_added_to_every_token_that_is_run(name, site):
    model, steering = small(name).model, vector(site, 1)
    plain = stream_of(model, site, IDS)
    with adding(model, steering):
        steered = stream_of(model, site, IDS)
    np.testing.assert_allclose(steered, plain + steering.direction, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(stream_of(model, site, IDS), plain)
    assert untouched(model)


def test_added_vectors_come_together_where_several_are_open(llama):
    first, second = vector(Site(1), 1), vector(Site(1), 2)
    plain = stream_of(llama.model, Site(1), IDS)
    with adding(llama.model, first), adding(llama.model, None), adding(llama.model, second):
        both = stream_of(llama.model, Site(1), IDS)
    np.testing.assert_allclose(both, plain + (first + second).direction, rtol=0, atol=1e-5)


def test_nothing_is_added_where_there_is_no_vector(llama):
    plain = stream_of(llama.model, Site(2), IDS)
    with adding(llama.model, None):
        np.testing.assert_array_equal(stream_of(llama.model, Site(2), IDS), plain)


def test_nothing_is_added_after_an_exception(llama):
    plain = stream_of(llama.model, Site(2), IDS)
    with pytest.raises(KeyboardInterrupt), adding(llama.model, vector(Site(1))):
        raise KeyboardInterrupt
    np.testing.assert_array_equal(stream_of(llama.model, Site(2), IDS), plain)


def test_a_generated_text_is_steered_token_by_token(llama):
    """Each new token is run with a cache, and steered like those of the prompt."""
    steering = vector(Site(1), 8)
    with adding(llama.model, steering):
        made = llama.model.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)[0]
    ids = IDS
    for _ in range(5):
        handle = hooked(llama.model, steering, steering.direction)
        with torch.inference_mode():
            ids = torch.cat([ids, llama.model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        handle.remove()
    assert made.tolist() == ids[0].tolist()


# What steering shares with the questionnaires


def test_prompts_are_encoded_with_one_token_at_the_beginning():
    assert encode_prompts(words(), ["w1 w2 ", "", "<bos> w1 ", "<bos> <bos> w1 "]) == [
        [1, 8, 9],
        [1],
        [1, 8],
        [1, 1, 8],
    ]
    assert encode_prompts(words(bos=False), ["w1 w2 ", ""]) == [[8, 9], []]
    assert encode_prompts(words(), []) == []


def test_option_tokens_are_those_of_each_prompt_by_itself():
    tokenizer, prompts, labels = words(), ["w1 ", "", "w2 w3 "], [["A", "B"], ["C"], ["D", "B", "w4"]]
    found = option_tokens(tokenizer, prompts, labels, encode_prompts(tokenizer, prompts))
    assert found == [[3, 4], [5], [6, 4, 11]]
    pairs = zip(prompts, labels, strict=True)
    assert found == [check_option_tokens(tokenizer, prompt, own) for prompt, own in pairs]


def test_rows_end_together_and_count_from_their_own_first_token(llama):
    inputs = left_padded(llama.model, [[1, 8, 9], [1], [1, 7]])
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    mask = inputs["attention_mask"].bool()
    assert inputs["input_ids"][mask].tolist() == [1, 8, 9, 1, 1, 7]
    assert inputs["position_ids"][mask].tolist() == [0, 1, 2, 0, 0, 1]
    assert inputs["position_ids"].min() == 0 and inputs["logits_to_keep"] == 1


def test_a_model_gets_no_inputs_that_it_does_not_take():
    assert set(left_padded(small("bloom").model, [[1]])) == {"input_ids", "attention_mask", "logits_to_keep"}
