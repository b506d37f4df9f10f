"""What an edition adds for a model that something was published of: a plan asked as the paper did, and its report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from personalib.base.data import DataError, data_dir
from personalib.base.provenance import data_hash, library_hash
from personalib.base.storage import write_whole
from personalib.evaluation.plan import EvaluationPlan, ModelPlan, load_plan
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.evaluation.runs import EvaluationRun, model_folder, run_plan
from personalib.features.published import bare_name, published_features
from personalib.models.registry import find_entry, load_registry
from personalib.paper.cells import planned_arms, reference_cells, reference_models
from personalib.paper.protocol import PUBLISHED, Protocol, apply_protocol, load_protocol
from personalib.paper.report import reproduce, write_reproduction

# The record beside a report of what it was made of.
_MADE_OF = "made_of.sha256"


@dataclass(frozen=True)
class Comparison:
    """A plan whose answers are compared with what was published of its model.

    Attributes:
        name: of the plan.
        published: what the tables of published numbers call the model.
        plan: the plan in the protocol's manner, for the edition's model.
        protocol: the manner.
        questions: how many are asked, under all arms together.
        missing: why it cannot be asked here; empty if it can.
    """

    name: str
    published: str
    plan: EvaluationPlan
    protocol: Protocol
    questions: int
    missing: str = ""


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
        DataError, ValueError: a plan is named, and nothing was published of the model or an item cannot be read.
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
    except (DataError, ValueError) as error:
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
    hub = (find_entry(model).hub or model).lower()
    same = [entry.name for entry in load_registry().values() if entry.hub and entry.hub.lower() == hub]
    return same[0] if same else bare_name(model)


def make_comparison(comparison: Comparison, folder: Path) -> Path:
    """Ask what is not answered yet, into ``evaluation``, write the report into ``reproduction``, and return its page.

    Raises:
        DataError, ValueError: see :func:`personalib.evaluation.runs.run_plan`.
    """
    [run] = run_plan(_with_features(comparison), folder / "evaluation", progress=True)
    found = reproduce(_as_published(run, comparison), comparison.protocol)
    page, *_ = write_reproduction(found, folder / "reproduction")
    write_whole(page.with_name(_MADE_OF), _made_of(comparison))
    return page


def earlier_page(comparison: Comparison, folder: Path) -> Path | None:
    """The page that :func:`make_comparison` has written before of the same plan, protocol, library and data, if any."""
    place = model_folder(folder / "reproduction", ModelPlan(name=comparison.published))
    page, record = place / "reproduction.md", place / _MADE_OF
    same = page.is_file() and record.is_file() and record.read_text() == _made_of(comparison)
    return page if same else None


def _made_of(comparison: Comparison) -> str:
    """A hash of what a report hangs on, but for the model's weights."""
    parts = [part.model_dump(mode="json") for part in (comparison.plan, comparison.protocol)]
    return sha256(json.dumps([*parts, library_hash(), data_hash()], sort_keys=True).encode()).hexdigest()


def _with_features(comparison: Comparison) -> EvaluationPlan:
    """The plan with published features listed where a model's own name, such as a file's, would not find them."""
    plan, published = comparison.plan, comparison.published
    if bare_name(plan.models[0].name) == published or all(arm.features != PUBLISHED for arm in plan.arms):
        return plan
    found = {key: tuple(features) for key, features in published_features(published).items()}
    arms = [arm.model_copy(update={"features": found}) if arm.features == PUBLISHED else arm for arm in plan.arms]
    return plan.model_copy(update={"arms": tuple(arms)})


def _as_published(run: EvaluationRun, comparison: Comparison) -> EvaluationRun:
    """A run of the plan as it was meant, under the name that its model was published by."""
    plan = _asked_of(comparison.plan, {"name": comparison.published}).model_dump(mode="json")
    return replace(run, model=comparison.published, manifest={**run.manifest, "plan": plan})


def _asked_of(plan: EvaluationPlan, model: Mapping[str, str | None]) -> EvaluationPlan:
    """A plan for one model, such as a copy in a folder of the one that the plan names."""
    return plan.model_copy(update={"models": (plan.models[0].model_copy(update=model),)})
