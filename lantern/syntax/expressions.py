"""Expressions rewritten: what Python decides by truth asks `lantern.syntax.operators` first.

a and b          __lantern__.and_(a, lambda: b)
not a            __lantern__.not_(a)
b if a else c    __lantern__.either(a, lambda: b, lambda: c)
a < b < c        __lantern__.compared(a, ('Lt', lambda: b), ('Lt', lambda: c))
f(x)             __lantern__.callee(f)(x)
x                __lantern__.defined(x)      where x may have no value that is known to Python
"""

from __future__ import annotations

import ast
import builtins
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

from lantern.syntax.analysis import NONE, Names
from lantern.syntax.calls import is_users

RUNTIME = "__lantern__"
SPECIAL = ("range", "enumerate", "zip", "map", "filter", "max", "min")
_FILTERS = (
    "how many elements a comprehension keeps cannot depend on one; keep all, and choose their "
    "values by `a if test else b`"
)
N = TypeVar("N", bound=ast.AST)


def at(place: ast.AST, node: N) -> N:
    """A node, and what is new below it, at the line on which another one begins. (Calls of what
    spans several lines are taken to be on the last one.)"""
    ast.copy_location(node, place)
    if isinstance(node, (ast.stmt, ast.expr)) and node.end_lineno != node.lineno:
        node.end_lineno, node.end_col_offset = node.lineno, node.col_offset
    return ast.fix_missing_locations(node)


def runtime(name: str, *args: ast.expr) -> ast.Call:
    """A call of a function of `lantern.syntax.operators`."""
    function = ast.Attribute(ast.Name(RUNTIME, ast.Load()), name, ast.Load())
    return ast.Call(function, list(args), [])


def later(body: ast.expr) -> ast.Lambda:
    """An expression that is computed when it is called for."""
    none = ast.arguments([], [], None, [], [], None, [])
    return at(body, ast.Lambda(none, body))


def literal(value: Any) -> ast.expr:
    """A tuple of texts and numbers, or one of these, as an expression."""
    if isinstance(value, tuple):
        return ast.Tuple([literal(v) for v in value], ast.Load())
    return ast.Constant(value)


def binds(*nodes: ast.expr) -> bool:
    """Whether an expression binds a name by ``:=``; a function around it would keep that name."""
    return any(isinstance(n, ast.NamedExpr) for node in nodes for n in ast.walk(node))


class Expressions(ast.NodeTransformer):
    """Rewrites the expressions of one function.

    Attributes:
        space: the globals of the function.
        local: the names that are bound in it, or in functions around or within it.
        owner: the class around it, by which private names are told apart.
        receiver: the name of its first argument.
        fragile: the names that control flow over staged values may leave without a value.
    """

    def __init__(
        self, space: dict[str, Any], local: Names, owner: str | None, receiver: str | None
    ) -> None:
        self.space, self.local, self.owner, self.receiver = space, local, owner, receiver
        self.fragile = NONE

    def expression(self, node: ast.expr) -> ast.expr:
        """An expression, rewritten."""
        return cast(ast.expr, self.visit(node))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        if binds(*node.values[1:]):
            return cast(ast.expr, self.generic_visit(node))
        name = "and_" if isinstance(node.op, ast.And) else "or_"
        first, *rest = map(self.expression, node.values)
        return at(node, runtime(name, first, *map(later, rest)))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.expression(node.operand)
        if isinstance(node.op, ast.Not):
            return at(node, runtime("not_", operand))
        return at(node, ast.UnaryOp(node.op, operand))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        if binds(node.body, node.orelse):
            return cast(ast.expr, self.generic_visit(node))
        test, body, orelse = map(self.expression, (node.test, node.body, node.orelse))
        return at(node, runtime("either", test, later(body), later(orelse)))

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        node = cast(ast.comprehension, self.generic_visit(node))
        node.ifs = [at(test, runtime("plain", test, literal(_FILTERS))) for test in node.ifs]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        plain = len(node.ops) == 1 and not isinstance(node.ops[0], (ast.In, ast.NotIn))
        if plain or binds(*node.comparators):
            return cast(ast.expr, self.generic_visit(node))
        links = [
            ast.Tuple([ast.Constant(type(op).__name__), later(self.expression(x))], ast.Load())
            for op, x in zip(node.ops, node.comparators, strict=True)
        ]
        return at(node, runtime("compared", self.expression(node.left), *links))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        function = node.func
        if isinstance(function, ast.Name) and function.id == "super" and not node.args:
            # Only the function itself has the first argument at hand, not one made out of its body.
            if self.receiver is not None:
                node.args = [ast.Name(n, ast.Load()) for n in ("__class__", self.receiver)]
            return at(node, node)
        wrap = not self.of_a_library(function)
        node = cast(ast.Call, self.generic_visit(node))
        if wrap:
            node.func = at(function, runtime("callee", node.func))
        return node

    def of_a_library(self, function: ast.expr) -> bool:
        """Whether what is called surely stays as it is: an attribute of an installed module, or a
        function of one, or of Python."""
        if isinstance(function, ast.Attribute):
            inner = function.value
            while isinstance(inner, ast.Attribute):
                inner = inner.value
            found = self.global_named(inner)
            return isinstance(found, ModuleType) and not is_users(found.__name__)
        found = self.global_named(function)
        if isinstance(function, ast.Name) and found is getattr(builtins, function.id, self):
            return function.id not in SPECIAL
        if isinstance(found, FunctionType):  # one that is wrapped has the module of the wrapped
            return not is_users(found.__globals__.get("__name__"))
        return isinstance(found, (BuiltinFunctionType, type)) and not is_users(found.__module__)

    def global_named(self, node: ast.expr) -> Any:
        """What a name stands for, where it is no variable of a function."""
        if not isinstance(node, ast.Name) or node.id in self.local:
            return None
        return self.space.get(node.id, getattr(builtins, node.id, None))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        plain = node.id
        node.id = self.mangled(node.id)
        if plain in self.fragile and isinstance(node.ctx, ast.Load):
            return at(node, runtime("defined", node))
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        node.attr = self.mangled(node.attr)
        return cast(ast.expr, self.generic_visit(node))

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.mangled(node.arg)
        return node

    def mangled(self, name: str) -> str:
        """A private name as Python writes it inside of a class."""
        if self.owner is None or not name.startswith("__") or name.endswith("__"):
            return name
        stripped = self.owner.lstrip("_")
        return f"_{stripped}{name}" if stripped else name

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node  # its methods are rewritten when they are called
