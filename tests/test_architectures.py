"""Some of every kind of architecture; ``make architectures`` tries all of them."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from architectures import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, tried

TABLE = Path(__file__).parents[1] / "book" / "architectures.csv"
# Plain attention, windows, learned and relative positions, experts, states, and mixtures of them.
SAMPLE = [
    *("llama", "gemma3_text", "cohere2", "opt", "bloom", "mpt", "mixtral", "gpt_oss", "deepseek_v3"),
    *("mamba", "rwkv", "qwen3_5_text", "jamba", "recurrent_gemma", "gemma3n_text", "bart", "bert"),
]


def rows():
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["architecture"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_model_gives_what_it_gives_by_hand_or_is_refused(kind):
    found = tried(kind)
    assert found.outcome == rows()[kind]["outcome"] and found.outcome != "fails", found


def test_the_table_of_the_book_has_every_architecture_and_no_fault():
    assert sorted(rows()) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {row["outcome"] for row in rows().values()} == {"agrees", "refused", "not tried"}
    assert all(row["why"] for row in rows().values() if row["outcome"] != "agrees")


def test_the_page_begins_with_what_the_table_says():
    found = Counter(row["outcome"] for row in rows().values())
    page = (TABLE.parent / "models.md").read_text()
    told = re.search(r"Of the (\d+) .*, (\d+) agree .*, (\d+) are refused .*, and (\d+) could not be tried", page)
    assert told.groups() == tuple(map(str, (found.total(), found["agrees"], found["refused"], found["not tried"])))
