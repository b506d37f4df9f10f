"""Files, hashes, intervals and figures: what knows nothing of models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["plots", "provenance", "statistics"],
    submod_attrs={
        "data": ["choose", "data_dir"],
        "markdown": ["code", "escaped"],
        "statistics": ["clustered_interval"],
        "storage": ["scratch"],
        "verdicts": ["holds"],
    },
)
