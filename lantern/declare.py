"""What is checked, and improved, when a rule is declared, or, of lantern's own, when it first runs.

A rule is a generator function with exactly one ``yield``, outside ``with``, ``try`` and loops:
resuming it is then always safe, in any order and long after its forward half ran. While it is
suspended it should keep only what its backward half reads. Python's generators keep every local,
so the declaration rewrites ::

    dz = yield expression

in the syntax tree to ::

    dz = yield (expression, t := (x := None))[0]    # for locals that nothing after it reads

Where the source text cannot be found (``exec``, the plain interactive prompt) the rule runs as
it was written and may keep more; its result is the same.

Functions that a user's rule calls are rewritten like those that other functions call
(`lantern.syntax`), although the rule itself, a generator, is not: ``f(x)`` becomes
``callee(f)(x)``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any

from lantern.errors import RuleError

_NESTED = (
    ast.FunctionDef,
    ast.Lambda,
    ast.GeneratorExp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
)
_INNER = "rule_without_dead_locals"
_CALLEE = "__lantern_callee__"
Callee = Callable[[Callable[..., Any]], Callable[..., Any]]


def checked_rule(rule: Callable[..., Any], callee: Callee | None = None) -> Callable[..., Any]:
    """Return ``rule``, shown to keep the protocol, in a form that keeps only what its backward
    half reads.

    Args:
        rule: the generator function.
        callee: from what the rule calls to what is called in its place.

    Raises:
        RuleError: not a generator function; no ``yield`` or several; a ``yield`` inside ``with``,
        ``try`` or a loop.

    Example:
        >>> def sin(x):
        ...     return x
        >>> checked_rule(sin)
        Traceback (most recent call last):
            ...
        lantern.errors.RuleError: rule sin has no yield: a rule is a generator function, ...
    """
    name = rule.__name__
    if not inspect.isgeneratorfunction(rule):
        raise RuleError(
            f"rule {name} has no yield: a rule is a generator function, `dz = yield result` and "
            "then a return of one adjoint for each positional argument"
        )
    tree = _definition(rule)
    if tree is None:
        return rule
    _check(name, tree)
    changed = _forget_dead_locals(tree)
    if callee is None:
        return _recompiled(rule, tree, {}) if changed else rule
    return _recompiled(rule, _Calls().visit(tree), {_CALLEE: callee})


class Deferred:
    """A rule of lantern's own, which `checked_rule` sees when it is first run: a program runs few
    of them, and to parse all would take most of the time that importing lantern takes.

    Args:
        rule: the generator function.
        callee: see `checked_rule`.
    """

    __slots__ = ("__wrapped__", "callee", "checked")

    def __init__(self, rule: Callable[..., Any], callee: Callee | None = None) -> None:
        self.__wrapped__, self.callee = rule, callee
        self.checked: Callable[..., Any] | None = None

    def ready(self) -> Callable[..., Any]:
        """The rule in the form that runs.

        Raises:
            RuleError: it does not keep the protocol.
        """
        if self.checked is None:
            self.checked = checked_rule(self.__wrapped__, self.callee)
        return self.checked

    def __call__(self, *values: Any, **params: Any) -> Any:
        return self.ready()(*values, **params)


def declared_rule(rule: Callable[..., Any], callee: Callee | None = None) -> Callable[..., Any]:
    """A rule as a primitive holds it: one of lantern's own is checked when it is first run, any
    other now, at the line that declares it.

    Raises:
        RuleError: as `checked_rule` does, of one that is checked now.
    """
    module = getattr(rule, "__module__", None) or ""
    ours = module.partition(".")[0] == __name__.partition(".")[0]
    return Deferred(rule, callee) if ours else checked_rule(rule, callee)


def _definition(rule: Callable[..., Any]) -> ast.FunctionDef | None:
    """The syntax tree of the rule's definition, at its true lines; None without source text."""
    try:
        lines, first = inspect.getsourcelines(rule)
    except (OSError, TypeError):
        return None
    module = ast.parse(textwrap.dedent("".join(lines)))
    ast.increment_lineno(module, first - 1)
    definition = module.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return None
    definition.decorator_list = []  # not of the body: a kernel's lambda there names arguments too
    return definition


def _check(name: str, tree: ast.FunctionDef) -> None:
    yields: list[ast.AST] = []

    def visit(node: ast.AST, inside: str | None) -> None:
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)) and node is not tree:
            return
        if isinstance(node, ast.YieldFrom):
            raise RuleError(f"rule {name}, line {node.lineno}: `yield from` is not a single yield")
        if isinstance(node, ast.Yield):
            if inside:
                raise RuleError(
                    f"rule {name}, line {node.lineno}: no yield inside `{inside}`; move it out"
                )
            yields.append(node)
        kinds = {
            ast.With: "with",
            ast.Try: "try",
            ast.TryStar: "try",
            ast.For: "for",
            ast.While: "while",
        }
        for child in ast.iter_child_nodes(node):
            visit(child, kinds.get(type(node), inside))

    visit(tree, None)
    if len(yields) != 1:
        raise RuleError(
            f"rule {name} has {len(yields)} yields; a continuation is captured exactly once"
        )


class _Calls(ast.NodeTransformer):
    """Lets every call ask first what is called."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = ast.copy_location(ast.Name(_CALLEE, ast.Load()), node.func)
        node.func = ast.copy_location(ast.Call(name, [node.func], []), node.func)
        return node


def _forget_dead_locals(tree: ast.FunctionDef) -> bool:
    """Let a rule forget at its ``yield`` the locals that nothing after it reads, if there are
    any."""
    position, value = _yield_statement(tree)
    if value is None or value.value is None:
        return False
    arguments = tree.args
    known = {a.arg for a in [*arguments.args, *arguments.posonlyargs, *arguments.kwonlyargs]}
    known |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a}
    known |= {
        n.id
        for earlier in tree.body[:position]
        for n in ast.walk(earlier)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    # A name inside a nested function is a cell, which would change for it too: those stay.
    nested = {
        n.id
        for inner in ast.walk(tree)
        if isinstance(inner, _NESTED) and inner is not tree
        for n in ast.walk(inner)
        if isinstance(n, ast.Name)
    }
    read = {n.id for s in tree.body[position + 1 :] for n in ast.walk(s) if isinstance(n, ast.Name)}
    dead = sorted(known - read - nested)
    if not dead:
        return False
    # The result itself must not stay in a local either: it lives on the operand stack only.
    forget: ast.expr = ast.Constant(None)
    for name in dead:
        forget = ast.NamedExpr(ast.Name(name, ast.Store()), forget)
    both = ast.Tuple([value.value, forget], ast.Load())
    result = ast.Subscript(both, ast.Constant(0), ast.Load())
    value.value = ast.fix_missing_locations(ast.copy_location(result, value))
    return True


def _yield_statement(tree: ast.FunctionDef) -> tuple[int, ast.Yield | None]:
    """Where the statement ``dz = yield ...`` stands in the rule's body, and its yield.

    None where the yield is part of an expression or a branch: its author set the order there.
    """
    for position, statement in enumerate(tree.body):
        value = getattr(statement, "value", None)
        if isinstance(statement, (ast.Assign, ast.Expr)) and isinstance(value, ast.Yield):
            return position, value
    return 0, None


def _recompiled(
    rule: Callable[..., Any], tree: ast.FunctionDef, more: dict[str, Any]
) -> Callable[..., Any]:
    """Compile ``tree`` in place of ``rule``: the same file, globals, defaults and closure, with
    more names in that."""
    assert isinstance(rule, FunctionType)
    # Under its own name the inner definition would hide a global of that name: the rule's own
    # primitive.
    tree.name = _INNER
    free = rule.__code__.co_freevars
    # Free variables must be free in the new code too: define it inside a function that has them as
    # arguments.
    outer = ast.parse(f"def enclosing({', '.join((*free, *more))}): pass")
    shell = outer.body[0]
    assert isinstance(shell, ast.FunctionDef)
    shell.body = [tree]
    code = _code_named(compile(outer, rule.__code__.co_filename, "exec"), _INNER)
    code = code.replace(co_name=rule.__code__.co_name, co_qualname=rule.__code__.co_qualname)
    cells = dict(zip(free, rule.__closure__ or (), strict=True))
    cells |= {name: CellType(value) for name, value in more.items()}
    closure = tuple(cells[n] for n in code.co_freevars)
    new = FunctionType(code, rule.__globals__, rule.__name__, rule.__defaults__, closure)
    new.__kwdefaults__, new.__doc__, new.__module__ = (
        rule.__kwdefaults__,
        rule.__doc__,
        rule.__module__,
    )
    new.__qualname__ = rule.__qualname__
    return new


def _code_named(code: CodeType, name: str) -> CodeType:
    """The code object of the function ``name`` nested somewhere inside ``code``."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name:
                return constant
            try:
                return _code_named(constant, name)
            except LookupError:
                continue
    raise LookupError(name)
