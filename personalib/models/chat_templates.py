"""Chat templates: how a request is written for a model that was instructed, the same on every day.

A template is a program that comes with a model. Before it is used it is given a fixed date and the arguments of the
model's entry, and is tried out in a process of its own, which is stopped if it does not end.
"""

import json
import os
import re
import resource
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from personalib.base.data import DataError
from personalib.models.registry import Entry

# What is written before and after a model's reasoning.
_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel|>analysis", "<|channel|>final<|message|>"))
# The arguments by which templates are told that a model answers at once.
_SWITCHES = ("enable_thinking", "thinking")
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-j", *"aAbBcdfGHIjmMpSuUVwWxXyYzZ")
# What to do about a model that reasons where its answer is wanted.
ANSWER_AT_ONCE = "turn reasoning off, if its chat template can; a warning at loading names the entry"
_TRIAL = "Who are you?"
# What the trial of a template may take: seconds, bytes beside those of the process, and characters written.
_SECONDS, _SPACE, _LENGTH = 5.0, 2**30, 10**6
_TOO_LARGE = 3


class ChatPrompt(str):
    """A prompt in a chat template's words, its special tokens among them: a tokenizer adds no others to it.

    A column of text in a table of pandas makes plain texts of prompts, which a tokenizer does add to.
    """

    __slots__ = ()

    def __add__(self, other: str) -> "ChatPrompt":
        return ChatPrompt(str.__add__(self, other))


def chat_prompt(tokenizer: PreTrainedTokenizerBase, request: str, **arguments: bool) -> ChatPrompt:
    """A request as a user's turn, up to where the model's answer begins; ``arguments`` are for the template.

    A template that cannot be used is a DataError.
    """
    turns = [{"role": "user", "content": request}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
    except MemoryError:
        raise
    # A template is a program of anybody's, and raises what it likes.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            f"{tokenizer.name_or_path}: its chat template cannot be used ({first[:200]}); mend it, or pass a YAML file "
            "with form: base"
        ) from None
    return ChatPrompt(text)


def settle_template(tokenizer: PreTrainedTokenizerBase, entry: Entry, name: str) -> None:
    """Write a model's date and arguments into its chat template, and try it out if the entry's form is ``"chat"``.

    A template that has no such argument, cannot be used, or does not end is a DataError.
    """
    if not tokenizer.chat_template:
        return
    # Some models have several templates by name.
    known = tokenizer.chat_template
    source = known.get("default") if isinstance(known, dict) else known
    if source:
        unknown = [key for key in entry.template if not re.search(rf"\b{key}\b", source)]
        if unknown:
            raise DataError(f"{name}: template: its chat template has no {unknown[0]!r}; remove it from the entry")
        tokenizer.chat_template = _preamble(entry, source) + source
    if entry.form == "chat":
        _check_ends(lambda: _reasons(tokenizer, entry.template), name)
        switch = _reasons(tokenizer, entry.template)
        if switch is not None:
            advice = (
                f"pass a YAML file with an entry that turns reasoning off: template: {{{switch}: false}}"
                if switch
                else "it has no argument that turns this off: read answers in words and allow more tokens, or pass a "
                "YAML file with form: base"
            )
            warnings.warn(
                f"{name}: its chat template lets it reason before it answers, so that hardly any option is its first "
                f"token; {advice}",
                stacklevel=4,
            )


def template_facts(tokenizer: PreTrainedTokenizerBase, entry: Entry) -> dict[str, Any]:
    """What decides what a chat template writes: its arguments, and the date where it writes one."""
    dated = "strftime_now" in str(tokenizer.chat_template)
    return {**entry.template, **({"date": entry.date.isoformat()} if dated else {})}


def spoken(tokenizer: PreTrainedTokenizerBase, row: Sequence[int], prompt: str) -> str | None:
    """What a model says in the tokens that it wrote, without special ones and the reasoning before it, which the prompt
    may have begun; none where the reasoning does not end.
    """
    text = tokenizer.decode(row)
    for opening, closing in _REASONING:
        if closing in text:
            end = next(end for end in range(1, len(row) + 1) if closing in tokenizer.decode(row[:end]))
            return tokenizer.decode(row[end:], skip_special_tokens=True).lstrip()
        if text.lstrip().startswith(opening) or prompt.rstrip().endswith(opening):
            return None
    return tokenizer.decode(row, skip_special_tokens=True)


def may_reason(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has a token for the end of a model's reasoning."""
    known = tokenizer.get_vocab()
    return any(closing in known for _, closing in _REASONING)


def _preamble(entry: Entry, source: str) -> str:
    """Statements before a template that give it the entry's arguments and, where it asks for the date, a fixed one."""
    lines = [f"{{% set {key} = {json.dumps(value, ensure_ascii=False)} %}}" for key, value in entry.template.items()]
    if "strftime_now" in source:
        lines.append(_clock(entry.date))
    # The line break after a statement is not written, and what follows is at the beginning of a line as it was.
    return "".join(f"{line}\n" for line in lines)


def _clock(day: date) -> str:
    """A macro in the place of transformers' own function, which writes the time that it is."""
    now = datetime.combine(day, time())
    known = {f"%{one}": now.strftime(f"%{one}") for one in _DIRECTIVES}
    return (
        "{% macro strftime_now(format) %}{% set now = namespace(text=format) %}"
        f"{{% for directive, text in {json.dumps(known)}.items() %}}"
        "{% set now.text = now.text.replace(directive, text) %}{% endfor %}{{ now.text }}{% endmacro %}"
    )


def _reasons(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, object]) -> str | None:
    """The argument that turns reasoning off, empty where there is none; None where nothing reasons, or was told to."""
    plain = chat_prompt(tokenizer, _TRIAL)
    if len(plain) > _LENGTH:
        raise MemoryError
    for key in _SWITCHES:
        if key not in arguments and chat_prompt(tokenizer, _TRIAL, **{key: False}) != plain:
            return key
    begun = any(plain.rstrip().endswith(opening) for opening, _ in _REASONING)
    channels = _REASONING[-1][0] in str(tokenizer.chat_template)
    return "" if not arguments and (begun or channels) else None


def _check_ends(work: Callable[[], object], name: str) -> None:
    """Try some work in a process of its own, which the system ends: a ``DataError`` if it took too long or too much
    memory. Any other error is left to whoever does the work.
    """
    child = os.fork()
    if not child:
        _limited(work)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGALRM, _TOO_LARGE):
        raise DataError(
            f"{name}: its chat template cannot be used (a request of three words took it over {_SECONDS:g} s or "
            f"{_SPACE >> 20} MiB); mend it, or pass a YAML file with form: base"
        )


def _limited(work: Callable[[], object]) -> None:
    """Do some work in little time and memory, and end the process."""
    code = 0
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        pages, hard = Path("/proc/self/statm"), resource.getrlimit(resource.RLIMIT_AS)[1]
        if pages.exists():
            size = int(pages.read_text().split()[0]) * resource.getpagesize() + _SPACE
            resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
        work()
    except Exception as error:
        code = _TOO_LARGE if isinstance(error, MemoryError) else 0
    finally:
        # Nothing that the parent has open is closed or written here.
        os._exit(code)
