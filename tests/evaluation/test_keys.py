"""Keys of answers: whatever an answer depends on changes its key, and nothing else does."""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import LABELS, small, small_sae, vector, words

from personalib.evaluation import keys
from personalib.evaluation.keys import condition_key, model_key
from personalib.models.parts import Site
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp

PROMPTS = ["w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 "]
PUSH = Add(vector(Site(1)), 1.5, "prompt")


def nudged(one, place=5):
    """The vector with another value in one coordinate, which float32 can just tell apart."""
    values = one.direction.clone()
    values[place] = torch.nextafter(values[place], values[place] + 1)
    return replace(one, direction=values)


def differ(one, other):
    """Whether two models answer differently."""
    asked = [ask_steered(each, PROMPTS, LABELS, [()]) for each in (one, other)]
    return abs(asked[0] - asked[1]).max() > 1e-4


# Conditions

CONDITIONS = {
    "none": (),
    "a push": (PUSH,),
    "another coefficient": (replace(PUSH, coefficient=1.5000001),),
    "the opposite": (replace(PUSH, coefficient=-1.5),),
    "another coordinate": (replace(PUSH, vector=nudged(PUSH.vector)),),
    "another place": (replace(PUSH, vector=nudged(PUSH.vector, 6)),),
    "other positions": (replace(PUSH, positions="last"),),
    "all positions": (replace(PUSH, positions="all"),),
    "another block": (replace(PUSH, vector=replace(PUSH.vector, site=Site(2))),),
    "before the block": (replace(PUSH, vector=replace(PUSH.vector, site=Site(1, "resid_pre"))),),
    "an ablation": (Ablate(PUSH.vector, 1.5, "prompt"),),
    "twice": (PUSH, PUSH),
    "and an ablation": (PUSH, Ablate(PUSH.vector, 1.5, "prompt")),
    "after an ablation": (Ablate(PUSH.vector, 1.5, "prompt"), PUSH),
    "a clamp": (Clamp(small_sae(Site(1)), (3,), 2.0),),
    "another feature": (Clamp(small_sae(Site(1)), (4,), 2.0),),
    "two features": (Clamp(small_sae(Site(1)), (3, 4), 2.0),),
    "another value": (Clamp(small_sae(Site(1)), (3,), 2.5),),
    "another SAE": (Clamp(small_sae(Site(1), seed=1), (3,), 2.0),),
    "a clamp elsewhere": (Clamp(small_sae(Site(2)), (3,), 2.0),),
}


def test_whatever_a_condition_does_differently_has_another_key():
    assert len({condition_key(one) for one in CONDITIONS.values()}) == len(CONDITIONS)


def test_the_same_condition_has_the_same_key_in_any_sequence_and_under_any_name():
    renamed = replace(PUSH.vector, name="another", method="by hand", model="toy", revision="2", texts="none")
    assert condition_key([PUSH]) == condition_key((replace(PUSH, vector=renamed),))
    assert condition_key([Add(deepcopy(PUSH.vector), 1.5)]) == condition_key([PUSH])


def test_the_kind_of_a_number_makes_no_other_condition():
    """Coefficients that are computed are often numbers of NumPy."""
    keys = {condition_key([replace(PUSH, coefficient=one)]) for one in (2, 2.0, np.float64(2.0), np.float32(2.0))}
    assert len(keys) == 1


@pytest.mark.parametrize("change", [{"normalisation": "layer_norm"}, {"centred": True}])
def test_an_sae_of_the_same_weights_that_is_used_otherwise_has_another_key(llama, change):
    one, other = ((Clamp(small_sae(Site(1), **own), (3, 17), 4.0),) for own in ({}, change))
    found = ask_steered(llama, PROMPTS, LABELS, [one, other])
    assert abs(found[0] - found[1]).max() > 1e-4, "they steer differently"
    assert condition_key(one) != condition_key(other)


# Models


def test_the_same_model_has_the_same_key_under_any_name(llama):
    assert model_key(llama) == model_key(small("llama")) == model_key(replace(llama, name="another"))


@pytest.mark.parametrize(
    "change",
    [lambda one: one.model.lm_head.weight.data[3, 4].add_(1e-3), lambda one: one.tokenizer.add_tokens(["w99"])],
    ids=["one weight", "vocabulary"],
)
def test_another_value_in_one_weight_or_another_vocabulary_is_another_model(llama, change):
    before = model_key(llama)
    change(llama)
    assert model_key(llama) != before


def test_another_number_format_is_another_model(llama):
    before, revised = model_key(llama), model_key(replace(llama, revision="1"))
    llama.model.to(torch.bfloat16)
    assert model_key(llama) != before and model_key(replace(llama, revision="1")) != revised


def test_a_revision_stands_for_weights_and_tokenizer(llama, monkeypatch):
    keys = {model_key(replace(llama, revision=one)) for one in (None, "1", "2")}
    assert len(keys) == 3
    monkeypatch.setattr("personalib.models.load.LanguageModel.digest", lambda _: pytest.fail("weights were read"))
    assert model_key(replace(llama, revision="1")) in keys


def test_a_tokenizer_of_the_same_vocabulary_that_encodes_otherwise_is_another_model(llama):
    """Merges, normalisation and special tokens are no part of a vocabulary."""
    bare = replace(llama, tokenizer=words(bos=False))
    assert differ(llama, bare)
    assert model_key(bare) != model_key(llama)


def test_the_same_weights_in_another_configuration_are_another_model():
    """Such as a cap of logits, a sliding window or a scale of positions, none of which is a weight."""
    one, other = small("gemma2"), small("gemma2", final_logit_softcapping=1.0)
    assert one.digest() == other.digest() and differ(one, other)
    assert model_key(one) != model_key(other)


def test_using_a_tokenizer_leaves_the_key_as_it_is(llama):
    """Padding and truncation of its last call are no part of it."""
    before = model_key(llama)
    llama.tokenizer(["w1", "w1 w2 w3"], padding=True, truncation=True, max_length=2)
    assert model_key(llama) == before


def test_code_that_computes_answers_is_part_of_the_key(llama, monkeypatch, tmp_path):
    """Each module of it, and no other file."""
    before, root = model_key(llama), keys.package_dir()
    found = [path.relative_to(root) for pattern in keys._MODULES for path in root.glob(pattern)]
    assert {Path("models/prompts.py"), Path("steering/grid.py"), Path("features/saes.py")} < set(found)
    shutil.copytree(root, tmp_path / "library", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "package_dir", lambda: tmp_path / "library")
    seen = {before}
    for place in (Path("cli/models.py"), *found):
        path = tmp_path / "library" / place
        path.write_text(path.read_text() + "# changed\n")
        keys._code_key.cache_clear()
        seen.add(model_key(llama))
    assert len(seen) == len(found) + 1
    monkeypatch.undo()
    keys._code_key.cache_clear()
    assert model_key(llama) == before
