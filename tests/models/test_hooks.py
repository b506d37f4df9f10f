"""Parts of a model are run as they are within the whole, nothing else is, and no hook stays behind."""

import sys

import pytest
import torch
from small_models import CONFIGS, DEPTH, SITES, WIDTH, small, untouched
from transformers import OPTConfig, OPTForCausalLM

from personalib.models.batches import left_padded, repeated
from personalib.models.hooks import (
    changing,
    cut,
    depth,
    last_query_only,
    last_token_only,
    returns_tuples,
    starting_at,
    stream_at,
    ways_to_cut_short,
    without_logits,
)
from personalib.models.parts import Site, blocks

every_model = pytest.mark.parametrize("name", CONFIGS)
every_site = pytest.mark.parametrize("site", SITES, ids=str)
ROWS = [[1, 9, 8, 7, 12, 30, 4, 22, 17, 11], [1, 10], [1, 8, 9, 11, 15]]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def llama():
    return small("llama").model


def inputs_of(model, rows=ROWS):
    """Of a padded batch, without what leaves out logits."""
    return without_logits(left_padded(model, rows))


def logits_of(model, inputs):
    return model(**inputs, use_cache=False).logits


def weights_of(model, layer):
    """The first layer of weights within a block's feed-forward part."""
    return next(part for part in blocks(model)[layer].mlp.modules() if hasattr(part, "weight"))


def run_blocks(model):
    """Collects which blocks compute, by their attention."""
    seen = []
    for layer, block in enumerate(blocks(model)):
        part = next(child for name, child in block.named_children() if "attn" in name or "attention" in name)
        part.register_forward_hook(lambda *_, layer=layer: seen.append(layer))
    return seen


def test_the_depth_of_a_site_is_how_many_blocks_lie_below_it():
    assert [depth(site) for site in SITES] == [0, 1, 1, 2, 2, 3]


# Stopping and starting


@every_model
def test_the_stream_is_that_of_the_hidden_states_and_nothing_above_is_run(name):
    model = small(name).model
    inputs = inputs_of(model)
    states = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    seen = run_blocks(model)
    head = []
    model.get_output_embeddings().register_forward_hook(lambda *_: head.append(1))
    for site in SITES:
        seen.clear()
        found = stream_at(model, inputs, site)
        assert found.shape == (len(ROWS), len(ROWS[0]), WIDTH)
        assert seen == list(range(depth(site))) and not head
        # The last of the hidden states is what the final norm makes of the stream.
        if depth(site) < DEPTH:
            assert torch.equal(found, states[depth(site)])
        else:
            norms = [child for part, child in model.base_model.named_children() if "norm" in part or part == "ln_f"]
            torch.testing.assert_close(norms[-1](found), states[-1])


@every_site
@every_model
def test_a_model_started_at_a_site_says_what_the_whole_one_says(name, site):
    model = small(name).model
    inputs, in_tuple = inputs_of(model), returns_tuples(model, inputs_of(model))
    plain, stream = logits_of(model, inputs), stream_at(model, inputs, site)
    seen = run_blocks(model)
    with starting_at(model, site, stream, in_tuple):
        found = logits_of(model, inputs)
        assert seen == list(range(depth(site), DEPTH))
        # As often as one likes.
        assert torch.equal(logits_of(model, inputs), found)
    assert torch.equal(found, plain)
    seen.clear()
    assert torch.equal(logits_of(model, inputs), plain) and seen == list(range(DEPTH))


@every_model
def test_a_model_started_at_a_site_reads_what_it_is_given(name):
    """Not what it is run on: other tokens below make no difference."""
    model = small(name).model
    inputs, in_tuple = inputs_of(model), returns_tuples(model, inputs_of(model))
    others = inputs | {"input_ids": inputs["input_ids"].flip(1)}
    for site in SITES:
        with starting_at(model, site, stream_at(model, others, site), in_tuple):
            torch.testing.assert_close(logits_of(model, inputs), logits_of(model, others))
        # The weights of the two ends are one in some architectures, and the stream below is met nowhere.
        with starting_at(model, site, torch.zeros(len(ROWS), len(ROWS[0]), WIDTH), in_tuple):
            torch.testing.assert_close(logits_of(model, inputs), logits_of(model, others))


@every_model
def test_blocks_of_some_architectures_return_tuples(name):
    model = small(name).model
    outputs = []
    handle = blocks(model)[0].register_forward_hook(lambda _, __, output: outputs.append(output))
    logits_of(model, inputs_of(model))
    handle.remove()
    seen = run_blocks(model)
    assert returns_tuples(model, left_padded(model, ROWS)) is isinstance(outputs[0], tuple)
    assert seen == [0] and not any("forward" in vars(block) or block._forward_hooks for block in blocks(model))


# Cutting the last block short


def can_be_cut_short(model, inputs):
    """Whether the feed-forward part of the last block can be left out for all tokens but the last."""
    return last_token_only in ways_to_cut_short(model, inputs)


@every_model
def test_the_attention_of_the_last_block_looks_back_from_the_last_token_alone(name):
    language_model = small(name)
    model, inputs, queries = language_model.model, left_padded(language_model.model, ROWS), []
    model.set_attn_implementation("eager")
    home = sys.modules[type(blocks(model)[-1]).__module__]
    plain, whole = logits_of(model, inputs)[:, -1], getattr(home, "eager_attention_forward", None)
    assert last_query_only in ways_to_cut_short(model, inputs)
    if whole is None:
        return  # bloom and falcon compute their attention themselves, so that nothing is cut

    def counting(module, query, *rest, **others):
        queries.append(query.shape[2])
        return whole(module, query, *rest, **others)

    home.eager_attention_forward = counting
    try:
        with last_query_only(model):
            found = logits_of(model, inputs)[:, -1]
        assert home.eager_attention_forward is counting
    finally:
        home.eager_attention_forward = whole
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    assert queries == [len(ROWS[0])] * (len(blocks(model)) - 1) + [1]


@every_model
def test_a_model_is_cut_short_where_its_answer_stays_what_it_is(name):
    model = small(name).model
    inputs = left_padded(model, ROWS)
    # Falcon adds to the feed-forward part's output in place, which has not enough tokens then.
    assert can_be_cut_short(model, inputs) is (name != "falcon")
    assert untouched(model)
    if name != "falcon":
        plain, widths = logits_of(model, inputs)[:, -1], []
        handle = weights_of(model, -1).register_forward_hook(lambda _, __, output: widths.append(output.shape[1]))
        with last_token_only(model):
            found = logits_of(model, inputs)[:, -1]
        logits_of(model, inputs)
        handle.remove()
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
        assert widths == [1, len(ROWS[0])]


def test_falcon_without_parallel_parts_is_cut_short_as_well():
    """What decides is what comes out, and not what the architecture is called."""
    model = small("falcon", parallel_attn=False).model
    assert can_be_cut_short(model, left_padded(model, ROWS)) is True


@pytest.mark.parametrize("mixed", [lambda each: each.mean(1, keepdim=True), lambda each: each[:, :1]])
@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2", "bloom"])
def test_a_model_whose_last_feed_forward_part_looks_at_other_tokens_is_not_cut_short(name, mixed):
    # In a block below it is of no consequence.
    for layer, expected in ((-1, False), (0, True)):
        model = small(name).model
        weights_of(model, layer).register_forward_pre_hook(lambda _, args: (args[0] + mixed(args[0]), *args[1:]))
        assert can_be_cut_short(model, left_padded(model, ROWS)) is expected


@pytest.mark.parametrize("error", [RuntimeError, TypeError, IndexError])
def test_a_model_that_breaks_when_it_is_cut_short_is_not(llama, error):
    def breaking(_, args, output):
        if output.shape[1] == 1:
            raise error

    handle = blocks(llama)[-1].mlp.register_forward_hook(breaking)
    assert can_be_cut_short(llama, left_padded(llama, ROWS)) is False
    handle.remove()
    assert untouched(llama)


def test_a_model_that_calls_its_feed_forward_part_by_keywords_is_not_cut_short(llama):
    part, plain = blocks(llama)[-1].mlp, logits_of(llama, inputs_of(llama))
    called = type(part).__call__
    part.__class__ = type("ByKeyword", (type(part),), {"__call__": lambda self, x: called(self, x=x)})
    assert torch.equal(logits_of(llama, inputs_of(llama)), plain)
    assert can_be_cut_short(llama, left_padded(llama, ROWS)) is False
    assert not part._forward_pre_hooks


def test_a_model_without_a_feed_forward_part_of_that_name_is_run_whole():
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 32, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=32, num_hidden_layers=2, max_position_embeddings=64, **sizes)).eval()
    inputs, seen = inputs_of(model), []
    plain = logits_of(model, inputs)
    assert can_be_cut_short(model, left_padded(model, ROWS)) is True
    blocks(model)[-1].fc1.register_forward_hook(lambda _, __, output: seen.append(output.numel() // 32))
    with last_token_only(model):
        assert torch.equal(logits_of(model, inputs), plain)
    assert seen == [len(ROWS) * len(ROWS[0])]


@every_model
@pytest.mark.parametrize("rows", [[[1]], [[1, 9]], [[1, 9, 8], [1]], [[1] * 30]])
def test_whether_it_can_be_cut_short_is_found_for_prompts_of_any_length(name, rows):
    model = small(name).model
    lengths = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: lengths.append(tuple(args[0].shape)))
    found = can_be_cut_short(model, left_padded(model, rows))
    assert found is (name != "falcon" or len(rows[0]) == 1)
    # One row and few tokens.
    assert set(lengths) == {(1, min(8, len(rows[0])))}


# What is left behind


def parts_that_are_opened(model):
    inputs = inputs_of(model)
    stream = stream_at(model, inputs, Site(1))
    return [
        lambda: changing(model, Site(1), lambda each: each),
        lambda: changing(model, Site(1, "resid_pre"), lambda each: each),
        lambda: starting_at(model, Site(1), stream, returns_tuples(model, inputs)),
        lambda: starting_at(model, Site(0, "resid_pre"), stream, returns_tuples(model, inputs)),
        lambda: last_token_only(model),
    ]


@every_model
@pytest.mark.parametrize("number", range(5))
def test_no_hook_and_no_forward_stays_whatever_happens(name, number):
    model = small(name).model
    inputs = inputs_of(model)
    plain = logits_of(model, inputs)
    opened = parts_that_are_opened(model)[number]
    with opened():
        assert not untouched(model)
    assert untouched(model)
    with pytest.raises(KeyboardInterrupt), opened():
        raise KeyboardInterrupt
    assert untouched(model) and not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(logits_of(model, inputs), plain)


def test_a_forward_of_its_own_that_a_block_had_is_put_back(llama):
    block, inputs = blocks(llama)[0], inputs_of(llama)
    own, calls = block.forward, []

    def counting(*args, **keywords):
        calls.append(1)
        return own(*args, **keywords)

    stream = stream_at(llama, inputs, Site(1))
    block.forward = counting
    with starting_at(llama, Site(1), stream, False):
        logits_of(llama, inputs)
    assert block.forward is counting and not calls
    with pytest.raises(KeyboardInterrupt), starting_at(llama, Site(1), stream, False):
        raise KeyboardInterrupt
    assert block.forward is counting
    logits_of(llama, inputs)
    assert calls == [1]


@every_site
def test_an_exception_below_the_site_is_not_taken_for_its_being_reached(llama, site):
    def broken(*_):
        raise RuntimeError("out of memory")

    llama.get_input_embeddings().register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        stream_at(llama, inputs_of(llama), site)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks(llama))


# Inputs


def test_inputs_are_repeated_one_after_the_other_and_cut_where_it_is_said():
    inputs = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]]),
        "attention_mask": torch.ones(2, 3),
        "logits_to_keep": 1,
    }
    twice = repeated(inputs, 2)
    assert twice["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]]
    assert twice["attention_mask"].shape == (4, 3) and twice["logits_to_keep"] == 1
    last = cut(inputs, ("input_ids", "position_ids"), -1, None)
    assert last["input_ids"].tolist() == [[3], [6]] and last["attention_mask"].shape == (2, 3)
    assert cut(inputs, ("input_ids",), None, 2)["input_ids"].tolist() == [[1, 2], [4, 5]]
    assert set(without_logits(inputs)) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == (2, 3)
