"""Where a plan leaves a protocol: what cannot be followed, what is not, and why."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, QuestionnairePlan
from personalib.features.published import bare_name, sae_features
from personalib.paper.protocol import PRESSURES, PUBLISHED, Asking, Protocol, Steering

_NOT_STATED = "not stated"
_OWN_PROMPTS = "same structure, own wording: the verbatim prompts are not public; pass a file of them as `prompts`"
_CHOICE = "the plan's own choice; see apply_protocol"


class Deviation(NamedTuple):
    """One point in which a plan does not do what a protocol says.

    Attributes:
        where: the questionnaire, arms or model.
        what: the point.
        protocol: what the protocol says.
        plan: what the plan does.
        why: why, and what would mend it.
    """

    where: str
    what: str
    protocol: str
    plan: str
    why: str


def deviations(protocol: Protocol, plan: EvaluationPlan) -> list[Deviation]:
    """Every point in which a plan leaves a protocol, for the models that it asks.

    Args:
        protocol: such as :func:`personalib.paper.protocol.load_protocol` of ``"paper"``.
        plan: the plan, before or after :func:`personalib.paper.protocol.apply_protocol`.

    Example:
        >>> from personalib.evaluation.plan import load_plan
        >>> from personalib.paper.protocol import load_protocol
        >>> found = deviations(load_protocol("paper"), load_plan("gemma-2b-it"))
        >>> [one.protocol for one in found if (one.where, one.what) == ("trait", "items of each group")]
        ['1000']
    """
    found: list[Deviation] = []
    for questionnaire in plan.questionnaires:
        found += _questionnaire(protocol, questionnaire)
    for arm in plan.arms:
        found += _arm(protocol, arm)
        for model in plan.models:
            found += _strength(protocol, arm, model.name)
    if protocol.name == "paper":
        found += _always(protocol)
    return list(dict.fromkeys(found))


def deviation_table(found: list[Deviation]) -> pd.DataFrame:
    """Deviations as a table, one row each."""
    return pd.DataFrame(found, columns=list(Deviation._fields))


def _always(protocol: Protocol) -> Iterator[Deviation]:
    """What no plan can follow, whatever it asks."""
    if protocol.scoring.unreadable == "guess":
        yield Deviation(
            "scoring",
            "unreadable answers in words",
            "a random option",
            "what a random option would get",
            "its expected value, so that nothing depends on a seed",
        )
    if not protocol.supplies("templates"):
        yield Deviation(
            "templates",
            "persona",
            "a persona in the runner's template that the paper does not mention",
            "none",
            "it is not public word for word; a file of templates may have it",
        )


def _questionnaire(protocol: Protocol, plan: QuestionnairePlan) -> Iterator[Deviation]:
    asking = protocol.asking(plan.kind)
    if plan.reading == "words" and protocol.name == "paper" and plan.source != "facts":
        yield from _written(plan)
    judged = plan.kind == "judgement" and plan.source != "facts"
    if judged:
        yield from _different(plan.name, _read(protocol.safety, plan))
    if asking is None or plan.source == "facts":
        word = "how it is read, and no more" if judged else "no word on it"
        yield Deviation(plan.name, "questionnaire", word, plan.kind, "beside the protocol")
        return
    if not protocol.supplies("templates") and plan.template_file is None and protocol.name == "paper":
        yield Deviation(plan.name, "templates", "the paper's wording", "the book's wording", _OWN_PROMPTS)
    own_file = protocol.prompts if protocol.supplies("templates") else None
    if plan.template_file != own_file:
        yield Deviation(plan.name, "file of templates", str(own_file), str(plan.template_file), _CHOICE)
    yield from _different(plan.name, _asked(asking, plan))
    if asking.source is not None and plan.source != asking.source:
        why = "the book's own items" if plan.source == "bundled" else "whether these are the same items is not checked"
        yield Deviation(plan.name, "items", asking.source, plan.source, why)
    elif plan.kind == "choice" and plan.source == "bundled" and protocol.name == "paper":
        yield Deviation(plan.name, "items", "SafetyBench", plan.source, "the book's own items; name a file of them")


def _written(plan: QuestionnairePlan) -> Iterator[Deviation]:
    """How answers in words are written otherwise than by the paper's code."""
    why = "an answer names its option early or not at all"
    yield Deviation(plan.name, "length of an answer", "64 tokens, beyond its end", "24 tokens, or to its end", why)
    if not plan.sampling.greedy:
        why = "the options are passed, and a helper sets do_sample to false; leave `sampling` out for what it does"
        yield Deviation(plan.name, "sampling in effect", "the likeliest token", str(plan.sampling), why)
        why = "an answer is the same in any batch"
        yield Deviation(plan.name, "random numbers", "one stream a batch", "one stream a sample", why)


def _read(asking: Asking, plan: QuestionnairePlan) -> Mapping[str, tuple[Any, Any]]:
    """How answers are read and what is done, by point."""
    points: dict[str, tuple[Any, Any]] = {"reading": (asking.reading, plan.reading)}
    if asking.reading == plan.reading == "words":
        points["sampling"] = (asking.sampling, plan.sampling)
    return points


def _asked(asking: Asking, plan: QuestionnairePlan) -> Mapping[str, tuple[Any, Any]]:
    """What is asked for and what is done, by point."""
    points: dict[str, tuple[Any, Any]] = {
        "template names": (asking.templates, plan.templates or ("letters",)),
        "examples before an item": (asking.shots, plan.shots),
        **_read(asking, plan),
    }
    if plan.kind == "trait":
        left_out = {True: "those that pushes are chosen by", False: "none"}
        points["items left out"] = (left_out[asking.evaluation_only], left_out[plan.evaluation_only])
    else:
        points["orders"] = (asking.orders, plan.orders or ("normal",))
    if asking.per_group is not None:
        points["items of each group"] = (asking.per_group, plan.per_group or "all")
        if plan.per_group is None and plan.source == asking.source:
            # All of its items are so many.
            del points["items of each group"]
    return points


def _arm(protocol: Protocol, plan: ArmsPlan) -> Iterator[Deviation]:
    """What an arm does differently, whatever the model."""
    where, steering = f"arms {plan.name!r}", protocol.steering(plan.family)
    if plan.method in ("prompt", "random"):
        yield Deviation(where, "arms", "none of this method", plan.method, "a control, beside the protocol")
        return
    if plan.method != steering.method:
        yield Deviation(
            where, "method", f"{plan.family} by {steering.method}", plan.method, "not crossed there; beside it"
        )
        return
    yield from _different(where, {"positions": (steering.positions, plan.positions)})
    if plan.method == "sae" and plan.personas:
        yield from _different(where, {"several vectors": (steering.combine, plan.combine)})
    if plan.method == "sae" and "negative" in plan.poles and steering.features == PUBLISHED:
        yield Deviation(where, "poles", "each pole has features of its own", "the negative of a vector", _CHOICE)
    if plan.method == "repe" and protocol.name == "paper":
        yield Deviation(where, "layer", _NOT_STATED, str(plan.site), "no layer of contrast vectors was published")
        yield from _contrast_prompts(protocol, plan, where)


def _contrast_prompts(protocol: Protocol, plan: ArmsPlan, where: str) -> Iterator[Deviation]:
    own = protocol.prompts if protocol.supplies("contrasts") and plan.family == PRESSURES else None
    if plan.contrast_file is None and own is None:
        yield Deviation(where, "contrast prompts", "the paper's wording", "the book's wording", _OWN_PROMPTS)
        yield Deviation(
            where,
            "questions of contrast pairs",
            "TRAIT's own",
            "neutral ones",
            "directions must not be fitted to what is measured; a file of prompts may have other questions",
        )
    elif plan.contrast_file != own:
        yield Deviation(where, "contrast prompts", str(own), str(plan.contrast_file), _CHOICE)


def _strength(protocol: Protocol, plan: ArmsPlan, model: str) -> Iterator[Deviation]:
    """What an arm does differently for one model: how hard, with which features, at which layer."""
    steering = protocol.steering(plan.family)
    if plan.method != steering.method:
        return
    where = f"arms {plan.name!r}, {model}"
    strength, own = steering.strength(model), plan.doses or plan.coefficients
    unit = "doses" if plan.doses else "coefficients"
    if not strength:
        why = "none was published for this model; the plan's own is kept"
        yield Deviation(where, "coefficient", f"none for {bare_name(model)}", f"{unit} {_words(own)}", why)
    elif strength[unit] != own:
        wanted = f"coefficients {_words(strength['coefficients'])}" if not steering.doses else _words(steering.doses)
        yield Deviation(where, "strength", wanted, f"{unit} {_words(own)}", _CHOICE)
    if plan.method == "sae" and steering.features == PUBLISHED:
        yield from _features(steering, plan, model, where)


def _features(steering: Steering, plan: ArmsPlan, model: str, where: str) -> Iterator[Deviation]:
    table = sae_features()
    own = table[table["model"] == bare_name(model)]
    shown = plan.features if isinstance(plan.features, str) else "listed in the plan"
    if own.empty:
        why = "none were published for this model; the plan's own are used"
        yield Deviation(where, "features", f"none for {bare_name(model)}", shown, why)
        return
    if plan.features != PUBLISHED:
        yield Deviation(where, "features", PUBLISHED, shown, _CHOICE)
    wanted = f"{own['sae_release'].iloc[0]}, {own['sae_id'].iloc[0]}"
    given = ", ".join(one for one in (plan.release, plan.sae) if one)
    if steering.layer == PUBLISHED and given != wanted:
        yield Deviation(where, "SAE", wanted, given, "a folder may be a copy of it, which is not checked")


def _different(where: str, points: Mapping[str, tuple[Any, Any]]) -> Iterator[Deviation]:
    for what, (wanted, given) in points.items():
        if wanted != given:
            yield Deviation(where, what, _words(wanted), _words(given), _CHOICE)


def _words(value: Any) -> str:
    return ", ".join(_words(one) for one in value) if isinstance(value, tuple) else f"{value}".removesuffix(".0")
