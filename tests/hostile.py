"""What is no mere content to who reads it: texts for Markdown, MyST or HTML, and a pickle."""

from pathlib import Path

# what no page may show: the contents of secret.txt
SECRET = "the contents of a file of this machine"
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- hidden",
    "```{include} secret.txt\n```",
    ":::{include} secret.txt\n:::",
    "x\n\n```{include} secret.txt\n```\n",
    "{math}`x`{.red}",
    "$x^2$ and $$y$$",
    "\\begin{equation}x\\end{equation}",
    "{{ title }}",
    "# heading",
    "1. one",
    "- one",
    "> quoted",
    "a | b\\| c \\",
    "*a* _b_ **c** ~~d~~ `e`",
    "[link](javascript:alert(1)) ![image](x.png) [^1] [r]: x",
    "https://example.org www.example.org <https://example.org> a@example.org",
    "% comment",
    "+++",
    "---",
    "===",
    ":field: x",
    "(target)=",
    "&lt;b&gt; &amp; (c) ... -- 'quoted' \"quoted\"",
    "    four blanks",
    "[x]{.red}",
    "term\n: definition",
    "[^1]: note",
    "`",
    "``` `` `",
    "\\",
    "{#here .red onclick=alert(1)}",
    "{download}`secret.txt`",
    "```{raw} html\n:file: secret.txt\n```",
    "```{eval-rst}\n.. include:: secret.txt\n```",
    "[link][r]\n\n[r]: javascript:alert(1)",
    "</td></table><iframe src='//example.org'>",
    "| a | b |\n| - | - |\n| c | d |",
)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)
