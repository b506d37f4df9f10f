"""Processes that run side by side share the cores, unless somebody has said how many threads each takes."""

import os

import pytest

from personalib.base.threads import THREADS, shared_threads, threads, told_threads


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)


def test_cores_are_shared_by_those_who_run_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [shared_threads(jobs) for jobs in (1, 2, 4, 9)] == [None, "3", "1", "1"]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert shared_threads(2) == "4"


def test_what_the_environment_asks_for_goes_first(monkeypatch):
    monkeypatch.setenv(THREADS, "5")
    assert told_threads() == shared_threads(1) == shared_threads(2) == "5"


@pytest.mark.parametrize("before", [None, "7"])
@pytest.mark.parametrize("wanted", [None, "3"])
def test_the_environment_is_afterwards_what_it_was(monkeypatch, before, wanted):
    if before:
        monkeypatch.setenv(THREADS, before)

    def stop():
        assert told_threads() == wanted
        raise KeyError

    with pytest.raises(KeyError), threads(wanted):
        stop()
    assert told_threads() == before
