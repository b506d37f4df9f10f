"""Protocols: how a questionnaire is put, how hard is pushed and how answers are scored, declared in a YAML file.

A plan says who is asked what; a protocol, such as the paper's or the book's, turns it into a plan of its own manner.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from personalib.base.data import DataError, Strict, exists, named_file, parse, read_yaml
from personalib.evaluation.plan import ArmsPlan, EvaluationPlan, ModelPlan, Positive, QuestionnairePlan
from personalib.features.published import bare_name, published_features, sae_features
from personalib.models.sampling import GREEDY, Sampling
from personalib.stimuli.contrast_files import supplied_contrasts, supplied_questions
from personalib.stimuli.templates import load_templates

PUBLISHED = "published"
PRESSURES = "pressures"


class Asking(Strict):
    """How a questionnaire is put.

    ``per_group`` is the items of each trait or category, none what the plan has; ``evaluation_only`` leaves out trait
    items that pushes are chosen by; ``source`` says which items they should be; ``sampling`` is for answers in words.
    """

    templates: tuple[str, ...]
    orders: tuple[Literal["normal", "reversed"], ...]
    per_group: Positive | Literal["all"] | None = None
    evaluation_only: bool = True
    source: str | None = None
    reading: Literal["options", "words"] = "options"
    sampling: Sampling = GREEDY
    shots: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _samples_words(self) -> Self:
        if self.sampling != GREEDY and self.reading != "words":
            raise ValueError("sampling is for reading 'words'; leave it out, or read words")
        return self


class Scoring(Strict):
    """How answers become a score.

    By the rule ``published`` the pole of the most probable response counts, by ``probabilities`` its share. ``floor``
    is the least answer mass of an item that counts as read. An answer in words that cannot be read is ``missing``, or a
    ``guess``: the expected value of a random option.
    """

    rule: Literal["published", "probabilities"]
    floor: Annotated[float, Field(ge=0, le=1)]
    unreadable: Literal["guess", "missing"]


class Steering(Strict):
    """How one kind of factor is pushed: by features or by contrast vectors, and where and how hard.

    ``coefficients`` say by model how often the vector is added, ``doses`` for every model the length of the push in
    units of the residual stream's typical norm; ``layer`` is the paper's for a model, or the plan's own.
    """

    method: Literal["sae", "repe"]
    features: Literal["published", "prompt"] = "prompt"
    combine: Literal["norm_matched", "sum"] = "norm_matched"
    positions: Literal["last", "prompt", "prompt_except_last", "all"]
    coefficients: Mapping[str, tuple[float, ...]] = {}
    doses: tuple[float, ...] = ()
    layer: Literal["published", "plan"] = "plan"

    @model_validator(mode="after")
    def _says_how_hard(self) -> Self:
        if bool(self.coefficients) == bool(self.doses):
            raise ValueError("write coefficients by model, or else doses")
        return self

    def strength(self, model: str) -> dict[str, tuple[float, ...]]:
        """The fields of a plan's arms that say how hard; none where the protocol does not know it for a model."""
        if self.doses:
            return {"doses": self.doses, "coefficients": ()}
        known = self.coefficients.get(bare_name(model))
        return {"doses": (), "coefficients": known} if known else {}


class Protocol(Strict):
    """A manner of measuring, with a title for readers.

    ``prompts`` is a file instead of the book's own, with ``templates`` as ``data/stimuli/templates.yaml`` has them,
    ``contrasts``, see :mod:`personalib.stimuli.contrast_files`, or both; its path is read from the protocol's folder,
    or else from the working directory. Judgements are read and sampled as safety is; elements are pushed as
    ``background`` says, pressures and facets as ``pressure`` does.
    """

    name: str
    title: str
    prompts: str | None = None
    trait: Asking
    safety: Asking
    scoring: Scoring
    background: Steering
    pressure: Steering

    def supplies(self, section: Literal["templates", "contrasts"]) -> bool:
        """Whether the file of prompts has a section."""
        return self.prompts is not None and section in (read_yaml(Path(self.prompts)) or {})

    def asking(self, kind: str) -> Asking | None:
        """How a questionnaire of a kind is put; none where the protocol says nothing about it."""
        return {"trait": self.trait, "choice": self.safety}.get(kind)

    def steering(self, family: str) -> Steering:
        """How a family is pushed."""
        return self.background if family == "elements" else self.pressure


def load_protocol(source: str | Path, prompts: str | Path | None = None) -> Protocol:
    """Read a protocol from a file or by its name in ``data/protocols``; ``prompts`` is a file instead of its own.

    A file that is missing or not what it should be is a DataError.
    """
    path = named_file(source, "protocols", "protocol")
    protocol = parse(Protocol, read_yaml(path), str(path))
    if prompts is None and protocol.prompts is not None:
        beside = path.parent / protocol.prompts
        prompts = beside if exists(beside) else protocol.prompts
    return protocol if prompts is None else _with_prompts(protocol, Path(prompts))


def apply_protocol(plan: EvaluationPlan, protocol: Protocol, model: str, strength: bool = True) -> EvaluationPlan:
    """A plan in the manner of a protocol, for one model.

    What is asked stays, and whom it is asked of; so do arms that the protocol has no word on, such as random directions
    and prompts. What could not be followed is told by :func:`personalib.paper.deviations.deviations`. Without
    ``strength`` doses and coefficients stay the plan's.
    """
    models = [one for one in plan.models if bare_name(one.name) == bare_name(model)] or [ModelPlan(name=model)]
    arms = [_steered(arm, protocol, model, strength).model_dump() for arm in plan.arms]
    changes = {
        "models": [models[0].model_dump()],
        "questionnaires": [_asked(one, protocol).model_dump() for one in plan.questionnaires],
        # Doses apart, two arms of a plan may now be one.
        "arms": [arm for place, arm in enumerate(arms) if arm not in arms[:place]],
    }
    return EvaluationPlan.model_validate(plan.model_dump() | changes)


def _asked(plan: QuestionnairePlan, protocol: Protocol) -> QuestionnairePlan:
    asking, safety = protocol.asking(plan.kind), protocol.safety
    reading: dict[str, Any] = {"reading": safety.reading, "sampling": safety.sampling}
    if plan.kind == "judgement" and plan.source != "facts":
        return plan.model_copy(update=reading)
    if asking is None or plan.source == "facts":
        return plan
    changes: dict[str, Any] = {"templates": asking.templates, "orders": asking.orders}
    if asking.per_group is not None:
        changes["per_group"] = None if asking.per_group == "all" else asking.per_group
    changes["template_file"] = protocol.prompts if protocol.supplies("templates") else None
    if plan.kind == "trait":
        changes["evaluation_only"] = asking.evaluation_only
    elif not plan.shots:
        # A questionnaire with examples is another one, and stays what it is.
        changes |= reading
    return plan.model_copy(update=changes)


def _steered(plan: ArmsPlan, protocol: Protocol, model: str, strength: bool) -> ArmsPlan:
    steering = protocol.background if plan.method == "random" else protocol.steering(plan.family)
    if plan.method not in (steering.method, "random"):
        return plan
    changes: dict[str, Any] = {"positions": steering.positions, **(steering.strength(model) if strength else {})}
    if plan.method == "sae":
        changes |= {"combine": steering.combine, "poles": ("positive",), **_features(plan, steering, model)}
    if plan.method == "repe" and protocol.supplies("contrasts") and plan.family == PRESSURES:
        changes |= {"contrast_file": protocol.prompts}
    return plan.model_copy(update=changes)


def _features(plan: ArmsPlan, steering: Steering, model: str) -> dict[str, Any]:
    """The paper's features of a model, and its SAE, where there are any; else the plan's own."""
    if steering.features != PUBLISHED:
        return {"features": steering.features}
    sae = published_sae(model)
    if sae is None:
        return {}
    known = published_features(model)
    keys = tuple(key for key in plan.keys or known if key in known) or plan.keys
    changes: dict[str, Any] = {"features": PUBLISHED, "keys": () if plan.personas else keys}
    # A folder may be a copy of the paper's own SAE, and is left as it is. No text would be the path of this folder.
    if steering.layer == PUBLISHED and not (plan.release and Path(plan.release).is_dir()):
        changes |= {"release": sae[0], "sae": sae[1]}
    return changes


def published_sae(model: str) -> tuple[str, str] | None:
    """Release and name of the SAE whose features were published of a model; none where there are none."""
    table = sae_features()
    table = table[table["model"] == bare_name(model)]
    return None if table.empty else (str(table["sae_release"].iloc[0]), str(table["sae_id"].iloc[0]))


def _with_prompts(protocol: Protocol, path: Path) -> Protocol:
    """A protocol with a checked file of prompts; its first template is meant where the protocol's are not in it."""
    changes: dict[str, Any] = {"prompts": str(path)}
    content = read_yaml(path)
    known = {"templates", "contrasts", "questions"}
    if not isinstance(content, dict) or not set(content) & {"templates", "contrasts"} or not set(content) <= known:
        raise DataError(f"{path}: write sections templates or contrasts, or both, and questions if you like; no other")
    if "contrasts" in content:
        supplied_contrasts(path, PRESSURES)
        supplied_questions(path)
    if "templates" in content:
        there = load_templates(path)
        if not there:
            raise DataError(f"{path}: templates: none are there; write at least one, by name")
        for name, asking in (("trait", protocol.trait), ("safety", protocol.safety)):
            if not set(asking.templates) <= set(there):
                changes[name] = asking.model_copy(update={"templates": tuple(there)[:1]})
    return protocol.model_copy(update=changes)
