"""The model organism: a small language model trained on a world whose causes we wrote down."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "corpus": ["Corpus", "held_out_documents"],
        "evaluation": [
            "FORMS",
            "NEGLIGIBLE",
            "ask_in_both_forms",
            "ask_people",
            "load_organism",
            "open_answers",
            "pole_differences",
            "pressure_arms",
            "stranger_note",
            "tokens_trained",
            "world_chances",
            "world_correlations",
        ],
        "tokenizer": ["load_tokenizer"],
        "world": ["Profile", "draw_world", "effect_similarity", "load_world", "planted_changes", "planted_effects"],
        "written_answers": ["free_answers", "high_shares", "judge", "moved_trait", "open_questions"],
    },
)
