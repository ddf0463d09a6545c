"""What a piece of a function does with names: which it binds and reads, and which are live.

All of it is cautious: a name too many that is bound or live costs time, one too few would be wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

Names = frozenset[str]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
LOOPS = (ast.While, ast.For)
COMPOUND = (ast.If, ast.While, ast.For, ast.With, ast.Try, ast.TryStar, ast.Match)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NONE: Names = frozenset()


def own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it that run with it: not the bodies of functions and classes in it,
    but what their definitions compute."""
    yield node
    inner: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Lambda):
        inner = (*node.args.defaults, *(d for d in node.args.kw_defaults if d))
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        defaults = (*node.args.defaults, *(d for d in node.args.kw_defaults if d))
        inner = (*node.decorator_list, *defaults)
    elif isinstance(node, ast.ClassDef):
        inner = (*node.decorator_list, *node.bases, *node.keywords)
    for child in inner:
        yield from own(child)


def bound(nodes: Iterable[ast.AST]) -> Names:
    """The names that some statements bind or delete in their own scope."""
    return frozenset(name for node in nodes for name in _bound(node, inside=False))


def _bound(node: ast.AST, inside: bool) -> Iterator[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and not inside:
        yield node.id
    elif isinstance(node, ast.NamedExpr):  # which leaves comprehensions
        yield node.target.id
        yield from _bound(node.value, inside)
        return
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0]
    elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    below = inside or isinstance(node, _COMPREHENSIONS)
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        for child in list(own(node))[1:]:
            if isinstance(child, ast.NamedExpr):
                yield child.target.id
        return
    for child in ast.iter_child_nodes(node):
        yield from _bound(child, below)


def read(node: ast.AST) -> Names:
    """The names that a node reads, those that functions defined in it read among them."""
    found: set[str] = set()
    for n in ast.walk(node):
        if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name):
            found.add(n.target.id)
        elif isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
            found.add(n.id)
    return frozenset(found)


def captured(body: Iterable[ast.AST]) -> Names:
    """The names that functions and classes within a function may read or write, whenever they
    run."""
    found: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found |= read(node) | written_from_below([node])
    return frozenset(found)


def written_from_below(nodes: Iterable[ast.AST]) -> Names:
    """The names that functions defined in some nodes declare nonlocal."""
    return frozenset(
        name
        for node in nodes
        for inner in ast.walk(node)
        if isinstance(inner, (ast.FunctionDef, ast.ClassDef))
        for below in ast.walk(inner)
        if isinstance(below, ast.Nonlocal)
        for name in below.names
    )


def declared(body: Iterable[ast.AST], kind: type[ast.Global] | type[ast.Nonlocal]) -> Names:
    """The names that a function itself declares ``global`` or ``nonlocal``."""
    return frozenset(name for s in body for n in own(s) if isinstance(n, kind) for name in n.names)


# Ways out of a statement -------------------------------------------------------------------------


def escapes(node: ast.AST) -> Names:
    """How control may leave a statement other than at its end: return, break, continue."""
    if isinstance(node, ast.Return):
        return frozenset(["return"])
    if isinstance(node, ast.Break):
        return frozenset(["break"])
    if isinstance(node, ast.Continue):
        return frozenset(["continue"])
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.expr)):
        return NONE
    if isinstance(node, (*LOOPS, ast.AsyncFor)):
        inside = NONE.union(*map(escapes, node.body)) - {"break", "continue"}
        return inside.union(*map(escapes, node.orelse))
    return NONE.union(*map(escapes, ast.iter_child_nodes(node)))


def ends(body: Sequence[ast.stmt]) -> bool:
    """Whether control surely does not reach the end of some statements."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, (ast.Return, ast.Break, ast.Continue, ast.Raise)):
        return True
    if isinstance(last, ast.If):
        return ends(last.body) and ends(last.orelse)
    return isinstance(last, ast.With) and ends(last.body)


# Liveness ----------------------------------------------------------------------------------------


def live_before(node: ast.stmt, after: Names, loop: Names = NONE) -> Names:
    """The names whose values may still be read when a statement begins.

    Args:
        node: the statement.
        after: the names that are live behind it.
        loop: those that are live where ``break`` and ``continue`` lead.
    """
    if isinstance(node, ast.Return):
        return read(node)
    if isinstance(node, ast.Raise):
        return read(node)
    if isinstance(node, (ast.Break, ast.Continue)):
        return loop
    if isinstance(node, ast.If):
        branches = (live_in(part, after, loop) for part in (node.body, node.orelse))
        return read(node.test).union(*branches)
    if isinstance(node, ast.While):
        return read(node.test) | loop_head(node, after, loop)
    if isinstance(node, ast.For):
        return read(node.iter) | (loop_head(node, after, loop))
    if isinstance(node, ast.With):
        # One that swallows an exception leaves its body anywhere.
        return after.union(live_in(node.body, after, loop), *map(read, node.items))
    if isinstance(node, (*COMPOUND, ast.ClassDef)):
        return after | loop | read(node)
    return (after - _surely_bound(node)) | read(node)


def live_in(body: Sequence[ast.stmt], after: Names, loop: Names = NONE) -> Names:
    """The names that are live before some statements."""
    for statement in reversed(body):
        after = live_before(statement, after, loop)
    return after


def loop_head(node: ast.While | ast.For, after: Names, outer: Names = NONE) -> Names:
    """The names that are live at the head of a loop, before its test or its next element."""
    behind = live_in(node.orelse, after, outer) | after
    test = read(node.test) if isinstance(node, ast.While) else NONE
    target = bound([node.target]) if isinstance(node, ast.For) else NONE
    head = behind | test
    while True:
        inside = live_in(node.body, head, head)
        grown = head | (inside - target)
        if grown == head:
            return head
        head = grown


def _surely_bound(node: ast.stmt) -> Names:
    """The names that a simple statement gives a new value whatever happens."""
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    elif isinstance(node, ast.FunctionDef):
        return frozenset([node.name])
    else:
        return NONE
    return frozenset(
        n.id for t in targets for n in ast.walk(t)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )  # fmt: skip
