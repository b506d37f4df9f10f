"""What is planted is read and what is not there is not, in texts whose phrases had no part in the fit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from personalib.base.statistics import clustered_interval, proportion_interval
from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import ContrastPair, Wording
from personalib.vectors.contrast import PairActivations, fit_vector
from personalib.vectors.methods import METHODS
from personalib.vectors.readings import (
    Reader,
    accuracy,
    dealt_texts,
    fit_reader,
    judged,
    layer_scan,
    left_out_positions,
    null_accuracies,
    reliability,
    validation_accuracy,
)

WIDTH = 64
SITE, ELSEWHERE = Site(1), Site(0)
PLANTED = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0][0]
PLANE = [name for name in METHODS if name != "pca_centred"]


def read(split="train", *, gap=6.0, offset=0.0, phrases=6, repeats=3, seed=0):
    """Activations of every phrase of one pole with every one of the other.

    Args:
        split: part of every phrase's name.
        gap: how far the poles lie apart at :data:`SITE`, in standard deviations of single texts; at
            :data:`ELSEWHERE` they are alike.
        offset: how far phrases lie apart beside that, each in a direction of its own.
        phrases: of each pole.
        repeats: how often each pair of phrases occurs.
        seed: draws all of it.
    """
    rng = np.random.default_rng([seed, split == "train"])
    numbers = np.tile([(first, second) for first in range(phrases) for second in range(phrases)], (repeats, 1))
    pairs = tuple(
        ContrastPair(Wording("Yes.", f"{split} yes {first}"), Wording("No.", f"{split} no {second}"), f"{split}?")
        for first, second in numbers
    )
    rows = {}
    for site, distance in ((ELSEWHERE, 0.0), (SITE, gap)):
        own = offset * rng.normal(size=(2, phrases, WIDTH))
        rows[site] = [
            (sign * distance / 2 * PLANTED + own[pole, numbers[:, pole]] + rng.normal(size=(len(pairs), WIDTH)) + 5)
            for pole, sign in enumerate((1, -1))
        ]
    positive, negative = ({site: both[pole].astype(np.float32) for site, both in rows.items()} for pole in (0, 1))
    return PairActivations("pressures.trust", pairs, positive, negative, "toy", "1", "last", "0123")


def halves(**changes):
    return {split: read(split, **changes) for split in ("train", "held_out")}


# A reader and its scale


@pytest.mark.parametrize("method", METHODS)
def test_the_poles_it_was_fitted_to_lie_at_one_and_minus_one_on_average(method):
    own = read()
    reader = fit_reader(own, SITE, method)
    assert reader.vector == fit_vector(own, SITE, method)
    assert reader.position(own.positive[SITE]).mean() == pytest.approx(1, abs=1e-3)
    assert reader.position(own.negative[SITE]).mean() == pytest.approx(-1, abs=1e-3)
    assert 2 * reader.half == pytest.approx(reader.vector.norm, rel=1e-3), "adding the vector once leads across"


def test_the_probability_rises_with_the_position_and_is_even_near_the_middle():
    reader = fit_reader(read(gap=2.0), SITE)
    rows = np.linspace(-3, 3, 50)[:, None] * PLANTED + 5
    positions, chances = reader.position(rows), reader.probability(rows)
    assert (np.diff(positions) > 0).all() and (np.diff(chances) > 0).all()
    assert 0 < chances[0] < 0.1 and 0.9 < chances[-1] < 1
    np.testing.assert_allclose(chances, expit(reader.slope * positions + reader.intercept))
    assert abs(reader.intercept / reader.slope) < 0.1, "the even chance is near the middle"


def test_probabilities_come_true_as_often_as_they_say():
    reader, other = fit_reader(read(gap=2.0, repeats=20), SITE), read("held_out", gap=2.0, repeats=60)
    chances = reader.probability(np.vstack([other.positive[SITE], other.negative[SITE]]))
    true = np.repeat([1, 0], len(other.pairs))
    for low in (0, 0.2, 0.4, 0.6, 0.8):
        bin_ = (low <= chances) & (chances < low + 0.2)
        assert bin_.sum() > 100 and true[bin_].mean() == pytest.approx(chances[bin_].mean(), abs=0.08)


def test_the_probability_is_not_that_of_the_texts_of_the_fit_which_would_be_too_sure():
    """Phrases of few texts fit a direction to themselves; new phrases are read far less surely."""
    found = []
    for seed in range(8):
        both = halves(gap=1.0, offset=1.0, phrases=12, repeats=1, seed=seed)
        reader = fit_reader(both["train"], SITE)
        rows = [both["train"].positive[SITE], both["train"].negative[SITE]]
        own = np.concatenate([reader.position(each) for each in rows])[:, None]
        naive = LogisticRegression(C=1.0).fit(own, np.repeat([1, 0], len(own) // 2))
        sure = Reader(reader.vector, reader.middle, reader.half, naive.coef_[0, 0], naive.intercept_[0])
        assert reader.slope < sure.slope / 2
        found.append([accuracy(each, both["held_out"]).brier for each in (reader, sure)])
    ours, naively = np.mean(found, axis=0)
    assert ours < 0.28 and naively > ours + 0.05


def test_the_probability_never_falls_where_the_position_rises():
    """Where there is little to read, phrases that are left out of a mean lie away from it."""
    assert min(fit_reader(read(gap=0.0, offset=3.0, seed=seed), SITE).slope for seed in range(8)) >= 0


# Held-out texts


@pytest.mark.parametrize("method", PLANE)
def test_poles_far_apart_are_read_without_an_error(method):
    both = halves(gap=12.0)
    found = accuracy(fit_reader(both["train"], SITE, method), both["held_out"])
    assert found.texts.estimate == 1.0 and found.pairs == 1.0 and found.brier < 0.01
    assert validation_accuracy(both["train"], SITE, method) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_poles_that_are_alike_are_read_no_better_than_by_chance(method):
    found = []
    for seed in range(12):
        both = halves(gap=0.0, seed=seed)
        reader = fit_reader(both["train"], SITE, method)
        own = accuracy(reader, both["held_out"])
        found.append((own.texts.estimate, own.pairs, validation_accuracy(both["train"], SITE, method)))
        assert own.brier > 0.24
    texts, pairs, validation = np.mean(found, axis=0)
    assert texts == pytest.approx(0.5, abs=0.04) and pairs == pytest.approx(0.5, abs=0.05)
    assert 0.4 < validation < 0.54


def test_accuracy_is_counted_on_the_texts_that_it_is_given():
    both = halves(gap=1.5, offset=0.3)
    reader, other = fit_reader(both["train"], SITE), both["held_out"]
    along = [rows[SITE] @ reader.vector.unit().direction.numpy() for rows in (other.positive, other.negative)]
    found = accuracy(reader, other)
    right = np.concatenate([along[0] > reader.middle, along[1] < reader.middle])
    assert found.texts.estimate == pytest.approx(right.mean()) and 0.6 < right.mean() < 0.95
    phrases = [pair.positive.phrase for pair in other.pairs] + [pair.negative.phrase for pair in other.pairs]
    assert found.texts == pytest.approx(clustered_interval(right, phrases))
    assert found.pairs == (along[0] > along[1]).mean() > found.texts.estimate
    errors = [1 - reader.probability(other.positive[SITE]), reader.probability(other.negative[SITE])]
    assert found.brier == pytest.approx(np.square(errors).mean()) and found.brier < 0.25


def test_the_interval_is_over_phrases_and_its_seed_fixes_it():
    both = halves(gap=1.5, offset=1.0, repeats=10)
    reader = fit_reader(both["train"], SITE)
    found = accuracy(reader, both["held_out"])
    assert found == accuracy(reader, both["held_out"], seed=0)
    assert found.texts != accuracy(reader, both["held_out"], seed=1).texts
    texts = 2 * len(both["held_out"].pairs)
    wilson = proportion_interval(round(found.texts.estimate * texts), texts)
    assert found.texts.high - found.texts.low > 2 * (wilson.high - wilson.low), "texts of a phrase are alike"


# Phrases left out


def test_what_only_a_phrase_has_in_it_is_not_read_where_the_phrase_is_left_out():
    """Without a difference between the poles, the phrases' own places tell the two apart in the texts of the fit."""
    every = [read(gap=0.0, offset=3.0, seed=seed) for seed in range(8)]
    assert min(accuracy(fit_reader(own, SITE), own).texts.estimate for own in every) > 0.9
    assert 0.4 < np.mean([validation_accuracy(own, SITE) for own in every]) < 0.55


@pytest.mark.parametrize("method", METHODS)
def test_a_text_is_read_alike_whatever_the_others_of_its_phrase_are(method):
    own = read(gap=2.0)
    before = left_out_positions(own, SITE, method)
    for pole, rows in enumerate((own.positive[SITE], own.negative[SITE])):
        same = np.flatnonzero(own.phrases[:, pole] == own.phrases[7, pole])
        rows[same[same != 7]] += 50 * np.random.default_rng(pole).normal(size=(len(same) - 1, WIDTH))
    after = left_out_positions(own, SITE, method)
    np.testing.assert_array_equal(after[7], before[7])
    assert not np.allclose(after, before), "that of others does change"


def test_left_out_positions_are_those_of_directions_fitted_to_the_rest():
    own = read(gap=2.0, phrases=3)
    found = left_out_positions(own, SITE)
    assert found.shape == (len(own.pairs), 2)
    assert validation_accuracy(own, SITE) == np.mean([found[:, 0] > 0, found[:, 1] < 0])
    rows = [own.positive[SITE].astype(float), own.negative[SITE].astype(float)]
    for number in range(3):
        out = own.phrases == [f"train yes {number}", f"train no {number}"]
        high, low = (each[~out.any(1)].mean(0) for each in rows)
        for pole, each in enumerate(rows):
            along = (each[out[:, pole]] - (high + low) / 2) @ (high - low)
            expected = along / ((high - low) @ (high - low) / 2)
            np.testing.assert_allclose(found[out[:, pole], pole], expected, atol=1e-6)


# Nulls


@pytest.mark.parametrize("method", METHODS)
def test_dealing_the_poles_anew_reads_nothing_although_they_lie_far_apart(method):
    both = halves(gap=12.0)
    if method in PLANE:
        assert accuracy(fit_reader(both["train"], SITE, method), both["held_out"]).texts.estimate == 1.0
    found = null_accuracies(both, SITE, method, shuffles=60)
    assert found.shape == (60,) and found.mean() == pytest.approx(0.5, abs=0.03)
    assert found.min() > 0.3 and found.max() < 0.7


def test_dealing_the_poles_anew_keeps_phrases_whole():
    """Texts of a phrase stay on one side, so chance has the width that phrases give it."""
    near, far = (halves(gap=0.0, offset=offset, repeats=6) for offset in (0.0, 3.0))
    single, whole = (null_accuracies(each, SITE, shuffles=100) for each in (near, far))
    assert whole.std() > 3 * single.std() and whole.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("phrases", [4, 5])
def test_poles_are_dealt_to_half_of_the_phrases_of_each_pole(phrases):
    own, taken, sizes = read(phrases=phrases), set(), set()
    # a number for every text, in the place of its activations
    codes = np.arange(2 * len(own.pairs)).reshape(2, -1, 1)
    told = own.phrases.T.ravel()
    numbered = replace(own, positive={SITE: codes[0]}, negative={SITE: codes[1]})
    for seed in range(10):
        one, other = (rows[:, 0] for rows in dealt_texts(numbered, SITE, np.random.default_rng(seed)))
        assert len(one) == len(other) == len({*one, *other}) / 2 and len(one) >= len(own.pairs) * 4 // 5
        assert not {*told[one]} & {*told[other]}, "no phrase is in both"
        for pole in ("yes", "no"):
            sizes.add(len({phrase for phrase in told[one] if pole in phrase}))
        taken.add(frozenset(told[one]))
    assert sizes == {phrases // 2, (phrases + 1) // 2}, "an odd one is on either side"
    assert len(taken) > 5


def test_directions_of_swapped_pairs_read_true_poles_nearly_all_rightly_or_all_wrongly():
    both = halves(gap=12.0)
    swapped = null_accuracies(both, SITE, shuffles=100, null="swapped")
    assert swapped.shape == (100,) and swapped.min() < 0.1 and swapped.max() > 0.9
    assert swapped.std() > 2 * null_accuracies(both, SITE, shuffles=100).std()
    alike = null_accuracies(halves(gap=0.0), SITE, shuffles=100, null="swapped")
    assert alike.std() < 0.1 and alike.mean() == pytest.approx(0.5, abs=0.03)


def test_pca_does_not_see_swapped_pairs_but_for_the_sign():
    """Its differences are taken both ways anyhow: swapped, it reads as well as the true direction, or as badly."""
    both = halves(gap=4.0)
    normal = fit_vector(both["train"], SITE, "pca").direction.double().numpy()
    high, low = both["train"].positive[SITE], both["train"].negative[SITE]
    middle = (high.mean(0) + low.mean(0)).astype(float) @ normal / 2
    held_out = both["held_out"]
    right = (
        (held_out.positive[SITE] @ normal > middle).mean() + (held_out.negative[SITE] @ normal < middle).mean()
    ) / 2
    found = null_accuracies(both, SITE, "pca", shuffles=20, null="swapped")
    assert right > 0.9 and set(found.round(6)) == {round(right, 6), round(1 - right, 6)}


@pytest.mark.parametrize("null", ["dealt", "swapped"])
def test_the_seed_fixes_a_null(null):
    both = halves(gap=2.0)
    one, same, other = (null_accuracies(both, SITE, shuffles=5, seed=seed, null=null) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


# Layers


def test_a_scan_has_what_single_readings_have():
    readings = {"trust": halves(gap=2.0), "activity": halves(gap=4.0, seed=1)}
    found = layer_scan(readings, [ELSEWHERE, SITE], "pca", seed=2)
    assert list(found.columns) == [
        *("contrast", "site", "layer", "validation", "accuracy", "low", "high", "pairs", "brier")
    ]
    assert found[["contrast", "site", "layer"]].values.tolist() == [
        [key, str(site), site.layer] for key in readings for site in (ELSEWHERE, SITE)
    ]
    for row in found.itertuples():
        both, site = readings[row.contrast], Site.parse(row.site)
        expected = accuracy(fit_reader(both["train"], site, "pca"), both["held_out"], seed=2)
        assert (row.accuracy, row.low, row.high) == expected.texts
        assert (row.pairs, row.brier) == (expected.pairs, expected.brier)
        assert row.validation == validation_accuracy(both["train"], site, "pca")


# Calibration


def test_every_text_is_judged_with_its_phrase_and_pole():
    both = halves()
    reader, held_out = fit_reader(both["train"], SITE), both["held_out"]
    texts = judged(reader, held_out)
    assert len(texts) == 2 * len(held_out.pairs) == 2 * texts["positive"].sum()
    assert set(texts["contrast"]) == {"pressures.trust"}
    assert texts["phrase"].str.startswith("held_out yes").equals(texts["positive"])
    for pole, rows in ((True, held_out.positive), (False, held_out.negative)):
        chances = texts[texts["positive"] == pole]["probability"]
        np.testing.assert_allclose(chances, reader.probability(rows[SITE]))
        assert (chances.mean() > 0.8) == pole and (chances.mean() < 0.2) != pole


def table(probabilities, positive, phrases):
    return pd.DataFrame({"contrast": "a", "phrase": phrases, "probability": probabilities, "positive": positive})


def test_shares_are_counted_in_stretches_of_the_probability():
    texts = table([0.0, 0.1, 0.9, 1.0, 0.95], [False, True, True, True, False], ["u", "v", "w", "x", "y"])
    found = reliability(texts, bins=2)
    assert found["texts"].tolist() == [2, 3] and found["phrases"].tolist() == [2, 3]
    assert found["probability"].tolist() == pytest.approx([0.05, 0.95])
    assert found["share"].tolist() == pytest.approx([0.5, 2 / 3])
    assert (found["low"] <= found["share"]).all() and (found["share"] <= found["high"]).all()


def test_texts_of_one_phrase_are_no_evidence_of_each_other():
    one = reliability(table([0.9] * 40, [True] * 30 + [False] * 10, ["u"] * 40))
    many = reliability(table([0.9] * 40, [True] * 30 + [False] * 10, [str(number) for number in range(40)]))
    assert one["share"].tolist() == many["share"].tolist() == [0.75]
    assert np.isnan(one[["low", "high"]].to_numpy()).all() and many["low"][0] > 0.5


def test_the_same_phrase_of_another_contrast_is_another_one():
    texts = pd.concat([table([0.9], [True], ["u"]), table([0.9], [False], ["u"]).assign(contrast="b")])
    assert reliability(texts)["phrases"].tolist() == [2]
    with pytest.raises(ValueError, match="there is no text to judge by"):
        reliability(table([], [], []))


# What is refused


@pytest.mark.parametrize("use", [fit_reader, left_out_positions, validation_accuracy])
def test_pairs_of_a_single_phrase_are_refused(use):
    with pytest.raises(ValueError, match="all pairs have the phrase 'train yes 0' at one pole; take pairs of two"):
        use(read(phrases=1, repeats=8), SITE)


@pytest.mark.parametrize("use", [fit_reader, left_out_positions, null_accuracies])
def test_an_unknown_method_is_refused(use):
    own = halves() if use is null_accuracies else read()
    with pytest.raises(ValueError, match="unknown method 'mean'; choose one of"):
        use(own, SITE, "mean")


def test_an_unknown_null_is_refused():
    with pytest.raises(ValueError, match="unknown null 'shuffled'; choose one of"):
        null_accuracies(halves(), SITE, null="shuffled")
