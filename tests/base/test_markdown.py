import pytest
from docutils import nodes
from docutils.core import publish_doctree
from hostile import HOSTILE, SECRET
from myst_parser.docutils_ import Parser

from personalib.base.markdown import code, escaped

# what the pages of the book may hold, and more
EXTENSIONS = (
    *("amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "smartquotes", "substitution"),
    *("fieldlist", "html_admonition", "html_image", "linkify", "replacements", "strikethrough", "tasklist"),
)
PLACES = {
    "paragraph": "{}",
    "within a paragraph": "Of {} it is said.",
    "bold": "The **{}** of it.",
    "heading": "## {}",
    "list": "- {}",
    "cell": "| a | b |\n| - | - |\n| {} | 1 |",
    "link": "[{}](https://example.com)",
}


def _page(text, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    settings = {"myst_enable_extensions": EXTENSIONS, "report_level": 5, "file_insertion_enabled": True}
    return publish_doctree(text, source_path=str(tmp_path / "page.md"), parser=Parser(), settings_overrides=settings)


def _kinds(page):
    return {type(node).__name__ for node in page.findall()}


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_text_is_shown_as_it_is(place, tmp_path):
    plain = _kinds(_page(PLACES[place].format("word"), tmp_path))
    for text in HOSTILE:
        page = _page(PLACES[place].format(escaped(text)), tmp_path)
        assert " ".join(text.split()) in page.astext(), text
        assert _kinds(page) == plain, text


def test_the_hostile_texts_are_hostile(tmp_path):
    live = [text for text in HOSTILE if _kinds(_page(text, tmp_path)) != _kinds(_page("word", tmp_path))]
    assert len(live) > 20
    assert SECRET in _page(HOSTILE[3], tmp_path).astext()


@pytest.mark.parametrize("text", ["a`b", "``", "`", "{x}", "<b>", "$x$", "\\", "a\nb"])
def test_code_is_shown_as_it_is(text, tmp_path):
    page = _page(f"Of {code(text)} it is said.", tmp_path)
    assert [node.astext().strip() for node in page.findall(nodes.literal)] == [text.replace("\n", " ")]


def test_what_cannot_be_printed_is_marked():
    assert escaped("a\x00b\ud800c\u202ed") == "a\ufffdb\ufffdc\ufffdd"
    assert escaped("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f52c").encode()
    assert escaped(" a\r\n\u2028b\t") == "a b"
    assert escaped(None) == "None"
