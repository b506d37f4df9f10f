"""Steering vectors are values with the algebra of vectors, and files give back every bit of them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from personalib.base.data import DataError
from personalib.models.parts import Site
from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors, texts_hash

WIDTH = 7
ABOUT = {"name": "pressures.trust", "method": "lda", "model": "toy", "revision": "abc123", "texts": "0123456789ab"}
# What else a vector belongs to; two that differ in one of these do not go together.
ELSEWHERE = [{"site": Site(2)}, {"site": Site(3, "resid_pre")}, {"model": "other"}, {"revision": "def456"}]


def vector(seed=0, **changes):
    values = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(**{"direction": values, "site": Site(3), **ABOUT} | changes)


def values(one):
    return one.direction.numpy()


# Algebra


def test_sums_and_multiples_are_those_of_the_numbers():
    one, other = vector(1), vector(2)
    np.testing.assert_array_equal(values(one + other), values(one) + values(other))
    np.testing.assert_array_equal(values(one - other), values(one) - values(other))
    np.testing.assert_array_equal(values(-one), -values(one))
    np.testing.assert_array_equal(values(2 * one), 2 * values(one))
    np.testing.assert_array_equal(values(one / 4), values(one) / 4)
    assert one.norm == pytest.approx(np.linalg.norm(values(one).astype(float)))
    for factor in (0, -3, np.float64(2.5), np.float32(0.1)):
        assert (factor * one).norm == pytest.approx(abs(factor) * one.norm)


def test_a_unit_vector_has_norm_one_and_the_same_direction():
    one = 37 * vector()
    assert one.unit().norm == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(values(one.unit()) * one.norm, values(one), rtol=1e-6)
    np.testing.assert_allclose(values(one.unit().unit()), values(one.unit()), rtol=1e-6)
    assert one.unit().header() == one.header() | {"norm": one.unit().norm}, "it is still the same thing"


def test_the_cosine_is_that_of_the_angle():
    one, other = vector(1), vector(2)
    assert one.cosine(one) == pytest.approx(1, abs=1e-6)
    assert one.cosine(-one) == pytest.approx(-1, abs=1e-6)
    assert one.cosine(5 * other) == pytest.approx(one.cosine(other), abs=1e-6) == other.cosine(one)
    expected = values(one) @ values(other) / np.linalg.norm(values(one)) / np.linalg.norm(values(other))
    assert one.cosine(other) == pytest.approx(expected, abs=1e-6)
    east, north = (vector(direction=torch.tensor(each)) for each in ([2.0, 0.0], [0.0, 3.0]))
    assert east.cosine(north) == 0 and east.cosine(east + 2 / 3 * north) == pytest.approx(0.5**0.5)


def test_projections_are_lengths_along_the_direction():
    one = vector()
    rows = np.random.default_rng(0).normal(size=(4, 3, WIDTH))
    found = one.projection(rows)
    assert found.shape == (4, 3) and found.dtype == np.float64
    np.testing.assert_allclose(found, rows @ values(one) / one.norm, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((9 * one).projection(rows), found, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.projection(rows + 2 * values(one.unit())), found + 2, rtol=1e-5, atol=1e-5)
    assert one.projection(values(one)) == pytest.approx(one.norm)


def test_what_comes_out_says_what_it_was_made_of():
    one, other = vector(name="a", method="lda", texts="t"), vector(name="b", method="pca", texts="u")
    assert (one + other).name == "(a) + (b)" and (one - other).name == "(a) - (b)"
    assert (2 * one).name == "2 * (a)" and (one / 0.5).name == "(a) / 0.5" and (-one).name == "-(a)"
    assert (one + other).method == "lda, pca" and (one + one).method == (2 * one).method == "lda"
    assert (one + one).texts == (-one).texts == "t" and (one + other).texts == texts_hash(["t", "u"])
    for made in (one + other, one - other, 2 * one, one / 2, -one, one.unit()):
        assert (made.site, made.model, made.revision) == (Site(3), "toy", "abc123")


@pytest.mark.parametrize("change", ELSEWHERE, ids=str)
def test_vectors_that_belong_elsewhere_are_not_combined(change):
    one, other = vector(name="a"), vector(name="b", **change)
    [(what, theirs)] = change.items()
    for combine in (SteeringVector.__add__, SteeringVector.__sub__, SteeringVector.cosine):
        with pytest.raises(ValueError, match=f"^a and b differ in {what}: {getattr(one, what)} and {theirs}$"):
            combine(one, other)
        with pytest.raises(ValueError, match="a and b have 7 and 2 coordinates"):
            combine(one, vector(name="b", direction=torch.ones(2)))


@pytest.mark.parametrize("other", [1, 0.0, "a", None, torch.ones(WIDTH)])
def test_only_vectors_are_added(other):
    with pytest.raises(TypeError):
        vector() + other
    with pytest.raises(TypeError):
        vector() - other


def test_zero_has_no_direction():
    zero = vector() * 0
    cosines = (lambda: zero.cosine(vector()), lambda: vector().cosine(zero))
    for use in (zero.unit, *cosines, lambda: zero.projection(np.ones(WIDTH))):
        with pytest.raises(ValueError, match="is zero and has no direction"):
            use()


@pytest.mark.parametrize("shape", [(WIDTH + 1,), (WIDTH, 2), (3, 1), ()])
def test_activations_of_another_width_are_not_projected(shape):
    with pytest.raises(ValueError, match="trust has 7 coordinates, the activations"):
        vector().projection(np.ones(shape))


# Values


def test_the_tensor_that_it_was_made_of_can_change_without_it():
    given = torch.arange(1.0, 4.0)
    one = vector(direction=given)
    before = hash(one)
    given += 1
    assert values(one).tolist() == [1.0, 2.0, 3.0]
    assert hash(one) == before and one == vector(direction=torch.arange(1.0, 4.0)) != vector(direction=given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_the_numbers_are_kept_as_float32_whatever_was_given(dtype):
    given = torch.tensor([1, 2, -3], dtype=dtype)
    if dtype.is_floating_point:
        given.requires_grad_(True)
    one = vector(direction=given)
    assert one.direction.dtype == torch.float32 and not one.direction.requires_grad
    assert values(one).tolist() == [1.0, 2.0, -3.0]
    assert vector(direction=torch.arange(12.0).reshape(3, 4)[:, 1]).direction.is_contiguous()


def test_equal_vectors_are_one_key_and_nothing_about_them_can_be_set():
    with pytest.raises(dataclasses.FrozenInstanceError):
        vector().name = "another"
    assert vector() == vector() and hash(vector()) == hash(vector()) and vector() is not vector()
    assert len({vector(), vector(), vector(1)}) == 2
    changes = [{"name": "a"}, {"method": "a"}, {"texts": ""}, *ELSEWHERE]
    changed = [vector(), *(vector(**change) for change in changes), vector(1)]
    assert len(set(changed)) == len(changed)
    assert all(vector() != other for other in changed[1:])
    assert vector() != "trust" and vector() != values(vector()).tolist()


@pytest.mark.parametrize(
    "direction",
    [torch.ones(2, 2), torch.tensor(1.0), torch.ones(0), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])],
)
def test_what_is_no_vector_is_refused(direction):
    with pytest.raises(ValueError, match=r"^pressures\.trust: shape \(.*\); pass one vector of finite numbers"):
        vector(direction=direction)
    with pytest.raises(ValueError, match=r"\(pressures\.trust\) / 0: .*finite numbers"):
        vector() / 0


def test_the_hash_of_texts_knows_their_order_and_their_bounds():
    different = [["a", "b"], ["b", "a"], ["ab"], ["a b"], ["a", "b", ""], []]
    assert len({texts_hash(each) for each in different}) == len(different)
    assert texts_hash(["a", "b"]) == texts_hash(iter(["a", "b"]))


# Files


def test_a_file_gives_back_every_bit_and_everything_about_it(tmp_path):
    one = vector(direction=torch.tensor([1 / 3, -0.0, 1e-42, 3.4e38]), site=Site(0, "resid_pre"))
    one.save(tmp_path / "trust.safetensors")
    found = SteeringVector.load(tmp_path / "trust.safetensors")
    assert found == one and hash(found) == hash(one)
    assert values(found).tobytes() == values(one).tobytes()
    assert dataclasses.replace(found, direction=one.direction).header() == one.header()
    assert [path.name for path in tmp_path.iterdir()] == ["trust.safetensors"]


def test_the_header_is_there_for_whoever_reads_safetensors(tmp_path):
    save_vectors([vector(1), 2 * vector(2, site=Site(5))], tmp_path / "two.safetensors")
    with safe_open(tmp_path / "two.safetensors", "np") as file:
        [(key, written)] = file.metadata().items()
        header = json.loads(written)
        assert sorted(file.keys()) == ["0", "1"]
        for number, one in enumerate((vector(1), 2 * vector(2))):
            np.testing.assert_array_equal(file.get_tensor(str(number)), values(one))
    assert key == "steering_vectors" and set(header) == {"format", "layer_indexing", "vectors"}
    assert header["format"] == "personalib.steering_vectors/1"
    assert "counted from 0" in header["layer_indexing"]
    shared = {"method": "lda", "model": "toy", "revision": "abc123", "texts": "0123456789ab"}
    assert header["vectors"] == [
        shared | {"name": "pressures.trust", "site": "resid_post.3", "norm": vector(1).norm},
        shared | {"name": "2 * (pressures.trust)", "site": "resid_post.5", "norm": (2 * vector(2)).norm},
    ]


def test_a_file_holds_several_vectors_in_their_order(tmp_path):
    # More than ten: the tensors' names sort otherwise than their numbers.
    several = [vector(seed, site=Site(seed), name=f"n{seed}") for seed in range(12)]
    save_vectors(several, tmp_path / "several.safetensors")
    assert load_vectors(tmp_path / "several.safetensors") == several
    with pytest.raises(DataError, match=r"several\.safetensors: holds 12 vectors; read them with load_vectors"):
        SteeringVector.load(tmp_path / "several.safetensors")


def test_the_same_vectors_are_the_same_bytes_and_replace_what_is_there(tmp_path):
    save_vectors([vector(1), vector(2)], tmp_path / "a")
    for name in ("a", "b", "c"):
        vector().save(tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1


def test_no_vectors_and_no_folder_are_refused_when_saving(tmp_path):
    with pytest.raises(ValueError, match="there is no vector to save"):
        save_vectors([], tmp_path / "none.safetensors")
    with pytest.raises(DataError, match=r"there is no folder .*none; make it"):
        vector().save(tmp_path / "none" / "trust.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.safetensors: no such file; save vectors with save_vectors"):
        SteeringVector.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_or_is_of_another_kind_is_named(keep, tmp_path):
    path = tmp_path / "cut.safetensors"
    vector().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    (tmp_path / "text").write_text("name,value\ntrust,1\n")
    save_file({"0": vector().direction}, tmp_path / "odd", {"steering_vectors": "["})
    for broken in (path, tmp_path / "text", tmp_path / "odd", tmp_path):
        with pytest.raises(DataError, match=f"^{broken}: cannot be read as steering vectors"):
            load_vectors(broken)


def changed_file(path, **changes):
    """A file with another header: what is None is left out."""
    vector().save(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["steering_vectors"]) | changes
    kept = {key: value for key, value in header.items() if value is not None}
    save_file(load_file(path), path, {"steering_vectors": json.dumps(kept)})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": None}, "cannot be read as steering vectors: format: is missing"),
        ({"format": "personalib.steering_vectors/2"}, "cannot be read .*: format: .*, not 'personalib.*/2'"),
        ({"vectors": None}, "cannot be read as steering vectors: vectors: is missing"),
        ({"vectors": []}, "holds no vector; write it again with save_vectors"),
        ({"vectors": 1}, "cannot be read as steering vectors"),
        ({"vectors": [vector().header()] * 2}, "cannot be read as steering vectors .*tensor 1"),
        ({"vectors": [vector().header() | {"colour": "red"}]}, "cannot be read .*colour"),
        ({"vectors": [{"site": "resid_post.1"}]}, "cannot be read as steering vectors: .*name"),
        ({"vectors": [{"name": "a"}]}, "cannot be read as steering vectors: .*site"),
        ({"vectors": ["trust"]}, "cannot be read as steering vectors"),
        ({"vectors": [vector().header() | {"site": "mlp.3"}]}, "cannot be read as steering vectors"),
        ({"vectors": [vector().header() | {"operation": "clamp"}]}, "cannot be read as steering vectors"),
    ],
)
def test_a_file_with_another_header_is_named(changes, problem, tmp_path):
    path = tmp_path / "odd.safetensors"
    changed_file(path, **changes)
    with pytest.raises(DataError, match=rf"odd\.safetensors: {problem}"):
        load_vectors(path)
