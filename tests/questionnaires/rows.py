"""Files of items for tests."""

import json

import pandas as pd


def write(path, rows):
    """The rows in the format the path's name says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        cells = pd.DataFrame(rows).map(lambda cell: json.dumps(cell) if isinstance(cell, list) else cell)
        cells.to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def without(row, *fields):
    return {key: value for key, value in row.items() if key not in fields}
