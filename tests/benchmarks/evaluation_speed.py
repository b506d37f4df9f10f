"""What evaluating gains from beginnings that are run once, how fast it is beside lm-evaluation-harness, how much of it
the system takes, and what imports cost.
"""

import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from personalib.base.provenance import repository_root
from personalib.evaluation import Arm, evaluate, prompted_arms, prompts
from personalib.models import LanguageModel, hooks
from personalib.models.hooks import Shortcuts
from personalib.models.prompts import encode_prompts, option_tokens
from personalib.questionnaires import Questionnaire, load_trait, some_of_each, trait_questionnaire
from personalib.steering.grid import prompt_batches
from personalib.stimuli.contrast_pairs import contrasts

TEMPLATES = ("letters", "numbers", "bare")
ARMS = 23
THERE = "import torch, transformers, nnsight"
FACE = "import personalib.steering as face; [getattr(face, name) for name in face.__all__]"


def speeds(language_model: LanguageModel, repeats: int, quick: bool = False) -> dict[str, Any]:
    """The numbers by name, with the times that they come from."""
    items = some_of_each(load_trait(), 1 if quick else 6)
    arms = prompted_arms(contrasts("elements"), "held_out")[: 3 if quick else ARMS]
    prompted = _with_and_without(language_model, trait_questionnaire(items), arms, repeats)
    orders = _with_and_without(language_model, trait_questionnaire(items, TEMPLATES), [], repeats)
    harness = _beside_the_harness(language_model, trait_questionnaire(items), repeats)
    ours, theirs = (_import_seconds(what, repeats) for what in (FACE, THERE))
    return {
        "prefix_speedup_prompted": prompted["plain"] / prompted["shared"],
        "prefix_speedup_orders": orders["plain"] / orders["shared"],
        "prefix_bound_prompted": _bound(language_model, trait_questionnaire(items), arms),
        "prefix_bound_orders": _bound(language_model, trait_questionnaire(items, TEMPLATES), []),
        "speedup_vs_lm_eval": harness["lm-eval"] / harness["ours"],
        "system_time_share": _system_share(lambda: evaluate(language_model, trait_questionnaire(items), neutral=0)),
        "import_over_torch": ours / theirs,
        "seconds": {
            "prompted": prompted,
            "orders": orders,
            "harness": harness,
            "import": {"steering": ours, THERE: theirs},
        },
    }


def _with_and_without(
    language_model: LanguageModel, questionnaire: Questionnaire, arms: list[Arm], repeats: int
) -> dict[str, float]:
    """Seconds with beginnings that are run once and with none, in turns; and how far the answers are apart."""
    seconds: dict[str, list[float]] = {"shared": [], "plain": []}
    answers: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, own in seconds.items():
            with _sharing(language_model, name == "shared"):
                start = perf_counter()
                table = evaluate(language_model, questionnaire, arms, neutral=0)
                own.append(perf_counter() - start)
            answers[name] = table.filter(regex="^p_").to_numpy()
    apart = float(np.nanmax(np.abs(answers["shared"] - answers["plain"])))
    if apart > 1e-5:
        raise AssertionError(f"answers with beginnings that are run once are {apart} from those without")
    return {name: median(own) for name, own in seconds.items()} | {"largest difference": apart}


def _bound(language_model: LanguageModel, questionnaire: Questionnaire, arms: Sequence[Arm]) -> float:
    """How many tokens a batch has for each that differs from all others in what comes before it or in itself."""
    tokens = different = 0
    for contexts in (("",), *(arm.contexts for arm in arms)):
        texts = prompts(language_model, questionnaire, contexts=contexts)
        rows = encode_prompts(language_model.tokenizer, texts)
        for batch in prompt_batches(language_model, texts, 64):
            tokens += sum(len(rows[number]) for number in batch)
            different += len({tuple(rows[number][:end]) for number in batch for end in range(1, len(rows[number]) + 1)})
    return tokens / different


@contextmanager
def _sharing(language_model: LanguageModel, wanted: bool) -> Iterator[None]:
    """While this is open, the model is known to take beginnings that are run once, or not to."""
    found = Shortcuts.of(language_model.model)
    key = hooks._KNOWN[language_model.model][0]
    hooks._KNOWN[language_model.model] = key, replace(found, sharing=found.sharing and wanted)
    try:
        yield
    finally:
        hooks._KNOWN[language_model.model] = key, found


def _beside_the_harness(language_model: LanguageModel, questionnaire: Questionnaire, repeats: int) -> dict[str, float]:
    """Seconds of the same questions by us and by lm-evaluation-harness, in turns; and how far the answers are apart.

    The harness is given token ids and the loaded model, batches of our size, and its cache of logits, by which the
    options of a question are read off one pass.
    """

    def ours() -> np.ndarray:
        table = evaluate(language_model, questionnaire, neutral=0)
        roles = (one.roles for one in questionnaire.questions)
        return np.array(
            [[row[f"p_{role}"] for role in own] for (_, row), own in zip(table.iterrows(), roles, strict=True)]
        )

    runs: dict[str, Callable[[], np.ndarray]] = {"ours": ours, "lm-eval": _harness(language_model, questionnaire)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, np.ndarray] = {}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = perf_counter()
            answers[name] = run()
            seconds[name].append(perf_counter() - start)
    apart = float(np.abs(answers["ours"] - answers["lm-eval"]).max())
    if apart > 1e-5:
        raise AssertionError(f"lm-evaluation-harness answers otherwise: {apart} apart")
    # The first run of each is to warm up.
    return {name: median(own[1:]) for name, own in seconds.items()} | {"largest difference": apart}


def _harness(language_model: LanguageModel, questionnaire: Questionnaire) -> Callable[[], np.ndarray]:
    """What asks the questions by lm-evaluation-harness, and gives the probability of each label, a row a question.

    It gets token ids: of texts it would take the line break that ends a chat's prompt for a part of the answer.
    """
    theirs = import_module("lm_eval.models.huggingface").HFLM(
        pretrained=language_model.model, tokenizer=language_model.tokenizer, batch_size=64
    )
    questions, tokenizer = questionnaire.questions, language_model.tokenizer
    texts = prompts(language_model, questionnaire)
    rows = encode_prompts(tokenizer, texts)
    options = option_tokens(tokenizer, texts, [one.labels for one in questions], rows)
    asked = [
        ((text, label), row, [token])
        for text, one, row, tokens in zip(texts, questions, rows, options, strict=True)
        for label, token in zip(one.labels, tokens, strict=True)
    ]

    def ask() -> np.ndarray:
        found = theirs._loglikelihood_tokens(asked, disable_tqdm=True)
        return np.array([math.exp(each) for each, _ in found]).reshape(len(questions), -1)

    return ask


def _system_share(run: Callable[[], object]) -> float:
    """The share of the processor's time that the system takes."""
    run()
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    own, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return system / (own + system)


def _import_seconds(code: str, repeats: int) -> float:
    """Seconds of the processor that code takes in a new process; the least, since other work only adds to it."""
    environment = os.environ | {"PYTHONPATH": str(repository_root())}
    found = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)
