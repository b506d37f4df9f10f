"""A model in several places gives what it gives in one, and one that is too large for a GPU is spread."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_models import LABELS, SITES, small, small_sae, vector

from personalib.base.data import DataError
from personalib.evaluation.shards import Asker
from personalib.features.labels import logit_lens
from personalib.models.activations import capture
from personalib.models.load import load_model
from personalib.models.memory import free_memory
from personalib.models.parts import Site, blocks_path, final_norm
from personalib.models.placement import is_spread, places, usual_device
from personalib.models.registry import find_entry
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp

NAMES = ("gemma2", "llama", "gpt2", "gpt-neox")
PROMPTS = ["w3 ", "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 ", "w9 w9 w5 "]
TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10 w11 w12"]
EXCHANGES = [("w1 w2 ", "w3 w4"), ("w5 ", "w6 w7 w8")]
CONDITIONS = [
    (),
    *((Add(vector(site, number), 0.5, "prompt"),) for number, site in enumerate(SITES)),
    (Add(vector(Site(0), 20), 1.0, "last"),),
    (Add(vector(Site(1), 21), -1.0, "last"), Ablate(vector(Site(2), 22), 1.0, "last")),
    (Clamp(small_sae(Site(1), 45), (3, 17), 2.0, "prompt_except_last"),),
]
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def stored(tmp_path):
    """Stores a small model, and an entry that spreads it; returns its folder and the entry's file."""

    def store(name, near="cpu", far="disk"):
        language_model = small(name)
        model, folder, entry = language_model.model, tmp_path / name, tmp_path / f"{name}.yaml"
        model.save_pretrained(folder)
        language_model.tokenizer.save_pretrained(folder)
        inside, norm = blocks_path(model), final_norm(model)
        outside = [
            (path, part) for path, part in model.named_modules() if not [*part.children()] and inside not in path
        ]
        spread = {path: far if part is norm else near for path, part in outside}
        spread |= {f"{inside}.{number}": (far, near)[number % 2] for number in range(3)}
        entry.write_text(yaml.safe_dump({"hub": str(folder), "device_map": spread}))
        return str(folder), str(entry)

    return store


def answers(language_model):
    return ask_steered(language_model, PROMPTS, LABELS, CONDITIONS, batch_size=4)


@every_model
def test_a_model_behind_which_there_is_disk_answers_as_in_memory(name, stored):
    folder, entry = stored(name)
    whole, spread = load_model(folder), load_model(entry, device="auto")
    assert is_spread(spread.model) and not is_spread(whole.model)
    assert any(one.is_meta for one in spread.model.parameters())
    np.testing.assert_array_equal(answers(spread), answers(whole))
    steered = CONDITIONS[3]
    losses = [answer_losses(each, EXCHANGES, [steered])[0] for each in (spread, whole)]
    np.testing.assert_array_equal(*losses)
    assert generate(spread, PROMPTS, steered, tokens=4) == generate(whole, PROMPTS, steered, tokens=4)
    directions = torch.stack([vector(Site(0), seed).direction for seed in range(3)])
    torch.testing.assert_close(logit_lens(spread, directions), logit_lens(whole, directions), rtol=0, atol=0)
    assert spread.digest() == whole.digest()


@every_model
def test_its_residual_stream_is_read(name, stored, tmp_path):
    folder, entry = stored(name)
    read = [
        capture(load_model(model), TEXTS, SITES, tmp_path / f"read-{place}", tokens="all")
        for place, model in enumerate((folder, entry))
    ]
    for site in SITES:
        np.testing.assert_array_equal(read[1].values(site), read[0].values(site))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU of CUDA here")
@pytest.mark.parametrize("far", [1, "cpu"])
@every_model
def test_a_model_on_two_gpus_or_one_and_memory_answers_as_on_one(name, far, stored):
    if far == 1 and torch.cuda.device_count() < 2:
        pytest.skip("there are no two GPUs of CUDA here")
    folder, entry = stored(name, 0, far)
    np.testing.assert_allclose(
        answers(load_model(entry, device="auto")), answers(load_model(folder, device="cuda")), atol=1e-6
    )


def test_a_worker_of_a_cluster_is_not_sent_a_model_that_is_spread(stored):
    _, entry = stored("llama")
    with pytest.raises(DataError, match="is spread over several devices, and a worker of a cluster has one; run it in"):
        Asker.of(load_model(entry, device="auto"), [], "key", 4)


def test_an_embedding_on_disk_is_refused(stored):
    _, entry = stored("llama", near="disk", far="cpu")
    with pytest.raises(DataError, match="device_map puts its embedding where nothing is run"):
        load_model(entry, device="auto")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.layers.1": None}, "does not give any device for .*model.layers.1.self_attn.q_proj"),
        ({"model.layers.1": "toaster"}, "device type at start of device string: toaster"),
    ],
)
def test_a_map_that_is_wrong_is_one_error(change, said, stored):
    _, entry = stored("llama")
    content = yaml.safe_load(Path(entry).read_text())
    spread = {path: place for path, place in (content["device_map"] | change).items() if place is not None}
    Path(entry).write_text(yaml.safe_dump(content | {"device_map": spread}))
    with pytest.raises(DataError, match=f"llama.yaml: cannot be loaded .*{said}"):
        load_model(entry, device="auto")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("balanced", "there is no GPU here to spread llama over; take 'cpu'"),
        ("device_map", "llama has no places of its own; give them as device_map in a YAML file"),
    ],
)
def test_what_cannot_be_spread_is_one_error(device, said, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder, _ = stored("llama")
    (tmp_path / "plain" / "llama.yaml").parent.mkdir()
    (tmp_path / "plain" / "llama.yaml").write_text(yaml.safe_dump({"hub": folder}))
    with pytest.raises(DataError, match=said):
        load_model(str(tmp_path / "plain" / "llama.yaml"), device=device)


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs of so many GB each, as far as torch tells."""

    def have(*free):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one: (free[getattr(one, "index", one)] * 10**9, 0))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)

    return have


@pytest.mark.parametrize(
    ("free", "name", "device"),
    [
        ((), "gemma-2-9b-it", "cpu"),
        ((80,), "gemma-2-9b-it", "cuda"),
        ((16,), "gemma-2-9b-it", "cuda"),
        ((16, 16), "gemma-2-9b-it", "balanced"),
        ((16, 24), "gemma-2-9b-it", "cuda"),
        ((16, 16), "gemma-2b-it", "cuda"),
        ((16, 16), "organism", "cpu"),
        ((16, 16), "nobody/knows-its-size", "cuda"),
    ],
)
def test_a_model_is_spread_where_no_gpu_holds_it(free, name, device, gpus):
    gpus(*free)
    assert usual_device(name) == device


def test_an_entry_says_where_its_weights_go(stored, gpus, tmp_path):
    _, entry = stored("llama")
    assert usual_device(entry) == "device_map"
    (tmp_path / "spread.yaml").write_text(f"hub: {tmp_path}\ndevice_map: balanced\n")
    for free, device in (((), "cpu"), ((8,), "cuda"), ((8, 8), "balanced")):
        gpus(*free)
        assert usual_device(str(tmp_path / "spread.yaml")) == device


def test_several_places_have_their_memory_together(gpus):
    gpus(16, 24)
    assert free_memory("balanced") == 40 * 10**9 and free_memory("cuda:1") == 24 * 10**9
    assert free_memory("device_map") > 40 * 10**9
    assert [str(one) for one in places("balanced")] == ["cuda:0", "cuda:1"]
    with pytest.raises(DataError, match="device 'toaster': "):
        free_memory("toaster")


def test_a_place_of_another_kind_is_refused(tmp_path):
    (tmp_path / "odd.yaml").write_text("hub: some/model\ndevice_map: everywhere\n")
    with pytest.raises(DataError, match=r"odd\.yaml: device_map"):
        find_entry(str(tmp_path / "odd.yaml"))
