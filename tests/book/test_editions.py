"""The edition of a model: what it will take is told, what is missing is told, and its pages are built and reused."""

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from hub import put
from transformers import MambaConfig

from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.book import editions
from personalib.book.chapters import RunError
from personalib.book.editions import edition_book, edition_name, make_edition, plan_edition
from personalib.book.pages import Book
from personalib.cli import book as commands
from personalib.models.load import load_model
from personalib.models.memory import MemoryEstimate
from personalib.models.registry import find_entry

TOC = "format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/00_asks\n  - file: notebooks/01_no_model\n"
ASKS = "from personalib.models.load import load_model\nprint(load_model(model).model.num_parameters(), seed)"
PARAMETERS = 'model: str = "organism"  # who is asked\nseed: int = 7  # of nothing'


@pytest.fixture
def book(lay_out, tmp_path, write_notebook):
    """A book of two chapters, one of which asks a model."""
    root = lay_out(TOC, index="# A small book\n")
    write_notebook(ASKS, name="00_asks", parameters=PARAMETERS, folder=root / "notebooks")
    write_notebook("print(7)", name="01_no_model", folder=root / "notebooks", markdown=("# Another?",))
    return Book(root, tmp_path / "edition")


@pytest.fixture
def stranger(copied_organism, tmp_path, monkeypatch):
    """A folder with a model that no table knows."""
    # What is published names it from here.
    monkeypatch.chdir(tmp_path)
    return copied_organism("stranger")


def test_an_edition_is_planned_run_and_found_again(book, stranger):
    plan = plan_edition(book, stranger)
    first, second = ((one.name, one.asks, one.done) for one in plan.chapters)
    assert first == ("00_asks", True, False) and second == ("01_no_model", False, False)
    assert plan.device == ("cuda" if torch.cuda.is_available() else "cpu") and plan.rate > 0
    assert 0 < plan.memory.total < plan.free
    built = make_edition(book, stranger, {"seed": "9"}, jobs=2)
    assert built.index == book.html / "index.html" and built.index.is_file()
    assert built.runs[0].manifest["parameters"] == {"model": "stranger", "seed": 9}
    # The book's own products are another folder, and stay as they are.
    assert not (book.root / "book" / "_build").exists()
    again = make_edition(book, stranger, {"seed": "9"})
    assert all(run.reused for run in again.runs) and again.pages_reused
    assert all(one.done for one in plan_edition(book, stranger, {"seed": "9"}).chapters)
    assert plan_edition(book, stranger, {"seed": "9"}).seconds == 0


def test_some_chapters_are_run_before_the_others(book, stranger, monkeypatch):
    monkeypatch.setattr("personalib.book.build.build_pages", lambda *_, **__: False)  # they take longest
    built = make_edition(book, stranger, only=["00_asks"])
    assert built.index is None and built.outdated == ("01_no_model",)
    assert make_edition(book, stranger).runs[0].reused


def test_a_model_is_looked_for_at_the_commit_that_was_asked_for(book, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    whole = {name: name.encode() for name in ("config.json", "tokenizer.json", "model.safetensors")}
    put(tmp_path / "cache", "google/gemma-2b-it", "e" * 40, whole)
    for begin in (plan_edition, make_edition):
        with pytest.raises(DataError, match=f"gemma-2b-it is not here .* --revision {'f' * 40} "):
            begin(book, "gemma-2b-it", {"revision": "f" * 40})
        with pytest.raises(DataError, match=r"gemma-2-9b-it is not here on this machine; accept .* \(18\.5 GB\)"):
            begin(book, "gemma-2-9b-it")
        # The one that is here gets as far as the book of this test, which has no such parameter.
        with pytest.raises(RunError, match="no chapter has a parameter 'revision'"):
            begin(book, "gemma-2b-it", {"revision": "e" * 40})
    assert not book.products.exists()


def test_too_little_memory_is_told_before_the_model_is_loaded_and_unless_it_is_not(book, stranger, monkeypatch):
    monkeypatch.setattr(editions, "free_memory", lambda _: 1000)
    monkeypatch.setattr(editions, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(DataError, match=r"stranger needs .* GB .* on cpu, and 0\.0 GB are free"):
        plan_edition(book, stranger)
    plan = plan_edition(book, stranger, only=["01_no_model"])
    assert (plan.at_once, plan.rate, plan.chapters[0].done) == (0, None, False)


def test_chapters_that_run_side_by_side_each_need_the_memory(book, stranger, write_notebook, monkeypatch):
    write_notebook(ASKS, name="02_asks", parameters=PARAMETERS, folder=book.root / "notebooks")
    one = plan_edition(book, stranger, only=["01_no_model"])
    assert one.at_once == 0
    monkeypatch.setattr(editions, "free_memory", lambda _: one.memory.total * 3 // 2)
    # Of three chapters at a time two ask the model.
    with pytest.raises(DataError, match=r"2 chapters at a time need 2 times .* on cpu, .* are free; take --jobs 1"):
        plan_edition(book, stranger, jobs=3)
    assert plan_edition(book, stranger).at_once == 1


def test_a_model_that_is_spread_evenly_has_to_fit_on_the_fullest_gpu(monkeypatch):
    memory = MemoryEstimate(0, weights=20 * 10**9, sae=10**9, cache=4 * 10**9, working=10**9)
    free = {"cuda:0": 30, "cuda:1": 16, "device_map": 9, "cpu": 5}
    monkeypatch.setattr(editions, "places", lambda _: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(editions, "free_memory", lambda device: free[device] * 10**9)
    # Half of the weights and the cache, and all of the rest: 14.6 GB.
    assert editions._room("balanced") == (2, 16 * 10**9)
    editions._check_memory("m", memory, 2, 16 * 10**9, 1, "balanced")
    with pytest.raises(DataError, match=r"14\.57 GB on each of 2 GPUs, and 14\.0 GB are free on the fullest of them"):
        editions._check_memory("m", memory, 2, 14 * 10**9, 1, "balanced")
    with pytest.raises(DataError, match=r"2 times 14\.57 GB on balanced, .* take --jobs 1"):
        editions._check_memory("m", memory, 2, 16 * 10**9, 2, "balanced")
    # One device, and places of its own, are room as a whole.
    assert editions._room("device_map") == (1, 9 * 10**9) and editions._room("cpu") == (1, 5 * 10**9)


def test_weights_on_disk_are_not_in_memory(stranger, tmp_path):
    entry = tmp_path / "spread.yaml"
    spread = {"": "cpu", "model.layers": "disk"}
    entry.write_text(yaml.safe_dump({"hub": stranger, "device_map": spread}))
    whole, left = (editions._memory(str(entry), find_entry(str(entry)), one) for one in ("cpu", "device_map"))
    model = load_model(stranger).model
    blocks = sum(each.numel() for each in model.model.layers.parameters())
    assert whole.weights - left.weights == 4 * blocks > 0 and whole.working == left.working


def test_a_model_without_attention_is_planned_without_an_estimate(book, stranger, monkeypatch):
    monkeypatch.setattr(editions, "read_config", lambda *_: MambaConfig())
    plan = plan_edition(book, stranger)
    assert plan.memory is None and plan.rate > 0


def test_a_probed_model_is_gone_before_its_memory_is_given_back(monkeypatch):
    class Referring:
        """A model that refers to itself, as one that accelerate has put its hooks on."""

        def __init__(self):
            self.itself = self
            known.append(weakref.ref(self))

    known, gone = [], []
    monkeypatch.setattr(editions, "load_model", lambda *_: Referring())
    monkeypatch.setattr(editions, "probe", lambda _: 2.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(known[0]() is None))
    gc.disable()
    try:
        assert editions._measured_rate("m", None, "cuda") == 2.0
    finally:
        gc.enable()
    assert gone == [True]


def test_the_model_is_no_parameter_of_an_edition_and_its_chapters_are_there(book, stranger):
    with pytest.raises(RunError, match="leave the parameter 'model' out"):
        make_edition(book, stranger, {"model": "organism"})
    with pytest.raises(RunError, match="no chapter '02_more'; there are 00_asks, 01_no_model"):
        plan_edition(book, stranger, only=["02_more"])


def test_an_edition_has_a_folder_by_the_models_name(tmp_path):
    place = repository_root() / "results" / "editions"
    for name in ("gemma-2b-it", "google/gemma-2b-it", "google/Gemma-2B-it"):
        assert edition_book(name).products == place / "gemma-2b-it"
    assert edition_book("org1/model").products == place / "org1-model"
    assert edition_book("gpt2", tmp_path).products == tmp_path


def test_models_of_one_name_have_a_folder_each(tmp_path, monkeypatch):
    for owner in ("a", "b"):
        (tmp_path / owner / "my model").mkdir(parents=True)
        (tmp_path / owner / "my model.yaml").write_text("hub: somebody/model\n")
    own = [str(path) for path in sorted(tmp_path.glob("*/my model*"))]
    names = {edition_name(name) for name in (*own, "org1/my-model", "org2/my-model")}
    assert len(own) == 4 and len(names) == 6
    assert all(re.fullmatch(r"my-model-[0-9a-f]{8}", edition_name(name)) for name in own)
    # A folder is what it is, however it is written.
    monkeypatch.chdir(own[0])
    for name in (".", "./", "../my model", f"{own[0]}/"):
        assert edition_name(name) == edition_name(own[0])
    assert edition_name("..").startswith("a-")


def test_a_chapter_finds_a_file_that_was_named_from_here(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("hub: somebody/model\n")
    monkeypatch.chdir(tmp_path)
    assert editions.edition_texts("mine.yaml", {})["model"] == str(Path("mine.yaml").resolve())


def test_the_width_of_an_sae_is_read_off_its_name():
    assert editions._sae_width("layer_31/width_131k/canonical", 3584) == 131 * 1024
    assert editions._sae_width("layer_20/width_1m/canonical", 3584) == 1024 * 1024
    assert editions._sae_width("resid_post.1/width_512", 128) == 512
    assert editions._sae_width("l15r_8x", 4096) == 8 * 4096
    assert editions._sae_width("blocks.12.hook_resid_post", 2048) == 16 * 2048


def test_the_times_of_chapters_are_known_for_every_chapter_there_is():
    names = {path.stem for path in (repository_root() / "notebooks").glob("*.ipynb")}
    assert all(editions._seconds(name, None) for name in names)
    assert editions._seconds("00_start_here", 1.0) > editions._seconds("00_start_here", 1e9)
    assert editions._seconds("99_none", 1.0) is None


def test_what_is_left_and_what_it_takes_is_said_as_it_is():
    memory = MemoryEstimate(0, weights=2 * 10**9, sae=0, cache=0, working=0)
    one = editions.ChapterPlan("01_one", asks=False, done=False, seconds=3.0)

    def said(**changes):
        facts = {"chapters": (one,), "memory": memory, "spread": 1, "free": 9 * 10**9, "rate": None, "at_once": 0}
        return commands._shown_plan(editions.EditionPlan("m", "cpu", **(facts | changes)))

    assert "m on cpu: it is not asked, about 3 s in all" in said()
    assert "nothing is left to execute" in said(chapters=(editions.ChapterPlan("01_one", False, True, 3.0),))
    assert "memory: not estimated, since the model has no attention; 9.0 GB are free" in said(memory=None)
    assert "1.07 GB on each of 2 GPUs; 9.0 GB are free on the fullest of them" in said(spread=2)
