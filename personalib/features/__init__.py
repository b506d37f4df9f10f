"""Features of sparse autoencoders: loading, discovery, labels and training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "discovery": ["Settings", "confusion", "discover", "disjoint", "superposition"],
        "labels": ["label_features", "token_activations", "word_firings"],
        "metrics": ["CrossEntropy", "cross_entropy", "reconstruction"],
        "patterns": ["as_pattern", "fixed_features", "generated_features"],
        "published": ["published_features", "sae_features"],
        "report": ["GOAL", "SPLITS", "across", "baselines", "found", "measure", "read_elements"],
        "saes": ["load_sae", "usual_saes"],
        "scores": ["CRITERIA", "auroc", "bootstrap_auroc", "score_features"],
        "vectors": ["feature_vector", "pole_vector", "prompt_features", "sparse_reconstruction"],
        "view": ["FeatureCard", "examples", "feature_view"],
    },
)
