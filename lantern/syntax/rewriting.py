"""Functions rewritten: branches and loops become functions, which `lantern.syntax.operators` runs.

What a branch, a loop's body or its test does becomes a function within the function, whose names
are still those of the function around it (``nonlocal``)::

    while x < 3:                        def test():
        x = f(x)                            return x < 3
                                        def body():
                                            nonlocal x
                                            x = f(x)
                                        __lantern__.while_(test, body, None, ('x',), ...)

Where the test is a value of Python, the operator calls these as Python would have run the
statements. A ``return``, ``break`` or ``continue`` in such a function is an *outcome* that it
returns (`lantern.syntax.outcomes`); reaching its end is None. What follows a statement that may be
left early becomes a function too, the rest::

    if x > 0:                           def body(): return __lantern__.Return(x)
        return x                        def orelse(): x = -x; return __lantern__.Return(x * x)
    x = -x                              return __lantern__.returned(
    return x * x                            __lantern__.if_(x > 0, body, orelse, ('x',), ...))
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, cast

from lantern.syntax.analysis import (
    NONE,
    Names,
    ends,
    escapes,
    live_before,
    live_in,
    loop_head,
)
from lantern.syntax.expressions import RUNTIME, Expressions, at, binds, later, literal, runtime
from lantern.syntax.hazards import hazard
from lantern.syntax.scopes import Scope

MADE = "__lantern_"  # how the names of functions begin that are made out of statements
_ITEM = "__lantern_item__"
Body = list[ast.stmt]
_WAYS_OUT = (
    "inside of a `try` or `match` that a `return`, `break` or `continue` leaves, Python decides; "
    "assign to a variable there, and return behind it, or use ln.cond"
)


class Functions(Expressions):
    """Rewrites a function, and those defined within it."""

    def __init__(self, space: dict[str, Any], local: Names, owner: str | None) -> None:
        super().__init__(space, local, owner, None)
        self.scope = Scope()
        self.count = 0

    def whole(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """A definition with its body rewritten."""
        outer, fragile, receiver = self.scope, self.fragile, self.receiver
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        self.receiver = arguments[0] if arguments else None
        self.scope = Scope.of(node)
        self.fragile = (fragile - self.scope.local) | self.scope.fragile
        node.args = self.visit(node.args)
        if not any(isinstance(n, _SUSPENDING) for s in node.body for n in _own_statements(s)):
            front = node.body[: ast.get_docstring(node, clean=False) is not None]
            body = self.block(node.body[len(front) :], NONE, top=True)
            node.body = [*front, *self.bindings(node), *body] or [at(node, ast.Pass())]
        self.scope, self.fragile, self.receiver = outer, fragile, receiver
        return node

    def bindings(self, node: ast.FunctionDef) -> Body:
        """What makes names those of this function, although only functions made out of its parts
        bind them: annotations, which do nothing."""
        names = sorted(self.scope.shared)
        return [
            at(node.body[0], ast.AnnAssign(
                ast.Name(self.mangled(n), ast.Store()), ast.Constant(None), None, 1
            ))
            for n in names
        ]  # fmt: skip

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list = [self.expression(d) for d in node.decorator_list]
        return self.whole(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        fragile, receiver = self.fragile, self.receiver
        self.fragile = fragile - {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        arguments = [*node.args.posonlyargs, *node.args.args]
        self.receiver = arguments[0].arg if arguments else None
        node = cast(ast.Lambda, self.generic_visit(node))
        self.fragile, self.receiver = fragile, receiver
        return node

    # Statements.

    def block(self, body: Sequence[ast.stmt], after: Names, top: bool) -> Body:
        """Some statements, rewritten.

        Args:
            body: the statements.
            after: the names that are live wherever control goes from their end, or by ``break`` or
                ``continue``.
            top: whether they stand in the function itself, not in one made out of a part of it.
        """
        made: Body = []
        behind = [after]  # each statement, the last one first
        for statement in reversed(body[1:]):
            behind.append(live_before(statement, behind[-1], after))
        for i, statement in enumerate(body):
            rest, live = body[i + 1 :], behind[-1 - i] | self.scope.always
            if escapes(statement):
                if isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
                    return [*made, self.way_out(statement, top)]
                if isinstance(statement, (ast.If, ast.While, ast.For, ast.With)):
                    return [*made, *self.left_early(statement, rest, live, after, top)]
                made.append(_Plain(self, top).visit(statement))
            elif isinstance(statement, ast.If):
                made += self.branches(statement, live, None)
            elif isinstance(statement, (ast.While, ast.For)):
                made += self.loop(statement, live, None)
            else:
                made += self.other(statement, live, top)
        return made

    def other(self, statement: ast.stmt, live: Names, top: bool) -> Body:
        """A statement that control leaves at its end, and that decides nothing by truth itself."""
        if isinstance(statement, ast.With):
            items = [cast(ast.withitem, self.visit(item)) for item in statement.items]
            inner = self.block(statement.body, live, top)
            return [at(statement, ast.With(items, inner, statement.type_comment))]
        if isinstance(statement, (ast.Try, ast.TryStar, ast.Match)):
            return [_Plain(self, top).parts(statement, live)]
        if isinstance(statement, ast.Assert):
            message = statement.msg or at(statement, ast.Constant(None))
            test = runtime(
                "asserted", self.expression(statement.test), later(self.expression(message))
            )
            return [at(statement, ast.Assert(test, statement.msg))]
        front: Body = []
        target = statement.target if isinstance(statement, ast.AugAssign) else None
        if isinstance(target, ast.Name) and target.id in self.fragile:
            name = ast.Name(self.mangled(target.id), ast.Load())
            front = [at(statement, ast.Expr(runtime("defined", name)))]
        return [*front, cast(ast.stmt, self.visit(statement))]

    def way_out(self, statement: ast.stmt, top: bool) -> ast.stmt:
        """A return, break or continue as what a function returns."""
        if isinstance(statement, ast.Return):
            value = statement.value and self.expression(statement.value)
            if not top:
                value = runtime("Return", value or ast.Constant(None))
            return at(statement, ast.Return(value))
        name = "BREAK" if isinstance(statement, ast.Break) else "CONTINUE"
        outcome = ast.Attribute(ast.Name(RUNTIME, ast.Load()), name, ast.Load())
        return at(statement, ast.Return(outcome))

    def left_early(
        self, node: ast.stmt, rest: Sequence[ast.stmt], live: Names, after: Names, top: bool
    ) -> Body:
        """A statement that control may leave early, and all that follows it."""
        if isinstance(node, ast.If):
            joined: Sequence[ast.stmt] = []
            if ends(node.body) or ends(node.orelse):
                joined, rest = rest, []
            live = live_in(rest, after, after) | after | self.scope.always
            made = self.branches(node, live, after, joined)
        elif isinstance(node, (ast.While, ast.For)):
            made = self.loop(node, live, after)
        else:
            assert isinstance(node, ast.With)
            items = [cast(ast.withitem, self.visit(item)) for item in node.items]
            inside, call = self.function("with", node.body, live | after)
            outcome = ast.Name(MADE + "outcome", ast.Store())
            kept = at(node, ast.Assign([outcome], ast.Call(call, [], []), lineno=node.lineno))
            none = at(node, ast.Assign([outcome], ast.Constant(None), lineno=node.lineno))
            made = [inside, none, at(node, ast.With(items, [kept])),
                    at(node, ast.Expr(ast.Name(outcome.id, ast.Load())))]  # fmt: skip
        *made, last = made
        assert isinstance(last, ast.Expr)
        outcome = last.value
        if rest:
            names = self.names(rest, after | self.scope.always)
            following, call = self.function("rest", rest, after)
            made.append(following)
            outcome = runtime("then", outcome, call, *names)
        if top:
            outcome = runtime("returned", outcome)
        return [*made, at(node, ast.Return(outcome))]

    def branches(
        self, node: ast.If, live: Names, after: Names | None, rest: Sequence[ast.stmt] = ()
    ) -> Body:
        """An ``if``: the functions of its branches, and the call that chooses.

        Args:
            node: the statement.
            live: the names that are live behind it.
            after: those that are live where else control goes; None: nowhere.
            rest: what follows it: it belongs to the branch that control reaches the end of.
        """
        inside = live if after is None else live | after
        names = self.names([*node.body, *node.orelse], live, rest)
        if ends(node.body):
            yes, no = node.body, [*node.orelse, *rest]
        else:
            yes, no = [*node.body, *rest], node.orelse
        body, if_body = self.function("body", yes, inside)
        made, if_orelse = self.optional("orelse", no, inside)
        call = runtime("if_", self.expression(node.test), if_body, if_orelse, *names)
        return [body, *made, at(node, ast.Expr(call))]

    def loop(self, node: ast.While | ast.For, live: Names, after: Names | None) -> Body:
        """A ``while`` or ``for``: the functions of its parts, and the call that runs them."""
        behind = live if after is None else live | after
        head = loop_head(node, behind, behind) | self.scope.always
        inside, test = self.parts(node)
        names = self.names([*inside, *node.orelse], head | behind)
        made, orelse = self.optional("orelse", node.orelse, behind)
        if isinstance(node, ast.For):
            calls = literal(self.calls(node.body))
            body, call = self.function("body", inside, head, item=True)
            run = runtime("for_", self.expression(node.iter), call, orelse, *names, calls)
            return [*made, body, at(node, ast.Expr(run))]
        tested, if_test = self.function("test", [at(test, ast.Return(test))], head, plain=True)
        body, call = self.function("body", inside, head)
        run = runtime("while_", if_test, call, orelse, *names)
        return [*made, tested, body, at(node, ast.Expr(run))]

    def calls(self, body: Sequence[ast.stmt]) -> bool:
        """Whether statements call functions of the user's for what these do, not what they give."""
        return any(
            isinstance(n, ast.Expr)
            and isinstance(n.value, ast.Call)
            and not self.of_a_library(n.value.func)
            for statement in body
            for n in ast.walk(statement)
        )

    @staticmethod
    def parts(node: ast.While | ast.For) -> tuple[Sequence[ast.stmt], ast.expr]:
        """The body of a loop, as far as names are concerned, and the test of a ``while``."""
        if isinstance(node, ast.For):
            item = ast.Name(_ITEM, ast.Load())
            first = at(node.target, ast.Assign([node.target], item, lineno=node.lineno))
            return [first, *node.body], ast.Constant(True)
        test = node.test
        if not binds(test):
            return node.body, test
        # The body reads what the test binds: so this is part of the body.
        leave = at(test, ast.If(at(test, ast.UnaryOp(ast.Not(), test)), [ast.Break()], []))
        return [leave, *node.body], at(test, ast.Constant(True))

    def optional(self, what: str, body: Sequence[ast.stmt], after: Names) -> tuple[Body, ast.expr]:
        """`function` of statements that may be absent: None instead."""
        if not body:
            return [], ast.Constant(None)
        function, name = self.function(what, body, after)
        return [function], name

    def function(
        self, what: str, body: Sequence[ast.stmt], after: Names, item: bool = False,
        plain: bool = False,
    ) -> tuple[ast.FunctionDef, ast.Name]:  # fmt: skip
        """A function made out of statements, and its name.

        Args:
            what: a part of its name.
            body: the statements.
            after: the names that are live behind them.
            item: whether it takes the next element of a loop.
            plain: whether it returns the value of an expression.
        """
        self.count += 1
        name = f"{MADE}{what}_{self.count}"
        outer = self.scope.bound_by(body)
        made: Body = [
            kind(sorted(map(self.mangled, some)))
            for kind, some in ((ast.Global, outer & self.scope.globals),
                               (ast.Nonlocal, outer - self.scope.globals))
            if some
        ]  # fmt: skip
        made += self.block(body, after, top=plain)
        arguments = ast.arguments([], [ast.arg(_ITEM)] if item else [], None, [], [], None, [])
        return at(body[0], define(name, arguments, made)), ast.Name(name, ast.Load())

    def names(
        self, body: Sequence[ast.stmt], live: Names, rest: Sequence[ast.stmt] = ()
    ) -> tuple[ast.expr, ...]:
        """What an operator is told of statements, and of those that follow in one of the branches:
        the names that they bind, those of these that are live behind them, and what they do that a
        staged branch or loop cannot."""
        every = self.scope.bound_by([*body, *rest])
        problem = hazard(body, self.scope.globals)
        if problem is None and rest:
            own = self.scope.local - self.scope.arguments - live
            problem = hazard(rest, self.scope.globals, own, rest=True)
        shown = (tuple(sorted(map(self.mangled, some))) for some in (every, every & live))
        return (*map(literal, shown), literal(problem))


def define(name: str, arguments: ast.arguments, body: Body) -> ast.FunctionDef:
    """A definition; versions of Python differ in whether one has a list of type parameters."""
    node = ast.FunctionDef(name, arguments, body, [], None)
    node.type_params = []  # type: ignore[attr-defined]  # which Python 3.11 does not know
    return node


class _Plain(ast.NodeTransformer):
    """Rewrites a statement that stays one of Python: only what it computes, and its ways out."""

    def __init__(self, functions: Functions, top: bool) -> None:
        self.functions, self.top, self.loops = functions, top, 0

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Return):
            return self.functions.way_out(node, self.top)
        if isinstance(node, (ast.Break, ast.Continue)):
            return node if self.loops else self.functions.way_out(node, self.top)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.expr)):
            return self.functions.visit(node)
        inner = isinstance(node, (ast.While, ast.For))
        if isinstance(node, (ast.If, ast.While)):
            test = self.functions.expression(node.test)
            node.test = at(test, runtime("plain", test, literal(_WAYS_OUT)))
        self.loops += inner
        found = self.generic_visit(node)
        self.loops -= inner
        return found

    def parts(self, node: ast.stmt, live: Names) -> ast.stmt:
        """A ``try`` or ``match`` that control leaves at its end: its parts are rewritten."""
        live = live.union(*(live_before(s, live) for s in [node]))
        for holder in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            for name, value in ast.iter_fields(holder):
                if name in ("body", "orelse", "finalbody") and value:
                    setattr(holder, name, self.functions.block(value, live, self.top))
                elif isinstance(value, ast.expr):
                    setattr(holder, name, self.functions.expression(value))
        return node


def _own_statements(node: ast.AST) -> Any:
    """A statement and all within it, but for functions and classes within it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own_statements(child)


# What makes a function a generator or a coroutine: it is left as it is.
_SUSPENDING = (ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith)
