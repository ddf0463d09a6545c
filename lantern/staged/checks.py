"""What `lantern.debug.check_nans` looks at, written into a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.checks import worst
from lantern.errors import describe
from lantern.symbol import Symbol
from staging.ir import FLOATS, Value

if TYPE_CHECKING:
    from lantern.staged.stage import Stage

# What can give a nan or an infinity where its operands are finite.
RISKY = frozenset(
    [
        "exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sqrt", "erf", "add", "sub", "mul",
        "div", "rem", "pow", "atan2", "cast", "reduce", "cumulate", "matmul", "scatter", "linalg",
    ]
)  # fmt: skip


class Checks:
    """The checks of one stage: after each primitive, unless only moves its operands, its result is
    compared with them.

    They stand behind primitives, not operations: a lowering may well go through an infinity.

    Attributes:
        known: a scalar for each value that says what is worst in it, as `lantern.checks.worst`.
    """

    def __init__(self) -> None:
        self.known: dict[Value, Symbol] = {}

    def require(self, stage: Stage, name: str, values: Sequence[Any], out: Any, first: int) -> None:
        """Write a check of what a primitive gave.

        Args:
            stage: where it is written.
            name: of the primitive.
            values: its operands.
            out: a Symbol, or several.
            first: the number of operations that the block had before.
        """
        if all(op.name not in RISKY for op in stage.builder.ops[first:]):
            return
        results = [x for x in (out if type(out) is tuple else (out,)) if is_float(x)]
        if not results:
            return
        before = [self.of(x) for x in values if is_float(x)]
        if (known := worst(list(values))) or not before:
            before.append(stage.constant(known, INT32))
        after = self.most(stage, [self.of(x) for x in results])
        holds = stage.emit("le", after, self.most(stage, before))
        shown = ", ".join(map(describe, values))
        message = f"{name}({shown}) gives a nan or an infinity that nothing it reads has"
        stage.emit_all("require", holds, message=message)

    def most(self, stage: Stage, found: Sequence[Symbol]) -> Symbol:
        """The worst of several."""
        most, *rest = dict.fromkeys(found)
        for other in rest:
            most = stage.emit("max", most, other)
        return most

    def of(self, x: Symbol) -> Symbol:
        """What is worst among the elements of ``x``, once it is known."""
        if x.value not in self.known:
            emit = x.stage.emit
            away = emit("sub", x, x)  # nan where x is nan or infinite, 0 elsewhere
            parts = [emit("cast", emit("not", emit("eq", y, y)), dtype="int32") for y in (x, away)]
            found = emit("add", *parts)
            if x.ndim:
                found = emit("reduce", found, kind="max", axes=tuple(range(x.ndim)))
            self.known[x.value] = found
        return self.known[x.value]


INT32 = np.dtype(np.int32)


def is_float(x: Any) -> bool:
    """Whether it is a Symbol of a floating dtype."""
    return type(x) is Symbol and x.value.type.dtype in FLOATS
