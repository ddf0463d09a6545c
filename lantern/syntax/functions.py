"""Which function runs in place of which: `in_place_of`.

A function is rewritten once for its code, when it is first called where a program is being written.
Functions that it calls follow when they are called; those of libraries stay as they are.
"""

from __future__ import annotations
import __future__

import ast
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from lantern.errors import unrewritten
from lantern.syntax.analysis import bound
from lantern.syntax.calls import is_users
from lantern.syntax.expressions import RUNTIME, at
from lantern.syntax.recursion import watched
from lantern.syntax.rewriting import MADE, Functions, define
from lantern.syntax.sources import Source, Unavailable, source_of

_FEATURES = (getattr(__future__, name) for name in __future__.all_feature_names)
_FLAGS = functools.reduce(int.__or__, (feature.compiler_flag for feature in _FEATURES))
# What has been rewritten so far. Code objects of different files may be equal.
_codes: dict[tuple[str, CodeType], Rewritten] = {}
_NEW = "__lantern_new__"
_SUSPENDING = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
DECIDING = ("if_", "while_", "for_", "either", "and_", "or_", "compared")


class Rewritten(NamedTuple):
    """What has become of the code of a function.

    Attributes:
        code: the new code, or the same.
        decides: whether a value of the program may decide which calls it makes.
    """

    code: CodeType
    decides: bool


def in_place_of(f: Callable[..., Any]) -> Callable[..., Any]:
    """See `lantern.syntax.calls.rewritten`."""
    if isinstance(f, FunctionType):
        return of_function(f)
    if isinstance(f, (type, BuiltinFunctionType)):
        from lantern.syntax.builtin import IN_PLACE_OF

        return IN_PLACE_OF.get(f, f)
    if isinstance(f, MethodType):
        inner = in_place_of(f.__func__)
        return f if inner is f.__func__ else MethodType(inner, f.__self__)
    if isinstance(f, functools.partial):
        inner = in_place_of(f.func)
        return f if inner is f.func else functools.partial(inner, *f.args, **f.keywords)
    method = getattr(type(f), "__call__", None)  # noqa: B004  # of the class, as a call takes it
    if isinstance(method, FunctionType):
        inner = of_function(method)
        return f if inner is method else MethodType(inner, f)
    return f


def of_function(f: FunctionType) -> Callable[..., Any]:
    """A function of a user with its code rewritten; one of a library itself."""
    old = f.__code__
    if not is_users(f.__globals__.get("__name__")):
        return f
    found = _codes.get((old.co_filename, old)) or _rewritten_code(f)
    run = f if found.code is old else _with_code(f, found.code)
    return watched(f, run) if found.decides else run


def _with_code(f: FunctionType, new: CodeType) -> FunctionType:
    """A function with other code, which reads the same variables."""
    from lantern.syntax import operators  # which are written on loops and branches

    cells = dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
    cells[RUNTIME] = CellType(operators)
    closure = tuple(cells[name] for name in new.co_freevars)
    made = FunctionType(new, f.__globals__, f.__name__, f.__defaults__, closure)
    made.__kwdefaults__ = f.__kwdefaults__
    functools.update_wrapper(made, f)
    return made


def _rewritten_code(f: FunctionType) -> Rewritten:
    """The code of a function, rewritten; its own, with the reason noted, where that cannot be."""
    old = f.__code__
    try:
        new = _compiled(f, source_of(f))
    except Unavailable as problem:
        unrewritten[old] = str(problem)
        new = old
    for code in _nested(new):
        if code.co_flags & _SUSPENDING and code.co_name != "<genexpr>":
            unrewritten[code] = "it is a generator or coroutine"
        _codes[code.co_filename, code] = Rewritten(code, new is not old and _decides(code))
    found = _codes[old.co_filename, old] = _codes[new.co_filename, new]
    return found


def _decides(code: CodeType) -> bool:
    """Whether a rewritten function may call itself as often as a value of the program says."""
    names = {name for part in _nested(code) for name in part.co_names}
    return "callee" in names and not names.isdisjoint(DECIDING)


def _compiled(f: FunctionType, source: Source) -> CodeType:
    old = f.__code__
    definition = copy.deepcopy(source.definition)
    local = bound([definition]) | frozenset(old.co_freevars)
    local = local.union(*(c.co_varnames + c.co_cellvars for c in _nested(old)))
    functions = Functions(f.__globals__, local, source.owner)
    _strip(definition)
    if isinstance(definition, ast.Lambda):
        made: ast.stmt = at(definition, ast.Return(functions.visit(definition)))
    elif isinstance(definition, ast.AsyncFunctionDef):
        raise Unavailable("it is a coroutine")
    else:
        made = functions.whole(definition)
        made.name = _NEW  # its own name may be that of a variable around it
    free = [ast.arg(name) for name in (*old.co_freevars, RUNTIME)]
    shell = define(MADE + "shell", ast.arguments([], free, None, [], [], None, []), [made])
    module = ast.Module([at(made, shell)], [])
    code = compile(module, old.co_filename, "exec", flags=old.co_flags & _FLAGS, dont_inherit=True)
    name = "<lambda>" if isinstance(definition, ast.Lambda) else _NEW
    shell_code = next(c for c in _nested(code) if c.co_name == MADE + "shell")
    inner = next(c for c in shell_code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    return _renamed(inner, old.co_name, old.co_qualname, old.co_firstlineno)


def _strip(definition: ast.AST) -> None:
    """Leave out of a definition what is computed where it stands: the function has it already."""
    arguments = definition.args  # type: ignore[attr-defined]  # of a function or a lambda
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    if isinstance(definition, ast.FunctionDef):
        definition.decorator_list, definition.returns = [], None
        for node in ast.walk(definition.args):
            if isinstance(node, ast.arg):
                node.annotation = None


def _renamed(code: CodeType, name: str, qualified: str, line: int | None = None) -> CodeType:
    """A code object under the name of the function that it is a part of, for tracebacks."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            part = constant.co_name.startswith(MADE)
            inner = name if part else constant.co_name
            where = qualified if part else f"{qualified}.<locals>.{inner}"
            constant = _renamed(constant, inner, where)
        constants.append(constant)
    return code.replace(
        co_name=name, co_qualname=qualified, co_consts=tuple(constants),
        co_firstlineno=code.co_firstlineno if line is None else line,
    )  # fmt: skip


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
