"""The paper: its published numbers, its protocol, and what of it is reproduced."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["audit", "tables"],
    submod_attrs={"deviations": ["Manner"], "protocol": ["load_protocol"], "tables": ["SAFETY_CATEGORIES", "TRAITS"]},
)
