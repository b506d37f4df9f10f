"""Directions are those of two other packages, repeng and steering-vectors, on the same activations of the organism.

Both are installed past their own requirements (see peers.txt). What they compute with is theirs, but for two things
about repeng: a name that NumPy 2 removed is lent to it, and the last block's activations are given to it.
"""

import numpy as np
import pytest
import torch
from steering_vectors import mean_aggregator, pca_aggregator, train_steering_vector

from personalib.models.parts import Site
from personalib.stimuli.contrast_pairs import FAMILIES, contrast_set, contrasts
from personalib.vectors.contrast import all_sites, fit_vector, prompts, read_pairs
from personalib.vectors.methods import direction

PAIRS = 33  # an odd number: more pairs lie on one side of a direction than on the other
REPENG = [("pca_centred", "pca_diff"), ("pca", "pca_center")]
AGREE = 0.999


def cosine(one, other):
    return one @ other / (np.linalg.norm(one) * np.linalg.norm(other))


@pytest.fixture(scope="module", params=FAMILIES)
def pairs(request):
    """Pairs of the first contrast of each family."""
    contrast = contrasts(request.param)[0]
    return contrast, contrast_set(contrast, PAIRS, seed=0)


@pytest.fixture(scope="module")
def read(organism, pairs, tmp_path_factory):
    return read_pairs(organism, *pairs, all_sites(organism), tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def texts(organism, pairs):
    """The two texts of each pair. The other packages let the tokenizer add a first token to those that have one."""
    begin = organism.tokenizer.bos_token
    return [tuple(text.removeprefix(begin) for text in prompts(organism, pair)[0]) for pair in pairs[1]]


def interleaved(read, site):
    """Activations in repeng's order: positive, negative, positive, and so on."""
    return np.stack([read.positive[site], read.negative[site]], axis=1).reshape(2 * len(read.pairs), -1)


# repeng


def test_repeng_reads_what_we_read_but_after_the_last_norm_at_the_last_block(repeng, organism, read, texts):
    """Transformers gives the last hidden state after the norm that follows the blocks."""
    flat = [text for both in texts for text in both]
    numbers = [site.layer for site in read.sites]
    found = repeng.extract.batched_get_hiddens(organism.model, organism.tokenizer, flat, numbers, 32)
    *inner, last = read.sites
    for site in inner:
        np.testing.assert_allclose(found[site.layer], interleaved(read, site), atol=2e-5, err_msg=str(site))
    ours = interleaved(read, last)
    assert not np.allclose(found[last.layer], ours, atol=0.1)
    with torch.no_grad():
        normed = organism.model.model.norm(torch.from_numpy(ours)).numpy()
    np.testing.assert_allclose(found[last.layer], normed, atol=2e-5)


def by_repeng(repeng, organism, texts, layers, method, hiddens):
    """The directions of that package, of activations that a function has put in order or made."""
    entries = [repeng.extract.DatasetEntry(*both) for both in texts]
    how = {"hidden_layers": layers, "method": method, "transform_hiddens": hiddens}
    return repeng.extract.ControlVector.train(organism.model, organism.tokenizer, entries, **how).directions


@pytest.mark.parametrize(("ours", "theirs"), REPENG, ids=[theirs for _, theirs in REPENG])
def test_repengs_directions_are_ours(ours, theirs, repeng, organism, read, texts):
    """Repeng turns a direction to where most pairs point, we to where their mean does."""
    last, layers = read.sites[-1], [site.layer for site in read.sites]
    known = {last.layer: interleaved(read, last)}
    found = by_repeng(repeng, organism, texts, layers, theirs, lambda hidden: hidden | known)
    assert set(found) == set(layers)
    for site in read.sites:
        vector = fit_vector(read, site, ours).direction.numpy()
        toward = (read.positive[site] - read.negative[site]) @ vector > 0
        most = 1 if toward.mean() > 0.5 else -1
        assert most * cosine(vector, found[site.layer]) >= AGREE, site


@pytest.mark.parametrize(("ours", "theirs"), REPENG, ids=[theirs for _, theirs in REPENG])
@pytest.mark.parametrize(("differences", "side"), [([2, 1, 1, 1, -3], 1), ([-1, -1, -1, -1, 9], -1)])
def test_signs_differ_where_the_mean_and_most_pairs_do(differences, side, ours, theirs, repeng, organism):
    rng = np.random.default_rng(0)
    negative = rng.normal(size=(5, 128)).astype(np.float32)
    positive = negative + np.array(differences)[:, None] * np.eye(128, dtype=np.float32)[7]
    rows = np.stack([positive, negative], axis=1).reshape(10, -1).astype(np.float32)
    found = by_repeng(repeng, organism, [("I am.", "You are.")] * 5, [2], theirs, lambda _: {2: rows})
    assert side * cosine(direction(positive, negative, ours), found[2]) >= AGREE


# steering-vectors


def trained(organism, texts, aggregator):
    made = train_steering_vector(organism.model, organism.tokenizer, texts, aggregator=aggregator, batch_size=8)
    return {Site(number): vector.numpy() for number, vector in made.layer_activations.items()}


def test_the_mean_difference_of_steering_vectors_is_ours_in_length_and_sign_too(organism, read, texts):
    found = trained(organism, texts, mean_aggregator())
    assert tuple(sorted(found)) == read.sites
    for site in read.sites:
        vector = fit_vector(read, site, "difference_of_means").direction.numpy()
        assert cosine(vector, found[site]) >= AGREE, site
        np.testing.assert_allclose(vector, found[site], atol=1e-5, err_msg=str(site))
        assert np.abs(vector).max() > 0.1, "far above the tolerance"


def test_the_first_component_of_steering_vectors_is_ours_with_its_sign(organism, read, texts):
    """It turns the direction to where the pairs' mean points, as we do."""
    found = trained(organism, texts, pca_aggregator())
    assert tuple(sorted(found)) == read.sites
    for site in read.sites:
        assert cosine(fit_vector(read, site, "pca").direction.numpy(), found[site]) >= AGREE, site
