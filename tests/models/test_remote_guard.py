"""A remote model is not run on this side: whoever tries is told what to do instead."""

import shutil

import pytest
import torch
from nnsight.modeling import huggingface
from small_models import LABELS, small, small_sae, vector

from personalib.base.data import DataError
from personalib.features.labels import logit_lens
from personalib.features.metrics import cross_entropy
from personalib.models.activations import capture
from personalib.models.parts import Site, blocks, check_parts
from personalib.models.remote import REHEARSAL, load_remote_model, rehearsed, running
from personalib.steering.generation import generate
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add

NAME, COMMIT = "somebody/gemma2", "0123456789abcdef0123456789abcdef01234567"
PROMPTS = ["w1 w2 w3 ", "w4 w5 w6 "]
REFUSED = r"gemma2: a remote model is not run on this side; .*evaluate.*ask_steered.*capture.*load_model"
PUSH = Add(vector(Site(1)), 2.0, "last")
WAYS = {
    "free answers": lambda model: generate(model, PROMPTS),
    "steered answers": lambda model: generate(model, PROMPTS, [PUSH]),
    "its own generation": lambda model: model.model.generate(torch.tensor([[3, 4]])),
    "an SAE in its place": lambda model: cross_entropy(model, small_sae(Site(1)), PROMPTS),
    "the logit lens": lambda model: logit_lens(model, torch.eye(24)[:2]),
    "a check of its parts": lambda model: check_parts(model.model),
    "a block": lambda model: blocks(model.model)[0](torch.zeros(1, 2, 24)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a small model."""
    place, model = tmp_path_factory.mktemp("models") / "gemma2", small("gemma2")
    model.model.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def skeleton(folder, tmp_path, monkeypatch):
    """The model for a service that is not asked: its configuration and tokenizer alone, from the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(huggingface._ID_CACHE, NAME, NAME)
    base = tmp_path / f"models--{NAME.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, base / "snapshots" / COMMIT, ignore=shutil.ignore_patterns("*.safetensors"))
    return load_remote_model(NAME, host="http://127.0.0.1:9")


@pytest.fixture
def rehearsal(folder):
    return load_remote_model(str(folder), host=REHEARSAL)


@pytest.mark.parametrize("way", WAYS)
def test_a_skeleton_is_run_in_no_way(way, skeleton):
    with pytest.raises(DataError, match=REFUSED):
        WAYS[way](skeleton)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_service_cannot_do_a_rehearsal_refuses(way, rehearsal):
    with pytest.raises(DataError, match=REFUSED):
        WAYS[way](rehearsal)


def test_a_skeleton_has_no_weights_to_be_known_by(skeleton):
    with pytest.raises(DataError, match="no weights on this side to be known by; name it by its revision"):
        skeleton.digest()


def test_a_rehearsal_still_runs_traces_and_refuses_again_afterwards(rehearsal, tmp_path):
    assert ask_steered(rehearsal, PROMPTS, LABELS, [[PUSH]]).shape == (1, 2, 4)
    assert capture(rehearsal, PROMPTS, [Site(1)], tmp_path).values(Site(1)).shape == (2, 24)
    with pytest.raises(DataError, match=REFUSED):
        WAYS["free answers"](rehearsal)


def test_a_trace_that_fails_leaves_the_refusal(rehearsal):
    with pytest.raises(KeyError), running(rehearsal):
        raise KeyError
    with pytest.raises(DataError, match=REFUSED):
        WAYS["free answers"](rehearsal)


def test_a_model_that_is_run_on_both_sides_is_not_refused():
    model = small("gemma2")
    there, here = (ask_steered(one, PROMPTS, LABELS, [()]) for one in (rehearsed(model), model))
    assert abs(there - here).max() < 1e-6
