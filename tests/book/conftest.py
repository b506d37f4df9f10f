"""What tests of the book share: the sources of a small one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from personalib.base.provenance import repository_root


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[..., Path]:
    """Writes a book's table of contents and pages, and returns its root; notebooks are yet to come."""

    def write(toc: str, **pages: str) -> Path:
        root = tmp_path / "root"
        shutil.copytree(repository_root() / "book" / "_static", root / "book" / "_static")
        shutil.copy(repository_root() / "_config.yml", root)
        (root / "book" / "_toc.yml").write_text(toc)
        (root / "book" / "references.bib").touch()
        for name, text in pages.items():
            (root / "book" / f"{name}.md").write_text(text)
        return root

    return write
