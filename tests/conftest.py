"""What several test modules share: tiny notebooks, a data folder that hashes at once, a small chat model."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch
import yaml
from nbformat import v4
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM

from personalib.__main__ import main
from personalib.base.data import data_dir
from personalib.models.load import LanguageModel, load_model
from personalib.organism.tokenizer import train_tokenizer
from personalib.stimuli.assignments import LifeStory
from personalib.stimuli.backgrounds import Background, draw_backgrounds
from personalib.stimuli.grammar_writer import GrammarWriter

LOCKED_HASH = f"    --hash=sha256:{'0' * 64}\n"
# Modules that take minutes: several workers begin with them.
LONGEST = ("test_hub_chapters",)
NotebookWriter = Callable[..., Path]
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def pytest_configure() -> None:
    """Let commands under test be interrupted and killed.

    In a shell's background they would inherit that an interrupt is ignored. And tqdm's own lock is shared by all
    processes that are forked: one that is killed while it holds it would stop every later one.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tqdm.set_lock(threading.RLock())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture
def write_notebook(tmp_path: Path) -> NotebookWriter:
    """Writes a notebook with a title, a parameters cell and the given code cells."""

    def write(
        *code: str,
        parameters: str = "",
        name: str = "01_tiny",
        folder: Path = tmp_path / "notebooks",
        markdown: Sequence[str] = ("# Does it run?",),
    ) -> Path:
        cells = [v4.new_markdown_cell(text) for text in markdown]
        if parameters:
            cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        cells.extend(v4.new_code_cell(source) for source in code)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.ipynb"
        nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC}), path)
        return path

    return write


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of some fields."""

    def write(name: str = "own.yaml", **content: object) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process, in an empty folder; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["personalib", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def copied_organism(tmp_path: Path) -> Callable[[str], str]:
    """Copies the organism into a folder of a name, as a model that no table knows by its place."""

    def copy(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        for file in names:
            shutil.copy(data_dir() / "organism" / file, folder)
        return str(folder)

    return copy


@pytest.fixture(scope="session")
def organism() -> LanguageModel:
    """The book's small model, which no test changes."""
    return load_model()


@pytest.fixture
def llama() -> LanguageModel:
    """A small model with random weights that a test may change."""
    # imported by those who use it: it brings sae-lens, which takes seconds
    from small_models import small

    return small("llama")


@pytest.fixture(scope="session")
def repeng() -> ModuleType:
    """The package, whose annotations name ``numpy.float_``; NumPy 1 called float64 so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float_", np.float64, raising=False)
        return import_module("repeng")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's activations go, so that each text is read once."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of PyTorch in this process; a module says with its mark what for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of one file, in the place of the book's."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "numbers.csv").write_text("1\n")
    monkeypatch.setenv("PERSONALIB_DATA", str(folder))
    return folder


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one file and a list of pinned packages, hashed in the place of the real ones."""
    folder = tmp_path / "root" / "personalib"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("x = 1\n")
    locks = folder.parent / "locks"
    locks.mkdir()
    (locks / "book.txt").write_text(
        f"# a list\nghost==1.0 ; sys_platform == 'win32' \\\n{LOCKED_HASH}numpy==2.4.6 \\\n{LOCKED_HASH}"
    )
    (locks / "test.txt").write_text(f"pytest==9.2.0 \\\n{LOCKED_HASH}")
    monkeypatch.setattr("personalib.base.provenance.package_dir", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def learned_people() -> list[Background]:
    """Two people of few attributes, whose life stories a small model knows by heart."""
    drawn = draw_backgrounds(6, seed=1)[::5]
    return [replace(one, elements=dict(list(one.elements.items())[:3])) for one in drawn]


@pytest.fixture(scope="session")
def learned_folder(learned_people: list[Background], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of two blocks that answers the requests for two life stories, and can do nothing else."""
    story = LifeStory()
    pairs = [
        (story.request(one, []), GrammarWriter().write(story, one, 0, []).model_dump_json()) for one in learned_people
    ]
    tokenizer = train_tokenizer([text for pair in pairs for text in pair], 900)
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": request}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for request, answer in pairs
    ]
    batch = tokenizer(chats, add_special_tokens=False, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        initializer_range=96**-0.5,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    folder = tmp_path_factory.mktemp("learned")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of a megabyte; nothing stands for it where it cannot be had."""
    folder = tmp_path_factory.mktemp("disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(small_disk: Path) -> Iterator[Path]:
    """An empty file system of a megabyte."""
    yield small_disk
    for path in small_disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
