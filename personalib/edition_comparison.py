"""What an edition adds for a model that something was published of: a plan asked as the paper did, and its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from personalib.data import DataError, data_dir
from personalib.evaluation_plan import EvaluationPlan, load_plan
from personalib.evaluation_runs import run_plan
from personalib.measured_cells import planned_arms
from personalib.protocol import Protocol, apply_protocol, load_protocol
from personalib.questionnaire_plans import planned_questionnaire
from personalib.reference import bare_name
from personalib.reference_cells import reference_cells, reference_models
from personalib.registry import find_entry
from personalib.reproduction_report import reproduce, write_reproduction


@dataclass(frozen=True)
class Comparison:
    """A plan whose answers are held against what was published of its model.

    Attributes:
        name: of the plan.
        plan: the plan in the protocol's manner, for the edition's model.
        protocol: the manner.
        questions: how many are asked, under all arms together.
        missing: why it cannot be asked here; empty if it can.
    """

    name: str
    plan: EvaluationPlan
    protocol: Protocol
    questions: int
    missing: str = ""


def plan_comparison(
    model: str, device: str, texts: Mapping[str, str] | None = None, grid: str | None = None
) -> Comparison | None:
    """What an edition is going to compare.

    Args:
        model: see :func:`personalib.models.load_model`.
        device: where the model runs.
        texts: the edition's parameters; of these, ``revision``, ``protocol`` (the paper's by default) and ``prompts``.
        grid: a plan; by default the one in ``data/grids`` that has the model's name.

    Returns:
        The comparison; none where no plan is named, and nothing was published of the model or there is no plan of its
        name. Where items of such a plan cannot be read, ``missing`` says why.

    Raises:
        DataError, ValueError: a plan is named, and nothing was published of the model or an item cannot be read.

    Example:
        >>> plan_comparison("gpt2", "cpu") is None
        True
    """
    given, named = texts or {}, grid is not None
    name = grid or bare_name(find_entry(model).name)
    if named:
        reference_cells(model)  # its error tells of which models something was published
    elif bare_name(model) not in reference_models() or not (data_dir() / "grids" / f"{name}.yaml").is_file():
        return None
    protocol = load_protocol(given.get("protocol") or "paper", given.get("prompts") or None)
    plan = _asked_of(load_plan(name), model, given.get("revision") or find_entry(model).revision, device)
    plan = apply_protocol(plan, protocol, model)
    try:
        questions = sum(len(planned_questionnaire(one).questions) for one in plan.questionnaires)
    except (DataError, ValueError) as error:
        if named:
            raise
        return Comparison(name, plan, protocol, 0, str(error))
    return Comparison(name, plan, protocol, questions * len(planned_arms(plan)))


def make_comparison(comparison: Comparison, folder: Path) -> Path:
    """Ask what is not answered yet, and write the report.

    Args:
        comparison: of :func:`plan_comparison`.
        folder: the answers go to ``evaluation`` in it, the report to ``reproduction``.

    Returns:
        The report's page, see :func:`personalib.reproduction_report.write_reproduction`.

    Raises:
        DataError, ValueError: see :func:`personalib.evaluation_runs.run_plan`.
    """
    [run] = run_plan(comparison.plan, folder / "evaluation", progress=True)
    page, *_ = write_reproduction(reproduce(run, comparison.protocol), folder / "reproduction")
    return page


def _asked_of(plan: EvaluationPlan, model: str, revision: str | None, device: str) -> EvaluationPlan:
    """A plan for one model, which may be a copy in a folder of the one that the plan names."""
    who = plan.models[0].model_copy(update={"name": model, "revision": revision, "device": device})
    return plan.model_copy(update={"models": (who,)})
