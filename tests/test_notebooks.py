"""The notebook contract: what every chapter has, so that readers find their way and papermill can run it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from interpolations import Interpolations

from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.book.chapters import Chapter

PATHS = sorted((repository_root() / "notebooks").glob("*.ipynb"))
LONGEST_CODE_CELL = 25
MOST_ROOMS = 10
SECTIONS = ("Controls", "Limits", "Take-aways", "Exercises")
FIGURE = "plots.show_figure("
FOLD = re.compile(r"^:::+ ?\{dropdown\}|^:class:.*\bdropdown\b", re.MULTILINE)
FENCED = re.compile(r"^(```|~~~).*?^\1[`~]*\s*?$|^\$\$.*?^\$\$", re.MULTILINE | re.DOTALL)
# a lower-case word (so neither an initial nor an abbreviation such as "U.S.") that ends, and a capital after it
TWO_SENTENCES = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bal)(?<!\bcf)(?<=[a-z)\]`])[.?!][*_)\"”]* +[*_(\"“]*[A-Z]"
)
# what the library writes as Markdown: each escapes what is foreign in it, and has a test of that
WRITERS = ("stranger_note", "runner_note", "note")
# a number with decimals that is no version, path, identifier or code
DECIMAL = re.compile(r"(?<![\w./:-])\d+\.\d+(?![\w./-]*\w)")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def markdown(notebook: Any) -> Iterator[tuple[int, str]]:
    """Number and text of each Markdown cell."""
    return ((number, cell.source) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "markdown")


def code(notebook: Any) -> Iterator[tuple[int, Any]]:
    return ((number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code")


def imports(cell: Any) -> list[ast.Import | ast.ImportFrom]:
    """The imports of a code cell, but for those of cells that are no plain Python."""
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "personalib"


def figures(notebook: Any) -> list[int]:
    """Positions (from 0) of the cells that show a figure."""
    return [number - 1 for number, cell in code(notebook) if FIGURE in cell.source]


def is_prose(cell: Any) -> bool:
    """Markdown with a line that is neither empty nor a heading."""
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
    return cell.cell_type == "markdown" and bool(lines)


def is_interpretation(cell: Any) -> bool:
    """Prose that goes on from a figure, or a code cell that writes prose with the numbers in it."""
    if cell.cell_type == "code":
        return "Markdown(" in cell.source
    return is_prose(cell) and not cell.source.startswith("#")


def unfenced_lines(text: str) -> list[str]:
    """Lines outside of fenced code and display formulas."""
    return FENCED.sub("", text).splitlines()


def prose_lines(text: str) -> Iterator[str]:
    """Lines of running text, without tables and directives, list marks and inline code."""
    for line in unfenced_lines(text):
        if not line.lstrip().startswith(("|", ":", "#", "%")):
            yield re.sub(r"`[^`]*`", "`x`", re.sub(r"^[\s>*_-]*(\d+\.\s+)?", "", line))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Any:
    return read(path)


def test_there_are_chapters_in_reading_order():
    assert PATHS, "notebooks/ holds no chapter"
    for path in PATHS:
        assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem), f"{path.name}: name it NN_lower_case.ipynb"


def test_the_format_is_valid_and_the_kernel_is_python3(path, notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.get("kernelspec", {}).get("name") == "python3", f"{path.name}: set the kernel python3"
    assert "papermill" not in notebook.metadata, f"{path.name}: this is an executed copy; commit the source"


def test_no_output_is_committed(path, notebook):
    for number, cell in code(notebook):
        assert not cell.outputs, f"{path.name} cell {number}: clear the outputs"
        assert cell.execution_count is None, f"{path.name} cell {number}: clear the execution count"


def test_the_title_is_a_question_or_a_claim(path, notebook):
    first = notebook.cells[0]
    title = first.source.splitlines()[0] if first.cell_type == "markdown" else ""
    assert title.startswith("# "), f"{path.name} cell 1: start with a Markdown title, `# ...`"
    words = len(title.split()) - 1
    assert title.endswith("?") or words >= 4, f"{path.name} cell 1: ask a question or make a claim, not {title!r}"
    for number, text in markdown(notebook):
        others = [line for line in unfenced_lines(text) if line.startswith("# ")]
        assert len(others) == (number == 1), f"{path.name} cell {number}: one `# ` title a notebook; use `## ` here"


def test_it_says_what_you_will_learn(path, notebook):
    texts = [text for _, text in markdown(notebook) if "what you will learn" in text.lower()]
    assert texts, f"{path.name}: add a list 'What you will learn' under the title"
    after = texts[0].lower().partition("what you will learn")[2]
    assert re.search(r"^[-*] ", after, re.MULTILINE), f"{path.name}: write 'What you will learn' as a list"


def test_parameters_are_typed_literals_with_a_comment_each(path, notebook):
    tagged = [(number, cell) for number, cell in code(notebook) if "parameters" in tags(cell)]
    assert len(tagged) == 1, f"{path.name}: {len(tagged)} cells are tagged 'parameters'; tag exactly one"
    number, cell = tagged[0]
    assert Chapter.read(path).parameters, f"{path.name} cell {number}: declare at least one parameter"
    lines = cell.source.splitlines()
    for statement in ast.parse(cell.source).body:
        where = f"{path.name} cell {number}, `{ast.unparse(statement)}`"
        assert isinstance(statement, ast.AnnAssign), f"{where}: write `name: type = literal  # what it is`"
        after = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
        assert after.strip().startswith("# "), f"{where}: say in a comment on the same line what it is"


def test_code_cells_are_short(path, notebook):
    for number, cell in code(notebook):
        # What is imported is one list, however long.
        length = len(cell.source.splitlines()) - sum(one.end_lineno - one.lineno + 1 for one in imports(cell))
        assert length <= LONGEST_CODE_CELL, (
            f"{path.name} cell {number}: {length} lines; move what is longer than {LONGEST_CODE_CELL} into personalib"
        )


def test_a_chapter_needs_few_rooms_of_the_library_and_enters_by_the_front_door(path, notebook):
    rooms = {one.module for _, cell in code(notebook) for one in imports(cell) if is_ours(one)}
    assert len(rooms) <= MOST_ROOMS and not [room for room in rooms if room.count(".") > 1], (
        f"{path.name}: import from the packages themselves, as in from personalib.models import load_model"
    )


def test_every_figure_is_introduced_and_interpreted(path, notebook):
    places = figures(notebook)
    for position, following, previous in zip(places, [*places[1:], None], [-1, *places[:-1]], strict=True):
        before = notebook.cells[previous + 1 : position]
        after = notebook.cells[position + 1 : following]
        where = f"{path.name} cell {position + 1}"
        assert any(map(is_prose, before)), f"{where}: say in a Markdown cell before it what the figure shows"
        assert any(map(is_interpretation, after)), (
            f"{where}: interpret the figure after it, in a Markdown cell that goes on from it "
            "or in a code cell that ends in Markdown(f'...') with numbers of the result"
        )


def test_every_figure_has_caption_name_and_alternative_text(path, notebook):
    names = []
    for position in figures(notebook):
        where = f"{path.name} cell {position + 1}"
        cell = notebook.cells[position]
        assert cell.source.count(FIGURE) == 1, f"{where}: show one figure a cell"
        look = cell.metadata.get("mystnb", {})
        for group, key in (("figure", "caption"), ("figure", "name"), ("image", "alt")):
            assert str(look.get(group, {}).get(key, "")).strip(), f"{where}: set metadata mystnb.{group}.{key}"
        names.append(look["figure"]["name"])
    assert len(names) == len(set(names)), f"{path.name}: two figures have one name in {names}"


def test_no_figure_slips_past_the_contract(path, notebook):
    for number, cell in code(notebook):
        assert "plt.show(" not in cell.source, f"{path.name} cell {number}: show figures with {FIGURE}...)"
        if "figure" in cell.metadata.get("mystnb", {}):
            assert FIGURE in cell.source, f"{path.name} cell {number}: a caption without {FIGURE}...)"


def test_numbers_in_interpretations_come_from_the_result(path, notebook):
    for position in figures(notebook):
        for number, cell in enumerate(notebook.cells[position + 1 : position + 2], position + 2):
            if is_interpretation(cell) and cell.cell_type == "markdown":
                typed = [found for line in prose_lines(cell.source) for found in DECIMAL.findall(line)]
                assert not typed, f"{path.name} cell {number}: compute {typed}, in a cell that ends in Markdown(f'...')"


def test_controls_limits_takeaways_and_exercises_have_their_sections(path, notebook):
    headings = [
        line.lstrip("#").strip() for _, text in markdown(notebook) for line in unfenced_lines(text) if line[:2] == "##"
    ]
    for section in SECTIONS:
        assert section in headings, f"{path.name}: add a section `## {section}`"


def test_exercises_have_folded_solutions(path, notebook):
    text = "\n".join(text for _, text in markdown(notebook))
    exercises = text.partition("## Exercises")[2]
    assert FOLD.search(exercises), f"{path.name}: fold each solution away with `:::{{dropdown}} Solution`"


def test_markdown_has_one_sentence_a_line(path, notebook):
    for number, text in markdown(notebook):
        for line in prose_lines(text):
            found = TWO_SENTENCES.search(line)
            assert not found, f"{path.name} cell {number}: start a new line after {line[: found.end() - 1].strip()!r}"


@pytest.mark.parametrize(
    ("line", "two"),
    [
        ("One sentence. Another one.", True),
        ("Is it one? No.", True),
        ("It ends (here). Then goes on.", True),
        ("One sentence, e.g. This one.", False),
        ("By Yang et al. The paper says so.", False),
        ("A version such as 1.0.4, and one sentence.", False),
        ("1. A numbered point.", False),
        ("**2. A bold number.**", False),
        ("| One. Two. | in a table |", False),
    ],
)
def test_the_sentence_rule_itself(line, two):
    assert any(TWO_SENTENCES.search(part) for part in prose_lines(line)) is two


@pytest.mark.parametrize(
    ("line", "decimals"),
    [
        ("It fell by 0.25, or 12.5 %.", ["0.25", "12.5"]),
        ("Version 1.0.4 of arXiv:2410.10863 and `x = 0.5`.", []),
        ("It fell by 3 points.", []),
    ],
)
def test_the_decimal_rule_itself(line, decimals):
    assert [found for part in prose_lines(line) for found in DECIMAL.findall(part)] == decimals


def test_foreign_text_is_escaped_where_it_becomes_markdown(path, notebook):
    cells = [(number, cell.source, "parameters" in tags(cell)) for number, cell in code(notebook)]
    found = [f"{path.name} cell {number}: {text}" for number, text in Interpolations(cells, WRITERS).foreign()]
    told = "use escaped(...), code(...) or to_markdown(...), or a format of numbers such as {x:d}, for:"
    assert not found, "\n".join([told, *found])


def test_nothing_but_markdown_and_tables_is_displayed(path, notebook):
    for number, cell in code(notebook):
        where = f"{path.name} cell {number}"
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom | ast.Import) and "IPython" in ast.unparse(node):
                assert ast.unparse(node) == "from IPython.display import Markdown", f"{where}: HTML is not escaped"
            styled = isinstance(node, ast.Attribute) and node.attr == "style"
            assert not styled, f"{where}: a Styler does not escape HTML; display the DataFrame"


TITLES = "titles = read()\n"


@pytest.mark.parametrize(
    ("source", "foreign"),
    [
        ("Markdown(f'{titles[0]}')", ["titles[0]"]),
        ("Markdown('of ' + titles[0].lower())", ["titles[0]"]),
        ("Markdown('of {}'.format(titles[0]))", ["'of {}'.format(titles[0])"]),
        ("Markdown('of %s' % titles[0])", ["'of %s' % titles[0]"]),
        ("Markdown(f'{titles[0]:>20}')", ["titles[0]"]),
        ("Markdown(f'{titles.sum()}')", ["titles.sum()"]),
        ("Markdown(f'{titles.sum():d} {titles[0]:,} {titles[0]:+.1f} {titles[0]:.{width}%}')", []),
        ("Markdown(f'{(titles == 1).sum()} of {len(titles)}, {escaped(titles[0])} {code(titles[1])}')", []),
        ("Markdown(to_markdown(titles))", []),
        ("Markdown(data=str(titles))", ["str(titles)"]),
        ("Markdown(titles.to_string())", ["titles.to_string()"]),
        ("Markdown(', '.join(titles))", ["read()"]),
        ("Markdown(', '.join(map(escaped, titles)))", []),
        ("Markdown('\\n'.join(f'- {one}: {number:d}' for one, number in titles.items()))", ["read()"]),
        ("Markdown('\\n'.join(f'- {escaped(one)}: {number:d}' for one, number in titles.items()))", []),
        ("lines = []\nfor one in titles:\n    lines.append(f'- {one}')\nMarkdown(' '.join(lines))", ["read()"]),
        ("kinds = {}\nkinds['a'] = titles[0]\nMarkdown(kinds['a'])", ["kinds['a']"]),
        ("said = 'a'\nif x:\n    said = titles[0]\nMarkdown(said if y else 'b')", ["titles[0]"]),
        ("said = 'a'\nsaid += titles[0]\nMarkdown(said)", ["titles[0]"]),
        ("kinds = {'a': 'b'}\nMarkdown(kinds[titles[0]])", []),
        ("def said(x):\n    return f'{x}'\nMarkdown(said(titles))", ["x"]),
        ("def said(x):\n    return f'{x:.2f}'\nMarkdown(said(titles))", []),
        ("for kind, name in (('a', 'b'), ('c', titles[0])):\n    Markdown(kind)", ["titles[0]"]),
        ("display(Markdown(f'{limit} {name}'))", ["name"]),
        ("titles = 'mine'\nMarkdown(titles)", []),
        ("Markdown(note(titles))", []),
    ],
)
def test_the_rule_of_foreign_text_itself(source, foreign):
    told = "limit: int | None = None\nname: str = 'a'"
    found = Interpolations([(1, told, True), (2, TITLES, False), (3, source, False)], ("note",)).foreign()
    assert [text for _, text in found] == foreign


WRONG = [
    ("00", "background", {"gendr": "male"}, "unknown background factor 'gendr'; did you mean 'gender'.*choose one of"),
    ("00", "background", {"gender": "tall"}, "unknown element of gender 'tall'; choose one of .*male"),
    ("00", "trait", "openess", "unknown trait 'openess'; did you mean 'openness'"),
    ("03", "trait", "mood", "unknown trait 'mood'; choose one of openness"),
    ("03", "first", {"gender": "tall"}, "unknown element of gender"),
    ("03", "second", {"mood": "tall"}, "unknown background factor"),
    ("03", "form", "dialogue", "unknown form"),
    ("04", "told_in", "fourth", "unknown grammatical person"),
    ("05", "element", "gender.tall", "unknown element 'gender.tall'; .*gender.male"),
    ("06", "criterion", "auc", "unknown criterion"),
    ("06", "pooling", "sum", "unknown pooling"),
    ("07", "family", "pressure", "unknown family 'pressure'; did you mean 'pressures'"),
    ("07", "control", "none", "unknown family"),
    ("07", "position", "first", "unknown position"),
    ("07", "method", "ica", "unknown method"),
    ("07", "template", "leters", "unknown template 'leters'; did you mean 'letters'"),
    ("07", "form", "dialogue", "unknown form"),
    ("08", "method", "ica", "unknown method"),
    ("09", "factor", "gendr", "unknown background factor"),
    ("10", "pressure", "trusst", "unknown pressure 'trusst'; did you mean 'trust'"),
    ("12", "element", "gender.tall", "unknown element"),
    ("15", "trait", "psychopathy", "unknown trait 'psychopathy'; did you mean 'Psychopathy'"),
    ("17", "element", "gender.tall", "unknown element"),
    ("18", "element", "gender.tall", "unknown element"),
]


def test_a_name_that_there_is_not_is_refused_by_the_first_cell():
    for chapter, parameter, value, message in WRONG:
        [path] = [path for path in PATHS if path.stem.startswith(chapter)]
        cells = [cell for _, cell in code(read(path))]
        at = next(place for place, cell in enumerate(cells) if "parameters" in tags(cell))
        names: dict[str, Any] = {}
        exec(cells[at].source, names)
        exec(cells[at + 1].source, names)
        assert parameter in names
        with pytest.raises(DataError, match=message):
            exec(cells[at + 1].source, names | {parameter: value})
