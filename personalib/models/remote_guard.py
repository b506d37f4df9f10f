"""What stops code that would run a remote model on this side, where it has no weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from personalib.base.data import DataError


class Refusal:
    """Put before every part of a model, it refuses to run it.

    Without it, a model without weights would fail somewhere within torch, or give NaN.

    Args:
        name: of the model, for the message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lifted = False

    def __call__(self, *_: object, **__: object) -> None:
        """Refuse, unless lifted.

        Raises:
            DataError: always but while :meth:`lifted` is open.
        """
        if not self._lifted:
            raise DataError(
                f"{self.name}: a remote model is not run on this side; what a service can do with it is to answer "
                "questions by options (personalib.evaluation.evaluate, personalib.steering.ask_steered) and to read "
                "the residual stream (personalib.models.capture); for anything else load the model with "
                "personalib.models.load_model, or leave the chapter's parameter remote out"
            )

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """While this is open, the model can be run: a rehearsal runs it in the service's place."""
        self._lifted = True
        try:
            yield
        finally:
            self._lifted = False


def refuse_runs(model: PreTrainedModel, name: str) -> Refusal:
    """Refuse to run a model, as a whole, in parts, or to generate.

    Args:
        model: a skeleton without weights, or a model that stands for one in a rehearsal.
        name: what it is called in the message.
    """
    refusal = Refusal(name)
    # Code of the library runs parts by themselves too: blocks, the norm, the unembedding.
    for module in model.modules():
        module.register_forward_pre_hook(refusal)
    # It would prepare its own tensors first, and fail on them before any part is run.
    model.generate = refusal
    return refusal
