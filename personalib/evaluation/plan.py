"""Plans of evaluations: models, questionnaires and arms, declared in a YAML file or in Python."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from personalib.base.data import Strict, exists, named_file, parse, read_yaml
from personalib.base.provenance import repository_root
from personalib.models.sampling import GREEDY, Sampling
from personalib.stimuli.templates import ORDERS

Kind = Literal["trait", "choice", "judgement", "scale", "pairs"]
Method = Literal["prompt", "repe", "sae", "random"]
Positive = Annotated[int, Field(ge=1)]


class ModelPlan(Strict):
    """A model that is asked: the organism, a folder, or a name on the hub, of which a revision may be meant.

    Attributes:
        device: where it runs, such as ``"cuda"``.
        dtype: number format of its weights.
        form: ``"chat"``, or ``"base"`` for a model without a chat template.
    """

    name: str = "organism"
    revision: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    form: Literal["chat", "base"] = "chat"

    @property
    def folder(self) -> str:
        """The name of the folder that its answers go to, within that of the plan."""
        whole = f"{self.name}@{self.revision}" if self.revision else self.name
        found = re.sub(r"[^\w.@-]+", "_", whole.strip("/"))
        # Dots alone would name the plan's own folder, or the one above it.
        return found if found.strip(".") else f"_{found}"


class QuestionnairePlan(Strict):
    """A questionnaire.

    Attributes:
        name: of its tables.
        kind: what it is, see :func:`personalib.questionnaires.scores.item_scores`.
        source: ``"bundled"``, ``"facts"`` for the bundled fact questions as choices, a file, or a name on the hub. For
            word pairs a file has pairs and openings, as ``data/stimuli/word_pairs.yaml`` has.
        answers: a file with the key of a choice questionnaire.
        per_group: items of each trait or category at the most; none for all.
        evaluation_only: leaves out the trait items that pushes are chosen by.
        templates: names of the templates, of ``template_file`` or the book's own; the first one there by default.
        orders: of the options; traits need both.
        shots: solved examples of its category before each item of a choice questionnaire, of the file ``examples``
            (such as SafetyBench's dev items) or of the questionnaire itself.
        reading: ``"options"`` or ``"words"``; answers in words are for choices and judgements.
        sampling: how answers in words are written, and how many; the likeliest token each time by default.
    """

    name: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
    kind: Kind
    source: str = "bundled"
    answers: str | None = None
    per_group: Positive | None = None
    evaluation_only: bool = True
    templates: tuple[str, ...] = ()
    template_file: str | None = None
    orders: tuple[Literal["normal", "reversed"], ...] = ()
    shots: Annotated[int, Field(ge=0)] = 0
    examples: str | None = None
    reading: Literal["options", "words"] = "options"
    sampling: Sampling = GREEDY

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        choosing = self.answers or self.shots or self.examples
        refused = {
            "neutral answers are called that; give the questionnaire another name": self.name == "neutral",
            "answers, shots and examples are for kind 'choice'": choosing and self.kind != "choice",
            "reading in words is for kinds 'choice' and 'judgement'": self.reading == "words"
            and self.kind not in ("choice", "judgement"),
            "a file of templates is for kinds 'trait' and 'choice'; leave it out": self.template_file
            and self.kind not in ("trait", "choice"),
            "a questionnaire of this kind has one template; write two for two": self.kind in ("scale", "judgement")
            and len(self.templates) > 1,
            "a questionnaire of this kind has no orders; leave them out": self.orders
            and self.kind not in ("trait", "choice"),
            "traits need both orders": self.kind == "trait" and self.orders and set(self.orders) != set(ORDERS),
            "word pairs have no groups to cut and no templates; leave both out": self.kind == "pairs"
            and (self.per_group or self.templates),
            "examples are for shots; say how many": self.examples and not self.shots,
            "sampling is for reading 'words'; leave it out, or read words": self.sampling != GREEDY
            and self.reading != "words",
            "the bundled facts have their answers; leave them out": self.answers and self.source == "facts",
        }
        for problem, there in refused.items():
            if there:
                raise ValueError(f"{self.name}: {problem}")
        return self


class ArmsPlan(Strict):
    """Arms of one method.

    Attributes:
        method: ``"prompt"`` (in-context), ``"repe"`` (contrast vectors), ``"sae"`` (features) or ``"random"``.
        label: what the method is called in results; the method's name by default.
        family: ``"elements"``, ``"pressures"`` or ``"facets"``.
        keys: which of the family; all by default.
        personas: by name, several keys of the family at once. Where there are any, they are what the arms stand for.
        combine: how a persona's vectors come together: ``"norm_matched"``, or ``"sum"`` as in the paper.
        poles: which poles; the positive one by default. The negative pole is pushed toward by the opposite.
        doses: lengths of a push, in units of the residual stream's typical norm at the site on the bundled trait items.
        coefficients: how often the vector is added instead, as the paper has it: a feature's is its row of the decoder,
            and contrast vectors and random directions have norm one.
        positions: at which tokens.
        site: where contrast vectors and random directions are, such as ``"resid_post.1"``.
        release, sae: the SAE, for features.
        features: ``"prompt"``, the feature that poles differ most in where a prompt ends; ``"published"``, the paper's,
            summed; or lists of features by key.
        count: how many random directions.
        split: which phrasings are told, ``"held_out"`` or ``"train"``.
        contrast_file: contrast prompts that contrast vectors are fitted to instead of the book's, see
            :mod:`personalib.stimuli.contrast_files`.
    """

    method: Method
    label: str | None = None
    family: Literal["elements", "pressures", "facets"] = "elements"
    keys: tuple[str, ...] = ()
    personas: dict[str, tuple[str, ...]] = Field(default={})
    combine: Literal["norm_matched", "sum"] = "norm_matched"
    poles: tuple[Literal["positive", "negative"], ...] = ("positive",)
    doses: tuple[float, ...] = ()
    coefficients: tuple[float, ...] = ()
    positions: Literal["last", "prompt", "prompt_except_last", "before_options", "all"] = "prompt"
    site: str | None = None
    release: str = "organism"
    sae: str = ""
    features: Literal["prompt", "published"] | dict[str, tuple[int, ...]] = "prompt"
    count: Positive = 10
    split: Literal["train", "held_out"] = "held_out"
    contrast_file: str | None = None

    @property
    def name(self) -> str:
        """What the method is called in results."""
        return self.label or self.method

    @model_validator(mode="after")
    def _says_how_hard(self) -> Self:
        if self.method != "prompt" and bool(self.doses) == bool(self.coefficients):
            raise ValueError(f"method {self.method!r} needs doses, or else coefficients")
        if self.method == "prompt" and (self.doses or self.coefficients):
            raise ValueError("words have no dose and no coefficient; leave both out")
        if self.method in ("repe", "random") and self.site is None:
            raise ValueError(f"method {self.method!r} needs a site, such as resid_post.1")
        if self.contrast_file and self.method != "repe":
            raise ValueError("a file of contrasts is for method 'repe'; leave it out")
        return self


class EvaluationPlan(Strict):
    """Everything that an evaluation needs: who is asked, what, and under which arms beside the model as it is.

    Attributes:
        neutral: neutral questions whose answers' perplexity is measured.
        pairs: contrast pairs of each contrast, for directions.
        seed: draws pairs, directions and neutral questions.
        batch_size: rows of a forward pass.
    """

    models: tuple[ModelPlan, ...] = (ModelPlan(),)
    questionnaires: tuple[QuestionnairePlan, ...]
    arms: tuple[ArmsPlan, ...] = ()
    neutral: Positive = 12
    pairs: Positive = 64
    seed: int = 0
    batch_size: Positive = 64

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        names = [one.name for one in self.questionnaires]
        if not names or len(set(names)) < len(names):
            raise ValueError("declare at least one questionnaire, and give each a name of its own")
        folders = [one.folder for one in self.models]
        if not folders or len(set(folders)) < len(folders):
            raise ValueError(
                "declare at least one model, and each once: their answers have one folder, whose name has no signs but "
                "letters, digits and ._@-"
            )
        return self

    @property
    def site(self) -> str:
        """Where the plan pushes contrast vectors or random directions first; a ``ValueError`` where it pushes none."""
        for arm in self.arms:
            if arm.site:
                return arm.site
        raise ValueError("the plan has no arm with a site; say where to push, such as resid_post.1")

    @property
    def features(self) -> ArmsPlan:
        """Its first arms by features; a ``ValueError`` where it has none."""
        for arm in self.arms:
            if arm.method == "sae":
                return arm
        raise ValueError("the plan has no arm of method 'sae'; say which SAE is meant")

    def only(self, *names: str) -> "EvaluationPlan":
        """The plan with some of its questionnaires; a ``ValueError`` names one that it does not have."""
        if not names or len(set(names)) < len(names):
            raise ValueError("name the questionnaires to keep, each once")
        own = {one.name: one for one in self.questionnaires}
        for name in names:
            if name not in own:
                raise ValueError(f"the plan has no questionnaire {name!r}, but {', '.join(own)}")
        return self.model_copy(update={"questionnaires": tuple(own[name] for name in names)})


def load_plan(source: str | Path) -> EvaluationPlan:
    """Read a plan from a file, or by the name of one of those in ``data/grids``.

    Files that it names are looked for in the working folder, beside it, and in the repository. A file that is missing
    or no plan is a DataError, which names the place in it and the fix.

    Example:
        >>> load_plan("organism").models[0].name
        'organism'
    """
    path = plan_path(source)
    plan = parse_plan(read_yaml(path), str(path))
    questionnaires = []
    for one in plan.questionnaires:
        # A file is named from the root where it is not in the working folder.
        found: dict[str, str] = {}
        for field in ("source", "answers", "examples", "template_file"):
            name = getattr(one, field)
            if name and not exists(name):
                places = (folder / name for folder in (path.parent, repository_root()))
                found[field] = next((str(place) for place in places if exists(place)), name)
        questionnaires.append(one.model_copy(update=found))
    return plan.model_copy(update={"questionnaires": tuple(questionnaires)})


def plan_path(source: str | Path) -> Path:
    """The file of a plan, by its path or its name in ``data/grids``; a ``DataError`` where there is none."""
    return named_file(source, "grids", "plan")


def plan_name(source: str | Path) -> str:
    """What a plan is called, by its path or its name: a name may have dots of its own.

    Example:
        >>> plan_name("plans/qwen-2.5.yaml"), plan_name("qwen-2.5")
        ('qwen-2.5', 'qwen-2.5')
    """
    path = Path(source)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def parse_plan(content: Any, where: str = "the plan") -> EvaluationPlan:
    """A plan from plain values, as YAML holds them; see :func:`load_plan`."""
    return parse(EvaluationPlan, content, where)


def dump_plan(plan: EvaluationPlan) -> str:
    """A plan as YAML, defaults included."""
    return yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
