"""What a branch or loop cannot do where a value of the program decides: anything that stays done.

All branches are run once, to be recorded, and a loop's body too. Variables are put back in between;
objects that the statements change cannot be.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from lantern.syntax.analysis import NONE, Names, bound, own

Hazard = tuple[int, str] | None
MUTATORS = frozenset(
    [
        "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "update",
        "setdefault", "popitem", "add", "discard", "appendleft", "extendleft", "popleft",
    ]
)  # fmt: skip
_TRY = (
    "`try` sees no error of a compiled program, which runs later; decide by values, with `if` or "
    "ln.cond"
)


def hazard(
    body: Sequence[ast.stmt], globals_: Names, theirs: Names = NONE, rest: bool = False
) -> Hazard:
    """The first thing among statements that stays done: its line, and what it is with what to do
    instead. None if there is none.

    Args:
        body: the statements.
        globals_: the names that are declared global.
        theirs: variables whose objects nobody else reads any more. So are those of objects that the
            statements make.
        rest: whether they are the rest of a function or block, which was to be left early.
    """
    changeable = bound(body) | theirs
    found = (
        (getattr(node, "lineno", 0), text)
        for statement in body
        for node in own(statement)
        for text in _hazards(node, globals_, changeable, rest)
    )
    return min(found, default=None, key=lambda h: h[0])


def _hazards(node: ast.AST, globals_: Names, made: Names, rest: bool) -> Iterator[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and node.id in globals_:
        yield f"the global {node.id} is changed; return its new value instead"
    if isinstance(node, ast.Delete) and not rest:
        yield "`del` cannot be undone; leave the variable alone"
    if isinstance(node, (ast.Try, ast.TryStar)) and not rest:
        yield _TRY
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
        yield from _change(node, f"`{ast.unparse(node)} = ...`", made)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
            yield from _change(function, f"`{ast.unparse(function)}(...)`", made)


def _change(node: ast.AST, shown: str, made: Names) -> Iterator[str]:
    """What changes an object that was there before: the one an expression begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in made:
        yield (
            f"{shown} changes an object; make a new one, such as a tuple, dict or dataclass in a "
            "variable, or x.at[index].set(value) of a Tensor, or collect values by ln.scan"
        )
