"""Evaluations: plans, arms, answers, engines, effects and reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ask": ["Arm", "evaluate"],
        "engines": ["ray_engine"],
        "estimates": ["ALL", "base_scores", "effects", "health"],
        "plan": ["ArmsPlan", "load_plan"],
        "plan_models": ["plan_on"],
        "report": ["readable_effects", "reading"],
        "runs": ["run_plan"],
    },
)
