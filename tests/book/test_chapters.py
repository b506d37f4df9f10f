import json

import pytest

from personalib.book.chapters import Chapter, RunError, headings


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_parameters_are_merged_with_the_defaults(write_notebook):
    chapter = Chapter.read(write_notebook(parameters="a: int = 1\nb: float = 2.0"))
    assert chapter.merge({"b": 3}) == {"a": 1, "b": 3.0}
    assert chapter.overrides({"a": 1, "b": 3.0}) == {"b": 3.0}


def test_an_unknown_parameter_is_met_with_near_names_and_a_secret_is_refused_before(write_notebook):
    chapter = Chapter.read(write_notebook(parameters="coefficient: float = 1.0\nitems: int = 3"))
    with pytest.raises(RunError, match=r"01_tiny: no parameter 'coeficient'; did you mean 'coefficient'\?"):
        chapter.merge({"coeficient": 2.0})
    with pytest.raises(RunError, match="it has coefficient, items"):
        chapter.parse({"zzz": "1"})
    with pytest.raises(RunError, match="looks like a secret"):
        chapter.merge({"hf_token": "x"})


def test_a_missing_notebook_is_met_with_near_names(write_notebook):
    path = write_notebook()
    with pytest.raises(RunError, match="no such notebook; did you mean 01_tiny"):
        Chapter.read(path.with_name("01_tyni.ipynb"))


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    path = tmp_path / "a.ipynb"
    for content in ("[]", "{}", "null", "{", "[" * 9999, '{"cells": 1, "nbformat": 4, "metadata": {}}', "\udc80"):
        path.write_text(content, errors="surrogateescape")
        with pytest.raises(RunError, match=r"not a notebook.*a\.ipynb|a\.ipynb: not a notebook"):
            Chapter.read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("metadata", None), ("metadata", {"tags": "x"}), ("source", 5), ("cell_type", "heading"), ("source", [1])],
)
def test_a_cell_that_is_none_is_named(write_notebook, key, value):
    path = write_notebook("1")
    rewrite(path, lambda content: content["cells"][1].update({key: value}))
    with pytest.raises(RunError, match=rf"not a notebook of format 4: cells\.1\.{key}.*open it in Jupyter"):
        Chapter.read(path)
    rewrite(path, lambda content: content["cells"][1].pop(key))
    with pytest.raises(RunError, match=rf"cells\.1\.{key}: Field required"):
        Chapter.read(path)


def test_looking_at_a_notebook_runs_nothing(write_notebook, command_line, tmp_path):
    mark = tmp_path / "mark"
    code = "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__"
    cell = f"x: {code}['system']('touch {mark}') = 1"
    path = write_notebook("1", parameters=cell, folder=tmp_path / "root" / "notebooks")
    (tmp_path / "root" / "book").mkdir()
    (tmp_path / "root" / "book" / "_toc.yml").write_text("format: jb-book\nroot: notebooks/01_tiny\n")
    (tmp_path / "sweep.yaml").write_text(f"chapter: {path}\nvary: {{x: [1, 2]}}\n")
    root = ("--root", tmp_path / "root")
    for command in (("run", path, "-p", "x", "1"), ("sweep", "--plan", "sweep.yaml"), ("book", *root, "-p", "x", "1")):
        status, _, told = command_line(*command)
        assert status and "has the annotation" in told, (command, told)
    assert not mark.exists()


def test_two_parameters_cells_are_refused(write_notebook):
    path = write_notebook("b: int = 2", parameters="a: int = 1")
    rewrite(path, lambda content: content["cells"][-1]["metadata"].update(tags=["parameters"]))
    with pytest.raises(RunError, match="2 cells are tagged"):
        _ = Chapter.read(path).parameters


def test_the_source_hash_sees_what_a_reader_sees_and_nothing_else(write_notebook):
    path = write_notebook("1 + 1")
    original = Chapter.read(path).source_hash()

    def noise(content):
        cell = content["cells"][-1]
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "2"}]
        cell["execution_count"] = 3
        cell["metadata"]["collapsed"] = True
        cell["source"] = "".join(cell["source"])
        content["metadata"]["toc"] = 1

    rewrite(path, noise)
    assert Chapter.read(path).source_hash() == original
    rewrite(path, lambda content: content["cells"][-1]["metadata"].update(mystnb={"figure": {"caption": "new"}}))
    captioned = Chapter.read(path).source_hash()
    assert captioned != original
    rewrite(path, lambda content: content["cells"][-1].update(source="1 + 2"))
    assert Chapter.read(path).source_hash() not in (original, captioned)


def test_each_cell_knows_the_heading_it_stands_under(write_notebook):
    chapter = Chapter.read(write_notebook("1", "# no heading", markdown=("text", "# Title\n\n## Part\n\ntext")))
    assert headings(chapter.cells) == ["", "Part", "Part", "Part"]
