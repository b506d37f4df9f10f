"""Labels say which words a feature fires on, in which texts, and what it writes to the output."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_saes import fire_on, worded, written_sae
from transformers import MptConfig, MptForCausalLM

from personalib.features import labels as feature_labels
from personalib.features.labels import label_features, logit_lens, token_activations, word_firings
from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

FEMALE, IDLE = ("gender", "female"), ("work", "idle")
TEXTS = LabelledTexts(
    (
        "You are a woman.",
        "I am a widowed mother, and a woman.",
        "My mother says that I am a woman.",
        "I am idle.",
        "You don't work, don't you?",
        "The bus is late.",
        "A widowed man waits in the café.",
    ),
    (FEMALE, FEMALE, FEMALE, IDLE, IDLE, NEUTRAL, NEUTRAL),
    tuple("abcdefg"),
)
WIDTH, D_MODEL = 8, 64
WOMEN, PART, MARKS, SILENT, YOU, MIXED = range(6)
# Tokens that features fire on, and how strongly; " widowed" and "don't" are several tokens each.
TOKENS = {WOMEN: {"▁woman": 1.0, "▁mother": 0.5}, PART: {"ow": 1.0}, MARKS: {".": 1.0, "'": 1.0}, YOU: {"You": 1.0}}


def small(name):
    """A random model; its norms scale and shift every coordinate by another number."""
    made = worded(name, hidden_size=D_MODEL)
    with torch.no_grad():
        for key, value in made.model.named_parameters():
            if "norm" in key or "ln_" in key:
                value.add_(0.3 * torch.randn(value.shape))
    return made


@pytest.fixture(scope="module")
def model():
    return small("llama")


def word_sae(language_model, folder, **metadata):
    """An SAE before the first block, where the stream is a token's own embedding; it fires on the chosen tokens."""

    def fill(network):
        network.W_dec.normal_(generator=torch.Generator().manual_seed(1))
        network.W_enc[:, MIXED].normal_(generator=torch.Generator().manual_seed(2))
        fire_on(language_model, TOKENS)(network)

    return written_sae(folder, WIDTH, fill, **metadata)


@pytest.fixture(scope="module")
def sae(model, tmp_path_factory):
    return word_sae(model, tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def activations(model, sae, tmp_path_factory):
    return capture(model, TEXTS.texts, [sae.site], tmp_path_factory.mktemp("activations"), tokens="all")


@pytest.fixture(scope="module")
def labels(model, sae, activations):
    return label_features(model, sae, range(WIDTH), TEXTS, activations)


# Words


def test_the_words_found_are_those_that_were_planted(labels):
    assert [word for word, _ in labels[WOMEN].words] == ["woman", "mother"]
    assert [word for word, _ in labels[PART].words] == ["widowed"], "all of the word that a token is part of"
    assert {word for word, _ in labels[MARKS].words} == {".", "don't"}
    assert [word for word, _ in labels[YOU].words] == ["you"]
    assert labels[SILENT].words == labels[SILENT].tells == ()


def test_each_word_has_its_mean_activation(model, sae, activations, labels):
    strengths = token_activations(sae, activations, [WOMEN])[:, 0]
    tokens = [
        token
        for text in TEXTS.texts
        for token in model.tokenizer.convert_ids_to_tokens(model.tokenizer.encode(text)[1:])
    ]
    assert len(tokens) == len(strengths)
    for word, mean in labels[WOMEN].words:
        own = [value for token, value in zip(tokens, strengths, strict=True) if token == f"▁{word}"]
        assert mean == pytest.approx(np.mean(own)) and mean > 0.05


def test_words_are_ordered_by_how_strongly_and_how_often_a_feature_fires(model, sae, activations):
    """A feature that fires at random: each word counts by its mean times the logarithm of its number and one."""
    strengths = token_activations(sae, activations, [MIXED])[:, 0]
    found = {}
    for firing in (one for each in word_firings(model, TEXTS.texts, strengths, activations.offsets) for one in each):
        found.setdefault(firing.word.lower(), []).append(firing.activation)
    scores = {word: np.mean(values) * np.log(1 + len(values)) for word, values in found.items() if max(values) > 0}
    label = label_features(model, sae, [MIXED], TEXTS, activations, words=4)[MIXED]
    assert [word for word, _ in label.words] == sorted(scores, key=scores.get, reverse=True)[:4] and len(scores) > 8


def test_all_words_of_a_text_have_the_most_of_their_tokens(model, sae, activations):
    strengths = token_activations(sae, activations, [MIXED])[:, 0]
    found = word_firings(model, TEXTS.texts, strengths, activations.offsets)
    assert len(found) == len(TEXTS.texts)
    for number, (text, words) in enumerate(zip(TEXTS.texts, found, strict=True)):
        assert [one.word for one in words] == re.findall(r"[\w']+|[^\w\s]", text)
        own = strengths[activations.offsets[number] : activations.offsets[number + 1]]
        spans = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:]
        for one in words:
            place = set(range(one.start, one.end))
            inside = [strength for strength, span in zip(own, spans, strict=True) if place & set(range(*span))]
            assert one.text == text and one.activation == pytest.approx(max(inside))
        assert max(one.activation for one in words) == pytest.approx(own.max())


def test_activations_of_tokens_are_those_of_the_sae_whatever_the_size_of_a_block(sae, activations, monkeypatch):
    expected = sae.encode(torch.from_numpy(np.array(activations.values(sae.site)))).numpy()[:, [5, 0]]
    assert (expected > 0).any(0).all()
    for block in (1, 3 * WIDTH, 2**25):
        monkeypatch.setattr(feature_labels, "_BLOCK", block)
        found = token_activations(sae, activations, [5, 0])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)


# Labels


def test_a_label_says_whose_texts_have_most_of_a_feature(sae, activations, labels):
    strengths = token_activations(sae, activations, range(WIDTH))
    for feature in (WOMEN, PART, MIXED):
        most = np.array([strengths[start:end, feature].max() for start, end in pairwise(activations.offsets)])
        means = {label: most[[own == label for own in TEXTS.labels]].mean() for label in TEXTS.classes}
        first = max(means.values())
        told = dict(labels[feature].tells)
        assert told == pytest.approx({label: mean / first for label, mean in means.items() if mean > 0})
        assert list(told.values()) == sorted(told.values(), reverse=True) and labels[feature].tells[0][1] == 1
    assert dict(labels[WOMEN].tells) == {FEMALE: 1.0} and labels[PART].tells[0][0] == NEUTRAL


def test_a_label_is_one_line(labels):
    assert labels[WOMEN].line() == "woman, mother (female 1.00)"
    assert labels[SILENT].line() == "silent"
    assert labels[PART].line() == f"widowed (neutral 1.00, female {labels[PART].tells[1][1]:.2f})"
    assert all("\n" not in label.line() for label in labels.values())


def test_a_label_is_as_long_as_was_asked_for(model, sae, activations):
    found = label_features(model, sae, [MIXED], TEXTS, activations, words=2)[MIXED]
    assert (len(found.words), len(found.tells)) == (2, 2)
    assert len(found.promoted) == len(found.suppressed) == 5


def test_each_feature_is_labelled_once_and_none_is_no_error(model, sae, activations, labels):
    found = label_features(model, sae, [YOU, WOMEN, YOU], TEXTS, activations)
    assert found == {YOU: labels[YOU], WOMEN: labels[WOMEN]} and list(found) == [YOU, WOMEN]
    assert label_features(model, sae, [], TEXTS, activations) == {}


def test_a_feature_has_an_address_where_its_sae_has_one(model, activations, labels, tmp_path):
    assert labels[WOMEN].address is None
    known = word_sae(model, tmp_path, neuronpedia_id="tiny-llama/0-res")
    found = label_features(model, known, [WOMEN, YOU], TEXTS, activations)
    assert found[WOMEN].address == "https://www.neuronpedia.org/tiny-llama/0-res/0"
    assert found[YOU].address == "https://www.neuronpedia.org/tiny-llama/0-res/4"


# The output


def by_hand(model, directions):
    """What directions write to the output through the last norm, in plain arithmetic."""
    x = directions.double().numpy()
    head = model.get_output_embeddings().weight.detach().double().numpy()
    names = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    if type(model).__name__.startswith("GPT"):  # the bias of the norm is the same whatever the direction
        places = ("transformer.ln_f.weight", "gpt_neox.final_layer_norm.weight")
        weight = next(names[key] for key in places if key in names)
        centred = x - x.mean(1, keepdims=True)
        return (centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5) * weight) @ head.T
    size = np.sqrt((x**2).mean(1, keepdims=True) + 1e-6)
    shift = 1 if type(model).__name__.startswith("Gemma2") else 0
    return (x / size * (shift + names["model.norm.weight"])) @ head.T


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2", "gpt-neox"])
def test_the_logit_lens_is_the_last_norm_and_the_output_by_hand(name):
    own = small(name)
    directions = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    found = logit_lens(own, directions)
    assert found.shape == (3, 5000) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_hand(own.model, directions), atol=1e-4)
    torch.testing.assert_close(logit_lens(own, 7 * directions), found, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logit_lens(own, directions[1:2]), found[1:2])


def test_promoted_and_suppressed_tokens_are_the_ends_of_the_logit_lens(model, sae, labels):
    for feature in (WOMEN, SILENT):
        logits = by_hand(model.model, sae.directions[[feature]])[0]
        order = [model.tokenizer.decode([token]) for token in np.argsort(-logits)]
        assert labels[feature].promoted == tuple(order[:5])
        assert labels[feature].suppressed == tuple(order[:-6:-1])


def test_a_norm_in_no_usual_place_is_found():
    model = MptForCausalLM(MptConfig(d_model=D_MODEL, n_heads=2, n_layers=1, vocab_size=50)).eval()
    directions, norm = torch.eye(D_MODEL)[:3], model.transformer.norm_f
    with torch.inference_mode():
        wanted = model.lm_head(norm(directions)) - model.lm_head(norm(torch.zeros(1, D_MODEL)))
    torch.testing.assert_close(logit_lens(LanguageModel("mpt", model, None), directions), wanted)
