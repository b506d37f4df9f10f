"""What a user of ``python -m personalib contrast`` sees: files that others can read, or one error."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from calls import assert_refused, printed
from gguf import GGUFReader
from tiny_saes import tiny_llama

from personalib.evaluation.choice import choose_push, load_push
from personalib.evaluation.study import Study
from personalib.models.load import load_model
from personalib.models.parts import Site, blocks
from personalib.questionnaires.items import load_trait, validation_split
from personalib.questionnaires.questions import trait_questionnaire
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import TRAITS
from personalib.vectors.contrast import fit_vector, read_contrasts
from personalib.vectors.methods import METHODS
from personalib.vectors.vector import SteeringVector, load_vectors

KEYS = [one.key for one in contrasts("pressures")]
PAIRS = 24


@pytest.fixture(scope="module")
def few(work):
    """Options of a choice by three items."""
    items = [item for item in validation_split(load_trait())[0] if item.personality in TRAITS[:3]]
    path = work / "items.jsonl"
    path.write_text("\n".join(json.dumps(vars(item)) for item in items))
    return "--items", path, "--per-trait", 1, "--dose", 0.4, "--pairs", PAIRS, "--work", work


@pytest.fixture(scope="module")
def readings(organism, work):
    """What the commands read, read by hand."""
    sites = [Site(layer) for layer in range(len(blocks(organism.model)))]
    return read_contrasts(organism, contrasts("pressures"), sites, work, count=PAIRS)


@pytest.fixture(scope="module")
def fitted(work, tmp_path_factory):
    """The folder that ``fit`` writes, and what it prints."""
    folder = tmp_path_factory.mktemp("fitted") / "new" / "vectors"
    return folder, printed("contrast", "fit", "--pairs", PAIRS, "--gguf", "--work", work, "--out", folder)


@pytest.fixture(scope="module")
def chosen(few, tmp_path_factory):
    """The file that ``choose`` writes, and what it prints."""
    path = tmp_path_factory.mktemp("chosen") / "steering.json"
    return path, printed("contrast", "choose", *few, "--out", path)


@pytest.fixture(scope="module")
def reported(few, tmp_path_factory):
    """The numbers that ``report`` writes, and what it prints."""
    path = tmp_path_factory.mktemp("reported") / "report.json"
    out = printed("contrast", "report", *few, "--shuffles", 10, "--json", path)
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), out


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The folder of a model of another architecture and width, of three blocks."""
    folder = tmp_path_factory.mktemp("other")
    small = tiny_llama(hidden_size=24, num_hidden_layers=3)
    small.model.save_pretrained(folder)
    small.tokenizer.save_pretrained(folder)
    return folder


# Fit


def test_a_fit_writes_a_file_for_each_contrast_with_a_vector_for_each_block(fitted, readings):
    folder, out = fitted
    assert {path.name for path in folder.iterdir()} == {
        f"{key}.{end}" for key in KEYS for end in ("safetensors", "gguf")
    }
    assert out == f"{folder}: vectors of 7 pressures\n"
    for key in KEYS:
        vectors = load_vectors(folder / f"{key}.safetensors")
        assert [one.site for one in vectors] == list(readings[key]["train"].sites)
        assert vectors == [fit_vector(readings[key]["train"], one.site) for one in vectors]
        assert {(one.name, one.method, one.model) for one in vectors} == {
            (f"pressures.{key}", "difference_of_means", "organism")
        }


def test_without_being_asked_a_fit_writes_no_control_vectors(call, tmp_path):
    code, _, _ = call("fit", "--pairs", 4, "--out", "vectors", "--site", "resid_post.3")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == [f"{key}.safetensors" for key in KEYS]
    assert [SteeringVector.load(tmp_path / "vectors" / f"{key}.safetensors").site for key in KEYS] == [Site(3)] * 7
    assert (tmp_path / "results" / "contrast" / "pressures" / "trust" / "train").is_dir(), "where activations go"


def test_the_options_of_a_fit_are_used(call, tmp_path, other):
    options = ("--family", "facets", "--pairs", 6, "--seed", 4, "--method", "pca", "--site", "resid_pre.2")
    options += ("--position", "sentence_mean", "--form", "base", "--model", other, "--gguf")
    assert call("fit", *options, "--out", "vectors")[0] == 0
    language_model, family = load_model(str(other)), contrasts("facets")
    how = {"count": 6, "seed": 4, "position": "sentence_mean", "form": "base"}
    read = read_contrasts(language_model, family, [Site(2, "resid_pre")], tmp_path / "again", **how)
    for one in family:
        vector = SteeringVector.load(tmp_path / "vectors" / f"{one.key}.safetensors")
        assert vector == fit_vector(read[one.key]["train"], Site(2, "resid_pre"), "pca")
        # What block 2 reads is what block 1 leaves.
        reader = GGUFReader(tmp_path / "vectors" / f"{one.key}.gguf")
        [tensor] = reader.tensors
        assert tensor.name == "direction.1" and reader.fields["controlvector.model_hint"].contents() == "llama"
        np.testing.assert_array_equal(tensor.data, vector.direction.numpy())
    assert vector.method == "pca" and vector.model == str(other) and len(vector.direction) == 24


@pytest.mark.parametrize("site", ["resid_post.0", "resid_pre.1"])
def test_what_llama_cpp_leaves_out_is_left_out_of_its_files(call, tmp_path, site):
    assert call("fit", "--pairs", 4, "--gguf", "--site", site, "--out", "vectors")[0] == 0
    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == [f"{key}.safetensors" for key in KEYS]


# Choose


def test_a_choice_is_a_file_that_can_be_read_and_shown(chosen):
    path, out = chosen
    push = load_push(path)
    table = pd.DataFrame(json.loads(path.read_text())["table"])
    assert len(table) == 3 * 6 and set(table["dose"]) == {0.4}
    [row] = table[table["chosen"]].to_dict("records")
    assert (row["positions"], row["site"], row["dose"]) == (push.positions, str(push.site), push.dose)
    better = table[(table["collapsed"] == 0) & (table["fidelity"] > row["fidelity"])]
    assert row["collapsed"] == 0 and row["facts"] <= 5 and (better["facts"] > 5).all()
    header, *lines, last = out.splitlines()
    assert header.split()[:4] == ["site", "positions", "dose", "fidelity"]
    for line, tried in zip(lines, table.to_dict("records"), strict=True):
        assert line.split()[:2] == [tried["site"], tried["positions"]] and f"{tried['fidelity']:.3f}" in line
        assert line.split()[-1] == str(tried["chosen"])
    assert last == f"chosen: a dose of {push.dose:g} at {push.site}, positions {push.positions}"


def test_choosing_uses_no_item_that_an_evaluation_uses(call, work, tmp_path):
    own, others = validation_split(load_trait())
    text = "\n".join(json.dumps(vars(item)) for item in [*own[:1], *others[:1]])
    (tmp_path / "mixed.jsonl").write_text(text)
    (tmp_path / "evaluation.jsonl").write_text(text.splitlines()[1])
    (tmp_path / "validation.jsonl").write_text(text.splitlines()[0])
    two = ("--dose", 0.4, "--dose", 0.2, "--pairs", PAIRS, "--work", work)
    assert_refused(call("choose", *two, "--items", "evaluation.jsonl", "--out", "a.json"), "there are no trait items")
    for name in ("mixed", "validation"):
        assert call("choose", *two, "--items", f"{name}.jsonl", "--out", f"{name}.json")[0] == 0
    assert (tmp_path / "mixed.json").read_bytes() == (tmp_path / "validation.json").read_bytes()
    table = json.loads((tmp_path / "mixed.json").read_text())["table"]
    assert [row["dose"] for row in table] == [0.4, 0.2] * 3 * 6


def test_the_options_of_a_choice_are_used(call, organism, tmp_path):
    [item, other, *_], _ = validation_split(load_trait())
    (tmp_path / "items.jsonl").write_text(f"{json.dumps(vars(item))}\n{json.dumps(vars(other))}")
    assert item.personality == other.personality
    options = ("--items", "items.jsonl", "--per-trait", 1, "--template", "numbers", "--form", "base", "--pairs", 16)
    options += ("--dose", 0.3, "--method", "lda", "--seed", 3, "--position", "sentence_last")
    assert call("choose", *options, "--out", "choice.json")[0] == 0
    found = pd.DataFrame(json.loads((tmp_path / "choice.json").read_text())["table"])
    one = trait_questionnaire([item], ["numbers"])
    how = {"form": "base", "pairs": 16, "seed": 3, "position": "sentence_last"}
    sites = [Site(layer) for layer in range(len(blocks(organism.model)))]
    study = Study.read(organism, contrasts("pressures"), one, tmp_path / "again", sites=sites, **how)
    candidates = {str(site): study.contrast_vectors(site, "lda") for site in sites}
    expected = choose_push(study, candidates, positions=("last", "prompt", "before_options"), doses=(0.3,)).table
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "results" / "contrast" / "answers" / "parts").is_dir(), "where a killed choice goes on"


# Report


def test_a_report_has_the_headlines_and_the_interpretable_rest(reported):
    found, _ = reported
    assert list(found["reading_accuracy"]) == list(found["null_accuracy"]) == KEYS
    assert sum(found["reading_accuracy"].values()) / len(KEYS) > 0.6 and max(found["null_accuracy"].values()) < 0.75
    assert found["layer"] == Site.parse(found["site"]).layer and found["layer"] in range(6)
    assert list(found["accuracy_by_layer"]) == [f"resid_post.{layer}" for layer in range(6)]
    assert set(found["accuracy_by_method"]) == set(METHODS)
    assert len(found["choice"]) == 3 * 6


def test_a_report_chooses_what_choose_chooses_and_shows_a_line_for_each_contrast(reported, chosen):
    found, out = reported
    push = load_push(chosen[0])
    assert (found["positions"], found["site"], found["dose"]) == (push.positions, str(push.site), push.dose)
    written = json.loads(chosen[0].read_text())["table"]
    pd.testing.assert_frame_equal(pd.DataFrame(found["choice"]), pd.DataFrame(written), rtol=1e-6)
    assert out.startswith(chosen[1]), "the same table is shown first"
    for key, line in zip(KEYS, out.splitlines()[-len(KEYS) :], strict=True):
        low, high = found["reading_interval"][key]
        assert line.split(maxsplit=2)[:2] == [key, "read"] and f"[{low:.3f}, {high:.3f}]" in line
        assert re.findall(r"(?:read|shuffled) (\S+)", line) == [
            f"{found[name][key]:.3f}" for name in ("reading_accuracy", "null_accuracy")
        ]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--site", "resid_mid.1"), "'resid_mid.1' is no site; write resid_pre.N or resid_post.N"),
        (("--site", "resid_post.6"), "resid_post.6 is no site of this model; it has blocks 0 to 5"),
        (("--pairs", 10**9), "ask for fewer"),
        (("--pairs", 1), "pass two or more pairs"),
        (("--out", "taken"), "'taken' is a file"),
    ],
)
def test_what_cannot_be_fitted_is_one_error(call, tmp_path, arguments, problem):
    (tmp_path / "taken").write_text("")
    assert_refused(call("fit", "--pairs", 4, "--out", "vectors", *arguments), problem)
    assert not [*tmp_path.glob("vectors/*")]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--items", "nothing.jsonl"), "nothing.jsonl: No such file"),
        (("--template", "letter"), "unknown template 'letter'; did you mean 'letters'?"),
        (("--per-trait", 0), "there are no trait items"),
        (("--family", "traits"), "so no item can judge them"),
    ],
)
def test_where_nothing_can_be_chosen_there_is_one_error(call, work, tmp_path, arguments, problem):
    assert_refused(call("choose", "--pairs", PAIRS, "--work", work, *arguments, "--out", "choice.json"), problem)
    assert not (tmp_path / "choice.json").exists()
