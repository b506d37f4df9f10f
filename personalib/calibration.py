"""Calibration: whether what a reader is sure of is right as often as it says."""

import numpy as np
import pandas as pd

from personalib.contrast import PairActivations
from personalib.readings import Reader
from personalib.statistics import proportion_interval


def judged(reader: Reader, read: PairActivations) -> pd.DataFrame:
    """What a reader says of each text.

    Returns:
        One row a text: ``contrast``, ``probability`` of the positive pole, and ``positive``, whether it is.
    """
    chances = [reader.probability(each[reader.vector.site]) for each in (read.positive, read.negative)]
    return pd.DataFrame(
        {
            "contrast": read.name,
            "probability": np.concatenate(chances),
            "positive": np.repeat([True, False], len(read.pairs)),
        }
    )


def reliability(texts: pd.DataFrame, bins: int = 5) -> pd.DataFrame:
    """How often texts of about the same probability are of the positive pole.

    Args:
        texts: rows of :func:`judged`.
        bins: stretches of the probability, of equal width.

    Returns:
        One row a stretch that holds a text: ``probability`` (its mean), ``share`` of positive texts with ``low`` and
        ``high`` (Wilson's interval, as if texts were independent), and ``texts``, their number.

    Raises:
        ValueError: there is no text.
    """
    if texts.empty:
        raise ValueError("there is no text to judge by; pass the rows of judged()")
    places = np.minimum((texts["probability"] * bins).astype(int), bins - 1)
    rows = []
    for _, own in texts.groupby(places):
        share = proportion_interval(int(own["positive"].sum()), len(own))
        rows.append([own["probability"].mean(), *share, len(own)])
    return pd.DataFrame(rows, columns=["probability", "share", "low", "high", "texts"])
