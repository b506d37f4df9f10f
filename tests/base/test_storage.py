"""Files are there as a whole, locks have one holder, and journals hold whole entries, whatever ends their writer."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import numpy as np
import pytest
from filelock import lock_descriptor
from safetensors.numpy import load_file, save_file

from personalib.base import storage
from personalib.base.data import DataError, read_json
from personalib.base.storage import Journal, alone, held, reserve, whole, write_json, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Files


def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with suppress(ZeroDivisionError), whole(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]
    write_whole(path, "n\u00e9w")
    assert path.read_bytes() == "n\u00e9w".encode() and names(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_written_over_and_a_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "a.txt.partial").write_text("much longer than what comes")
    (tmp_path / "b.txt").touch()
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and names(tmp_path) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_writer_that_replaces_the_file_it_is_given_leaves_nothing(tmp_path):
    with suppress(ZeroDivisionError), whole(tmp_path / "a") as partial:
        raise ZeroDivisionError
    for number in range(2):
        with whole(tmp_path / "a") as partial:
            save_file({"x": np.full(2, number)}, partial)
    assert load_file(tmp_path / "a")["x"].tolist() == [1, 1] and names(tmp_path) == ["a"]


def _replaces_and_lets_another_have(path, stack):
    with whole(path) as partial:
        save_file({"x": np.zeros(2)}, partial)
        other = stack.enter_context(partial.open("r+b"))
        assert lock_descriptor(other.fileno(), blocking=False)


def test_a_file_that_another_process_holds_by_now_is_left_to_it(tmp_path):
    with ExitStack() as stack, pytest.raises(DataError, match="another process holds"):
        _replaces_and_lets_another_have(tmp_path / "a", stack)
    assert names(tmp_path) == ["a.partial"]


def test_a_file_has_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as own:
        with pytest.raises(DataError, match=r"a\.txt: cannot be written: another process holds .*a\.txt\.partial"):
            write_whole(path, "other")
        own.write_text("whole")
    assert path.read_text() == "whole" and names(tmp_path) == ["a.txt"]


def test_a_planted_link_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    victim = other / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.txt"
    for place in (path, path.with_name("a.txt.partial"), tmp_path / ".lock"):
        place.symlink_to(victim)
    write_whole(path, "new")
    with pytest.raises(DataError, match="cannot be written to"), alone(tmp_path, doing="writes"):
        pytest.fail("the link was followed")
    assert victim.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()


def test_a_scratch_folder_is_there_as_long_as_its_process(tmp_path):
    told = "from personalib.base.storage import scratch; folder = scratch('a'); print(folder, folder.is_dir())"
    place = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, env=place)
    assert done.stdout.startswith(str(tmp_path / "a-")) and done.stdout.endswith(" True\n") and names(tmp_path) == []


def test_json_has_null_in_the_place_of_what_is_no_number(tmp_path):
    write_json(tmp_path / "a.json", {"a": [np.nan, (1.5, np.float64("inf"))], "b": {"c": -np.inf, "d": "NaN", "e": 0}})
    assert read_json(tmp_path / "a.json") == {"a": [None, [1.5, None]], "b": {"c": None, "d": "NaN", "e": 0}}


# Full disks


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"x" * 2**21),
        lambda path: save_file({"x": np.zeros(2**20, dtype=np.float32)}, path),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_what_was_there(disk, write):
    write_whole(disk / "a", b"old")
    problem = r"a: cannot be written: .*No space left.*what was written before is kept"
    with pytest.raises(DataError, match=problem), whole(disk / "a") as partial:
        write(partial)
    assert names(disk) == ["a"] and (disk / "a").read_bytes() == b"old"


def test_a_journal_on_a_full_disk_is_as_it_was_and_goes_on(disk):
    journal = Journal(disk / "a.jsonl")
    journal.add({"number": 0})
    (disk / "rest").write_bytes(b"x" * (2**20 - 8192))
    before = journal.path.read_bytes()
    for text in ("x" * 10_000, "x" * 2**21):  # a part of the line would fit
        with pytest.raises(DataError, match=r"a\.jsonl: cannot be written: No space left"):
            journal.add({"number": 1, "text": text})
        assert journal.path.read_bytes() == before and journal.entries == [{"number": 0}]
    (disk / "rest").unlink()
    journal.add({"number": 2})
    journal.close()
    assert Journal(journal.path).entries == journal.entries == [{"number": 0}, {"number": 2}]


def test_what_a_journal_cannot_cut_off_at_once_is_cut_off_before_the_next_entry(disk, monkeypatch):
    journal = Journal(disk / "a.jsonl")
    journal.add({"number": 0})

    class Stuck:
        """A file that can be written, and not cut off."""

        def __getattr__(self, name):
            return getattr(file, name)

        def truncate(self, size):
            if file.seek(0, os.SEEK_END) > size:
                raise OSError(errno.EIO, "Input/output error")

    file = journal._file
    monkeypatch.setattr(journal, "_file", Stuck())
    with pytest.raises(DataError, match="No space left"):
        journal.add({"text": "x" * 2**21})
    monkeypatch.undo()
    journal.add({"number": 1})
    journal.close()
    assert Journal(journal.path).entries == [{"number": 0}, {"number": 1}]


def test_there_is_room_for_what_is_reserved_or_one_error(disk):
    path = disk / "a"
    for size, fits in ((2**19, True), (2**22, False)):
        with path.open("wb") as file:
            file.truncate(size)
        if fits:
            reserve(path)
            assert path.stat().st_blocks * 512 >= size
    with pytest.raises(DataError, match=r"a: needs 4,194,304 bytes, and [\d,]+ are free on its disk; make room"):
        reserve(path)
    assert names(disk) == []


# Locks


def test_one_holds_it_and_nothing_is_left_of_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()  # what a killed process left is taken over
    for _ in range(2):
        with suppress(ZeroDivisionError), held(path):
            with pytest.raises(BlockingIOError), held(path):
                pass
            assert path.is_file(), "who was refused has removed nothing"
            raise ZeroDivisionError
        assert not path.exists()


def test_a_file_that_its_holder_removed_meanwhile_keeps_nobody_out(tmp_path, monkeypatch):
    path, taken = tmp_path / "lock", []

    def take(descriptor, *, blocking):
        if not taken:
            path.unlink()
        taken.append(descriptor)
        return lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(storage, "lock_descriptor", take)
    with held(path):
        assert len(taken) == 2
        with pytest.raises(BlockingIOError), held(path):
            pass


# Journals


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_entries_come_back_in_order_also_after_some_were_cut(tmp_path, kept):
    entries = [{"number": number, "text": "Ånd\n\ud800"} for number in range(4)]
    journal = Journal(tmp_path / "a.jsonl")
    assert journal.entries == []
    for entry in entries[:3]:
        journal.add(entry)
    journal.cut(kept)
    journal.add(entries[3])
    journal.close()
    assert Journal(journal.path).entries == journal.entries == [*entries[:kept], entries[3]]
    assert journal.path.read_text().count("\n") == kept + 1


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
    for _ in range(2):  # who was refused holds no lock
        with pytest.raises(DataError, match=r"a\.jsonl, line 2: not a JSON object") as refused:
            Journal(path)
    assert refused


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**80, json.loads("[" * 70 + "]" * 70)])
def test_what_would_not_be_read_again_is_not_written(tmp_path, value):
    with closing(Journal(tmp_path / "a.jsonl")) as journal:
        journal.add({"number": 0})
        with pytest.raises(DataError, match=r"a\.jsonl: a new entry: .*(finite|64 bits|deep)"):
            journal.add({"value": value})
        journal.add({"number": 1})
    assert Journal(journal.path).entries == journal.entries == [{"number": 0}, {"number": 1}]


def test_threads_do_not_mix_their_entries(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: journal.add({"number": number, "text": "x" * 5000}), range(60)))
    journal.close()
    assert sorted(entry["number"] for entry in Journal(journal.path).entries) == list(range(60))


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="another process is writing to it"):
        Journal(journal.path)
    journal.close()
    Journal(journal.path).add({})


def test_a_place_that_cannot_be_written_to_is_found_before_any_work(tmp_path):
    for begin in (Journal, lambda path: write_whole(path, "")):
        with pytest.raises(DataError, match=r"a\.jsonl: cannot be written: there is no folder .*missing; make it"):
            begin(tmp_path / "missing" / "a.jsonl")


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
