"""Planted features are found, decoys are not, chance finds nothing, and pooling is what a dense computation gives."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from sklearn.metrics import roc_auc_score
from small_models import other_sae, small_sae
from tiny_saes import labelled

from personalib.features import discovery as features
from personalib.features.discovery import (
    FeatureTexts,
    Settings,
    confusion,
    discover,
    disjoint,
    name,
    pool_features,
    superposition,
)
from personalib.features.scores import CRITERIA
from personalib.models.activations import Activations
from personalib.models.parts import Site
from personalib.stimuli.grammar import content_words
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts, element_texts

LABELS = [("age", "young"), ("age", "older"), ("gender", "female"), ("gender", "male"), ("gender", "other")]
EVERYTHING = [*LABELS, NEUTRAL]
PHRASES, WIDTH = 8, 40
SETTINGS = Settings(shuffles=19, resamples=50)


def told(split, labels=EVERYTHING, phrases=PHRASES, repeats=3):
    """Texts of some phrases each, every phrase in several sentences."""
    rows = [
        (f"{split} {label[1]} {phrase} {number}", label, f"{label[1]} {phrase}")
        for label in labels
        for phrase in range(phrases)
        for number in range(repeats)
    ]
    return labelled(rows)


def noise(texts, seed, width=WIDTH, density=0.1):
    """Features that fire at random."""
    rng = np.random.default_rng(seed)
    shape = len(texts.texts), width
    return rng.uniform(0.5, 1.5, shape) * (rng.random(shape) < density)


def mask(texts, *labels):
    return np.array([label in labels for label in texts.labels])


def phrase_numbers(texts):
    return np.array([int(phrase.split()[-1]) for phrase in texts.phrases])


def fire(column, where, seed, miss=0.0, strength=1.0):
    """Lets a feature fire on some texts, but for a few of them."""
    rng = np.random.default_rng(seed)
    fires = where & (rng.random(len(where)) >= miss)
    column[fires] = strength * rng.uniform(1, 2, fires.sum())


def both(plant, labels=EVERYTHING, seed=0, phrases=PHRASES, width=WIDTH, density=0.1):
    """The two sets of texts, of noise with what is planted: ``plant(texts, dense, seed)``."""
    found = []
    for number, (split, repeats) in enumerate((("train", 3), ("held_out", 2))):
        texts = told(split, labels, phrases, repeats)
        dense = noise(texts, [seed, number], width, density)
        plant(texts, dense, [seed, number, 1])
        found.append(FeatureTexts(texts, csc_array(dense)))
    return found


def one_each(texts, dense, seed, miss=0.04):
    """Feature 10 stands for the first element, 11 for the second, and so on."""
    for number, label in enumerate(LABELS):
        fire(dense[:, 10 + number], mask(texts, label), [*seed, number], miss)


def by_label(found):
    return {finding.label: finding for finding in found.findings}


@pytest.fixture(scope="module")
def planted():
    train, held_out = both(one_each)
    return train, held_out, discover(train, held_out, SETTINGS)


# What is found


def test_planted_features_are_found_with_their_score_on_held_out_texts(planted):
    _, held_out, found = planted
    assert [finding.label for finding in found.findings] == LABELS
    for number, finding in enumerate(found.findings):
        assert finding.features == (10 + number,)
        own, column = mask(held_out.texts, finding.label), held_out.column([10 + number])
        assert finding.auroc.estimate == pytest.approx(roc_auc_score(own, column)) and finding.auroc.estimate > 0.85
        assert finding.auroc.low <= finding.auroc.estimate <= finding.auroc.high
        assert finding.together == finding.auroc
        assert finding.p == 1 / 20 and finding.null < finding.auroc.estimate


def test_scores_of_the_search_are_those_of_its_own_texts(planted):
    train, _, found = planted
    for number, finding in enumerate(found.findings):
        own, column = mask(train.texts, finding.label), train.column([10 + number])
        assert finding.discovery["auroc"] == pytest.approx(roc_auc_score(own, column))
        assert finding.discovery["mean_difference"] == pytest.approx(column[own].mean() - column[~own].mean())
        assert set(finding.discovery) == set(CRITERIA)
        assert finding.thresholds == (found.scores.threshold[number, 10 + number],)
        assert finding.thresholds[0] in column[own]


def test_a_finding_says_how_it_does_against_its_own_factor_and_which_label_is_hardest(planted):
    _, held_out, found = planted
    for finding in found.findings:
        column = held_out.column(finding.features)
        own = mask(held_out.texts, finding.label)
        factor = np.array([label[0] == finding.label[0] for label in held_out.texts.labels])
        assert finding.opposite == pytest.approx(roc_auc_score(own[factor], column[factor]))
        against = {
            other: roc_auc_score(own[own | mask(held_out.texts, other)], column[own | mask(held_out.texts, other)])
            for other in EVERYTHING
            if other != finding.label
        }
        assert finding.rival_auroc == pytest.approx(min(against.values())) == pytest.approx(against[finding.rival])


def test_the_table_has_a_row_for_each_element(planted):
    found = planted[2]
    table = found.table()
    assert list(zip(table["factor"], table["element"], strict=True)) == LABELS
    assert table["features"].tolist() == [[10], [11], [12], [13], [14]]
    for row, finding in zip(table.itertuples(), found.findings, strict=True):
        assert (row.auroc, row.low, row.high, row.p) == (*finding.auroc, finding.p)
        assert row.rival == (finding.rival[1] or "neutral")
    assert (table["null"] == [finding.null for finding in found.findings]).all()


def test_neutral_texts_are_a_rival_by_that_name():
    def plant(texts, dense, seed):
        one_each(texts, dense, seed)
        fire(dense[:, 10], mask(texts, NEUTRAL), seed, miss=0.7)

    first = discover(*both(plant), SETTINGS)
    assert first.findings[0].rival == NEUTRAL and first.table()["rival"][0] == "neutral"


# What is not


def without_the_first(texts, dense, seed):
    one_each(texts, dense, seed)
    dense[:, 10] = 0


@pytest.mark.parametrize("pair", [(0, 1), (0, 3)], ids=["of a factor", "of two factors"])
def test_a_feature_of_two_elements_stands_for_neither(pair):
    first, second = (LABELS[number] for number in pair)

    def plant(texts, dense, seed):
        without_the_first(texts, dense, seed)
        dense[:, 11] = 0
        fire(dense[:, 30], mask(texts, first, second), seed)

    train, held_out = both(plant)
    found = by_label(discover(train, held_out, SETTINGS))
    assert found[first].features == () and found[second].features == ((13,) if pair == (0, 3) else ())
    assert found[LABELS[2]].features == (12,)
    loose = by_label(discover(train, held_out, replace(SETTINGS, specificity=0)))[first]
    assert loose.features[0] == 30 and loose.auroc.estimate > 0.85
    assert loose.rival == second and loose.rival_auroc == pytest.approx(0.5, abs=0.2)
    assert loose.opposite == pytest.approx(0.5 if pair == (0, 1) else 1, abs=0.2)


def test_a_feature_of_one_phrase_does_not_stand_for_the_element():
    def plant(texts, dense, seed):
        without_the_first(texts, dense, seed)
        fire(dense[:, 30], mask(texts, LABELS[0]) & (phrase_numbers(texts) == 3), seed, strength=20)

    for criterion in CRITERIA:
        found = discover(*both(plant), replace(SETTINGS, criterion=criterion))
        assert by_label(found)[LABELS[0]].features == (), criterion
        assert by_label(found)[LABELS[1]].features == (11,), criterion


def test_the_better_of_two_features_is_taken_and_one_that_adds_nothing_is_left_out():
    def plant(texts, dense, seed):
        without_the_first(texts, dense, seed)
        fire(dense[:, 5], mask(texts, LABELS[0]), seed, miss=0.3)
        fire(dense[:, 30], mask(texts, LABELS[0]), seed)
        dense[:, 31] = dense[:, 30] / 2

    def without_the_better(texts, dense, seed):
        plant(texts, dense, seed)
        dense[:, 30:32] = 0

    assert discover(*both(plant, density=0), SETTINGS).findings[0].features == (30,)
    assert discover(*both(without_the_better, density=0), SETTINGS).findings[0].features == (5,)


def split_in_two(texts, dense, seed):
    """The first element has two features, each for some of its phrases."""
    without_the_first(texts, dense, seed)
    fire(dense[:, 20], mask(texts, LABELS[0]) & (phrase_numbers(texts) < 6), [*seed, 8])
    fire(dense[:, 21], mask(texts, LABELS[0]) & (phrase_numbers(texts) > 2), [*seed, 9])


def test_an_element_that_is_split_over_two_features_gets_both():
    train, held_out = both(split_in_two)
    found = discover(train, held_out, SETTINGS).findings[0]
    assert set(found.features) == {20, 21} and len(found.thresholds) == 2
    own = mask(held_out.texts, LABELS[0])
    assert found.together.estimate == pytest.approx(roc_auc_score(own, held_out.column([20, 21])))
    assert found.auroc.estimate == pytest.approx(roc_auc_score(own, held_out.column(found.features[:1])))
    assert found.together.low > found.auroc.estimate
    alone = discover(train, held_out, replace(SETTINGS, max_features=1)).findings[0]
    assert alone.features == found.features[:1] and alone.auroc == alone.together == found.auroc
    strict = discover(train, held_out, replace(SETTINGS, gain=0.3)).findings[0]
    assert strict.features == found.features[:1]


def test_each_further_feature_is_the_one_that_adds_most_to_those_before():
    def plant(texts, dense, seed):
        without_the_first(texts, dense, seed)
        for feature, phrases in ((20, (0, 1, 2, 3)), (21, (1, 2, 3)), (22, (3, 4, 5)), (23, (5, 6, 7))):
            fire(dense[:, feature], mask(texts, LABELS[0]) & np.isin(phrase_numbers(texts), phrases), [*seed, feature])

    train, held_out = both(plant, density=0)
    found = discover(train, held_out, replace(SETTINGS, specificity=0.6)).findings[0]
    assert found.features == (20, 23, 22), "the first, what tells three other phrases, and what tells the one left"
    assert found.together.estimate == 1 and found.auroc.estimate == pytest.approx(0.75)


# Shared words


def test_two_searches_of_as_many_phrases_for_the_same_held_out_ones_differ_in_shared_words():
    texts = {split: element_texts(split, 30) for split in ("train", "held_out")}
    found, told = disjoint(texts), {}
    for what, own in found.items():
        for split, part in own.items():
            assert set(part.texts) < set(texts[split].texts) and part.classes == texts[split].classes
            rows = set(zip(part.labels, part.phrases, strict=True))
            told[what, split] = {(label, word) for label, phrase in rows for word in content_words(phrase)}
            told[what, split, "phrases"] = Counter(label for label, _ in rows)
    assert found["phrases"]["held_out"] == found["words"]["held_out"]
    assert told["phrases", "train", "phrases"] == told["words", "train", "phrases"]
    assert {label for label, _ in told["words", "train"] & told["words", "held_out"]} <= {NEUTRAL}
    assert len(told["phrases", "train"] & told["phrases", "held_out"]) > 50
    other = disjoint(texts, seed=1)
    assert other["words"] == found["words"] and other["phrases"] != found["phrases"] == disjoint(texts)["phrases"]
    assert disjoint({split: texts[split].of_phrases(["a woman"]) for split in texts}) == {}, "of one element"


def test_features_of_some_texts_are_theirs(planted):
    some = reordered(planted[0], [7, 3, 40])
    np.testing.assert_array_equal(planted[0].of(some.texts).pooled.toarray(), some.pooled.toarray())


# Chance


def test_random_features_are_found_about_as_seldom_as_the_level_says():
    """Not even where nothing else is asked of a feature than to be better than chance."""
    settings = replace(SETTINGS, specificity=0, resamples=2)
    found = [discover(*both(lambda *_: None, LABELS, seed, width=12), settings) for seed in range(20)]
    anything = [any(finding.features for finding in one.findings) for one in found]
    assert np.mean(anything) <= 0.15, "one in twenty, over all elements and features together"
    smallest = np.array([min(finding.p for finding in one.findings) for one in found])
    assert 0.3 < smallest.mean() < 0.7, "the p-value of the best element is spread evenly"
    for one in found:
        assert all((finding.features == ()) == (finding.p > settings.level) for finding in one.findings)


def test_texts_of_one_phrase_are_one_piece_of_evidence():
    """What only one phrase tells cannot be told from the phrase, however many sentences it stands in."""

    def plant(texts, dense, seed):
        for number, label in enumerate(EVERYTHING):
            fire(dense[:, 10 + number], mask(texts, label), [*seed, number])

    train, held_out = both(plant, phrases=1, density=0)
    many = [
        FeatureTexts(
            LabelledTexts(*(each * 5 for each in (own.texts.texts, own.texts.labels, own.texts.phrases))),
            csc_array(np.tile(own.pooled.toarray(), (5, 1))),
        )
        for own in (train, held_out)
    ]
    found = discover(*many, SETTINGS)
    for finding in found.findings:
        assert finding.discovery["auroc"] == finding.auroc.estimate == 1
        assert finding.features == () and finding.p == 1
        # phrases of both sets are dealt alike, so what a shuffled search finds holds on the others
        assert finding.null == 1
    assert (found.shuffled == 1).all()


def test_shuffling_keeps_how_often_each_label_is_given():
    train, held_out = told("train"), told("held_out", repeats=1)
    owner = dict(zip(train.phrases, train.labels, strict=True))
    deals = [features._deal(train, held_out, np.random.default_rng(seed)) for seed in range(20)]
    for dealt in deals:
        assert dealt.keys() == owner.keys() and Counter(dealt.values()) == Counter(owner.values())
    assert all(len({dealt[phrase] for dealt in deals}) > 2 for phrase in owner)


def test_there_is_one_best_score_for_each_shuffle(planted):
    train, held_out, found = planted
    assert found.shuffled.shape == (19,) and ((found.shuffled > 0.5) & (found.shuffled < 0.9)).all()
    again = discover(train, held_out, SETTINGS)
    np.testing.assert_array_equal(again.shuffled, found.shuffled)
    assert again.findings == found.findings
    other = discover(train, held_out, replace(SETTINGS, seed=1))
    assert not np.array_equal(other.shuffled, found.shuffled)


# The order and the size of things


def reordered(own, order):
    texts = own.texts
    parts = (tuple(each[place] for place in order) for each in (texts.texts, texts.labels, texts.phrases))
    return FeatureTexts(LabelledTexts(*parts), csc_array(own.pooled.tocsr()[order]))


def test_the_order_of_texts_makes_no_difference(planted):
    train, held_out, found = planted
    rng = np.random.default_rng(3)
    mixed = [reordered(own, rng.permutation(len(own.texts.texts))) for own in (train, held_out)]
    other = discover(*mixed, SETTINGS)
    assert {finding.label for finding in other.findings} == set(LABELS)
    for label, finding in by_label(other).items():
        before = by_label(found)[label]
        assert (finding.features, finding.thresholds, finding.p) == (before.features, before.thresholds, before.p)
        assert finding.auroc == pytest.approx(before.auroc) and finding.opposite == pytest.approx(before.opposite)
        assert finding.discovery == pytest.approx(before.discovery)
        assert finding.rival_auroc == pytest.approx(before.rival_auroc)


@pytest.mark.parametrize("block", [1, 64, 5 * WIDTH])
def test_the_size_of_a_block_makes_no_difference_to_a_search(block, planted, monkeypatch):
    train, held_out, found = planted
    monkeypatch.setattr(features, "_BLOCK", block)
    other = discover(train, held_out, SETTINGS)
    assert other.findings == found.findings
    np.testing.assert_array_equal(other.shuffled, found.shuffled)


# Parts


def several_for_the_first(texts, dense, seed):
    """The first element has several features, each best by another criterion."""
    one_each(texts, dense, seed)
    where = np.flatnonzero(mask(texts, LABELS[0]))
    dense[where[:2], 30] = 50  # seldom but strong
    dense[where, 31] = 3 + np.arange(len(where)) % 2  # often, and elsewhere too
    dense[mask(texts, LABELS[1]), 31] = 2.5


def test_each_criterion_has_its_own_best_candidate():
    train, held_out = both(several_for_the_first)
    found = discover(train, held_out, SETTINGS)
    assert len(found.candidates) == len(CRITERIA) * len(LABELS)
    table = found.candidates.set_index(["criterion", "factor", "element"])
    for criterion in CRITERIA:
        for number, label in enumerate(LABELS):
            row = table.loc[(criterion, *label)]
            feature = int(row["feature"])
            scores = found.scores.criterion(criterion)[number]
            assert scores[feature] == scores.max()
            assert row["discovery"] == found.scores.auroc[number, feature]
            own = mask(held_out.texts, label)
            assert row["held_out"] == pytest.approx(roc_auc_score(own, held_out.column([feature])))
    best = table["feature"].xs(LABELS[0][1], level="element")
    assert best.xs("max_difference").item() == 30 and best.xs("mean_difference").item() == 30
    assert best.xs("auroc").item() == 31 and best.xs("mutual_information").item() == 10


@pytest.mark.parametrize("criterion", CRITERIA)
def test_candidates_are_ordered_by_the_criterion(criterion):
    train, held_out = both(several_for_the_first)
    found = discover(train, held_out, replace(SETTINGS, criterion=criterion, specificity=0, max_features=1))
    for number, finding in enumerate(found.findings):
        assert finding.discovery[criterion] == found.scores.criterion(criterion)[number].max()


def test_the_only_element_of_a_factor_has_no_opposite():
    labels = [("age", "young"), ("gender", "female"), ("gender", "male")]

    def plant(texts, dense, seed):
        for number, label in enumerate(labels):
            fire(dense[:, 10 + number], mask(texts, label), [*seed, number])

    first, second, _ = discover(*both(plant, labels), SETTINGS).findings
    assert first.features == (10,) and np.isnan(first.opposite) and second.opposite > 0.9


def test_features_of_a_text_are_summed():
    train, _ = both(one_each)
    np.testing.assert_allclose(train.column([3, 12, 3]), train.pooled.toarray()[:, [3, 12, 3]].sum(1))


@pytest.mark.parametrize(
    ("train", "held_out"),
    [(EVERYTHING, LABELS), (LABELS[:3], LABELS[1:4]), (LABELS[:1], LABELS[:1]), ([LABELS[0], NEUTRAL],) * 2],
    ids=["neutral texts on one side", "other elements", "one element", "one element beside neutral texts"],
)
def test_both_sets_have_to_tell_the_same_elements(train, held_out):
    sets = [FeatureTexts(texts, csc_array(noise(texts, 0))) for texts in (told("t", train), told("h", held_out))]
    with pytest.raises(ValueError, match="the same elements, at least two of them"):
        discover(*sets, SETTINGS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"criterion": "accuracy"}, "unknown criterion 'accuracy'; .*choose one of auroc"),
        ({"max_features": 0}, "at least one feature"),
        ({"shuffles": 0}, "shuffle the labels at least once"),
        ({"shuffles": 2}, r"no p-value below 0\.05 comes out of 2 shuffles; take 19 or more"),
    ],
)
def test_settings_that_make_no_search_are_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        Settings(**change)


# Pooling

D_MODEL, LENGTHS = 24, (3, 1, 7, 2, 4, 1, 12, 5)


def stored(folder, dtype=np.float32):
    """Activations of texts of several lengths on disk."""
    offsets = np.cumsum([0, *LENGTHS])
    np.save(folder / "resid_post.1.npy", np.random.default_rng(0).normal(size=(offsets[-1], D_MODEL)).astype(dtype))
    return Activations(folder, offsets, (Site(1),))


REDUCE = {"max": lambda x: x.max(0), "mean": lambda x: x.mean(0), "last": lambda x: x[-1]}


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("pooling", REDUCE)
def test_pooled_features_are_those_of_a_dense_computation(architecture, pooling, tmp_path, monkeypatch):
    sae = small_sae(Site(1)) if architecture == "standard" else other_sae(architecture, Site(1))
    activations = stored(tmp_path)
    expected = [
        REDUCE[pooling](sae.encode(torch.from_numpy(np.array(activations.text(Site(1), number)))).numpy())
        for number in range(len(LENGTHS))
    ]
    # of one number, of less than a text, of a few texts, of all
    for block in (1, 2 * sae.width, 9 * sae.width, 2**25):
        monkeypatch.setattr(features, "_BLOCK", block)
        found = pool_features(sae, activations, pooling)
        assert isinstance(found, csc_array) and found.shape == (len(LENGTHS), sae.width)
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-6)
        assert (found.data > 0).all() and 0 < found.nnz < 0.9 * len(LENGTHS) * sae.width, "zeros are left out"


def test_half_precision_of_activations_or_of_the_sae_changes_little(tmp_path):
    (tmp_path / "half").mkdir()
    sae, whole = small_sae(Site(1)), stored(tmp_path)
    full = pool_features(sae, whole).toarray()
    half = pool_features(sae, stored(tmp_path / "half", np.float16)).toarray()
    sae.network.to(torch.bfloat16)
    for other, most in ((half, 0.05), (pool_features(sae, whole).toarray(), 0.5)):
        np.testing.assert_allclose(other, full, atol=most)
        assert not np.array_equal(other, full) and full.max() > 1


def test_blocks_are_no_larger_than_they_have_to_be(tmp_path, monkeypatch):
    """What is encoded at a time does not grow with the number of texts."""
    sae, rows = small_sae(Site(1)), []
    encode = sae.network.encode
    monkeypatch.setattr(sae.network, "encode", lambda x: (rows.append(len(x)), encode(x))[1])
    monkeypatch.setattr(features, "_BLOCK", 8 * sae.width)
    pool_features(sae, stored(tmp_path))
    assert sum(rows) == sum(LENGTHS) and max(rows) == 12, "a text is not cut, even where it is longer than a block"
    assert all(count <= 8 for count in rows if count != 12)


def test_another_way_to_pool_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown pooling 'first'; choose one of max, mean, last"):
        pool_features(small_sae(Site(1)), stored(tmp_path), "first")


# Opposites that share a feature

AGE, GENDER, ALONE = LABELS[:2], LABELS[2:], ("work", "idle")


def overlapping(*features, labels=(*LABELS, ALONE, NEUTRAL)):
    """Texts with some noise, and features that each fire on the texts of some labels."""
    texts = told("train", labels, phrases=30, repeats=1)
    dense = noise(texts, 0) * 0.3
    for number, fires in features:
        fire(dense[:, number], mask(texts, *fires), [2, number], miss=0.05)
    return FeatureTexts(texts, csc_array(dense))


def by_element(table):
    return {(row.factor, row.element): row for row in table.itertuples()}


ALL_LABELS = (*LABELS, ALONE, NEUTRAL)


@pytest.mark.parametrize(
    ("features", "labels", "found", "shared"),
    [
        ([(4, AGE), (5, GENDER[:1]), (6, GENDER[1:2]), (7, GENDER[2:])], ALL_LABELS, [4, 4, 5, 6, 7], AGE),
        ([(4, GENDER[:2]), (5, GENDER[2:]), (6, AGE[:1]), (7, AGE[1:])], ALL_LABELS, [6, 7, 4, 4, 5], GENDER[:2]),
        # Texts of the other factor count against it, but no better feature is there.
        ([(4, [AGE[0], GENDER[0]]), (5, AGE[1:]), (6, GENDER[1:2]), (7, GENDER[2:])], ALL_LABELS, [4, 5, 4, 6, 7], []),
        ([(4, AGE), (5, GENDER)], LABELS, [4, 4, 5, 5, 5], LABELS),
    ],
    ids=["of a whole factor", "of some elements", "of two factors", "without neutral texts"],
)
def test_elements_of_a_factor_with_one_feature_share_it(features, labels, found, shared):
    """The only element of a factor is left out."""
    table = superposition(overlapping(*features, labels=labels))
    assert list(table.columns) == ["factor", "element", "feature", "others", "opposites", "shared"]
    assert list(zip(table["factor"], table["element"], strict=True)) == LABELS
    assert table["feature"].tolist() == found and table["shared"].tolist() == [label in shared for label in LABELS]


def test_opposites_are_left_out_of_the_search_and_of_its_score():
    own = overlapping((4, AGE), (5, GENDER[:1]), (6, GENDER[1:2]), (7, GENDER[2:]))
    dense, labels = own.pooled.toarray(), own.texts.labels
    for label, row in by_element(superposition(own)).items():
        column, told = dense[:, row.feature], np.array([each == label for each in labels])
        factor = np.array([each[0] == label[0] for each in labels])
        kept = told | ~factor
        scores = [roc_auc_score(told[kept], dense[kept, number]) for number in range(own.pooled.shape[1])]
        assert row.others == pytest.approx(max(scores)) == pytest.approx(scores[row.feature])
        assert row.opposites == pytest.approx(roc_auc_score(told[factor], column[factor]))


def test_confusion_is_the_area_against_each_other_label_alone():
    rng = np.random.default_rng(2)
    labels = [("gender", "female"), ("age", "young"), NEUTRAL] * 12
    texts = LabelledTexts(tuple(map(str, range(36))), tuple(sorted(labels, reverse=True)), tuple(map(str, range(36))))
    values = rng.random((36, 2)).round(1)
    table = confusion(FeatureTexts(texts, csc_array(values)), {("gender", "female"): 1, ("age", "young"): 0})
    assert list(table.columns) == [name(label) for label in texts.classes] and "neutral" in table
    for (own, column), place in zip((("gender.female", 1), ("age.young", 0)), (0, 1), strict=True):
        for other in set(table.columns) - {own}:
            chosen = [number for number, label in enumerate(texts.labels) if name(label) in (own, other)]
            truth = [name(texts.labels[number]) == own for number in chosen]
            assert table.loc[own, other] == pytest.approx(roc_auc_score(truth, values[chosen, column]))
        assert np.isnan(table.loc[own, own]), place
