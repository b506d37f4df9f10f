"""Questions say what each option stands for in every order, and show solved examples that give nothing away."""

from dataclasses import replace

import pytest

from personalib.base.records import ItemError
from personalib.questionnaires.items import RESPONSE_ORDERS, SafetyItem, TraitItem, load_facts, load_safety
from personalib.questionnaires.questions import (
    choice_questionnaire,
    choice_questions,
    some_in_turn,
    trait_questionnaire,
    trait_questions,
)
from personalib.stimuli.templates import Template, load_templates

TRAIT = TraitItem(3, "", "openness", "", "A map.", "What now?", "Go.", "Ask.", "Stay.", "Wait.")
THREE = SafetyItem(7, "PH", "A fire. What now?", ("Hide.", "Leave.", "Watch."), 1)
TWO = SafetyItem(8, "MH", "Sad. What helps?", ("A walk.", "Nothing."), 0)
EXAMPLES = [SafetyItem(100 + n, "PH", f"Example {n}?", (f"Right {n}.", f"Wrong {n}."), n % 2) for n in range(4)]


@pytest.mark.parametrize("template", load_templates())
@pytest.mark.parametrize("order", RESPONSE_ORDERS)
def test_each_role_of_a_trait_item_stands_before_its_own_response(template, order):
    [one] = trait_questions([TRAIT], [template], [order])
    shape = load_templates()[template].option
    for label, role in zip(one.labels, one.roles, strict=True):
        line = shape.format(label=label, text=getattr(TRAIT, f"response_{role}"))
        assert line in one.text.split("\n")
    assert (one.item, one.group, one.template, one.order) == ("openness:3", "openness", template, order)
    assert (one.opening, one.options, one.cluster) == ("", (), "")


@pytest.mark.parametrize("order", ["normal", "reversed"])
@pytest.mark.parametrize("item", [THREE, TWO, replace(THREE, answer=2)])
def test_each_role_of_a_choice_stands_before_its_own_option(item, order):
    [one] = choice_questions([item], orders=[order])
    assert one.labels == ("A", "B", "C")[: len(item.options)]
    assert sorted(one.roles) == ["right", "wrong1", "wrong2"][: len(item.options)]
    places = dict(zip(one.roles, one.options, strict=True))
    assert places["right"] == item.options[item.answer]
    assert [places[f"wrong{n}"] for n in range(1, len(item.options))] == [
        option for place, option in enumerate(item.options) if place != item.answer
    ]
    for label, option in zip(one.labels, one.options, strict=True):
        assert f"\n{label}. {option}\n" in one.text
    assert f"\n{'ABCD'[len(item.options)]}. " not in one.text


def test_the_reversed_order_of_a_choice_is_the_last_option_first():
    normal, turned = choice_questions([THREE], orders=["normal", "reversed"])
    assert normal.options == THREE.options and turned.options == THREE.options[::-1]
    assert normal.roles == ("wrong1", "right", "wrong2") and turned.roles == ("wrong2", "right", "wrong1")


def test_questions_come_by_template_then_order_then_item():
    other = replace(TRAIT, idx=4)
    found = trait_questions([TRAIT, other], ["bare", "letters"])
    assert [(one.template, one.order, one.item[-1]) for one in found] == [
        (template, order, number)
        for template in ("bare", "letters")
        for order in ("normal", "reversed")
        for number in "34"
    ]


@pytest.mark.parametrize("shots", [1, 3, 4])
@pytest.mark.parametrize("template", load_templates())
def test_solved_examples_come_first_with_their_answers(template, shots):
    [plain] = choice_questions([THREE], [template])
    assert choice_questions([THREE], [template], examples={"PH": EXAMPLES}, shots=0) == [plain]
    [one] = choice_questions([THREE], [template], examples={"PH": EXAMPLES}, shots=shots)
    how = load_templates()[template]
    *shown, last = one.text.split("\n\n")
    assert last == plain.text
    assert shown == [
        f"{how.render(example.question, example.options)}\n{how.labels[example.answer]}" for example in EXAMPLES[:shots]
    ]
    assert (one.roles, one.labels, one.options) == (plain.roles, plain.labels, plain.options)


def test_an_example_of_the_same_question_gives_nothing_away():
    twin = SafetyItem(99, "PH", THREE.question, ("Leave.", "Stay."), 0)
    [one] = choice_questions([THREE], examples={"PH": [twin, THREE, *EXAMPLES]}, shots=2)
    assert one.text.count(THREE.question) == 1
    assert one.text.count("Your choice:\n") == 2


def test_an_example_without_an_answer_is_passed_over():
    unsolved = replace(EXAMPLES[0], answer=None)
    [one] = choice_questions([THREE], examples={"PH": [unsolved, *EXAMPLES[1:]]}, shots=2)
    assert EXAMPLES[0].question not in one.text and EXAMPLES[2].question in one.text


@pytest.mark.parametrize(("examples", "left"), [(None, 0), ({"MH": EXAMPLES}, 0), ({"PH": [*EXAMPLES[:1], THREE]}, 1)])
def test_too_few_examples_name_category_item_and_fix(examples, left):
    with pytest.raises(ValueError, match=rf"'PH' has {left} examples beside item 7 for 2 shots.*lower the shots"):
        choice_questions([THREE], examples=examples, shots=2)


@pytest.mark.parametrize(
    "ask", [lambda **how: trait_questions([TRAIT], **how), lambda **how: choice_questions([TWO], **how)]
)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"templates": ["letters", "verse"]}, "unknown template 'verse'; choose one of letters, numbers, bare"),
        ({"orders": ["normal", "shuffled"]}, "unknown order 'shuffled'; choose one of normal, reversed"),
    ],
)
def test_an_unknown_template_or_order_names_the_known_ones(ask, how, message):
    with pytest.raises(ValueError, match=message):
        ask(**how)


@pytest.mark.parametrize("order", ["normal", "reversed"])
@pytest.mark.parametrize("template", load_templates())
@pytest.mark.parametrize("size", [5, 9, 10])
def test_an_item_may_have_more_options_than_four(size, template, order):
    item = SafetyItem(1, "math", "Which?", tuple(f"Value {n}." for n in range(size)), size - 1)
    [one] = choice_questions([item], [template], [order], {"math": [replace(item, id=2, question="Before?")]}, 1)
    labels = [str(n + 1) for n in range(size)] if template == "numbers" else list("ABCDEFGHIJ"[:size])
    assert list(one.labels) == labels
    normal = [*(f"wrong{n}" for n in range(1, size)), "right"]
    assert list(one.roles) == (normal if order == "normal" else normal[::-1])
    shape = load_templates()[template].option
    for label, option in zip(one.labels, one.options, strict=True):
        assert shape.format(label=label, text=option) in one.text.split("\n\n")[1].split("\n")
    assert one.text.split("\n\n")[0].endswith(f"\n{labels[-1]}")


def test_more_options_than_letters_are_refused():
    item = SafetyItem(1, "PH", "Which?", tuple(map(str, range(27))), 0)
    assert choice_questions([replace(item, options=item.options[:26])])[0].labels[-1] == "Z"
    with pytest.raises(ValueError, match="template 'letters' has 26 labels for 27 options"):
        choice_questions([item])


def test_a_template_of_more_labels_names_the_four_responses_of_a_trait_item():
    wide = Template("wide", tuple("ABCDEFGHIJ"), "{label}. {text}", "{question}\n{options}")
    [one] = trait_questions([TRAIT], [wide], ["normal"])
    assert one.labels == ("A", "B", "C", "D") and len(one.roles) == 4


def test_an_item_without_an_answer_is_refused_with_the_fix():
    with pytest.raises(ItemError, match=r"item 7: its answer is not known; pass the key"):
        choice_questions([TWO, replace(THREE, answer=None)])


def test_draws_of_one_question_share_a_cluster_whatever_their_template_and_order():
    draws = [THREE, TWO, replace(THREE, id=9, options=("Leave.", "Sing."), answer=0)]
    found = choice_questions(draws, ["letters", "bare"], ["normal", "reversed"])
    clusters = {one.item: {other.cluster for other in found if other.item == one.item} for one in found}
    assert clusters == {"7": {"question 7"}, "8": {"question 8"}, "9": {"question 7"}}


def test_bundled_safety_items_share_clusters_and_facts_do_not():
    safety, facts = choice_questions(load_safety()), choice_questions(load_facts())
    assert len({one.cluster for one in safety}) == len({item.question for item in load_safety()}) < len(safety)
    assert len({one.cluster for one in facts}) == len(facts)


@pytest.mark.parametrize("size", range(1, 30))
def test_some_in_turn_spreads_over_a_category_and_keeps_the_order(size):
    items = [SafetyItem(n, "ab"[n % 2], f"{n}?", ("x", "y"), 0) for n in range(2 * size)]
    for count in range(1, size + 3):
        found = some_in_turn(items, count)
        for category in "ab":
            numbers = [item.id // 2 for item in found if item.category == category]
            assert len(numbers) == min(count, size) and numbers == sorted(set(numbers))
            assert numbers[0] == 0 and size - numbers[-1] <= -(-size // len(numbers))
        assert [item.category for item in found] == sorted(item.category for item in found)


def test_some_in_turn_takes_categories_as_they_first_come():
    items = [replace(TWO, category=name) for name in ("z", "a", "z", "m")]
    assert [item.category for item in some_in_turn(items, 1)] == ["z", "a", "m"]
    assert some_in_turn([], 3) == []


def test_items_become_questionnaires_of_their_kind():
    made = trait_questionnaire([TRAIT], ("letters", "bare"))
    assert (made.name, made.kind, made.reading) == ("trait", "trait", "options")
    assert list(made.questions) == trait_questions([TRAIT], ("letters", "bare")) and len(made.questions) == 2 * 2
    made = choice_questionnaire([TWO, THREE], name="mine")
    assert (made.name, made.kind) == ("mine", "choice") and choice_questionnaire([TWO]).name == "choice"
    assert list(made.questions) == choice_questions([TWO, THREE])
    with pytest.raises(ValueError, match="no trait items to ask; pass a larger bank"):
        trait_questionnaire([])
