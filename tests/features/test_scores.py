"""Scores on sparse matrices are what the obvious computation on dense ones gives, with ties, silence and all."""

import numpy as np
import pytest
from scipy.sparse import csc_array
from scipy.stats import rankdata
from sklearn.metrics import f1_score, mutual_info_score, roc_auc_score

from personalib.features.scores import CRITERIA, auroc, bootstrap_auroc, midranks, rank_auroc, score_features

TEXTS, FEATURES, CLASSES = 40, 16, 3
SILENT, CONSTANT, EVERYWHERE, ONCE, PERFECT = range(5)


def made(seed, dtype=np.float64):
    """Random features of texts, most of them zero, with many ties; and three classes with texts of none beside them."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.resize(range(CLASSES + 1), TEXTS))
    members = codes[:, None] == np.arange(CLASSES)
    density = rng.uniform(0.05, 0.9, FEATURES)
    dense = (rng.integers(1, 6, (TEXTS, FEATURES)) / 4 * (rng.random((TEXTS, FEATURES)) < density)).astype(dtype)
    dense[:, SILENT] = 0
    dense[:, CONSTANT] = 0.75
    dense[:, EVERYWHERE] = rng.uniform(1, 2, TEXTS)
    dense[:, ONCE] = 0
    dense[5, ONCE] = 1.5
    dense[:, PERFECT] = np.where(members[:, 0], rng.uniform(1, 2, TEXTS), 0)
    return dense, csc_array(dense), members


SEEDS = pytest.mark.parametrize("seed", range(4))
PLACES = [(number, feature) for number in range(CLASSES) for feature in range(FEATURES)]


@SEEDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_area_is_that_of_scikit_learn(seed, dtype):
    dense, pooled, members = made(seed, dtype)
    expected = [[roc_auc_score(own, column) for column in dense.T] for own in members.T]
    np.testing.assert_allclose(auroc(pooled, members), expected, atol=1e-12)
    np.testing.assert_array_equal(auroc(pooled, members), score_features(pooled, members).auroc)
    assert auroc(pooled, members)[0, [SILENT, CONSTANT, PERFECT]].tolist() == [0.5, 0.5, 1]


@SEEDS
def test_differences_are_those_of_dense_means_and_maxima(seed):
    dense, pooled, members = made(seed)
    found = score_features(pooled, members)
    for number, own in enumerate(members.T):
        expected = dense[own].mean(0) - dense[~own].mean(0)
        np.testing.assert_allclose(found.mean_difference[number], expected, atol=1e-12)
        np.testing.assert_array_equal(found.max_difference[number], dense[own].max(0) - dense[~own].max(0))


@pytest.mark.parametrize("seed", range(2))
def test_the_best_f1_is_the_best_over_all_thresholds(seed):
    dense, pooled, members = made(seed)
    found = score_features(pooled, members)
    for number, feature in PLACES[::3]:
        own, column = members[:, number], dense[:, feature]
        by_threshold = {limit: f1_score(own, column >= limit) for limit in np.unique(column[column > 0])}
        best = max(by_threshold.values(), default=0)
        assert found.f1[number, feature] == pytest.approx(best, abs=1e-12)
        limit = found.threshold[number, feature]
        if by_threshold:
            assert by_threshold[limit] == pytest.approx(best, abs=1e-12), "a value that occurs, and none is better"
        else:
            assert limit == np.inf, "what is silent never says yes"


@SEEDS
def test_mutual_information_is_that_of_firing_and_label(seed):
    dense, pooled, members = made(seed)
    found = score_features(pooled, members).mutual_information
    for number, feature in PLACES:
        expected = mutual_info_score(members[:, number], dense[:, feature] > 0) / np.log(2)
        assert found[number, feature] == pytest.approx(expected, abs=1e-12)
    assert (found >= 0).all() and (found[:, [SILENT, CONSTANT, EVERYWHERE]] == 0).all()


@SEEDS
def test_ranks_are_those_of_the_dense_columns(seed):
    dense, pooled, _ = made(seed)
    ranks, silent = midranks(pooled)
    np.testing.assert_allclose(ranks.toarray() + silent, rankdata(dense, axis=0), atol=1e-12)
    assert ranks.nnz == pooled.nnz, "as sparse as they were"


def test_a_matrix_whose_entries_are_in_no_order_gives_the_same():
    dense, pooled, members = made(0)
    mixed = pooled.copy()
    for feature in range(FEATURES):
        entries = slice(mixed.indptr[feature], mixed.indptr[feature + 1])
        mixed.indices[entries], mixed.data[entries] = mixed.indices[entries][::-1], mixed.data[entries][::-1]
    mixed.has_sorted_indices = False
    np.testing.assert_array_equal(mixed.toarray(), dense)
    one, other = score_features(pooled, members), score_features(mixed, members)
    for name in (*CRITERIA, "threshold"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12)


def test_a_class_without_texts_has_no_area():
    _, pooled, members = made(0)
    members[:, 1] = False
    found = rank_auroc(*midranks(pooled), members)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()


def test_scores_go_by_the_name_of_their_criterion():
    _, pooled, members = made(0)
    found = score_features(pooled, members)
    for name in CRITERIA:
        assert found.criterion(name) is getattr(found, name)
        assert found.criterion(name).shape == (CLASSES, FEATURES) and np.isfinite(found.criterion(name)).all()
    with pytest.raises(ValueError, match="unknown criterion 'threshold'; choose one of auroc, mean_difference"):
        found.criterion("threshold")


@pytest.mark.parametrize(
    ("entry", "told", "texts", "problem"),
    [
        (0, True, TEXTS, "entries have to be above zero"),
        (-0.5, True, TEXTS, "entries have to be above zero"),
        (1, np.zeros(TEXTS), TEXTS, "a class has no text, or all of them"),
        (1, np.ones(TEXTS), TEXTS, "a class has no text, or all of them"),
        (1, True, TEXTS - 1, "40 texts with features and 39 with labels"),
    ],
    ids=["zero", "negative", "nobody", "everybody", "other texts"],
)
def test_what_cannot_be_scored_is_refused(entry, told, texts, problem):
    _, pooled, members = made(0)
    pooled.data[3] = entry
    members[:, 1] = members[:, 1] if told is True else told
    with pytest.raises(ValueError, match=problem):
        score_features(pooled, members[:texts])


# Intervals


def values(seed=0, positive=12, negative=30):
    """Values of texts of a class and of others, with ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(2, 9, positive) / 2.0, rng.integers(0, 6, negative) / 2.0


def bootstrap(positive, negative, left=None, right=None, **settings):
    left = np.arange(len(positive)) if left is None else left
    right = np.arange(len(negative)) if right is None else right
    return bootstrap_auroc(positive, negative, left, right, **settings)


@SEEDS
def test_an_interval_holds_its_estimate_which_is_the_area(seed):
    positive, negative = values(seed)
    found = bootstrap(positive, negative)
    labels = [1] * len(positive) + [0] * len(negative)
    assert found.estimate == pytest.approx(roc_auc_score(labels, np.concatenate([positive, negative])))
    assert found.low < found.estimate < found.high


def test_copies_of_a_text_are_no_further_evidence():
    """Copies of one text give the interval of that one, which is wider than that of as many different texts."""
    positive, negative = values()
    left, right = np.repeat(np.arange(12), 8), np.repeat(np.arange(30), 8)
    grouped = bootstrap(np.repeat(positive, 8), np.repeat(negative, 8), left, right)
    apart = bootstrap(np.repeat(positive, 8), np.repeat(negative, 8))
    assert grouped == pytest.approx(bootstrap(positive, negative))
    assert grouped.estimate == pytest.approx(apart.estimate)
    assert grouped.high - grouped.low > 2 * (apart.high - apart.low)


def test_what_a_group_is_called_makes_no_difference():
    positive, negative = values()
    left, right = np.arange(12) // 3, np.arange(30) // 3
    assert bootstrap(positive, negative, left, right) == bootstrap(positive, negative, left * 7 + 100, right)


def test_the_seed_gives_the_interval():
    positive, negative = values()
    one, same, other = (bootstrap(positive, negative, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert one == same != other and one.estimate == other.estimate


def test_intervals_hold_the_true_area_about_as_often_as_they_say():
    """Normal values one standard deviation apart have an area of 0.760."""
    held = []
    for seed in range(150):
        rng = np.random.default_rng([seed, 5])
        found = bootstrap(rng.normal(1, 1, 30), rng.normal(0, 1, 40), resamples=300, seed=seed)
        held.append(found.low <= 0.7602 <= found.high)
    assert 0.91 < np.mean(held) < 0.99
