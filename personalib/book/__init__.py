"""The book: chapters, runs, editions, sweeps and pages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"editions": ["probe"]})
