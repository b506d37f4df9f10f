"""Captured activations are what a hand-written hook sees, whatever stands beside a text in its batch."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import tiny_saes
import torch
from small_models import hooked
from tiny_saes import encoded, worded

from personalib.base.data import DataError
from personalib.base.storage import Journal
from personalib.models import activations
from personalib.models.activations import Activations, capture
from personalib.models.parts import Site, blocks

TEXTS = [*tiny_saes.TEXTS, "It is raining, and the window is open."]


def small(name):
    return worded(name, initializer_range=0.02)


@pytest.fixture(params=["gemma2", "llama", "gpt2", "gpt-neox"])
def model(request):
    return small(request.param)


@torch.inference_mode()
def by_hand(language_model, text, site):
    """The residual stream of one text alone, by a hook on the block."""
    seen = []
    handle = hooked(language_model.model, site, lambda stream: seen.append(stream) or stream)
    ids, places = encoded(language_model, text)
    language_model.model(torch.tensor([ids]))
    handle.remove()
    return seen[0][0][places].numpy()


SITES = [Site(2), Site(0, "resid_pre"), Site(1), Site(1, "resid_pre")]
REDUCE = {"last": lambda x: x[-1:], "mean": lambda x: x.mean(0, keepdims=True), "all": lambda x: x}


def captured(model, folder, texts=TEXTS, sites=SITES[2:3], **settings):
    return capture(model, texts, sites, folder, **settings)


@pytest.mark.parametrize("tokens", REDUCE)
def test_a_batch_gives_what_single_texts_give(model, tokens, tmp_path):
    found = capture(model, TEXTS, SITES, tmp_path, tokens=tokens)
    for site in SITES:
        for number, text in enumerate(TEXTS):
            expected = REDUCE[tokens](by_hand(model, text, site))
            np.testing.assert_allclose(found.text(site, number), expected, atol=2e-6, rtol=1e-5)
    assert found.values(Site(2)).shape == (found.offsets[-1], 24)


def test_the_size_of_a_batch_makes_no_difference(tmp_path):
    model = small("gemma2")
    one, *others = (
        capture(model, TEXTS, [Site(1)], tmp_path / str(size), tokens="all", batch_tokens=size).values(Site(1))
        for size in (8192, 1, 40, 100_000)
    )
    for other in others:
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_a_span_keeps_the_tokens_that_it_touches(tmp_path):
    model, text = small("llama"), TEXTS[2]
    start = text.index("few years of schooling")
    span = (start, start + len("few years of schooling"))
    found = capture(model, [text, text], [Site(1)], tmp_path, spans=[span, (0, len(text))], tokens="all")
    made = model.tokenizer(text, return_offsets_mapping=True)
    touched = [i for i, (a, b) in enumerate(made["offset_mapping"]) if a < span[1] and b > span[0]]
    whole = by_hand(model, text, Site(1))
    # the tokenizer's own first token is not among the rows
    np.testing.assert_allclose(found.text(Site(1), 0), whole[np.array(touched) - 1], atol=1e-6)
    assert 0 < len(touched) < len(whole) == len(found.text(Site(1), 1))


def test_special_tokens_never_count(tmp_path):
    model = small("llama")
    found = capture(model, TEXTS, [Site(0)], tmp_path, tokens="all")
    assert [len(found.text(Site(0), n)) for n in range(len(TEXTS))] == [len(encoded(model, t)[1]) for t in TEXTS]
    assert len(encoded(model, TEXTS[3])[0]) - len(encoded(model, TEXTS[3])[1]) == 4, "one beginning, three turn marks"


def test_the_same_again_is_taken_from_disk_and_other_inputs_are_not(tmp_path, monkeypatch):
    model = small("llama")
    capture(model, TEXTS, [Site(1)], tmp_path)
    monkeypatch.setattr(activations, "_streams", lambda *_: pytest.fail("captured again"))
    again = capture(model, TEXTS, [Site(1)], tmp_path)
    monkeypatch.undo()
    # What was captured last leaves its journal, which is of use for the same inputs alone.
    changes = ({"tokens": "mean"}, {"dtype": "float16"}, {"sites": [Site(0)]}, {"texts": TEXTS[::-1]}, {})
    for number, change in enumerate(changes):
        other, fresh = (captured(model, tmp_path / place, **change) for place in ("", f"new{number}"))
        np.testing.assert_array_equal(other.values(other.sites[0]), fresh.values(fresh.sites[0]))
    with torch.no_grad():
        blocks(model.model)[0].mlp.down_proj.weight.add_(1)
    changed = capture(model, TEXTS, [Site(1)], tmp_path)
    assert again.sites == changed.sites
    np.testing.assert_allclose(changed.text(Site(1), 0), by_hand(model, TEXTS[0], Site(1))[-1:], atol=1e-5)


@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_activations_are_captured_anew(tmp_path, caplog, damage, finished):
    model = small("llama")
    found = capture(model, TEXTS, [Site(0), Site(1)], tmp_path)
    expected, path = np.array(found.values(Site(1))), tmp_path / "resid_post.1.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 8
    path.write_bytes({"a bit": content, "the end": content[:-40], "all": b""}[damage])
    if not finished:
        (tmp_path / "activations.json").unlink()
    again = capture(model, TEXTS, [Site(0), Site(1)], tmp_path)
    np.testing.assert_array_equal(again.values(Site(1)), expected)
    assert not finished or f"{path}: missing or damaged; it is captured anew" in caplog.text


def test_no_room_is_one_error_before_the_model_is_run(disk, monkeypatch):
    monkeypatch.setattr(activations, "_streams", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(DataError, match=r"resid_post\.2\.npy: needs [\d,]+ bytes, and [\d,]+ are free on its disk"):
        capture(small("llama"), TEXTS * 200, [Site(1), Site(2)], disk / "acts", tokens="all")
    assert not list((disk / "acts").glob("*.npy"))


def test_half_precision_on_disk_is_what_was_asked_for(tmp_path):
    model = small("gpt2")
    found = capture(model, TEXTS, [Site(1)], tmp_path, dtype="float16")
    assert found.values(Site(1)).dtype == np.float16
    np.testing.assert_allclose(found.text(Site(1), 0), by_hand(model, TEXTS[0], Site(1))[-1:], atol=2e-3)


def _capture_slowly(folder):
    streams = activations._streams

    def slow(*arguments):
        time.sleep(0.4)
        return streams(*arguments)

    activations._streams = slow
    capture(small("llama"), TEXTS, [Site(1)], folder, tokens="all", batch_tokens=1)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    process = multiprocessing.get_context("spawn").Process(target=_capture_slowly, args=(tmp_path / "killed",))
    process.start()
    journal, deadline = tmp_path / "killed" / "batches.jsonl", time.monotonic() + 120
    while (not journal.exists() or journal.read_text().count("\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    # The first entry is what is captured.
    left = len(TEXTS) + 1 - len(journal.read_text().splitlines())
    assert 0 < left < len(TEXTS) - 1 and not (tmp_path / "killed" / "activations.json").exists()
    runs, streams = [], activations._streams
    monkeypatch.setattr(activations, "_streams", lambda *arguments: (runs.append(1), streams(*arguments))[1])
    model = small("llama")
    found = capture(model, TEXTS, [Site(1)], tmp_path / "killed", tokens="all", batch_tokens=1)
    assert len(runs) == left
    whole = capture(model, TEXTS, [Site(1)], tmp_path / "whole", tokens="all", batch_tokens=1)
    np.testing.assert_array_equal(found.values(Site(1)), whole.values(Site(1)))


def test_an_unfinished_run_with_other_batches_is_begun_anew(tmp_path):
    model = small("llama")
    whole = capture(model, TEXTS, [Site(1)], tmp_path)
    journal = tmp_path / "batches.jsonl"
    journal.write_text(journal.read_text().replace(' 8192"', ' 1"'))
    (tmp_path / "activations.json").unlink()
    expected = np.array(whole.values(Site(1)))
    np.lib.format.open_memmap(tmp_path / "resid_post.1.npy", "r+")[:] = 0
    found = capture(model, TEXTS, [Site(1)], tmp_path)
    np.testing.assert_array_equal(found.values(Site(1)), expected)


def test_memory_stays_flat(tmp_path, monkeypatch):
    """Values are written as they come: what is held at a time does not grow with the number of texts."""
    held, streams = [], activations._streams

    def watch(*arguments):
        made = streams(*arguments)
        held.append(sum(stream.numel() for stream in made))
        return made

    monkeypatch.setattr(activations, "_streams", watch)
    capture(small("llama"), TEXTS * 50, [Site(1)], tmp_path, tokens="all", batch_tokens=300)
    assert len(held) > 10 and max(held) <= 300 * 24


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sites": [Site(3)]}, "resid_post.3 is no site of this model; it has blocks 0 to 2"),
        ({"sites": [Site(-1)]}, "is no site of this model"),
        ({"sites": [Site(0, "mlp")]}, r"mlp\.0 is no site of this model"),
        ({"sites": []}, "no sites or no texts"),
        ({"texts": []}, "no sites or no texts"),
        ({"tokens": "first"}, "choose one of last, mean, all"),
        ({"spans": [(2, 2)] * 6}, "text 0 has no token between characters 2 and 2"),
    ],
)
def test_what_cannot_be_captured_is_one_error(change, problem, tmp_path):
    with pytest.raises(ValueError, match=problem):
        captured(small("llama"), tmp_path, **change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["resid_mid.1", "resid_post", "resid_post.x", "resid_post.-1", ""])
def test_a_site_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is no site; write resid_pre"):
        Site.parse(text)


def test_sites_have_names():
    assert [str(site) for site in SITES] == ["resid_post.2", "resid_pre.0", "resid_post.1", "resid_pre.1"]
    assert [Site.parse(str(site)) for site in SITES] == SITES


def test_a_site_that_was_not_captured_is_named(tmp_path):
    found = Activations(tmp_path, np.array([0, 1]), (Site(1),))
    with pytest.raises(KeyError, match=r"nothing was captured at resid_pre.0, only at resid_post.1"):
        found.values(Site(0, "resid_pre"))


@pytest.mark.parametrize("content", ['{"mine": 1}', '{"key": "a", "hashes": []}', "[]"])
def test_a_strange_folder_is_not_touched(tmp_path, content):
    (tmp_path / "activations.json").write_text(content)
    with pytest.raises(DataError, match="not written by this program"):
        capture(small("llama"), TEXTS, [Site(1)], tmp_path)
    assert (tmp_path / "activations.json").read_text() == content


def test_a_journal_in_use_stops_a_second_run(tmp_path):
    model = small("llama")
    capture(model, TEXTS, [Site(1)], tmp_path)
    journal = Journal(tmp_path / "batches.jsonl")
    (tmp_path / "activations.json").unlink()
    with pytest.raises(DataError, match="another process is writing"):
        capture(model, TEXTS, [Site(1)], tmp_path)
    journal.close()
