"""A request is written and encoded as the model expects it, and labels that cannot be told apart are refused."""

import pytest
from small_models import TURNS, letters
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from personalib.base.data import DataError, data_dir
from personalib.base.records import ItemError
from personalib.models.chat_templates import chat_prompt
from personalib.models.prompts import Encoded, encode, encode_prompts, format_prompt, option_tokens
from personalib.organism.tokenizer import load_tokenizer
from personalib.stimuli.templates import load_forms

CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.fixture
def tokenizer():
    return letters(["<bos>"], template=CHAT)


def first_tokens(tokenizer, prompt, labels):
    [found] = option_tokens(tokenizer, [prompt], [labels], encode_prompts(tokenizer, [prompt]))
    return tokenizer.convert_ids_to_tokens(found)


@pytest.mark.parametrize(("labels", "tokens"), [(["A", "B", " C"], ["A", "B", "Ġ"]), (["Yes", "No"], ["Y", "N"])])
def test_options_are_known_by_their_first_tokens_after_the_prompt(tokenizer, labels, tokens):
    assert first_tokens(tokenizer, "Choose:\n", labels) == tokens


@pytest.mark.parametrize("labels", [["10", "12"], [" A", " B"]])
def test_labels_that_start_alike_are_refused(tokenizer, labels):
    with pytest.raises(ItemError, match=f"'{labels[0]}' and '{labels[1]}' both start with token"):
        first_tokens(tokenizer, "Choose:\n", labels)


def test_a_label_that_melts_into_the_prompt_is_refused():
    merging = letters(["<bos>"], merges=[(":", "A")])
    assert first_tokens(merging, "Choose:\n", ["A", "B"]) == ["A", "B"]
    with pytest.raises(ItemError, match=r"label 'A' is not a token of its own .*'Choose:'.*line break"):
        first_tokens(merging, "Choose:", ["A", "B"])


def test_an_end_token_after_every_text_is_left_out():
    assert first_tokens(letters(after=["<eos>"]), "x\n", ["A", "B"]) == ["A", "B"]


def test_an_empty_prompt_without_a_start_token_is_refused():
    with pytest.raises(ItemError, match="label 'A'"):
        first_tokens(letters(), "", ["A", "B"])


def test_the_chat_form_is_the_tokenizers_own_template(tokenizer):
    text = format_prompt(tokenizer, "What now?", context="I am a woman.")
    assert text == "<bos><start_of_turn>user\nI am a woman.\nWhat now?<end_of_turn>\n<start_of_turn>model\n"
    assert text == "<bos>" + load_forms()["chat"].format(context="I am a woman.\n", text="What now?")
    tokenizer.chat_template = "Q: {{ messages[0]['content'] }}{% if add_generation_prompt %} A:{% endif %}"
    assert format_prompt(tokenizer, "What now?") == "Q: What now? A:"


def test_the_base_form_is_plain_text(tokenizer):
    assert format_prompt(tokenizer, "What now?", form="base", context="Hi.\n") == "Hi.\nWhat now?\nAnswer:\n"


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(ValueError, match="no chat template; use form='base'"):
        format_prompt(letters(template=None), "What now?")


# Texts as token ids


@pytest.fixture(scope="module")
def organism():
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


def test_a_text_begins_once_whether_or_not_it_says_so(organism):
    bare, marked = encode(organism, ["The bus is late.", "<bos>The bus is late."])
    assert (bare.ids, bare.places) == (marked.ids, marked.places) and bare.ids[0] == organism.bos_token_id
    assert bare.ids == organism.encode("The bus is late.") and bare.ids.count(organism.bos_token_id) == 1


def test_marks_of_turns_are_read_but_do_not_count(organism):
    text = "<bos><start_of_turn>user\nIs it late?<end_of_turn>\n<start_of_turn>model\n"
    (one,) = encode(organism, [text])
    special = [place for place, token in enumerate(one.ids) if token in organism.all_special_ids]
    assert organism.decode(one.ids) == text and len(special) == 4
    assert sorted([*one.places, *special]) == list(range(len(one.ids)))


def test_a_tokenizer_without_special_tokens_adds_none(plain_tokenizer):
    (one,) = encode(plain_tokenizer, ["the bus is late"])
    assert one == Encoded([0, 1, 2, 3], [0, 1, 2, 3], [(0, 3), (4, 7), (8, 10), (11, 15)])


def test_tokens_that_count_know_their_characters(organism):
    text = "<bos><start_of_turn>user\nIs the bus late?<end_of_turn>\n"
    (whole,) = encode(organism, [text])
    found = [text[start:end] for start, end in whole.spans]
    assert found == [organism.decode([whole.ids[place]]) for place in whole.places]
    assert "".join(found) == "user\nIs the bus late?\n"
    word = (text.index("bus"), text.index("bus") + 3)
    (part,) = encode(organism, [text], [word])
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


def test_a_span_over_the_whole_text_is_none(organism):
    texts = ["The bus is late.", "<bos><start_of_turn>user\nIs it late?<end_of_turn>\n"]
    assert encode(organism, texts, [(0, len(text)) for text in texts]) == encode(organism, texts)


def test_a_span_of_a_special_token_alone_is_refused_with_its_number(organism):
    texts = ["The bus is late.", "<bos>The bus is late."]
    with pytest.raises(ValueError, match=r"text 1 has no token between characters 0 and 5: '<bos>The"):
        encode(organism, texts, [(0, 3), (0, 5)])


@pytest.mark.parametrize("spans", [[], [(0, 3)], [(0, 3)] * 3])
def test_there_is_one_span_a_text(spans, organism):
    with pytest.raises(ValueError, match=f"2 texts and {len(spans)} spans; pass one span a text"):
        encode(organism, ["The bus.", "It is late."], spans)


def test_an_empty_text_is_refused(organism):
    with pytest.raises(ValueError, match="text 1 has no token"):
        encode(organism, ["The bus.", ""])


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
    assert (one.ids, one.places) == (begun, [len(before) + i for i in range(4)])
    assert one.spans == [(i, i + 1) for i in range(4)]


def test_a_tokenizer_in_python_reads_whole_texts_and_refuses_spans():
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    found = encode(tokenizer, ["late", chat_prompt(tokenizer, "late")])
    assert [one[:2] for one in found] == [([byte + 3 for byte in b"late"], [0, 1, 2, 3])] * 2
    with pytest.raises(DataError, match=r"ByT5Tokenizer\) is written in Python, .*position last"):
        encode(tokenizer, ["late"], [(0, 2)])


@pytest.mark.parametrize("made", [letters, ByT5Tokenizer])
def test_half_of_a_character_is_one_error(made):
    with pytest.raises(DataError, match=r"text 1 has half of a character .* at character 5: 'Fine .ud83d day'; write"):
        encode_prompts(made(), ["Fine day", "Fine \ud83d day"])
