"""What is read on contrast pairs is the model's own residual stream at the token that was asked for."""

import numpy as np
import pytest
import torch
from tiny_saes import worded

from personalib.base.data import data_dir
from personalib.models import activations
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.organism.tokenizer import load_tokenizer
from personalib.stimuli.contrast_pairs import FAMILIES, SPLITS, contrast_set, contrasts
from personalib.vectors.contrast import all_sites, fit_vector, prompts, read_contrasts, read_pairs, spread
from personalib.vectors.methods import METHODS, direction
from personalib.vectors.readings import accuracy, fit_reader
from personalib.vectors.vector import texts_hash

TRUST = contrasts("pressures")[-1]
PAIRS = contrast_set(TRUST, 6, seed=0)
# Before the last block, where no other norm has been at work on what transformers calls a hidden state.
SITES = [Site(1), Site(0, "resid_pre"), Site(0), Site(2, "resid_pre")]
COUNT = 5


@pytest.fixture(scope="module")
def model():
    return worded("gemma2")


def written(sentence, question, form="chat"):
    if form == "base":
        return f"<bos>{sentence}\n{question}\nAnswer:\n"
    return f"<bos><start_of_turn>user\n{sentence}\n{question}<end_of_turn>\n<start_of_turn>model\n"


def tokens(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.inference_mode()
def plain(language_model, text, site):
    """The residual stream of every token by the model alone, from its own output."""
    ids = torch.tensor([tokens(language_model, text)])
    states = language_model.model(ids, output_hidden_states=True).hidden_states
    return states[site.layer + (site.stream == "resid_post")][0].numpy()


def poles(found, site):
    """For each pair and pole its sentence, its question, and what was read."""
    for number, pair in enumerate(found.pairs):
        yield pair.positive.text, pair.question, found.positive[site][number]
        yield pair.negative.text, pair.question, found.negative[site][number]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Prompts


@pytest.mark.parametrize("form", ["chat", "base"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_prompts_differ_in_the_sentence_alone(family, form, model):
    for pair in contrast_set(contrasts(family)[0], 20, seed=2):
        texts, spans = prompts(model, pair, form)
        sentences = [pair.positive.text, pair.negative.text]
        assert [text[start:end] for text, (start, end) in zip(texts, spans, strict=True)] == sentences
        assert texts[0] != texts[1] and texts[0].replace(sentences[0], "") == texts[1].replace(sentences[1], "")
        expected = [written(each, pair.question, form) for each in sentences]
        # In plain text the tokenizer itself adds the first token.
        assert [text if form == "chat" else "<bos>" + text for text in texts] == expected


def test_a_model_without_a_chat_template_is_asked_in_plain_text(model, tmp_path):
    tokenizer = load_tokenizer(data_dir() / "organism")
    tokenizer.chat_template = None
    base = LanguageModel("base", model.model, tokenizer)
    with pytest.raises(ValueError, match="has no chat template; use form='base' with a base model"):
        read_pairs(base, TRUST, PAIRS, SITES, tmp_path)
    found = read_pairs(base, TRUST, PAIRS, SITES, tmp_path, form="base")
    expected = plain(model, written(PAIRS[0].positive.text, PAIRS[0].question, "base"), Site(1))[-1]
    np.testing.assert_allclose(found.positive[Site(1)][0], expected, atol=1e-5)


# What is read


@pytest.mark.parametrize("form", ["chat", "base"])
def test_the_last_token_is_read_as_the_model_alone_has_it(form, model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS, SITES, tmp_path, form=form)
    assert found.sites == tuple(sorted(SITES)) and found.positive.keys() == found.negative.keys() == set(SITES)
    for site in SITES:
        assert found.positive[site].shape == found.negative[site].shape == (len(PAIRS), 24)
        for sentence, question, own in poles(found, site):
            np.testing.assert_allclose(own, plain(model, written(sentence, question, form), site)[-1], atol=1e-5)


def test_what_the_last_block_leaves_is_what_the_models_norm_takes(model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS[:2], [Site(2)], tmp_path)
    for sentence, question, own in poles(found, Site(2)):
        with torch.inference_mode():
            normed = model.model.model.norm(torch.tensor(own)).numpy()
        np.testing.assert_allclose(normed, plain(model, written(sentence, question), Site(2))[-1], atol=1e-5)


@pytest.mark.parametrize("form", ["chat", "base"])
@pytest.mark.parametrize("position", ["sentence_last", "sentence_mean"])
def test_positions_in_the_sentence_are_those_of_its_own_tokens(position, form, model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS, SITES, tmp_path, position=position, form=form)
    assert found.position == position
    for site in SITES:
        for sentence, question, own in poles(found, site):
            text = written(sentence, question, form)
            before, _ = text.split(sentence)
            start, end = len(tokens(model, before)), len(tokens(model, before + sentence))
            assert "".join(map(model.tokenizer.decode, tokens(model, text)[start:end])).strip() == sentence
            rows = plain(model, text, site)[start:end]
            np.testing.assert_allclose(own, rows[-1] if position == "sentence_last" else rows.mean(0), atol=1e-5)


def test_what_was_read_says_what_it_is_of(model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS, SITES, tmp_path)
    assert (found.name, found.model, found.position) == ("pressures.trust", "gemma2", "last")
    assert found.pairs == tuple(PAIRS)
    assert found.revision == model.digest() != worded("gemma2", initializer_range=0.3).digest()
    texts = [written(each.text, pair.question) for pair in PAIRS for each in (pair.positive, pair.negative)]
    assert found.texts == texts_hash(texts)
    assert found.phrases.tolist() == [[pair.positive.phrase, pair.negative.phrase] for pair in PAIRS]
    known = LanguageModel("hub/small", model.model, model.tokenizer, revision="0a1b2c")
    assert read_pairs(known, TRUST, PAIRS, [Site(1)], tmp_path / "known").revision == "0a1b2c"


@pytest.mark.parametrize(
    ("depth", "at_most", "layers"),
    [(6, 12, range(6)), (6, 6, range(6)), (42, 3, [0, 20, 41]), (7, 1, [3]), (5, 2, [0, 4])],
)
def test_some_sites_are_spread_over_the_depth(depth, at_most, layers, model):
    assert spread([Site(layer) for layer in range(depth)], at_most) == [Site(layer) for layer in layers]
    assert all_sites(model) == [Site(0), Site(1), Site(2)], "what every block leaves"
    with pytest.raises(ValueError, match="keep at least one"):
        spread([Site(0)], 0)


# Vectors


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_is_the_direction_between_the_poles_and_says_where_it_is_from(method, model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS, SITES, tmp_path)
    vector = fit_vector(found, Site(1), method)
    expected = direction(found.positive[Site(1)], found.negative[Site(1)], method)
    np.testing.assert_allclose(vector.direction.numpy(), expected, rtol=1e-6)
    assert vector.header() == {
        "site": "resid_post.1",
        "name": "pressures.trust",
        "method": method,
        "model": "gemma2",
        "revision": model.digest(),
        "texts": found.texts,
        "norm": pytest.approx(np.linalg.norm(expected)),
    }


# Several contrasts, and again


def test_contrasts_are_read_in_both_splits(model, tmp_path):
    chosen = [TRUST, contrasts("traits")[0]]
    found = read_contrasts(model, chosen, SITES, tmp_path, count=COUNT, seed=3, position="sentence_mean", form="base")
    assert list(found) == ["trust", "openness"]
    for one in chosen:
        assert list(found[one.key]) == list(SPLITS)
        for split, own in found[one.key].items():
            assert own.name == f"{one.family}.{one.key}" and own.position == "sentence_mean"
            assert own.pairs == tuple(contrast_set(one, COUNT, 3, split))
            assert (tmp_path / one.family / one.key / split / "activations.json").exists()
            alone = read_pairs(model, one, own.pairs, SITES, tmp_path / "1", position="sentence_mean", form="base")
            for site in SITES:
                np.testing.assert_array_equal(own.positive[site], alone.positive[site])
                np.testing.assert_array_equal(own.negative[site], alone.negative[site])


def test_the_same_again_is_taken_from_disk_and_other_pairs_are_not(model, tmp_path, monkeypatch):
    def read(**changes):
        halves = read_contrasts(model, [TRUST], [Site(1)], tmp_path, count=COUNT, **changes)["trust"]
        return np.stack([halves[split].positive[Site(1)] for split in SPLITS])

    found, before = read(), files(tmp_path)
    monkeypatch.setattr(activations, "_streams", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(read(), found)
    monkeypatch.undo()
    assert files(tmp_path) == before
    for change in ({"seed": 1}, {"form": "base"}, {"position": "sentence_last"}):
        assert not np.array_equal(read(**change), found)
    np.testing.assert_array_equal(read(), found)


def test_the_organism_knows_trust_from_distrust_in_words_that_are_new_to_it(organism, tmp_path):
    found = read_contrasts(organism, [TRUST], [Site(3)], tmp_path, count=24, position="sentence_mean")["trust"]
    read = accuracy(fit_reader(found["train"], Site(3)), found["held_out"])
    assert read.texts.low > 0.7 and read.pairs > 0.9 and read.brier < 0.1


# What is refused


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"position": "first"}, "unknown position 'first'; choose one of last, sentence_last, sentence_mean"),
        ({"sites": [Site(3)]}, r"resid_post\.3 is no site of this model; it has blocks 0 to 2"),
        ({"sites": []}, "no sites or no texts"),
        ({"pairs": []}, "no sites or no texts"),
    ],
)
def test_what_cannot_be_read_is_one_error(change, problem, model, tmp_path):
    settings = {"pairs": PAIRS, "sites": SITES} | change
    with pytest.raises(ValueError, match=problem):
        read_pairs(model, TRUST, folder=tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_a_site_that_was_not_read_is_named(model, tmp_path):
    found = read_pairs(model, TRUST, PAIRS, [Site(1), Site(0)], tmp_path)
    with pytest.raises(KeyError, match=r"nothing was read at resid_post\.2, only at resid_post\.0, resid_post\.1"):
        fit_vector(found, Site(2))
