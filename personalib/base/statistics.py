"""Statistics: how sure a number is, whether two numbers differ, and what many comparisons cost."""

from personalib.base.comparisons import (
    Difference,
    EffectSizes,
    PairedMeans,
    adjust,
    effect_size,
    paired_difference,
    paired_means,
)
from personalib.base.correlations import (
    clustered_rank_correlation,
    correlation_interval,
    mantel,
)
from personalib.base.intervals import (
    Array,
    Interval,
    bootstrap_interval,
    clustered_interval,
    expanded_bounds,
    proportion_interval,
)

__all__ = [
    "Array",
    "Difference",
    "EffectSizes",
    "Interval",
    "PairedMeans",
    "adjust",
    "bootstrap_interval",
    "clustered_interval",
    "clustered_rank_correlation",
    "correlation_interval",
    "effect_size",
    "expanded_bounds",
    "mantel",
    "paired_difference",
    "paired_means",
    "proportion_interval",
]
