from pathlib import Path

import pytest


def test_run_prints_the_executed_notebook(command_line, write_notebook, small_data, tmp_path):
    notebook = write_notebook("print(seed)", parameters="seed: int = 1")
    code, out, _ = command_line("run", notebook, "-p", "seed", "-3", "--output-dir", tmp_path / "out")
    assert code == 0
    assert out.splitlines()[-1] == "out/01_tiny.ipynb", "as one would type it here"
    assert "-3" in (tmp_path / "out" / "01_tiny.ipynb").read_text()
    _, out, _ = command_line("run", notebook, "-p", "seed", "-3", "--output-dir", tmp_path / "out")
    assert "unchanged since" in out


def test_what_the_library_refuses_is_one_message_and_code_2(command_line, write_notebook):
    notebook = write_notebook(parameters="seed: int = 1")
    code, out, err = command_line("run", notebook, "--output-dir", "out", "-p", "sed", "1")
    assert (code, out, err) == (2, "", "error: 01_tiny: no parameter 'sed'; did you mean 'seed'?\n")
    assert not Path("out").exists(), "nothing has run"


def test_a_chapter_can_be_called_by_its_name(command_line):
    code, _, err = command_line("run", "99_nowhere")
    assert code == 2
    assert "notebooks/99_nowhere.ipynb: no such notebook" in err


def test_what_the_system_refuses_is_one_line_with_the_path(command_line, write_notebook, tmp_path):
    (tmp_path / "file").touch()
    notebook = write_notebook("1")
    for folder in (tmp_path / "file" / "inside", tmp_path / ("x" * 300)):
        code, out, err = command_line("run", notebook, "--output-dir", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {folder}: cannot be written to: ")
    code, out, err = command_line("run", "x" * 300)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and err.endswith("xxx …: no such notebook\n")


@pytest.mark.parametrize(("command", "option"), [("run", "--output-dir"), ("book", "--root")])
def test_a_file_is_no_folder_for_outputs(command_line, tmp_path, command, option):
    (tmp_path / "file").touch()
    code, _, err = command_line(command, *(["01"] if command == "run" else []), option, tmp_path / "file")
    assert code == 2 and f"Invalid value for '{option}'" in err and "is a file" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/some/where"), "/some/where: Permission denied"),
        (ConnectionError("no way\n  to the hub"), "no way to the hub"),
        (OSError(), "OSError"),
    ],
)
def test_any_refusal_of_the_system_is_one_line(command_line, monkeypatch, error, said):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("personalib.book.chapters.Chapter.read", refuse)
    assert command_line("run", "01_tiny") == (2, "", f"error: {said}\n")
