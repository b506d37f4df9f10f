"""Prompt templates: how a question and its options become text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter

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
    """The multiple-choice templates by name, from ``data/stimuli/templates.yaml`` or another file of its form.

    Raises:
        DataError: a template lacks a part, or a text that belongs into it has no place; the message names file, key and
            fix.
    """
    source = path or data_dir() / "stimuli" / "templates.yaml"
    content = read_yaml(source)
    try:
        found = {
            name: Template(name, tuple(str(label) for label in entry["labels"]), entry["option"], entry["text"])
            for name, entry in content["templates"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: templates need labels, option and text ({error!r})") from None
    for one in found.values():
        _check(source, one)
    return found


def _check(source: Path, template: Template) -> None:
    """Refuse a template that would drop the question, or the options, without a word."""
    place = f"{source}: templates.{template.name}"
    if len(set(template.labels)) < len(template.labels):
        raise DataError(f"{place}.labels: a label stands twice; give each option its own")
    for key, text, wanted in (
        ("option", template.option, ("label", "text")),
        ("text", template.text, ("question", "options")),
    ):
        check_placeholders(f"{place}.{key}", text, wanted)


def check_placeholders(place: str, text: object, wanted: Sequence[str]) -> None:
    """Check that a format has each of some fields, and no other.

    Args:
        place: of the format, for the message.
        text: the format, such as ``"{label}. {text}"``.
        wanted: names of the fields.

    Raises:
        DataError: it is no text, a field is missing or unknown, or a brace stands alone.

    Example:
        >>> check_placeholders("templates.yaml: letters.option", "{label}. {text}", ("label", "text"))
    """
    if not isinstance(text, str):
        raise DataError(f"{place}: is {text!r}; write a text, in quotes")
    try:
        fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise DataError(f"{place}: {error}; write {{{{ and }}}} for braces of the text itself") from None
    for name in wanted:
        if name not in fields:
            raise DataError(f"{place}: {{{name}}} is missing; write it where that is to stand")
    for name in fields:
        if name not in wanted:
            known = " and ".join(f"{{{one}}}" for one in wanted)
            raise DataError(f"{place}: {{{name}}} is no field of it; the fields are {known}, {{{{ and }}}} are braces")


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
