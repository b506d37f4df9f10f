"""Editions: the whole book executed on one model, planned, resumed, and built into pages of its own.

Where something was published of the model, a plan is asked as the paper did, and its report is a further page.
"""

import gc
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from personalib.base.data import DataError, data_dir, read_json
from personalib.base.provenance import repository_root
from personalib.book.build import BuiltBook, build_book, distribute, select
from personalib.book.chapters import Chapter, RunError
from personalib.book.pages import Book
from personalib.book.runs import read_run
from personalib.evaluation.ask import evaluate
from personalib.evaluation.plan import EvaluationPlan, load_plan
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.evaluation.runs import run_plan
from personalib.features.published import bare_name, published_features
from personalib.models.hub import Presence, how_to_have, model_presence
from personalib.models.load import LanguageModel, load_model
from personalib.models.memory import (
    MemoryEstimate,
    Workload,
    count_on_disk,
    estimate_memory,
    free_memory,
    has_attention,
    read_config,
)
from personalib.models.placement import AUTO, BALANCED, MAPPED, places, usual_device
from personalib.models.registry import Entry, by_hub, find_entry, load_registry
from personalib.paper.cells import planned_arms, reference_cells, reference_models
from personalib.paper.protocol import PUBLISHED, Protocol, apply_protocol, load_protocol
from personalib.paper.report import reproduce, write_reproduction
from personalib.questionnaires.items import load_trait, some_of_each
from personalib.questionnaires.questions import trait_questionnaire

# Items of each trait that the probe asks, in both orders.
_PROBED = 2
# Tokens of the longest prompts of the chapters, which are life stories and solved examples.
_TOKENS = 768


@dataclass(frozen=True)
class ChapterPlan:
    """A chapter before it runs: whether it asks the model, whether it is done, and how long it will take."""

    name: str
    asks: bool
    done: bool
    seconds: float | None


@dataclass(frozen=True)
class EditionPlan:
    """What an edition will take.

    Attributes:
        memory: what the largest batch of a chapter needs; none where it is not estimated, as without attention.
        spread: over how many GPUs the model is spread evenly; 1 for one device, and for places of its own.
        free: bytes that are free on the device, or the fullest of several, before the model is loaded.
        rate: prompts a second, by the probe; none where no chapter that is left asks the model.
        at_once: how many chapters with a model of their own there will be at a time; 0 where none is left.
    """

    model: str
    device: str
    chapters: tuple[ChapterPlan, ...]
    memory: MemoryEstimate | None
    spread: int
    free: int
    rate: float | None
    at_once: int

    @property
    def seconds(self) -> float:
        """What the chapters that are not done will take together, one after the other."""
        return sum(chapter.seconds or 0.0 for chapter in self.chapters if not chapter.done)


@dataclass(frozen=True)
class Comparison:
    """A plan whose answers are compared with what was published of its model.

    Attributes:
        name: of the plan.
        published: what the tables of published numbers call the model.
        plan: the plan in the protocol's manner, for the edition's model.
        questions: how many are asked, under all arms together.
        missing: why it cannot be asked here; empty if it can.
    """

    name: str
    published: str
    plan: EvaluationPlan
    protocol: Protocol
    questions: int
    missing: str = ""


def edition_book(model: str, folder: Path | None = None) -> Book:
    """The book of one model, with products of its own, by default below ``results/editions``."""
    home = repository_root()
    return Book(home, folder or home / "results" / "editions" / edition_name(model))


def edition_name(model: str) -> str:
    """A name for the folder of a model's edition, which no other model has.

    For a model of the table it is its name there; for another one of the hub its owner's and its own; for a folder or a
    YAML file its name with a short hash of its place.

    Example:
        >>> edition_name("google/gemma-2b-it"), edition_name("somebody/some-model")
        ('gemma-2b-it', 'somebody-some-model')
    """
    entry = find_entry(model)
    if _is_own(model):
        place = Path(model).resolve()
        name = place.name if place.is_dir() else place.stem
        return f"{_plain(name)}-{sha256(str(place).encode()).hexdigest()[:8]}"
    return entry.name if entry.name in load_registry() else _plain(model)


def edition_texts(model: str, texts: Mapping[str, str]) -> dict[str, str]:
    """The parameters of an edition: the model, and what else was asked for."""
    if any(name.rpartition(".")[2] == "model" and value != model for name, value in texts.items()):
        raise RunError(f"the edition is that of {model}; leave the parameter 'model' out")
    # A chapter works in another folder, where a mere name would be that of a model of the hub, or of no file.
    return {**texts, "model": str(Path(model).resolve()) if _is_own(model) else model}


def plan_edition(
    book: Book, model: str, texts: Mapping[str, str] | None = None, only: Collection[str] = (), jobs: int = 1
) -> EditionPlan:
    """What an edition will take, from the model's configuration and a probe of a few seconds.

    Where no chapter that is left asks the model, it is not loaded, and may be too large for its device. The arguments
    are those of :func:`personalib.models.load.load_model` and :func:`personalib.book.build.build_book`. A DataError
    where the model is not on this machine, or more memory is needed than its device has, and a RunError where a
    parameter or a chapter is unknown.
    """
    given = edition_texts(model, texts or {})
    entry = _present_entry(model, given)
    device = given.get("device", AUTO)
    device = usual_device(model) if device == AUTO else device
    chapters, left = select(book.chapters(), only), _left(book, given, only)
    at_once = min(jobs, sum(map(_asks, left)))
    memory, (spread, free) = _memory(model, entry, device), _room(device)
    if memory and at_once:
        _check_memory(model, memory, spread, free, at_once, device)
    rate = _measured_rate(model, entry.revision, device) if at_once else None
    plans = (
        ChapterPlan(each.name, _asks(each), each not in left, _seconds(each.name, rate if _asks(each) else None))
        for each in chapters
    )
    return EditionPlan(model, device, tuple(plans), memory, spread, free, rate, at_once)


def make_edition(
    book: Book,
    model: str,
    texts: Mapping[str, str] | None = None,
    only: Collection[str] = (),
    jobs: int = 1,
    comparison: Comparison | None = None,
) -> BuiltBook:
    """Execute the chapters on a model, those that are done left as they are, and build the pages.

    With a comparison the pages are built twice: as soon as there are chapters to read, and once more with the report;
    where no chapter is left, once. One that misses items is left out. The other arguments are those of
    :func:`plan_edition`. A model that is not on this machine is a DataError; other errors are those of
    :func:`personalib.book.build.build_book`.
    """
    given = edition_texts(model, texts or {})
    _present_entry(model, given)
    if comparison is None or comparison.missing:
        return build_book(book, given, only, jobs=jobs)
    unread = not book.html.exists() or _left(book, given)
    first = build_book(book, given, only, jobs=jobs) if unread else None
    page = make_comparison(comparison, book.products)
    last = build_book(replace(book, further=page), given, only, jobs=jobs)
    # The second time nothing is executed; what was, is told of the first.
    return replace(last, runs=first.runs) if first else last


def plan_comparison(
    model: str, device: str, texts: Mapping[str, str] | None = None, grid: str | None = None
) -> Comparison | None:
    """What an edition is going to compare, with ``missing`` where items of the model's own plan cannot be read.

    Args:
        model: see :func:`personalib.models.load.load_model`.
        device: where the model runs.
        texts: the edition's parameters; of these, ``revision``, ``protocol`` (the paper's by default) and ``prompts``.
        grid: a plan; by default the one in ``data/grids`` that has the model's name. Without one, and where nothing was
            published of the model, nothing is compared.

    Raises:
        ValueError: a plan is named, and nothing was published of the model or an item cannot be read.
    """
    given, published = texts or {}, published_name(model)
    name = grid or published
    if grid is not None:
        reference_cells(published)  # its error tells of which models something was published
    elif published not in reference_models() or not (data_dir() / "grids" / f"{name}.yaml").is_file():
        return None
    protocol = load_protocol(given.get("protocol") or "paper", given.get("prompts") or None)
    # The protocol has features and coefficients by the published name.
    plan = apply_protocol(load_plan(name), protocol, published)
    revision = given.get("revision") or find_entry(model).revision
    plan = _asked_of(plan, {"name": model, "revision": revision, "device": device})
    try:
        questions = sum(len(planned_questionnaire(each).questions) for each in plan.questionnaires)
    except ValueError as error:
        if grid is not None:
            raise
        return Comparison(name, published, plan, protocol, 0, str(error))
    return Comparison(name, published, plan, protocol, questions * len(planned_arms(plan)))


def published_name(model: str) -> str:
    """What the tables of published numbers call a model of the hub; any other's own name without its owner or place.

    Example:
        >>> published_name("google/Gemma-2-9B-it"), published_name("/data/models/gemma-2b-it/")
        ('gemma-2-9b-it', 'gemma-2b-it')
    """
    known = by_hub(find_entry(model).hub or model)
    return known.name if known else bare_name(model)


def make_comparison(comparison: Comparison, folder: Path) -> Path:
    """Ask what is not answered yet, into ``evaluation``, write the report into ``reproduction``, and return its page.

    Errors are those of :func:`personalib.evaluation.runs.run_plan`.
    """
    [run] = run_plan(_with_features(comparison), folder / "evaluation", progress=True)
    # The run is of the plan as it was meant, under the name that its model was published by.
    meant = _asked_of(comparison.plan, {"name": comparison.published}).model_dump(mode="json")
    run = replace(run, model=comparison.published, manifest={**run.manifest, "plan": meant})
    return write_reproduction(reproduce(run, comparison.protocol), folder / "reproduction")[0]


def _left(book: Book, given: Mapping[str, str], only: Collection[str] = ()) -> list[Chapter]:
    """The chapters that are yet to be executed."""
    chapters, parameters = select(book.chapters(), only), distribute(book.chapters(), given)
    return [each for each in chapters if read_run(each.path, parameters[each.name], book.executed) is None]


def _asks(chapter: Chapter) -> bool:
    """Whether a chapter asks the model."""
    return "model" in chapter.parameters


def _is_own(model: str) -> bool:
    """Whether a model is one of a folder or a YAML file."""
    return model.endswith((".yaml", ".yml")) or (model not in load_registry() and Path(model).is_dir())


def _plain(name: str) -> str:
    """A name as that of a folder that is neither hidden nor above this one."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".-") or "model"


def _present_entry(model: str, texts: Mapping[str, str]) -> Entry:
    """A model's entry, at the commit that is asked for; the error for one to be fetched says what to type."""
    entry = find_entry(model)
    entry = entry.model_copy(update={"revision": texts.get("revision") or entry.revision})
    there = model_presence(entry)
    if there != Presence.WHOLE:
        raise DataError(f"{entry.name} is {there} on this machine; {how_to_have(entry)}")
    return entry


def _room(device: str) -> tuple[int, int]:
    """Over how many GPUs a model is spread evenly, and the bytes that are free on the fullest of them."""
    alike = list(map(str, places(device))) if device == BALANCED else [device]
    return len(alike), min(map(free_memory, alike))


def _check_memory(model: str, memory: MemoryEstimate, spread: int, free: int, at_once: int, device: str) -> None:
    """Raise before anything is loaded where a device is too small."""
    needed, room = memory.share(spread), f"{free / 1e9:.1f} GB are free"
    if needed > free and spread > 1:
        raise DataError(
            f"{model} needs {memory}, of which {needed / 1e9:.2f} GB on each of {spread} GPUs, and {room} on the "
            "fullest of them; take another device, or give it places as device_map in a YAML file"
        )
    if needed > free:
        raise DataError(f"{model} needs {memory} on {device}, and {room}; take another device")
    if needed * at_once > free:
        raise DataError(
            f"{at_once} chapters at a time need {at_once} times {needed / 1e9:.2f} GB on {device}, and {room}; "
            f"take --jobs {int(free // needed)}"
        )


def _measured_rate(model: str, revision: str | None, device: str) -> float:
    rate = probe(load_model(model, revision, device))
    # A model that is spread refers to itself, and its weights would stay beside those of the chapters.
    gc.collect()
    if torch.cuda.is_available():  # torch would keep what the model took, and the chapters are other processes
        torch.cuda.empty_cache()
    return rate


def probe(language_model: LanguageModel) -> float:
    """Prompts a second that a model answers, measured on a few trait items."""
    items = some_of_each(load_trait(), _PROBED)
    evaluate(language_model, trait_questionnaire(items[:1]), neutral=0)  # what is done once, is not timed
    started = time.perf_counter()
    answers = evaluate(language_model, trait_questionnaire(items), neutral=0)
    return len(answers) / (time.perf_counter() - started)


def _memory(model: str, entry: Entry, device: str) -> MemoryEstimate | None:
    """What a chapter needs in memory; none where that is not estimated."""
    config = read_config(model, entry.revision)
    if not has_attention(config):
        return None
    dtype = getattr(torch, entry.dtype) if entry.dtype else config.dtype or torch.float32
    width = config.get_text_config().hidden_size
    features = _sae_width(entry.saes.ids[0], width) if entry.saes else 8 * width
    memory = estimate_memory(config, dtype, Workload(tokens=_TOKENS, sae_width=features))
    if device != MAPPED or not isinstance(entry.device_map, Mapping):
        return memory
    return replace(memory, weights=memory.weights - dtype.itemsize * count_on_disk(config, entry.device_map))


def _sae_width(sae_id: str, d_model: int) -> int:
    """The number of features that the name of an SAE tells; sixteen a coordinate where it tells none."""
    found = re.search(r"width_(\d+)([km]?)|_(\d+)x", sae_id)
    if found and found[1]:
        return int(found[1]) * {"": 1, "k": 2**10, "m": 2**20}[found[2]]
    return d_model * (int(found[3]) if found else 16)


def _seconds(chapter: str, rate: float | None) -> float | None:
    """How long a chapter takes, as if all of its time were the model's; its usual time where no model is asked."""
    known = read_json(data_dir() / "benchmarks" / "chapters.json")
    seconds: float | None = known["seconds"].get(chapter)
    return seconds if seconds is None or rate is None else seconds * max(known["rate"] / rate, 1.0)


def _with_features(comparison: Comparison) -> EvaluationPlan:
    """The plan with published features listed where a model's own name, such as a file's, would not find them."""
    plan, published = comparison.plan, comparison.published
    if bare_name(plan.models[0].name) == published or all(arm.features != PUBLISHED for arm in plan.arms):
        return plan
    found = {key: tuple(features) for key, features in published_features(published).items()}
    arms = [arm.model_copy(update={"features": found}) if arm.features == PUBLISHED else arm for arm in plan.arms]
    return plan.model_copy(update={"arms": tuple(arms)})


def _asked_of(plan: EvaluationPlan, model: Mapping[str, str | None]) -> EvaluationPlan:
    """A plan for one model, such as a copy in a folder of the one that the plan names."""
    return plan.model_copy(update={"models": (plan.models[0].model_copy(update=model),)})
