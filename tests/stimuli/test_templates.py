"""Prompts are what the templates file says, to the character."""

import pytest

from personalib.base.data import DataError
from personalib.questionnaires.kinds import load_judgement_templates, load_ratings
from personalib.stimuli.templates import ORDERS, Template, load_forms, load_templates, wrap

OPTIONS = ("Go.", "Stay.", "Ask.", "Wait.")


def test_the_three_templates_have_traits_structure():
    templates = load_templates()
    labels = [(name, "".join(template.labels)) for name, template in templates.items()]
    assert labels == [("letters", "ABCD"), ("numbers", "1234"), ("bare", "ABCD")]
    assert ORDERS == ("normal", "reversed")


def test_each_template_has_its_own_frame():
    letters, numbers, bare = (
        load_templates()[name].render("What now?", OPTIONS).split("\n") for name in load_templates()
    )
    assert letters[1:-1] == ["What now?", "A. Go.", "B. Stay.", "C. Ask.", "D. Wait."]
    assert "choose" in letters[0] and letters[-1] == "Your choice:"
    assert numbers[:-1] == ["What now?", "1) Go.", "2) Stay.", "3) Ask.", "4) Wait."] and "number" in numbers[-1]
    assert bare == ["What now?", "A) Go.", "B) Stay.", "C) Ask.", "D) Wait."]


def test_fewer_options_take_the_first_labels_and_braces_in_a_question_stay_as_they_are():
    assert load_templates()["bare"].render("{x}?", ["{label}", "{}"]) == "{x}?\nA) {label}\nB) {}"


def test_more_options_than_labels_are_an_error():
    with pytest.raises(ValueError, match="'letters' has 26 labels for 27 options; add labels"):
        load_templates()["letters"].render("What now?", ["Run."] * 27)
    own = Template("own", ("yes", "no"), "{label}. {text}", "{question}\n{options}")
    with pytest.raises(ValueError, match="'own' has 2 labels for 3 options; add labels"):
        own.render("What now?", ["Run."] * 3)


@pytest.mark.parametrize(
    ("labels", "last"), [("ABCD", "J"), ("abcd", "j"), ("1234", "10"), ("A", "J"), ("ABCDEFGHIJ", "J")]
)
def test_letters_and_numbers_go_on(labels, last):
    own = Template("own", tuple(labels), "{label}. {text}", "{question}\n{options}")
    assert own.labels_for(10)[-1] == last and own.labels_for(1) == (labels[0],)
    assert own.render("Which?", ["x"] * 10).endswith(f"\n{last}. x")


def test_a_context_comes_first_and_ends_its_line_once():
    assert wrap("Now?", "base") == "Now?\nAnswer:\n"
    for context in ("I am a man.", "I am a man.\n"):
        assert wrap("Now?", "base", context) == "I am a man.\nNow?\nAnswer:\n"
    assert wrap("Now?", "chat", "I am a man.") == (
        "<start_of_turn>user\nI am a man.\nNow?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert wrap("Now?") == wrap("Now?", "chat")
    assert set(load_forms()) == {"chat", "base"}


@pytest.mark.parametrize("labels", [("Yes", "No"), ("1", "2")])
def test_unquoted_words_of_truth_and_numbers_are_labels_as_they_stand(tmp_path, labels):
    path = tmp_path / "templates.yaml"
    form = "option: '{label}: {text}', text: '{question} {options}'"
    path.write_text(f"templates: {{n: {{labels: [{', '.join(labels)}], {form}}}}}")
    template = load_templates(path)["n"]
    assert template.labels == labels
    assert template.render("Now?", ["Go.", "Stay."]) == f"Now? {labels[0]}: Go.\n{labels[1]}: Stay."


ENTRIES = [
    ("{labels: [A, B], option: '{label} {text}', text: '{question}'}", r"templates: n\.text: {options} is missing"),
    ("{labels: [A, B], option: '{label} {text}', text: '{options}'}", r"templates: n\.text: {question} is missing"),
    ("{labels: [A, B], option: '{text}', text: '{question} {options}'}", r"templates: n\.option: {label} is miss"),
    ("{labels: [A, B], option: '{label} {text}', text: '{question} {options} {x}'}", r"text: {x} is no field"),
    ("{labels: [A, B], option: '{label} {text}', text: '{question} {options} {'}", r"text: .*write {{ and }}"),
    ("{labels: [A, B], option: 3, text: '{question} {options}'}", r"option: is 3; write a text, in quotes"),
    ("{labels: [A, A], option: '{label} {text}', text: '{question} {options}'}", r"labels: a label stands twice"),
    ("{labels: [true, B], option: '', text: ''}", r"n\.labels\.0: is True; write a text, in quotes"),
    ("{labels: [A, 1.5], option: '', text: ''}", r"n\.labels\.1: is 1\.5; write a text, in quotes"),
    ("{labels: [], option: '', text: ''}", r"n\.labels: it is empty; give at least one"),
    (
        "{labels: [A, B], option: '{label}{text}{text:>999999999}', text: '{question} {options}'}",
        r"{text>9+} is no field",
    ),
]


@pytest.mark.parametrize(
    ("read", "content", "problem"),
    [
        (load_templates, "", "templates: is missing"),
        (load_templates, "templates: [letters]", "templates: it: Input should be a valid dictionary"),
        (load_templates, "templates: {n: {option: '{text}', text: '{question}'}}", r"templates: n\.labels: is missing"),
        (load_templates, "templates: {n: text}", r"templates: n: Input should be a valid dictionary"),
        (load_ratings, "ratings: {a: {labels: [1, 2], text: 'Rate.'}}", r"ratings: a: {statement} is missing"),
        (load_ratings, "ratings: {a: {labels: [1, 2], text: '{statement} {x}'}}", r"ratings: a\.text: {x} is no field"),
        (load_ratings, "ratings: {a: {labels: [1, 1], text: '{statement}'}}", r"a\.labels: a label stands twice"),
        (load_judgement_templates, "judgements: {a: {labels: [y, n], text: '{question}'}}", "{answer} is missing"),
        (load_judgement_templates, "judgements: {a: {labels: [y], text: '{question}{answer}{x}'}}", r"{x} is no field"),
        *((load_templates, f"templates: {{n: {entry}}}", problem) for entry, problem in ENTRIES),
    ],
)
def test_a_bad_file_or_one_that_would_drop_something_is_one_error_that_names_file_key_and_fix(
    tmp_path, read, content, problem
):
    path = tmp_path / "templates.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=problem) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("form", "problem"), [("{text}", "{context} is missing"), ("{context}{text}{x}", "{x} is no field")]
)
def test_a_form_that_would_drop_something_is_refused(write_stimuli, form, problem):
    write_stimuli("templates.yaml", f"forms: {{chat: '{form}'}}")
    with pytest.raises(DataError, match=rf"templates\.yaml: forms: chat: {problem}"):
        load_forms.__wrapped__()
