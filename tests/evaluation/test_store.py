"""Answers on disk are whole files, found by their keys, whatever kills their writer."""

import multiprocessing
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personalib.base.data import DataError
from personalib.base.provenance import digest
from personalib.evaluation.store import AnswerStore, Reply, parquet

FIRST = {"a": Reply((0.25, 1 / 3)), "b": Reply((5e-324, 1.0))}
SECOND = {"c": Reply(text="Ånd\n“yes”"), "d": Reply(text="")}


@pytest.fixture
def store(tmp_path):
    found = AnswerStore(tmp_path / "parts")
    with found.writing():
        found.add(FIRST)
    return found


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def stop(*_):
    """What stands for a kill: unlike an error it is caught by nobody."""
    raise KeyboardInterrupt


def hold(folder, waiting):
    """Has the folder to itself until it is killed."""
    with AnswerStore(folder).writing():
        waiting.set()
        signal.pause()


@pytest.fixture
def holder(store):
    """Another process that writes to the folder."""
    context = multiprocessing.get_context("fork")
    waiting = context.Event()
    process = context.Process(target=hold, args=(store.folder, waiting))
    process.start()
    assert waiting.wait(60)
    yield process
    process.kill()
    process.join()


# What is kept


def test_answers_come_back_as_they_were_to_the_last_bit(store):
    with store.writing():
        store.add(SECOND)
    assert AnswerStore(store.folder).replies() == FIRST | SECOND


def test_a_folder_that_is_not_there_has_no_answers_and_is_not_made(tmp_path):
    assert AnswerStore(tmp_path / "none").replies() == {}
    assert not (tmp_path / "none").exists()


def test_the_same_answers_are_the_same_file(store, tmp_path):
    other = AnswerStore(tmp_path / "other")
    with other.writing():
        other.add(FIRST)
    assert names(other) == names(store) and len(names(store)) == 1
    [one] = store.folder.glob("*.parquet")
    assert one.read_bytes() == (other.folder / one.name).read_bytes()


def test_other_keys_are_another_file_beside_the_first(store):
    before = {path: path.read_bytes() for path in store.folder.glob("*.parquet")}
    with store.writing():
        store.add({"a2": FIRST["a"], "b": FIRST["b"]})
    assert len(list(store.folder.glob("*.parquet"))) == 2
    assert all(path.read_bytes() == content for path, content in before.items())


def test_lists_of_texts_that_run_together_alike_have_different_hashes():
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("abc", ""), ("", "abc"), ("c", "ab"), ()]
    assert len({digest(*one) for one in lists}) == len(lists)
    assert digest("Ånd") == digest("Ånd".encode()) and len(digest("a")) == 32


# What a kill leaves


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_writer_that_is_stopped_within_a_file_loses_that_file_alone(store, monkeypatch, moment):
    with monkeypatch.context() as patch, store.writing():
        patch.setattr(moment, stop)
        with pytest.raises(KeyboardInterrupt):
            store.add(SECOND)
    assert len(names(store)) == 1 and store.replies() == FIRST
    # What SIGKILL leaves.
    (store.folder / "killed.parquet.partial").write_bytes(b"half")
    with store.writing():
        assert not list(store.folder.glob("*.partial"))
        store.add(SECOND)
    assert store.replies() == FIRST | SECOND and len(names(store)) == 2


# What is damaged


def test_no_flipped_bit_is_served_as_an_answer(tmp_path, caplog):
    """Every damaged file is asked anew; the others stay as they are."""
    rng, store = np.random.default_rng(0), AnswerStore(tmp_path)
    known = {f"{n:032x}": Reply(tuple(rng.random(4)), "yes" if n % 2 else None) for n in range(200)}
    with store.writing():
        store.add(known)
        store.add(FIRST)
    path = max(tmp_path.glob("*.parquet"), key=lambda one: one.stat().st_size)
    content = path.read_bytes()
    for place in rng.choice(8 * len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert store.replies() == FIRST and store.keys() == FIRST.keys()
    assert f"{path}: damaged, or not of this version; its answers are asked anew" in caplog.text
    with store.writing():
        store.add(known)
    assert store.replies() == FIRST | known and len(names(store)) == 2, "the same answers are the same file"


def test_pages_have_checksums(tmp_path):
    """So that other tools notice damage too."""
    content = parquet(pa.table({"x": np.random.default_rng(0).random(1000)}))
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(pa.BufferReader(bytes(damaged)), page_checksum_verification=True)


@pytest.mark.parametrize("length", [0, 3, 200, -1])
def test_a_truncated_file_holds_no_answers(store, caplog, length):
    [path] = store.folder.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:length])
    assert store.replies() == {} and str(path) in caplog.text


def test_a_file_of_something_else_holds_no_answers(store, caplog):
    pq.write_table(pa.table({"key": ["a"], "text": ["t"]}), store.folder / "else.parquet")
    assert store.replies() == FIRST and "else.parquet" in caplog.text


def test_a_missing_answer_is_known_and_comes_back_as_missing(store):
    with store.writing():
        store.add({"c": Reply((np.nan, 0.5))})
    assert store.keys() == {*FIRST, "c"}
    np.testing.assert_array_equal(store.replies()["c"].values, [np.nan, 0.5])


# Who may write


def test_a_second_process_is_refused_and_may_read(store, holder):
    second = AnswerStore(store.folder)
    refused = pytest.raises(DataError, match="parts: another process is evaluating here; wait for its end")
    with refused, second.writing():
        pytest.fail("two write to one folder")
    assert second.replies() == FIRST


def test_a_refused_process_does_not_remove_what_the_first_one_is_writing(store, holder):
    partial = store.folder / "0123.parquet.partial"
    partial.write_text("half")
    with pytest.raises(DataError), store.writing():
        pass
    assert partial.read_text() == "half"
