"""Locks that are files: one holder at a time, nothing left of them, and no way in by a file that was removed."""

import fcntl

import pytest

from personalib.locks import held


def test_one_holds_it_and_nothing_is_left_of_it(tmp_path):
    path = tmp_path / "folder" / "lock"
    for _ in range(2):
        with held(path):
            assert path.is_file()
            with pytest.raises(BlockingIOError), held(path):
                pass
            assert path.is_file(), "who was refused has removed nothing"
        assert not path.exists()


def test_it_is_let_go_after_an_error_and_taken_over_from_a_killed_process(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with pytest.raises(ZeroDivisionError), held(path):
        raise ZeroDivisionError
    with held(path):
        pass


def test_a_file_that_its_holder_removed_meanwhile_keeps_nobody_out(tmp_path, monkeypatch):
    path, taken = tmp_path / "lock", []

    def take(file, how):
        if not taken:
            path.unlink()
        taken.append(file)
        flock(file, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", take)
    with held(path):
        assert len(taken) == 2
        with pytest.raises(BlockingIOError), held(path):
            pass
