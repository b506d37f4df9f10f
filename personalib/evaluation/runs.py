"""Planned evaluations on disk: put to another model, run, resumed, and read back without the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from personalib.base import provenance
from personalib.base.data import DataError, cut, read_json, read_yaml
from personalib.base.storage import write_whole
from personalib.evaluation.ask import NEUTRAL, Evaluation, prompts
from personalib.evaluation.engines import Engine
from personalib.evaluation.estimates import of_questionnaire, questionnaires_of
from personalib.evaluation.plan import EvaluationPlan, ModelPlan, dump_plan, parse_plan
from personalib.evaluation.planned_arms import ArmMaker
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.features.saes import Saes, load_sae, usual_saes
from personalib.models.chat_templates import template_facts
from personalib.models.load import load_model
from personalib.models.placement import AUTO, usual_device
from personalib.questionnaires.items import load_trait, some_of_each
from personalib.questionnaires.questions import trait_questionnaire

# Bundled items of each trait whose prompts the residual stream's typical norms are taken from: always the same, so that
# a dose means one thing whatever is asked.
_NORM_ITEMS = 4


@dataclass(frozen=True)
class EvaluationRun:
    """A finished evaluation of one model, with its answers and what went in; see :func:`run_plan`."""

    model: str
    answers: pd.DataFrame
    manifest: Mapping[str, Any]

    def of(self, questionnaire: str) -> pd.DataFrame:
        """The answers to one questionnaire, or to the neutral questions (``"neutral"``)."""
        return of_questionnaire(self.answers, questionnaire)

    @property
    def left_out(self) -> pd.DataFrame:
        """Rows of the items' files that are not asked: ``questionnaire``, ``where`` they stand, and the ``problem``."""
        rows = [(name, *one.values()) for name, own in self.manifest.get("left_out", {}).items() for one in own]
        return pd.DataFrame(rows, columns=["questionnaire", "where", "problem"])


def plan_on(
    plan: EvaluationPlan, model: str, revision: str = "", device: str = AUTO, saes: Saes | None = None
) -> EvaluationPlan:
    """A plan with another model: who is asked, how, and where it is pushed; what is asked and how hard stays.

    Every push is at the site of the other model's first SAE, by default the first of
    :func:`~personalib.features.saes.usual_saes`. An empty name leaves the plan as it is. A model or SAE that cannot be
    had is a DataError.

    Example:
        >>> plan_on(load_plan("organism"), "gemma-2b-it").arms[1].site  # doctest: +SKIP
        'resid_post.12'
    """
    if not model:
        return plan
    device = usual_device(model) if device == AUTO else device
    language_model = load_model(model, revision or None, device)
    first = str(language_model.model.device)
    found = saes or usual_saes(language_model, device=first)
    sae = load_sae(found.release, found.ids[0], first)
    sae.check_fits(language_model)
    who = ModelPlan(
        name=model,
        revision=revision or language_model.entry.revision,
        device=device,
        dtype=str(language_model.model.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        form="chat" if language_model.form == "chat" else "base",
    )
    arms = []
    for arm in plan.arms:
        place = {"site": str(sae.site)} if arm.site else {}
        features = {"release": found.release, "sae": found.ids[0]}
        arms.append(arm.model_copy(update=features if arm.method == "sae" else place))
    return plan.model_copy(update={"models": (who,), "arms": tuple(arms)})


def prepare(plan: EvaluationPlan, model: ModelPlan, folder: Path, progress: str | None = None) -> Evaluation:
    """Load one of a plan's models, build the questionnaires, and fit or look up the directions.

    Something in the plan that cannot be had is a DataError or ValueError, which says what.
    """
    questionnaires = [planned_questionnaire(one) for one in plan.questionnaires]
    language_model = load_model(model.name, model.revision, model.device, getattr(torch, model.dtype))
    usual = trait_questionnaire(some_of_each(load_trait(), _NORM_ITEMS))
    usual_prompts = prompts(language_model, usual, model.form)
    maker = ArmMaker(language_model, usual_prompts, folder, model.form, plan.pairs, plan.seed)
    arms = maker.arms(plan.arms, progress)
    return Evaluation(language_model, questionnaires, arms, model.form, plan.neutral, plan.seed, plan.batch_size)


def run_plan(
    plan: EvaluationPlan, folder: Path, progress: bool = False, engine: Engine | None = None
) -> list[EvaluationRun]:
    """Ask everything in a plan that is not answered yet.

    Each model has a folder of its own, with the answers, the activations that its directions were fitted to, and
    ``manifest.json``: the plan, the model's revision or weights, rows that are left out, versions, commit, times and
    the hashes of the outputs. Errors are those of :func:`prepare` and :meth:`personalib.evaluation.ask.Evaluation.run`.

    Args:
        plan: the plan.
        folder: where to.
        progress: whether bars are shown.
        engine: where the questions are asked; None asks here. Directions are fitted here in any case.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.yaml").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror}") from None
    found = []
    for model in plan.models:
        place, started = folder / model.folder, datetime.now(UTC)
        evaluation = prepare(plan, model, place / "work", f"{model.name}: directions" if progress else None)
        evaluation.run(place, f"{model.name}: answers" if progress else None, engine)
        _write_manifest(plan, model, evaluation, place, started, engine)
        found.append(read_run(place))
    # Last, so that a folder with a plan is one that is whole.
    write_whole(folder / "plan.yaml", dump_plan(plan))
    return found


def read_runs(folder: Path) -> list[EvaluationRun]:
    """Every model's run in the folder of a finished plan; a DataError where it was not run to its end."""
    path = folder / "plan.yaml"
    if not path.is_file():
        raise DataError(f"{folder}: no finished evaluation here; run `python -m personalib evaluate` to its end")
    plan = parse_plan(read_yaml(path), str(path))
    return [read_run(folder / model.folder) for model in plan.models]


def read_run(folder: Path) -> EvaluationRun:
    """One model's run; a file that is missing, or not what was written, is a DataError."""
    try:
        manifest = read_json(folder / "manifest.json")
        kinds = {one["name"]: one["kind"] for one in manifest["plan"]["questionnaires"]}
        written = manifest["outputs"].items()
        changed = [name for name, kept in written if provenance.file_hash(folder / name) != kept]
        if changed:
            raise ValueError(f"{', '.join(changed)} is not what was written")
        files = [folder / f"{name}.parquet" for name in (*kinds, NEUTRAL)]
        answers = [pd.read_parquet(each, page_checksum_verification=True) for each in files]
        run = EvaluationRun(manifest["model"]["name"], pd.concat(answers, ignore_index=True), manifest)
        if questionnaires_of(run.answers) != kinds:
            raise ValueError("its tables are not of the questionnaires of its plan")
        _ = run.left_out  # what is read of the manifest later
        return run
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not a finished evaluation ({cut(str(error))}); run it again") from None


def _write_manifest(
    plan: EvaluationPlan,
    model: ModelPlan,
    evaluation: Evaluation,
    folder: Path,
    started: datetime,
    engine: Engine | None,
) -> None:
    ended, language_model = datetime.now(UTC), evaluation.language_model
    tables = sorted(f"{name}.parquet" for name in (*(one.name for one in plan.questionnaires), NEUTRAL))
    content = {
        "plan": plan.model_dump(mode="json"),
        "model": model.model_dump(mode="json")
        | {
            "revision": language_model.revision,
            "weights": None if language_model.revision else language_model.digest(),
            "template": template_facts(language_model.tokenizer, language_model.entry),
        },
        "arms": len(evaluation.arms),
        "left_out": {one.name: [each._asdict() for each in one.skipped] for one in evaluation.questionnaires},
        "outputs": {name: provenance.file_hash(folder / name) for name in tables},
        "library": provenance.library_hash(),
        "data": provenance.data_hash(),
        "commit": provenance.commit(),
        "versions": provenance.package_versions(),
        "machine": provenance.machine(),
        "engine": engine.name if engine else "local",
        "started": started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round((ended - started).total_seconds(), 3),
    }
    write_whole(folder / "manifest.json", json.dumps(content, indent=1) + "\n")
