"""What readers are sure of is counted, with intervals over phrases."""

import numpy as np
import pandas as pd
import pytest

from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import ContrastPair, Wording
from personalib.vectors.calibration import judged, reliability
from personalib.vectors.contrast import PairActivations
from personalib.vectors.readings import fit_reader

SITE = Site(2)


def read(split, phrases=6, repeats=4, gap=3.0, seed=0):
    """Pairs whose poles lie apart along the first of five coordinates."""
    rng, count = np.random.default_rng(seed), phrases * repeats
    pairs = tuple(
        ContrastPair(
            Wording(f"{split} yes {number}", f"yes {split} {number % phrases}"),
            Wording(f"{split} no {number}", f"no {split} {number % phrases}"),
            "What now?",
        )
        for number in range(count)
    )
    middle, apart = rng.standard_normal((2, count, 5)), gap * np.eye(5)[0]
    activations = {SITE: middle[0] + apart / 2}, {SITE: middle[1] - apart / 2}
    return PairActivations("toy.one", pairs, *activations, "toy", "1", "last", split)


def test_every_text_is_judged_with_its_phrase_and_pole():
    reader, held_out = fit_reader(read("train"), SITE), read("held_out", seed=1)
    texts = judged(reader, held_out)
    assert len(texts) == 48 and texts["positive"].sum() == 24
    assert set(texts["contrast"]) == {"toy.one"}
    assert texts["phrase"].str.startswith("yes").equals(texts["positive"])
    np.testing.assert_allclose(texts["probability"][:24], reader.probability(held_out.positive[SITE]))
    np.testing.assert_allclose(texts["probability"][24:], reader.probability(held_out.negative[SITE]))
    assert texts[texts["positive"]]["probability"].mean() > 0.8 > 0.2 > texts[~texts["positive"]]["probability"].mean()


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


def test_no_text_is_refused():
    with pytest.raises(ValueError, match="there is no text to judge by"):
        reliability(table([], [], []))
