"""Reports of studies: pushes chosen on some items, measured on others, and compared with truth and controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from personalib.base.storage import for_json
from personalib.evaluation.agreement import NAMES, correlations, rank_ceiling
from personalib.evaluation.arms import PROMPT, Arm, Vectors, prompted_arms, random_arms
from personalib.evaluation.ask import evaluate
from personalib.evaluation.choice import PushChoice, choose_push
from personalib.evaluation.estimates import ALL, effects
from personalib.evaluation.study import Study, searched_vectors
from personalib.features.saes import SparseAutoencoder
from personalib.questionnaires.questions import Questionnaire
from personalib.steering.settings import Guard, Positions

STEERING_GOAL = 0.80


def report(  # noqa: PLR0913 - each argument is one choice in what is reported
    study: Study,
    questionnaire: Questionnaire,
    saes: Mapping[str, SparseAutoencoder],
    folder: Path,
    *,
    positions: Sequence[Positions] = ("last", "prompt", "prompt_except_last"),
    doses: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    guard: Guard | None = None,
    randoms: int = 22,
    truth: pd.DataFrame | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The effects of SAE features, contrast vectors, words and random directions on items that chose nothing.

    Positions and doses are chosen with the study's questionnaire, and effects measured with the other one. The sites of
    the SAEs have to be among the study's, and random directions are pushed as the contrast vectors are. The truth has
    ``key``, ``pole``, ``group`` and ``truth``, where the planted effects are known. An SAE of another site, or a vector
    that collapses under every push, is a ValueError.

    Returns:
        A value that JSON can hold, and the rows of :func:`~personalib.evaluation.estimates.effects`.
        ``truth_correlation`` is Spearman's with the planted effects, which cannot exceed ``ceiling``, since many of
        these are the same. Beside it stands ``told_correlation``, with the effects of saying it, measured on the same
        items: what chance does to an item is in both, so it is a little high.
    """
    for sae in saes.values():
        if sae.site not in study.norms:
            known = ", ".join(map(str, study.norms))
            raise ValueError(f"{sae.name} reads {sae.site}, and the study {known}; let it read that site, too")
    sources = _sources(study, saes, folder)
    chosen = {
        method: choose_push(study, own, positions=positions, doses=doses, guard=guard, progress=method)
        for method, own in sources.items()
    }
    arms: list[Arm] = []
    for method, choice in chosen.items():
        arms += choice.push.arms(method, sources[method][choice.source], study.poles)
    arms += prompted_arms(study.contrasts, "held_out", study.poles)
    first = next(iter(sources["repe"][chosen["repe"].source].values()))
    arms += random_arms(chosen["repe"].push, first, randoms, seed)
    answers = evaluate(study.language_model, questionnaire, arms, form=study.form, seed=seed, progress="answers")
    measured = effects(answers, guard=guard)
    measured = measured[measured["group"] != ALL].reset_index(drop=True)
    items = len({question.item for question in questionnaire.questions})
    return _summary(study, chosen, measured, truth, seed) | {"items": items}, measured


def _sources(study: Study, saes: Mapping[str, SparseAutoencoder], folder: Path) -> dict[str, Mapping[str, Vectors]]:
    """By method the families of vectors that a push is chosen from."""
    sources: dict[str, Mapping[str, Vectors]] = {
        "repe": {str(site): study.contrast_vectors(site) for site in study.norms}
    }
    if saes:
        sources["sae"] = {name: study.prompt_feature_vectors(sae) for name, sae in saes.items()}
    if saes and study.contrasts[0].family == "elements":
        sources["sae_sentences"] = {name: searched_vectors(study, sae, folder) for name, sae in saes.items()}
    return sources


def _summary(
    study: Study, chosen: Mapping[str, PushChoice], measured: pd.DataFrame, truth: pd.DataFrame | None, seed: int
) -> dict[str, Any]:
    """The report as plain values."""
    by_method = measured.groupby("method", sort=False)
    said = measured.loc[measured["method"] == PROMPT, [*NAMES, "effect"]].rename(columns={"effect": "truth"})
    # Telling is what the others are compared with here, and agrees with itself.
    steering = {"told": correlations(measured[measured["method"] != PROMPT], said, seed), "truth": {}}
    if truth is not None:
        truth = truth[truth["key"].isin(study.readings)]
        steering["truth"] = correlations(measured, truth, seed)
    found: dict[str, Any] = {"family": study.contrasts[0].family, "keys": len(study.contrasts)}
    found["ceiling"] = None if truth is None else rank_ceiling(truth)
    for name, own in steering.items():
        found[f"{name}_correlation"] = {method: one.estimate for method, one in own.items()} or None
        found[f"{name}_interval"] = {method: [one.low, one.high] for method, one in own.items()} or None
    found["significant"] = (measured["p_fdr"] < 0.05).groupby(measured["method"], sort=False).mean().to_dict()
    found["collapsed"] = by_method["collapsed"].mean().to_dict()
    found["mass"] = by_method["mass"].min().to_dict()
    found["perplexity"] = {method: rows["perplexity"].max(skipna=False) for method, rows in by_method}
    found["push"] = {
        method: {"source": choice.source, "positions": choice.push.positions, "dose": choice.push.dose}
        for method, choice in chosen.items()
    }
    return for_json(found)
