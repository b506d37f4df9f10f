import pytest

from personalib.book.parameters import Parameter, ParameterError, declared_parameters, refuse_secret

CELL = """\
# what to look at
items: int = 100  # more = slower
scale: float = 1.0  # a factor
traits: list[str] = [
    "openness",  # the first
    "neuroticism",
]
model: str = "organism"  # = a folder, or the name of a model
layer: int | None = None  # all of them
order: Literal["normal", "reversed"] = "normal"  # of the options
weights: dict[str, float] = {"a": 1.5}  # by name
fast: bool = False  # fewer items
plain = 3  # the type of the default counts
layer_or_name: int | str = "auto"  # the first that fits
limit = None  # whatever YAML makes of it
days: list = []  # texts, for YAML of version 1.2 knows no dates
perhaps: Optional[str] = None
"""


@pytest.fixture(scope="module")
def declared():
    return declared_parameters(CELL)


def test_declarations_are_read_with_type_and_default(declared):
    assert len(declared) == 13 and list(declared)[:3] == ["items", "scale", "traits"]
    assert declared["items"] == Parameter("items", "int", 100)
    assert declared["traits"].default == ["openness", "neuroticism"]
    assert declared["plain"].annotation == "int"


READ_AS = {
    "items": {"7": 7, "-7": -7},
    "scale": {"1e-3": 0.001, "2": 2.0},
    "traits": {"[extraversion]": ["extraversion"]},
    "model": {"7": "7", "null": "null", "a: #b": "a: #b"},
    "layer": {"None": None, "3": 3},
    "order": {"reversed": "reversed"},
    "weights": {"{a: 1e-1, b: 2}": {"a": 0.1, "b": 2.0}},
    "fast": {"true": True, "False": False},
    "layer_or_name": {"5": 5, "auto": "auto", "2024-01-01": "2024-01-01"},
    "limit": {"5": 5, "1e-3": 0.001, "[1, 2]": [1, 2], "None": None, "'5'": "5"}
    | {text: text for text in ("2024-01-01", "yes", "# no comment", "")},
    "days": {"[2024-01-01, yes]": ["2024-01-01", "yes"]},
    "perhaps": {"true": "true", "~": None},
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in READ_AS.items() for text in texts])
def test_text_is_read_as_the_declared_type(declared, name, text):
    read, value = declared[name].parse(text), READ_AS[name][text]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("items", text) for text in ("many", "1.5", "true")),
        *(("traits", text) for text in ("openness", "[1, 2]")),
        *(("scale", text) for text in (".nan", "1e999")),
        *(("fast", "1"), ("order", "sideways"), ("layer", "{"), ("weights", "{a: .inf}")),
    ],
)
def test_text_of_another_type_is_refused_with_the_expected_one(declared, name, text):
    with pytest.raises(ParameterError, match=rf"parameter '{name}' is .*default.*not '"):
        declared[name].parse(text)


def test_a_path_that_is_there_is_read_from_where_the_reader_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "plan.yaml").touch()
    (tmp_path / "organism").mkdir()
    model = Parameter("model", "str", "organism")
    assert model.parse("models/mine") == str(tmp_path / "models" / "mine")
    assert model.parse("./organism") == str(tmp_path / "organism")
    assert model.parse("plan.yaml") == str(tmp_path / "plan.yaml")
    # Names are names, whatever lies beside the reader.
    for name in ("organism", "google/gemma-2b-it", "other.yaml", "a/" * 5000):
        assert model.parse(name) == name


def test_the_name_of_a_folder_that_can_be_loaded_is_a_path_unless_the_table_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in (("distilgpt2", "config.json"), ("mysae", "cfg.json"), ("organism", "config.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "letters").mkdir()
    (tmp_path / "cfg.json").touch()
    named = Parameter("model", "str", "organism")
    assert named.parse("distilgpt2") == str(tmp_path / "distilgpt2")
    assert named.parse("mysae") == str(tmp_path / "mysae")
    for name in ("organism", "letters", ""):
        assert named.parse(name) == name


@pytest.mark.parametrize(
    "text", ['"', "\\", "'", "\n", "a\r\n\tb", "{x} {{y}}", "\\u0041", "\ud800", "\0", "#", "é\u2028"]
)
def test_a_text_is_taken_as_it_stands_however_odd(declared, text):
    assert declared["model"].parse(text) == text
    assert declared["limit"].parse(text) == text or text == "'"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [1.0, float("inf")], {"a": (float("nan"),)}])
def test_a_number_that_is_not_finite_is_refused_unless_the_default_is_none(value):
    with pytest.raises(ParameterError, match="'size' is to be a finite number"):
        Parameter("size", "Any", 1.0).check(value)
    assert repr(Parameter("size", "Any", [float("inf")]).check(value)) == repr(value)


RUNS = "().__class__.__base__.__subclasses__()"
HARMFUL = (
    f"[c for c in {RUNS} if c.__name__ == '_wrap_close'][0].__init__.__globals__['system']('touch {{mark}}')",
    "(lambda: open('{mark}', 'w'))()",
    "dict[str, open('{mark}', 'w')]",
    "Literal[open('{mark}', 'w')]",
    "list[[open('{mark}', 'w')][0]]",
    "__import__('os').system('touch {mark}')",
)


@pytest.mark.parametrize("harmful", HARMFUL)
def test_no_annotation_or_default_is_run(tmp_path, harmful):
    source = harmful.format(mark=tmp_path / "mark")
    for cell in (f"x: {source} = 1", f"x: int | {source} = 1", f"x: int = {source}", f"x = {source}"):
        with pytest.raises(ParameterError, match=r"annotation|must be a literal"):
            declared_parameters(cell)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "annotation",
    ["dict[str, list[int | None]]", "tuple[int, ...]", "Optional[int]", "Union[int, str]", "Literal['a', 1]", "None"],
)
def test_the_types_that_may_be_named(annotation):
    value = {"tuple": (1, 2), "dict": {"a": [1, None]}, "None": None}.get(annotation.partition("[")[0], 1)
    assert Parameter("x", annotation, value).check(value) == value


@pytest.mark.parametrize(
    "annotation", ["int[str]", "Literal", "list[int", "x: y", "'int'", "int()", "...", "set", "|".join(["int"] * 9999)]
)
def test_other_annotations_are_refused(annotation):
    with pytest.raises(ParameterError, match="has the annotation"):
        Parameter("x", annotation, 1).check(1)


@pytest.mark.parametrize(
    "value", ["[" * 5000, "-" * 50000 + "1", "'a\0'", "{[]: 1}", "1" * 5000, f"1; y: {'|'.join(['int'] * 9999)} = 1"]
)
def test_a_cell_that_python_cannot_read_is_refused(value):
    with pytest.raises(ParameterError, match=r"not valid Python|must be a literal|Exceeds") as caught:
        declared_parameters(f"x = {value}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("items: int = len('abc')", "must be a literal"),
        ("import os", "nothing but"),
        ("items: int = 'a'", "'items' is int"),
        ("items: numpy.ndarray = 1", "annotation 'numpy.ndarray'"),
        ("items: int = ", "not valid Python"),
        ("a = b = 1", "nothing but"),
        ("api_key: str = ''", "looks like a secret"),
    ],
)
def test_a_parameters_cell_holds_typed_literals_only(cell, message):
    with pytest.raises(ParameterError, match=message):
        declared_parameters(cell)


def test_names_of_secrets_are_refused_and_those_that_only_resemble_them_are_not():
    for name in ("key", "hf_token", "API_KEY", "openai_apikey", "password", "db_password", "my_secret"):
        with pytest.raises(ParameterError, match="environment variable"):
            refuse_secret(name)
    for name in ("max_tokens", "token_position", "keys", "monkey", "seed", "items_per_trait"):
        refuse_secret(name)
