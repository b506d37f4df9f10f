"""Directions of other tools mean here what they mean there: the same place, the same numbers, the same logits."""

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFEndian, GGUFReader, GGUFWriter
from hostile import Trap
from safetensors.torch import save_file
from small_models import DEPTH, WIDTH, small, vector

from personalib.base.data import DataError
from personalib.base.provenance import file_hash
from personalib.models.hooks import stream_at
from personalib.models.parts import Site
from personalib.steering.application import steer
from personalib.steering.interventions import Add
from personalib.vectors.files import FORMS, WRITTEN_FORMS, form_of, read_directions, write_directions
from personalib.vectors.forms import placed
from personalib.vectors.vector import SteeringVector, save_vectors

IDS = torch.tensor([[1, 3, 7, 9, 12, 5]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path, content):
    torch.save(content, path)
    return path


def sites(vectors):
    return [str(one.site) for one in vectors]


def refused(path, message, **how):
    """Reading is one error that names the file."""
    with pytest.raises(DataError, match=message) as caught:
        read_directions(path, **how)
    assert str(path) in str(caught.value)


@torch.inference_mode()
def logits(model):
    return model(**INPUTS).logits


def steered(language_model, vectors, coefficient):
    with steer(language_model, [Add(one, coefficient, "all") for one in vectors]):
        return logits(language_model.model)


# persona-vectors


@torch.inference_mode()
def persona_vectors(model):
    """What that tool saves, made as it makes it: differences of mean hidden states."""
    means = []
    for ids in (IDS, IDS + 1):
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        means.append(torch.stack([state[0].mean(0) for state in states]))
    return means[0] - means[1]


def test_a_row_of_persona_vectors_is_the_site_that_it_was_read_at(tmp_path, llama):
    path = saved(tmp_path / "evil_response_avg_diff.pt", persona_vectors(llama.model))
    found = read_directions(path, language_model=llama)
    assert sites(read_directions(path.rename(tmp_path / "evil.resid_post.3.pt"))) == sites(found), "whatever its name"
    assert sites(found) == ["resid_pre.0", *(f"resid_post.{number}" for number in range(DEPTH))]
    assert {one.name for one in found} == {"evil_response_avg_diff"}
    for one in found[:-1]:
        streams = [stream_at(llama.model, {"input_ids": ids}, one.site)[0].mean(0) for ids in (IDS, IDS + 1)]
        torch.testing.assert_close(one.direction, streams[0] - streams[1], atol=1e-5, rtol=1e-4)


def test_the_last_row_of_persona_vectors_was_read_after_the_final_norm(tmp_path, llama):
    last = read_directions(saved(tmp_path / "evil.pt", persona_vectors(llama.model)))[-1]
    streams = [stream_at(llama.model, {"input_ids": ids}, last.site)[0] for ids in (IDS, IDS + 1)]
    assert not torch.allclose(last.direction, streams[0].mean(0) - streams[1].mean(0), atol=0.05)
    normed = [llama.model.model.norm(stream).mean(0) for stream in streams]
    torch.testing.assert_close(last.direction, (normed[0] - normed[1]).detach(), atol=1e-5, rtol=1e-4)
    assert "after the final norm" in last.method


# repeng and llama.cpp


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_control_vector_of_repeng_steers_as_repeng_does(tmp_path, repeng, name):
    language_model = small(name)
    theirs = repeng.ControlVector(name, {layer: numbers(WIDTH, seed=layer).numpy() for layer in range(DEPTH)})
    theirs.export_gguf(tmp_path / "happy.gguf")
    vectors = read_directions(tmp_path / "happy.gguf", language_model=language_model)
    assert sites(vectors) == [f"resid_post.{layer}" for layer in range(DEPTH)]
    untouched, ours = logits(language_model.model), steered(language_model, vectors, 1.5)
    model = repeng.ControlModel(language_model.model, range(DEPTH))
    model.set_control(theirs, 1.5)
    torch.testing.assert_close(ours, logits(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, untouched, atol=0.1)


def test_repeng_reads_what_we_write(tmp_path, repeng, llama):
    vectors = [SteeringVector(numbers(WIDTH, seed=n), Site(n), "trust", "pca", "llama", "1") for n in (1, 2)]
    write_directions(vectors, tmp_path / "trust.gguf", "gguf", llama)
    written = GGUFReader(tmp_path / "trust.gguf")
    for field, value in (("model_hint", "llama"), ("layer_count", 2)):
        assert written.get_field(f"controlvector.{field}").contents() == value
    assert all(tensor.data.dtype == np.float32 for tensor in written.tensors)
    theirs = repeng.ControlVector.import_gguf(tmp_path / "trust.gguf")
    assert theirs.model_type == "llama" and sorted(theirs.directions) == [1, 2]
    for one in vectors:
        np.testing.assert_array_equal(theirs.directions[one.site.layer], one.direction.numpy())


def gguf(path, tensors, architecture="controlvector", order=GGUFEndian.LITTLE):
    writer = GGUFWriter(path, architecture, endianess=order)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FLAT = np.ones(WIDTH, dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        ({"direction.1": FLAT}, {"architecture": "llama"}, "holds llama and no control vector"),
        ({"direction.-1": FLAT}, {}, "tensor direction.-1 of F32; write direction.N"),
        ({"direction.01": FLAT}, {}, "tensor direction.01 of F32; write direction.N"),
        ({"token_embd.weight": FLAT}, {}, "tensor token_embd.weight"),
        ({"direction.1": np.ones(32, np.int8)}, {}, "direction.1 of I8; write direction.N as F32"),
        ({"direction.1": np.ones((2, WIDTH), np.float32)}, {}, r"direction|shape \(2, 24\)"),
        ({"direction.1": FLAT, "direction.2": FLAT[:-1].copy()}, {}, "has 23 coordinates, others 24"),
        ({"direction.1": FLAT * np.nan}, {}, "numbers that are not finite"),
        ({}, {}, "holds no direction"),
    ],
)
def test_what_is_no_control_vector_is_one_error(tmp_path, tensors, changes, message):
    refused(gguf(tmp_path / "v.gguf", tensors, **changes), message)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_order_of_bytes_makes_no_difference(tmp_path, dtype):
    tensors = {f"direction.{number}": numbers(WIDTH, seed=number).numpy().astype(dtype) for number in (1, 2)}
    found = {}
    for order in GGUFEndian:
        # The writer turns its arrays round in place.
        copied = {name: values.copy() for name, values in tensors.items()}
        found[order] = read_directions(gguf(tmp_path / f"{order.name}.gguf", copied, order=order))
    assert (tmp_path / "BIG.gguf").read_bytes() != (tmp_path / "LITTLE.gguf").read_bytes()
    for own in found.values():
        assert sites(own) == ["resid_post.1", "resid_post.2"]
        for one, values in zip(own, tensors.values(), strict=True):
            np.testing.assert_array_equal(one.direction.numpy(), values.astype(np.float32))


# steering-vectors


@pytest.mark.parametrize("whole", [True, False])
def test_a_vector_of_steering_vectors_steers_as_that_package_does(tmp_path, whole):
    from steering_vectors import SteeringVector as Theirs

    language_model = small("llama")
    theirs = Theirs({2: numbers(WIDTH), 0: numbers(1, WIDTH, seed=1)})
    content = {"layer_activations": theirs.layer_activations, "layer_type": theirs.layer_type}
    path = saved(tmp_path / "truth.pt", content if whole else theirs.layer_activations)
    vectors = read_directions(path, language_model=language_model)
    assert sites(vectors) == ["resid_post.0", "resid_post.2"] and form_of(path) == "steering-vectors"
    with theirs.apply(language_model.model, multiplier=-2.0):
        expected = logits(language_model.model)
    torch.testing.assert_close(steered(language_model, vectors, -2.0), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(language_model.model), atol=0.1)


def test_the_package_takes_what_we_write(tmp_path, llama):
    from steering_vectors import SteeringVector as Theirs

    vectors = [vector(site) for site in (Site(0), Site(2))]
    write_directions(vectors, tmp_path / "v.pt", "steering-vectors", llama)
    theirs = Theirs(**torch.load(tmp_path / "v.pt", weights_only=True))
    with theirs.apply(llama.model, multiplier=0.5):
        expected = logits(llama.model)
    torch.testing.assert_close(steered(llama, vectors, 0.5), expected, atol=1e-5, rtol=1e-5)


def test_a_pickle_of_the_package_s_own_object_is_refused_and_the_error_says_how_to_save_it(tmp_path):
    from steering_vectors import SteeringVector as Theirs

    path = saved(tmp_path / "truth.pt", Theirs({1: numbers(WIDTH)}))
    refused(path, r"torch\.save\(\{'layer_activations': v\.layer_activations")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no mapping of layers"),
        ({-1: numbers(WIDTH)}, "no mapping of layers"),
        ({True: numbers(WIDTH)}, "no mapping of layers"),
        ([numbers(WIDTH)], "no mapping of layers"),
        ({1: [0.5, 0.5]}, "layer 1 is a list and no tensor"),
        ({1: torch.arange(WIDTH)}, "layer 1 is torch.int64 on cpu"),
        ({1: torch.zeros(WIDTH, device="meta")}, "layer 1 is torch.float32 on meta"),
        ({1: numbers(2, WIDTH)}, r"shape \(2, 24\)"),
        ({1: numbers(WIDTH), 2: numbers(3)}, "3 coordinates, others 24"),
        ({"layer_activations": {1: numbers(WIDTH)}, "layer_type": "mlp"}, "is of mlp; only decoder_block"),
    ],
)
def test_what_is_no_mapping_of_layers_is_one_error(tmp_path, content, message):
    refused(saved(tmp_path / "v.pt", content), message)


# AxBench


def axbench(folder, rows=3, concepts=("cats", "code: for loops", "trust"), layer=1):
    """Weights with the files that the benchmark keeps beside them."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "generate").mkdir(exist_ok=True)
    lines = [json.dumps({"concept_id": number, "concept": name}) for number, name in enumerate(concepts)]
    (folder / "generate" / "metadata.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    config = {"model_name": "google/gemma-2-2b-it", "layer": layer, "component": "res"}
    (folder / "train" / "config.json").write_text(json.dumps(config))
    return saved(folder / "train" / "DiffMean_weight.pt", numbers(rows, WIDTH).bfloat16())


def test_a_row_of_axbench_is_its_concept_at_the_trained_layer(tmp_path):
    path = axbench(tmp_path)
    found = read_directions(path)
    assert [one.name for one in found] == ["cats", "code: for loops", "trust"]
    assert sites(found) == ["resid_post.1"] * 3 and {one.model for one in found} == {"google/gemma-2-2b-it"}
    assert sites(read_directions(path, site=Site(2))) == ["resid_post.2"] * 3, "the given site goes first"
    for one, row in zip(found, torch.load(path, weights_only=True), strict=True):
        assert torch.equal(one.direction, row.float())
    path.with_name("config.json").write_text('{"model_name": null, "layer": 1}')
    assert read_directions(path)[0].model == "unknown"


def test_axbench_without_what_names_its_rows_is_one_error(tmp_path):
    path, concepts = axbench(tmp_path, rows=2), tmp_path / "generate" / "metadata.jsonl"
    refused(path, r"2 rows and 3 concepts; pass the metadata.jsonl")
    for content, message in (
        (b'{"concept_id": 4, "concept": "a"}\n', "concept_id does not number the rows from 0"),
        (b'{"name": "a"}\n', r"metadata\.jsonl, line 1: concept: is missing; add it"),
        (b"\xff", r"metadata\.jsonl: not UTF-8"),
    ):
        concepts.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_directions(path)
    concepts.unlink()
    with pytest.raises(DataError, match=r"metadata\.jsonl: no such file; pass the metadata"):
        read_directions(path)
    path.with_name("config.json").write_text('{"model_name": null}')
    refused(path, r"no config.json beside it tells its layer; pass a site")


@pytest.mark.parametrize(
    "line",
    [
        '{"concept_id": null, "concept": "a"}',
        '{"concept_id": "1", "concept": "a"}',
        '{"concept_id": 1.0, "concept": "a"}',
        '{"concept_id": true, "concept": "a"}',
        '{"concept_id": 1, "concept": null}',
        '{"concept_id": 1}',
        "[1]",
        '{"concept_id": 1, ',
    ],
)
def test_a_line_that_is_no_concept_is_named(tmp_path, line):
    path, concepts = axbench(tmp_path, rows=2), tmp_path / "generate" / "metadata.jsonl"
    # Both lines, since two of a kind can be put in order.
    for lines, wrong in ((['{"concept_id": 0, "concept": "b"}', "", line], 3), ([line, line], 1)):
        concepts.write_text("\n".join(lines))
        with pytest.raises(DataError, match=f"{concepts}, line {wrong}: "):
            read_directions(path)


@pytest.mark.parametrize(("folder", "name"), [("train", ""), ("train/plots", ".."), ("", "train")])
def test_the_concepts_are_found_from_any_folder(tmp_path, monkeypatch, folder, name):
    weights = axbench(tmp_path).name
    (tmp_path / "train" / "plots").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    assert [one.name for one in read_directions(Path(name) / weights)] == ["cats", "code: for loops", "trust"]


def test_the_concepts_of_a_link_are_beside_the_link(tmp_path):
    path = axbench(tmp_path / "snapshot")
    (tmp_path / "blobs").mkdir()
    path.symlink_to(path.rename(tmp_path / "blobs" / "9f2c"))
    assert len(read_directions(path)) == 3


# Named tensors


def test_named_tensors_tell_their_site_or_take_the_given_one(tmp_path):
    tensors = {"trust.resid_post.2": numbers(WIDTH), "resid_pre.1": numbers(WIDTH), "calm": numbers(WIDTH)}
    save_file(tensors, tmp_path / "v.safetensors")
    found = read_directions(tmp_path / "v.safetensors", site=Site(0))
    places = {one.name: str(one.site) for one in found}
    assert places == {"trust": "resid_post.2", "v": "resid_pre.1", "calm": "resid_post.0"}
    refused(tmp_path / "v.safetensors", "nothing tells the site of calm; pass a site")


def test_rows_of_a_named_tensor_are_blocks_or_hidden_states_as_is_said(tmp_path, llama):
    path = tmp_path / "v.safetensors"
    save_file({"trust": numbers(DEPTH, WIDTH)}, path)
    assert sites(read_directions(path, language_model=llama)) == [f"resid_post.{n}" for n in range(DEPTH)]
    refused(path, "trust has 3 rows; as hidden_states, llama has 4", language_model=llama, rows="hidden_states")
    assert sites(read_directions(path, rows="hidden_states")) == ["resid_pre.0", "resid_post.0", "resid_post.1"]


@pytest.mark.parametrize(
    ("name", "site", "message"),
    [
        ("trust", Site(20), r"trust has 3 rows, .* not all at resid_post\.20; leave the site out of the call"),
        ("trust.resid_post.3", None, r"3 rows, .* not all at resid_post\.3; leave the site out of its name"),
        ("resid_pre.3", Site(20), r"3 rows, .* not all at resid_pre\.3; leave the site out of its name"),
    ],
)
@pytest.mark.parametrize("rows", ["blocks", "hidden_states"])
def test_several_rows_have_no_one_site(tmp_path, name, site, message, rows):
    save_file({name: numbers(DEPTH, WIDTH), "calm.resid_post.1": numbers(WIDTH)}, tmp_path / "v.safetensors")
    refused(tmp_path / "v.safetensors", message, site=site, rows=rows)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_numbers_of_any_width_are_read(tmp_path, dtype):
    values = numbers(2, WIDTH).to(dtype)
    save_file({"trust": values}, tmp_path / "v.safetensors")
    for path in (saved(tmp_path / "v.pt", values), tmp_path / "v.safetensors"):
        for one, row in zip(read_directions(path), values, strict=True):
            assert torch.equal(one.direction, row.float())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([[1.0, torch.nan]] * 2).to(torch.float8_e4m3fn), "numbers that are not finite as float32"),
        (torch.full((2, WIDTH), 1e300, dtype=torch.float64), "numbers that are not finite as float32"),
        (torch.zeros(2, WIDTH, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2 on cpu; save dense"),
    ],
    ids=["8 bits", "64 bits", "4 bits"],
)
def test_numbers_that_float32_cannot_hold_are_one_error(tmp_path, values, message):
    refused(saved(tmp_path / "v.pt", values), message)


def test_a_batch_of_one_is_a_single_vector_and_no_stack_of_layers(tmp_path):
    save_file({"trust": numbers(1, WIDTH)}, tmp_path / "v.safetensors")
    assert sites(read_directions(tmp_path / "v.safetensors", site=Site(2))) == ["resid_post.2"]
    refused(tmp_path / "v.safetensors", "nothing tells the site of trust")
    refused(saved(tmp_path / "v.pt", numbers(1, WIDTH)), "one row is no stack of hidden states; save it as safetensors")


# What holds of every form


def one_of_each(folder):
    """A file of each form, that it can be told by."""
    vectors = [SteeringVector(numbers(WIDTH, seed=n), Site(n), "trust", "pca", "llama", "1") for n in range(DEPTH)]
    made = {}
    for form in WRITTEN_FORMS:
        made[form] = folder / f"{form}.bin"
        write_directions(vectors[1:] if form == "gguf" else vectors, made[form], form)
    return made | {"axbench": axbench(folder / "axbench")}


def test_a_form_is_told_by_what_a_file_holds_and_not_by_its_suffix(tmp_path):
    made = one_of_each(tmp_path)
    assert sorted(made) == sorted(FORMS)
    assert {form: form_of(path) for form, path in made.items()} == {form: form for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_the_model_or_is_one_error(tmp_path, form):
    path, model = one_of_each(tmp_path)[form], small("llama")
    found = read_directions(path, language_model=model)
    assert form == "personalib" or {(one.model, one.revision) for one in found} == {("llama", model.digest())}
    for changed in ({"hidden_size": 16}, {"num_hidden_layers": 1}):
        refused(path, r"coordinates at resid|rows; as hidden_states", language_model=small("llama", **changed))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "personalib"])
def test_a_vector_carries_where_it_comes_from_and_keeps_it_when_it_is_saved(tmp_path, form):
    path = one_of_each(tmp_path)[form]
    found = read_directions(path)
    for part in (path.name, f"({form}, sha256 {file_hash(path)[:12]})"):
        assert part in found[0].method
    save_vectors(found, tmp_path / "kept.safetensors")
    assert read_directions(tmp_path / "kept.safetensors") == found


@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_are_not_finite_are_refused(tmp_path, form):
    path = one_of_each(tmp_path)[form]
    if form == "gguf":
        gguf(path, {"direction.1": FLAT * np.inf})
    elif form in ("personalib", "safetensors"):
        path.write_bytes(path.read_bytes()[:-4] + np.float32(np.inf).tobytes())
    else:
        content = torch.load(path, weights_only=True)
        values = content if isinstance(content, torch.Tensor) else content["layer_activations"][0]
        values.reshape(-1)[0] = float("nan")
        saved(path, content)
    refused(path, "finite")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [9, 60, 0.5])
def test_a_file_that_was_cut_short_is_one_error(tmp_path, form, kept):
    path = one_of_each(tmp_path)[form]
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(kept * len(data))])
    refused(path, r"cannot be read|refused")


def test_a_damaged_file_of_the_older_form_is_one_error(tmp_path):
    path = tmp_path / "v.pt"
    torch.save(numbers(2, 3), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    # A storage is named twice: in the tensor, and in the list of those that follow.
    [key] = set(re.findall(rb"\d{9,}", data))
    start = data.rindex(key)
    for damaged in (data[:start] + b"x" + data[start + 1 :], *(data[:size] for size in range(1, len(data)))):
        path.write_bytes(damaged)
        refused(path, r"v\.pt: (cannot be read|is refused|shape)")


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"\x00" * 64, b"not a file of directions", b"PK\x03\x04", b"\x80\x04junk", None]
)
def test_what_holds_no_directions_is_one_error(tmp_path, content):
    path = tmp_path / "v.pt"
    if content is not None:
        path.write_bytes(content)
    refused(path, r"is empty|cannot be read|is refused" if content is not None else "name a file of directions")
    refused(tmp_path, "name a file of directions")


@pytest.mark.parametrize("shape", [(WIDTH,), (0, WIDTH), (2, 3, WIDTH), ()])
def test_a_pickled_tensor_that_is_no_matrix_is_one_error(tmp_path, shape):
    path = saved(tmp_path / "v.pt", torch.zeros(shape))
    refused(path, r"is not .rows, d_model.; a single vector goes into a safetensors file")


# Pickles


def hidden(mark):
    """Where a pickle of each form may have it."""
    matrix = numbers(DEPTH + 1, WIDTH)
    return {
        "persona-vectors": Trap(mark),
        "steering-vectors": {1: numbers(WIDTH), 2: Trap(mark)},
        "axbench": [matrix, Trap(mark)],
    }


@pytest.mark.parametrize("form", ["auto", "persona-vectors", "steering-vectors", "axbench"])
@pytest.mark.parametrize("inside", ["persona-vectors", "steering-vectors", "axbench"])
@pytest.mark.parametrize("written", ["zip", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_before_it_does(tmp_path, form, inside, written):
    mark, path = tmp_path / "ran", axbench(tmp_path)
    with path.open("wb") as stream:
        if written == "pickle":
            pickle.dump(hidden(mark)[inside], stream)
        else:
            torch.save(hidden(mark)[inside], stream, _use_new_zipfile_serialization=written == "zip")
    refused(path, "is refused: no pickle of bare tensors", form=form)
    assert not mark.exists()


# Choices


@pytest.mark.parametrize(
    ("form", "choices", "message"),
    [
        ("gguf", {"site": Site(1)}, "gguf takes no site; leave it out"),
        ("persona-vectors", {"rows": "hidden_states"}, "persona-vectors takes no rows"),
        ("safetensors", {"rows": "layers"}, "unknown rows 'layers'"),
        ("gguf", {"form": "torch"}, "unknown form 'torch'; choose one of auto, personalib"),
        ("gguf", {"form": "safetensors"}, "is gguf and not safetensors"),
        ("personalib", {"form": "safetensors"}, "is personalib and not safetensors"),
        ("safetensors", {"form": "persona-vectors"}, "is safetensors and not persona-vectors"),
        ("steering-vectors", {"form": "persona-vectors"}, "is a dict and no tensor"),
        ("persona-vectors", {"form": "steering-vectors"}, "no mapping of layers"),
    ],
)
def test_a_choice_that_a_file_does_not_take_is_one_error(tmp_path, form, choices, message):
    with pytest.raises(ValueError, match=message):
        read_directions(one_of_each(tmp_path)[form], **choices)


def test_concepts_make_a_matrix_axbench_and_nothing_else(tmp_path):
    concepts = axbench(tmp_path / "a").parent.parent / "generate" / "metadata.jsonl"
    path = saved(tmp_path / "rows.pt", numbers(3, WIDTH))
    assert form_of(path) == "persona-vectors" and form_of(path, concepts) == "axbench"
    assert len(read_directions(path, concepts=concepts, site=Site(2))) == 3
    with pytest.raises(ValueError, match="safetensors takes no concepts"):
        read_directions(one_of_each(tmp_path)["safetensors"], concepts=concepts)


@pytest.mark.parametrize("form", ["gguf", "persona-vectors", "steering-vectors"])
def test_a_form_without_names_holds_one_direction(tmp_path, form):
    with pytest.raises(ValueError, match="holds one direction, not v0, v1"):
        write_directions([vector(Site(1)), vector(Site(2), 1)], tmp_path / "v", form)
    with pytest.raises(ValueError, match="two vectors at one place"):
        write_directions([vector(Site(1)), vector(Site(2, "resid_pre"))], tmp_path / "v", form)
    wide = SteeringVector(numbers(5), Site(2), "v0", "random", "another model", "1")
    with pytest.raises(ValueError, match="5 and 24 coordinates"):
        write_directions([vector(Site(1)), wide], tmp_path / "v", form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "vectors", "message"),
    [
        ("axbench", [vector(Site(1))], "unknown form to write .axbench.; choose one of personalib, gguf"),
        ("safetensors", [], "there is no vector to write"),
        ("safetensors", [vector(Site(1))] * 2, "two vectors have one name and site"),
        ("gguf", [vector(Site(1)), vector(Site(1, "resid_pre"))], r"gguf has no place for resid_pre\.1"),
        ("steering-vectors", [vector(Site(0, "resid_pre"))], r"steering-vectors has no place for resid_pre\.0"),
        ("persona-vectors", [vector(Site(0, "resid_pre"))], r"output of blocks \[0, 1, 2\], and"),
        ("persona-vectors", [vector(Site(1))], r"no vector at the output of blocks \[0, 2\], and"),
        ("personalib", [vector(Site(9))], "24 coordinates at resid_post.9, and llama has 24 and blocks 0 to 2"),
    ],
)
def test_what_a_form_cannot_hold_is_one_error_and_leaves_no_file(tmp_path, llama, form, vectors, message):
    with pytest.raises(ValueError, match=message):
        write_directions(vectors, tmp_path / "v", form, llama)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", WRITTEN_FORMS)
def test_a_place_where_nothing_can_be_written_is_one_error(tmp_path, form):
    (tmp_path / "folder").mkdir()
    vectors = [vector(Site(0)), vector(Site(1))][form == "gguf" :]
    for path in (tmp_path / ("x" * 250), tmp_path / "folder"):
        with pytest.raises(DataError, match=": cannot be written: ") as caught:
            write_directions(vectors, path, form)
        assert str(caught.value).startswith(str(path))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("form", WRITTEN_FORMS)
def test_a_full_disk_is_one_error_and_leaves_what_was_there(disk, form):
    vectors = [vector(Site(0)), vector(Site(1))][form == "gguf" :]
    (disk / "v").write_text("of before")
    (disk / "rest").write_bytes(b"x" * shutil.disk_usage(disk).free)
    with pytest.raises(DataError, match=r"v(\.partial)?: cannot be written: .*No space left"):
        write_directions(vectors, disk / "v", form)
    assert sorted(path.name for path in disk.iterdir()) == ["rest", "v"] and (disk / "v").read_text() == "of before"


def test_what_a_form_has_a_place_for_is_written_and_read_back(tmp_path, llama):
    vectors = [vector(Site(0, "resid_pre")), *(vector(Site(layer)) for layer in range(DEPTH))]
    kept = {form: placed(vectors, form) for form in WRITTEN_FORMS}
    assert {form: len(own) for form, own in kept.items() if len(own) <= DEPTH} == {"gguf": 2, "steering-vectors": 3}
    for form, own in kept.items():
        write_directions(own, tmp_path / form, form, llama)
        found = {one.site: one.direction for one in read_directions(tmp_path / form)}
        assert found.keys() == {one.site for one in own}
        assert all(torch.equal(found[one.site], one.direction) for one in own)
    write_directions(vectors[1:], tmp_path / "v.pt", "persona-vectors", llama)
    assert torch.load(tmp_path / "v.pt", weights_only=True)[0].norm() == 0, "embeddings that are not there"
