"""What a notebook puts into its Markdown, read from the syntax tree: numbers, escaped texts, its own words, or else."""

import ast
import re
from collections.abc import Collection, Iterator
from typing import Any

# Under such a format a text is an error, so what is shown is a number.
_NUMERIC = re.compile(r"[-+ ]?\d*[,_]?(\.\d+)?[deEfFgGn%]|[-+ ]?\d*,")
_NUMBERS = re.compile(r"(int|float|bool)( \| None)?")
_ESCAPES = ("escaped", "code", "to_markdown")
_COUNTS = ("len", "int", "float", "round", "sum", "abs", "range")
# what hands on the texts that it is given, as they are or in another case
_CARRIERS = ("items", "values", "keys", "enumerate", "zip", "list", "tuple", "sorted", "reversed", "join")
_CARRIERS += ("lower", "upper", "capitalize", "strip", "removeprefix", "removesuffix")
_GROWS = ("append", "extend", "insert", "update", "setdefault", "add")
_COMPARED = (ast.Compare, ast.BinOp, ast.UnaryOp)
Found = Iterator[tuple[int, str]]
# where a name gets a value: the value, if it can be told; whether later cells know it; whether it replaces the last one
Binding = tuple[str, ast.AST | None, bool, bool]


class Interpolations:
    """The code of a notebook, and where each of its names gets its values.

    What is known of a name is all that a cell gives it, so a text may be taken for foreign that is not; rename it then.

    Args:
        cells: number, source and whether it holds the parameters, of each cell of code.
        writers: functions of the library whose Markdown has tests of its own.
    """

    def __init__(self, cells: Collection[tuple[int, str, bool]], writers: Collection[str] = ()) -> None:
        self.writers = writers
        self.trees = {number: ast.parse(source) for number, source, _ in cells}
        self.bound = {number: list(_bindings(self.trees[number], told)) for number, _, told in cells}

    def foreign(self) -> list[tuple[int, str]]:
        """Cell and expression of all that may bring foreign text into Markdown, each once."""
        found: list[tuple[int, str]] = []
        for number, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and _called(node) == "Markdown":
                    given = [*node.args, *(keyword.value for keyword in node.keywords)]
                    found += [one for value in given for one in self._foreign(value, number, frozenset())]
        return list(dict.fromkeys(found))

    def _foreign(self, node: ast.AST | None, cell: int, seen: frozenset[tuple[int, str]]) -> Found:
        """What may bring foreign text into the value of an expression."""
        if node is None or (isinstance(node, ast.Call) and _called(node) in self.writers):
            return
        parts = _parts(node)
        if parts is not None:
            for part in parts:
                yield from self._foreign(part, cell, seen)
        elif isinstance(node, ast.Name):
            yield from self._named(node.id, cell, seen)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self._values(node.func.id, cell):
            yield from self._named(node.func.id, cell, seen)
        elif not isinstance(node, ast.Subscript) or any(self._foreign(node.value, cell, seen)):
            yield cell, ast.unparse(node)

    def _named(self, name: str, cell: int, seen: frozenset[tuple[int, str]]) -> Found:
        """What may bring foreign text into a name, or into what a function of this name returns."""
        if (cell, name) in seen:
            return
        values = self._values(name, cell)
        if not values or any(value is None for _, value in values):
            yield cell, name
        for at, value in values:
            yield from self._foreign(value, at, seen | {(cell, name)})

    def _values(self, name: str, cell: int) -> list[tuple[int, ast.AST | None]]:
        """All that a name is given in a cell, or else in the last one before it that gives it a new value."""
        found: list[tuple[int, ast.AST | None]] = []
        for at in sorted((at for at in self.bound if at <= cell), reverse=True):
            here = [one for one in self.bound[at] if one[0] == name and (at == cell or one[2])]
            found += [(at, value) for _, value, _, _ in here]
            if any(replaces for *_, replaces in here):
                break
        return found


def _called(node: ast.Call) -> str:
    return str(getattr(node.func, "id", getattr(node.func, "attr", "")))


def _parts(node: ast.AST) -> list[Any] | None:
    """The expressions that the text of an expression is made of: empty for numbers, none if that cannot be told."""
    match node:
        case ast.Constant() | ast.Compare() | ast.UnaryOp():
            return []
        case ast.FormattedValue(value=value, format_spec=form):
            return [] if _NUMERIC.fullmatch(_literal(form)) else [value]
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, op=ast.Add() | ast.Mult(), right=other):
            return [one, other]
        case ast.BinOp():
            return None if isinstance(node.op, ast.Mod) else []
        case ast.JoinedStr(values=values) | ast.BoolOp(values=values):
            return values
        case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Set(elts=values):
            return values
        case ast.Dict(keys=keys, values=values):
            return [*keys, *values]
        case ast.ListComp(elt=value) | ast.GeneratorExp(elt=value) | ast.NamedExpr(value=value):
            return [value]
        case ast.DictComp(key=key, value=value):
            return [key, value]
        case ast.Starred(value=value) | ast.Lambda(body=value):
            return [value]
        case ast.Call():
            return _parts_of_call(node)
    return None


def _parts_of_call(node: ast.Call) -> list[Any] | None:
    name, of = _called(node), getattr(node.func, "value", None)
    counts = name in _COUNTS if of is None else name == "nunique" or (name == "sum" and isinstance(of, _COMPARED))
    mapped = name == "map" and isinstance(node.args[0], ast.Name) and node.args[0].id in _ESCAPES
    if name in _ESCAPES or counts or mapped:
        return []
    return [*([] if of is None else [of]), *node.args] if name in _CARRIERS else None


def _literal(form: ast.AST | None) -> str:
    """A format, with a digit for each part of it that is computed."""
    parts = form.values if isinstance(form, ast.JoinedStr) else []
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in parts)


def _bindings(tree: ast.Module, told: bool) -> Iterator[Binding]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    local = {inner for node in functions for inner in ast.walk(node) if inner is not node}
    always = {node for holder in (tree, *functions) if isinstance(holder.body, list) for node in holder.body}
    always -= {node for node in always if isinstance(node, ast.AugAssign) or _is_item(node)}
    for node in ast.walk(tree):
        lasts = node not in local and not isinstance(node, ast.comprehension)
        yield from ((name, value, lasts, node in always) for name, value in _given(node, told))


def _is_item(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(target, ast.Subscript) for target in node.targets)


def _given(node: ast.AST, told: bool) -> Iterator[tuple[str, ast.AST | None]]:
    """Each name that a node gives a value, and the value, if it can be told."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=value):
            yield name, None if told and not _NUMBERS.fullmatch(ast.unparse(kind)) else value
        case ast.Assign(targets=targets, value=value):
            yield from (one for target in targets for one in _pairs(target, value))
        case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
            yield from _pairs(target, value)
        case ast.For(target=target, iter=source) | ast.comprehension(target=target, iter=source):
            yield from _pairs(target, ast.Starred(source))
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method), args=values) if method in _GROWS:
            yield from ((name, value) for value in values)
        case ast.FunctionDef(name=name):
            yield from ((name, one.value) for one in ast.walk(node) if isinstance(one, ast.Return))
        case ast.arg(arg=name):
            yield name, None


def _pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """Each name that is assigned to, and the value or what the value is a part of."""
    match target, value:
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)), _:
            yield name, value
        case (ast.Tuple(elts=targets), ast.Tuple(elts=values)) if len(targets) == len(values):
            for one, part in zip(targets, values, strict=True):
                yield from _pairs(one, part)
        case ast.Tuple(elts=targets), _:
            for one in targets:
                yield from _pairs(one, value)
