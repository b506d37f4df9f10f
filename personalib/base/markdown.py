"""Foreign text in Markdown: shown as it is, never obeyed.

What cells display and what reports say is read as MyST, in which a directive includes a file and HTML runs in the
reader's browser. Items, labels, titles, names and paths come from files that nobody here wrote.
"""

import re
import string

_PUNCTUATION = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation if sign not in ",;?"})
# control characters, halves of a surrogate pair, and what turns the direction of the text around it
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# words with next to nothing between them, which nothing reads as more than that
_PLAIN = re.compile(r"[^\W_]+(?:(?:[,;] |[ _.,/-])[^\W_]+)*")
_BACKTICKS = re.compile("`+")


def escaped(text: object) -> str:
    r"""A foreign text as Markdown of one line that shows it literally.

    It may stand wherever text of a line may: in a paragraph, a heading, a list, a cell of a table, a link's text, a
    caption. Inside backticks a backslash is itself: there use :func:`code`. Each sign that Markdown, MyST or HTML may
    read gets a backslash (mere words stay as they are), blanks and line breaks are folded, and U+FFFD stands where a
    character cannot be shown.

    Example:
        >>> print(escaped("<b>*bold*</b>"))
        \<b\>\*bold\*\<\/b\>
    """
    line = _line(text)
    return line if _PLAIN.fullmatch(line) else line.translate(_PUNCTUATION)


def code(text: object) -> str:
    r"""A foreign text as inline code, which may stand where :func:`escaped` may except in a cell of a table.

    Example:
        >>> print(code("a`b"))
        `` a`b ``
    """
    line = _line(text)
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(line)), default=0))
    blank = " " if len(fence) > 1 or not line else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def _line(text: object) -> str:
    """A text on one line and without what cannot be printed."""
    return _UNPRINTABLE.sub("\ufffd", " ".join(str(text).split()))
