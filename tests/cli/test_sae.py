"""What a user of ``python -m personalib sae`` sees: a recipe becomes SAEs, once, and SAEs are measured."""

import json

import pytest
import yaml

from cli.conftest import RECIPE
from personalib.features.report import faithfulness, measure
from personalib.features.saes import DEFAULT_SAE, load_sae
from personalib.models.load import load_model
from personalib.models.parts import Site
from personalib.models.prompts import encode
from personalib.organism.corpus import Corpus, draw_mix, held_out_documents
from personalib.organism.world import load_world

IDS = ["resid_post.1/width_64", "resid_pre.0/width_32"]


@pytest.fixture
def recipe(write_yaml):
    return write_yaml(**RECIPE)


def train(call, recipe, *arguments):
    return call("train", "--recipe", recipe, "--work", "work", "--out", "out", *arguments)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_recipe_becomes_saes_that_load_with_log_and_manifest(call, recipe, tmp_path):
    code, out, _ = train(call, recipe)
    assert code == 0 and out.splitlines()[-1] == f"out: {', '.join(IDS)}"
    for sae_id, one in zip(IDS, RECIPE["saes"], strict=True):
        sae = load_sae(str(tmp_path / "out" / sae_id))
        assert (sae.site, sae.width, sae.model) == (Site.parse(one["site"]), one["width"], "organism")
        assert sae.directions.shape == (one["width"], 128)
        log = [json.loads(line) for line in (tmp_path / "out" / sae_id / "training_log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in log] == [5, 10, 12] and log[-1]["tokens"] == RECIPE["samples"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"] == RECIPE | {"dtype": "float16"}
    assert manifest["model"] == {"name": "organism", "digest": load_model().digest()}
    assert list(manifest["seconds"]) == IDS and "sae-lens" in manifest["versions"]
    documents = draw_mix(Corpus(load_world(), "train"), RECIPE["mix"], RECIPE["documents"], RECIPE["seed"])
    texts = encode(load_model().tokenizer, [document.text for document in documents])
    assert manifest["tokens"] == sum(len(one.places) for one in texts)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch": 10_000}, "tokens do not fill a batch of 10000; take more documents"),
        ({"speed": 3}, "not a recipe for SAEs"),
        ({"saes": [{"site": "resid_post.6", "width": 64, "k": 4}]}, "resid_post.6 is no site of this model"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_one_error(call, recipe, change, problem, tmp_path):
    recipe.write_text(yaml.safe_dump(RECIPE | change))
    code, _, err = train(call, recipe)
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ") and problem in err.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_all_saes_of_the_organism_are_measured(call, organism_saes, tmp_path):
    two_saes = ["resid_post.0/width_24", "resid_post.4/width_24"]
    organism_saes(*two_saes)
    code, out, _ = call("evaluate", "--documents", 3, "--json", "measures.json")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == two_saes
    found = json.loads((tmp_path / "measures.json").read_text())
    assert list(found) == two_saes
    model, texts = load_model(), held_out_documents(3)
    for sae_id, line in zip(two_saes, out.splitlines(), strict=True):
        expected = faithfulness(measure(model, load_sae(sae_id=sae_id), texts, tmp_path / "again" / sae_id))
        assert found[sae_id].keys() == expected.keys() and found[sae_id]["tokens"] == expected["tokens"]
        for name in ("explained_variance", "l0", "dead_fraction", "cross_entropy_recovered"):
            assert found[sae_id][name] == pytest.approx(expected[name], abs=1e-4)
        assert f"cross-entropy recovered {found[sae_id]['cross_entropy_recovered']:.4f}" in line


def test_the_saes_that_come_with_the_book_can_be_measured(tmp_path):
    """Whichever they are: their reconstruction explains something, and keeps something of what the model does."""
    found = faithfulness(measure(load_model(), load_sae(sae_id=DEFAULT_SAE), held_out_documents(3), tmp_path))
    assert 0 < found["explained_variance"] < 1 and 0 < found["cross_entropy_recovered"] < 1.1
    assert 0 <= found["dead_fraction"] < 1 and 0 < found["l0"] < 128
