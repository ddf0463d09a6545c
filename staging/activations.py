"""Recursion as a loop over calls that wait on an explicit stack: in the reference interpreter, and
in a backend whose host makes the decisions of a program.

A call waits as the block that it is in, the place behind its `recur`, and the values that are read
from there on. A call in tail position leaves nothing behind. So the depth of a recursion is bounded
by memory alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from staging.cycles import Watch
from staging.failures import LimitFailure, inside_itself
from staging.ir import NODE, Op, Type, Value
from staging.recursion import Body, Function, functions_of, listed

Values = dict[Value, Any]
SUM = -1


class Work(Protocol):
    """Who performs a recursion: what it takes for arrays is its own affair."""

    def run(self, op: Op, arrays: list[Any]) -> Sequence[Any]:
        """Perform an operation; the results are of its results' types."""
        ...

    def zeros(self, type: Type) -> Any:
        """The zero of a type."""
        ...

    def read(self, array: Any) -> int:
        """The number that an array without axes is."""
        ...

    def add(self, total: Any, value: Any, indices: Sequence[Any], types: Sequence[Type]) -> Any:
        """Add to an array, perhaps in place: all of a value, or rows of it at indices. The types
        are those of the array, the value and the indices."""
        ...


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


def run_recurse(op: Op, arrays: list[Any], work: Work) -> list[Any]:
    """The entry's results, then the sums.

    Args:
        op: a `recurse`.
        arrays: its operands.
        work: performs what its blocks hold.
    """
    functions = functions_of(op)
    reads = {body: _reads(body) for f in functions for body in f.body.all()}
    tails = {body: _tail(body, f) for f in functions for body in f.body.all()}
    count = len(arrays) - cast(int, op.attributes["captured"])
    captures = arrays[count:]
    types = listed(op.attributes, "sums")
    sums = [work.zeros(t) for t in types]
    stack: list[_Waiting] = []
    watch = Watch()

    def entered(body: Body, given: Sequence[Any]) -> tuple[Body, Values, int]:
        return body, dict(zip(body.block.params, (*given, *captures), strict=True)), 0

    body, values, position = entered(functions[cast(int, op.attributes["entry"])].body,
                                     arrays[:count])  # fmt: skip
    while True:
        called = _advance(body, position, values, work)
        if called is not None:
            recur = body.block.ops[called]
            given = [values[v] for v in recur.inputs]
            if called == tails[body]:
                _add(sums, types, body, values, work)
            else:
                kept = {v: values[v] for v in reads[body][called]}
                stack.append(_Waiting(body, called, kept))
            callee = functions[cast(int, recur.attributes["function"])]
            if watch.repeats(callee, given, len(stack)):
                raise LimitFailure(inside_itself(callee.name), op.place)
            body, values, position = entered(callee.body, given)
            continue
        results = [values[v] for v in body.block.results]
        if body.branches:
            chosen = min(max(work.read(results[0]), 0), len(body.branches) - 1)
            body, values, position = entered(body.branches[chosen], results[1:])
            continue
        _add(sums, types, body, values, work)
        returned = results[: len(results) - body.added]
        if not stack:
            return [*returned, *sums]
        waiting = stack.pop()
        if len(stack) < watch.depth:
            watch.end()
        body, values, position = waiting.body, waiting.values, waiting.position + 1
        values |= zip(body.block.ops[waiting.position].results, returned, strict=True)


def _advance(body: Body, position: int, values: Values, work: Work) -> int | None:
    """Run a block up to its next `recur`, and say where that stands; None at the end."""
    ops = body.block.ops
    for i in range(position, len(ops)):
        op = ops[i]
        if op.name == "recur":
            return i
        values |= zip(op.results, work.run(op, [values[v] for v in op.inputs]), strict=True)
    return None


def _add(sums: list[Any], types: Sequence[Type], body: Body, values: Values, work: Work) -> None:
    """Add what a leaf gives to the sums."""
    for added, value, indices in body.parts(body.block.results):
        kinds = types[added.sum], value.type, *(v.type for v in indices)
        rows = [values[v] for v in indices]
        sums[added.sum] = work.add(sums[added.sum], values[value], rows, kinds)


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


def opened(node: Node | None, types: Sequence[Type], work: Work) -> Sequence[Any]:
    """The values of a node, of these types."""
    if node is not None and node.tag != SUM:
        return node.values
    left, total = [node], [work.zeros(t) for t in types]
    while left:
        part = left.pop()
        if part is not None and part.tag == SUM:
            left += part.values
        elif part is not None:
            values = zip(total, part.values, types, strict=True)
            total = [
                merge(a, b) if t.dtype == NODE else work.add(a, b, (), (t, t)) for a, b, t in values
            ]
    return total


def merge(a: Any, b: Any) -> Any:
    """A node, or a list of nodes, that stands for the sums of two."""
    if a is None or isinstance(a, Node):
        return Node(SUM, (a, b)) if a and b else a or b
    return [merge(x, y) for x, y in zip(a, b, strict=True)]
