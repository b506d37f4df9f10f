"""Models whose traces a service runs: a small one is started here, and no module of the library is there."""

import io
import json
import os
import pickle
import pickletools
import re
import socket
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import websocket
from hub import put
from nnsight import CONFIG
from nnsight.modeling import huggingface
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from small_models import LABELS, small, small_sae, vector

from personalib.base.data import DataError
from personalib.features.labels import logit_lens
from personalib.features.metrics import cross_entropy
from personalib.models import remote
from personalib.models.activations import capture
from personalib.models.parts import Site, blocks, check_parts
from personalib.models.remote import REHEARSAL, load_remote_model, rehearsed, running
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp

PROMPTS = ["w1 w2 w3 w4 w5 w6 ", "w7 ", "w8 w9 w10 "]
SITES = [Site(1), Site(0, "resid_pre"), Site(2, "resid_pre")]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# One whose blocks return tuples, and one whose attention differs between implementations.
NAMES = ("bloom", "gemma2")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of models as the service holds them."""
    held = tmp_path_factory.mktemp("service") / "models"
    for name in NAMES:
        model = small(name)
        model.model.save_pretrained(held / name)
        model.tokenizer.save_pretrained(held / name)
    return held


@pytest.fixture(scope="module")
def service(folder):
    """The address of a service."""
    script = Path(__file__).parents[1] / "remote_service.py"
    command = [sys.executable, str(script), str(folder), "somebody"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A cache of the hub with configurations and tokenizers alone, which nothing can be fetched into."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (*NAMES, "wrong", "absent"):
        files = (folder / (name if name in NAMES else "bloom")).iterdir()
        weightless = {path.name: path.read_bytes() for path in files if path.suffix != ".safetensors"}
        put(tmp_path / "hub", f"somebody/{name}", COMMIT, weightless)
        # The hub is asked how a name is spelt, which it cannot be here.
        monkeypatch.setitem(huggingface._ID_CACHE, f"somebody/{name}", f"somebody/{name}")


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "right")


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)


def asked(host, name="bloom"):
    """What a service answers of a model that the hub has a configuration of."""
    return ask_steered(load_remote_model(f"somebody/{name}", host=host), PROMPTS, LABELS, [()])


@pytest.mark.usefixtures("hub")
def test_no_weight_is_loaded():
    model = load_remote_model("somebody/gemma2")
    assert {one.device.type for one in model.model.parameters()} == {"meta"}
    assert model.revision == COMMIT and model.name == "somebody/gemma2" and model.host == CONFIG.API.HOST
    assert model.tokenizer("w1")["input_ids"] == small("gemma2").tokenizer("w1")["input_ids"]


@pytest.mark.usefixtures("hub", "key")
@pytest.mark.parametrize("name", NAMES)
def test_a_service_gives_what_is_computed_here(name, service):
    here, there = small(name), load_remote_model(f"somebody/{name}", host=service)
    conditions = [
        [],
        [Add(vector(Site(1)), 2.0, "prompt_except_last")],
        [Ablate(vector(Site(2, "resid_pre")), 1.0, "all"), Clamp(small_sae(Site(0)), (0, 7), 3.0, "last")],
    ]
    expected = ask_steered(here, PROMPTS, LABELS, conditions)
    assert np.abs(expected[1:] - expected[0]).max() > 1e-2
    np.testing.assert_allclose(ask_steered(there, PROMPTS, LABELS, conditions), expected, rtol=2e-4, atol=1e-6)
    losses = [answer_losses(model, [("w1 w2 ", "w3 w4")], conditions)[0] for model in (here, there)]
    np.testing.assert_allclose(*losses, rtol=2e-4)


@pytest.mark.usefixtures("hub", "key")
@pytest.mark.parametrize("tokens", ["last", "mean", "all"])
def test_activations_come_from_a_service(tokens, service, tmp_path):
    there = load_remote_model("somebody/bloom", host=service)
    found = capture(there, PROMPTS, SITES, tmp_path / "there", tokens=tokens)
    expected = capture(small("bloom"), PROMPTS, SITES, tmp_path / "here", tokens=tokens)
    for site in SITES:
        np.testing.assert_allclose(found.values(site), expected.values(site), rtol=1e-4, atol=1e-5)


def test_activations_are_rehearsed_and_known_apart(tmp_path):
    model = small("gpt2")
    found = np.array(capture(rehearsed(model), PROMPTS, SITES, tmp_path, tokens="all").values(Site(1)))
    key = json.loads((tmp_path / "activations.json").read_text())["key"]
    expected = capture(model, PROMPTS, SITES, tmp_path, tokens="all")
    np.testing.assert_allclose(found, expected.values(Site(1)), atol=1e-6)
    assert key.endswith(" rehearsal")
    assert json.loads((tmp_path / "activations.json").read_text())["key"] == key.removesuffix(" rehearsal")


class Kept(Backend):
    """Keeps what would be sent, and runs it in place."""

    def __call__(self, tracer):
        self.sent = RequestModel.serialize(tracer)
        super().__call__(tracer)


def test_what_is_sent_names_torch_and_nnsight_alone(monkeypatch):
    """No class or function of this library is part of it, not even by its source, except the one that is meant."""
    kept, model = Kept(), rehearsed(small("bloom"))
    monkeypatch.setattr("personalib.steering.remote.running", lambda _: nullcontext(kept))
    several = [Clamp(small_sae(Site(1)), (0, 7), 3.0), Add(vector(Site(2)), 1.0, "last"), Ablate(vector(Site(0)))]
    ask_steered(model, PROMPTS, LABELS, [several])
    words = [argument for _, argument, _ in pickletools.genops(kept.sent) if isinstance(argument, str)]
    named = {word.partition(".")[0] for word in words if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", word)}
    assert {"torch", "nnsight"} <= named and not named & {"personalib", "sae_lens", "numpy", "transformers", "pandas"}
    assert len(kept.sent) < 100_000


def test_a_rehearsal_leaves_the_path_as_it_was():
    path = list(sys.path)
    ask_steered(rehearsed(small("llama")), PROMPTS, LABELS, [()])
    assert sys.path == path


# What would run it on this side

REFUSED = r"gemma2: a remote model is not run on this side; .*evaluate.*ask_steered.*capture.*load_model"
PUSH = Add(vector(Site(1)), 2.0, "last")
WAYS = {
    "free answers": lambda model: generate(model, PROMPTS),
    "steered answers": lambda model: generate(model, PROMPTS, [PUSH]),
    "its own generation": lambda model: model.model.generate(torch.tensor([[3, 4]])),
    "an SAE in its place": lambda model: cross_entropy(model, small_sae(Site(1)), PROMPTS),
    "the logit lens": lambda model: logit_lens(model, torch.eye(24)[:2]),
    "a check of its parts": lambda model: check_parts(model.model),
    "a block": lambda model: blocks(model.model)[0](torch.zeros(1, 2, 24)),
}


@pytest.fixture
def skeleton(hub):
    """The model for a service that is not asked."""
    return load_remote_model("somebody/gemma2", host=NOWHERE)


@pytest.fixture
def rehearsal(folder):
    return load_remote_model(str(folder / "gemma2"), host=REHEARSAL)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["skeleton", "rehearsal"])
def test_what_a_service_cannot_do_is_refused(way, kind, request):
    with pytest.raises(DataError, match=REFUSED):
        WAYS[way](request.getfixturevalue(kind))


def test_a_skeleton_has_no_weights_to_be_known_by(skeleton):
    with pytest.raises(DataError, match="no weights on this side to be known by; name it by its revision"):
        skeleton.digest()


def test_a_rehearsal_still_runs_traces_and_refuses_again_afterwards(rehearsal, tmp_path):
    assert ask_steered(rehearsal, PROMPTS, LABELS, [[PUSH]]).shape == (1, 3, 4)
    assert capture(rehearsal, PROMPTS, [Site(1)], tmp_path).values(Site(1)).shape == (3, 24)
    with pytest.raises(KeyError), running(rehearsal):
        raise KeyError
    with pytest.raises(DataError, match=REFUSED):
        WAYS["free answers"](rehearsal)


# What goes wrong


@pytest.mark.usefixtures("hub", "no_key")
def test_without_a_key_nothing_is_sent():
    with pytest.raises(DataError, match="wants a key, and there is none; put it into the environment as NDIF_API_KEY"):
        asked(NOWHERE)


@pytest.mark.usefixtures("hub", "no_key")
def test_a_key_may_be_kept_in_nnsights_settings_and_end_as_a_line_of_a_file_does(service, monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", "right")
    assert asked(service).shape == (1, 3, 4)
    for end in ("\n", "\r\n", " "):
        monkeypatch.setenv("NDIF_API_KEY", f"right{end}")
        assert asked(service).shape == (1, 3, 4)


@pytest.mark.usefixtures("hub")
def test_a_wrong_key_is_not_repeated_and_part_of_no_model(service, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "very-secret")
    assert "very-secret" not in repr(load_remote_model("somebody/bloom"))
    with pytest.raises(DataError, match=r"Invalid API key: '\(the key\)'") as caught:
        asked(service)
    assert "very-secret" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("key", ["very\nsecret", "very-sécret", "very\x07secret"])
def test_a_key_that_no_header_can_hold_is_not_sent_and_not_repeated(key, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", key)
    with pytest.raises(DataError, match="has characters that no key has; copy it again") as caught:
        asked(NOWHERE)
    assert "very" not in str(caught.value)


@pytest.mark.usefixtures("hub", "key")
def test_no_service_is_one_error_and_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(DataError, match=rf"somebody/bloom: not run by {address}: .*[Cc]onnection refused.*NDIF_HOST"):
        asked(address)
    assert time.monotonic() - begun < 20


@pytest.mark.usefixtures("hub", "key")
def test_a_service_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("personalib.models.remote._PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DataError, match=r"not run by .*timed out"):
            asked(address)
    assert websocket.getdefaulttimeout() is None


@pytest.mark.usefixtures("hub", "key")
@pytest.mark.parametrize(
    ("name", "host", "problem"),
    [
        ("absent", None, "404"),
        ("wrong", None, r"the result holds pathlib\.\w+, which is no tensor; it is not loaded"),
        ("bloom", "nowhere", "Invalid host URL"),
    ],
)
def test_an_answer_or_address_that_is_none_is_one_error(name, host, problem, service):
    with pytest.raises(DataError, match=rf"somebody/{name}: not run by .*{problem}"):
        asked(host or service, name)


@pytest.mark.usefixtures("hub", "key")
def test_an_error_of_a_job_is_told_by_its_last_line(service):
    model = load_remote_model("somebody/bloom", host=service)
    inputs = {"input_ids": torch.tensor([[3, 4]])}
    network, problem = model.network, r"not run by .*: ZeroDivisionError: "
    with (
        pytest.raises(DataError, match=problem) as caught,
        running(model) as backend,
        network.trace(inputs, backend=backend),
    ):
        chosen = (network.output.logits[:, -1] * (1 // 0)).save()  # noqa: F841 - it is never there
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["organism", os.fspath(Path(__file__).parent)])
def test_what_is_here_is_not_looked_for_there(name):
    with pytest.raises(DataError, match="is on this machine, and no service has it; load it with load_model"):
        load_remote_model(name)


@pytest.mark.usefixtures("hub")
def test_a_configuration_that_cannot_be_had_is_one_error():
    with pytest.raises(DataError, match="somebody/unknown: its configuration and tokenizer cannot be loaded"):
        load_remote_model("somebody/unknown")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("adapter_config.json", {"peft_type": "LORA"}, "is an adapter, or has one beside its weights"),
        ("model.safetensors.index.json", {"weight_map": {"x": "x.bin"}}, "its weights are said to be in 'x.bin'"),
    ],
)
def test_files_that_are_refused_here_are_refused_for_a_service(name, content, problem, tmp_path):
    (tmp_path / "hub" / "models--somebody--bloom" / "snapshots" / COMMIT / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"somebody/bloom: {problem}"):
        load_remote_model("somebody/bloom")


class Writes(torch.nn.Module):
    """A program that writes to a file as soon as it is loaded."""

    def __init__(self):
        super().__init__()
        self.kept = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.training = state[1]
        self.kept = torch.from_file("written.bin", True, 4, dtype=torch.float32)


def test_a_program_among_results_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Writes()), content)
    with pytest.raises(pickle.UnpicklingError, match="a program of TorchScript and no tensors; it is not loaded"):
        remote._read(content.getvalue())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"\x80\x04junk", lambda whole: whole[: len(whole) // 2]])
def test_a_damaged_result_is_one_error(spoil):
    content = io.BytesIO()
    torch.save({"one": torch.zeros(3)}, content)
    assert remote._read(content.getvalue())["one"].tolist() == [0, 0, 0]
    with pytest.raises(pickle.UnpicklingError, match="damaged, or no archive of tensors"):
        remote._read(spoil(content.getvalue()))
