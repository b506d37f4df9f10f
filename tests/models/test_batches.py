"""Prompts share batches as the model allows, and what it cannot read or give is one error that names the text."""

import numpy as np
import pytest
import torch
from small_models import LABELS, small, vector

from personalib.base.records import ItemError
from personalib.models.activations import capture
from personalib.models.batches import check_finite, check_rows, in_batches, length_batches, right_padded
from personalib.models.parts import Site
from personalib.models.remote import rehearsed
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import Add

ROWS = [[1, 2], [1, 2, 3], [1], [4, 5], [6, 7, 8]]
LONG = " ".join(["w1"] * 20)


def test_batches_hold_each_row_once_longest_first():
    assert list(in_batches(ROWS, 2)) == [[1, 4], [0, 3], [2]]
    assert list(in_batches(ROWS, 4)) == [[1, 4, 0, 3], [2]]


def test_rows_of_one_length_share_a_batch_where_nothing_can_be_padded():
    assert list(in_batches(ROWS, 4, padded=False)) == [[1, 4], [0, 3], [2]]


def of_lengths(*lengths):
    return [[7] * length for length in lengths]


@pytest.mark.parametrize("limit", [1, 9, 20, 64, 10_000])
def test_batches_hold_every_text_once_longest_first_and_within_the_limit(limit):
    lengths = [3, 17, 1, 9, 9, 2, 30, 5, 4, 12, 9, 1]
    batches = list(length_batches(of_lengths(*lengths), limit))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        widest = lengths[batch[0]]
        assert len(batch) * widest <= limit or len(batch) == 1
        # as full as may be: the next text would have been too many
        assert following is None or (len(batch) + 1) * widest > limit


def test_a_text_longer_than_the_limit_stands_alone_and_comes_first():
    assert list(length_batches(of_lengths(2, 50, 3), 10)) == [[1], [2, 0]]


def test_rows_are_padded_on_the_right_and_the_mask_says_where():
    batch = right_padded([[5, 6, 7], [8], [9, 10]])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert [row[:length].tolist() for row, length in zip(batch["input_ids"], (3, 1, 2), strict=True)] == [
        [5, 6, 7],
        [8],
        [9, 10],
    ]
    assert batch["input_ids"].shape == (3, 3) and batch["input_ids"].dtype == torch.int64


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("way", ["ask_steered", "a service", "answer_losses", "generate", "capture"])
def test_a_text_longer_than_the_context_is_refused_before_the_model_runs(name, way, tmp_path):
    model = small(name, max_position_embeddings=16)
    run = {
        "ask_steered": lambda texts: ask_steered(model, texts, LABELS, [()]),
        "a service": lambda texts: ask_steered(rehearsed(model), texts, LABELS, [()]),
        "answer_losses": lambda texts: answer_losses(model, [(text, " w2 w3") for text in texts], [()]),
        "generate": lambda texts: generate(model, texts, tokens=4),
        "capture": lambda texts: capture(model, texts, [Site(0)], tmp_path),
    }[way]
    run(["w1 w2 "])
    with pytest.raises(ItemError, match=r"text 2 of 2 \('w1 w1 .*the model reads 16 at the most.*shorten it"):
        run(["w1 w2 ", LONG + " "])


def test_what_is_to_be_written_counts_for_the_context():
    model = small("llama", max_position_embeddings=16).model
    # The last one is written and not read.
    check_rows(model, ["a"], [[1] * 12], 5)
    with pytest.raises(ItemError, match=r"12 tokens and 6 to be written.*shorten it, write fewer tokens, or"):
        check_rows(model, ["a"], [[1] * 12], 6)


def test_activations_of_a_token_that_the_model_does_not_embed_are_refused(llama, tmp_path):
    llama.tokenizer.add_tokens(["new"])
    with pytest.raises(ItemError, match="token 32 of the tokenizer, and the model embeds 32"):
        capture(llama, ["w1 new"], [Site(0)], tmp_path)


def test_numbers_that_are_finite_pass():
    check_finite(small("llama").model, ["a"], [0], [np.zeros(3)])


def overflowing():
    model = small("llama")
    model.model.half().get_output_embeddings().weight.data *= 1e30
    return model


@pytest.mark.parametrize("way", ["ask_steered", "answer_losses", "generate"])
def test_a_model_that_overflows_is_one_error_that_names_text_format_and_remedy(way):
    model = overflowing()
    run = {
        "ask_steered": lambda: ask_steered(model, ["w1 "], LABELS, [()]),
        "answer_losses": lambda: answer_losses(model, [("w1 ", "w2 w3")], [()]),
        "generate": lambda: generate(model, ["w1 "]),
    }[way]
    with pytest.raises(
        ItemError, match=r"text 1 of 1 \('w1 '\).*NaN or infinite.*float16; load it in bfloat16 or float32"
    ):
        run()


@pytest.mark.parametrize("where", [lambda model: model, rehearsed])
def test_another_words_infinite_logit_leaves_no_option_a_probability(llama, where):
    """Not even one of zero."""
    llama.model.lm_head.register_forward_hook(lambda *passed: passed[-1].index_fill(-1, torch.tensor([9]), torch.inf))
    with pytest.raises(ItemError, match="NaN or infinite"):
        ask_steered(where(llama), ["w1 "], LABELS, [()])


def test_activations_that_the_number_format_on_disk_cannot_hold_are_refused(llama, tmp_path):
    llama.model.get_input_embeddings().weight.data *= 1e6
    llama.model.bfloat16()
    capture(llama, ["w1"], [Site(0)], tmp_path / "float32")
    with pytest.raises(
        ItemError, match=r"text 1 of 1 .*e\+0\d does not fit into float16 on disk; keep float32 \(dtype\)"
    ):
        capture(llama, ["w1"], [Site(0)], tmp_path / "float16", dtype="float16")


def test_a_push_that_overflows_leaves_the_other_conditions_as_they_are(llama):
    """It has no answer, which the guard takes for collapse; a model that overflows by itself is an error."""
    llama.model.half()
    push = vector(Site(1), size=1.0)
    [plain, small_push, large] = ask_steered(llama, ["w1 "], LABELS, [(), (Add(push),), (Add(push, 1e6),)])
    assert np.isfinite(plain).all() and np.isfinite(small_push).all() and np.isnan(large).all()
    [losses, _] = answer_losses(llama, [("w1 ", "w2 w3")], [(), (Add(push, 1e6, "all"),)])
    assert np.isfinite(losses[0]).all() and np.isnan(losses[1]).all()
    # A loss is infinite where the right word's logit is.
    llama.model.lm_head.register_forward_hook(lambda *passed: passed[-1].index_fill(-1, torch.tensor([9]), -torch.inf))
    assert np.isnan(answer_losses(llama, [("w1 ", "w2 w3")], [(Add(push),)])[0]).all()


def test_a_token_that_the_model_does_not_know_is_one_error(organism):
    check_rows(organism.model, ["a"], [[4665]])
    with pytest.raises(ItemError, match=r"text 2 of 2 \('b'\): token 4666 of the tokenizer, and the model embeds 4666"):
        check_rows(organism.model, ["a", "b"], [[1], [4666, 2]])
