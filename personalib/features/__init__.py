"""Features of sparse autoencoders: loading, discovery, labels and training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "baseline": ["baselines"],
        "discovery": ["Settings", "discover"],
        "labels": ["label_features", "token_activations", "word_firings"],
        "metrics": ["CrossEntropy", "cross_entropy", "reconstruction"],
        "overlap": ["confusion", "shared_share", "superposition"],
        "own_saes": ["usual_saes"],
        "patterns": ["as_pattern", "fixed_features", "generated_features"],
        "published": ["published_features", "sae_features"],
        "pursuit": ["sparse_reconstruction"],
        "report": ["GOAL", "SPLITS", "across", "found", "measure", "read_elements"],
        "saes": ["load_sae"],
        "scores": ["CRITERIA", "auroc", "bootstrap_auroc", "score_features"],
        "vectors": ["feature_vector", "pole_vector", "prompt_features"],
        "view": ["FeatureCard", "examples", "feature_view"],
    },
)
