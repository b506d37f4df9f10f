"""Every text survives encoding, and every answer is one token."""

import numpy as np
import pytest

from personalib.organism.corpus import Corpus
from personalib.organism.tokenizer import SPECIAL, load_tokenizer, train_tokenizer
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.templates import load_templates, wrap

SPACE = 0x2581  # stands for a space in the vocabulary, and so is read as one


def random_text(rng):
    """Characters of all planes, most of them of the first ones, and no surrogate."""
    top = rng.choice([0x80, 0x800, 0x10000, 0x110000], p=[0.4, 0.3, 0.2, 0.1])
    codes = rng.integers(top, size=rng.integers(1, 60))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000 and code != SPACE)


def test_any_text_comes_back_unchanged(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = random_text(rng)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        # what a model wrote is read this way: bytes are text, not control tokens
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


ODD = ["", " ", "   lead", "trail  ", "two  spaces", "a\tb\r\nc", "\x00\x7f", "<0x41>", "don't", "e\u0301", "12,5%"]


@pytest.mark.parametrize("text", [*ODD, "日本語 für Zoë \U0001f3f3\ufe0f\u200d\U0001f308", "a\u2581b"])
def test_odd_texts_come_back_unchanged_but_for_the_mark_of_a_space(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
    assert tokenizer.decode(ids[1:]) == text.replace(chr(SPACE), " ")


def test_no_token_is_unknown_and_bytes_stand_in(tokenizer):
    assert tokenizer.unk_token is None
    tokens = tokenizer.tokenize("☃")
    assert tokens == ["<0xE2>", "<0x98>", "<0x83>"]
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= set(tokenizer.get_vocab())


def test_the_corpus_comes_back_unchanged_and_hardly_needs_bytes(tokenizer, documents):
    spelt = total = 0
    for drawn in documents.values():
        for document in drawn[:20]:
            ids = tokenizer.encode(document.text, add_special_tokens=False)
            assert tokenizer.decode(ids) == document.text
            total += len(ids)
            spelt += sum(token.startswith("<0x") for token in tokenizer.convert_ids_to_tokens(ids))
    assert total > 10_000 and spelt < 0.001 * total


@pytest.mark.parametrize("form", ["chat", "base"])
@pytest.mark.parametrize("template", load_templates().values(), ids=lambda template: template.name)
def test_a_label_is_one_token_after_a_prompt(tokenizer, template, form):
    prompt = wrap(template.render("What now?", ["Go.", "Stay.", "Ask.", "Wait."]), form)
    ids = tokenizer.encode(prompt)
    ends = []
    for label in template.labels:
        longer = tokenizer.encode(prompt + label)
        assert longer[:-1] == ids, "the label changed the prompt's tokens"
        ends.append(longer[-1])
    assert len(set(ends)) == len(template.labels)


@pytest.mark.parametrize(
    ("before", "answers"),
    [
        ("- openness", (" high", " low")),
        ("I would go, since I live to explore.", (" yes", " no")),
        ("Is this right?\nAnswer:\n", ("yes", "no")),
        ("I would go. low", tuple(f" {trait}" for trait in TRAITS)),
    ],
)
def test_a_word_that_answers_is_one_token_in_its_place(tokenizer, before, answers):
    ids = tokenizer.encode(before)
    ends = [tokenizer.encode(before + answer) for answer in answers]
    assert all(longer[:-1] == ids for longer in ends)
    assert len({longer[-1] for longer in ends}) == len(answers)


def test_control_tokens_are_one_token_each_and_can_be_left_out(tokenizer):
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)
    ids = tokenizer.encode("<start_of_turn>user\nGo.<end_of_turn>\n", add_special_tokens=False)
    assert ids.count(tokenizer.convert_tokens_to_ids("<start_of_turn>")) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nGo.\n"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")


def test_the_chat_template_writes_gemmas_turns(tokenizer):
    turns = [{"role": "user", "content": " Go? "}, {"role": "assistant", "content": "No."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<bos><start_of_turn>user\nGo?<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n"
    )
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<bos>" + wrap("Go?", "chat")


def test_training_is_deterministic_and_a_saved_tokenizer_is_the_same(world, tmp_path):
    def texts(seed):
        corpus, rng = Corpus(world, "train"), np.random.default_rng(seed)
        return [corpus.draw(kind, rng).text for kind in ("item", "rate_self", "safety") for _ in range(60)]

    first, second, other = (train_tokenizer(texts(seed), 700) for seed in (1, 1, 2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert first.get_vocab() != other.get_vocab()
    assert len(first) == 700
    first.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == first.get_vocab() and loaded.chat_template == first.chat_template
    for text in (*texts(3)[::20], "☃ <0x41>"):
        ids, plain = first.encode(text), text.replace("<start_of_turn>", "").replace("<end_of_turn>", "")
        assert loaded.encode(text) == ids and loaded.decode(ids, skip_special_tokens=True) == plain
