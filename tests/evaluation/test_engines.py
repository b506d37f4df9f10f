"""Jobs done in this process, and what is said where Ray is missing or an address is none."""

import sys

import pytest

from personalib.base.data import DataError
from personalib.evaluation.engines import LocalEngine, map_jobs, ray_engine
from personalib.evaluation.ray_workers import RayEngine


def test_jobs_are_done_in_their_order_as_results_are_taken():
    taken = []

    def jobs():
        for number in range(3):
            taken.append(number)
            yield f"job {number}", number

    found = map_jobs(lambda number: number**2, jobs(), LocalEngine())
    assert next(found) == ("job 0", 0) and taken == [0]
    assert list(found) == [("job 1", 1), ("job 2", 4)]


def test_what_jobs_share_is_loaded_once_and_only_if_there_is_a_job():
    started = []

    def start():
        started.append(1)
        return str

    assert list(LocalEngine().run(start, [])) == [] and not started
    assert list(LocalEngine().run(start, [("a", 1), ("b", 2)])) == [("a", "1"), ("b", "2")]
    assert len(started) == 1


def test_an_error_of_a_job_is_passed_on():
    found = map_jobs(int, [("good", "1"), ("bad", "x")], LocalEngine())
    assert next(found) == ("good", 1)
    with pytest.raises(ValueError, match="invalid literal"):
        next(found)


def test_without_ray_there_is_one_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "personalib.evaluation.ray_workers", raising=False)
    with pytest.raises(DataError, match=r"needs Ray, which is not installed: pip install 'ray==2\.60\.0'"):
        ray_engine("auto")


@pytest.mark.parametrize("address", ["here", "", "http://head:6379", "head:", ":6379", "ray://head:10001"])
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(DataError, match="give HOST:PORT of the cluster's head, or auto"):
        ray_engine(address)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="take at least one of each"):
        ray_engine("auto", 0)
    with pytest.raises(DataError, match="take at least one of each"):
        RayEngine(tries=0)
