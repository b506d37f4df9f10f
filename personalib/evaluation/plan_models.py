"""Plans put to other models: the same questions and arms, at the sites and with the SAEs of the other model."""

from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, ModelPlan
from personalib.features.own_saes import Saes, usual_saes
from personalib.features.saes import load_sae
from personalib.models.load import load_model
from personalib.models.placement import AUTO, usual_device


def plan_on(
    plan: EvaluationPlan, model: str, revision: str = "", device: str = AUTO, saes: Saes | None = None
) -> EvaluationPlan:
    """A plan with another model: who is asked, how, and where it is pushed; what is asked and how hard stays.

    Every push is at the site of the other model's first SAE, which is that of arms by features as well.

    Args:
        plan: a plan that was written for one model.
        model: see :func:`personalib.models.load.load_model`; empty for the plan as it is.
        revision: branch, tag or commit on the hub.
        device: where the model runs.
        saes: the SAEs of the other model; see :func:`personalib.features.own_saes.usual_saes`.

    Raises:
        DataError: the model or its SAE cannot be had.

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
    arms = tuple(_moved(arm, str(sae.site), found) for arm in plan.arms)
    return plan.model_copy(update={"models": (who,), "arms": arms})


def _moved(arm: ArmsPlan, site: str, saes: Saes) -> ArmsPlan:
    if arm.method == "sae":
        return arm.model_copy(update={"release": saes.release, "sae": saes.ids[0]})
    return arm.model_copy(update={"site": site}) if arm.site else arm
