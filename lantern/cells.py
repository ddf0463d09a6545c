"""Cells: what a recursion in segments (`lantern.borders`) keeps of calls at borders, and how the
segment behind such a call is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lantern.groups import NODE_KIND, RECUR, Body, Function, Group, pack, recur, unpack
from lantern.places import at_place
from lantern.primitives.elementwise import add, equal, less_equal, subtract
from lantern.primitives.structure import convert
from lantern.ragged import zeros
from lantern.regions import Block, Kind, Recording, Slot
from lantern.reversal import GroupHalves
from lantern.unbounded import INTEGER, parameters

Values = Sequence[Any]
Run = Callable[[list[Any], list[Any]], Values]

NUMBER: Kind = ((), INTEGER)
NONE, ZERO = zeros(*NODE_KIND), np.zeros((), INTEGER)  # no cell, whose tag is 0; no call
# A cell: the one before it; the last of those within its segment; the arguments and results of the
# call; the adjoints of the arguments, once they are known; how deep the segment is; the number of
# the call among those at a border of the segment around it; which function with borders it calls.
CELL = (NODE_KIND, NODE_KIND, NODE_KIND, NODE_KIND, NUMBER, NUMBER, NUMBER)
# What the calls of a segment hand on: the last cell, and how many of them were at a border.
MET = (NODE_KIND, NUMBER)
FAR = np.asarray(2**62, INTEGER)  # calls to the next border, where there is none


def written(given: Sequence[Kind], captures: Sequence[Kind], run: Run) -> Block:
    """A block of a group: from what it is given, and captures."""
    region = Recording()
    params, held = parameters(region, given), parameters(region, captures)
    with region:
        return region.block(run(params, held))


def leaving(group: Group, entry: int, depth: int, borders: Sequence[int]) -> Group:
    """The calls without nodes; and, behind the functions, one that calls the entry and leaves its
    cell."""

    def cell_of(k: int, args: Values, results: Values, inner: Any, within: Any, *rest: Any) -> Any:
        before, number = rest
        call = pack(*args, *results, tag=0)
        which = np.asarray(borders.index(k), INTEGER)
        return pack(before, inner, call, NONE, within, number, which, tag=1)

    def at_border(k: int) -> Body:
        function = group.functions[k]
        args, results = function.args, function.results
        state = (*args, NUMBER, NODE_KIND, NUMBER)

        def run(given: list[Any], _: list[Any]) -> Values:
            *values, _, within, before, number = given
            *made, inner, met = recur(
                *values, within, add(within, 1), NONE, ZERO, function=k, kinds=(*results, *MET),
                cut=None,
            )  # fmt: skip
            far = convert(less_equal(1, met), dtype=INTEGER)
            return [far, *values, within, before, add(number, 1), *made, inner]

        def leave(given: list[Any], _: list[Any]) -> Values:
            values, (within, before, number) = given[: len(args)], given[len(args) : len(state)]
            *made, inner = given[len(state) :]
            return [*made, cell_of(k, values, made, inner, within, before, number), number]

        def pass_on(given: list[Any], _: list[Any]) -> Values:
            return [*given[len(state) : -1], given[len(args) + 1], given[len(args) + 2]]

        ways = (*state, *results, NODE_KIND)
        root = written((*args, NUMBER, *state[len(args) :]), group.captures, run)
        below = (written(ways, group.captures, way) for way in (pass_on, leave))
        return Body(root, tuple(map(Body, below)))

    def begin(args: list[Any], _: list[Any]) -> Values:
        within = np.asarray(depth, INTEGER)
        *made, inner, _ = recur(
            *args, within, add(within, 1), NONE, ZERO, function=entry,
            kinds=(*results, *MET), cut=None,
        )  # fmt: skip
        return [*made, cell_of(entry, args, made, inner, within, NONE, ZERO)]

    name, args, results, _ = group.functions[entry]
    functions = _threaded(group, 2, {k: at_border(k) for k in borders})
    first = Function(name, args, (*results, NODE_KIND), Body(written(args, group.captures, begin)))
    return Group((*functions, first), group.captures)


def replayed(h: GroupHalves, group: Group, borders: Sequence[int]) -> Group:
    """The forward half of a segment: a call that has a cell gives what lies there, and for its node
    one that holds the cell."""

    def at_border(k: int) -> Body:
        function, ways = group.functions[k], ways_of(group.functions[k])
        results = h.forward.functions[k].results
        state = (*function.args, NUMBER, *MET)

        def choose(given: list[Any], _: list[Any]) -> Values:
            *args, left, cell, number = given
            number = add(number, 1)
            there = equal(unpack(cell, kinds=CELL, tag=1)[5], number)
            return [convert(there, dtype=INTEGER), *args, left, cell, number]

        def whole(given: list[Any], _: list[Any]) -> Values:
            *args, _, cell, number = given
            kinds = (*results, *MET)
            return recur(*args, FAR, cell, number, function=k, kinds=kinds, cut=None)

        def taken(given: list[Any], _: list[Any]) -> Values:
            *_, cell, number = given
            following, _, call, *_ = unpack(cell, kinds=CELL, tag=1)
            values = unpack(call, kinds=(*function.args, *function.results), tag=0)
            return [*values[len(function.args) :], pack(cell, tag=ways), following, number]

        root, *below = (written(state, group.captures, run) for run in (choose, whole, taken))
        return Body(root, tuple(map(Body, below)))

    functions = _threaded(h.forward, 1, {k: at_border(k) for k in borders})
    return Group(functions, group.captures)


def ways_of(function: Function) -> int:
    """How many ways there are through a function: the tag of one more."""
    return sum(1 for _ in function.body.paths())


def _threaded(group: Group, counters: int, borders: dict[int, Body]) -> tuple[Function, ...]:
    """The functions with more arguments: how many calls there are to the next border, perhaps how
    deep the segment behind that is, and what was met so far, which are also more results.

    Args:
        group: whose functions.
        counters: how many of the arguments are numbers.
        borders: what is done instead where no call is left to the next border.
    """
    state = (*[NUMBER] * counters, *MET)

    def ask(given: list[Any], _: list[Any]) -> Values:
        return [convert(less_equal(given[-len(state)], 0), dtype=INTEGER), *given]

    found: list[Function] = []
    for k, f in enumerate(group.functions):
        args, body = (*f.args, *state), _threaded_body(group, f.body, state)
        if k in borders:
            body = Body(written(args, group.captures, ask), (body, borders[k]))
        found.append(Function(f.name, args, (*f.results, *MET), body))
    return tuple(found)


def _threaded_body(group: Group, body: Body, state: tuple[Kind, ...]) -> Body:
    block = body.block
    split = len(block.params) - len(group.captures)

    def run(given: list[Any], captures: list[Any]) -> Values:
        left, *within, cell, number = given[split:]
        known: dict[Any, Any] = dict(zip(block.params, (*given[:split], *captures), strict=True))
        for step in block.steps:
            args = [known[a] if type(a) is Slot else a for a in step.args]
            with at_place(step.place):
                if step.primitive is RECUR:
                    static = {**step.static, "kinds": (*step.static["kinds"], *MET)}
                    args += [subtract(left, 1), *within, cell, number]
                    *out, cell, number = recur(*args, **static)
                else:
                    out = step.primitive.perform(*args, **step.static)
            known.update(zip(step.results, out if step.many else (out,), strict=True))
        values = [known[r] if type(r) is Slot else r for r in block.results]
        if body.branches:
            return [*values, left, *within, cell, number]
        count = len(body.parts(values)[0])
        return [*values[:count], cell, number, *values[count:]]

    given = [*map(block.kind, block.params[:split]), *state]
    branches = tuple(_threaded_body(group, branch, state) for branch in body.branches)
    return Body(written(given, group.captures, run), branches, body.adds)
