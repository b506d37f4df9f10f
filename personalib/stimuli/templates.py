"""Prompt templates: how a question and its options become text."""

import string
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from personalib.base.data import STRICT, DataError, data_dir, parse, read_section, shown

ORDERS = ("normal", "reversed")
# Labels that go on by themselves where an item has more options than a template names.
_SERIES = (tuple(string.ascii_uppercase), tuple(string.ascii_lowercase), tuple(map(str, range(1, 100))))
# A whole number is as plain a label as a letter; what else is no text has to be quoted.
Labels = Annotated[
    tuple[Annotated[str, BeforeValidator(lambda label: str(label) if type(label) is int else label)], ...],
    Field(min_length=1),
]
T = TypeVar("T")
# The placeholders that a format has to have, and those that it may have.
_Fields = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True, config=STRICT)
class Template:
    """One wording of a multiple-choice prompt.

    Attributes:
        name: key in the templates file.
        labels: what the options are called, in order; the answer is one of them. Letters from A on, and numbers from
            1 on, go on as far as an item has options.
        option: format of an option line, with ``{label}`` and ``{text}``.
        text: format of the prompt, with ``{question}`` and ``{options}``.
    """

    name: str
    labels: Labels
    option: str
    text: str

    def render(self, question: str, options: Sequence[str]) -> str:
        """The prompt for a question with its options.

        Raises:
            ValueError: there are more options than labels.
        """
        labels = self.labels_for(len(options))
        lines = (self.option.format(label=label, text=text) for label, text in zip(labels, options, strict=True))
        return self.text.format(question=question, options="\n".join(lines))

    def labels_for(self, count: int) -> tuple[str, ...]:
        """What so many options are called.

        Raises:
            ValueError: there are more options than labels.

        Example:
            >>> Template("own", ("A", "B"), "{label}. {text}", "{question} {options}").labels_for(4)
            ('A', 'B', 'C', 'D')
        """
        known = next((one for one in _SERIES if one[: len(self.labels)] == self.labels), self.labels)
        if count > len(known):
            raise ValueError(
                f"template {self.name!r} has {len(known)} labels for {count} options; add labels to it, or leave such "
                "items out"
            )
        return known[:count]


@cache
def load_templates(path: Path | None = None) -> dict[str, Template]:
    """The multiple-choice templates by name, from ``data/stimuli/templates.yaml`` or another file of its form.

    Raises:
        DataError: a template lacks a part, or a text that belongs into it has no place; the message names file, key and
            fix.
    """
    formats: dict[str, _Fields] = {"option": (("label", "text"), ()), "text": (("question", "options"), ())}
    return read_templates(dict[str, Template], path, "templates", formats)


def read_templates(
    kind: type[dict[str, T]], path: Path | None, section: str, formats: Mapping[str, _Fields]
) -> dict[str, T]:
    """The templates by name in a section of the templates file, none of which drops anything without a word.

    Args:
        kind: a dictionary of what they are, with a ``name`` and ``labels``.
        path: another file of its form.
        section: its key.
        formats: for each field that is a format, which placeholders it has to have, and which it may have.

    Raises:
        DataError: the message names file, key and fix.
    """
    source = path or data_dir() / "stimuli" / "templates.yaml"
    content = read_section(dict[str, dict[str, Any]], source, section)
    found = parse(kind, {name: one | {"name": name} for name, one in content.items()}, f"{source}: {section}")
    for name, one in found.items():
        place, own = f"{source}: {section}.{name}", vars(one)
        if len(set(own["labels"])) < len(own["labels"]):
            raise DataError(f"{place}.labels: a label stands twice; give each option its own")
        for key, (wanted, more) in formats.items():
            check_placeholders(f"{place}.{key}", own[key], wanted, more)
    return found


def check_placeholders(place: str, text: object, wanted: Sequence[str], more: Sequence[str] = ()) -> None:
    """Check that a format has each of some fields, and no other but those that it may have.

    Args:
        place: of the format, for the message.
        text: the format, such as ``"{label}. {text}"``.
        wanted: names of the fields.
        more: names of those that it may have.

    Raises:
        DataError: it is no text, a field is missing or unknown, or a brace stands alone.

    Example:
        >>> check_placeholders("templates.yaml: letters.option", "{label}. {text}", ("label", "text"))
    """
    if not isinstance(text, str):
        raise DataError(f"{place}: is {shown(text)}; write a text, in quotes")
    try:
        # A width or a conversion would be a text of any length.
        fields = [
            f"{name}{conversion or ''}{how}" for _, name, how, conversion in Formatter().parse(text) if name is not None
        ]
    except ValueError as error:
        raise DataError(f"{place}: {error}; write {{{{ and }}}} for braces of the text itself") from None
    for name in wanted:
        if name not in fields:
            raise DataError(f"{place}: {{{name}}} is missing; write it where that is to stand")
    for name in fields:
        if name not in (*wanted, *more):
            known = " and ".join(f"{{{one}}}" for one in (*wanted, *more))
            raise DataError(f"{place}: {{{name}}} is no field of it; the fields are {known}, {{{{ and }}}} are braces")


@cache
def load_forms(path: Path | None = None) -> dict[str, str]:
    """How a text is handed to the organism: ``chat`` (Gemma-style turns) or ``base`` (plain text)."""
    source = path or data_dir() / "stimuli" / "templates.yaml"
    forms = read_section(dict[str, str], source, "forms")
    for name, form in forms.items():
        check_placeholders(f"{source}: forms.{name}", form, ("context", "text"))
    return forms


def wrap(text: str, form: str = "chat", context: str = "") -> str:
    """Hand a text to the organism: put it into a form, after a context (background, pressure) if there is one.

    Args:
        text: the user's request.
        form: ``"chat"`` or ``"base"``.
        context: sentences that come first; a line break is added where one is missing.
    """
    lead = context if not context or context.endswith("\n") else context + "\n"
    return load_forms()[form].format(context=lead, text=text)
