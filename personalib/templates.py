"""Prompt templates: how a question and its options become text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from personalib.data import DataError, data_dir, read_yaml

ORDERS = ("normal", "reversed")


@dataclass(frozen=True)
class Template:
    """One wording of a multiple-choice prompt.

    Attributes:
        name: key in the templates file.
        labels: what the options are called, in order; the answer is one of them.
        option: format of an option line, with ``{label}`` and ``{text}``.
        text: format of the prompt, with ``{question}`` and ``{options}``.
    """

    name: str
    labels: tuple[str, ...]
    option: str
    text: str

    def render(self, question: str, options: Sequence[str]) -> str:
        """The prompt for a question with up to ``len(labels)`` options.

        Raises:
            ValueError: there are more options than labels.
        """
        if len(options) > len(self.labels):
            raise ValueError(f"template {self.name!r} has {len(self.labels)} labels for {len(options)} options")
        lines = (self.option.format(label=label, text=text) for label, text in zip(self.labels, options, strict=False))
        return self.text.format(question=question, options="\n".join(lines))


@cache
def load_templates(path: Path | None = None) -> dict[str, Template]:
    """The multiple-choice templates by name, from ``data/stimuli/templates.yaml`` or another file of its form."""
    source = path or data_dir() / "stimuli" / "templates.yaml"
    content = read_yaml(source)
    try:
        return {
            name: Template(name, tuple(str(label) for label in entry["labels"]), entry["option"], entry["text"])
            for name, entry in content["templates"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: templates need labels, option and text ({error!r})") from None


@cache
def load_forms(path: Path | None = None) -> dict[str, str]:
    """How a text is handed to the organism: ``chat`` (Gemma-style turns) or ``base`` (plain text)."""
    source = path or data_dir() / "stimuli" / "templates.yaml"
    return dict(read_yaml(source)["forms"])


def wrap(text: str, form: str = "chat", context: str = "") -> str:
    """Hand a text to the organism: put it into a form, after a context (background, pressure) if there is one.

    Args:
        text: the user's request.
        form: ``"chat"`` or ``"base"``.
        context: sentences that come first; a line break is added where one is missing.
    """
    lead = context if not context or context.endswith("\n") else context + "\n"
    return load_forms()[form].format(context=lead, text=text)
