"""Prompt templates: how a question and its options become text."""

import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from personalib.base.data import STRICT, data_dir, parse, read_section
from personalib.stimuli.factors import read_stimuli

ORDERS = ("normal", "reversed")
# Labels that go on by themselves where an item has more options than a template names.
_SERIES = (tuple(string.ascii_uppercase), tuple(string.ascii_lowercase), tuple(map(str, range(1, 100))))
T = TypeVar("T")


def _different(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label stands twice; give each option its own")
    return labels


# A whole number is as plain a label as a letter; what else is no text has to be quoted.
Labels = Annotated[
    tuple[Annotated[str, BeforeValidator(lambda label: str(label) if type(label) is int else label)], ...],
    Field(min_length=1),
    AfterValidator(_different),
]


def placeholders(*wanted: str, optional: Sequence[str] = ()) -> AfterValidator:
    """Have pydantic check that a text is a format with all of these fields, perhaps the optional ones, and no others.

    A field that is missing or unknown, or a brace that stands alone, is a ValueError.
    """
    known = (*wanted, *optional)

    def check(text: str) -> str:
        try:
            # A width or a conversion would be a text of any length.
            fields = [f"{name}{mark or ''}{how}" for _, name, how, mark in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces of the text itself") from None
        if missing := [name for name in wanted if name not in fields]:
            raise ValueError(f"{{{missing[0]}}} is missing; write it where that is to stand")
        if unknown := [name for name in fields if name not in known]:
            told = " and ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"{{{unknown[0]}}} is no field of it; the fields are {told}, {{{{ and }}}} are braces")
        return text

    return AfterValidator(check)


@dataclass(frozen=True, config=STRICT)
class Template:
    """One wording of a multiple-choice prompt, by its key in the templates file.

    ``option`` is the format of an option's line, with ``{label}`` and ``{text}``, and ``text`` that of the prompt, with
    ``{question}`` and ``{options}``. Labels, letters from A on or numbers from 1 on, go on as far as an item does.
    """

    name: str
    labels: Labels
    option: Annotated[str, placeholders("label", "text")]
    text: Annotated[str, placeholders("question", "options")]

    def render(self, question: str, options: Sequence[str]) -> str:
        """The prompt for a question with its options; raises as :meth:`labels_for` does."""
        labels = self.labels_for(len(options))
        lines = (self.option.format(label=label, text=text) for label, text in zip(labels, options, strict=True))
        return self.text.format(question=question, options="\n".join(lines))

    def labels_for(self, count: int) -> tuple[str, ...]:
        """What so many options are called; a ValueError where there are more options than labels."""
        known = next((series for series in _SERIES if series[: len(self.labels)] == self.labels), self.labels)
        if count > len(known):
            there = f"template {self.name!r} has {len(known)} labels for {count} options"
            raise ValueError(f"{there}; add labels to it, or leave such items out")
        return known[:count]


@cache
def load_templates(path: Path | None = None) -> dict[str, Template]:
    """The multiple-choice templates by name, see :func:`read_templates`."""
    return read_templates(dict[str, Template], path, "templates")


def read_templates(kind: type[dict[str, T]], path: Path | None, section: str) -> dict[str, T]:
    """The templates by name in a section of ``data/stimuli/templates.yaml``, or of another file of its form.

    ``kind`` is a dictionary of what they are, each with a ``name``. Where one lacks a part, or drops a text, a
    DataError names file, key and fix.
    """
    source = path or data_dir() / "stimuli" / "templates.yaml"
    content = read_section(dict[str, dict[str, Any]], source, section)
    return parse(kind, {name: entry | {"name": name} for name, entry in content.items()}, f"{source}: {section}")


@cache
def load_forms() -> dict[str, str]:
    """How a text is handed to the organism: ``chat`` (Gemma-style turns) or ``base`` (plain text)."""
    return read_stimuli(dict[str, Annotated[str, placeholders("context", "text")]], "templates", "forms")


def wrap(text: str, form: str = "chat", context: str = "") -> str:
    """Hand a text to the organism in a form, ``"chat"`` or ``"base"``, after a context if there is one.

    A context is sentences, such as a background; a line break is added where one is missing.
    """
    lead = context if not context or context.endswith("\n") else context + "\n"
    return load_forms()[form].format(context=lead, text=text)
