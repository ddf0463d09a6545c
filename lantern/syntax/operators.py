"""What rewritten functions call, under the name ``__lantern__``.

Each of these does what Python does where it can decide by the values at hand. Where it cannot, they
are values of a program that is being written, and it writes a branch or a loop.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable
from functools import reduce
from typing import Any

from lantern.errors import StagingError, describe
from lantern.ops.logic import logical_and, logical_not, logical_or
from lantern.ops.reductions import any as any_of
from lantern.primitives.effects import require
from lantern.syntax import branching, looping
from lantern.syntax.branching import Names, Part
from lantern.syntax.calls import rewritten as callee
from lantern.syntax.hazards import Hazard
from lantern.syntax.joining import shown
from lantern.syntax.outcomes import BREAK, CONTINUE, END, NEXT, Outcome, Return
from lantern.syntax.speculation import attempt
from lantern.syntax.truth import is_staged, truth
from lantern.syntax.variables import Undefined
from lantern.tensor import Tensor

__all__ = [
    "BREAK", "CONTINUE", "Return", "and_", "asserted", "callee", "compared", "defined", "either",
    "for_", "if_", "not_", "or_", "plain", "returned", "then", "while_",
]  # fmt: skip

Thunk = Callable[[], Any]
Optional = Part | None
NO_NAMES = Names((), ())


# Statements.


def if_(
    test: Any, body: Part, orelse: Optional, bound: tuple[str, ...], live: tuple[str, ...],
    problem: Hazard,
) -> Outcome | None:  # fmt: skip
    """``if test: body else: orelse``."""
    if is_staged(test):
        names = Names(bound, live, problem)
        parts = (body, orelse or _nothing)
        return branching.decide(truth(test, "`if`"), parts, (body, orelse), names)
    if test:
        return body()
    return orelse() if orelse is not None else None


def then(
    outcome: Outcome | None, rest: Part, bound: tuple[str, ...], live: tuple[str, ...],
    problem: Hazard,
) -> Outcome | None:  # fmt: skip
    """Do the rest, unless control has gone elsewhere before."""
    return looping.then(outcome, rest, (rest,), Names(bound, live, problem))


def returned(outcome: Outcome | None) -> Any:
    """What a function returns, from how control left its body."""
    if outcome is None or outcome.possible == END.possible:
        return None
    if NEXT in outcome.possible and outcome.value is not None:
        raise StagingError(
            f"the function returns {shown(outcome.value)} on one way, and reaches its end without "
            "a `return` on another, where a value of the program decides; return the same "
            "structure, shapes and dtypes on both"
        )
    return outcome.value


def while_(
    test: Thunk, body: Part, orelse: Optional, bound: tuple[str, ...], live: tuple[str, ...],
    problem: Hazard,
) -> Outcome | None:  # fmt: skip
    """``while test: body else: orelse``."""
    return looping.while_(test, body, orelse, Names(bound, live, problem))


def for_(
    elements: Iterable[Any], body: Callable[[Any], Outcome | None], orelse: Optional,
    bound: tuple[str, ...], live: tuple[str, ...], problem: Hazard, calls: bool,
) -> Outcome | None:  # fmt: skip
    """``for ... in elements: body else: orelse``; ``calls`` says whether the body calls functions
    of the user's for what they do."""
    return looping.for_(elements, body, orelse, Names(bound, live, problem), calls)


def _nothing() -> None:
    """The branch that is not there."""


# Expressions.


def and_(first: Any, *rest: Thunk) -> Any:
    """``first and ...``."""
    for i, operand in enumerate(rest):
        if is_staged(first):
            return _both(truth(first, "`and`"), first, lambda i=i: and_(rest[i](), *rest[i + 1 :]))
        if not first:
            return first
        first = operand()
    return first


def or_(first: Any, *rest: Thunk) -> Any:
    """``first or ...``."""
    for i, operand in enumerate(rest):
        if is_staged(first):
            return _one(truth(first, "`or`"), first, lambda i=i: or_(rest[i](), *rest[i + 1 :]))
        if first:
            return first
        first = operand()
    return first


def _both(holds: Tensor, first: Any, rest: Thunk) -> Any:
    second = attempt(rest) if first.dtype.kind == "b" else None
    if second is None:
        return either(holds, rest, lambda: first)
    return first if second is True else logical_and(first, second)


def _one(holds: Tensor, first: Any, rest: Thunk) -> Any:
    second = attempt(rest) if first.dtype.kind == "b" else None
    return either(holds, lambda: first, rest) if second is None else logical_or(first, second)


def not_(x: Any) -> Any:
    """``not x``."""
    return logical_not(truth(x, "`not`")) if is_staged(x) else not x


def either(test: Any, body: Thunk, orelse: Thunk) -> Any:
    """``body if test else orelse``."""
    if not is_staged(test):
        return body() if test else orelse()
    ways = [lambda way=way: Return(way()) for way in (body, orelse)]
    return branching.decide(truth(test, "`if`"), ways, (), NO_NAMES, "if ... else").value


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Is": operator.is_,
    "IsNot": operator.is_not,
    "In": lambda x, some: _contains(some, x),
    "NotIn": lambda x, some: not_(_contains(some, x)),
}


def compared(left: Any, *links: tuple[str, Thunk]) -> Any:
    """``left < a <= b ...``: each operand is computed once, and only if all before it holds."""
    (name, operand), *rest = links
    right = operand()
    holds = _COMPARISONS[name](left, right)
    return and_(holds, lambda: compared(right, *rest)) if rest else holds


def _contains(some: Container[Any], x: Any) -> Any:
    """``x in some``."""
    if is_staged(some):
        return any_of(some == x)  # type: ignore[operator]  # a Tensor compares elements
    if is_staged(x) and isinstance(some, (tuple, list, range)):
        return reduce(logical_or, (x == y for y in some), False)
    return x in some


def asserted(test: Any, message: Thunk) -> Any:
    """What ``assert test, message`` tests; the program tests what is not known yet."""
    if not is_staged(test):
        return test
    try:
        text = message()
    except StagingError:  # it shows values of the program
        text = None
    require(
        truth(test, "`assert`"),
        message="the assertion does not hold" if text is None else str(text),
    )
    return True


def plain(test: Any, reason: str) -> Any:
    """A test that Python decides.

    Raises:
        StagingError: it cannot, for a reason.
    """
    if is_staged(test):
        raise StagingError(f"{describe(test)} is a value of the program, but {reason}")
    return test


def defined(x: Any) -> Any:
    """A variable's value.

    Raises:
        StagingError: it has none on one of the ways here.
    """
    if isinstance(x, Undefined):
        x.refuse()
    return x
