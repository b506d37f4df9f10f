"""Number formats agree within what they can hold, and a GPU gives what the CPU gives.

The second half needs a GPU of CUDA, and is skipped where there is none.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import LABELS, SITES, WIDTH, small, small_sae, vector

from personalib.evaluation.ask import evaluate
from personalib.features.discovery import pool_features
from personalib.features.metrics import cross_entropy, reconstruction
from personalib.features.saes import load_sae
from personalib.models.activations import capture
from personalib.models.load import load_model
from personalib.models.memory import Workload, estimate_memory, free_memory
from personalib.models.parts import Site
from personalib.questionnaires.items import load_trait
from personalib.questionnaires.questions import trait_questionnaire
from personalib.steering.application import steer
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.interventions import Ablate, Add, Clamp

NAMES = ("gemma2", "llama", "gpt2")
PROMPTS = ["w3 ", "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 w21 ", "w9 w9 w5 ", "w2 w4 w6 w8 w10 "]
TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10 w11 w12", "w13"]
CONTENT = [f"w{number} w{number + 1} w{number + 2}" for number in range(12)]
# How far probabilities may be from those of float64. Bfloat16 keeps 8 bits of a number, float32 24.
TOLERANCE = {torch.bfloat16: 0.02, torch.float32: 2e-6}
# Of log-probabilities between devices in float32: sums are formed in another order.
APART = 1e-4
SAE = small_sae(Site(1), 45)
CONDITIONS = [
    (),
    *((Add(vector(site, number), 0.5, "prompt"),) for number, site in enumerate(SITES)),
    (Add(vector(Site(0), 20), 1.0, "last"),),
    (Add(vector(Site(1), 21), -1.0, "last"), Ablate(vector(Site(2), 22), 1.0, "last")),
    (Add(vector(Site(0), 23), 1.0, "prompt_except_last"), Ablate(vector(Site(1), 24), 0.5, "all")),
    (Clamp(SAE, (3, 17), 2.0, "prompt"),),
    (Clamp(SAE, (5,), 0.0, "last"),),
]
every_model = pytest.mark.parametrize("name", NAMES)
half_and_single = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU of CUDA here")
HERE = ["cpu", pytest.param("cuda", marks=on_gpu)]
everywhere = pytest.mark.parametrize("device", HERE)


def placed(name, device="cpu", dtype=torch.float32, **changes):
    language_model = small(name, **changes)
    language_model.model.to(device, dtype)
    return language_model


def steered(language_model, batch_size=3):
    # What transformers writes at masked places is -inf in float64, of which rows with padding would come out as NaN.
    batch_size = 1 if language_model.model.dtype == torch.float64 else batch_size
    return ask_steered(language_model, PROMPTS, LABELS, CONDITIONS, batch_size=batch_size)


def sae_on(device):
    """A copy of the SAE; torch moves modules in place."""
    made = small_sae(Site(1), 45)
    return replace(made, network=made.network.to(device))


# Number formats


@everywhere
@half_and_single
@every_model
def test_probabilities_are_those_of_double_precision_to_what_a_format_holds(name, dtype, device):
    exact, found = (steered(placed(name, device, each)) for each in (torch.float64, dtype))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=TOLERANCE[dtype])
    # Or else all of this would hold for numbers that say nothing.
    assert abs(exact - exact[0]).max() > 0.1 and exact.std(axis=2).max() > 0.1


@everywhere
@every_model
def test_half_precision_is_less_exact_than_single(name, device):
    exact, single, half = (
        steered(placed(name, device, each)) for each in (torch.float64, torch.float32, torch.bfloat16)
    )
    assert abs(half - exact).max() > 100 * abs(single - exact).max()


@everywhere
@half_and_single
def test_the_order_of_the_options_survives_a_format_where_it_is_clear(dtype, device):
    exact, found = (steered(placed("gemma2", device, each)) for each in (torch.float64, dtype))
    first, second = np.sort(exact, axis=2)[..., :-3:-1].transpose(2, 0, 1)
    clear = first - second > 2 * TOLERANCE[dtype]
    assert clear.mean() > 0.1
    assert (found.argmax(2) == exact.argmax(2))[clear].all()


@everywhere
@half_and_single
def test_what_an_intervention_changes_stays_where_and_what_it_was(dtype, device):
    stream = torch.randn(2, 5, WIDTH, device=device, dtype=dtype)
    for one in (each for condition in CONDITIONS for each in condition):
        changed = one.change()(stream)
        assert (changed.device, changed.dtype, changed.shape) == (stream.device, dtype, stream.shape)


@everywhere
@half_and_single
def test_activations_are_kept_in_single_precision_on_the_host(tmp_path, dtype, device):
    sites = [Site(0), Site(2)]
    expected = capture(placed("llama"), TEXTS, sites, tmp_path / "expected", tokens="all")
    found = capture(placed("llama", device, dtype), TEXTS, sites, tmp_path / "found", tokens="all")
    for site in sites:
        one, other = found.values(site), expected.values(site)
        assert one.dtype == np.float32
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error < (0.05 if dtype == torch.bfloat16 else 1e-5)


# A GPU


@on_gpu
@every_model
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_grid_scorer_gives_what_it_gives_on_the_cpu(name, batch_size):
    expected, found = (steered(placed(name, device), batch_size) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(np.log(found), np.log(expected), rtol=0, atol=APART)


@on_gpu
def test_the_organism_loads_to_the_gpu_and_answers_items_as_on_the_cpu():
    items = load_trait()[:4]
    tables = []
    for device in ("cpu", "cuda"):
        organism = load_model(device=device)
        assert {each.device.type for each in organism.model.parameters()} == {device}
        tables.append(evaluate(organism, trait_questionnaire(items), neutral=0))
    columns = [column for column in tables[0] if column.startswith("p_")]
    np.testing.assert_allclose(tables[1][columns], tables[0][columns], rtol=0, atol=1e-5)


@on_gpu
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="device 'cuda:99': "):
        load_model(device="cuda:99")


@on_gpu
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_an_sae_clamps_features_of_a_model_on_the_gpu_wherever_it_is_itself(where):
    conditions = [(Clamp(sae_on(place), (3, 17), 2.0, "prompt"),) for place in ("cpu", where)]
    expected = ask_steered(placed("gemma2"), PROMPTS, LABELS, conditions[:1])
    found = ask_steered(placed("gemma2", "cuda"), PROMPTS, LABELS, conditions[1:])
    np.testing.assert_allclose(np.log(found), np.log(expected), rtol=0, atol=APART)


@on_gpu
def test_an_open_steering_gives_the_logits_of_the_cpu():
    ids = torch.tensor([[1, 7, 8, 9, 10], [1, 11, 12, 13, 14]])
    found = []
    for device in ("cpu", "cuda"):
        language_model = placed("gemma2", device)
        given = ids.to(device)
        with torch.inference_mode(), steer(language_model, [one for condition in CONDITIONS for one in condition]):
            logits = language_model.model(input_ids=given, attention_mask=torch.ones_like(given)).logits
        assert logits.device.type == device
        found.append(logits.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-3)


@on_gpu
def test_answers_are_written_and_weighed_as_on_the_cpu():
    exchanges = [(PROMPTS[0], "w5 w6 w7"), (PROMPTS[1], "w8 w9")]
    written, losses = [], []
    for device in ("cpu", "cuda"):
        language_model = placed("gemma2", device)
        written.append(generate(language_model, PROMPTS, [Add(vector(Site(1), 3), 1.0, "all")], tokens=6))
        losses.append(answer_losses(language_model, exchanges, CONDITIONS)[0])
    assert written[0] == written[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=10 * APART)


@on_gpu
@pytest.mark.parametrize("tokens", ["last", "mean", "all"])
def test_the_same_activations_are_captured_as_on_the_cpu(tmp_path, tokens):
    first, second = (
        capture(placed("gemma2", device), TEXTS, SITES, tmp_path / device, tokens=tokens) for device in ("cpu", "cuda")
    )
    for site in SITES:
        np.testing.assert_allclose(second.values(site), first.values(site), rtol=0, atol=1e-4)


@on_gpu
def test_an_sae_reads_the_same_features_as_on_the_cpu(tmp_path):
    language_model = placed("gemma2", "cuda")
    stored = capture(language_model, CONTENT, [SAE.site], tmp_path, tokens="all")
    pooled, qualities, losses = [], [], []
    for device in ("cpu", "cuda"):
        sae = sae_on(device)
        pooled.append(pool_features(sae, stored).toarray())
        qualities.append(reconstruction(sae, stored.values(SAE.site)))
        losses.append(cross_entropy(language_model, sae, CONTENT))
    np.testing.assert_allclose(pooled[1], pooled[0], rtol=0, atol=1e-3)
    assert pooled[0].max() > 1
    assert tuple(qualities[1]) == pytest.approx(tuple(qualities[0]), rel=1e-4)
    assert tuple(losses[1]) == pytest.approx(tuple(losses[0]), rel=1e-4)


@on_gpu
def test_an_sae_loads_to_the_gpu_and_is_the_same():
    here, there = (load_sae("organism", "resid_post.3/width_512", device) for device in ("cpu", "cuda"))
    values = torch.randn(50, here.directions.shape[1], generator=torch.Generator().manual_seed(0))
    assert there.directions.device.type == "cuda" and there.digest() == here.digest()
    torch.testing.assert_close(there.encode(values).cpu(), here.encode(values), rtol=0, atol=1e-4)


# Memory of a GPU

# Wide enough that what a batch takes is more than rounding to blocks of memory, and made in a moment.
WIDE = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32_000,
    "sliding_window": 4096,
}


@on_gpu
@pytest.mark.parametrize("prompts", [4, 64])
@pytest.mark.parametrize("positions", ["prompt", "last"])
@half_and_single
def test_a_grid_stays_within_its_estimate(dtype, positions, prompts):
    language_model = placed("gemma2", "cuda", dtype, **WIDE)
    texts = [" ".join(f"w{number % 25}" for number in range(120)) + " "] * prompts
    conditions = [(Add(vector(Site(0), number, WIDE["hidden_size"]), 1.0, positions),) for number in range(16)]
    ask_steered(language_model, texts[:1], LABELS, conditions[:1])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ask_steered(language_model, texts, LABELS, conditions, batch_size=64)
    most = torch.cuda.max_memory_allocated() - before
    work = Workload(121, 64, prompts, len(conditions), positions)
    found = estimate_memory(language_model.model.config, dtype, work)
    assert most <= found.cache + found.working + found.margin
    assert found.cache + found.working <= 1.5 * most


@on_gpu
@pytest.mark.parametrize("positions", ["prompt", "last"])
def test_a_grid_runs_where_torch_may_take_no_more_than_the_estimate(positions):
    language_model = placed("gemma2", "cuda", torch.bfloat16, **WIDE)
    texts = [" ".join(f"w{number % 25}" for number in range(120)) + " "] * 64
    conditions = [(Add(vector(Site(0), number, WIDE["hidden_size"]), 1.0, positions),) for number in range(4)]
    work = Workload(121, 64, len(texts), len(conditions), positions)
    found = estimate_memory(language_model.model.config, torch.bfloat16, work)
    torch.cuda.empty_cache()
    # What is there beside the model: tensors of tests before, and what torch holds around them.
    others = torch.cuda.memory_reserved() - found.weights
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((found.total + others) / whole)
    try:
        ask_steered(language_model, texts, LABELS, conditions, batch_size=64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@on_gpu
def test_free_memory_shrinks_by_what_is_taken_and_counts_what_torch_holds_unused():
    torch.cuda.empty_cache()
    before = free_memory("cuda")
    taken = torch.ones(2**28, device="cuda")  # 1 GiB
    during = free_memory("cuda")
    del taken
    assert before - during == pytest.approx(2**30, rel=0.05)
    assert free_memory("cuda") == pytest.approx(before, rel=0.01)
