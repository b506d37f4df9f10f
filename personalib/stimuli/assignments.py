"""Assignments: what a writer is asked about a background, and whether what comes back will do.

The paper has GPT-4 write keywords and life stories (arXiv 2410.10863, section 3.1 and its code release). Here what is
asked, the form of the answer and its checks are one value that every writer gets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, create_model

from personalib.base.data import Strict, data_dir, parse, read_yaml
from personalib.stimuli.backgrounds import Background
from personalib.stimuli.factors import PERSONS, elements

Part = Literal["childhood", "health", "mind", "work", "relationships"]
PARTS: tuple[Part, ...] = get_args(Part)
WORDS = (100, 150)
_STRICT = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
# Pronouns by which a text is seen to be told in a grammatical person.
_PRONOUNS = {
    "first": ("i", "me", "my", "myself"),
    "second": ("you", "your", "yourself"),
    "third": ("he", "she", "they", "him", "her", "them", "his", "their", "person"),
}
# How a text of each grammatical person names its person as a subject and as an object.
_SUBJECTS = {"first": "i", "second": "you", "third": "this person|he|she|they"}
_OBJECTS = {"first": "me|myself", "second": "you|yourself", "third": "them|themselves|him|himself|her|herself"}
# Words between "are" and what somebody is; none that begins something else, as in "are married to a man".
_BETWEEN = (
    r"(?: (?!(?:with|of|for|to|by|at|in|from|than|who|whose|and|or|as|like|not|no|never|my|your|his|her|their)\b)"
    r"[\w'-]+,?){{0,3}}?"
)
_SELF = (
    r"(?:\b(?:{subject})(?:'m|'re|'s| am| are| is| was| were| became| become)"
    r"|\b(?:knows?|known|describes?|introduces?|calls?|thinks? of|sees?) (?:{object})(?: as)?"
    r"|(?:^|[.!?] )\w+,(?= an? ))" + _BETWEEN + r" (?:{words})(?![\w-])"
)
_REFUSAL = re.compile(
    r"\W*(?:(?:i am |i'm )?sorry\b|as an ai (?:language model|assistant)\b"
    r"|i (?:cannot|can't|am unable to) (?:help|assist|write|create|provide) (?:you )?(?:with )?(?:this|that|such)\b)"
)


@dataclass(frozen=True)
class LifeStory:
    """A life story of 100 to 150 words in five parts that gives reasons, with the words that tell each attribute."""

    person: str = "second"
    name: str = "life story"

    def form(self, background: Background) -> type[BaseModel]:
        """Of a draft: five parts, and under ``told`` for each factor the words of the story that tell it."""
        return _story_form(tuple(background.elements))

    def request(self, background: Background, problems: Sequence[str]) -> str:
        """What asks a chat model: the task, the attributes with their keywords, what was wrong with the last draft."""
        return _request("life_story", background, self.person, problems)

    def text(self, draft: BaseModel) -> str:
        """The parts in order, as running text."""
        return " ".join(getattr(draft, part) for part in PARTS)

    def problems(self, draft: BaseModel, background: Background) -> list[str]:
        """Wrong length or grammatical person, a refusal, an attribute that is not told or is contradicted."""
        text = self.text(draft)
        found = [*_form_problems(text, self.person), *contradictions(text, background, self.person)]
        for factor, quote in draft.model_dump()["told"].items():
            words = _plain(quote)
            if words.count(" ") < 3:
                found.append(f"quote at least two words of the story for {factor}, not {quote!r}")
            elif words not in _plain(text):
                found.append(f"the words that should tell {factor} are not in the story: {quote!r}")
        return found

    def finish(self, draft: BaseModel, background: Background) -> Background:
        """The background with its life story."""
        return replace(background, generated=self.text(draft))


@dataclass(frozen=True)
class Keywords:
    """A noun phrase for each attribute, such as ``a retired teacher with grey hair``."""

    person: str = "second"
    name: str = "keywords"

    def form(self, background: Background) -> type[BaseModel]:
        """A noun phrase for each factor."""
        return _texts_form("Keywords", tuple(background.elements))

    def request(self, background: Background, problems: Sequence[str]) -> str:
        """What to write, the attributes, and what was wrong with the last draft."""
        return _request("keywords", replace(background, keywords={}), self.person, problems)

    def text(self, draft: BaseModel) -> str:
        """The phrases in order, as running text."""
        return "; ".join(draft.model_dump().values())

    def problems(self, draft: BaseModel, background: Background) -> list[str]:
        """A phrase that is none, or that contradicts the background."""
        found = []
        for factor, phrase in draft.model_dump().items():
            if not re.fullmatch(r"(?:a|an|the|someone|somebody) [\w'’ ,-]{2,80}\w", phrase):
                found.append(f"{factor}: write a noun phrase such as 'a person with grey hair', not {phrase!r}")
            found += contradictions(f"You are {phrase}", background)
        return found

    def finish(self, draft: BaseModel, background: Background) -> Background:
        """The background with these keywords."""
        clauses = {factor: f"{{I}} {{am}} {phrase}" for factor, phrase in draft.model_dump().items()}
        return replace(background, keywords=clauses)


# Something to be written about a background; the JSON schema of its form is what a language model is held to.
Assignment = LifeStory | Keywords


def contradictions(text: str, background: Background, person: str = "second") -> list[str]:
    """Places where a text says of its person what a background's elements rule out.

    Only self-descriptions count ("You are a middle-aged woman", "Maria, a woman of fifty"), since other people may be
    in a story too. What is not described so is not found: this catches plain slips and is no proof.
    """
    found, straight = [], text.replace("’", "'")
    for factor, element in background.elements.items():
        for other, words in load_giveaways().get(factor, {}).items():
            pattern = _SELF.format(subject=_SUBJECTS[person], object=_OBJECTS[person], words="|".join(words))
            if other != element and (match := re.search(pattern, straight, re.IGNORECASE)):
                found.append(f"{factor} should be {element}, but the text says {match[0].strip(' .!?')!r}")
    return found


def load_giveaways() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Words (regular expressions) by which somebody is described as an element, by factor and element."""
    return _load_assignments().giveaways


class _Persons(Strict):
    first: str
    second: str
    third: str


class _Wording(Strict):
    request: str
    again: str
    persons: _Persons


class _Written(Strict):
    life_story: _Wording
    keywords: _Wording
    giveaways: dict[str, dict[str, tuple[str, ...]]]


@cache
def _load_assignments() -> _Written:
    source = data_dir() / "stimuli" / "assignments.yaml"
    return parse(_Written, read_yaml(source), str(source))


def _filled(text: str) -> str:
    # A check and no minLength in the schema, which some servers' strict mode refuses.
    if not text:
        raise ValueError("it is empty")
    return text


@cache
def _story_form(factors: tuple[str, ...]) -> type[BaseModel]:
    told = _texts_form("Told", factors)
    return create_model("LifeStory", __base__=_texts_form("Parts", PARTS), told=(told, ...))


@cache
def _texts_form(name: str, fields: tuple[str, ...]) -> type[BaseModel]:
    """A form with a text under each name."""
    some: dict[str, Any] = dict.fromkeys(fields, (Annotated[str, AfterValidator(_filled)], ...))
    return create_model(name, __config__=_STRICT, **some)


def _request(name: str, background: Background, person: str, problems: Sequence[str]) -> str:
    wording: _Wording = getattr(_load_assignments(), name)
    told = background.sentences(person)
    lines = [
        f"- {element.factor}: {element.title}" + (f" ({told[element.factor]})" if element.factor in told else "")
        for element in elements()
        if background.elements.get(element.factor) == element.key
    ]
    low, high = WORDS
    slots = {"attributes": "\n".join(lines), "person": getattr(wording.persons, person), "low": low, "high": high}
    request = wording.request.format(**slots)
    if problems:
        request += "\n" + wording.again.format(problems="\n".join(f"- {problem}" for problem in problems))
    return request


def _form_problems(text: str, person: str) -> list[str]:
    """Whether a story has the wrong length, is not told in one grammatical person, or is a refusal."""
    words = re.findall(r"[a-z]+", text.lower())
    counts = {name: sum(words.count(word) for word in pronouns) for name, pronouns in _PRONOUNS.items()}
    length, (low, high) = len(text.split()), WORDS
    problems = []
    if not low <= length <= high:
        problems.append(f"the story has {length} words; it needs {low} to {high}")
    if not counts[person] == max(counts.values()) > 0:
        problems.append(f"the story is not told in the {person} person ({PERSONS[person]['I']})")
    if match := _REFUSAL.match(text.lower().replace("’", "'")):
        problems.append(f"the text is no story: {match[0].strip()!r}")
    return problems


def _plain(text: str) -> str:
    """The words of a text between single spaces, so that a word is found as a whole only."""
    return " ".join(["", *re.findall(r"[\w']+", text.lower().replace("’", "'")), ""])
