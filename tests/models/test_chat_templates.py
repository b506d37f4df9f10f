"""A chat template writes the same on every day, is told what an entry says, and cannot stop the program."""

import time
import warnings

import pytest
from small_models import TURNS, letters

from personalib.base.data import DataError
from personalib.models import chat_templates
from personalib.models.chat_templates import ChatPrompt, chat_prompt, settle_template, spoken, template_facts
from personalib.models.registry import Entry

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '1 Jan 1970' %}{%- endif %}"
    "{%- endif %}{{- 'Today: ' + date_string + '\\n' + messages[0]['content'] }}"
)
GRANITE = (
    "{%- set day = strftime_now('%B %-d, %Y') %}\n  {% if true %}Today: {{ day }}{% endif %}\n"
    "\n{{ messages[0]['content'] }}"
)
IN_A_MACRO = "{% macro head() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ head() }}"
QWEN = TURNS + "{% if enable_thinking is defined and enable_thinking is false %}<think>\\n\\n</think>\\n\\n{% endif %}"


def written(source, **arguments):
    """What transformers writes by a template."""
    turns = [{"role": "user", "content": "Hi"}]
    return letters(template=source).apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)


def settled(source, **entry):
    """What a template writes once it has been settled."""
    tokenizer = letters(template=source)
    settle_template(tokenizer, Entry(name="m", **entry), "m")
    return chat_prompt(tokenizer, "Hi")


@pytest.mark.parametrize(
    ("template", "first", "other"),
    [
        (LLAMA, "Today: 26 Jul 2024\nHi", "Today: 01 Mar 2025\nHi"),
        (GRANITE, "Today: July 26, 2024\nHi", "Today: March 1, 2025\nHi"),
        (IN_A_MACRO, "2024-07-26", "2025-03-01"),
    ],
)
def test_a_template_that_writes_the_date_writes_the_entrys(template, first, other):
    assert settled(template) == first and settled(template, date="2025-03-01") == other


def test_arguments_are_those_of_the_entry():
    assert settled(LLAMA, template={"date_string": 'a "day"'}) == 'Today: a "day"\nHi'
    several = {"default": LLAMA, "tools": "x"}
    assert settled(several, template={"date_string": "\U0001f600 %}"}) == "Today: \U0001f600 %}\nHi"
    for said in (False, True):
        assert settled(QWEN, template={"enable_thinking": said}) == written(QWEN, enable_thinking=said)
    with pytest.raises(DataError, match="m: template: its chat template has no 'enable_thinkin'; remove it"):
        settled(QWEN, template={"enable_thinkin": False})


@pytest.mark.parametrize("template", ["\n  {% if true %}a{% endif %}", "  {{ 'a' }}\n", TURNS])
def test_what_is_settled_moves_no_space(template):
    used = template + "{# x #}"
    assert settled(used, template={"x": 1}) == written(used)


def test_only_what_decides_is_told_of_a_template():
    dated, plain = letters(template=LLAMA), letters()
    assert template_facts(dated, Entry(name="m")) == {"date": "2024-07-26"}
    assert template_facts(plain, Entry(name="m")) == {}
    assert template_facts(plain, Entry(name="m", template={"x": 1})) == {"x": 1}


@pytest.mark.parametrize(
    ("template", "advice"),
    [
        (QWEN, "template: {enable_thinking: false}"),
        (QWEN.replace("enable_thinking", "thinking"), "template: {thinking: false}"),
        (TURNS + "<think>\n", "no argument that turns this off.* allow more tokens"),
        ("{# '<|channel|>analysis', message.thinking #}" + TURNS, "no argument that turns this off"),
    ],
)
def test_a_model_that_would_reason_first_is_told_of_with_what_can_be_done(template, advice):
    with pytest.warns(UserWarning, match=f"m: its chat template lets it reason .*{advice}"):
        settled(template)


@pytest.mark.parametrize(
    ("template", "entry"),
    [(TURNS, {}), (QWEN, {"template": {"enable_thinking": False}}), ("{% if thinking %}x{% endif %}y", {})],
)
def test_nothing_is_said_of_others(template, entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settled(template, **entry)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "loops": LOOPS,
    "doubling": "{% set n = namespace(t='aa') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "memory": "{{ 'a' * 10 ** 11 }}",
    "length": "{{ 'a' * 10 ** 7 }}",
    "zero": "{{ 1 / 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "switched": f"{{% if thinking is false %}}{LOOPS}{{% endif %}}",
    "attribute": "{{ messages[7].content.more }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_template_stops_the_program(kind, monkeypatch):
    monkeypatch.setattr(chat_templates, "_SECONDS", 0.4)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"its chat template cannot be used \(.*\); mend it, or pass a YAML file"):
        settled(HOSTILE[kind])
    assert time.monotonic() - started < 5
    settle_template(letters(template=HOSTILE[kind]), Entry(name="m", form="base"), "m")


def test_a_chat_stays_one_when_something_is_added():
    assert type(ChatPrompt("a") + "b") is ChatPrompt and ChatPrompt("a") + "b" == "ab"


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("prompt", "reply", "answer"),
    [
        ("Hi", "<think>\nHm.</think>\n\nYes.\nNo.", "Yes.\nNo."),
        ("Hi<think>\n", "Hm.\n</think>Yes.", "Yes."),
        ("Hi", "Hm.</think>Yes.<eos>", "Yes."),
        ("Hi", " <think>Hm.", None),
        ("Hi<think>", "Hm.", None),
        ("Hi", "Yes. <think>", "Yes. <think>"),
        ("Hi", "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.", "Yes."),
        ("Hi", "", ""),
    ],
)
def test_reasoning_is_no_part_of_an_answer(prompt, reply, answer, special):
    tokenizer = letters(special=special)
    row = tokenizer.encode(reply, add_special_tokens=False)
    expected = answer.replace("<think>", "") if special and answer else answer
    assert spoken(tokenizer, row, prompt) == expected
