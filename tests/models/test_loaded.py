"""A run's manifest says what was loaded, as it is."""

import json

from personalib.book.runs import run_notebook
from personalib.models.load import load_model
from personalib.models.loaded import VARIABLE, note_loaded, read_loaded

LOADS = """from personalib.models.load import load_model
from personalib.features.saes import load_sae
for _ in range(2):
    load_model(model, device=device)
load_sae(sae_id="resid_post.1/width_512")"""


def test_what_was_loaded_is_in_the_manifest_once(write_notebook, copied_organism, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied_organism("mine")
    path = write_notebook(LOADS, parameters='model: str = "organism"\ndevice: str = "auto"')
    run = run_notebook(path, {"model": folder, "device": "cpu"}, tmp_path / "out")
    model, sae = run.manifest["loaded"]
    assert model == {"kind": "model", "name": "mine", "revision": None, "dtype": "float32", "device": "cpu"}
    assert (sae["kind"], sae["name"], sae["device"]) == ("sae", "organism resid_post.1/width_512", "cpu")
    assert "template" not in model
    # And the run is another with other weights.
    assert list(run.manifest["hashes"]["named"]) == ["mine"]
    assert run_notebook(path, {"model": folder, "device": "cpu"}, tmp_path / "out").reused
    config = tmp_path / "mine" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"final_logit_softcapping": 30.0}))
    assert not run_notebook(path, {"model": folder, "device": "cpu"}, tmp_path / "out").reused
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_outside_of_a_run_nothing_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    note_loaded("model", name="organism")
    assert not list(tmp_path.iterdir()) and read_loaded(tmp_path / "none.jsonl") == []


def test_the_date_and_the_arguments_of_a_template_are_noted(copied_organism, tmp_path, monkeypatch):
    folder = copied_organism("dated")
    (tmp_path / "dated" / "chat_template.jinja").write_text(
        "{{ strftime_now('%Y') }} {{ style }} {{ messages[0].content }}"
    )
    (tmp_path / "mine.yaml").write_text(f"hub: {folder}\ntemplate: {{style: terse}}\ndate: 2025-03-01\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "loaded.jsonl"))
    load_model(str(tmp_path / "mine.yaml"))
    [noted] = read_loaded(tmp_path / "loaded.jsonl")
    assert json.loads(noted["template"]) == {"style": "terse", "date": "2025-03-01"}
