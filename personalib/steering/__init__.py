"""Steering: interventions, doses, guards, and the choice of a push."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "application": ["steer"],
        "choice": ["choose_push", "told_effects"],
        "contrast_choice": ["Rule", "TraitSheet", "choose", "fidelity", "load_setting", "measured_effects"],
        "contrast_report": ["READING_GOAL", "by_method", "nulls"],
        "controls": ["dealt", "random_directions"],
        "doses": ["at_dose", "combined", "largest_dose", "site_norms"],
        "effects": [
            "Arm",
            "cluster",
            "measure",
            "random_arms",
            "rank_ceiling",
            "sound",
            "told_arms",
            "truth_correlation",
            "truth_difference",
        ],
        "generation": ["generate"],
        "grid": ["ask_steered"],
        "guards": ["Guard"],
        "interventions": ["Ablate", "Add", "Clamp", "POSITIONS", "repe_rule", "repository_rule", "sae_rule"],
        "remote_items": ["ask_items"],
        "study": ["STEERING_GOAL", "Study", "correlations", "sentence_feature_vectors"],
        "tables": ["dose_lines", "fidelity_interval", "known_shares", "share_left", "standing_for"],
        "trade_offs": ["at_equal_cost", "costs", "gains"],
    },
)
