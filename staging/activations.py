"""Recursion in the reference interpreter: a loop over calls that wait on an explicit stack.

A call waits as the block that it is in, the place behind its `recur`, and the values that are read
from there on. A call in tail position leaves nothing behind. So the depth of a recursion is bounded
by memory alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from staging.ir import Op, Type, Value
from staging.recursion import Body, Function, functions_of, listed

Run = Callable[[Op, list[Any]], Sequence[Any]]
Values = dict[Value, Any]
SUM = -1


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """What a call saved for the way back; with the tag `SUM`, the sum of two such, which is made
    when it is opened. None stands for a node of zeros."""

    tag: int
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A call that waits for the results of a `recur`."""

    body: Body
    position: int
    values: Values


def run_recurse(op: Op, arrays: list[Any], run: Run, zeros: Callable[[Type], Any]) -> list[Any]:
    """The entry's results, then the sums.

    Args:
        op: a `recurse`.
        arrays: its operands.
        run: performs an operation on arrays, and gives results of its results' types.
        zeros: gives the zero of a type.
    """
    functions = functions_of(op)
    reads = {body: _reads(body) for f in functions for body in f.body.all()}
    tails = {body: _tail(body, f) for f in functions for body in f.body.all()}
    count = len(arrays) - cast(int, op.attributes["captured"])
    captures = arrays[count:]
    sums = [zeros(t) for t in listed(op.attributes, "sums")]
    stack: list[_Waiting] = []

    def entered(body: Body, given: Sequence[Any]) -> tuple[Body, Values, int]:
        return body, dict(zip(body.block.params, (*given, *captures), strict=True)), 0

    body, values, position = entered(functions[cast(int, op.attributes["entry"])].body,
                                     arrays[:count])  # fmt: skip
    while True:
        called = _advance(body, position, values, run)
        if called is not None:
            recur = body.block.ops[called]
            given = [values[v] for v in recur.inputs]
            if called == tails[body]:
                _add(sums, body, values)
            else:
                kept = {v: values[v] for v in reads[body][called]}
                stack.append(_Waiting(body, called, kept))
            body, values, position = entered(
                functions[cast(int, recur.attributes["function"])].body, given
            )
            continue
        results = [values[v] for v in body.block.results]
        if body.branches:
            chosen = min(max(int(results[0]), 0), len(body.branches) - 1)
            body, values, position = entered(body.branches[chosen], results[1:])
            continue
        _add(sums, body, values)
        returned = results[: len(results) - body.added]
        if not stack:
            return [*returned, *sums]
        waiting = stack.pop()
        body, values, position = waiting.body, waiting.values, waiting.position + 1
        values |= zip(body.block.ops[waiting.position].results, returned, strict=True)


def _advance(body: Body, position: int, values: Values, run: Run) -> int | None:
    """Run a block up to its next `recur`, and say where that stands; None at the end."""
    ops = body.block.ops
    for i in range(position, len(ops)):
        op = ops[i]
        if op.name == "recur":
            return i
        values |= zip(op.results, run(op, [values[v] for v in op.inputs]), strict=True)
    return None


def _add(sums: list[Any], body: Body, values: Values) -> None:
    """Add what a leaf gives to the sums, in place."""
    for added, value, indices in body.parts(body.block.results):
        if indices:
            np.add.at(sums[added.sum], tuple(values[v] for v in indices), values[value])
        else:
            sums[added.sum] += values[value]


def _reads(body: Body) -> dict[int, frozenset[Value]]:
    """For each `recur` of a block, what is read behind it."""
    live = set(body.block.results)
    found: dict[int, frozenset[Value]] = {}
    for i, op in reversed(list(enumerate(body.block.ops))):
        live.difference_update(op.results)
        if op.name == "recur":
            found[i] = frozenset(live)
        live.update(op.inputs)
    return found


def _tail(body: Body, function: Function) -> int:
    """The place of a `recur` whose results are those of the function; -1 if there is none."""
    last, results = len(body.block.ops) - 1, body.block.results
    if body.branches or last < 0 or body.block.ops[last].name != "recur":
        return -1
    made, count = body.block.ops[last].results, len(function.results)
    added = set(results[count:])
    return last if results[:count] == made and added.isdisjoint(made) else -1
