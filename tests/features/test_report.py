"""The report compares the search on each SAE with its bounds, and its numbers are those of its parts."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from tiny_saes import labelled, tiny_llama, written_sae

from personalib.base.statistics import Interval
from personalib.features.discovery import Settings, discover, pool_features
from personalib.features.metrics import cross_entropy, reconstruction
from personalib.features.report import (
    HEADLINES,
    SPLITS,
    ElementActivations,
    across,
    baselines,
    faithfulness,
    found,
    read_elements,
    report,
)
from personalib.models import activations
from personalib.models.activations import Activations, capture
from personalib.models.parts import Site
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

D_MODEL, WIDTH = 64, 12
WORDS = {
    ("gender", "female"): "woman",
    ("gender", "male"): "man",
    ("age", "young"): "student",
    ("age", "older"): "older",
}
SETTINGS = Settings(shuffles=19, resamples=20)
DOCUMENTS = ["You are a woman.", "The bus is late.", "What would you do next, and where would you go?"]
FRAMES = {"train": ("You are a {}.", "I am a {}."), "held_out": ("My friends know me as a {}.",)}


def told(split):
    """Texts that tell an element by one of ten phrases; the word that tells it is in each of them."""
    ends = [f"{word} {rest}" for word in ("who walks", "who waits") for rest in ("here", "there", "now", "by", "in")]
    rows = [
        (frame.format(f"{word} {end}"), label, f"{word} {end}")
        for label, word in {**WORDS, NEUTRAL: "bus"}.items()
        for end in ends
        for frame in FRAMES[split]
    ]
    return labelled(rows)


TEXTS = {split: told(split) for split in SPLITS}


# Coordinates that only the words of some elements have, and the numbers of the elements.
APART, SHARED = [[0], [1], [2], [3]], [[0, 1], [2], [3]]


@pytest.fixture(scope="module")
def model():
    """A model with coordinates of its own for the words of each element, whose first block changes nothing."""
    language_model = tiny_llama()
    model, tokenizer = language_model.model, language_model.tokenizer
    embeddings, block = model.get_input_embeddings().weight, model.model.layers[0]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
        embeddings[:, : len(APART + SHARED)] = 0
        for coordinate, own in enumerate(APART + SHARED):
            for number in own:
                embeddings[tokenizer.convert_tokens_to_ids(f"▁{list(WORDS.values())[number]}"), coordinate] = 1
    return language_model


def reading(folder, layer, coordinates, d_model=D_MODEL):
    """An SAE whose features are some coordinates of the stream."""

    def fill(network):
        for feature, coordinate in enumerate(coordinates):
            network.W_enc[coordinate, feature] = network.W_dec[feature, coordinate] = 1

    return written_sae(folder, WIDTH, fill, d_model, f"blocks.{layer}.hook_resid_pre")


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """One SAE with a feature for each element, and one at another site with a single feature for both genders."""
    folder, count = tmp_path_factory.mktemp("saes"), len(APART)
    return [
        reading(folder / "apart", 0, range(count)),
        reading(folder / "shared", 1, range(count, count + len(SHARED))),
    ]


@pytest.fixture(scope="module")
def results(model, saes, work):
    return report(model, saes, TEXTS, DOCUMENTS, work, settings=SETTINGS)


def test_the_headlines_are_those_of_the_first_sae(results, saes):
    assert set(results) == {*HEADLINES, "any_sae", "sae", "saes", "baselines"}
    assert results["sae"] == saes[0].name and set(results["saes"]) == {each.name for each in saes}
    for key in HEADLINES:
        assert results[key] == results["saes"][saes[0].name][key]
    assert all(results["saes"][each.name]["sae"] == each.record() for each in saes)


def test_what_was_planted_is_found(results, saes):
    apart, shared = (results["saes"][each.name] for each in saes)
    names = [".".join(label) for label in WORDS]
    assert (apart["elements_found"], apart["elements_total"], apart["missed"]) == (4, 4, [])
    assert apart["features"] == {name: [number] for number, name in enumerate(names)}
    assert all(value == 1 for value in apart["auroc"].values())
    assert all(value < 0.95 for value in apart["null_auroc"].values())
    assert (shared["elements_found"], shared["missed"]) == (2, names[:2]) and shared["features"]["gender.male"] == []
    assert (apart["shared_with_opposite"], shared["shared_with_opposite"]) == (0, 0.5)
    assert (results["any_sae"]["elements_found"], results["any_sae"]["missed"]) == (4, [])


def test_faithfulness_is_measured_on_the_documents(results, model, saes, tmp_path):
    for sae in saes:
        own = results["saes"][sae.name]
        values = capture(model, DOCUMENTS, [sae.site], tmp_path / str(sae.site), tokens="all").values(sae.site)
        rebuilt, entropy = reconstruction(sae, values), cross_entropy(model, sae, DOCUMENTS)
        assert own["tokens"] == rebuilt.tokens == len(values)
        for name in ("explained_variance", "l0", "dead_fraction"):
            assert own[name] == pytest.approx(getattr(rebuilt, name), abs=1e-6)
        assert own["cross_entropy_recovered"] == pytest.approx(entropy.recovered, abs=1e-3)
        assert own["cross_entropy_recovered_from_mean"] == pytest.approx(entropy.recovered_from_mean, abs=0.05)
        assert own["cross_entropy"] == pytest.approx(entropy._asdict(), abs=1e-4)
        assert set(own["cross_entropy"]) == {"clean", "spliced", "zero", "mean"}
        assert faithfulness((rebuilt, entropy)).keys() <= own.keys()


def test_bounds_are_the_mean_and_the_least_over_elements_at_each_site(results, model, saes, tmp_path):
    read = read_elements(model, TEXTS, saes, tmp_path)
    assert set(results["baselines"]) == {"resid_pre.0", "resid_pre.1"}
    for sae in saes:
        table = baselines(read, sae.site)
        for name, own in table.groupby("baseline")["auroc"]:
            bounds = results["baselines"][str(sae.site)][name]
            assert bounds == pytest.approx({"mean": own.mean(), "min": own.min()}, abs=1e-3)


def test_a_report_is_plain_numbers(results):
    assert json.loads(json.dumps(results)) == results
    assert len(json.dumps(results)) < 20_000, "no table of all features is among them"
    assert all(own["disjoint"] == {} for own in results["saes"].values()), "all phrases of an element share its word"


def test_what_was_captured_is_not_captured_again(results, model, saes, work, monkeypatch):
    monkeypatch.setattr(activations, "_streams", lambda *_: pytest.fail("captured again"))
    again = report(model, saes, TEXTS, DOCUMENTS, work, settings=SETTINGS)
    assert {key: again[key] for key in HEADLINES} == {key: results[key] for key in HEADLINES}


# Parts


def test_across_saes_an_element_has_the_one_that_does_best_on_the_texts_of_the_search(model, saes, tmp_path):
    """One that found a specific feature goes first; the held-out texts have no say."""
    read = read_elements(model, TEXTS, saes, tmp_path)
    searches = {}
    for sae in saes:
        own = read.features(sae)
        searches[sae.name] = discover(own["train"], own["held_out"], SETTINGS)
    apart, shared = (each.name for each in saes)
    assert across(searches)["sae"].tolist() == [apart] * 4
    # neither is better for the others: the first that was named
    assert across({name: searches[name] for name in (shared, apart)})["sae"].tolist() == [apart, apart, shared, shared]
    table = across(searches)
    assert table.drop(columns="sae").equals(searches[apart].table())
    better = replace(searches[shared].findings[3], discovery={"auroc": 1.5}, auroc=Interval(0.1, 0, 1))
    searches[shared] = replace(searches[shared], findings=(*searches[shared].findings[:3], better))
    assert across(searches)["sae"].tolist() == [apart] * 3 + [shared]
    assert across(searches)["auroc"].tolist()[3] == 0.1
    unspecific = replace(better, features=())
    searches[shared] = replace(searches[shared], findings=(*searches[shared].findings[:3], unspecific))
    assert across(searches)["sae"].tolist() == [apart] * 4


def test_an_element_is_found_if_it_has_a_feature_and_the_feature_reaches_the_goal():
    table = pd.DataFrame({"auroc": [0.95, 0.949, 1.0, 0.97], "features": [[1], [2], [], [3, 4]]})
    assert found(table).tolist() == [True, False, False, True]


def test_an_sae_gets_the_features_of_both_splits(model, saes, tmp_path):
    """And ones pooled as was asked for: the last token is never the one that tells an element."""
    read = read_elements(model, TEXTS, saes, tmp_path)
    for sae in saes:
        for split, own in read.features(sae, "last").items():
            assert own.texts is TEXTS[split]
            expected = pool_features(sae, read.activations[split], "last")
            np.testing.assert_array_equal(own.pooled.toarray(), expected.toarray())
    assert read.activations["train"].sites == (Site(0, "resid_pre"), Site(1, "resid_pre"))
    own = report(model, saes[:1], TEXTS, DOCUMENTS[:1], tmp_path, settings=SETTINGS, pooling="last")
    assert own["elements_found"] == 0 and all(value == 0.5 for value in own["auroc"].values())


def test_an_sae_of_another_width_or_depth_is_one_error(model, saes, tmp_path):
    narrow = tiny_llama("narrow", hidden_size=32)
    with pytest.raises(ValueError, match=r"apart reads 64 coordinates and narrow has 32; it was trained on llama"):
        read_elements(narrow, TEXTS, saes, tmp_path)
    assert not any(tmp_path.iterdir()), "nothing was read before"
    deep = reading(tmp_path / "deep", 7, [0])
    with pytest.raises(ValueError, match=r"resid_pre\.7 is no site of this model"):
        read_elements(model, TEXTS, [deep], tmp_path / "work")


# Without an SAE

SITE = Site(2)
UP, DOWN, OBLIQUE, NOWHERE = LABELS = [("a", "up"), ("a", "down"), ("b", "oblique"), ("b", "nowhere")]
_OBLIQUE = np.where(np.random.default_rng(5).random(D_MODEL) < 0.5, -1, 1) / np.sqrt(D_MODEL)
# What one token of a text has where the text tells an element; nothing tells the last one.
TELLING = {UP: 8 * np.eye(D_MODEL)[3], DOWN: -8 * np.eye(D_MODEL)[20], OBLIQUE: 8 * _OBLIQUE}


def noisy_texts(split, each=30):
    labels = [label for label in (*LABELS, NEUTRAL) for _ in range(each)]
    texts = tuple(f"{split} {number}" for number in range(len(labels)))
    return LabelledTexts(texts, tuple(labels), texts)


def stored(texts, folder, seed):
    """Activations of two to five tokens a text, of noise and of what the text tells."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 6, len(texts.texts))
    offsets = np.cumsum([0, *lengths])
    values = rng.normal(size=(offsets[-1], D_MODEL))
    for start, length, label in zip(offsets, lengths, texts.labels, strict=False):
        values[start + rng.integers(length)] += TELLING.get(label, 0)
    folder.mkdir()
    np.save(folder / f"{SITE}.npy", values.astype(np.float32))
    return Activations(folder, offsets, (SITE,))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    train, held_out = noisy_texts("train"), noisy_texts("held_out")
    activations = {"train": stored(train, folder / "train", 0), "held_out": stored(held_out, folder / "held_out", 1)}
    return ElementActivations({"train": train, "held_out": held_out}, activations)


@pytest.fixture(scope="module")
def scores(given):
    """The scores by baseline and element."""
    table = baselines(given, SITE, directions=16)
    return table, table.set_index(["baseline", "element"])["auroc"]


def test_there_is_a_row_for_each_element_and_baseline(scores):
    table, _ = scores
    assert list(table.columns) == ["factor", "element", "baseline", "auroc"]
    assert list(zip(table["baseline"], table["factor"], table["element"], strict=True)) == [
        (name, *label) for name in ("probe", "coordinate", "random") for label in LABELS
    ]
    assert table["auroc"].between(0, 1).all()


def test_random_directions_are_below_the_probe(scores):
    random, probe = scores[1]["random"], scores[1]["probe"]
    told = ["up", "down", "oblique"]
    assert (random[told] < probe[told]).all() and random[told].mean() < probe[told].mean() - 0.05
    assert random["nowhere"] < 0.75


def test_the_probe_is_a_logistic_regression_on_means_over_tokens(given, scores):
    def means(activations):
        return np.array(
            [activations.text(SITE, number).astype(float).mean(0) for number in range(len(activations.offsets) - 1)]
        )

    (train, held_out), (activations, later) = given.texts.values(), given.activations.values()
    scaler = StandardScaler().fit(means(activations))
    for label in LABELS:
        own, other = ([each == label for each in texts.labels] for texts in (train, held_out))
        fitted = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        fitted.fit(scaler.transform(means(activations)), own)
        expected = roc_auc_score(other, fitted.decision_function(scaler.transform(means(later))))
        assert scores[1]["probe", label[1]] == pytest.approx(expected)


def test_a_coordinate_is_chosen_on_the_texts_of_the_search_and_scored_on_the_others(given, scores):
    def most(activations, sign):
        texts = range(len(activations.offsets) - 1)
        return np.array([(sign * activations.text(SITE, number)).max(0) for number in texts])

    (train, held_out), (activations, later) = given.texts.values(), given.activations.values()
    before, after = (np.hstack([most(each, 1), most(each, -1)]) for each in (activations, later))
    for label in (DOWN, OBLIQUE):
        own, other = ([each == label for each in texts.labels] for texts in (train, held_out))
        chosen = int(np.argmax([roc_auc_score(own, column) for column in before.T]))
        assert scores[1]["coordinate", label[1]] == pytest.approx(roc_auc_score(other, after[:, chosen]))
        assert (chosen == D_MODEL + 20) == (label == DOWN)


def test_some_of_the_texts_that_were_read_may_count_alone(given):
    some = {split: own.of_phrases(own.texts[:75]) for split, own in given.texts.items()}
    table = baselines(given, SITE, directions=16, texts=some).set_index(["baseline", "element"])["auroc"]
    assert list(table["probe"].index) == ["up", "down", "oblique"]
    rows = [given.texts["held_out"].texts.index(text) for text in some["held_out"].texts]
    most = [given.activations["held_out"].text(SITE, row)[:, 3].max() for row in rows]
    assert table["coordinate", "up"] == pytest.approx(roc_auc_score([row < 30 for row in rows], most)), "UP is first"


def test_the_seed_gives_the_random_directions_and_nothing_else(given, scores):
    again, other = (baselines(given, SITE, directions=16, seed=seed) for seed in (0, 1))
    assert again.equals(scores[0])
    same = other["auroc"] == scores[0]["auroc"]
    assert same[other["baseline"] != "random"].all() and not same[other["baseline"] == "random"].all()


def test_more_directions_come_nearer(given):
    few, many = (
        baselines(given, SITE, directions=count).set_index(["baseline", "element"])["auroc"]["random"]
        for count in (2, 2000)
    )
    assert many[["up", "down", "oblique"]].mean() > few[["up", "down", "oblique"]].mean() + 0.1
