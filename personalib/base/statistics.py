"""Statistics: how sure a number is, whether two numbers differ, and what many comparisons cost."""

from personalib.base.comparisons import Difference as Difference
from personalib.base.comparisons import adjust as adjust
from personalib.base.comparisons import effect_size as effect_size
from personalib.base.comparisons import paired_difference as paired_difference
from personalib.base.comparisons import paired_means as paired_means
from personalib.base.correlations import clustered_rank_correlation as clustered_rank_correlation
from personalib.base.correlations import correlation_interval as correlation_interval
from personalib.base.correlations import mantel as mantel
from personalib.base.intervals import Array as Array
from personalib.base.intervals import Interval as Interval
from personalib.base.intervals import bootstrap_interval as bootstrap_interval
from personalib.base.intervals import clustered_interval as clustered_interval
from personalib.base.intervals import expanded_bounds as expanded_bounds
from personalib.base.intervals import proportion_interval as proportion_interval
