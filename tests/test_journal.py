"""A journal holds what was added, as whole entries, whatever kills its writer."""

import errno
import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from personalib.data import DataError
from personalib.journal import Journal


def test_entries_come_back_in_order(tmp_path):
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    assert journal.entries == []
    for number in range(3):
        journal.add({"number": number, "text": "Ånd\n\ud800"})
    journal.close()
    assert Journal(path).entries == journal.entries == [{"number": n, "text": "Ånd\n\ud800"} for n in range(3)]
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(("rest", "kept"), [('{"number": 1', [0, 2]), ("x", [0, 2]), ('{"number": 1}', [0, 1, 2])])
def test_an_unfinished_last_line_is_dropped_and_a_finished_one_is_kept(tmp_path, rest, kept):
    path = tmp_path / "a.jsonl"
    path.write_text('{"number": 0}\n' + rest)
    journal = Journal(path)
    journal.add({"number": 2})
    journal.close()
    assert [entry["number"] for entry in Journal(path).entries] == kept


@pytest.mark.parametrize("line", ["{broken", "[1]", "3"])
def test_a_spoilt_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"number": 0}}\n{line}\n{{"number": 1}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not a JSON object"):
        Journal(path)


def test_threads_do_not_mix_their_entries(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: journal.add({"number": number, "text": "x" * 5000}), range(60)))
    journal.close()
    assert sorted(entry["number"] for entry in Journal(journal.path).entries) == list(range(60))


def test_a_cleared_journal_is_empty_and_can_be_written(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    journal.add({"number": 0})
    journal.clear()
    journal.add({"number": 1})
    journal.close()
    assert Journal(journal.path).entries == journal.entries == [{"number": 1}]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="another process is writing to it"):
        Journal(journal.path)
    journal.close()
    Journal(journal.path).add({})


def test_a_place_that_cannot_be_written_to_is_found_before_any_work(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be written: No such file or directory"):
        Journal(tmp_path / "missing" / "a.jsonl")


def test_a_full_disk_is_one_error_and_spoils_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "a.jsonl")
    journal.add({"number": 0})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        journal.add({"number": 1})
    monkeypatch.undo()
    journal.add({"number": 2})
    journal.close()
    assert Journal(journal.path).entries == journal.entries == [{"number": 0}, {"number": 2}]


def _write_forever(path):
    journal = Journal(path)
    while True:
        journal.add({"number": len(journal.entries), "text": "x" * 20_000})


def test_a_kill_leaves_whole_entries(tmp_path):
    path = tmp_path / "a.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_write_forever, args=(path,))
    process.start()
    deadline = time.monotonic() + 60
    while (not path.exists() or path.stat().st_size < 200_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    entries = Journal(path).entries
    assert len(entries) >= 9 and [entry["number"] for entry in entries] == list(range(len(entries)))
    assert all(json.loads(line) for line in path.read_text().splitlines())
