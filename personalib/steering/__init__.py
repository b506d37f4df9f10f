"""Steering: interventions, doses and guards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "application": ["steer"],
        "doses": ["at_dose", "combined", "random_directions", "site_norms"],
        "generation": ["generate"],
        "grid": ["ask_steered"],
        "interventions": ["Ablate", "Add", "Clamp", "POSITIONS", "repe_rule", "repository_rule", "sae_rule"],
        "settings": ["Guard"],
    },
)
