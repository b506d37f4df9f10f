"""Grids on a GPU at the sizes of Gemma 2: memory against its estimate, speed, and what half precision does to answers.

Weights are of chance and are made on the GPU; times, memory and rounding do not hang on what they say.

    python tests/benchmarks/device_shapes.py [--json data/benchmarks/device.json] [--model gemma-2-2b] [--device cpu]
"""

import argparse
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steering_case import SHAPES, Array, Case, get_model, machine, make_case

from personalib.base.storage import write_json
from personalib.models.memory import Workload, estimate_memory
from personalib.steering.interventions import Add, Condition
from personalib.steering.settings import Positions

PACKAGES = ("torch", "transformers", "numpy")
MODELS = ("gemma-2-2b", "gemma-2-9b")
# Which model is run in several number formats: float64 is only a reference, and eight bytes a number.
COMPARED = "gemma-2-2b"
# By so much the options' rows of the embeddings are made longer, so that answers have probability, and differ in it.
LENGTHENED = 12.0
MB = 2**20


@dataclass(frozen=True)
class Plan:
    """A grid, with so many texts of a questionnaire in each prompt, to make it longer."""

    positions: Positions
    batch_size: int
    prompts: int
    conditions: int = 8
    texts: int = 1


_SIZES: tuple[tuple[int, ...], ...] = ((64, 64), (16, 16), (64, 8), (32, 32, 4, 4))
_POSITIONS: tuple[Positions, ...] = ("prompt_except_last", "last")
PLANS = (
    *(Plan(positions, *sizes) for sizes in _SIZES for positions in _POSITIONS),
    Plan("prompt_except_last", 4, 4, 4, texts=16),
)


# Memory and speed


def measure(case: Case, plan: Plan) -> dict[str, Any]:
    """The peak of a grid with its estimate, both beyond the weights, and how fast it is."""
    texts = ["\n".join(case.prompts[number : number + plan.texts]) for number in range(plan.prompts)]
    own = replace(case, prompts=texts, batch_size=plan.batch_size)
    conditions: list[Condition] = [(Add(vector, 1.0, plan.positions),) for vector in case.vectors[: plan.conditions]]
    tokens, model = max(map(len, own.rows)), case.language_model.model
    own.ask(conditions[:2])
    seconds, peak, held = _watched(own, conditions)
    steered = "last" if plan.positions == "last" else "prompt"
    work = Workload(tokens, plan.batch_size, plan.prompts, len(conditions), steered)
    found = estimate_memory(model.config, model.dtype, work)
    counted = found.cache + found.working
    return asdict(plan) | {
        "tokens": tokens,
        "weights_mb": found.weights / MB,
        "peak_mb": peak / MB,
        "reserved_mb": held / MB,
        "estimate_mb": counted / MB,
        "margin_mb": found.margin / MB,
        "estimate_over_peak": counted / peak,
        "total_over_peak": found.total / (found.weights + peak),
        "total_mb": found.total / MB,
        "seconds": seconds,
        "rows_per_second": len(texts) * len(conditions) / seconds,
    }


def _watched(case: Case, conditions: list[Condition]) -> tuple[float, int, int]:
    """Seconds of a grid; the most bytes that torch allocated beyond what there was before; and those it held in all."""
    cuda = case.language_model.model.device.type == "cuda"
    before = 0
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    case.ask(conditions)
    seconds = time.perf_counter() - start
    if not cuda:
        return seconds, 1, 1  # to see on the CPU whether it runs
    return seconds, torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved()


# Number formats


def formats(case: Case, prompts: int = 32, conditions: int = 4) -> dict[str, Any]:
    """How far answers are apart in three formats, of one model whose weights are exact in each of them."""
    case = replace(case, prompts=case.prompts[:prompts])
    model = case.language_model.model
    options = sorted({token for own in case.options for token in own})
    with torch.no_grad():
        model.get_input_embeddings().weight[options] *= LENGTHENED
    found = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model.to(dtype)
        # In float64 transformers masks with -inf, of which padded rows would come out as NaN.
        size = 1 if dtype == torch.float64 else case.batch_size
        found[str(dtype).removeprefix("torch.")] = _asked(replace(case, batch_size=size), conditions)
    exact = found.pop("float64")
    return {
        "prompts": prompts,
        "conditions": 1 + conditions,
        "mean_mass": float(exact.sum(2).mean()),
        "spread_of_options": float(exact.std(2).mean()),
        "largest_effect_of_steering": float(abs(exact - exact[0]).max()),
        "beside_float64": {name: _apart(answers, exact) for name, answers in found.items()},
    }


def _asked(case: Case, conditions: int) -> Array:
    return case.ask([(), *((Add(vector, 1.0, "prompt_except_last"),) for vector in case.vectors[:conditions])])


def _apart(found: Array, exact: Array) -> dict[str, float]:
    shares, right = (each / each.sum(2, keepdims=True) for each in (found, exact))
    return {
        "largest_difference_in_probability": float(abs(found - exact).max()),
        "mean_difference_in_probability": float(abs(found - exact).mean()),
        "largest_difference_in_log_probability": float(abs(np.log(found) - np.log(exact)).max()),
        "largest_difference_in_share": float(abs(shares - right).max()),
        "same_choice": float((found.argmax(2) == exact.argmax(2)).mean()),
    }


# The whole


def run(name: str, device: str) -> dict[str, Any]:
    """All of one model."""
    case = make_case(get_model(name, device), 80)
    found: dict[str, Any] = {"site": str(case.vectors[0].site), "grids": []}
    for plan in PLANS:
        found["grids"].append(measure(case, plan))
        sys.stderr.write(row(found["grids"][-1]) + "\n")
    if name == COMPARED or device == "cpu":
        found["formats"] = formats(case)
    return found


def row(grid: dict[str, Any]) -> str:
    """One grid, to be read."""
    return (
        f"{grid['positions']:<20}{grid['prompts']:>4} prompts x {grid['conditions']} of {grid['tokens']:>4} tokens, "
        f"batches of {grid['batch_size']:>2}: peak {grid['peak_mb']:8.0f} MiB, "
        f"estimate / peak {grid['estimate_over_peak']:.2f}, in all {grid['reserved_mb']:6.0f}, "
        f"estimate {grid['total_mb']:6.0f}, {grid['rows_per_second']:7.1f} rows/s"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure grids on a GPU.")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    parser.add_argument("--model", choices=list(SHAPES), action="append", help="which; by default Gemma 2 of 2B and 9B")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: only to see whether it runs")
    asked = parser.parse_args()
    about = machine(asked.device, PACKAGES) | {"cuda": str(torch.version.cuda)}
    found: dict[str, Any] = {"machine": about, "date": datetime.now(UTC).isoformat(timespec="seconds"), "models": {}}
    for name in asked.model or MODELS:
        sys.stderr.write(f"{name}\n")
        found["models"][name] = run(name, asked.device)
        gc.collect()
        # After each model, so that what was found is kept if a larger one does not fit.
        if asked.json:
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(asked.json, found, indent=1)
    sys.stdout.write(json.dumps({name: own.get("formats") for name, own in found["models"].items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
