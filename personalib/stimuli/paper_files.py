"""The paper's own files: backgrounds with their SAE features, and feature patterns (arXiv 2410.10863, code release).

Both are JSON. They are read and written without a change in meaning, so that work begun with them can go on here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from personalib.base.data import DataError, cut, parse, shown
from personalib.base.records import Record, read_records
from personalib.base.storage import write_whole
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.factors import Element, elements, inflect, load_factors

# Titles of factors in the paper's files that differ from ours.
_FACTORS = {"ai familiar degree": "ai familiarity"}
_FIELDS = ("idx", "attributes", "fixed_bg", "generative_bg", "features", "keywords")
_Details = dict[str, dict[str, dict[str, int]]]


def _told(clause: str) -> str:
    inflect(clause, "first")  # refuses what is no clause
    return clause


@pydantic.dataclasses.dataclass(frozen=True)
class PublishedBackground:
    """An entry of a background file: by title of the factor what a person is, and a sentence that says so.

    Both are in the file's own words, and empty where nothing is told; ``generative_bg`` is a life story. ``features``
    holds by kind of text (``fixed``, ``generative``) the SAE features of each factor. The paper has neither
    ``keywords``, clauses by title of the factor, nor the fields in ``extra``, in the order of the file.
    """

    idx: int
    attributes: dict[str, str]
    fixed_bg: dict[str, str] = field(default_factory=dict)
    generative_bg: str = ""
    features: dict[str, Any] | None = None
    keywords: dict[str, Annotated[str, AfterValidator(_told)]] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def background(self) -> Background:
        """The same person in this book's vocabulary; attributes that it does not have are left out."""
        named = [element_named(title, value) for title, value in self.attributes.items()]
        keys = {element.factor: element.key for element in named if element}
        words, titles = self.keywords or {}, {factor.key: factor.title for factor in load_factors()}
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
        keywords={titles[factor]: clause for factor, clause in background.keywords.items()},
    )


def with_fixed_text(entry: PublishedBackground, person: str) -> PublishedBackground:
    """An entry with the fixed text of its keywords, or a DataError where an attribute that is told has none."""
    words = entry.keywords or {}
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

    Where it is no such file, a DataError names the row and the field.
    """
    return [_background(entry) for entry in read_records(path)]


def save_backgrounds(backgrounds: Iterable[PublishedBackground], path: Path) -> None:
    """Write a background file in the paper's form."""
    entries = []
    for background in backgrounds:
        fields = {name: getattr(background, name) for name in _FIELDS}
        entries.append({name: value for name, value in fields.items() if value is not None} | background.extra)
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
    # What is null or NaN is not there.
    fields = {name: entry.fields[name] for name in _FIELDS if entry.has(name)}
    if "attributes" not in fields and "features" in fields:
        fields["attributes"] = fields.pop("features")
    extra = {name: value for name, value in entry.fields.items() if name not in _FIELDS}
    return parse(PublishedBackground, fields | {"idx": _whole(entry, "idx"), "extra": extra}, entry.where)


class _WrittenPattern(BaseModel):
    """A pattern as the file has it."""

    model_config = ConfigDict(extra="allow", strict=True)

    Layer: int
    size: int
    Details: _Details = {}

    @field_validator("Details")
    @classmethod
    def _are_features(cls, details: _Details, info: ValidationInfo) -> _Details:
        size = info.data["size"]
        for factor, by_element in details.items():
            for element, features in by_element.items():
                if wrong := [index for index in features.values() if not 0 <= index < size]:
                    told = f"{shown(factor)}, {shown(element)}: {wrong[0]}"
                    raise ValueError(f"{told} is no feature of an SAE with {size}")
        return details


def _pattern(entry: Record) -> FeaturePattern:
    numbers = {name: _whole(entry, name) for name in ("Layer", "size")}
    written = parse(_WrittenPattern, {**entry.fields, **numbers}, entry.where)
    return FeaturePattern(written.Layer, written.size, written.Details, written.model_extra or {})


def _whole(entry: Record, name: str) -> int:
    """A whole number, also 3.0 as tables hold it; digits in a text would come back from saving as something else."""
    if isinstance(value := entry.fields.get(name), str):
        raise entry.error(name, f"is {shown(value)}; write a whole number")
    return entry.integer(name)
