"""The paper's own files: backgrounds with their SAE features, and feature patterns (arXiv 2410.10863, code release).

Both are JSON. They are read and written without a change in meaning, so that work begun with them can go on here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from personalib.base.data import DataError, cut, shown
from personalib.base.record_files import read_records
from personalib.base.records import Record
from personalib.base.storage import write_whole
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.factors import Element, elements, inflect, load_factors

# Titles of factors in the paper's files that differ from ours.
_FACTORS = {"ai familiar degree": "ai familiarity"}
_FIELDS = ("idx", "attributes", "fixed_bg", "generative_bg", "features")


@dataclass(frozen=True)
class PublishedBackground:
    """An entry of a background file, by its number.

    Attributes:
        attributes: by title of the factor what the person is, in the file's own words; empty where it is not told.
        fixed_bg: by title of the factor a sentence that says so.
        generative_bg: a life story, or empty.
        features: by kind of text (``fixed``, ``generative``) the SAE features of each factor; None where none are.
        extra: fields that the paper does not have, in the order of the file.
    """

    idx: int
    attributes: Mapping[str, str]
    fixed_bg: Mapping[str, str]
    generative_bg: str
    features: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def background(self) -> Background:
        """The same person in this book's vocabulary; attributes that it does not have are left out."""
        named = [element_named(title, value) for title, value in self.attributes.items()]
        keys = {element.factor: element.key for element in named if element}
        words = self.extra.get("keywords", {})
        titles = {factor.key: factor.title for factor in load_factors()}
        keywords = {factor: words[titles[factor]] for factor in keys if titles[factor] in words}
        return Background(self.idx, keys, keywords, self.generative_bg)


@dataclass(frozen=True)
class FeaturePattern:
    """Which features of one SAE, which reads a layer and has so many features, stand for which element.

    ``details`` holds by factor and element, in the file's own words, the feature index by description, and ``extra``
    the fields that the paper does not have, in the order of the file.
    """

    layer: int
    size: int
    details: Mapping[str, Mapping[str, Mapping[str, int]]]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def features(self, factor: str, element: str) -> list[int]:
        """The feature indices of an element, or a KeyError where the pattern does not have it."""
        return list(self.details[factor][element].values())


def element_named(factor: str, value: str) -> Element | None:
    """The element that a file names by titles, in any case; the beginning of a title will do if no other has it."""
    wanted, title = value.strip().lower(), factor.strip().lower()
    for known in load_factors():
        if wanted and known.title.lower() == _FACTORS.get(title, title):
            exact = [element for element in known.elements if element.title.lower() == wanted]
            near = exact or [element for element in known.elements if element.title.lower().startswith(wanted)]
            return near[0] if len(near) == 1 else None
    return None


def publish(background: Background, person: str | None = "second") -> PublishedBackground:
    """A background as an entry of the paper's file, with its keywords in a field of their own.

    The fixed text is in a grammatical person; None leaves it out.
    """
    titles = {factor.key: factor.title for factor in load_factors()}
    named = {(element.factor, element.key): element.title for element in elements()}
    return PublishedBackground(
        idx=background.idx,
        attributes={titles[factor]: named[factor, element] for factor, element in background.elements.items()},
        fixed_bg={titles[factor]: text for factor, text in background.sentences(person).items()} if person else {},
        generative_bg=background.generated,
        extra={"keywords": {titles[factor]: clause for factor, clause in background.keywords.items()}},
    )


def with_fixed_text(entry: PublishedBackground, person: str) -> PublishedBackground:
    """An entry with the fixed text of its keywords, or a DataError where an attribute that is told has none."""
    words = entry.extra.get("keywords", {})
    if missing := [title for title, value in entry.attributes.items() if value and title not in words]:
        raise DataError(
            f"background {entry.idx} has no keyword for {cut(', '.join(missing))}; draw it with "
            "`backgrounds keywords`, or add the clause under 'keywords'"
        )
    return replace(entry, fixed_bg={title: inflect(clause, person) for title, clause in words.items()})


def with_story(entry: PublishedBackground, story: str) -> PublishedBackground:
    """An entry with another life story, and without the features that were found with the one before."""
    features = entry.features and {**entry.features, "generative": None}
    return replace(entry, generative_bg=story, features=features)


def load_backgrounds(path: Path) -> list[PublishedBackground]:
    """Read a background file; in the paper's first files the attributes stand under ``features``.

    Raises:
        DataError: it is no such file; the message names the row and the field.
    """
    return [_background(entry) for entry in read_records(path)]


def save_backgrounds(backgrounds: Iterable[PublishedBackground], path: Path) -> None:
    """Write a background file in the paper's form."""
    entries = []
    for background in backgrounds:
        fields = _FIELDS if background.features is not None else _FIELDS[:-1]
        entries.append({name: getattr(background, name) for name in fields} | dict(background.extra))
    _write(entries, path)


def load_feature_patterns(path: Path) -> list[FeaturePattern]:
    """Read a feature-pattern file, or raise a DataError where it is none, or an index is not one of the SAE's."""
    return [_pattern(entry) for entry in read_records(path)]


def save_feature_patterns(patterns: Iterable[FeaturePattern], path: Path) -> None:
    """Write a feature-pattern file in the paper's form."""
    _write([{"Layer": one.layer, "size": one.size, "Details": one.details, **one.extra} for one in patterns], path)


def _write(content: Any, path: Path) -> None:
    write_whole(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def _background(entry: Record) -> PublishedBackground:
    early = not entry.has("attributes")
    features = None if early else entry.fields.get("features")
    if features is not None and not isinstance(features, dict):
        raise entry.error("features", f"is {shown(features)}; write an object with 'fixed' and 'generative'")
    # Keywords that are null or NaN are none.
    left_out = _FIELDS if entry.has("keywords") else (*_FIELDS, "keywords")
    if entry.has("keywords"):
        for clause in _texts(entry, "keywords").values():
            try:
                inflect(clause, "first")
            except DataError as error:
                raise entry.error("keywords", str(error)) from None
    story = entry.fields.get("generative_bg") or ""
    if not isinstance(story, str):
        raise entry.error("generative_bg", f"is {shown(story)}; write a text, or leave it empty")
    return PublishedBackground(
        idx=_whole(entry, "idx"),
        attributes=_texts(entry, "features" if early else "attributes"),
        fixed_bg=_texts(entry, "fixed_bg") if entry.has("fixed_bg") else {},
        generative_bg=story,
        features=features,
        extra={name: value for name, value in entry.fields.items() if name not in left_out},
    )


def _pattern(entry: Record) -> FeaturePattern:
    extra = {name: value for name, value in entry.fields.items() if name not in ("Layer", "size", "Details")}
    details = entry.fields.get("Details", {})
    pattern = FeaturePattern(_whole(entry, "Layer"), _whole(entry, "size"), details, extra)
    try:
        indices = [(f, e, i) for f, each in details.items() for e, own in each.items() for i in own.values()]
    except AttributeError:
        raise entry.error("Details", "write factor, element and description, each an object") from None
    for factor, element, index in indices:
        if type(index) is not int or not 0 <= index < pattern.size:
            problem = f"{shown(factor)}, {shown(element)}: {shown(index)} is no feature of an SAE with {pattern.size}"
            raise entry.error("Details", problem)
    return pattern


def _whole(entry: Record, name: str) -> int:
    """A whole number; digits in a text would come back from saving as something else."""
    if isinstance(value := entry.fields.get(name), str):
        raise entry.error(name, f"is {shown(value)}; write a whole number")
    return entry.integer(name)


def _texts(entry: Record, name: str) -> dict[str, str]:
    value = entry.fields.get(name)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise entry.error(name, f"is {shown(value)}; write an object with a text for each factor")
    return value
