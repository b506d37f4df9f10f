import pytest

from personalib.parameters import Parameter, ParameterError, declared_parameters, refuse_secret

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
"""


@pytest.fixture(scope="module")
def declared():
    return declared_parameters(CELL)


def test_declarations_are_read_with_type_and_default(declared):
    assert ",".join(declared) == "items,scale,traits,model,layer,order,weights,fast,plain"
    assert declared["items"] == Parameter("items", "int", 100)
    assert declared["traits"].default == ["openness", "neuroticism"]
    assert declared["plain"].annotation == "int"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("items", "7", 7),
        ("items", "-7", -7),
        ("scale", "1e-3", 0.001),
        ("scale", "2", 2.0),
        ("traits", "[extraversion]", ["extraversion"]),
        ("model", "7", "7"),
        ("model", "null", "null"),
        ("model", "a: #b", "a: #b"),
        ("layer", "None", None),
        ("layer", "3", 3),
        ("order", "reversed", "reversed"),
        ("weights", "{a: 1e-1, b: 2}", {"a": 0.1, "b": 2.0}),
        ("fast", "true", True),
        ("fast", "False", False),
    ],
)
def test_text_is_read_as_the_declared_type(declared, name, text, value):
    read = declared[name].parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("items", "many"),
        ("items", "1.5"),
        ("items", "true"),
        ("fast", "1"),
        ("traits", "openness"),
        ("traits", "[1, 2]"),
        ("order", "sideways"),
        ("layer", "{"),
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


def test_a_whole_number_serves_as_a_float_but_no_truth_value_as_a_number(declared):
    assert declared["scale"].check(2) == 2.0
    with pytest.raises(ParameterError, match="'items' is int"):
        declared["items"].check(True)


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


@pytest.mark.parametrize(
    "name", ["key", "hf_token", "API_KEY", "openai_apikey", "password", "db_password", "my_secret"]
)
def test_names_of_secrets_are_refused(name):
    with pytest.raises(ParameterError, match="environment variable"):
        refuse_secret(name)


@pytest.mark.parametrize("name", ["max_tokens", "token_position", "keys", "monkey", "seed", "items_per_trait"])
def test_names_that_only_resemble_secrets_are_not(name):
    refuse_secret(name)
