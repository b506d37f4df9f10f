"""Calibration: whether what a reader is sure of is right as often as it says."""

import numpy as np
import pandas as pd

from personalib.base.statistics import clustered_interval
from personalib.vectors.contrast import PairActivations
from personalib.vectors.readings import Reader


def judged(reader: Reader, read: PairActivations) -> pd.DataFrame:
    """What a reader says of each text.

    Returns:
        One row a text: ``contrast``, ``phrase``, ``probability`` of the positive pole, and ``positive``, whether it is.
    """
    chances = [reader.probability(each) for each in read.at(reader.vector.site)]
    return pd.DataFrame(
        {
            "contrast": read.name,
            "phrase": np.concatenate(list(read.phrases.T)),
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
        ``high`` (an interval over phrases; NaN where there is one phrase alone), and the numbers of ``texts`` and
        ``phrases``.

    Raises:
        ValueError: there is no text.
    """
    if texts.empty:
        raise ValueError("there is no text to judge by; pass the rows of judged()")
    places = np.minimum((texts["probability"] * bins).astype(int), bins - 1)
    rows = []
    for _, own in texts.groupby(places):
        phrases = own["contrast"] + ": " + own["phrase"]
        share = clustered_interval(own["positive"].astype(float), phrases)
        rows.append([own["probability"].mean(), *share, len(own), phrases.nunique()])
    return pd.DataFrame(rows, columns=["probability", "share", "low", "high", "texts", "phrases"])
