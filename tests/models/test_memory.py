"""The estimate of memory counts what a model has, grows as the work does, and is no less than what torch allocates."""

import json

import numpy as np
import pytest
import torch
from small_models import CONFIGS, small, small_sae, vector
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma4TextConfig,
    MambaConfig,
    RwkvConfig,
    ViTConfig,
)

from personalib.base.data import DataError, data_dir
from personalib.models.load import load_model
from personalib.models.memory import (
    MARGIN,
    WORKSPACE,
    MemoryEstimate,
    Workload,
    _free_on_host,
    _Sizes,
    count_on_disk,
    estimate_memory,
    free_memory,
    has_attention,
    read_config,
)
from personalib.models.parts import Site
from personalib.models.registry import load_registry
from personalib.steering.grid import ask_steered
from personalib.steering.interventions import Add, Clamp
from tests.models.test_registry import SHAPES

LABELS = ("A", "B", "C", "D")
COUNTS = {"gemma-2-2b": 2_614_341_888, "gemma-2-9b-it": 9_241_705_984}
# Small, and in the proportions of real ones: each part of the estimate counts somewhere.
MIDDLE = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4000,
}
LONG = " ".join(f"w{number % 25}" for number in range(140)) + " "
WORK = Workload(tokens=100, batch_size=16)


def most_allocated(run):
    """The most bytes that torch has allocated on the CPU at a time during a run, beyond what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


# Weights


def parameters(config):
    return estimate_memory(config, torch.bfloat16, WORK).parameters


@pytest.mark.parametrize("name", CONFIGS)
def test_as_many_parameters_are_counted_as_a_real_model_has(name):
    model = small(name).model
    assert parameters(model.config) == sum(each.numel() for each in model.parameters())


def test_tied_embeddings_are_counted_once():
    tied, untied = (Gemma2Config(**MIDDLE, tie_word_embeddings=tie) for tie in (True, False))
    assert parameters(untied) - parameters(tied) == MIDDLE["vocab_size"] * MIDDLE["hidden_size"]


@pytest.mark.parametrize("name", COUNTS)
def test_published_models_have_as_many_parameters_as_their_pages_and_the_table_say(name):
    assert parameters(SHAPES[name]) == COUNTS[name] == load_registry()[name].parameters
    assert estimate_memory(SHAPES[name], torch.bfloat16, WORK).weights == pytest.approx(2 * COUNTS[name], rel=1e-4)


def test_the_weights_of_the_organism_are_those_that_are_loaded():
    model = load_model().model
    loaded = sum(each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()])
    found = estimate_memory(read_config("organism"), torch.float32, WORK)
    assert found.parameters == load_registry()["organism"].parameters == model.num_parameters()
    assert found.weights == loaded


def test_the_weights_of_an_sae_are_those_of_a_real_one():
    sae = small_sae(Site(1), width=96)
    loaded = sum(each.numel() * each.element_size() for each in sae.network.parameters())
    found = estimate_memory(Gemma2Config(**MIDDLE), torch.bfloat16, Workload(10, sae_width=sae.width)).sae
    # Room for one more bias, a threshold for each feature, which some architectures have.
    assert loaded <= found <= loaded + 4 * sae.width


def test_a_configuration_of_no_causal_language_model_is_told():
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        parameters(ViTConfig())


def test_a_configuration_that_is_not_here_is_told_with_the_way_to_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "config.json").write_text("{}")
    for name, fix in (("nobody/nothing", "hf download"), (str(tmp_path), "save_pretrained writes it")):
        with pytest.raises(DataError, match=rf"{name}: its configuration cannot be read: .*{fix}"):
            read_config(name)


def test_what_a_map_leaves_on_disk_is_counted_by_the_innermost_name():
    config = Gemma2Config(**MIDDLE)
    model = AutoModelForCausalLM.from_config(config)
    block = sum(each.numel() for each in model.model.layers[1].parameters())
    assert count_on_disk(config, {"": "disk"}) == parameters(config)
    assert count_on_disk(config, {"": 0, "model.layers.1": "disk"}) == block
    # A name is that of a whole part, and what is said of a part of it goes before.
    assert count_on_disk(config, {"model.layers": 0, "model.layers.1": "disk", "model.lay": "disk"}) == block
    assert count_on_disk(config, {"model.layers.1": "disk", "model.layers.1.mlp": "cpu"}) < block
    assert count_on_disk(config, {"model.layers": "cpu"}) == 0


# Shapes


def test_where_blocks_differ_the_largest_counts():
    sizes = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 500}
    config = Gemma4TextConfig(**sizes, head_dim=16, global_head_dim=32)
    assert _Sizes.of(config, torch.float32).head == 32
    assert estimate_memory(config, torch.float32, WORK).total > 0
    varied = Gemma3nTextConfig(num_hidden_layers=3, intermediate_size=[64, 128, 96])
    assert _Sizes.of(varied, torch.float32).hidden == 128


@pytest.mark.parametrize("config", [MambaConfig(), RwkvConfig()], ids=["mamba", "rwkv"])
def test_a_model_without_attention_is_told(config):
    assert not has_attention(config) and has_attention(Gemma2Config(**MIDDLE))
    with pytest.raises(DataError, match=f"'{config.model_type}' has no attention"):
        _Sizes.of(config, torch.float32)


# Growth


def test_rows_are_what_the_grid_scorer_makes_of_prompts_and_conditions():
    assert [Workload(9, 64, prompts, 23).rows for prompts in (1, 8, 32, 33, 64, 100)] == [23, 64, 64, 33, 64, 64]


def test_both_kinds_of_steering_take_what_the_larger_of_them_takes():
    config = Gemma2Config(**MIDDLE)
    last, prompt, both = (
        estimate_memory(config, torch.float32, Workload(100, steered=each, alike=False))
        for each in ("last", "prompt", "both")
    )
    assert both == max(last, prompt, key=lambda one: one.total) and last.cache > prompt.cache == 0
    single = [estimate_memory(config, torch.float32, Workload(1, steered=each)) for each in ("last", "prompt")]
    assert single[0] == single[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": 0}, "at least one token"),
        ({"tokens": 9, "batch_size": 0}, "at least one token, row"),
        ({"tokens": 9, "conditions": 0}, "condition"),
        ({"tokens": 9, "prompts": 0}, "prompt"),
        ({"tokens": 9, "sae_width": -1}, "no width below 0"),
        ({"tokens": 9, "steered": "first"}, "choose one of last, prompt, both"),
    ],
)
def test_work_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Workload(**wrong)


# Room


def test_free_memory_shrinks_by_what_is_taken():
    before = free_memory("cpu")
    taken = torch.ones(2**28)  # 1 GiB
    assert before - free_memory("cpu") > 2**29
    assert taken[0] == 1


def host(root, groups, **files):
    """A machine of 1,000 kB as Linux tells of it, with control groups."""
    told = {"proc/meminfo": "MemTotal: 2000 kB\nMemAvailable: 1000 kB\n", "proc/self/cgroup": groups}
    for name, text in (told | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def second(limit, used, idle=0, place=""):
    """The files of a control group."""
    facts = {"max": limit, "current": used, "stat": f"anon 5\ninactive_file {idle}"}
    return {f"sys/fs/cgroup/{place}memory.{name}": text for name, text in facts.items()}


ALL = 1000 * 1024


@pytest.mark.parametrize(
    ("groups", "files", "room"),
    [
        ("0::/", {}, ALL),
        ("0::/", second("max", 700), ALL),
        ("0::/", second(900, 700), 200),
        ("0::/", second(900, 700, idle=300), 500),
        ("0::/", second(900, 950), 0),
        ("0::/", second(10 * ALL, 0), ALL),
        # The innermost may be narrower, or wider, than those that it is in; and may not be seen within a container.
        ("0::/a/b", second(900, 0, place="a/b/") | second("max", 0, place="a/"), 900),
        ("0::/a/b", second(900, 0, place="a/b/") | second(800, 0, place="a/"), 800),
        ("0::/a/b", second(700, 0), 700),
        # Beside groups of the first version, which say nothing here.
        ("5:cpu,memory:/a\n1:name=systemd:/a\n0::/", second(900, 700), 200),
        ("5:cpu,memory:/a", {}, ALL),
    ],
)
def test_a_container_has_no_more_than_its_limit_leaves(tmp_path, groups, files, room):
    assert _free_on_host(host(tmp_path, groups, **files)) == room


def test_a_machine_without_control_groups_is_free_as_a_whole(tmp_path):
    (host(tmp_path, "") / "proc" / "self" / "cgroup").unlink()
    assert _free_on_host(tmp_path) == ALL


@pytest.mark.parametrize("device", ["meta", "cuda:99"])
def test_devices_whose_memory_is_not_known_are_told(device):
    with pytest.raises(DataError, match=f"device '{device}': "):
        free_memory(device)


def test_what_is_spread_evenly_is_shared_but_for_what_any_device_may_need():
    found = MemoryEstimate(5, weights=3 * 10**9, sae=10**8, cache=10**9, working=10**9)
    assert found.share(1) == found.total
    assert found.share(2) == 2 * 10**9 + 10**8 + 10**9 + found.margin


def test_an_estimate_reads_in_gigabytes_without_what_is_not_there():
    found = MemoryEstimate(5, 2 * 10**9, 0, 0, 10**9)
    assert found.margin == MARGIN * 10**9 + WORKSPACE and found.total == 31 * 10**8 + WORKSPACE
    assert str(found) == "3.17 GB (weights 2.00, working 1.00, margin 0.17)"


# Measured


def test_the_estimates_that_the_book_shows_beside_measured_peaks_are_those_of_this_formula():
    measured = json.loads((data_dir() / "benchmarks" / "device.json").read_text())["models"]
    for name, config in (("gemma-2-2b", SHAPES["gemma-2-2b"]), ("gemma-2-9b", SHAPES["gemma-2-9b-it"])):
        for grid in measured[name]["grids"]:
            work = Workload(
                *(grid[key] for key in ("tokens", "batch_size", "prompts", "conditions")),
                "last" if grid["positions"] == "last" else "prompt",
                alike=False,
            )
            found = estimate_memory(config, torch.bfloat16, work)
            counted = found.cache + found.working
            assert counted / 2**20 == pytest.approx(grid["estimate_mb"])
            assert 0.98 <= counted / 2**20 / grid["peak_mb"] <= 1.1
            assert found.margin / 2**20 == pytest.approx(grid["margin_mb"])


@pytest.mark.parametrize(
    ("positions", "prompts", "clamps"),
    [("prompt", 16, False), ("last", 16, False), ("last", 2, False), ("prompt", 2, False), ("prompt", 8, True)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_real_run_takes_no_more_than_estimated_and_not_much_less(positions, prompts, clamps, dtype):
    language_model = small("gemma2", **MIDDLE, sliding_window=4096)
    # Above it there is a block that is run in full, and the last one, which is cut short.
    model, site = language_model.model.to(dtype), Site(0)
    sae = small_sae(site, width=MIDDLE["hidden_size"])
    conditions = [(Clamp(sae, (3,), 2.0, positions),) if clamps else (Add(vector(site, width=96), 1.0, positions),)] * 6
    texts = [f"w{number} {LONG}" for number in range(prompts)]
    tokens = len(language_model.tokenizer(texts[0])["input_ids"])
    ask_steered(language_model, texts[:1], LABELS, conditions[:1])
    most = most_allocated(lambda: ask_steered(language_model, texts, LABELS, conditions, batch_size=16))
    workload = Workload(tokens, 16, prompts, len(conditions), positions, clamps * sae.width, alike=False)
    found = estimate_memory(model.config, dtype, workload)
    assert most <= found.cache + found.working <= 1.5 * most


@pytest.mark.parametrize("tail", [1, 20, 70])
def test_prompts_that_begin_alike_take_no_more_than_estimated(tail):
    language_model = small("gemma2", **MIDDLE, sliding_window=4096)
    words = LONG.split()
    texts = [" ".join([*words[:-tail], *np.random.default_rng(number).choice(words, tail), ""]) for number in range(16)]
    tokens = len(language_model.tokenizer(texts[0])["input_ids"])
    conditions = [(Add(vector(Site(0), width=96), 1.0, "prompt"),)] * 6
    ask_steered(language_model, texts[:2], LABELS, conditions[:1])
    most = most_allocated(lambda: ask_steered(language_model, texts, LABELS, conditions, batch_size=16))
    found = estimate_memory(language_model.model.config, torch.float32, Workload(tokens, 16, 16, 6, "prompt"))
    assert most <= found.cache + found.working
