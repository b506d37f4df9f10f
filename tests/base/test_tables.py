import csv
import io

import numpy as np
import pandas as pd
import pytest

from personalib.base.markdown import escaped
from personalib.base.tables import to_csv, to_latex, to_markdown

HOSTILE = "<script>x</script> | ```{include} a.txt\n``` $y_1$ & 5 % #1 ~ \\input{a}"
FRAME = pd.DataFrame(
    {"category": [HOSTILE, "low mood", None], "effect": [1.234, np.nan, -0.5], "cell": ["+1.0 [-0.2, 2.0]*", "x", "-"]}
)


def test_markdown_shows_foreign_text_in_one_cell_and_numbers_as_they_are():
    lines = to_markdown(FRAME.rename(columns={"cell": "<b>"})).splitlines()
    assert len(lines) == 5 and all(line.startswith("| ") for line in (lines[0], *lines[2:]))
    assert r"\<script\>" in lines[2] and " <script" not in lines[2] and r"\`\`\`\{include\}" in lines[2]
    assert lines[0].split("|")[3].strip() == r"\<b\>"
    assert lines[2].endswith("|     1.23 | +1.0 [-0.2, 2.0]* |")
    assert [part.strip() for part in lines[3].split("|")] == ["", "low mood", "", "x", ""]


@pytest.mark.parametrize("text", ["[1](2)", "**e**", "1 [2](3)", "(1)(2)", "e", "[1]", "1*2*3"])
def test_what_only_looks_like_a_number_is_foreign_text(text):
    assert to_markdown(pd.DataFrame({"a": [text]})).splitlines()[2].strip("| ") == escaped(text)


@pytest.mark.parametrize(
    "text", ["+0.40", "-1", "1,234", "1.5e-3", "12.5%", "(+1.0 [-0.2, 2.0]*)", "+1.0 [-0.2, +2.0]"]
)
def test_numbers_stand_as_they_are(text):
    assert to_markdown(pd.DataFrame({"a": [text]})).splitlines()[2].strip("| ") == text


def test_latex_shows_foreign_text_in_one_row():
    rows = to_latex(FRAME).splitlines()
    [row] = [one for one in rows if "script" in one]
    assert row.endswith(r"& 1.23 & +1.0 [-0.2, 2.0]* \\")
    assert r"\$y\_1\$ \& 5 \% \#1" in row and r"\input" not in row


@pytest.mark.parametrize(
    "formula", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(1)\n"]
)
def test_a_spreadsheet_runs_no_cell(formula):
    table = pd.DataFrame(
        {formula: [-1.5, 2.0], "text": [formula, "plain"], "number": ["-1.5", "+2"]}, index=[formula, "a"]
    )
    table["kind"] = pd.Categorical([formula, "b"])
    read = list(csv.reader(io.StringIO(to_csv(table, index=True), newline="")))
    safe = f"'{formula}".replace("\r", "\n")
    assert read == [
        ["", safe, "text", "number", "kind"],
        [safe, "-1.5", safe, "-1.5", safe],
        ["a", "2.0", "plain", "+2", "b"],
    ]


def test_harmless_tables_are_written_as_ever():
    table = pd.DataFrame({"name": ["a", "b-c"], 3: [1, 2], 4: ["a", "b"], "at": [None, "x=1"], "flag": [True, False]})
    assert to_csv(table) == table.to_csv(index=False)


def test_columns_are_told_apart_by_more_than_their_text():
    table = pd.DataFrame({1: ["=a", "b"], "1": [1, 2]})
    assert to_csv(table) == "1,1\n'=a,1\nb,2\n"
