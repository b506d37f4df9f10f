"""The whole search on several SAEs of one model, with everything it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csc_array

from personalib.features import discovery
from personalib.features.discovery import Discovery, FeatureTexts, Pooling, Settings
from personalib.features.metrics import CrossEntropy, Reconstruction, cross_entropy, reconstruction
from personalib.features.saes import SparseAutoencoder
from personalib.features.scores import auroc
from personalib.models.activations import Activations, capture
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.stimuli.sentences import NEUTRAL, LabelledTexts

GOAL = 0.95
SPLITS = ("train", "held_out")
# What a report says on top, of its first SAE.
_FOUND = ("elements_found", "elements_total", "auroc", "null_auroc")
HEADLINES = (*_FOUND, "explained_variance", "cross_entropy_recovered", "dead_fraction", "l0")


@dataclass(frozen=True)
class ElementActivations:
    """The residual stream of a model on texts that tell elements, by split: those of the search, and others."""

    texts: Mapping[str, LabelledTexts]
    activations: Mapping[str, Activations]

    def features(self, sae: SparseAutoencoder, pooling: Pooling = "max") -> dict[str, FeatureTexts]:
        """What an SAE makes of them, by split."""
        return {
            split: FeatureTexts(self.texts[split], discovery.pool_features(sae, self.activations[split], pooling))
            for split in SPLITS
        }


def read_elements(
    language_model: LanguageModel,
    texts: Mapping[str, LabelledTexts],
    saes: Sequence[SparseAutoencoder],
    folder: Path,
    progress: str | None = None,
) -> ElementActivations:
    """Let a model read the texts of both splits at the SAEs' sites; a ValueError for SAEs of another model."""
    sites = sorted({sae.site for sae in saes})
    for sae in saes:
        sae.check_fits(language_model)
    activations = {
        split: capture(language_model, texts[split].texts, sites, folder / split, tokens="all", progress=progress)
        for split in SPLITS
    }
    return ElementActivations(dict(texts), activations)


def measure(
    language_model: LanguageModel,
    sae: SparseAutoencoder,
    documents: Sequence[str],
    folder: Path,
    progress: str | None = None,
) -> tuple[Reconstruction, CrossEntropy]:
    """How faithful an SAE is on some documents; their activations go into a folder."""
    read = capture(language_model, documents, [sae.site], folder / str(sae.site), tokens="all", progress=progress)
    entropy = cross_entropy(language_model, sae, documents, progress=progress)
    return reconstruction(sae, read.values(sae.site), progress), entropy


def faithfulness(metrics: tuple[Reconstruction, CrossEntropy]) -> dict[str, Any]:
    """The measures of an SAE as plain numbers."""
    reconstructed, entropy = metrics
    return {
        **reconstructed._asdict(),
        "cross_entropy_recovered": entropy.recovered,
        "cross_entropy_recovered_from_mean": entropy.recovered_from_mean,
        "cross_entropy": entropy._asdict(),
    }


def findings(table: pd.DataFrame) -> dict[str, Any]:
    """The rows of :meth:`~personalib.features.discovery.Discovery.table` as plain numbers, by ``factor.element``."""
    names = table["factor"] + "." + table["element"]
    reached = found(table)
    return {
        "elements_found": int(reached.sum()),
        "elements_total": len(table),
        "auroc": dict(zip(names, table["auroc"].tolist(), strict=True)),
        "null_auroc": dict(zip(names, table["null"].tolist(), strict=True)),
        "features": dict(zip(names, table["features"].tolist(), strict=True)),
        "missed": names[~reached].tolist(),
    }


def found(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which elements of :meth:`~personalib.features.discovery.Discovery.table` have a feature that reaches the goal.

    The feature has to be specific and better than chance as well; one that is not leaves ``features`` empty.
    """
    return (table["auroc"] >= GOAL) & (table["features"].str.len() > 0)


def across(discoveries: Mapping[str, Discovery]) -> pd.DataFrame:
    """For each element the row of the SAE (``sae``) that does best on the texts of the search, given all by name.

    One that found a specific feature goes before one that did not.
    """
    tables = {name: each.table() for name, each in discoveries.items()}
    rows = []
    for number, findings in enumerate(zip(*(each.findings for each in discoveries.values()), strict=True)):
        ranks = [(bool(finding.features), finding.discovery["auroc"]) for finding in findings]
        best = list(discoveries)[ranks.index(max(ranks))]
        rows.append(tables[best].iloc[[number]].assign(sae=best))
    return pd.concat(rows, ignore_index=True)


def report(
    language_model: LanguageModel,
    saes: Sequence[SparseAutoencoder],
    texts: Mapping[str, LabelledTexts],
    documents: Sequence[str],
    folder: Path,
    *,
    settings: Settings | None = None,
    pooling: Pooling = "max",
    progress: bool = False,
) -> dict[str, Any]:
    """Search all SAEs, and compare the search with a probe, single coordinates, random directions and chance.

    The first SAE is the one that ``HEADLINES`` are of; texts are by split, and the SAEs' faithfulness is measured on
    the documents. Each SAE is searched twice more, on the texts of :func:`~personalib.features.discovery.disjoint`,
    where nothing is asked about chance: of so few phrases some shuffled ones are always told without a mistake.
    """
    read = read_elements(language_model, texts, saes, folder / "elements", "texts" if progress else None)
    by_sae, discoveries, settings = {}, {}, settings or Settings()
    fewer, untested = discovery.disjoint(texts, settings.seed), replace(settings, shuffles=1, level=1.0)
    for sae in saes:
        shown = sae.name if progress else None
        by_split = read.features(sae, pooling)
        halves = {
            what: (by_split["train"].of(own["train"]), by_split["held_out"].of(own["held_out"]))
            for what, own in fewer.items()
        }
        metrics = measure(language_model, sae, documents, folder / "documents", shown)
        discoveries[sae.name] = discovery.discover(by_split["train"], by_split["held_out"], settings, shown)
        by_sae[sae.name] = {
            "sae": sae.record(),
            **faithfulness(metrics),
            **findings(discoveries[sae.name].table()),
            "shared_with_opposite": float(discovery.superposition(by_split["train"])["shared"].mean()),
            "disjoint": {what: findings(discovery.discover(*own, untested).table()) for what, own in halves.items()},
        }
    bounds = {
        str(site): baselines(read, site).groupby("baseline")["auroc"].agg(["mean", "min"]).to_dict("index")
        for site in sorted({sae.site for sae in saes})
    }
    top = {key: by_sae[saes[0].name][key] for key in HEADLINES}
    others = {"any_sae": findings(across(discoveries)), "baselines": bounds}
    return {**top, "sae": saes[0].name, "saes": by_sae, **others}


def baselines(
    read: ElementActivations,
    site: Site,
    directions: int = 512,
    seed: int = 0,
    texts: Mapping[str, LabelledTexts] | None = None,
) -> pd.DataFrame:
    """AUROC without an SAE: fitted or chosen on the texts of the search, and scored on held-out ones.

    They are all that were read, or some of these, by split. One row an element and ``baseline``: ``probe`` is a
    logistic regression on the mean over tokens, the upper bound; ``coordinate`` the best single coordinate of the
    residual stream, up or down, at its most over tokens; and ``random`` the same of so many random ``directions``.
    """
    texts = texts or read.texts
    labels = [label for label in texts["train"].classes if label != NEUTRAL]
    members = [texts[split].members(labels) for split in SPLITS]
    rows = [discovery.places(read.texts[split], texts[split]) for split in SPLITS]
    starts = [read.activations[split].offsets[:-1] for split in SPLITS]
    streams = [np.asarray(read.activations[split].values(site), dtype=float) for split in SPLITS]
    width = streams[0].shape[1]

    def extremes(axes: NDArray[np.float64]) -> list[NDArray[np.floating]]:
        """The most and, with its sign turned, the least over each text's tokens along some axes, by split."""
        ends = []
        for stream, first, kept in zip(streams, starts, rows, strict=True):
            along = stream @ axes
            ends.append(np.hstack([np.maximum.reduceat(along, first), -np.minimum.reduceat(along, first)])[kept])
        return ends

    random = np.random.default_rng([seed, 13]).standard_normal((width, directions // 2))
    random /= np.linalg.norm(random, axis=0)
    by_split = zip(streams, starts, rows, strict=True)
    means = [discovery.pooled(stream, first, "mean")[kept] for stream, first, kept in by_split]
    values = {
        "probe": _probes(means, members),
        "coordinate": _best(extremes(np.eye(width)), members),
        "random": _best(extremes(random), members),
    }
    table = [
        (*label, baseline, value) for baseline in values for label, value in zip(labels, values[baseline], strict=True)
    ]
    return pd.DataFrame(table, columns=["factor", "element", "baseline", "auroc"])


def _probes(means: list[NDArray[np.floating]], members: list[NDArray[np.bool_]]) -> list[float]:
    """Of each class the AUROC on held-out texts of a probe fitted to the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    return [
        float(roc_auc_score(later, probe.fit(means[0], own).decision_function(means[1])))
        for own, later in zip(*(each.T for each in members), strict=True)
    ]


def _best(values: list[NDArray[np.floating]], members: list[NDArray[np.bool_]]) -> list[float]:
    """Of each class the AUROC on held-out texts of the column that is best on the others."""
    # Moved above zero: ranks do not mind, and zeros would count as silence.
    train, held_out = (
        auroc(csc_array(each - each.min(0) + 1.0), own) for each, own in zip(values, members, strict=True)
    )
    return [float(row[column]) for row, column in zip(held_out, train.argmax(1), strict=True)]
