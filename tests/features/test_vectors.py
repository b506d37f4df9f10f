"""Features become vectors of the decoder's own rows, and contrasts' sentences become texts to search them with."""

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from small_models import small_sae
from tiny_saes import labelled, written_sae

from personalib.features.discovery import FeatureTexts, Settings, discover
from personalib.features.saes import DEFAULT_SAE, load_sae
from personalib.features.vectors import feature_vector, pole_vector, prompt_features, sparse_reconstruction
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import contrast_set, contrasts
from personalib.stimuli.sentences import NEUTRAL
from personalib.vectors.contrast import PairActivations, read_pairs

SETTINGS = Settings(shuffles=19, resamples=2)
LABELS = [("trust", "positive"), ("trust", "negative"), ("activity", "positive"), ("activity", "negative")]


@pytest.fixture(scope="module")
def sae():
    return load_sae(sae_id=DEFAULT_SAE)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """An SAE of a narrower model."""
    about = {"hook": "blocks.1.hook_resid_post", "model_name": "narrow"}
    return written_sae(tmp_path_factory.mktemp("other"), 24, d_model=8, **about)


# Features as vectors


@pytest.mark.parametrize("features", [[0], [17, 406], [1023, 5, 300]])
def test_a_vector_is_the_sum_of_its_rows_of_the_decoder_to_the_last_bit(features, sae, organism):
    made = feature_vector(sae, features, organism, "some")
    assert torch.equal(made.direction, sae.network.W_dec[features].sum(0))
    assert made.direction.dtype == torch.float32 and made.norm > 0


def test_a_vector_says_what_it_was_made_of(sae, organism):
    made = feature_vector(sae, [17, 406], organism, "gender.female")
    assert made.method == f"sae_features organism/{DEFAULT_SAE} 17, 406" and made.name == "gender.female"
    assert (made.site, made.model, made.revision) == (sae.site, "organism", organism.digest())
    assert made.texts == ""


def test_a_vector_of_a_released_model_names_its_commit(sae, organism):
    released = type(organism)(organism.name, organism.model, organism.tokenizer, "0123abc")
    assert feature_vector(sae, [0], released, "one").revision == "0123abc"


@pytest.mark.parametrize("features", [[], [1024], [3, -1], [-1024]])
def test_an_unknown_feature_is_refused(features, sae, organism):
    with pytest.raises(ValueError, match=rf"few: features .*; organism/{DEFAULT_SAE} has features 0 to 1023"):
        feature_vector(sae, features, organism, "few")


def test_an_sae_of_another_model_is_refused(other, organism):
    with pytest.raises(ValueError, match="reads 8 coordinates and organism has 128; it was trained on narrow"):
        feature_vector(other, [0], organism, "one")


# Features of prompts


def read_at(site, positive, negative):
    """Activations of pairs that nobody read."""
    return PairActivations("made", (), {site: positive}, {site: negative}, "toy", "1", "last", "")


@pytest.fixture(scope="module")
def trust(organism, sae, tmp_path_factory):
    """Pairs about trust, read where their prompts end."""
    [one] = [each for each in contrasts("pressures") if each.key == "trust"]
    pairs = contrast_set(one, 24, seed=0)
    return one, pairs, read_pairs(organism, one, pairs, [sae.site, Site(3)], tmp_path_factory.mktemp("trust"))


@pytest.mark.parametrize("seed", range(4))
def test_features_of_prompts_are_those_whose_mean_differs_most_by_hand(seed):
    """Of an SAE whose features are written out; each side has as many texts as it has."""
    one = small_sae(Site(1), seed)
    rng = np.random.default_rng(seed)
    positive, negative = (rng.normal(size=(count, 24)).astype(np.float32) for count in (6, 9))
    w_enc, b_enc, b_dec = (getattr(one.network, name).numpy() for name in ("W_enc", "b_enc", "b_dec"))
    means = [np.maximum((rows - b_dec) @ w_enc + b_enc, 0).mean(0) for rows in (positive, negative)]
    difference = means[0] - means[1]
    found = prompt_features(one, read_at(Site(1), positive, negative), 48)
    # Features that never fire differ in nothing, and come in any order.
    np.testing.assert_allclose(difference[found], np.sort(difference)[::-1], rtol=0, atol=1e-5)
    assert sorted(found) == list(range(48)) and found[:5] == np.argsort(-difference)[:5].tolist()
    assert difference[found[0]] > 0.5 > -0.5 > difference[found[-1]]
    assert prompt_features(one, read_at(Site(1), positive, negative)) == found[:1]
    back = prompt_features(one, read_at(Site(1), negative, positive), 48)
    assert back[0] == found[-1] and difference[back[0]] == difference.min()


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_so_many_features_there_are_not(count, sae, trust):
    problem = rf"count={count}; organism/{DEFAULT_SAE} has 1024 features, take 1 to as many"
    with pytest.raises(ValueError, match=problem):
        prompt_features(sae, trust[2], count)


# Poles


def planted(fires, width=1024, density=0.05):
    """A search of texts in which features fire for some labels, more strongly than other features do at random."""
    rows = [(f"{label} {phrase}", label, f"{label} {phrase}") for label in [*LABELS, NEUTRAL] for phrase in range(8)]
    texts = labelled(rows)
    parts = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        dense = rng.uniform(0.1, 0.3, (len(rows), width)) * (rng.random((len(rows), width)) < density)
        for feature, labels in fires.items():
            dense[:, feature] = [float(label in labels) for label in texts.labels]
        parts.append(FeatureTexts(texts, csc_array(dense)))
    return discover(*parts, SETTINGS)


@pytest.fixture(scope="module")
def one_each():
    """The first label has feature 5, the second 35, and so on."""
    return planted({30 * number + 5: [label] for number, label in enumerate(LABELS)})


@pytest.mark.parametrize(
    ("positive", "negative", "features"),
    [(LABELS[0], LABELS[1], (5, 35)), (LABELS[1], LABELS[0], (35, 5)), (LABELS[3], LABELS[0], (95, 5))],
)
def test_between_two_labels_is_the_best_feature_of_one_minus_that_of_the_other(
    positive, negative, features, one_each, sae, organism
):
    made = pole_vector(one_each, sae, organism, positive, [negative])
    decoder = sae.network.W_dec
    assert torch.equal(made.direction, decoder[features[0]] - decoder[features[1]])
    assert (made.site, made.model, made.revision) == (sae.site, "organism", organism.digest())
    assert made.method == f"sae_features {sae.name} {features[0]}, sae_features {sae.name} {features[1]}"


def test_a_pole_vector_is_explained_by_its_features(one_each, sae, organism):
    vectors = {
        "two": pole_vector(one_each, sae, organism, LABELS[0], LABELS[1:2]),
        "four": pole_vector(one_each, sae, organism, LABELS[0], LABELS[1:]),
    }
    table = sparse_reconstruction(vectors, sae, (2, 4)).set_index(["name", "features"])
    assert table.loc[("two", 2), "explained"] == pytest.approx(1)
    assert table.loc[("four", 4), "explained"] == pytest.approx(1)
    assert set(table.loc[("two", 2), "chosen"]) == {5, 35}
    assert set(table.loc[("four", 4), "chosen"]) == {5, 35, 65, 95} and table.loc[("four", 4), "chosen"][0] == 5


def test_the_best_feature_is_taken_where_none_was_specific(sae, organism):
    """One that fires for both of two labels stands for neither, and is the best there is."""
    found = planted({5: [LABELS[0], LABELS[2]], 35: [LABELS[1]], 95: [LABELS[3]]})
    assert found.findings[0].features == () and found.findings[1].features == (35,)
    made = pole_vector(found, sae, organism, LABELS[0], [LABELS[1]])
    assert torch.equal(made.direction, sae.network.W_dec[5] - sae.network.W_dec[35])


UNKNOWN = ("trust", "up")


@pytest.mark.parametrize("labels", [(UNKNOWN, LABELS[:1]), (LABELS[0], [UNKNOWN]), (LABELS[0], [LABELS[1], UNKNOWN])])
def test_an_unknown_label_is_refused_with_those_that_there_are(labels, one_each, sae, organism):
    known = r"trust\.positive, trust\.negative, activity\.positive, activity\.negative"
    with pytest.raises(ValueError, match=rf"the search knows no trust\.up; it has {known}"):
        pole_vector(one_each, sae, organism, *labels)


def test_there_has_to_be_a_negative_label(one_each, sae, organism):
    with pytest.raises(ValueError, match="the search knows no negative label; it has trust"):
        pole_vector(one_each, sae, organism, LABELS[0], [])


@pytest.mark.parametrize("second", [2, 6, 9])
def test_a_negative_label_with_the_same_best_feature_gets_its_second(second, sae, organism):
    """Whether the second stands before or behind the best."""
    found = planted({5: LABELS[:2], second: LABELS[1:]}, density=0)
    assert found.scores.auroc.argmax(1)[:2].tolist() == [5, 5]
    decoder = sae.network.W_dec
    made = pole_vector(found, sae, organism, LABELS[0], [LABELS[1]])
    assert torch.equal(made.direction, decoder[5] - decoder[second])
    back = pole_vector(found, sae, organism, LABELS[2], [LABELS[0]])
    assert torch.equal(back.direction, decoder[second] - decoder[5]), "those that differ keep their best"


def test_a_label_that_shares_its_best_feature_keeps_company_with_those_that_do_not(sae, organism):
    found = planted({5: LABELS[:2], 40: LABELS[1:3], 41: LABELS[1:], 700: [LABELS[2]], 801: [LABELS[3]]}, density=0)
    made = pole_vector(found, sae, organism, LABELS[0], LABELS[1:])
    expected = sae.network.W_dec[5] - sae.network.W_dec[[40, 700, 801]].mean(0)
    np.testing.assert_allclose(made.direction, expected, atol=1e-6)


def test_features_of_the_other_pole_are_those_that_it_has_more_of(trust, sae):
    reading = trust[2]
    positive, negative = (sae.encode(torch.from_numpy(each)).mean(0) for each in reading.at(sae.site))
    assert prompt_features(sae, reading, 3, pole="negative") == (negative - positive).topk(3).indices.tolist()


def test_the_feature_that_tells_the_poles_best_apart_is_found_by_auroc_and_the_louder_where_several_do(trust, sae):
    reading = trust[2]
    positive, negative = (sae.encode(torch.from_numpy(each)).numpy() for each in reading.at(sae.site))
    wins = [
        (p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean() for p, n in zip(positive.T, negative.T, strict=True)
    ]
    loud = positive.mean(0) - negative.mean(0)
    best = max(range(sae.width), key=lambda feature: (round(wins[feature], 9), loud[feature]))
    assert prompt_features(sae, reading, criterion="auroc") == [best]


@pytest.mark.parametrize("how", [{"pole": "middle"}, {"criterion": "beauty"}])
def test_an_unknown_pole_or_criterion_is_refused(trust, sae, how):
    with pytest.raises(ValueError, match=f"unknown {next(iter(how))} .*; choose one of"):
        prompt_features(sae, trust[2], **how)
