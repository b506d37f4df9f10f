"""Files, hashes, intervals and figures: what knows nothing of models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["plots", "provenance", "statistics"],
    submod_attrs={
        "data": ["choose", "data_dir"],
        "intervals": ["clustered_interval", "holds"],
        "markdown": ["code", "escaped"],
        "storage": ["scratch"],
    },
)
