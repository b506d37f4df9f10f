"""A notebook's parameters: the names, types and defaults that its ``parameters`` cell declares."""

import ast
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from personalib.base.data import DataError, cut, exists, parse_yaml, shown
from personalib.models.registry import load_registry

# What an annotation in a parameters cell may name. It is read and never evaluated.
_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)},
    **{"Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union},
}
_FORMS = ("dict", "list", "tuple", "Literal", "Optional", "Union")
# What Python's own readers of source raise: deep nesting is one of the last two.
_UNREADABLE = (SyntaxError, TypeError, ValueError, RecursionError, MemoryError)
_SECRET = re.compile(r"(^|_)(key|token|auth)$|api_?key|passw(or)?d|passphrase|secret|credential")


class ParameterError(ValueError):
    """A parameter is declared or given wrongly; the message names it and the fix."""


@dataclass(frozen=True)
class Parameter:
    """One typed assignment of a parameters cell; without an annotation its type is that of the default."""

    name: str
    annotation: str
    default: object

    def check(self, value: object) -> Any:
        """The value in this parameter's type; an int becomes a float where a float is due.

        One of another type, or one that is not finite where the default is, is a ParameterError.
        """
        try:
            read = self._adapter().validate_python(value)
        except (ValidationError, RecursionError):
            raise self._refused(value) from None
        if not finite(read) and finite(self.default):
            raise ParameterError(f"parameter {self.name!r} is to be a finite number, not {shown(value)}")
        return read

    def parse(self, text: str) -> Any:
        """Read a value from the command line: text as it stands where text is due, else YAML.

        A path of a file or folder that is there becomes an absolute one: a chapter runs in a folder of its own. So does
        the mere name of a folder here that holds a model or an SAE, unless it is that of a model of the table. A text
        that cannot be read as this parameter's type is a ParameterError; a table of models that is needed, and is
        missing or wrong, is a DataError.
        """
        for candidate in [text] if self.annotation == "str" else _readings(text):
            with suppress(ParameterError):
                value = self.check(candidate)
                return absolute(value) if isinstance(value, str) else value
        raise self._refused(text)

    def _refused(self, value: object) -> ParameterError:
        return ParameterError(
            f"parameter {self.name!r} is {self.annotation} (default {shown(self.default)}), not {shown(value)}"
        )

    def _adapter(self) -> TypeAdapter[Any]:
        try:
            kind = _type(ast.parse(self.annotation, mode="eval").body)
            return TypeAdapter(kind, config=ConfigDict(strict=True))
        except Exception:  # whatever pydantic makes of an odd type
            raise ParameterError(
                f"parameter {self.name!r} has the annotation {shown(self.annotation)}; "
                f"use {', '.join(sorted(_TYPES))}, | and None"
            ) from None


def declared_parameters(source: str) -> dict[str, Parameter]:
    """The parameters that the source of a parameters cell declares, by name and in order.

    Papermill's own reader works line by line and drops a line that holds a second ``=``, be it in a comment; this one
    reads the syntax tree. A statement that is no assignment of a literal, and a name that looks like a secret's, are a
    ParameterError.
    """
    try:
        parameters = [_parameter(statement) for statement in ast.parse(source).body]
    except ParameterError:
        raise
    except _UNREADABLE as error:
        raise ParameterError(f"the parameters cell is not valid Python: {error or 'it is nested too deeply'}") from None
    for parameter in parameters:
        refuse_secret(parameter.name)
        parameter.check(parameter.default)
    return {parameter.name: parameter for parameter in parameters}


def refuse_secret(name: str) -> None:
    """Raise where a name looks like that of a key, a token or a password: parameters are published."""
    if _SECRET.search(name.lower()):
        raise ParameterError(
            f"parameter {name!r} looks like a secret, and parameters are published with the notebook; "
            "read it from an environment variable in the library instead"
        )


def _parameter(statement: ast.stmt) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            return Parameter(name, ast.unparse(annotation), _literal(name, value))
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            default = _literal(name, value)
            return Parameter(name, "Any" if default is None else type(default).__name__, default)
    raise ParameterError(
        f"the parameters cell may hold nothing but `name: type = literal`, not `{cut(ast.unparse(statement))}`"
    )


def _literal(name: str, value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except _UNREADABLE:
        raise ParameterError(
            f"parameter {name!r} must be a literal, not `{cut(ast.unparse(value))}`; compute it in a later cell"
        ) from None


def _type(node: ast.expr) -> Any:
    """The type that an annotation names; a ``ValueError`` where it is none of ``_TYPES``."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=value) if value is ...:
            return ...
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007 - of values
        case ast.Subscript(value=ast.Name(id=name), slice=parts) if name in _FORMS:
            each = parts.elts if isinstance(parts, ast.Tuple) else [parts]
            named = tuple(map(ast.literal_eval if name == "Literal" else _type, each))
            return _TYPES[name][named if len(named) > 1 else named[0]]
    raise ValueError(ast.dump(node))


def finite(value: object) -> bool:
    """Whether no number in a value is NaN or infinite."""
    if isinstance(value, dict):
        return finite([*value, *value.values()])
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def absolute(text: str) -> str:
    """A path that is there, from the root of the file system; a mere name, such as that of a method, stays as it is."""
    is_path = "/" in text or text.endswith((".yaml", ".yml"))
    meant = exists(text) if is_path else _is_loadable(text)
    return str(Path(text).resolve()) if meant else text


def _is_loadable(name: str) -> bool:
    """Whether a mere name is that of a folder here that holds a model or an SAE, and of nothing that goes before it."""
    # An empty text would be the path of this folder.
    holds = bool(name) and any(exists(Path(name) / file) for file in ("config.json", "cfg.json"))
    return holds and name not in load_registry()


def _readings(text: str) -> Iterator[object]:
    """What a text on the command line may mean, the likeliest first."""
    if text in ("None", "null", "~"):
        yield None
    else:
        with suppress(DataError):
            value = parse_yaml(text, "the value")
            # Empty, or a comment and nothing else, is nothing in YAML. Quotes say that text is meant.
            if value is not None and (not isinstance(value, str) or text.startswith(("'", '"'))):
                yield value
    yield text
