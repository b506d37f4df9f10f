"""Interventions compute what their formulas say, at the tokens that their positions name."""

import re
from dataclasses import replace

import pytest
import torch
from small_models import clamped, other_sae, small, small_sae, vector

from personalib.features.saes import load_sae
from personalib.models.hooks import stream_at
from personalib.models.parts import Site
from personalib.steering.interventions import (
    POSITIONS,
    REPOSITORY_BLOCKS,
    Ablate,
    Add,
    Clamp,
    at_positions,
    check_site,
    masks,
    repe_rule,
    repository_rule,
    sae_rule,
)
from personalib.vectors.vector import SteeringVector

SITE = Site(1)
ANY_POSITIONS = "choose one of last, prompt, prompt_except_last, before_options, response, all"


def stream(*shape, seed=0):
    return 2 * torch.randn(*shape, 24, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sae():
    return load_sae("organism", "resid_post.1/width_512")


@pytest.fixture(scope="module")
def read(organism, sae):
    """What the organism's SAE reads at the tokens of a text, shape (tokens, width)."""
    ids = organism.tokenizer("I am a woman. I live in a small town and I like to read.")["input_ids"]
    with torch.inference_mode():
        return stream_at(organism.model, {"input_ids": torch.tensor([ids])}, sae.site)[0]


# Values


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("coefficient", [1.0, -2.5, 0.0])
def test_a_vector_is_added_so_many_times(shape, coefficient):
    one, x = Add(vector(SITE, 1), coefficient), stream(*shape)
    torch.testing.assert_close(one.change()(x), x + coefficient * vector(SITE, 1).direction)
    assert one.site == SITE and one.positions == "prompt"


def test_a_coefficient_is_one_unless_it_is_given():
    assert Add(vector(SITE)) == Add(vector(SITE), 1.0, "prompt")
    assert Ablate(vector(SITE)) == Ablate(vector(SITE), 1.0, "prompt")
    assert Add(vector(SITE)) != Add(vector(SITE), -1.0) != Ablate(vector(SITE), -1.0)
    assert len({Add(vector(SITE)), Add(vector(SITE)), Ablate(vector(SITE))}) == 2


def test_nothing_given_is_changed():
    x = stream(2, 3)
    before = x.clone()
    for one in (Add(vector(SITE, 1)), Ablate(vector(SITE, 1)), Clamp(small_sae(SITE), (1, 2), 3.0)):
        assert one.change()(x).shape == x.shape and torch.equal(x, before)
        assert not torch.allclose(one.change()(x), x)


@pytest.mark.parametrize("one", [Add(vector(SITE, 1)), Ablate(vector(SITE, 1)), Clamp(small_sae(SITE), (1,), 3.0)])
def test_a_stream_of_half_precision_stays_one(one):
    x = stream(2, 3)
    found = one.change()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), one.change()(x.bfloat16().float()), rtol=0.02, atol=0.1)


def test_ablating_leaves_nothing_along_the_direction():
    one, x = Ablate(vector(SITE, 1)), stream(2, 3)
    unit = vector(SITE, 1).direction / vector(SITE, 1).direction.norm()
    found = one.change()(x)
    assert (x @ unit).abs().min() > 0.05 and (found @ unit).abs().max() < 1e-5
    # Across it everything is as before, and a second time nothing is left to take.
    torch.testing.assert_close(found, x - (x @ unit)[..., None] * unit, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.change()(found), found, rtol=0, atol=1e-5)
    across = x - (x @ unit)[..., None] * unit
    torch.testing.assert_close(one.change()(across), across, rtol=0, atol=1e-5)


def test_ablating_by_hand():
    """What (3, 4) has of (0, 2) is (0, 4)."""
    up = SteeringVector(torch.tensor([0.0, 2.0]), SITE, "up", "by hand", "toy", "1")
    x = torch.tensor([[3.0, 4.0]])
    assert Ablate(up).change()(x).tolist() == [[3.0, 0.0]]
    assert Ablate(up, 0.25).change()(x).tolist() == [[3.0, 3.0]]
    assert Add(up, -0.5).change()(x).tolist() == [[3.0, 3.0]]


# Features held at a value


def encoded_by_hand(sae, x):
    """A JumpReLU SAE that takes its decoder's bias off first: before and after the threshold."""
    weights = sae.network
    before = (x - weights.b_dec) @ weights.W_enc + weights.b_enc
    return before, before * (before > weights.threshold)


def test_a_clamped_feature_of_the_organism_moves_the_stream_along_its_row_of_the_decoder(sae, read):
    before, features = encoded_by_hand(sae, read)
    torch.testing.assert_close(sae.encode(read), features)
    rows = sae.network.W_dec
    often = int((features > 0).sum(0).argmax())
    never = int((features > 0).sum(0).argmin())
    assert (features[:, often] > 0).sum() > 0 and (features[:, never] == 0).all()
    for value in (0.0, 3.0, -1.0):
        one = Clamp(sae, (often, never), value)
        found = one.change()(read[None])[0]
        own = read + (value - features[:, [often, never]]) @ rows[[often, never]]
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
        # Encoded anew, each feature reads what was written by as much as it reads of the rows.
        change = (value - features[:, [often, never]]) @ (rows[[often, never]] @ sae.network.W_enc)
        torch.testing.assert_close(encoded_by_hand(sae, found)[0], before + change, rtol=1e-3, atol=1e-3)
    assert one.site == sae.site == Site(1)


def test_a_feature_that_is_clamped_to_its_own_value_changes_nothing(sae, read):
    features = sae.encode(read)
    token, feature = divmod(int(features.argmax()), sae.width)
    found = Clamp(sae, (feature,), float(features[token, feature])).change()(read)
    torch.testing.assert_close(found[token], read[token], rtol=0, atol=1e-5)
    others = (features[:, feature] - features[token, feature]).abs() > 0.1
    assert others.any() and ((found - read)[others].abs().amax(1) > 1e-3).all()
    silent = (features == 0).all(0).nonzero()[:2, 0].tolist()
    torch.testing.assert_close(Clamp(sae, tuple(silent), 0.0).change()(read), read, rtol=0, atol=1e-5)


def test_a_feature_named_twice_is_clamped_once():
    x, made = stream(2, 3), small_sae(SITE)
    assert torch.equal(Clamp(made, (4, 4), 2.0).change()(x), Clamp(made, (4,), 2.0).change()(x))


@pytest.mark.parametrize("kind", ["jumprelu", "jumprelu, shifted", "topk", "gated"])
def test_a_clamp_is_what_its_whole_sae_writes(kind):
    """Also where only the rows of its features are used, as they are where features stand apart."""
    x, made, features = stream(2, 3), other_sae(kind, SITE), tuple(range(20))
    expected = x + made.written(x.reshape(6, 24), features, 1.5).reshape(2, 3, 24)
    assert Clamp(made, features, 1.5).separable is kind.startswith("jumprelu")
    torch.testing.assert_close(Clamp(made, features, 1.5).change()(x), expected, rtol=1e-4, atol=1e-4)


def written_by_hand(sae, x, features, value):
    """An SAE of normalised tokens, each of which gets back by what it was scaled."""
    weights = sae.network
    centred = x - x.mean(-1, keepdim=True) if sae.centred else x
    if sae.normalisation == "layer_norm":
        scale = centred.std(-1, keepdim=True)
        scaled = (centred - centred.mean(-1, keepdim=True)) / (scale + 1e-5)
    else:
        scale = centred.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        scaled = centred / scale
    found = torch.relu((scaled - weights.b_dec) @ weights.W_enc + weights.b_enc)
    held = found.clone()
    held[:, list(features)] = value
    return (held - found) @ weights.W_dec * scale


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_features_of_an_sae_that_normalises_are_written_in_the_streams_unit(normalisation, centred):
    made = small_sae(SITE, 2, normalisation=normalisation, centred=centred)
    x = stream(7) * torch.logspace(-1, 1, 7)[:, None] + 0.5
    own = written_by_hand(made, x, (3, 17), 2.0)
    torch.testing.assert_close(made.written(x, (3, 17), 2.0), own, rtol=1e-4, atol=1e-4)
    found = Clamp(made, (3, 17), 2.0).change()(x.reshape(7, 1, 24))
    torch.testing.assert_close(found.reshape(7, 24), x + own, rtol=1e-4, atol=1e-4)
    # Other tokens that came between leave nothing behind, and nor does this.
    plain = made.reconstruct(x)
    made.written(x.flip(0), (1,), 0.0)
    torch.testing.assert_close(made.reconstruct(x), plain)
    torch.testing.assert_close(made.written(x, (3, 17), 2.0), own, rtol=1e-4, atol=1e-4)
    assert not any(name in vars(made.network) for name in ("ln_mu", "ln_std", "x_norm_coeff"))


@pytest.mark.parametrize("centred", [False, True])
def test_features_of_an_sae_that_does_not_normalise_are_written_as_they_are(centred):
    made, x = small_sae(SITE, 2, centred=centred), stream(7) + 0.5
    own = x - x.mean(-1, keepdim=True) if centred else x
    expected = torch.stack([clamped(made, row, (5,), -1.0) - row for row in own])
    torch.testing.assert_close(made.written(x, [5], -1.0), expected, rtol=1e-4, atol=1e-4)


# Errors


@pytest.mark.parametrize(
    "make",
    [
        lambda positions: Add(vector(SITE), 1.0, positions),
        lambda positions: Ablate(vector(SITE), 1.0, positions),
        lambda positions: Clamp(small_sae(SITE), (1,), 1.0, positions),
    ],
)
def test_unknown_positions_are_refused_with_those_that_there_are(make):
    for positions in POSITIONS:
        assert make(positions).positions == positions
    with pytest.raises(ValueError, match=f"unknown positions 'first'; {ANY_POSITIONS}"):
        make("first")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_what_is_no_finite_number_is_refused(number):
    """Or none in the format that the residual stream has at the most."""
    for kind in (Add, Ablate):
        with pytest.raises(ValueError, match=re.escape(f"coefficient {number}; pass a finite number")):
            kind(vector(SITE), number)
    with pytest.raises(ValueError, match=re.escape(f"value {number}; pass a finite number")):
        Clamp(small_sae(SITE), (1,), number)


def test_a_direction_of_no_length_cannot_be_ablated():
    with pytest.raises(ValueError, match="is zero and has no direction"):
        Ablate(vector(SITE) * 0.0)


@pytest.mark.parametrize("features", [(), (48,), (1, -1), (0, 47, 100)])
def test_features_that_there_are_not_are_refused(features):
    with pytest.raises(ValueError, match="sae0 has features 0 to 47"):
        Clamp(small_sae(SITE), features, 1.0)
    assert Clamp(small_sae(SITE), (0, 47), 1.0).features == (0, 47)


@pytest.mark.parametrize(
    ("site", "width"), [(Site(3), 24), (Site(-1), 24), (Site(3, "resid_pre"), 24), (Site(0), 25), (Site(0, "mlp"), 24)]
)
def test_what_does_not_fit_a_model_is_named(llama, site, width):
    problem = rf"it has {width} coordinates at {site}, and llama has 24 and blocks 0 to 2; it was made for gpt"
    with pytest.raises(ValueError, match=problem):
        check_site(llama, site, width, "it", "gpt")


@pytest.mark.parametrize(("site", "width"), [(Site(3), 24), (Site(1), 16)])
def test_interventions_of_another_model_are_named(llama, site, width):
    problem = rf"has {width} coordinates at {site}, and llama has 24 and blocks 0 to 2; it was made for"
    for kind in (Add, Ablate):
        with pytest.raises(ValueError, match=f"v0 {problem} another model"):
            kind(vector(site, width=width)).check_fits(llama)
    made = small_sae(site, width=width)
    with pytest.raises(ValueError, match=f"sae0 {problem} another model"):
        Clamp(made, (1,), 0.0).check_fits(llama)
    with pytest.raises(ValueError, match=f"sae0 {problem} gpt2-small"):
        Clamp(replace(made, model="gpt2-small"), (1,), 0.0).check_fits(llama)


# Positions


def rows_of(*texts, letter):
    """Where a letter stands: P is of the prompt, L its last token, A of the answer, a dot is padding."""
    return torch.tensor([[each in letter for each in text] for text in texts])


# Padded on the left, on the right and on both sides, and with padding in the middle; without prompt or answer.
TEXTS = ["PPPPLAA", "..PPPLA", "PPLAA..", ".PLAA..", "P.PL.AA", ".....L.", "AAAAAAA", ".......", "PPPPPPL", "LAAAAAA"]


def test_positions_are_told_in_rows_written_by_hand():
    found = masks(rows_of(*TEXTS, letter="PLA"), rows_of(*TEXTS, letter="A"))
    expected = {"last": "LA", "prompt": "PL", "prompt_except_last": "P", "response": "A", "all": "PLA"}
    assert found.keys() == POSITIONS.keys() == {*expected, "before_options"}
    for name, letters in expected.items():
        assert found[name].dtype == torch.bool
        assert found[name].tolist() == rows_of(*TEXTS, letter=letters).tolist(), name


def test_options_are_told_from_what_stands_before_them():
    """O is of the options; the number is that of tokens before them, padding left out."""
    texts = ["PPPOOOL", "..PPOOL", "P.POOL.", "..OOOOL", "..PPPPL"]
    found = masks(rows_of(*texts, letter="POL"), rows_of(*texts, letter="A"), torch.tensor([3, 2, 2, 0, 5]))
    assert torch.equal(
        found["before_options"], rows_of("PPP....", "..PP...", "P.P....", ".......", "..PPPPP", letter="P")
    )


def test_padding_that_is_said_to_be_of_the_answer_stays_padding():
    real, answer = rows_of("PLA.", letter="PLA"), rows_of("PLA.", letter="A.")
    found = masks(real, answer)
    assert not any(mask[0, 3] for mask in found.values()) and found["response"].tolist() == [
        [False, False, True, False]
    ]


@pytest.mark.parametrize("positions", POSITIONS)
def test_only_the_named_tokens_are_changed(positions):
    where = masks(rows_of(*TEXTS, letter="PLA"), rows_of(*TEXTS, letter="A"))
    one, x = Ablate(vector(SITE, 1), 0.5, positions), stream(len(TEXTS), len(TEXTS[0]))
    found, named = at_positions(one, where)(x), where[positions]
    assert torch.equal(found[~named], x[~named])
    torch.testing.assert_close(found[named], one.change()(x)[named])
    assert ((found - x)[named].abs().amax(1) > 1e-3).all()


def test_a_token_of_padding_that_is_no_number_spoils_nothing():
    """Some architectures leave such numbers at padding."""
    where = masks(rows_of(".PL", letter="PL"), torch.zeros(1, 3, dtype=torch.bool))
    x = stream(1, 3)
    x[0, 0] = torch.nan
    for one in (Add(vector(SITE, 1), 1.0, "all"), Ablate(vector(SITE, 1), 1.0, "all")):
        found = at_positions(one, where)(x)
        assert found[0, 0].isnan().all() and found[0, 1:].isfinite().all()


# Presets


def test_the_rule_for_features_adds_the_sum_of_their_rows(llama):
    made = small_sae(SITE, 4)
    (one,) = sae_rule(made, [3, 40, 7], -1.5, llama)
    rows = made.network.W_dec
    torch.testing.assert_close(one.vector.direction, rows[3] + rows[40] + rows[7])
    assert isinstance(one, Add)
    assert (one.coefficient, one.positions, one.site) == (-1.5, "prompt_except_last", SITE)
    assert one.vector.name == "features 3, 40, 7" and one.vector.model == "llama"


def test_the_rule_for_contrast_vectors_adds_a_unit_vector_at_the_last_token():
    (one,) = repe_rule(vector(SITE, 1), 6.0)
    assert isinstance(one, Add) and (one.coefficient, one.positions, one.site) == (6.0, "last", SITE)
    assert one.vector.norm == pytest.approx(1.0, abs=1e-6)
    assert one.vector.cosine(vector(SITE, 1)) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="is zero and has no direction"):
        repe_rule(vector(SITE) * 0.0, 6.0)


def test_the_rule_of_the_code_release_steers_the_last_nine_blocks():
    assert REPOSITORY_BLOCKS == 9
    deep = small("llama", num_hidden_layers=12, layer_types=None)
    vectors = [vector(Site(layer), layer) for layer in range(12)]
    others = [vector(Site(7, "resid_pre"), 50)]
    # In whatever order, and with those of other sites among them.
    found = repository_rule([*others, *vectors[::-1]], -2.0, deep)
    assert [one.site for one in found] == [Site(layer) for layer in range(3, 12)]
    for one in found:
        assert isinstance(one, Add) and (one.coefficient, one.positions) == (-2.0, "all")
        assert one.vector == vectors[one.site.layer].unit()
    assert repository_rule(vectors[3:], -2.0, deep) == found


@pytest.mark.parametrize(
    ("layers", "found"),
    [([0, 2], r"\[0, 2\]"), ([0, 1, 1, 2], r"\[0, 1, 1, 2\]"), ([], r"\[\]"), ([0, 1, 5], r"\[0, 1\]")],
)
def test_the_rule_of_the_code_release_needs_one_vector_for_every_block(llama, layers, found):
    problem = f"the rule steers what blocks 0 to 2 leave; there are vectors of blocks {found}"
    with pytest.raises(ValueError, match=problem):
        repository_rule([vector(Site(layer), layer) for layer in layers], 1.0, llama)
