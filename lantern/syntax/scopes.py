"""The names of one function, told apart by how parts of it may bind them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from lantern.syntax.analysis import (
    COMPOUND,
    NONE,
    Names,
    bound,
    captured,
    declared,
    written_from_below,
)


@dataclass(frozen=True)
class Scope:
    """The names of one function.

    Attributes:
        arguments: its arguments.
        local: the names that it binds, its arguments among them.
        globals: those that it declares global.
        always: those that functions within it may read whenever they run, and those that are not
            its own: they are always live.
        below: those that functions within it bind.
        fragile: those that are bound by a part of a branch or loop.
        shared: those of its own that a function made out of a part of it may bind.
    """

    arguments: Names = NONE
    local: Names = NONE
    globals: Names = NONE
    always: Names = NONE
    below: Names = NONE
    fragile: Names = NONE
    shared: Names = NONE

    @staticmethod
    def of(node: ast.FunctionDef) -> Scope:
        """The names of a function."""
        globals_, outer = (declared(node.body, kind) for kind in (ast.Global, ast.Nonlocal))
        arguments = frozenset(a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg))
        every = bound(node.body)
        below = written_from_below(node.body)
        parts = [n for s in node.body for n in ast.walk(s) if isinstance(n, COMPOUND)]
        return Scope(
            arguments=arguments,
            local=(every | arguments) - globals_ - outer,
            globals=globals_,
            always=captured(node.body) | globals_ | outer,
            below=below & (every | arguments | outer),
            fragile=(bound(parts) | below) & every if parts else NONE,
            shared=every - globals_ - outer if parts else NONE,
        )

    def bound_by(self, body: Sequence[ast.stmt]) -> Names:
        """The names that statements bind, themselves or by calling a function within this one."""
        calls = any(isinstance(n, ast.Call) for s in body for n in ast.walk(s))
        return bound(body) | (self.below if calls else NONE)
