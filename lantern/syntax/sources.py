"""The syntax tree of a function, at its true lines and columns.

Most files parse as a whole. Of one that does not, such as a document with code in it, the lines of
the one function are parsed. That a text is indeed that of a function is checked: where a whole file
was parsed, by compiling it once more, which has to give the same code.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import NamedTuple, TypeAlias

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Source(NamedTuple):
    """Where a function is written.

    Attributes:
        definition: its own part of the tree, which others may share: not to be changed.
        owner: the name of the class around it, by which private names are told apart.
    """

    definition: Definition
    owner: str | None


class Unavailable(Exception):
    """A function whose text cannot be had; the message says why."""


class _Text(NamedTuple):
    """A parsed text: its functions by the line they begin on, and all code that it compiles to."""

    functions: dict[int, list[Source]]
    codes: frozenset[tuple[str, int, bytes]]


def source_of(f: FunctionType) -> Source:
    """The text of a function.

    Raises:
        Unavailable: there is none, or it is another one by now.

    Example:
        >>> import functools
        >>> isinstance(source_of(functools.wraps).definition, ast.FunctionDef)
        True
    """
    code = f.__code__
    lines = linecache.getlines(code.co_filename, f.__globals__)
    if not lines:
        name = code.co_filename
        if name.startswith("<"):
            raise Unavailable(
                f"its source text is not available, for it was made in {name}, by exec or in an "
                "interactive session; define it in a file"
            )
        raise Unavailable(f"its source text is not available, for there is no file {name}")
    whole = _parsed("".join(lines), code.co_filename)
    if whole is not None and _identity(code) not in whole.codes and not _of_pytest(code):
        raise Unavailable(f"{code.co_filename} has changed since it was imported")
    text = whole or _parsed_alone(lines, code)
    found = [s for s in text.functions.get(code.co_firstlineno, ()) if _fits(s.definition, code)]
    if len(found) != 1:
        raise Unavailable("its line holds several functions alike" if found else "no text fits it")
    return found[0]


@functools.lru_cache(maxsize=64)
def _parsed(text: str, filename: str) -> _Text | None:
    """A text with all that is defined in it; None if it is not Python."""
    try:
        tree = ast.parse(text, filename)
        code = compile(tree, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    functions: dict[int, list[Source]] = {}
    for source in _definitions(tree, None):
        functions.setdefault(_first_line(source.definition), []).append(source)
    return _Text(functions, frozenset(map(_identity, _nested(code))))


def _parsed_alone(lines: list[str], code: CodeType) -> _Text:
    """The function at a line of something that is not Python as a whole."""
    first = code.co_firstlineno
    try:
        block = inspect.getblock(lines[first - 1 :])
    except Exception as problem:  # the tokenizer has several errors of its own
        raise Unavailable("its source text does not parse") from problem
    indented = block[0][:1].isspace()
    # Empty lines in front, and a block around what is indented, keep lines and columns true.
    front = "\n" * (first - 2) + "if True:\n" if indented and first > 1 else "\n" * (first - 1)
    found = _parsed(front + "".join(block), code.co_filename)
    if found is None:
        raise Unavailable("its source text does not parse by itself")
    return found


def _definitions(node: ast.AST, owner: str | None) -> Iterator[Source]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield Source(child, owner)
        yield from _definitions(child, child.name if isinstance(child, ast.ClassDef) else owner)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _identity(code: CodeType) -> tuple[str, int, bytes]:
    return code.co_qualname, code.co_firstlineno, code.co_code


def _of_pytest(code: CodeType) -> bool:
    """Whether pytest has replaced the assertions of a function."""
    return any(name.startswith("@py") for name in (*code.co_names, *code.co_varnames))


def _first_line(definition: Definition) -> int:
    """The line on which a code object says that it begins."""
    decorators = [] if isinstance(definition, ast.Lambda) else definition.decorator_list
    return min(node.lineno for node in (definition, *decorators))


def _fits(definition: Definition, code: CodeType) -> bool:
    """Whether a definition may be that of a code object on the same line."""
    name = "<lambda>" if isinstance(definition, ast.Lambda) else definition.name
    arguments = definition.args
    plain = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    plain += [a.arg for a in (arguments.vararg, arguments.kwarg) if a]
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = [_unmangled(n, plain) for n in code.co_varnames[:count]]
    return name == code.co_name and names == plain and _spans(definition, code)


def _unmangled(name: str, plain: list[str]) -> str:
    return next((p for p in plain if p.startswith("__") and name.endswith(p)), name)


def _spans(definition: Definition, code: CodeType) -> bool:
    """Whether the code of a lambda lies within its text, by line and column."""
    if not isinstance(definition, ast.Lambda):
        return True
    body = definition.body
    low = body.lineno, body.col_offset
    high = body.end_lineno or 0, body.end_col_offset or 0
    places = [p for p in code.co_positions() if None not in p and p[2] != p[3]]
    return all(low <= (a, c) and (b, d) <= high for a, b, c, d in places)  # type: ignore[operator]
