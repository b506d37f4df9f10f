"""How fast a grid of steered answers is, beside other packages and beside the arithmetic that cannot be left out.

All competitors answer the same prompts under the same vectors in one run, one after the other within each repeat, and
what they answer is compared. Written down are medians over the repeats, and of each ratio that of the medians with the
least and the most of any repeat.

    python tests/benchmarks/steering_grid.py [--json results/bench.json] [--repeats 3] [--quick] [--device cuda]
"""

import argparse
import ctypes
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import steering_rivals as rivals
import torch
from evaluation_speed import speeds
from steering_case import CONDITIONS, Array, Case, get_model, machine, make_case
from steering_floor import Floor

from personalib.base.storage import write_json
from personalib.models.load import LanguageModel
from personalib.models.parts import blocks
from personalib.models.registry import ORGANISM

PACKAGES = ("torch", "transformers", "transformer-lens", "steering-vectors", "repeng", "numpy", "personalib")
HEADLINES = (
    "speedup_vs_paper_loop",
    "speedup_vs_steering_vectors",
    "speedup_vs_repeng",
    "time_over_floor",
    "marginal_cost_last_position",
    "peak_memory_mb",
)
FEW = 3  # conditions of the smaller grid that the marginal cost is read off
MB = 2**20
Run = Callable[[], Any]
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Plan:
    """What of a grid is run, and how much of it the packages that run batches, and the paper's loop, are timed on."""

    prompts: int
    conditions: int = CONDITIONS
    rival_conditions: int = 8
    paper_prompts: int = 16
    paper_conditions: int = 2


PLANS = {
    ORGANISM: Plan(64),
    "gemma2_12x512": Plan(8, rival_conditions=4, paper_prompts=2, paper_conditions=1),
    "gemma-2-2b": Plan(32, rival_conditions=4, paper_prompts=2),
    "gemma-2-9b": Plan(32, rival_conditions=4, paper_prompts=2),
}


# Times


def timed(run: Run, device: torch.device) -> float:
    """Seconds that something takes."""
    rivals.synchronize(device)
    start = time.perf_counter()
    run()
    rivals.synchronize(device)
    return time.perf_counter() - start


def side_by_side(runs: Mapping[str, Run], repeats: int, device: torch.device) -> Seconds:
    """Seconds of each of several things, one after the other in each repeat."""
    found: Seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(timed(run, device))
    return found


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """The ratio of medians, and the least and the most of any repeat."""
    own = [a / b for a, b in zip(one, other, strict=True)]
    return {"ratio": median(one) / median(other), "min": min(own), "max": max(own)}


def measure(case: Case, plan: Plan, repeats: int) -> dict[str, Any]:
    """All the times of one model, and what they come to."""
    runs = _runs(case, plan)
    device = case.language_model.model.device
    notes = _agreement(case, plan)
    for run in runs.values():
        run["warm"]()
    raw = side_by_side({name: run["full"] for name, run in runs.items()}, repeats, device)
    seconds = {name: [each * runs[name]["factor"] for each in own] for name, own in raw.items()}
    few, many, once = (seconds[name] for name in ("last_few", "last_many", "unsteered"))
    step = [(b - a) / (plan.conditions - FEW) for a, b in zip(few, many, strict=True)]
    ratios = {
        **{f"speedup_vs_{name}": ratio(seconds[name], seconds["ours"]) for name in rivals.POSITIONS},
        "time_over_floor": ratio(seconds["ours"], seconds["floor"]),
        "marginal_cost_last_position": ratio(step, once)
        | {"ratio": (median(many) - median(few)) / (plan.conditions - FEW) / median(once)},
    }
    return {
        **{name: own["ratio"] for name, own in ratios.items()},
        "range": {name: {"min": own["min"], "max": own["max"]} for name, own in ratios.items()},
        "seconds": {name: median(own) for name, own in seconds.items()},
        "answers": len(case.prompts) * plan.conditions,
        "prompts": len(case.prompts),
        "tokens": sorted(len(row) for row in case.rows),
        "conditions": plan.conditions,
        "site": str(case.vectors[0].site),
        "notes": notes,
    }


def _runs(case: Case, plan: Plan) -> dict[str, dict[str, Any]]:
    """By name: what is timed, a smaller run to warm up, and what its time is multiplied by."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, run: Callable[[int], Any], count: int, factor: float = 1.0) -> None:
        found[name] = {"full": partial(run, count), "warm": partial(run, min(2, count)), "factor": factor}

    add("ours", case.ours, plan.conditions)
    add("floor", Floor(case).run, plan.conditions)
    for name in ("steering_vectors", "repeng"):
        run = rivals.make(name, case, 0)
        add(name, run, plan.rival_conditions, plan.conditions / plan.rival_conditions)
    answers = plan.paper_prompts * plan.paper_conditions
    paper = rivals.make("paper_loop", case, plan.paper_prompts)
    add("paper_loop", paper, plan.paper_conditions, len(case.prompts) * plan.conditions / answers)
    at_last = partial(case.ours, positions="last")
    add("last_few", at_last, FEW)
    add("last_many", at_last, plan.conditions)
    add("unsteered", lambda _: case.ask([()]), 1)
    return found


# Agreement


def _agreement(case: Case, plan: Plan) -> dict[str, Any]:
    """Whether all competitors answer the same, with what was lent to each."""
    count = min(2, plan.rival_conditions)
    own = {where: case.ours(count, where) for where in ("prompt_except_last", "prompt")}
    unsteered = case.ask([()])
    effect = min(_apart(each[:1], unsteered) for each in own.values())
    answers = {name: rivals.make(name, case, 2)(count) for name in rivals.POSITIONS} | {"floor": Floor(case).run(count)}
    found: dict[str, Any] = {"effect of steering in log-probability": effect}
    for name, theirs in answers.items():
        ours = own[rivals.POSITIONS.get(name, "prompt_except_last")][: len(theirs), : theirs.shape[1]]
        apart, most = _apart(theirs, ours), float(abs(theirs - ours).max())
        found[f"{name}: largest difference in log-probability"] = apart
        found[f"{name}: largest difference in probability"] = most
        exact = case.language_model.model.dtype == torch.float32
        if (apart > 1e-3 or most > 1e-5) if exact else apart > max(0.1, effect / 2):
            raise AssertionError(f"{name} answers otherwise than the grid: {most} apart, {apart} in log-probability")
    if effect < 0.01:
        raise AssertionError(f"steering changes answers by {effect} in log-probability; nothing would be noticed")
    return found | _terms(case, plan)


def _apart(one: Array, other: Array) -> float:
    return float(abs(np.log(one) - np.log(other)).max())


def _terms(case: Case, plan: Plan) -> dict[str, str]:
    """What has to be known to read the times."""
    share = f"timed on the first {plan.rival_conditions} of {plan.conditions} conditions and scaled"
    return {
        "ours": f"ask_steered with batch_size={case.batch_size}, from texts on, their encoding included",
        "paper_loop": f"TransformerLens, one prompt at a time, all logits, softmax to a list; timed on the first "
        f"{plan.paper_prompts} prompts under {plan.paper_conditions} conditions and scaled per answer; token ids given",
        "steering_vectors": "all tokens but the last; batches by length, logits_to_keep=1, no cache, inputs given; "
        f"{share}",
        "repeng": "all tokens, for it cannot leave out the last; batches by length, logits_to_keep=1, no cache, "
        f"inputs given; numpy.float_ lent; {share}",
        "floor": "bare torch on whole prompts, by length, inputs given; rms_norm of torch, in place where that is "
        "possible. Ours may fall below it, since it runs what prompts begin with alike once",
        "peak_memory_mb": f"beyond model and inputs, in a process of its own; of {plan.conditions} conditions for ours "
        f"and 1 for the others; a pass of ours has up to {case.batch_size} rows, one of the others as many as there "
        f"are prompts, {min(case.batch_size, len(case.prompts))}, and the paper's loop 1",
        "marginal_cost_last_position": f"(time of {plan.conditions} - time of {FEW} conditions at the last token) / "
        f"{plan.conditions - FEW} / time of one unsteered pass, encoding included in each",
    }


# Memory


def memory_of(name: str, model: str, device: str, conditions: int) -> float:
    """The most MiB that a competitor has in use beyond model and inputs, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--model", model, "--device", device]
    command += ["--conditions", str(conditions)]
    threads = str(torch.get_num_threads())
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"memory of {name} on {model}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def print_memory(name: str, model: str, device: str, conditions: int) -> None:
    """In a process of its own: build, warm up on a short grid, and print the peak of a run above what there was."""
    case = make_case(get_model(model, device), PLANS[model].prompts)
    run = case.ours if name == "ours" else rivals.make(name, case, 4)
    if name == "paper_loop":  # a second model would be in the way
        run(1)
    else:
        warm = replace(case, prompts=case.prompts[:1])
        (warm.ours if name == "ours" else rivals.make(name, warm, 1))(1)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(conditions)
        peak = torch.cuda.max_memory_allocated()
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's mark of the most memory starts anew
        before = _status("VmRSS")
        run(conditions)
        peak = _status("VmHWM")
    sys.stdout.write(f"\n{(peak - before) / MB}\n")


def _status(key: str) -> int:
    """Bytes of an entry of Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def memory(model: str, device: str, plan: Plan) -> dict[str, float]:
    """Of all competitors; the other packages' do not hang on the number of conditions."""
    counts = {"ours": plan.conditions} | dict.fromkeys(rivals.POSITIONS, 1)
    return {name: memory_of(name, model, device, count) for name, count in counts.items()}


# Growth


def growth(language_model: LanguageModel, plan: Plan, repeats: int, quick: bool) -> dict[str, Any]:
    """Seconds of ours against the number of conditions, of items, and of blocks above the site."""
    found = {"blocks_above_site": _by_blocks(language_model, plan, repeats, 4 if quick else CONDITIONS)}
    if language_model.name != ORGANISM:
        return found
    counts, items = ((1, 2, 4), (16, 32)) if quick else ((1, 2, 4, 8, 16, 32), (16, 32, 64, 128))
    base = make_case(language_model, plan.prompts, count=max(counts))
    by_count = {str(count): partial(base.ours, count) for count in counts}
    whole = make_case(language_model, max(items))
    by_items = {str(count): replace(whole, prompts=whole.prompts[:count]).ours for count in items}
    device = language_model.model.device
    found["conditions"] = medians(side_by_side(by_count, repeats, device))
    found["items"] = medians(side_by_side(by_items, repeats, device))
    return found


def _by_blocks(language_model: LanguageModel, plan: Plan, repeats: int, conditions: int) -> dict[str, float]:
    depth = len(blocks(language_model.model))
    # All prompts of the organism for every block; of larger models, as many as are run in the time of a few.
    prompts, conditions = (plan.prompts, conditions) if language_model.name == ORGANISM else (4, 4)
    cases = {str(depth - 1 - layer): make_case(language_model, prompts, layer) for layer in range(depth)}
    runs = {name: partial(case.ours, conditions) for name, case in cases.items()}
    return medians(side_by_side(runs, repeats, language_model.model.device))


def medians(seconds: Seconds) -> dict[str, float]:
    """The median of each."""
    return {name: median(own) for name, own in seconds.items()}


# The whole


def processor() -> dict[str, Any]:
    """What it was run on, as far as the CPU goes."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, platform.machine())
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


def benchmark(names: Iterable[str], device: str, repeats: int, quick: bool) -> dict[str, Any]:
    """Everything that is written down."""
    about = processor() | machine(device, PACKAGES)
    found: dict[str, Any] = {"machine": about, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    found |= {"repeats": repeats, "quick": quick, "models": {}, "growth": {}}
    for name in names:
        say(f"{name}: ")
        plan = PLANS[name]
        if quick:
            plan = replace(plan, prompts=min(8, plan.prompts), conditions=6, rival_conditions=2, paper_prompts=2)
        language_model = get_model(name, device)
        case = make_case(language_model, plan.prompts)
        own = measure(case, plan, repeats)
        say("times, ")
        found["growth"][name] = growth(language_model, plan, min(2, repeats) if name == ORGANISM else 1, quick)
        say("growth, ")
        if name == ORGANISM:
            found["evaluation"] = speeds(language_model, repeats, quick)
            found |= {key: value for key, value in found["evaluation"].items() if key != "seconds"}
            say("evaluation, ")
        del case, language_model
        gc.collect()
        own["peak_memory_mb"] = memory(name, device, plan)
        say("memory\n")
        found["models"][name] = own | {"plan": asdict(plan)}
    for headline in HEADLINES:
        found[headline] = {name: own[headline] for name, own in found["models"].items()}
    return found


def table(found: Mapping[str, Any]) -> str:
    """What was found, to be read."""
    columns = {}
    for name, own in found["models"].items():
        spans = {headline: own["range"][headline] for headline in HEADLINES[:-1]}
        column = {key: f"{own[key]:.3g} ({span['min']:.3g} to {span['max']:.3g})" for key, span in spans.items()}
        for kind, unit in (("seconds", "s"), ("peak_memory_mb", "MiB")):
            column |= {f"{kind} {key}": f"{value:.4g} {unit}" for key, value in own[kind].items()}
        columns[name] = column
    lines = [pd.DataFrame(columns).to_string()]
    for key, value in found.get("evaluation", {}).items():
        lines.append(f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}")
    for name, curves in found["growth"].items():
        for what, own in curves.items():
            values = ", ".join(f"{key}: {each:.3g} s" for key, each in own.items())
            lines.append(f"growth of {name} by {what}: {values}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(text)
    sys.stderr.flush()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time grids of steered answers.")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small grid, to see whether it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda adds Gemma 2 of 2B and 9B")
    parser.add_argument("--model", choices=list(PLANS), action="append", help="which models; all by default")
    parser.add_argument("--memory-of", choices=("ours", *rivals.POSITIONS), help=argparse.SUPPRESS)
    parser.add_argument("--conditions", type=int, default=CONDITIONS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    asked = arguments()
    torch.set_num_threads(min(2, len(os.sched_getaffinity(0))))
    if asked.memory_of:
        print_memory(asked.memory_of, asked.model[0], asked.device, asked.conditions)
        return
    names = asked.model or [name for name in PLANS if asked.device == "cuda" or name in (ORGANISM, "gemma2_12x512")]
    start = time.perf_counter()
    found = benchmark(names, asked.device, 1 if asked.quick else asked.repeats, asked.quick)
    found["seconds"] = time.perf_counter() - start
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(asked.json, found, indent=1)
    sys.stdout.write(table(found) + f"\n{found['seconds']:.0f} s in all\n")


if __name__ == "__main__":
    main()
