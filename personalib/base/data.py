"""Where the repository's data files are, and the one way in which YAML and JSON are read.

YAML means what version 1.2 says: ``Yes``, ``no``, ``on`` and ``off``, dates, times and numbers with underscores are
texts. Nothing in a file is run, and depth, length and aliases are bounded.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

# Data files are far below all of these; what is above them would stop the program later, and without a file's name.
_DEPTH = 60
_YAML_CHARACTERS = 10_000_000
_ALIASED_VALUES = 10_000
_WHOLE_NUMBER = 2**63
_SHOWN = 200
# Longer than any path that a system is likely to have.
_WORD = 400
_COMPLAINTS = 3
_TOO_DEEP = f"lists or objects within each other more than {_DEPTH} deep; write it flatter"
T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# Numbers of a recipe or a plan.
Count = Annotated[int, Field(gt=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]


class DataError(ValueError):
    """A data file is missing or not what it should be; the message names file and fix, and very long words are cut."""

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(rf"[^\s:]{{{_WORD + 1},}}", lambda word: cut(word[0], _WORD), message))


class Strict(BaseModel):
    """A value whose fields are all known, so that a misspelt one is an error and not a default."""

    model_config = ConfigDict(**STRICT, frozen=True)


def data_dir() -> Path:
    """The folder with the book's data: ``$PERSONALIB_DATA``, or ``data/`` beside the package."""
    configured = os.environ.get("PERSONALIB_DATA")
    return Path(configured) if configured else Path(__file__).resolve().parents[2] / "data"


def named_file(source: str | Path, folder: str, kind: str) -> Path:
    """A YAML file by its path, or by its name in a folder of the data; ``kind`` is what errors call it.

    Where there is neither, a DataError lists the names.
    """
    there = data_dir() / folder
    for path in (Path(source), there / f"{source}.yaml"):
        if exists(path) and path.is_file():
            return path
    known = ", ".join(sorted(one.stem for one in there.glob("*.yaml"))) or "none"
    raise DataError(f"{cut(str(source))}: no such {kind}; pass a YAML file, or one of {known}")


def choose(name: str, among: Iterable[str], kind: str) -> str:
    """A name, if it is one of those there are, or a DataError that lists them; ``kind`` is what it names there."""
    there = list(among)
    if name in there:
        return name
    near = get_close_matches(str(name), there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"unknown {kind} {shown(name)}; {hint}choose one of {', '.join(there)}")


def exists(path: str | Path) -> bool:
    """Whether there is such a file or folder; also where no file can have the name, as one that is too long."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def read_yaml(path: str | Path) -> Any:
    """Read one YAML file, see :func:`read_text` and :func:`parse_yaml`, which say when they raise a DataError."""
    return parse_yaml(read_text(Path(path)), str(path))


def read_json(path: str | Path) -> Any:
    """Read one JSON file, see :func:`read_text` and :func:`parse_json`, which say when they raise a DataError."""
    return parse_json(read_text(Path(path)), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML document of version 1.2, with merge keys (``<<``); ``where`` is what errors call it.

    Raises:
        DataError: it is not valid, has a tag, a key twice, a number that is not finite or has more than 64 bits, or is
            too deep or too long, aliases counted by what they stand for.

    Example:
        >>> parse_yaml("{answers: [Yes, no], day: 2024-05-01, rate: 1e-3}", "an example")
        {'answers': ['Yes', 'no'], 'day': '2024-05-01', 'rate': 0.001}
    """
    if len(text) > _YAML_CHARACTERS:
        raise DataError(f"{where}: longer than {_YAML_CHARACTERS:,} characters; keep long lists in JSON lines")
    try:
        return _YamlReader(text, where).document()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DataError(f"{where}: not valid YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise DataError(f"{where}: not valid YAML: {cut(str(error))}") from None


def parse_json(text: str, where: str, decoder: json.JSONDecoder | None = None) -> Any:
    """The value of a JSON text; ``where`` is what errors call it, such as file and row.

    For data of others pass :data:`ANY_NUMBER` as the decoder: a number may be any, and is judged by who reads it. What
    is not valid, names a key twice, has a number that is not finite or has more than 64 bits, or is too deep is a
    DataError.
    """
    try:
        value = (decoder or _JSON).decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{where}: not valid JSON: {place}: {cut(error.msg)}") from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: {_TOO_DEEP}") from None
    if text.count("[") + text.count("{") > _DEPTH and _is_too_deep(value):
        raise DataError(f"{where}: {_TOO_DEEP}")
    return value


def parse(kind: type[T], content: Any, where: str) -> T:
    """Plain values, as YAML and JSON hold them, as a model of pydantic, a dataclass, or a container of such.

    Where they do not fit, a DataError names each field that is wrong, and says what it should be.

    Example:
        >>> parse(dict[str, str], {"labels": True}, "an example")
        Traceback (most recent call last):
        personalib.base.data.DataError: an example: labels: is True; write a text, in quotes
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        known, errors = getattr(kind, "model_fields", {}), error.errors(include_url=False)
        faults = [_complaint(dict(each), known) for each in errors[:_COMPLAINTS]]
        if len(errors) > _COMPLAINTS:
            faults.append(f"and {len(errors) - _COMPLAINTS} more")
        raise DataError(f"{where}: {'; '.join(faults)}") from None


def _complaint(error: dict[str, Any], known: Iterable[str]) -> str:
    place = cut(".".join(str(part) for part in error["loc"])) or "it"
    there = f"; there are {', '.join(known)}" if known and len(error["loc"]) == 1 else ""
    usual = f"{cut(error['msg'])}, not {shown(error['input'])}"
    strange = f"there is no such field; remove it, or correct its name{there}"
    messages = {
        "extra_forbidden": strange,
        "unexpected_keyword_argument": strange,  # so of a dataclass
        "missing": "is missing; add it",
        "string_type": f"is {shown(error['input'])}; write a text, in quotes",
        "tuple_type": "give a list of values, also where it is one",
    }
    if error["type"] == "too_short" and not error["ctx"]["actual_length"]:
        return f"{place}: it is empty; give at least one"
    if error["type"] == "value_error":
        return f"{place}: {cut(str(error['msg']).removeprefix('Value error, '))}"
    return f"{place}: {messages.get(error['type'], usual)}"


def read_section(kind: type[T], path: Path, name: str) -> T:
    """One section of a YAML file, see :func:`parse`; a DataError says if it is missing or does not fit."""
    content = read_yaml(path)
    if not isinstance(content, dict) or name not in content:
        raise DataError(f"{path}: {name}: is missing; add it")
    return parse(kind, content[name], f"{path}: {name}")


def shown(value: Any) -> str:
    """What a message quotes of a value: its representation, at most 200 characters of it."""
    return cut(repr(value))


def cut(text: str, most: int = _SHOWN) -> str:
    """The beginning of a foreign text, at most so many characters, for a message."""
    return text if len(text) <= most else text[: most - 2] + " …"


def read_text(path: Path) -> str:
    """The text of a file; a DataError says if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        ours = path.is_relative_to(data_dir())
        fix = "set PERSONALIB_DATA to the folder that holds the data" if ours else "check the path"
        raise DataError(f"{path}: no such file; {fix}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check the path") from None
    except ValueError:  # as with a null byte in it
        raise DataError(f"{shown(str(path))}: no file can have this name; check the path") from None


def _is_too_deep(value: Any) -> bool:
    """Whether lists and objects are nested too deeply; looked at level by level, so that no depth ends the program."""
    level = [value]
    for _ in range(_DEPTH):
        level = [below for each in level for below in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, dict | list)]
    return bool(level)


def _whole(digits: str, base: int = 10) -> int:
    if len(digits) < 70 and -_WHOLE_NUMBER <= (value := int(digits, base)) < 2 * _WHOLE_NUMBER:
        return value
    raise ValueError(f"the number {cut(digits)} has more than 64 bits; quote it if it is a text")


def _finite(digits: str) -> float:
    if isfinite(value := float(digits)):
        return value
    raise ValueError(f"{cut(digits)} is not a finite number; leave out what is missing, or quote it if it is a text")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice in one object; keep one of them")
    return found


_JSON = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=lambda name: _finite(name)
)
ANY_NUMBER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=lambda digits: int(digits) if len(digits) < 70 else float(digits)
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema of YAML 1.2: what a text without quotes means. Anything else is a text.
_FIRST = frozenset("0123456789+-.tTfFnN~")
_WORDS = {word: value for words, value in (
    ("true True TRUE", True), ("false False FALSE", False), ("null Null NULL ~", None),
) for word in words.split()}  # fmt: skip
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), _whole),
    (re.compile(r"0o[0-7]+"), lambda digits: _whole(digits[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda digits: _whole(digits[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), _finite),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda digits: _finite(digits.replace(".", ""))),
)


def _plain(text: str) -> Any:
    """What a scalar without quotes means; digits after a zero are a text, as no reader agrees on their number."""
    if not text:
        return None
    if text[0] not in _FIRST:
        return text
    if text in _WORDS:
        return _WORDS[text]
    return next((read(text) for pattern, read in _NUMBERS if pattern.fullmatch(text)), text)


class _YamlReader:
    """Reads one document from its events: nested to a bound, and counting values, aliases by what they stand for."""

    def __init__(self, text: str, where: str) -> None:
        self.where, self.line, self.values, self.aliased = where, 0, 0, 0
        self.events = iter(yaml.parse(text, Loader=_LOADER))
        self.anchors: dict[str, tuple[Any, int]] = {}

    def document(self) -> Any:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), 0)
        self._next()  # the document's end
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise self._error("a second document begins; write one a file, or quote the text ---")
        return value

    def _next(self) -> Any:
        event = next(self.events)
        self.line = event.start_mark.line + 1
        return event

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._next(), end):
            yield event

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.where}, line {self.line}: {problem}")

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor)
        if event.tag is not None:
            raise self._error(f"the tag {shown(event.tag)} is not read; leave it out, and quote what is a text")
        before = self.values
        self.values += 1
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif depth == _DEPTH:
            raise self._error(_TOO_DEEP)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._value(inner, depth + 1) for inner in self._until(yaml.SequenceEndEvent)]
        else:
            value = self._object(depth + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.values - before
        return value

    def _scalar(self, event: Any) -> Any:
        try:
            return _plain(event.value) if event.implicit[0] else event.value
        except ValueError as error:
            raise self._error(str(error)) from None

    def _alias(self, name: str) -> Any:
        if name not in self.anchors:
            raise self._error(f"*{cut(name)} stands for nothing before it; write &{cut(name)} there")
        value, size = self.anchors[name]
        self.values += size
        self.aliased += size
        if self.aliased > _ALIASED_VALUES:
            raise self._error(f"aliases stand for more than {_ALIASED_VALUES:,} values; write fewer of them")
        return value

    def _object(self, depth: int) -> dict[Any, Any]:
        fields: dict[Any, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._value(event, depth)
            if isinstance(key, dict | list):
                raise self._error(f"the key {shown(key)} is a list or an object; quote it")
            if key in fields:
                raise self._error(f"the key {shown(key)} is there twice; keep one of them")
            fields[key] = self._value(self._next(), depth)
        return self._merged(fields) if "<<" in fields else fields

    def _merged(self, fields: dict[Any, Any]) -> dict[Any, Any]:
        """An object with the fields of those under its merge key that it has not itself; the first has precedence."""
        given = fields.pop("<<")
        sources = given if isinstance(given, list) else [given]
        if not all(isinstance(source, dict) for source in sources):
            raise self._error(f"<< merges objects, not {shown(given)}; name an anchor of one")
        merged = {key: value for source in reversed(sources) for key, value in source.items()}
        return merged | fields
