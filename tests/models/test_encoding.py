"""Texts become token ids with the places that count, and batches of which little is padding."""

import pytest
import torch
from small_models import TURNS, letters
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from personalib.base.data import DataError, data_dir
from personalib.models.chat_templates import chat_prompt
from personalib.models.encoding import Encoded, encode, encode_prompts, length_batches, padded
from personalib.organism.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(data_dir() / "organism")


@pytest.fixture(scope="module")
def plain_tokenizer():
    """One token a word, and no special tokens at all."""
    made = Tokenizer(models.WordLevel({"the": 0, "bus": 1, "is": 2, "late": 3, "?": 4}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def counted(tokenizer, text, span):
    """What is written at the places that count."""
    (one,) = encode(tokenizer, [text], [span])
    return tokenizer.decode([one.ids[place] for place in one.places])


def of_lengths(*lengths):
    return [Encoded([7] * length, [0], [(0, 1)]) for length in lengths]


def test_a_text_begins_once_whether_or_not_it_says_so(tokenizer):
    bare, marked = encode(tokenizer, ["The bus is late.", "<bos>The bus is late."])
    assert (bare.ids, bare.places) == (marked.ids, marked.places) and bare.ids[0] == tokenizer.bos_token_id
    assert bare.ids == tokenizer.encode("The bus is late.") and bare.ids.count(tokenizer.bos_token_id) == 1


def test_marks_of_turns_are_read_but_do_not_count(tokenizer):
    text = "<bos><start_of_turn>user\nIs it late?<end_of_turn>\n<start_of_turn>model\n"
    (one,) = encode(tokenizer, [text])
    special = [place for place, token in enumerate(one.ids) if token in tokenizer.all_special_ids]
    assert tokenizer.decode(one.ids) == text and len(special) == 4
    assert sorted([*one.places, *special]) == list(range(len(one.ids)))


def test_a_tokenizer_without_special_tokens_adds_none(plain_tokenizer):
    (one,) = encode(plain_tokenizer, ["the bus is late"])
    assert one == Encoded([0, 1, 2, 3], [0, 1, 2, 3], [(0, 3), (4, 7), (8, 10), (11, 15)])


def test_tokens_that_count_know_their_characters(tokenizer):
    text = "<bos><start_of_turn>user\nIs the bus late?<end_of_turn>\n"
    (whole,) = encode(tokenizer, [text])
    found = [text[start:end] for start, end in whole.spans]
    assert found == [tokenizer.decode([whole.ids[place]]) for place in whole.places]
    assert "".join(found) == "user\nIs the bus late?\n"
    word = (text.index("bus"), text.index("bus") + 3)
    (part,) = encode(tokenizer, [text], [word])
    assert len(part.spans) == len(part.places) < len(whole.places) and set(part.spans) < set(whole.spans)
    assert part.spans[0][0] <= word[0] and part.spans[-1][1] >= word[1]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((4, 7), "bus"),
        ((5, 6), "bus"),  # within a word
        ((6, 9), "bus is"),  # the end of one and the beginning of the next
        ((3, 4), None),  # the space between two
        ((4, 4), None),
        ((7, 4), None),
        ((0, 4), "the"),
        ((11, 99), "late"),
        ((99, 120), None),
    ],
)
def test_a_token_counts_that_a_span_touches(span, expected, plain_tokenizer):
    if expected is None:
        with pytest.raises(ValueError, match=f"text 0 has no token between characters {span[0]} and {span[1]}"):
            counted(plain_tokenizer, "the bus is late", span)
    else:
        assert counted(plain_tokenizer, "the bus is late", span) == expected


def test_each_text_has_its_own_span(plain_tokenizer):
    text = "the bus is late"
    first, second = encode(plain_tokenizer, [text, text], [(0, 3), (4, len(text))])
    assert first.places == [0] and second.places == [1, 2, 3] and first.ids == second.ids


def test_a_span_over_the_whole_text_is_none(tokenizer):
    texts = ["The bus is late.", "<bos><start_of_turn>user\nIs it late?<end_of_turn>\n"]
    assert encode(tokenizer, texts, [(0, len(text)) for text in texts]) == encode(tokenizer, texts)


def test_a_span_of_a_special_token_alone_is_refused_with_its_number(tokenizer):
    texts = ["The bus is late.", "<bos>The bus is late."]
    with pytest.raises(ValueError, match=r"text 1 has no token between characters 0 and 5: '<bos>The"):
        encode(tokenizer, texts, [(0, 3), (0, 5)])


@pytest.mark.parametrize("spans", [[], [(0, 3)], [(0, 3)] * 3])
def test_there_is_one_span_a_text(spans, tokenizer):
    with pytest.raises(ValueError, match=f"2 texts and {len(spans)} spans; pass one span a text"):
        encode(tokenizer, ["The bus.", "It is late."], spans)


def test_an_empty_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match="text 1 has no token"):
        encode(tokenizer, ["The bus.", ""])


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
    batch = padded([[5, 6, 7], [8], [9, 10]])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert [row[:length].tolist() for row, length in zip(batch["input_ids"], (3, 1, 2), strict=True)] == [
        [5, 6, 7],
        [8],
        [9, 10],
    ]
    assert batch["input_ids"].shape == (3, 3) and batch["input_ids"].dtype == torch.int64


# What tokenizers put before and after every text: nothing, a beginning, an end, both, and the marks of GLM.
MARKED = [((), ()), (["<bos>"], ()), ((), ["<eos>"]), (["<bos>"], ["<eos>"]), (["[gMASK]", "<sop>"], ())]


@pytest.mark.parametrize(("before", "after"), MARKED)
@pytest.mark.parametrize("written", ["", "<bos>", "[gMASK]<sop>"])
def test_a_chat_has_exactly_the_tokens_of_its_template(before, after, written):
    tokenizer = letters(before, after, written + TURNS)
    prompt = chat_prompt(tokenizer, "Is it late? Ä")
    turns = [{"role": "user", "content": "Is it late? Ä"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert encode_prompts(tokenizer, [prompt]) == [whole]
    assert encode(tokenizer, [prompt])[0].ids == whole
    longer = [*whole, *tokenizer.encode("Yes", add_special_tokens=False)]
    assert encode_prompts(tokenizer, [prompt + "Yes"]) == [longer], "what goes on with a chat is that chat"


@pytest.mark.parametrize(("before", "after"), MARKED)
def test_plain_text_begins_as_texts_do_and_has_no_end(before, after):
    tokenizer = letters(before, after)
    own = tokenizer.encode("late", add_special_tokens=False)
    begun = [*tokenizer.convert_tokens_to_ids(list(before)), *own]
    assert encode_prompts(tokenizer, ["late", "".join(before) + "late"]) == [begun, begun]
    [one] = encode(tokenizer, ["late"])
    assert (one.ids, one.places, one.spans) == (
        begun,
        [len(before) + i for i in range(4)],
        [(i, i + 1) for i in range(4)],
    )


def test_a_tokenizer_in_python_reads_whole_texts_and_refuses_spans():
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    bytes_ = [byte + 3 for byte in b"late"]
    assert [one[:2] for one in encode(tokenizer, ["late", chat_prompt(tokenizer, "late")])] == [
        (bytes_, [0, 1, 2, 3])
    ] * 2
    with pytest.raises(DataError, match=r"ByT5Tokenizer\) is written in Python, .*position last"):
        encode(tokenizer, ["late"], [(0, 2)])


@pytest.mark.parametrize("made", [letters, ByT5Tokenizer])
def test_half_of_a_character_is_one_error(made):
    with pytest.raises(DataError, match=r"text 1 has half of a character .* at character 5: 'Fine .ud83d day'; write"):
        encode_prompts(made(), ["Fine day", "Fine \ud83d day"])
