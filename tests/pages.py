"""What tests of views share: a page taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements and text of a page, labels and texts of its rows, and what is marked.

    ``amiss`` are tags that were closed where they were not open; ``around`` is the text outside of rows.
    """

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.amiss, self.marked = [], [], [], []
        self.text, self.around, self.rows = "", "", {"dt": [], "dd": []}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "input":
            self.open.append(tag)
        if tag in self.rows:
            self.rows[tag].append("")
        if tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.amiss.append(tag)

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        row = next((tag for tag in self.rows if tag in self.open), None)
        if row:
            self.rows[row][-1] += data
        else:
            self.around += data
        if "mark" in self.open:
            self.marked[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def titles(self):
        return [attributes["title"] for _, attributes in self.elements if "title" in attributes]

    @property
    def shades(self):
        return [float(mark["style"].split(":")[1]) for mark in self.all("mark")]

    @property
    def signs(self):
        return [mark["class"].removeprefix("tv-") for mark in self.all("mark")]
