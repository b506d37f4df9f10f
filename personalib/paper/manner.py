"""Manners: how a chapter asks and pushes, by its plan alone or as a protocol says, and what readers are told of it."""

from dataclasses import dataclass
from typing import Literal

from personalib.base.data import DataError
from personalib.base.markdown import escaped
from personalib.base.tables import to_markdown
from personalib.evaluation.plan import EvaluationPlan, QuestionnairePlan
from personalib.paper.deviations import deviation_table, deviations
from personalib.paper.protocol import Protocol, apply_protocol, load_protocol
from personalib.questionnaires.scoring import FLOOR


@dataclass(frozen=True)
class Manner:
    """How a chapter asks and pushes.

    Attributes:
        protocol: what says so; none for the plan's own manner.
    """

    protocol: Protocol | None = None

    @classmethod
    def read(cls, protocol: str = "", prompts: str = "") -> "Manner":
        """The manner that a chapter's parameters name.

        Args:
            protocol: see :func:`personalib.paper.protocol.load_protocol`; empty for the plan's own manner.
            prompts: a file of templates and contrast prompts instead of the protocol's; empty for none.

        Raises:
            DataError: see :func:`personalib.paper.protocol.load_protocol`; or there are prompts and no protocol.

        Example:
            >>> Manner.read("paper").column
            'published'
        """
        if protocol:
            return cls(load_protocol(protocol, prompts or None))
        if prompts:
            raise DataError(
                f"{prompts}: prompts belong to a protocol; pass `protocol` too: paper, book, or a YAML file"
            )
        return cls()

    @property
    def column(self) -> Literal["value", "published"]:
        """Which of an item's scores compares traits, see :func:`personalib.questionnaires.scores.item_scores`."""
        return "published" if self.protocol and self.protocol.scoring.rule == "published" else "value"

    def put(self, plan: EvaluationPlan, strength: bool = True) -> EvaluationPlan:
        """A chapter's plan in this manner.

        A protocol's templates, orders, positions, features, coefficients and prompts are taken. How many items there
        are stays with the plan, and so does how choices are read, since chapters read them both ways side by side.

        Args:
            plan: of one model.
            strength: whether doses and coefficients are the protocol's too; a chapter that varies them has its own.
        """
        if self.protocol is None:
            return plan
        found = apply_protocol(plan, self.protocol, plan.models[0].name, strength)
        pairs = zip(plan.questionnaires, found.questionnaires, strict=True)
        return found.model_copy(update={"questionnaires": tuple(_sized(own, put) for own, put in pairs)})

    def note(self, *plans: EvaluationPlan) -> str:
        """What a reader is told: the manner, and as a table where plans leave the protocol."""
        if self.protocol is None:
            return "Asked and pushed in the plan's own manner; `-p protocol paper` takes the paper's."
        told = f"Protocol: **{escaped(self.protocol.title)}**."
        if self.protocol.scoring.floor != FLOOR:
            told += f" Items whose options have less than {FLOOR:.0%} of the probability are missing here all the same."
        found = list(dict.fromkeys(one for plan in plans for one in deviations(self.protocol, plan)))
        if not found:
            return f"{told} This run leaves it nowhere."
        table = to_markdown(deviation_table(found))
        return f"{told}\n\n:::{{dropdown}} Where this run leaves it: {len(found)} points\n{table}:::"


def _sized(own: QuestionnairePlan, put: QuestionnairePlan) -> QuestionnairePlan:
    sampling = put.sampling if own.reading == "words" else own.sampling
    return put.model_copy(update={"per_group": own.per_group, "reading": own.reading, "sampling": sampling})
