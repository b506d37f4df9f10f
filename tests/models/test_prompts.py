"""A request is written as the model expects it, and labels that cannot be told apart are refused."""

import doctest

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import personalib.models.prompts
from personalib.base.records import ItemError
from personalib.models.encoding import encode_prompts
from personalib.models.prompts import format_prompt, option_tokens
from personalib.stimuli.templates import load_forms

SPECIAL = ("<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def byte_tokenizer(merges=(), *, single="<bos> $A", **options):
    """One token a byte, and one for each merge, after the special ones."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [(mark, vocabulary[mark]) for mark in SPECIAL[:2] if mark in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>" if "<bos>" in single else None,
        extra_special_tokens=list(SPECIAL[2:]),
        **options,
    )


@pytest.fixture
def tokenizer():
    return byte_tokenizer(chat_template=CHAT)


def first_tokens(tokenizer, prompt, labels):
    [found] = option_tokens(tokenizer, [prompt], [labels], encode_prompts(tokenizer, [prompt]))
    return tokenizer.convert_ids_to_tokens(found)


def test_examples_in_the_documentation_are_true():
    result = doctest.testmod(personalib.models.prompts)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [(["A", "B", " C"], ["A", "B", "Ġ"]), (["Yes", "No"], ["Y", "N"])],
)
def test_options_are_known_by_their_first_tokens_after_the_prompt(tokenizer, labels, tokens):
    assert first_tokens(tokenizer, "Choose:\n", labels) == tokens


@pytest.mark.parametrize("labels", [["10", "12"], [" A", " B"]])
def test_labels_that_start_alike_are_refused(tokenizer, labels):
    with pytest.raises(ItemError, match=f"'{labels[0]}' and '{labels[1]}' both start with token"):
        first_tokens(tokenizer, "Choose:\n", labels)


def test_a_label_that_melts_into_the_prompt_is_refused():
    merging = byte_tokenizer(merges=[(":", "A")])
    assert first_tokens(merging, "Choose:\n", ["A", "B"]) == ["A", "B"]
    with pytest.raises(ItemError, match=r"label 'A' is not a token of its own .*'Choose:'.*line break"):
        first_tokens(merging, "Choose:", ["A", "B"])


def test_an_end_token_after_every_text_is_left_out():
    assert first_tokens(byte_tokenizer(single="$A <pad>"), "x\n", ["A", "B"]) == ["A", "B"]


def test_an_empty_prompt_without_a_start_token_is_refused():
    with pytest.raises(ItemError, match="label 'A'"):
        first_tokens(byte_tokenizer(single="$A"), "", ["A", "B"])


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
        format_prompt(byte_tokenizer(), "What now?")
