"""Feature patterns: what was found, in the paper's file format, and the features of a background.

The paper's release maps a background's attributes to features by its pattern file (``convert_to_features``); the branch
for generated life stories returns nothing there. Here a story's features are those that the model is seen to use when
it reads the story.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict

from personalib.base.data import NotNegative, Strict, parse
from personalib.features.discovery import Discovery, Finding, Pooling, Settings, pool_features
from personalib.features.labels import FeatureLabel
from personalib.features.saes import SparseAutoencoder
from personalib.models.activations import capture
from personalib.models.load import LanguageModel
from personalib.stimuli.factors import load_factors
from personalib.stimuli.paper_files import FeaturePattern, PublishedBackground, element_named


class _Other(Strict):
    """Fields of a pattern that the paper does not have, as far as they are read again."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Threshold(_Other):
    index: int
    threshold: NotNegative


class _Score(_Other):
    factor: str
    element: str
    features: tuple[_Threshold, ...]


class _Search(_Other):
    pooling: Pooling = "max"


class _Sae(_Other):
    digest: str | None = None


class _Extra(_Other):
    scores: tuple[_Score, ...] = ()
    search: _Search = _Search()
    sae: _Sae = _Sae()


class Reading(NamedTuple):
    """An element that a text is seen to tell, and the features that say so."""

    element: str
    features: list[int]


def as_pattern(
    discovery: Discovery,
    labels: Mapping[int, FeatureLabel],
    sae: SparseAutoencoder,
    language_model: LanguageModel,
    pooling: Pooling,
    settings: Settings,
) -> FeaturePattern:
    """What was found in the paper's form: by titles of factor and element, feature index by description.

    Scores, thresholds, and what model and SAE they belong to, are added in fields of their own.
    """
    details: dict[str, dict[str, dict[str, int]]] = {}
    titles = {(e.factor, e.key): (f.title, e.title) for f in load_factors() for e in f.elements}
    scores = []
    for finding in discovery.findings:
        factor, element = titles[finding.label]
        # Two features may have the same label, and a description stands for one.
        described = {f"{each}: {labels[each].line()}": each for each in finding.features}
        details.setdefault(factor, {})[element] = described
        scores.append({"factor": factor, "element": element, **_scores(finding, labels)})
    extra = {
        "model": {"name": language_model.name, "revision": language_model.revision, "digest": language_model.digest()},
        "sae": sae.record(),
        "search": {"pooling": pooling, **settings.__dict__},
        "scores": scores,
    }
    return FeaturePattern(sae.site.layer, sae.width, details, extra)


def fixed_features(pattern: FeaturePattern, entry: PublishedBackground) -> dict[str, list[int]]:
    """The features of a background's attributes by title of the factor; a factor that is not told has none."""
    by_element, chosen = _features(pattern), {}
    for title, value in entry.attributes.items():
        if value and (features := by_element.get((title, _title(title, value)))):
            chosen[title] = [feature for feature, _ in features]
    return chosen


def generated_features(
    pattern: FeaturePattern,
    entries: Sequence[PublishedBackground],
    language_model: LanguageModel,
    sae: SparseAutoencoder,
    folder: Path,
    pooling: Pooling | None = None,
    progress: str | None = None,
) -> list[dict[str, Reading]]:
    """What the model is seen to read in life stories.

    For each factor it is the element whose features are furthest above their thresholds; where none is above, the
    factor is left out. A pattern without thresholds, such as the paper's own, takes any activation as a sign. Pooling
    is that of the search by default, or else ``"max"``. A pattern of another SAE, an SAE of another model, and a
    background without a story are a ValueError.
    """
    _check_same(pattern, sae)
    sae.check_fits(language_model)
    pooling = pooling or _other(pattern).search.pooling
    if missing := [entry.idx for entry in entries if not entry.generative_bg.strip()]:
        raise ValueError(f"background {missing[0]} has no life story; write it with `backgrounds generated`")
    stories = [entry.generative_bg for entry in entries]
    activations = capture(language_model, stories, [sae.site], folder, tokens="all", progress=progress)
    pooled = pool_features(sae, activations, pooling).tocsr()
    by_element, readings = _features(pattern), []
    for number in range(len(stories)):
        row = pooled[[number]].toarray()[0]
        best: dict[str, tuple[float, Reading]] = {}
        for (factor, element), features in by_element.items():
            above = [(feature, row[feature] / limit) for feature, limit in features if row[feature] >= limit]
            if above and (strength := max(ratio for _, ratio in above)) > best.get(factor, (0.0,))[0]:
                best[factor] = strength, Reading(element, [feature for feature, _ in above])
        readings.append({factor: reading for factor, (_, reading) in best.items()})
    return readings


def with_features(
    entry: PublishedBackground, fixed: Mapping[str, list[int]], generated: Mapping[str, Reading] | None
) -> PublishedBackground:
    """A background with its features under ``fixed`` and ``generative``, as the paper's files have them."""
    read = {title: reading.features for title, reading in generated.items()} if generated is not None else None
    return replace(entry, features={"fixed": dict(fixed), "generative": read})


def _check_same(pattern: FeaturePattern, sae: SparseAutoencoder) -> None:
    if pattern.size != sae.width or pattern.layer != sae.site.layer:
        raise ValueError(
            f"the pattern is of an SAE with {pattern.size} features at layer {pattern.layer}, and {sae.name} has "
            f"{sae.width} at layer {sae.site.layer}; name the SAE that it was found in"
        )
    if (_other(pattern).sae.digest or sae.digest()) != sae.digest():
        raise ValueError(f"the pattern was found in other weights than those of {sae.name}; search that SAE anew")


def _other(pattern: FeaturePattern) -> _Extra:
    """What a pattern says beside the paper's fields; a DataError if :func:`as_pattern` would not have written it."""
    return parse(_Extra, dict(pattern.extra), f"the feature pattern at layer {pattern.layer}")


def _features(pattern: FeaturePattern) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """By titles of factor and element the features with their thresholds; the least number above zero if none is."""
    limits = {
        (each.factor, each.element, feature.index): feature.threshold
        for each in _other(pattern).scores
        for feature in each.features
    }
    return {
        (factor, _title(factor, element)): [
            (index, limits.get((factor, element, index), 1e-6)) for index in described.values()
        ]
        for factor, own in pattern.details.items()
        for element, described in own.items()
    }


def _title(factor: str, value: str) -> str:
    """The title of an element in this book's vocabulary, or the file's own word for one that it does not have."""
    element = element_named(factor, value)
    return element.title if element else value


def _scores(finding: Finding, labels: Mapping[int, FeatureLabel]) -> dict[str, Any]:
    return {
        "features": [
            {
                "index": feature,
                "threshold": threshold,
                "words": [word for word, _ in labels[feature].words],
                "promoted": list(labels[feature].promoted),
                "suppressed": list(labels[feature].suppressed),
                "neuronpedia": labels[feature].address,
            }
            for feature, threshold in zip(finding.features, finding.thresholds, strict=True)
        ],
        "auroc": finding.auroc._asdict(),
        "together": finding.together._asdict(),
        "opposite": None if isnan(finding.opposite) else finding.opposite,
        "rival": ".".join(finding.rival).strip(".") or "neutral",
        "rival_auroc": finding.rival_auroc,
        "null_auroc": finding.null,
        "p": finding.p,
        "discovery": finding.discovery,
    }
