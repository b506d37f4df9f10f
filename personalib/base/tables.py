"""Tables in files: as Markdown, as LaTeX, and as CSV that a spreadsheet does not run."""

import re
from typing import Any

import pandas as pd

from personalib.base.markdown import escaped

# a number, with its interval, a star, or in brackets
_NUMBERS = re.compile(r"\(?[-+]?\d[-+\d.,e%]*( \[[-+\d., ]+\])?\*?\)?")
# what a spreadsheet takes for the beginning of a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def to_markdown(table: pd.DataFrame) -> str:
    r"""A table in Markdown without its index.

    Numbers have two decimals, foreign text is shown as it is, and nothing where a value is missing.

    Example:
        >>> print(to_markdown(pd.DataFrame({"name": ["<b>"], "effect": [0.5]})), end="")
        | name   |   effect |
        |:-------|---------:|
        | \<b\>  |     0.50 |
    """
    words = [place for place, name in enumerate(table) if not pd.api.types.is_float_dtype(table[name])]
    # tabulate takes what looks like a number for one, and "+0.40" would lose its sign.
    shown = table.map(_cell).astype(object).where(table.notna(), None).rename(columns=_cell)
    return str(shown.to_markdown(index=False, floatfmt=".2f", missingval="", disable_numparse=words)) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """A table in LaTeX without its index, as :func:`to_markdown` has it."""
    style = table.map(_line).rename(columns=_line).style.hide(axis="index")
    style = style.format(precision=2, na_rep="", escape="latex")
    return str(style.format_index(axis=1, escape="latex").to_latex(hrules=True))


def to_csv(table: pd.DataFrame, *, index: bool = False) -> str:
    """A table as CSV, where texts that a spreadsheet would take for a formula begin with an apostrophe."""
    texts = [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    table = table.copy()
    for name in texts:
        table[name] = table[name].map(_inert)
    renamed = table.rename(columns=_inert)
    return str((renamed.rename(index=_inert) if index else renamed).to_csv(index=index))


def _cell(value: Any) -> Any:
    return escaped(value) if isinstance(value, str) and not _NUMBERS.fullmatch(value) else value


def _line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # pandas does not quote a text for a lone return
    if not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
