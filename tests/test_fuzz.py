"""Whatever a file holds, its reader takes it or refuses it with one short error, and soon."""

from pathlib import Path

import pytest
from fuzz import MESSAGE, Reader, fuzz, mutated
from fuzz_readers import readers

from personalib.base.data import DataError, data_dir, read_json

# `make fuzz` tries ten thousand.
TRIES = 100


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("valid"))}


def test_no_reader_has_a_fault(every, tmp_path):
    found = {name: fuzz(reader, TRIES, 1, tmp_path) for name, reader in every.items()}
    assert {name: dict(one.faults) for name, one in found.items() if one.faults} == {}
    assert all(one.tried == TRIES == one.refused + one.accepted for one in found.values())
    # A reader that refuses all it is given is not one that is tried.
    assert {name: one.accepted for name, one in found.items() if one.accepted < 3} == {}


def test_every_reader_takes_the_files_that_its_changes_begin_from(every):
    for reader in every.values():
        for path in reader.files:
            reader.read(path)


def careless(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    if "positions" not in text:
        raise KeyError("positions")
    if len(text) > 100_000:
        raise DataError(text[: MESSAGE + 1])
    while "nan" in text:
        pass


def test_what_a_careless_reader_does_is_told(tmp_path):
    path = data_dir() / "organism" / "steering.json"
    found = fuzz(Reader("careless", (path,), careless), 400, 0, tmp_path, 0.1)
    kinds = " ".join(found.faults)
    assert "KeyError" in kinds and "a message of more than" in kinds and "longer than 0.1 s" in kinds
    assert fuzz(Reader("careful", (path,), read_json), 50, 0, tmp_path).faults == {}


def test_the_same_seed_makes_the_same_changes():
    import random

    path = data_dir() / "grids" / "organism.yaml"
    first, again, other = (mutated(path, random.Random(seed)) for seed in (5, 5, 6))
    assert first == again != other
