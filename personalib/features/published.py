"""The SAE features that the paper publishes for elements of a background."""

from collections.abc import Mapping

import pandas as pd

from personalib.base.data import DataError, data_dir
from personalib.stimuli.paper_files import element_named


def bare_name(model: str) -> str:
    """A model's name as the tables have it: ``gemma-2b-it`` without its owner, or the folder that it lies in."""
    return model.rstrip("/").rpartition("/")[2]


def sae_features() -> pd.DataFrame:
    """The SAE features of every background element on both models, one row a feature."""
    return read_table("sae_features.csv", {"model": str, "element": str, "layer": int, "feature_index": int})


def published_features(model: str) -> dict[str, list[int]]:
    """The SAE features that the paper sums for each element, by key such as ``"gender.female"``.

    The model's name is with or without its owner; one of which the paper has no features is a ValueError.
    """
    table = sae_features()
    own = table[table["model"] == bare_name(model)]
    if own.empty:
        raise ValueError(f"{model}: the paper has features for {', '.join(table['model'].unique())} alone")
    features: dict[str, list[int]] = {}
    for row in own.itertuples():
        if element := element_named(str(row.factor), str(row.element)):
            features.setdefault(f"{element.factor}.{element.key}", []).append(int(str(row.feature_index)))
    return features


def read_table(name: str, columns: Mapping[str, type]) -> pd.DataFrame:
    """A table of ``data/reference``; a DataError if it or a column is missing, or a value is of another type."""
    path = data_dir() / "reference" / name
    try:
        table = pd.read_csv(path, dtype=dict(columns), keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; restore it from the repository") from None
    except ValueError as error:
        raise DataError(f"{path}: not the table it should be: {error}") from None
    missing = sorted(set(columns) - set(table))
    if missing:
        raise DataError(f"{path}: the column {missing[0]!r} is missing; restore the file from the repository")
    return table
