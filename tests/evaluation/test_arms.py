"""Arms: pushes of one length, words of one split, and random directions beside them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from small_models import vector

from personalib.evaluation.arms import Push, prompted_arms, random_arms, tellings
from personalib.models.parts import Site
from personalib.steering.doses import random_directions
from personalib.stimuli.contrast_pairs import SPLITS, contrasts
from personalib.stimuli.factors import POLES

SITE = Site(3)
FAMILY = [one for one in contrasts("pressures") if one.key in ("trust", "activity")]


def test_a_push_brings_all_vectors_to_one_length_toward_each_pole():
    vectors = {f"v{seed}": vector(SITE, seed, size=seed + 1.0) for seed in range(3)}
    made = Push(SITE, 0.25, 40.0, "last").arms("some", vectors, POLES)
    assert [(arm.method, arm.pole, arm.key, arm.contexts) for arm in made] == [
        ("some", pole, key, ()) for pole, key in product(POLES, vectors)
    ]
    for arm in made:
        [one] = arm.condition
        sign = 1 if arm.pole == "positive" else -1
        assert arm.dose == sign * 0.25
        assert (one.coefficient, one.positions, one.site) == (1.0, "last", SITE)
        assert one.vector.norm == pytest.approx(0.25 * 40.0)
        assert one.vector.cosine(vectors[arm.key]) == pytest.approx(sign)


def test_a_push_is_at_the_prompt_toward_the_positive_pole_unless_it_is_told():
    [arm] = Push(SITE, 1.0, 1.0).arms("some", {"v": vector(SITE)})
    assert arm.condition[0].positions == "prompt" and arm.pole == "positive"


def test_what_has_no_direction_or_stands_elsewhere_cannot_be_pushed():
    with pytest.raises(ValueError, match="is zero and has no direction"):
        Push(SITE, 1.0, 1.0).arms("some", {"v": vector(SITE) * 0.0})
    with pytest.raises(ValueError, match=r"stands at resid_post\.1, and the push is made at resid_post\.3"):
        Push(SITE, 0.4, 1.0).arms("steered", {"v": replace(vector(SITE), site=Site(1))})


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_those_of_one_split_in_a_fixed_order(split):
    made = prompted_arms(FAMILY, split, POLES)
    assert [(arm.key, arm.pole) for arm in made] == list(product([one.key for one in FAMILY], POLES))
    for arm, (one, pole) in zip(made, product(FAMILY, POLES), strict=True):
        texts = [wording.text for wording in one.wordings[pole, split]]
        assert sorted(arm.contexts) == sorted(texts) and list(arm.contexts) != texts
        assert arm.method == "prompt" and arm.condition == () and np.isnan(arm.dose)
    assert made[0].contexts == tellings(FAMILY[:1], POLES[0], split)
    first, second = ({text for arm in prompted_arms(FAMILY, own) for text in arm.contexts} for own in SPLITS)
    assert not first & second


def test_words_tell_the_positive_pole_unless_both_are_named():
    assert prompted_arms(FAMILY, "train") == prompted_arms(FAMILY, "train", POLES)[::2]


def test_random_directions_have_keys_of_their_own_and_one_length():
    push, like = Push(SITE, 0.5, 8.0, "last"), vector(SITE, size=7.0)
    made = random_arms(push, like, 6, seed=2)
    assert len({arm.key for arm in made}) == 6 and {arm.method for arm in made} == {"random"}
    for arm, one in zip(made, random_directions(like, 6, 2), strict=True):
        [add] = arm.condition
        assert add.vector.norm == pytest.approx(4.0) and add.positions == "last" and arm.dose == 0.5
        assert add.vector.cosine(one) == pytest.approx(1)
    assert made == random_arms(push, like, 6, seed=2) != random_arms(push, like, 6, seed=3)
    assert len(random_arms(push, like)) == 22
