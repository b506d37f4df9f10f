"""Faithfulness of an SAE: the numbers are those of a plain computation, and known where the SAE's doing is known."""

import numpy as np
import pytest
import torch
from small_models import hooked
from tiny_saes import TEXTS, encoded, sae_of, worded

from personalib.base.records import ItemError
from personalib.features import metrics as sae_metrics
from personalib.features.metrics import CrossEntropy, cross_entropy, reconstruction
from personalib.models.parts import Site

D = 24
SITES = [Site(1), Site(1, "resid_pre"), Site(2), Site(0, "resid_pre")]
EVERYWHERE = pytest.mark.parametrize("site", SITES, ids=str)


# Matrices are so small that threads would mostly wait for each other.
pytestmark = pytest.mark.usefixtures("one_thread")


def small(name):
    return worded(name, initializer_range=0.3)


@pytest.fixture(scope="module", params=["gemma2", "llama", "gpt2"])
def model(request):
    return small(request.param)


@pytest.fixture(scope="module")
def gemma2():
    return small("gemma2")


def perfect(site=SITES[0]):
    """Each coordinate's positive and negative part is a feature."""
    identity = torch.eye(D)
    return sae_of(site, 2 * D, D, W_enc=torch.cat([identity, -identity], 1), W_dec=torch.cat([identity, -identity]))


def sparse(site=SITES[0]):
    """Random features of which some are silent and two are dead."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (D, 40), "W_dec": (40, D), "b_enc": (40,), "b_dec": (D,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    weights["b_enc"][[7, 30]] = -1e6
    return sae_of(site, 40, D, **weights)


def stream(rows, seed=4):
    """Activations with a mean that is not zero."""
    return np.random.default_rng(seed).normal(loc=0.7, size=(rows, D)).astype(np.float32)


# Reconstruction


def test_the_numbers_are_those_of_a_plain_computation():
    sae, x = sparse(), stream(200)
    found = reconstruction(sae, x)
    weights = {name: value.double().numpy() for name, value in sae.network.state_dict().items()}
    features = np.maximum((x.astype(float) - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"], 0)
    error = x - (features @ weights["W_dec"] + weights["b_dec"])
    assert found.explained_variance == pytest.approx(1 - (error**2).sum() / ((x - x.mean(0)) ** 2).sum(), abs=1e-5)
    assert found.l0 == pytest.approx((features > 0).sum(1).mean(), abs=0.01) and 5 < found.l0 < 35
    assert found.dead_fraction == pytest.approx((features == 0).all(0).mean()) and found.dead_fraction >= 2 / 40
    assert found.tokens == 200


@pytest.mark.parametrize("rows", [1, 7, 64, 200])
def test_reconstruction_does_not_depend_on_the_size_of_a_batch(rows, monkeypatch):
    sae, x = sparse(), stream(200)
    whole = reconstruction(sae, x)
    monkeypatch.setattr(sae_metrics, "_ROWS", rows)
    assert reconstruction(sae, x) == pytest.approx(whole, abs=1e-6)


def test_activations_may_stay_on_disk_in_half_precision(tmp_path):
    x = stream(100).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    found = reconstruction(sparse(), np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert found == pytest.approx(reconstruction(sparse(), x.astype(np.float32)), abs=1e-9)


def test_activations_with_a_large_mean_lose_no_precision():
    """As the residual stream has, where a few coordinates are large at every token."""
    x = stream(5000) * 0.1
    x[:, 3] += 300
    assert reconstruction(perfect(), x).explained_variance == pytest.approx(1, abs=1e-9)
    constant = sae_of(Site(1), 4, D, b_dec=x.mean(0, dtype=float))
    assert reconstruction(constant, x).explained_variance == pytest.approx(0, abs=1e-3)


# Cross-entropy


@torch.inference_mode()
def by_hand(language_model, site, replace):
    """The mean cross-entropy over the texts, each alone, with hooks that put another stream where tokens count."""
    total, count = 0.0, 0
    for text in TEXTS:
        ids, counted = encoded(language_model, text)

        def change(hidden, counted=counted):
            hidden = hidden.clone()
            hidden[0, counted] = replace(hidden[0, counted])
            return hidden

        handle = hooked(language_model.model, site, change)
        logits = language_model.model(torch.tensor([ids])).logits[0, :-1]
        handle.remove()
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    return total / count


def mean_stream(language_model, site):
    seen = []
    by_hand(language_model, site, lambda hidden: (seen.append(hidden.clone()), hidden)[1])
    return torch.cat(seen).double().mean(0).float()


@EVERYWHERE
def test_each_condition_is_what_a_hook_gives(site, model):
    sae = sparse(site)
    found = cross_entropy(model, sae, TEXTS)
    mean = mean_stream(model, site)
    assert found.clean == pytest.approx(by_hand(model, site, lambda x: x), abs=1e-4)
    assert found.spliced == pytest.approx(by_hand(model, site, sae.network), abs=1e-4)
    assert found.zero == pytest.approx(by_hand(model, site, torch.zeros_like), abs=1e-4)
    assert found.mean == pytest.approx(by_hand(model, site, lambda x: mean.expand_as(x)), abs=1e-4)
    assert min(abs(found.clean - other) for other in found[1:]) > 0.002, "many times what is compared above"


def test_a_text_longer_than_the_context_is_refused(gemma2, monkeypatch):
    monkeypatch.setattr(gemma2.model.config, "max_position_embeddings", 2)
    with pytest.raises(ItemError, match=r"text 1 of \d.*the model reads 2 at the most"):
        cross_entropy(gemma2, perfect(), TEXTS)


@pytest.mark.parametrize("batch_tokens", [1, 30])
def test_cross_entropy_does_not_depend_on_the_size_of_a_batch(batch_tokens, model):
    sae = sparse(Site(1))
    whole = cross_entropy(model, sae, TEXTS)
    assert cross_entropy(model, sae, TEXTS, batch_tokens=batch_tokens) == pytest.approx(whole, abs=1e-5)


def test_the_model_is_left_as_it_was(gemma2):
    ids = torch.tensor([encoded(gemma2, TEXTS[0])[0]])
    with torch.inference_mode():
        before = gemma2.model(ids).logits
        cross_entropy(gemma2, sae_of(Site(1), 4, D), TEXTS)
        torch.testing.assert_close(gemma2.model(ids).logits, before, rtol=0, atol=0)


def test_a_model_in_half_precision_takes_an_sae_in_full():
    model = small("llama")
    model.model.to(torch.bfloat16)
    found = cross_entropy(model, perfect(), TEXTS)
    assert found.spliced == found.clean != found.zero


def test_what_is_recovered_is_a_share_of_what_could_be_lost():
    found = CrossEntropy(clean=2.0, spliced=2.5, zero=4.0, mean=3.0)
    assert (found.recovered, found.recovered_from_mean) == (0.75, 0.5)
