"""Manners: how a chapter asks and pushes, by its plan alone or as a protocol says, and where it leaves the protocol."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd

from personalib.base.data import DataError
from personalib.base.markdown import escaped
from personalib.base.tables import to_markdown
from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, QuestionnairePlan
from personalib.features.published import bare_name
from personalib.paper.protocol import (
    PRESSURES,
    PUBLISHED,
    Asking,
    Protocol,
    Steering,
    apply_protocol,
    load_protocol,
    published_sae,
)
from personalib.questionnaires.scores import FLOOR

_OWN_PROMPTS = "same structure, own wording: the verbatim prompts are not public; pass a file of them as `prompts`"
_CHOICE = "the plan's own choice; see apply_protocol"
# By the point in which they should be alike: what a protocol says, and what a plan does.
_Points = dict[str, tuple[Any, Any]]


class Deviation(NamedTuple):
    """One point in which a plan does not do what a protocol says, for which questionnaire, arms or model, and why."""

    where: str
    what: str
    protocol: str
    plan: str
    why: str


def deviations(protocol: Protocol, *plans: EvaluationPlan) -> pd.DataFrame:
    """Every point in which plans, before or after ``apply_protocol``, leave a protocol, for the models they ask.

    One row a point, with the fields of :class:`Deviation`.
    """
    points = dict.fromkeys(point for plan in plans for point in _every_deviation(protocol, plan))
    return pd.DataFrame(list(points), columns=list(Deviation._fields))


@dataclass(frozen=True)
class Manner:
    """How a chapter asks and pushes: as a protocol says, or in the plan's own manner."""

    protocol: Protocol | None = None

    @classmethod
    def read(cls, protocol: str = "", prompts: str = "") -> "Manner":
        """The manner that a chapter's parameters name; empty texts are for the plan's own manner and prompts.

        Prompts without a protocol are a DataError.
        """
        if prompts and not protocol:
            raise DataError(f"{prompts}: prompts belong to a protocol; pass `protocol` too: paper, book or a YAML file")
        return cls(load_protocol(protocol, prompts or None) if protocol else None)

    @property
    def column(self) -> Literal["value", "published"]:
        """Which of an item's scores compares traits, see :func:`personalib.questionnaires.scores.item_scores`."""
        return "published" if self.protocol and self.protocol.scoring.rule == "published" else "value"

    def put(self, plan: EvaluationPlan, strength: bool = True) -> EvaluationPlan:
        """A chapter's plan of one model in this manner; without ``strength`` doses and coefficients stay its own.

        How many items there are stays with the plan, and so does how choices are read, since chapters read them both
        ways side by side.
        """
        if self.protocol is None:
            return plan
        applied = apply_protocol(plan, self.protocol, plan.models[0].name, strength)
        questionnaires = []
        for before, after in zip(plan.questionnaires, applied.questionnaires, strict=True):
            kept = {"per_group": before.per_group, "reading": before.reading}
            sampling = after.sampling if before.reading == "words" else before.sampling
            questionnaires.append(after.model_copy(update={**kept, "sampling": sampling}))
        return applied.model_copy(update={"questionnaires": tuple(questionnaires)})

    def note(self, *plans: EvaluationPlan) -> str:
        """What a reader is told: the manner, and as a table where plans leave the protocol."""
        if self.protocol is None:
            return "Asked and pushed in the plan's own manner; `-p protocol paper` takes the paper's."
        told = f"Protocol: **{escaped(self.protocol.title)}**."
        if self.protocol.scoring.floor != FLOOR:
            told += f" Items whose options have less than {FLOOR:.0%} of the probability are missing here all the same."
        left = deviations(self.protocol, *plans)
        if left.empty:
            return f"{told} This run leaves it nowhere."
        return f"{told}\n\n:::{{dropdown}} Where this run leaves it: {len(left)} points\n{to_markdown(left)}:::"


def _every_deviation(protocol: Protocol, plan: EvaluationPlan) -> Iterator[Deviation]:
    for questionnaire in plan.questionnaires:
        yield from _questionnaire(protocol, questionnaire)
    for arm in plan.arms:
        yield from _arm(protocol, arm)
        for model in plan.models:
            yield from _strength(protocol, arm, model.name)
    if protocol.name != "paper":
        return
    # What no plan can follow, whatever it asks.
    if protocol.scoring.unreadable == "guess":
        given, why = "what a random option would get", "its expected value, so that nothing depends on a seed"
        yield Deviation("scoring", "unreadable answers in words", "a random option", given, why)
    if not protocol.supplies("templates"):
        wanted = "a persona in the runner's template that the paper does not mention"
        why = "it is not public word for word; a file of templates may have it"
        yield Deviation("templates", "persona", wanted, "none", why)


def _questionnaire(protocol: Protocol, plan: QuestionnairePlan) -> Iterator[Deviation]:
    asking, by_paper = protocol.asking(plan.kind), protocol.name == "paper"
    if plan.reading == "words" and by_paper and plan.source != "facts":
        yield from _written(plan)
    judged = plan.kind == "judgement" and plan.source != "facts"
    if judged:
        yield from _different(plan.name, _read(protocol.safety, plan))
    if asking is None or plan.source == "facts":
        word = "how it is read, and no more" if judged else "no word on it"
        yield Deviation(plan.name, "questionnaire", word, plan.kind, "beside the protocol")
        return
    if not protocol.supplies("templates") and plan.template_file is None and by_paper:
        yield Deviation(plan.name, "templates", "the paper's wording", "the book's wording", _OWN_PROMPTS)
    file = protocol.prompts if protocol.supplies("templates") else None
    yield from _different(plan.name, {"file of templates": (file, plan.template_file)} | _asked(asking, plan))
    if asking.source is not None and plan.source != asking.source:
        why = "the book's own items" if plan.source == "bundled" else "whether these are the same items is not checked"
        yield Deviation(plan.name, "items", asking.source, plan.source, why)
    elif plan.kind == "choice" and plan.source == "bundled" and by_paper:
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


def _read(asking: Asking, plan: QuestionnairePlan) -> _Points:
    points: _Points = {"reading": (asking.reading, plan.reading)}
    if asking.reading == plan.reading == "words":
        points["sampling"] = (asking.sampling, plan.sampling)
    return points


def _asked(asking: Asking, plan: QuestionnairePlan) -> _Points:
    points: _Points = {
        "template names": (asking.templates, plan.templates or ("letters",)),
        "examples before an item": (asking.shots, plan.shots),
        **_read(asking, plan),
    }
    if plan.kind == "trait":
        left_out = {True: "those that pushes are chosen by", False: "none"}
        points["items left out"] = (left_out[asking.evaluation_only], left_out[plan.evaluation_only])
    else:
        points["orders"] = (asking.orders, plan.orders or ("normal",))
    # All items of the source that a protocol names are as many as it asks for.
    if asking.per_group is not None and (plan.per_group is not None or plan.source != asking.source):
        points["items of each group"] = (asking.per_group, plan.per_group or "all")
    return points


def _arm(protocol: Protocol, plan: ArmsPlan) -> Iterator[Deviation]:
    """What an arm does differently, whatever the model."""
    where, steering = f"arms {plan.name!r}", protocol.steering(plan.family)
    if plan.method in ("prompt", "random"):
        yield Deviation(where, "arms", "none of this method", plan.method, "a control, beside the protocol")
        return
    if plan.method != steering.method:
        wanted = f"{plan.family} by {steering.method}"
        yield Deviation(where, "method", wanted, plan.method, "not crossed there; beside it")
        return
    yield from _different(where, {"positions": (steering.positions, plan.positions)})
    if plan.method == "sae" and plan.personas:
        yield from _different(where, {"several vectors": (steering.combine, plan.combine)})
    if plan.method == "sae" and "negative" in plan.poles and steering.features == PUBLISHED:
        yield Deviation(where, "poles", "each pole has features of its own", "the negative of a vector", _CHOICE)
    if plan.method == "repe" and protocol.name == "paper":
        yield Deviation(where, "layer", "not stated", str(plan.site), "no layer of contrast vectors was published")
        yield from _contrast_prompts(protocol, plan, where)


def _contrast_prompts(protocol: Protocol, plan: ArmsPlan, where: str) -> Iterator[Deviation]:
    file = protocol.prompts if protocol.supplies("contrasts") and plan.family == PRESSURES else None
    if plan.contrast_file is None and file is None:
        yield Deviation(where, "contrast prompts", "the paper's wording", "the book's wording", _OWN_PROMPTS)
        why = "directions must not be fitted to what is measured; a file of prompts may have other questions"
        yield Deviation(where, "questions of contrast pairs", "TRAIT's own", "neutral ones", why)
    else:
        yield from _different(where, {"contrast prompts": (file, plan.contrast_file)})


def _strength(protocol: Protocol, plan: ArmsPlan, model: str) -> Iterator[Deviation]:
    """What an arm does differently for one model: how hard, with which features, at which layer."""
    steering = protocol.steering(plan.family)
    if plan.method != steering.method:
        return
    where = f"arms {plan.name!r}, {model}"
    strength, unit = steering.strength(model), "doses" if plan.doses else "coefficients"
    sizes = getattr(plan, unit)
    if not strength:
        why = "none was published for this model; the plan's own is kept"
        yield Deviation(where, "coefficient", f"none for {bare_name(model)}", f"{unit} {_words(sizes)}", why)
    elif strength[unit] != sizes:
        wanted = _words(steering.doses) if steering.doses else f"coefficients {_words(strength['coefficients'])}"
        yield Deviation(where, "strength", wanted, f"{unit} {_words(sizes)}", _CHOICE)
    if plan.method == "sae" and steering.features == PUBLISHED:
        yield from _features(steering, plan, model, where)


def _features(steering: Steering, plan: ArmsPlan, model: str, where: str) -> Iterator[Deviation]:
    sae = published_sae(model)
    features = plan.features if isinstance(plan.features, str) else "listed in the plan"
    if sae is None:
        why = "none were published for this model; the plan's own are used"
        yield Deviation(where, "features", f"none for {bare_name(model)}", features, why)
        return
    yield from _different(where, {"features": (PUBLISHED, features)})
    given = ", ".join(name for name in (plan.release, plan.sae) if name)
    if steering.layer == PUBLISHED and given != ", ".join(sae):
        yield Deviation(where, "SAE", ", ".join(sae), given, "a folder may be a copy of it, which is not checked")


def _different(where: str, points: _Points) -> Iterator[Deviation]:
    for what, (wanted, given) in points.items():
        if wanted != given:
            yield Deviation(where, what, _words(wanted), _words(given), _CHOICE)


def _words(value: Any) -> str:
    return ", ".join(_words(each) for each in value) if isinstance(value, tuple) else f"{value}".removesuffix(".0")
