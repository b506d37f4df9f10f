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
        labels: what the options are called; letters from A on, and numbers from 1 on, go on as far as an item does.
        option: format of an option line, with ``{label}`` and ``{text}``.
        text: format of the prompt, with ``{question}`` and ``{options}``.
    """

    name: str
    labels: Labels
    option: str
    text: str

    def render(self, question: str, options: Sequence[str]) -> str:
        """The prompt for a question with its options; raises as :meth:`labels_for` does."""
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
        known = next((series for series in _SERIES if series[: len(self.labels)] == self.labels), self.labels)
        if count > len(known):
            there = f"template {self.name!r} has {len(known)} labels for {count} options"
            raise ValueError(f"{there}; add labels to it, or leave such items out")
        return known[:count]


@cache
def load_templates(path: Path | None = None) -> dict[str, Template]:
    """The multiple-choice templates by name, from ``data/stimuli/templates.yaml`` or another file of its form.

    Raises:
        DataError: a template lacks a part, or a text that belongs into it has no place.
    """
    formats: dict[str, _Fields] = {"option": (("label", "text"), ()), "text": (("question", "options"), ())}
    return read_templates(dict[str, Template], path, "templates", formats)


def read_templates(
    kind: type[dict[str, T]], path: Path | None, section: str, formats: Mapping[str, _Fields]
) -> dict[str, T]:
    """The templates by name in a section of the templates file, or of another file of its form.

    ``kind`` is a dictionary of what they are, with a ``name`` and ``labels``, and ``formats`` says of each field that
    is a format which placeholders it has to have, and which it may have.

    Raises:
        DataError: one lacks a part, or drops a text; the message names file, key and fix.
    """
    source = path or data_dir() / "stimuli" / "templates.yaml"
    content = read_section(dict[str, dict[str, Any]], source, section)
    templates = parse(kind, {name: entry | {"name": name} for name, entry in content.items()}, f"{source}: {section}")
    for name, template in templates.items():
        place, fields = f"{source}: {section}.{name}", vars(template)
        if len(set(fields["labels"])) < len(fields["labels"]):
            raise DataError(f"{place}.labels: a label stands twice; give each option its own")
        for key, (wanted, more) in formats.items():
            check_placeholders(f"{place}.{key}", fields[key], wanted, more)
    return templates


def check_placeholders(place: str, text: object, wanted: Sequence[str], more: Sequence[str] = ()) -> None:
    """Check that a format has each of the wanted fields, and no other but those that it may have.

    Raises:
        DataError: it is no text, a field is missing or unknown, or a brace stands alone; the message names the place.

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
    """Hand a text to the organism in a form, ``"chat"`` or ``"base"``, after a context if there is one.

    A context is sentences, such as a background; a line break is added where one is missing.
    """
    lead = context if not context or context.endswith("\n") else context + "\n"
    return load_forms()[form].format(context=lead, text=text)
