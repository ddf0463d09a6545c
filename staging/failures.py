"""What goes wrong when a program runs: the interpreter and every backend raise these."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from staging.ir import Literal, Op
from staging.table import quantity


class Failure(Exception):
    """An operation that cannot go on.

    Attributes:
        message: what was found and what was expected.
        place: the user's line.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message, place)
        self.message, self.place = message, place

    def __str__(self) -> str:
        return f"{self.message}\n  at {self.place}"


class IndexFailure(Failure, IndexError):
    """A gather or scatter outside its operand."""


class RequirementFailure(Failure, ArithmeticError):
    """A `require` that does not hold."""


class AssertionFailure(Failure, AssertionError):
    """A `require` that the user wrote, as an ``assert``, and that does not hold."""


class MatrixFailure(Failure, np.linalg.LinAlgError):
    """A matrix that cannot be decomposed."""


class LimitFailure(Failure, RuntimeError):
    """A loop or a recursion that goes on beyond its limit."""


class FrameFailure(Failure, MemoryError):
    """No memory is left for what loops save for their derivatives."""


REASONS = {
    "solve": "Singular matrix",
    "inv": "Singular matrix",
    "cholesky": "a matrix is not positive definite",
    "eigh": "Eigenvalues did not converge",
    "eigvalsh": "Eigenvalues did not converge",
    "svd": "SVD did not converge",
    "svdvals": "SVD did not converge",
}


BEYOND = -1  # said of a loop that goes on beyond its limit, and of a call inside of itself


def beyond(limit: int) -> str:
    """The message about a loop that goes on beyond its limit."""
    return (
        f"while_loop: the condition still holds after {limit} steps, the limit of this loop; if it "
        "ends at all, give it a higher one"
    )


def inside_itself(name: str) -> str:
    """The message about a call that never ends."""
    return (
        f"{name}: a call is inside another one with the same arguments, so it never ends; is there "
        "a cycle in what it follows?"
    )


def called(op: Op) -> str:
    """The name of the function that a `recurse` calls."""
    functions = cast("tuple[tuple[str, int, int, Literal], ...]", op.attributes.get("functions"))
    return functions[cast(int, op.attributes["entry"])][0] if functions else op.name


def failure(
    op: Op, first: Any = 0, second: int = 0, shape: tuple[int, ...] | None = None
) -> Failure:
    """The failure of an operation: of an index and its axis; of the number of a matrix; of the
    bytes that a loop and that all loops have saved; of a limit and `BEYOND`. The shape is that of
    the first input, where its type does not say it.

    Example:
        >>> from staging.ir import Type, Value
        >>> x = Value(Type("float32", (3,)))
        >>> print(failure(Op("gather", (x,), (x,), place="model.py:3"), 5, 0))
        gather: index 5 is out of range for axis 0 of 3
          at model.py:3
    """
    if op.name == "require":
        limit, asserted = op.attributes.get("limit"), op.attributes.get("asserted")
        kind = LimitFailure if limit else AssertionFailure if asserted else RequirementFailure
        return kind(str(op.attributes["message"]), op.place)
    if op.name == "memory":
        return FrameFailure(
            "there is no memory left for a table whose length is known only when the program runs",
            op.place,
        )
    if op.name == "while" and second == BEYOND:
        return LimitFailure(beyond(first), op.place)
    if op.name in ("while", "scan", "add"):  # of lists
        return FrameFailure(
            f"{op.name}: no memory is left for what the steps of this loop save for their "
            f"derivative: it has saved {quantity(first, 'B')}, and all loops of the program may "
            f"save {quantity(second, 'B')}; run steps again instead, "
            "ln.checkpoint(f, policy='sqrt'), or differentiate fewer at once",
            op.place,
        )
    if op.name == "recurse" and second == BEYOND:
        return LimitFailure(inside_itself(called(op)), op.place)
    if op.name in ("recurse", "pack", "merge", "unpack"):  # of nodes
        return FrameFailure(
            f"{called(op)}: no memory is left for further calls inside of each other: those that "
            f"wait take {quantity(second, 'B')}, and what is saved for the derivative takes "
            f"{quantity(first, 'B')}; if it may not end, give it a limit, "
            "ln.recursive(f, limit=N); else let calls save less, ln.checkpoint(f, policy='sqrt')",
            op.place,
        )
    if op.name == "agenda":
        return LimitFailure(inside_itself("recursion"), op.place)
    if op.name == "unwind":
        return FrameFailure("recursion: there is no memory left for the way back", op.place)
    shape = op.inputs[0].type.shape if shape is None else shape
    if op.name != "linalg":
        bound = shape[second]
        return IndexFailure(
            f"{op.name}: index {first} is out of range for axis {second} of {bound}", op.place
        )
    kind, *lead = str(op.attributes["kind"]), *shape[:-2]
    which = f" (number {tuple(map(int, np.unravel_index(second, lead)))})" if lead else ""
    return MatrixFailure(f"linalg.{kind}: {REASONS[kind]}{which}", op.place)
