"""Evaluations: arms, answers, effects, the choice of a push, plans, engines and reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agreement": [
            "cells",
            "cluster",
            "correlations",
            "dealt",
            "random_correlation",
            "rank_ceiling",
            "sound",
            "standing_for",
            "truth_correlation",
            "truth_difference",
            "wrong_correlation",
        ],
        "arms": ["Arm", "Push", "prompted_arms", "random_arms"],
        "ask": ["evaluate", "prompts"],
        "choice": ["choose_push", "facts_lost", "load_push", "matched_push"],
        "contrast_report": ["READING_GOAL", "by_method", "nulls"],
        "engines": ["ray_engine"],
        "estimates": ["ALL", "base_scores", "effects", "health", "item_effects"],
        "plan": ["ArmsPlan", "load_plan"],
        "report": ["readable_effects", "reading"],
        "runs": ["plan_on", "run_plan"],
        "shares": [
            "at_equal_cost",
            "costs",
            "dose_lines",
            "fidelity",
            "fidelity_interval",
            "gains",
            "known_shares",
            "share_left",
            "specificity",
        ],
        "study": ["Study", "prompted_effects", "searched_vectors"],
        "study_report": ["STEERING_GOAL"],
    },
)
