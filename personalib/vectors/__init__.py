"""Steering vectors: contrast vectors, readings, geometry and file formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["geometry"],
    submod_attrs={
        "contrast": ["POSITIONS", "all_sites", "fit_vector", "prompts", "read_contrasts", "read_pairs", "spread"],
        "files": ["read_directions", "write_directions"],
        "methods": ["METHODS"],
        "readings": ["fit_reader", "judged", "layer_scan", "reliability", "validation_accuracy"],
        "tokens": ["Line", "read_tokens", "token_view"],
        "vector": ["SteeringVector", "load_vectors", "save_vectors"],
    },
)
