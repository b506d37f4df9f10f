import hashlib
import os
import shutil
import sys
from importlib import metadata

from personalib.base import provenance


def test_a_file_hashes_as_its_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert provenance.file_hash(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_folder_hash_depends_on_names_and_contents_only(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.txt").write_text("1")
    os.utime(second / "sub" / "a.txt", (0, 0))
    assert provenance.folder_hash(first) == provenance.folder_hash(second)
    (second / "sub" / "a.txt").rename(second / "sub" / "b.txt")
    assert provenance.folder_hash(first) != provenance.folder_hash(second)


def test_hidden_files_caches_and_checkpoints_do_not_count(tmp_path):
    before = provenance.folder_hash(tmp_path)
    for name in (".hidden", "__pycache__/a.pyc", "checkpoints/step.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert provenance.folder_hash(tmp_path) == before
    assert provenance.folder_hash(tmp_path / "missing") == before


def test_library_data_and_dependencies_are_those_in_place(small_library, small_data):
    library, data = provenance.library_hash(), provenance.data_hash()
    (small_library / "notes.txt").write_text("not code")
    assert provenance.library_hash() == library
    (small_library / "code.py").write_text("x = 2\n")
    assert provenance.library_hash() != library
    (small_data / "numbers.csv").write_text("2\n")
    assert provenance.data_hash() != data
    assert provenance.dependencies() == ["ghost==1.0", "numpy==2.4.6"]
    assert provenance.package_versions() == {"numpy": metadata.version("numpy")}


def test_a_manifest_names_every_installed_package_of_the_book():
    versions = provenance.package_versions()
    assert {"torch", "transformers", "sympy", "fsspec", "setuptools"} <= versions.keys() and len(versions) > 150
    assert "appnope" not in versions or sys.platform == "darwin"
    assert len({line.partition("==")[0] for line in provenance.dependencies()}) == len(provenance.dependencies())
    assert versions["torch"] == metadata.version("torch") and "pytest" not in versions


def test_without_lists_the_installed_metadata_count(small_library):
    shutil.rmtree(small_library.parent / "locks")
    assert any(line.startswith("torch==") for line in provenance.dependencies())
    assert not any("pytest" in line for line in provenance.dependencies())


def test_there_is_no_commit_outside_a_repository(small_library):
    assert provenance.commit() is None
