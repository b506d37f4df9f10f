"""What a user of ``python -m personalib directions`` sees: a table, files that other tools read, or one error."""

import pytest
import torch
from hostile import Trap
from safetensors.torch import save_file
from small_models import WIDTH, small, vector

from personalib.cli import directions as direction_commands
from personalib.models.parts import Site
from personalib.vectors.files import FORMS, WRITTEN_FORMS, form_of, read_directions, write_directions
from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors


@pytest.fixture
def evil(tmp_path):
    """A file of persona-vectors of a tiny model."""
    path = tmp_path / "evil.pt"
    torch.save(torch.ones(4, WIDTH) * torch.arange(4)[:, None], path)
    return path


def named(name, *layers):
    return [SteeringVector(torch.ones(WIDTH) * layer, Site(layer), name, "pca", "toy", "1") for layer in layers]


def test_the_forms_of_the_options_are_those_of_the_library():
    assert tuple(direction_commands._FORMS) == FORMS and tuple(direction_commands._SUFFIXES) == WRITTEN_FORMS


def test_show_tells_form_origin_name_site_and_norm(call, evil):
    code, out, _ = call("show", evil)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and lines[0][-4:] == ["4", "x", "24,", "unknown"]
    assert "(persona-vectors, sha256" in out and "after the final norm" in out
    assert lines[2] == ["name", "site", "norm", "form"]
    assert lines[3] == ["evil", "resid_pre.0", "0", "persona-vectors"]
    assert lines[6] == ["evil", "resid_post.2", f"{3 * WIDTH**0.5:.4g}", "persona-vectors"]


def test_a_model_checks_the_file(call, evil):
    code, out, err = call("show", evil, "--model", "organism")
    # The weights' progress bar goes before it.
    *_, last = err.splitlines()
    assert (code, out) == (2, "") and last.startswith("error: ")
    assert last.endswith("evil has 4 rows; as hidden_states, organism has 7") and "Traceback" not in err


@pytest.mark.parametrize("target", WRITTEN_FORMS)
def test_convert_writes_a_file_of_each_form(call, tmp_path, organism, target):
    depth, width = organism.model.config.num_hidden_layers, organism.model.config.hidden_size
    vectors = [
        SteeringVector(torch.randn(width), Site(layer), "trust", "pca", "organism", "1")
        for layer in range(target == "gguf", depth)
    ]
    save_vectors(vectors, tmp_path / "ours.safetensors")
    code, out, _ = call("convert", "ours.safetensors", "--out", "theirs.bin", "--to", target, "--model", "organism")
    assert code == 0 and f"as {target}, files: 1" in out
    assert form_of(tmp_path / "theirs.bin") == target
    found = {one.site: one.direction for one in read_directions(tmp_path / "theirs.bin", language_model=organism)}
    assert all(torch.equal(found[one.site], one.direction) for one in vectors)


@pytest.mark.parametrize(
    ("target", "layers", "left_out"),
    [
        ("gguf", [1, 2], "left out: resid_post.0, resid_pre.0, where gguf has no place"),
        ("steering-vectors", [0, 1, 2], "left out: resid_pre.0, where steering-vectors has no place"),
    ],
)
def test_convert_tells_what_a_form_has_no_place_for(call, evil, target, layers, left_out):
    code, out, _ = call("convert", evil, "--out", "made.bin", "--to", target)
    assert code == 0 and out.splitlines() == [f"made.bin: {len(layers)} directions as {target}, files: 1", left_out]
    found = read_directions(evil.with_name("made.bin"))
    assert [one.site for one in found] == [Site(layer) for layer in layers]
    assert [float(one.direction[0]) for one in found] == [layer + 1 for layer in layers]


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (("trust", "trust", "code: for/while loops"), ["code_for_while_loops", "trust"]),
        (("../../up",), ["up"]),
        (("猫" * 300, "cat" * 100), ["cat" * 66 + "ca", "猫" * 66]),
    ],
)
def test_convert_to_a_folder_writes_a_file_a_name_of_any_script_and_none_elsewhere(call, tmp_path, names, stems):
    vectors = [one for layer, name in enumerate(names, 1) for one in named(name, layer)]
    save_vectors(vectors, tmp_path / "all.safetensors")
    code, out, _ = call("convert", "all.safetensors", "--out", "made", "--to", "gguf")
    assert code == 0 and f"{len(names)} directions as gguf, files: {len(stems)}" in out
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [f"{stem}.gguf" for stem in stems]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.safetensors", "made"]


def test_two_names_that_give_one_file_are_refused(call, tmp_path):
    save_vectors([*named("a/b", 1), *named("a b", 1)], tmp_path / "alike.safetensors")
    code, _, err = call("convert", "alike.safetensors", "--out", "other", "--to", "gguf")
    assert code == 2 and "two of the names give one file" in err


def test_what_a_file_does_not_say_is_said_by_options(call, tmp_path):
    write_directions([vector(Site(1))], tmp_path / "named.safetensors", "safetensors")
    torch.save(torch.ones(2, WIDTH), tmp_path / "rows.pt")
    (tmp_path / "names.jsonl").write_text('{"concept": "cats"}\n{"concept": "dogs"}\n')
    how = ("--concepts", "names.jsonl", "--site", "resid_post.2")
    code, out, _ = call("show", "rows.pt", *how)
    shown = [line.split()[:2] for line in out.splitlines()[-2:]]
    assert code == 0 and shown == [["cats", "resid_post.2"], ["dogs", "resid_post.2"]]
    code, _, _ = call("convert", "rows.pt", *how, "--out", "a.st", "--to", "personalib")
    assert code == 0 and [one.name for one in load_vectors(tmp_path / "a.st")] == ["cats", "dogs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "none.pt"), "none.pt: cannot be read (No such file or directory)"),
        (("show", "evil.pt", "--site", "layer 3"), "'layer 3' is no site"),
        (("show", "evil.pt", "--site", "resid_post.1"), "takes no site; leave it out"),
        (("show", "empty.safetensors"), "empty.safetensors: holds no vector"),
        (("show", "stack.safetensors", "--site", "resid_post.20"), "trust has 5 rows, which are layers and not all at"),
        (("show", "evil.pt", "--form", "gguf"), "is pickle and not gguf"),
        (("convert", "evil.pt", "--out", "no/v.pt", "--to", "safetensors"), "there is no folder no; make it"),
        (("convert", "evil.pt", "--out", "evil.pt/x", "--to", "gguf"), "evil.pt/x: no folder can be made there (Not"),
        (("convert", "evil.pt", "--out", "plain", "--to", "gguf"), "plain: no folder can be made there (File exists)"),
        (("convert", "evil.pt", "--out", "x" * 300 + ".pt", "--to", "gguf"), "x.pt: no folder can be made there (File"),
    ],
)
def test_what_the_library_refuses_is_one_message_and_code_2(call, evil, arguments, message):
    header = {"steering_vectors": '{"format": "personalib.steering_vectors/1", "vectors": []}'}
    save_file({"0": torch.ones(WIDTH)}, evil.with_name("empty.safetensors"), header)
    save_file({"trust": torch.ones(5, WIDTH)}, evil.with_name("stack.safetensors"))
    evil.with_name("plain").write_text("")
    before = sorted(evil.parent.iterdir())
    code, out, err = call(*arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert sorted(evil.parent.iterdir()) == before


@pytest.mark.parametrize("out", ["made", "made.bin"])
@pytest.mark.parametrize(("target", "stream"), [("gguf", "resid_post"), ("steering-vectors", "resid_pre")])
def test_what_a_form_can_hold_nothing_of_is_one_message_that_names_the_sites(call, tmp_path, out, target, stream):
    save_vectors([vector(Site(0, stream))], tmp_path / "v.safetensors")
    code, printed, err = call("convert", "v.safetensors", "--out", out, "--to", target)
    assert (code, printed) == (2, "") and err.count("\n") == 1
    assert f"v.safetensors: holds nothing but {stream}.0, where {target} has no place: llama.cpp leaves block 0" in err
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


def test_a_pickle_that_would_run_code_is_one_message_without_a_warning(call, tmp_path):
    torch.save(Trap(tmp_path / "ran"), tmp_path / "v.pt", pickle_protocol=4)
    code, out, err = call("show", "v.pt")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "is refused" in err
    assert not (tmp_path / "ran").exists()


def test_a_model_of_another_width_is_refused_before_a_file_is_written(call, tmp_path, monkeypatch):
    save_vectors(named("trust", 1), tmp_path / "v.safetensors")
    monkeypatch.setattr("personalib.models.load.load_model", lambda *_: small("llama", hidden_size=16))
    code, _, err = call("convert", "v.safetensors", "--out", "v.gguf", "--to", "gguf", "--model", "x")
    assert code == 2 and "24 coordinates at resid_post.1, and llama has 16" in err
    assert not (tmp_path / "v.gguf").exists()
