"""What a verdict asks of an interval."""

from types import SimpleNamespace

import pandas as pd
import pytest

from personalib.base import holds
from personalib.base.statistics import Interval

NAN = float("nan")


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((0.1, 0.4), True, False),
        ((-0.4, -0.1), False, True),
        ((-0.1, 0.4), False, False),
        ((0.0, 0.4), False, False),
        ((-0.4, 0.0), False, False),
        ((NAN, 0.4), False, False),
        ((-0.4, NAN), False, False),
        ((0.1, NAN), False, False),
        ((NAN, -0.1), False, False),
        ((NAN, NAN), False, False),
    ],
)
def test_an_interval_holds_where_both_bounds_are_beyond_the_value(interval, above, below):
    assert holds(interval) is above
    assert holds(interval, below=True) is below
    shifted = tuple(bound + 5 for bound in interval)
    assert holds(shifted, than=5) is above
    assert holds(shifted, than=5, below=True) is below


def test_whatever_has_bounds_is_an_interval():
    estimate = Interval(0.2, 0.1, 0.3)
    table = pd.DataFrame([estimate._asdict()])
    for interval in (estimate, SimpleNamespace(low=0.1, high=0.3), table.iloc[0], next(table.itertuples())):
        assert holds(interval) is True


@pytest.mark.parametrize("wrong", [0.3, (0.1,), (0.2, 0.1, 0.3), "up"])
def test_what_has_no_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pass \(low, high\)"):
        holds(wrong)
