"""Word pairs: opposite words that are one token each, after the same openings."""

import pytest

from personalib.base.data import DataError, data_dir
from personalib.organism.tokenizer import load_tokenizer
from personalib.questionnaires.word_pairs import WordPair, load_openings, load_word_pairs, pair_questions
from personalib.stimuli.factors import elements


def written(tmp_path, content):
    path = tmp_path / "pairs.yaml"
    path.write_text(content)
    return path


def test_every_pair_names_an_element_that_there_is():
    pairs = load_word_pairs()
    assert {pair.element for pair in pairs} <= {f"{element.factor}.{element.key}" for element in elements()}
    assert [pair.key for pair in pairs] == ["gender", "age", "status", "ideology"]
    assert all(pair.title and len(set(pair.words)) == 2 for pair in pairs)


def test_openings_are_different_and_leave_the_word_to_come():
    openings = load_openings()
    assert len(set(openings)) == len(openings) >= 8
    assert all(opening == opening.strip() and opening[-1].isalpha() for opening in openings)


def test_labels_are_different_single_tokens_that_follow_every_opening():
    tokenizer = load_tokenizer(data_dir() / "organism")

    def tokens(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for one in pair_questions():
        first, second = (tokens(label) for label in one.labels)
        assert len(first) == len(second) == 1 and first != second
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in (*first, *second)
        for label in one.labels:
            assert tokens(one.opening + label) == tokens(one.opening) + tokens(label)


def test_every_pair_comes_after_every_opening():
    found = pair_questions()
    expected = [(pair, *place) for pair in load_word_pairs() for place in enumerate(load_openings())]
    for one, (pair, number, opening) in zip(found, expected, strict=True):
        assert (one.item, one.opening, one.group) == (f"{pair.key}:{number}", opening, pair.key)
        assert one.roles == ("attribute", "opposite") and one.labels == tuple(f" {word}" for word in pair.words)
    assert len({one.text for one in found}) == 1 and len({one.item for one in found}) == len(found)


def test_pairs_openings_and_request_may_be_ones_own():
    pair = WordPair("height", "Height", "age.young", ("tall", "short"))
    [one] = pair_questions([pair], ["They are"], "Who are they?")
    assert (one.text, one.opening, one.labels) == ("Who are they?", "They are", (" tall", " short"))
    assert one.group == "height"


def test_a_file_of_ones_own_is_read(tmp_path):
    path = written(tmp_path, "openings: [So]\npairs: {h: {title: H, element: age.young, words: [tall, short]}}\n")
    assert load_word_pairs(path) == (WordPair("h", "H", "age.young", ("tall", "short")),)
    assert load_openings(path) == ("So",)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "openings: [So]",
        "pairs: [a, b]",
        "pairs: {h: {title: H, words: [a, b]}}",
        "pairs: {h: {element: age.young, words: [a, b]}}",
        "pairs: {h: {title: H, element: age.young}}",
        "pairs: {h: {title: H, element: age.young, words: [a]}}",
        "pairs: {h: {title: H, element: age.young, words: [a, b, c]}}",
        "pairs: {h: 3}",
    ],
)
def test_a_file_without_whole_pairs_names_the_file_and_the_form(tmp_path, content):
    with pytest.raises(DataError, match=r"pairs.yaml: pairs: "):
        load_word_pairs(written(tmp_path, content))


@pytest.mark.parametrize("words", ["[true, yes]", "ab", "[1, 2]", "[tall, tall]", "[tall]", "['', tall]", "[a, b, c]"])
def test_words_that_are_no_two_different_texts_are_refused(tmp_path, words):
    # A text of two letters is no list of two words.
    path = written(tmp_path, f"pairs: {{h: {{title: H, element: age.young, words: {words}}}}}")
    with pytest.raises(DataError, match=r"pairs: h\.words"):
        load_word_pairs(path)


@pytest.mark.parametrize("content", ["", "pairs: {}", "openings: []", "openings: So", "openings: [So, 3]", "- So"])
def test_a_file_without_openings_names_the_file_and_the_form(tmp_path, content):
    with pytest.raises(DataError, match=r"pairs.yaml: openings: "):
        load_openings(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.yaml: no such file"):
        load_word_pairs(tmp_path / "none.yaml")
