"""A notebook's parameters: the names, types and defaults that its ``parameters`` cell declares."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from personalib.registry import load_registry

# What an annotation in a parameters cell may name; nothing else is evaluated.
_TYPES = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)},
    "Any": Any,
    "Literal": Literal,
}
_SECRET = re.compile(r"(^|_)(key|token|auth)$|api_?key|passw(or)?d|passphrase|secret|credential")


class ParameterError(ValueError):
    """A parameter is declared or given wrongly; the message names it and the fix."""


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of Python: ``1e-3`` is a float, which YAML 1.1 reads as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Parameter:
    """One typed assignment of a parameters cell.

    Attributes:
        name: the variable's name.
        annotation: its type as written, or the name of the default's type.
        default: its literal value.
    """

    name: str
    annotation: str
    default: object

    def check(self, value: object) -> Any:
        """The value in this parameter's type (an int becomes a float where a float is due).

        Raises:
            ParameterError: the value is of another type.
        """
        try:
            return self._adapter().validate_python(value)
        except ValidationError:
            raise ParameterError(
                f"parameter {self.name!r} is {self.annotation} (default {self.default!r}), not {value!r}"
            ) from None

    def parse(self, text: str) -> Any:
        """Read a value from the command line: text as it stands where text is due, else YAML.

        A path of a file or folder that is there becomes an absolute one: a chapter runs in a folder of its own. So does
        the mere name of a folder here that holds a model or an SAE, unless it is that of a model of the table.

        Raises:
            ParameterError: the text cannot be read as this parameter's type.
            DataError: the table of models is needed, and is missing or wrong.
        """
        for candidate in _readings(text):
            try:
                value = self.check(candidate)
                return _absolute(value) if isinstance(value, str) else value
            except ParameterError:
                continue
        raise ParameterError(f"parameter {self.name!r} is {self.annotation} (default {self.default!r}), not {text!r}")

    def _adapter(self) -> TypeAdapter[Any]:
        try:
            kind = eval(self.annotation, {"__builtins__": {}}, _TYPES)
            return TypeAdapter(kind, config=ConfigDict(strict=True))
        except Exception:
            raise ParameterError(
                f"parameter {self.name!r} has the annotation {self.annotation!r}; "
                f"use {', '.join(sorted(_TYPES))}, | and None"
            ) from None


def declared_parameters(source: str) -> dict[str, Parameter]:
    """The parameters that the source of a parameters cell declares, by name and in order.

    Papermill's own reader works line by line and drops a line that holds a second ``=``, be it in a comment;
    this one reads the syntax tree.

    Raises:
        ParameterError: a statement is no assignment of a literal, or a name looks like a secret's.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not valid Python: {error}") from None
    parameters = [_parameter(statement) for statement in statements]
    for parameter in parameters:
        refuse_secret(parameter.name)
        parameter.check(parameter.default)
    return {parameter.name: parameter for parameter in parameters}


def refuse_secret(name: str) -> None:
    """Stop where a name looks like a secret's: parameters are written into notebooks and manifests.

    Raises:
        ParameterError: the name looks like that of a key, a token or a password.
    """
    if _SECRET.search(name.lower()):
        raise ParameterError(
            f"parameter {name!r} looks like a secret, and parameters are published with the notebook; "
            "read it from an environment variable in the library instead"
        )


def _parameter(statement: ast.stmt) -> Parameter:
    """One statement of a parameters cell as a parameter."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            return Parameter(name, ast.unparse(annotation), _literal(name, value))
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            default = _literal(name, value)
            return Parameter(name, "Any" if default is None else type(default).__name__, default)
    raise ParameterError(
        f"the parameters cell may hold nothing but `name: type = literal`, not `{ast.unparse(statement)}`"
    )


def _literal(name: str, value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise ParameterError(
            f"parameter {name!r} must be a literal, not `{ast.unparse(value)}`; compute it in a later cell"
        ) from None


def _absolute(text: str) -> str:
    """A path that is there, from the root of the file system; a mere name, such as that of a method, stays as it is."""
    is_path = "/" in text or text.endswith((".yaml", ".yml"))
    try:
        meant = Path(text).exists() if is_path else _is_loadable(text)
        return str(Path(text).resolve()) if meant else text
    except OSError:  # too long for a path
        return text


def _is_loadable(name: str) -> bool:
    """Whether a mere name is that of a folder here that holds a model or an SAE, and of nothing that goes before it."""
    # An empty text would be the path of this folder.
    holds = bool(name) and any((Path(name) / file).is_file() for file in ("config.json", "cfg.json"))
    return holds and name not in load_registry()


def _readings(text: str) -> list[object]:
    """What a text on the command line may mean, the likeliest first."""
    if text in ("None", "null", "~"):
        return [None, text]
    try:
        return [text, yaml.load(text, _Loader)]
    except yaml.YAMLError:
        return [text]
