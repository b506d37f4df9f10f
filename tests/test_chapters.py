import json

import pytest

from personalib.chapters import Chapter, RunError, headings


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_parameters_are_merged_with_the_defaults(write_notebook):
    chapter = Chapter.read(write_notebook(parameters="a: int = 1\nb: float = 2.0"))
    assert chapter.merge({"b": 3}) == {"a": 1, "b": 3.0}
    assert chapter.overrides({"a": 1, "b": 3.0}) == {"b": 3.0}


def test_an_unknown_parameter_is_met_with_near_names(write_notebook):
    chapter = Chapter.read(write_notebook(parameters="coefficient: float = 1.0\nitems: int = 3"))
    with pytest.raises(RunError, match=r"01_tiny: no parameter 'coeficient'; did you mean 'coefficient'\?"):
        chapter.merge({"coeficient": 2.0})
    with pytest.raises(RunError, match="it has coefficient, items"):
        chapter.parse({"zzz": "1"})


def test_a_secret_is_refused_before_it_is_looked_up(write_notebook):
    with pytest.raises(RunError, match="looks like a secret"):
        Chapter.read(write_notebook(parameters="a: int = 1")).merge({"hf_token": "x"})


def test_a_missing_notebook_is_met_with_near_names(write_notebook):
    path = write_notebook()
    with pytest.raises(RunError, match="no such notebook; did you mean 01_tiny"):
        Chapter.read(path.with_name("01_tyni.ipynb"))


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text("[]")
    with pytest.raises(RunError, match=r"a\.ipynb: not a notebook"):
        Chapter.read(path)


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
