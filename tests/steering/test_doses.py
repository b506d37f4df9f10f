"""A dose is a share of the stream's own length, and the largest one is found as far as a guard holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import WIDTH, small, vector

from personalib.models.parts import Site
from personalib.steering.doses import at_dose, combined, random_directions, site_norms
from personalib.steering.guards import neutral_exchanges
from personalib.vectors.vector import SteeringVector

# Of one word, of several, with a special token in the middle; an even number of words and two of one text.
TEXTS = ["w1 w2 w3", "w4", "w5 w6 <pad> w7 w8", "w9 w10 w11 w12 w13 w14 w15 w16 w17 w18", "w4"]


def norms_by_hand(language_model, texts, sites, special):
    """The median length over all tokens of texts, each run by itself, but for some tokens."""
    lengths = {site: [] for site in sites}
    for text in texts:
        ids = language_model.tokenizer.encode(text, add_special_tokens=not text.startswith("<bos>"))
        with torch.inference_mode():
            states = language_model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for site in sites:
            # The first of them is what the first block reads.
            stream = states[site.layer + (site.stream == "resid_post")][0].double()
            lengths[site] += [
                float((row**2).sum() ** 0.5) for row, token in zip(stream, ids, strict=True) if token not in special
            ]
    return {site: np.median(own) for site, own in lengths.items()}, len(lengths[sites[0]])


def plain(values):
    return SteeringVector(torch.tensor(values), Site(1), "plain", "by_hand", "toy", "1")


# Norms


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2"])
def test_a_sites_norm_is_the_median_over_all_words(name, tmp_path):
    # What the last block leaves is not among a model's hidden states: those end with a norm.
    sites = [Site(1), Site(0, "resid_pre"), Site(0), Site(2, "resid_pre")]
    found = site_norms(small(name), TEXTS, sites, tmp_path)
    expected, count = norms_by_hand(small(name), TEXTS, sites, special={0, 1})
    assert list(found) == sites and count == 3 + 1 + 4 + 10 + 1
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[Site(1)] == pytest.approx(found[Site(2, "resid_pre")]) != pytest.approx(found[Site(0)], rel=0.01)
    with_special, _ = norms_by_hand(small(name), TEXTS, sites, special=set())
    assert found != pytest.approx(with_special, rel=1e-3)


def test_the_marks_of_a_chat_do_not_count(organism, tmp_path):
    sites = [Site(0), Site(2)]
    prompts = [prompt for prompt, _ in neutral_exchanges(organism, 6, contexts=["I am a woman.", ""])]
    marks = {organism.tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("bos", "start_of_turn", "end_of_turn")}
    expected, _ = norms_by_hand(organism, prompts, sites, marks)
    assert site_norms(organism, prompts, sites, tmp_path) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("texts", "sites"), [([], [Site(1)]), (["w1"], []), (["w1"], [Site(3)])])
def test_there_have_to_be_texts_and_sites_that_there_are(texts, sites, tmp_path):
    with pytest.raises(ValueError, match=r"no sites or no texts|no site of this model"):
        site_norms(small("llama"), texts, sites, tmp_path)


# Doses


@pytest.mark.parametrize("dose", [0.25, 1.0, 3.0, -0.5, 0.0])
def test_a_vector_at_a_dose_is_so_long_and_points_the_same_way_or_the_other(dose):
    one, norm = vector(Site(1), 3), 7.5
    found = at_dose(one, dose, norm)
    assert found.norm == pytest.approx(abs(dose) * norm, rel=1e-6)
    if dose:
        assert found.cosine(one) == pytest.approx(np.sign(dose), abs=1e-6)
    assert (found.site, found.model, found.revision) == (one.site, one.model, one.revision)


def test_a_dose_by_hand():
    np.testing.assert_allclose(at_dose(plain([3.0, 0.0, -4.0]), -0.5, 20).direction, [-6.0, 0.0, 8.0], rtol=1e-6)


def test_a_zero_vector_has_no_dose():
    with pytest.raises(ValueError, match="plain is zero and has no direction"):
        at_dose(plain([0.0, 0.0]), 1.0, 5.0)


# Combinations


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_sum_is_the_sum(count):
    parts = [vector(Site(1), seed) for seed in range(count)]
    expected = np.sum([one.direction.double().numpy() for one in parts], axis=0)
    for found in (combined(parts), combined(parts, "sum")):
        np.testing.assert_allclose(found.direction, expected, rtol=0, atol=1e-5)
        assert found.site == Site(1) and found.model == parts[0].model


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_norm_matched_sum_points_where_the_sum_does_and_is_as_long_as_its_parts_are_on_average(count):
    parts = [vector(Site(1), seed, size=1.0 + seed) for seed in range(count)]
    found, total = combined(parts, "norm_matched"), combined(parts)
    assert found.norm == pytest.approx(np.mean([np.linalg.norm(one.direction) for one in parts]), rel=1e-5)
    assert found.cosine(total) == pytest.approx(1)
    if count > 1:
        assert found.norm != pytest.approx(total.norm, rel=0.1)


def test_combinations_by_hand():
    """At right angles a sum is longer than its parts, by the square root of two where these are equally long."""
    parts = [plain([3.0, 0.0, 0.0]), plain([0.0, 3.0, 0.0])]
    assert combined(parts).norm == pytest.approx(3 * 2**0.5)
    np.testing.assert_allclose(combined(parts, "norm_matched").direction, [3 / 2**0.5, 3 / 2**0.5, 0.0], rtol=1e-6)
    unequal = [plain([4.0, 0.0]), plain([2.0, 0.0])]
    np.testing.assert_allclose(combined(unequal, "norm_matched").direction, [3.0, 0.0], rtol=1e-6)


def test_what_rounding_leaves_of_nothing_is_not_lengthened():
    """Three vectors of one length, each a third of a turn from the next."""
    turns = 0.3 + torch.arange(3) * 2 * torch.pi / 3
    rows = torch.stack([turns.cos(), turns.sin()], dim=1)
    parts = [replace(vector(Site(1), 3), direction=row) for row in rows]
    assert 0 < combined(parts).norm < 1e-6
    with pytest.raises(ValueError, match="is zero but for rounding"):
        combined(parts, "norm_matched")


@pytest.mark.parametrize("how", ["sum", "norm_matched"])
def test_vectors_that_do_not_belong_together_are_refused(how):
    with pytest.raises(ValueError, match=r"differ in site: resid_post\.1 and resid_pre\.1"):
        combined([vector(Site(1), 0), vector(Site(1, "resid_pre"), 1)], how)
    with pytest.raises(ValueError, match=f"have {WIDTH} and 8 coordinates"):
        combined([vector(Site(1), 0), vector(Site(1), 1, width=8)], how)
    with pytest.raises(ValueError, match="there are no vectors to combine"):
        combined([], how)


def test_an_unknown_combination_is_refused():
    with pytest.raises(ValueError, match="how='mean'; choose sum or norm_matched"):
        combined([vector(Site(1))], "mean")


# Random directions

LIKE = vector(Site(2, "resid_pre"), 5, width=128)


def test_random_directions_are_as_long_as_the_vector_and_stand_at_its_site():
    found = random_directions(LIKE, 6)
    assert len(found) == 6 and len(random_directions(LIKE)) == 10 and random_directions(LIKE, 0) == []
    for one in found:
        assert one.norm == pytest.approx(LIKE.norm, rel=1e-6) and one.direction.dtype == torch.float32
        assert (one.site, one.model, one.revision) == (LIKE.site, LIKE.model, LIKE.revision)
        assert one.method == "random" and one.texts == ""
        LIKE.check_fits(one)
    assert len({one.name for one in found}) == 6


def test_the_seed_decides_the_directions():
    first, second, other = (random_directions(LIKE, 4, seed) for seed in (1, 1, 2))
    assert first == second
    assert all(abs(one.cosine(another)) < 0.5 for one in first for another in other)


def test_they_are_at_right_angles_to_each_other_and_to_the_vector_on_average():
    """The cosines are 0 in their mean, and their squares one over the number of coordinates."""
    found = random_directions(LIKE, 80)
    among = np.array([one.cosine(other) for place, one in enumerate(found) for other in found[:place]])
    with_it = np.array([one.cosine(LIKE) for one in found])
    assert abs(among.mean()) < 0.01 and (among**2).mean() == pytest.approx(1 / 128, rel=0.15)
    assert abs(with_it.mean()) < 0.03 and (with_it**2).mean() == pytest.approx(1 / 128, rel=0.5)


def test_nothing_has_no_controls():
    with pytest.raises(ValueError, match="is zero, and so would be its controls"):
        random_directions(vector(Site(1), 1) * 0.0)
