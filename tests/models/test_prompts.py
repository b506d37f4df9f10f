"""A batch gives what single prompts give, and labels that cannot be told apart are refused."""

import doctest

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import personalib.models.prompts
from personalib.base.records import ItemError
from personalib.models.batches import check_rows
from personalib.models.encoding import encode_prompts
from personalib.models.load import load_model
from personalib.models.prompts import ask, format_prompt, option_tokens
from personalib.questionnaires.items import TraitItem
from personalib.stimuli.templates import load_forms

SPECIAL = ("<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PROMPTS = ["Short.\n", "A much longer prompt than that one, with many words.\n", "One\nmore.\n", "Short.\n"]
LABELS = [["A", "B", "C", "D"], ["A", "B"], ["1", "2", "3", "4"], ["D", "C"]]


def byte_tokenizer(merges=(), *, bos=True, **options):
    """One token a byte, and one for each merge, after the special ones."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>" if bos else None,
        extra_special_tokens=list(SPECIAL[2:]),
        **options,
    )


def tiny_model(kind, size=300):
    torch.manual_seed(0)
    block = {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 0.5,
    }
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**block, sliding_window=8, attn_implementation="eager"))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**block))
    if kind == "gpt2":  # absolute positions: wrong position_ids would show
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=512, initializer_range=0.5)
        )
    return BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.5))


KINDS = ["gemma2", "llama", "gpt2", "bloom"]


@pytest.fixture(params=KINDS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def llama():
    return tiny_model("llama")


@pytest.fixture
def tokenizer():
    return byte_tokenizer(chat_template=CHAT)


@pytest.fixture
def items():
    return [
        TraitItem(1, "", "openness", "", "A new road.", "Now what?", "Take it.", "Look.", "Turn.", "Stay home."),
        TraitItem(2, "", "narcissism", "", "A prize is given.", "To whom?", "Me.", "Us.", "Her.", "Them all."),
    ]


def naive(model, tokenizer, prompt, labels):
    """One prompt, no padding, the plain forward pass."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chances = model.eval()(ids).logits[0, -1].float().softmax(-1)
    return chances[[tokenizer.convert_tokens_to_ids(label) for label in labels]].double().numpy()


def test_examples_in_the_documentation_are_true():
    result = doctest.testmod(personalib.models.prompts)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_gives_what_each_prompt_gives_alone(model, tokenizer, side, batch_size):
    tokenizer.padding_side = side
    answers = ask(model, tokenizer, PROMPTS, LABELS, batch_size=batch_size)
    assert [len(answer) for answer in answers] == [4, 2, 4, 2]
    for prompt, labels, answer in zip(PROMPTS, LABELS, answers, strict=True):
        assert np.allclose(answer, naive(model, tokenizer, prompt, labels), rtol=0, atol=1e-5)
        assert 0 < answer.sum() < 1


def test_the_models_really_tell_prompts_and_options_apart(model, tokenizer):
    first, second, third, again = ask(model, tokenizer, PROMPTS, [["A", "B"]] * 4)
    assert abs(first - second).max() > 1e-4 and abs(first - third).max() > 1e-4
    assert abs(first[0] - first[1]) > 1e-4
    assert np.allclose(first, again, atol=1e-6)


def test_half_precision_is_normalised_in_single_precision(llama, tokenizer):
    whole = list("ABCDEFGHIJ")
    exact = ask(llama, tokenizer, ["x\n"], [whole])[0]
    rounded = ask(llama.to(torch.bfloat16), tokenizer, ["x\n"], [whole])[0]
    assert rounded == pytest.approx(exact, rel=0.2)
    # bfloat16 keeps 8 bits; probabilities computed in it would all be representable with them.
    assert not np.array_equal(rounded, torch.tensor(rounded).to(torch.bfloat16).double().numpy())


def test_dropout_is_off_while_asking_and_the_mode_is_put_back(tokenizer):
    model = tiny_model("gpt2").train()
    assert np.array_equal(ask(model, tokenizer, ["x\n"], [["A"]])[0], ask(model, tokenizer, ["x\n"], [["A"]])[0])
    assert model.training
    model.eval()
    ask(model, tokenizer, ["x\n"], [["A"]])
    assert not model.training


def test_a_start_token_in_the_text_is_not_doubled(llama, tokenizer):
    with_start, without = ask(llama, tokenizer, ["<bos>Hello\n", "Hello\n"], [["A", "B"]] * 2)
    assert np.allclose(with_start, without, atol=1e-6)


def test_without_a_start_token_none_is_added(llama):
    tokenizer = byte_tokenizer(bos=False)
    [answer] = ask(llama, tokenizer, ["Hello\n"], [["A"]])
    assert np.allclose(answer, naive(llama, tokenizer, "Hello\n", ["A"]), atol=1e-5)


def test_no_prompts_give_no_answers(llama, tokenizer):
    assert ask(llama, tokenizer, [], []) == []


def test_the_progress_bar_is_named_and_counts_prompts(llama, tokenizer, capsys):
    ask(llama, tokenizer, PROMPTS, LABELS)
    assert capsys.readouterr() == ("", "")
    ask(llama, tokenizer, PROMPTS, LABELS, progress="Openness")
    shown = capsys.readouterr().err
    assert "Openness" in shown and "4/4" in shown


def test_prompts_and_labels_come_in_pairs(llama, tokenizer):
    with pytest.raises(ValueError, match="2 prompts and 1 lists"):
        ask(llama, tokenizer, ["a\n", "b\n"], [["A"]])


def first_tokens(tokenizer, prompt, labels):
    [found] = option_tokens(tokenizer, [prompt], [labels], encode_prompts(tokenizer, [prompt]))
    return found


def test_option_tokens_are_those_after_the_prompt(tokenizer):
    tokens = first_tokens(tokenizer, "Choose:\n", ["A", "B", " C"])
    assert tokenizer.convert_ids_to_tokens(tokens) == ["A", "B", "Ġ"]


def test_a_label_of_several_tokens_is_known_by_its_first(tokenizer):
    assert first_tokens(tokenizer, "x\n", ["Yes", "No"]) == tokenizer.convert_tokens_to_ids(["Y", "N"])


@pytest.mark.parametrize("labels", [["10", "12"], [" A", " B"]])
def test_labels_that_start_alike_are_refused(tokenizer, labels):
    with pytest.raises(ItemError, match=f"'{labels[0]}' and '{labels[1]}' both start with token"):
        first_tokens(tokenizer, "Choose:\n", labels)


def test_a_label_that_melts_into_the_prompt_is_refused(llama):
    merging = byte_tokenizer(merges=[(":", "A")])
    assert merging.convert_ids_to_tokens(first_tokens(merging, "Choose:\n", ["A", "B"])) == ["A", "B"]
    with pytest.raises(ItemError, match=r"label 'A' is not a token of its own .*'Choose:'.*line break"):
        first_tokens(merging, "Choose:", ["A", "B"])
    with pytest.raises(ItemError, match="label 'A'"):
        ask(llama, merging, ["Choose:\n", "Choose:"], [["A", "B"]] * 2)


def test_an_end_token_after_every_text_is_left_out():
    closing = byte_tokenizer()
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <pad>", special_tokens=[("<pad>", 0)]
    )
    assert closing.convert_ids_to_tokens(first_tokens(closing, "x\n", ["A", "B"])) == ["A", "B"]


def test_an_empty_prompt_without_a_start_token_is_refused():
    with pytest.raises(ItemError, match="label 'A'"):
        first_tokens(byte_tokenizer(bos=False), "", ["A", "B"])


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


def test_a_token_that_the_model_does_not_know_is_one_error():
    model = load_model().model
    check_rows(model, ["a"], [[4697]])
    with pytest.raises(ItemError, match=r"text 2 of 2 \('b'\): token 4698 of the tokenizer, and the model embeds 4698"):
        check_rows(model, ["a", "b"], [[1], [4698, 2]])
