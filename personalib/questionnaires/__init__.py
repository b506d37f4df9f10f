"""What a model is asked: items, questions and their scores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "items": ["RESPONSE_ORDERS", "load_facts", "load_safety", "load_trait", "some_of_each", "validation_split"],
        "kinds": ["load_openings", "load_word_pairs"],
        "questions": ["Questionnaire", "choice_questionnaire", "trait_questionnaire"],
        "scores": [
            "POSITIONS",
            "check_read",
            "item_scores",
            "per_item",
            "positional_bias",
            "score_mass",
            "score_published",
        ],
    },
)
