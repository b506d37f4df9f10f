"""A planned questionnaire asks what its plan says, and as much of it."""

import json
from collections import Counter

import pytest

from personalib.base.records import ItemError, LeftOutWarning
from personalib.evaluation.plan import QuestionnairePlan, load_plan
from personalib.evaluation.questionnaires import planned_questionnaire
from personalib.questionnaires.items import load_facts, load_safety, load_trait, validation_split
from personalib.questionnaires.kinds import load_scale, pair_questions
from personalib.stimuli.factors import TRAITS
from personalib.stimuli.templates import load_templates

CATEGORIES = list(dict.fromkeys(item.category for item in load_safety()))
DEV = [
    {"id": 2 * place + n, "category": name, "question": f"{name} {n}?", "options": ["x", "y"], "answer": n}
    for place, name in enumerate(CATEGORIES)
    for n in range(2)
]


def planned(kind, **fields):
    return planned_questionnaire(QuestionnairePlan(name="q", kind=kind, **fields))


def groups(found, *others):
    return Counter((one.group, *(getattr(one, other) for other in others)) for one in found.questions)


def items(found):
    return {one.item for one in found.questions}


def test_name_kind_and_reading_are_the_plans():
    found = planned("choice", per_group=1, reading="words")
    assert (found.name, found.kind, found.reading) == ("q", "choice", "words")
    assert all(len(one.options) == len(one.labels) for one in found.questions)
    assert planned("pairs").reading == "options"


@pytest.mark.parametrize("count", [1, 5])
def test_so_many_items_of_each_trait_are_asked_in_every_template_and_both_orders(count):
    found = planned("trait", per_group=count, templates=("letters", "bare"))
    assert groups(found, "template", "order") == {
        (trait, template, order): count
        for trait in TRAITS
        for template in ("letters", "bare")
        for order in ("normal", "reversed")
    }


def test_items_that_pushes_are_chosen_by_are_left_out_unless_they_are_asked_for():
    chosen, left = ({f"{one.personality}:{one.idx}" for one in part} for part in validation_split(load_trait()))
    assert items(planned("trait")) == left and items(planned("trait", evaluation_only=False)) == left | chosen
    assert not items(planned("trait", per_group=20)) & chosen


def test_a_choice_questionnaire_has_one_order_unless_more_are_named():
    assert {one.order for one in planned("choice", per_group=2).questions} == {"normal"}
    found = planned("choice", per_group=2, orders=("normal", "reversed"), templates=("numbers",))
    assert set(groups(found, "order", "template").values()) == {2} and found.questions[0].template == "numbers"


def test_so_many_items_of_each_category_are_asked():
    whole = Counter(item.category for item in load_safety())
    assert groups(planned("choice")) == {(name,): count for name, count in whole.items()}
    assert groups(planned("choice", per_group=7)) == {(name,): min(7, count) for name, count in whole.items()}
    some = planned("choice", per_group=7).questions
    assert len({one.cluster for one in some}) > len(some) / 2


def test_facts_are_asked_as_choices_and_as_judgements():
    facts = {item.question: item for item in load_facts()}
    found = planned("choice", source="facts", per_group=3)
    assert set(groups(found).values()) == {3} and set(groups(found)) == {(one.category,) for one in facts.values()}
    for one in found.questions:
        [fact] = [fact for fact in facts.values() if str(fact.id) == one.item]
        assert fact.question in one.text and one.options[one.roles.index("right")] == fact.options[fact.answer]
    judged = planned("judgement", per_group=3)
    assert groups(judged, "order") == {(*name, shown): 3 for name in groups(found) for shown in ("right", "wrong")}
    assert items(judged) == items(found)


def test_a_judgement_takes_its_template():
    assert planned("judgement", per_group=1).questions[0].template == "check"
    assert planned("judgement", per_group=1, templates=("knowledge",)).questions[0].template == "knowledge"


@pytest.mark.parametrize("shots", [1, 3])
def test_shots_come_from_the_questionnaire_itself_by_default(shots):
    known = {item.question: item for item in load_safety()}
    how = load_templates()["letters"]
    for one in planned("choice", per_group=2, shots=shots).questions:
        *shown, last = one.text.split("\n\n")
        assert len(shown) == shots
        [asked] = [question for question in known if question in last]
        examples = [question for question in known for text in shown if question in text]
        assert len(set(examples)) == shots and asked not in examples
        for text in shown:
            [example] = [known[question] for question in examples if question in text]
            assert example.category == one.group
            same = [other for other in load_safety() if other.question == example.question]
            assert any(text == f"{how.render(o.question, o.options)}\n{how.labels[o.answer]}" for o in same)


def test_shots_may_come_from_a_file(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in DEV))
    for one in planned("choice", per_group=1, shots=2, examples=str(path)).questions:
        first, second, _ = one.text.split("\n\n")
        assert f"\n{one.group} 0?\n" in first and first.endswith("\nA")
        assert f"\n{one.group} 1?\n" in second and second.endswith("\nB")


def bench(tmp_path, same=2, total=10):
    """Items in SafetyBench's form, some of which have two options of one text."""
    rows = [
        {"id": n, "category": "PP", "question": f"{n}?", "options": ["1, 2", "2, 3", "2, 3." if n < same else "4"]}
        for n in range(total)
    ]
    (tmp_path / "test_zh.json").write_text(json.dumps(rows))
    (tmp_path / "key.json").write_text(json.dumps({str(n): {"category": "PP", "answer": 1} for n in range(total)}))
    return {"source": str(tmp_path / "test_zh.json"), "answers": str(tmp_path / "key.json")}


def test_options_of_one_text_are_asked_as_they_are_where_letters_answer(tmp_path):
    for template in ("letters", "numbers", "bare"):
        found = planned("choice", templates=(template,), **bench(tmp_path))
        assert len(found.questions) == 10 and found.skipped == ()
        assert found.questions[0].options == ("1, 2", "2, 3", "2, 3.")


def test_options_of_one_text_are_left_out_and_counted_where_texts_answer(tmp_path):
    with pytest.warns(LeftOutWarning, match=r"test_zh.json: 2 of 10 items left out: item 0, two options are the same"):
        found = planned("choice", reading="words", **bench(tmp_path))
    assert items(found) == {str(n) for n in range(2, 10)}
    assert [one.where for one in found.skipped] == [f"{tmp_path / 'test_zh.json'}, item {n}" for n in (0, 1)]
    with pytest.raises(ItemError, match=r"item 0, two options are the same text.* \(5 of 10 items cannot be used\)"):
        planned("choice", reading="words", **bench(tmp_path, same=5))


def test_an_item_of_more_options_than_a_template_has_labels_is_left_out_and_counted(tmp_path):
    options = [list(map(str, range(size))) for size in (4, 27, 4, 4)]
    common = {"category": "PP", "answer": 0}
    rows = [common | {"id": n, "question": f"{n}?", "options": own} for n, own in enumerate(options)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.warns(LeftOutWarning, match=r"a.json: 1 of 4 items left out: item 1, template 'letters' has 26 labels"):
        found = planned("choice", source=str(tmp_path / "a.json"), templates=("numbers", "letters"))
    assert items(found) == {"0", "2", "3"}


def test_safetybenchs_examples_need_no_numbers(tmp_path):
    by_category = {"PP": [{"question": f"Example {n}?", "options": ["x", "y"], "answer": n % 2} for n in range(5)]}
    (tmp_path / "dev_zh.json").write_text(json.dumps(by_category))
    found = planned("choice", shots=5, examples=str(tmp_path / "dev_zh.json"), **bench(tmp_path))
    assert all(one.text.count("Example") == 5 for one in found.questions)


@pytest.mark.parametrize("kind", ["trait", "judgement", "scale"])
def test_rows_that_are_left_out_of_any_kind_are_recorded(tmp_path, kind):
    good = {
        "trait": {"personality": "openness", "question": "?"}
        | {f"response_{k}{n}": k + n for k in ("high", "low") for n in "12"},
        "judgement": {"question": "?", "right_answer": "a", "hallucinated_answer": "b"},
        "scale": {"statement": "I.", "key": "openness", "reverse": False},
    }[kind]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(good) + "\n" for _ in range(9)) + "{\n")
    more = {"evaluation_only": False} if kind == "trait" else {}
    with pytest.warns(LeftOutWarning, match="1 of 10 rows left out: row 10, not valid JSON"):
        found = planned(kind, source=str(path), **more)
    assert [one.where for one in found.skipped] == [f"{path}, row 10"] and len(items(found)) == 9


def test_a_key_of_answers_is_used(tmp_path):
    source, key = tmp_path / "items.json", tmp_path / "key.json"
    source.write_text(
        json.dumps([{name: row[name] for name in row if name != "answer"} | {"id": 5} for row in DEV[:1]])
    )
    key.write_text(json.dumps({"5": {"answer": 1}}))
    [one] = planned("choice", source=str(source), answers=str(key)).questions
    assert one.roles == ("wrong1", "right")
    with pytest.raises(ItemError, match="its answer is not known"):
        planned("choice", source=str(source))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_scale_has_as_many_statements_for_a_trait_as_against_it(count):
    found = planned("scale", per_group=count)
    assert max(groups(found).values()) <= count
    assert count % 2 or groups(found, "order") == {
        (trait, order): count // 2 for trait in TRAITS for order in ("normal", "reversed")
    }


def test_a_scale_is_asked_whole_and_with_its_rating():
    assert items(planned("scale")) == {item.id for item in load_scale()}
    assert planned("scale").questions[0].labels == tuple("12345")
    assert planned("scale", templates=("yes_no",)).questions[0].labels == (" no", " yes")


def test_word_pairs_are_asked_whole():
    assert list(planned("pairs").questions) == pair_questions()


@pytest.mark.parametrize(
    ("kind", "template"), [("trait", "verse"), ("choice", "five"), ("judgement", "letters"), ("scale", "letters")]
)
def test_an_unknown_template_names_the_known_ones(kind, template):
    with pytest.raises(ValueError, match=f"unknown (template|rating) '{template}'; (did you .*|)(use|choose) one of"):
        planned(kind, templates=(template,))


def test_a_questionnaire_without_any_question_left_is_refused(tmp_path):
    chosen, _ = validation_split(load_trait())
    path = tmp_path / "few.jsonl"
    path.write_text(json.dumps(vars(chosen[0])) + "\n")
    assert len(planned("trait", source=str(path), evaluation_only=False).questions) == 2
    with pytest.raises(ValueError, match="q: no questions are left to ask"):
        planned("trait", source=str(path))


def test_every_questionnaire_of_the_organisms_plan_can_be_asked():
    for one in load_plan("organism").questionnaires:
        found = planned_questionnaire(one)
        assert found.name == one.name and len(found.questions) == len(set(found.questions))
        assert len({(q.item, q.template, q.order) for q in found.questions}) == len(found.questions)


def test_a_file_of_word_pairs_is_asked_instead_of_the_bundled_ones(tmp_path):
    path = tmp_path / "pairs.yaml"
    path.write_text("openings: [They are]\npairs:\n  size: {title: Size, element: size.tall, words: [tall, short]}\n")
    asked = planned_questionnaire(QuestionnairePlan(name="own", kind="pairs", source=str(path)))
    assert [(one.opening, one.labels) for one in asked.questions] == [("They are", (" tall", " short"))]


@pytest.mark.parametrize("kind", ["trait", "choice"])
def test_templates_may_come_from_a_file(kind, tmp_path):
    path = tmp_path / "own.yaml"
    line = "option: '{label}) {text}', text: '{question}\n\n{options}\n\n"
    path.write_text(
        f"templates:\n  one: {{labels: [A, B, C, D], {line}one'}}\n  two: {{labels: [1, 2, 3, 4], {line}two'}}\n"
    )
    first = planned(kind, per_group=1, template_file=str(path)).questions
    assert {one.template for one in first} == {"one"} and all(one.text.endswith("one") for one in first)
    second = planned(kind, per_group=1, template_file=str(path), templates=("two",)).questions
    assert second[0].labels[:2] == ("1", "2") and second[0].text.endswith("two")
    with pytest.raises(ValueError, match=r"q: unknown template 'letters'; use one of one, two"):
        planned(kind, template_file=str(path), templates=("letters",))


def test_a_file_of_templates_is_for_traits_and_choices():
    with pytest.raises(ValueError, match="a file of templates is for kinds 'trait' and 'choice'"):
        planned("scale", template_file="own.yaml")
