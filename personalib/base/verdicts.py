"""Verdicts: the rules by which a chapter says that a result holds."""

from typing import Any


def holds(interval: Any, than: float = 0.0, *, below: bool = False) -> bool:
    """Whether a whole interval lies above a value, or with ``below`` under it.

    The rule: both bounds are strictly beyond the value. A bound that is NaN, as of an interval from a single item, is
    beyond nothing: such a result never holds.

    Args:
        interval: an :class:`~personalib.base.intervals.Interval`, whatever else has ``low`` and ``high``, such as a
            table's row, or a pair of the two; in the unit of ``than``.
        than: the value that the interval must exceed, or stay below.
        below: ask for an interval below the value.

    Raises:
        ValueError: the interval has no two bounds.

    Example:
        >>> holds((0.1, 0.4)), holds((-0.1, 0.4)), holds((0.1, 0.4), than=0.5, below=True)
        (True, False, True)
    """
    try:
        low, high = map(float, (interval.low, interval.high) if hasattr(interval, "low") else interval)
    except (TypeError, ValueError):
        raise ValueError(f"{interval!r} is no interval; pass (low, high), or what has both as attributes") from None
    return (low < than and high < than) if below else (low > than and high > than)
