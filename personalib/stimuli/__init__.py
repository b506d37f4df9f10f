"""What a model is told: factors, templates, contrast pairs, drawn persons and their stories."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["grammar"],
    submod_attrs={
        "assignments": ["LifeStory", "PARTS", "WORDS", "contradictions", "load_giveaways"],
        "backgrounds": ["Background", "coverage", "draw_backgrounds", "joint_coverage", "load_constraints"],
        "contrast_pairs": ["FAMILIES", "Wording", "contrast_set", "contrasts", "labelled_texts"],
        "factors": ["POLES", "TRAITS", "check_background", "elements", "inflect", "load_factors", "load_pressures"],
        "grammar": ["SPLITS", "element_phrasings", "load_asides", "words"],
        "grammar_writer": ["GrammarWriter"],
        "paper_files": ["publish", "with_story"],
        "sentences": ["LabelledTexts", "NEUTRAL", "element_texts"],
        "contrast_files": ["supplied_contrasts"],
        "templates": ["ORDERS", "load_templates"],
    },
)
