"""The halves of a group: what recursion forward saves, and recursion backward reads.

Every way through a function is run once and unwound, from the root of its tree to a leaf, as one
block is in `lantern.regions`. The forward half of a function has the same tree; at each leaf it
packs what that way saved into a node, which is one more result. The backward half takes the node
and the adjoints of the results, goes the way that the node names, and gives the adjoints of the
arguments; where the one calls, so does the other. Adjoints of captures are sums, those of sums
captures.

What a node holds is exactly what the backward half reads, after the rule that what is cheap is made
again (`lantern.regions.recomputed`); captures are read, not saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern.control import Reverse, Scatter, box, conform, unbox
from lantern.groups import NODE_KIND, PACK, RECUR, UNPACK, Added, Body, Cut, Function, Group, tag
from lantern.places import at_place
from lantern.primitives.indexing import gather, scatter_add
from lantern.primitives.structure import broadcast_to, cast
from lantern.ragged import zeros
from lantern.regions import (
    RESULT,
    Block,
    Recording,
    Slot,
    Step,
    floating,
    needed,
    recomputed,
    slots,
)
from lantern.tensor import Tensor


class GroupHalves(NamedTuple):
    """A group cut at its innermost continuations.

    Attributes:
        forward: the same functions, whose results have a node behind them.
        backward: a function for each, from the node and the adjoints of the floating results to the
            adjoints of arguments. It captures what ``reads`` says, then the adjoints of the sums.
        cuts: for each function the arguments that have an adjoint.
        reads: the captures that the backward half reads, by position.
        found: the captures whose adjoints are the sums of the backward half.
    """

    forward: Group
    backward: Group
    cuts: tuple[Cut, ...]
    reads: tuple[int, ...]
    found: tuple[int, ...]


def halves(group: Group, wanted: tuple[int, ...]) -> GroupHalves:
    """The halves of a group, for the adjoints of arguments and of some captures, made once."""
    key = "halves", wanted
    if key not in group.cut:
        group.cut[key] = _halves(group, wanted)
    return group.cut[key]


def _halves(group: Group, wanted: tuple[int, ...]) -> GroupHalves:
    cuts = _expected(group)
    while True:  # until calls have adjoints for just those arguments that calls were taken to have
        ways = [[Way(group, f, path, cuts, wanted) for path in f.body.paths()]
                for f in group.functions]  # fmt: skip
        found = [_cut(f, {i for way in some for i in way.arrived})
                 for f, some in zip(group.functions, ways, strict=True)]  # fmt: skip
        if found == cuts:
            break
        cuts = found
    every = [way for some in ways for way in some]
    reads = tuple(sorted({k for way in every for k in way.reads}))
    added = tuple(sorted({k for way in every for k, _, _ in way.contributed}))
    forward = (_forward(group, f, some) for f, some in zip(group.functions, ways, strict=True))
    sums = [kind for kind in group.sums if floating(kind)]
    backward = (
        _backward(group, f, some, cut, reads, added)
        for f, some, cut in zip(group.functions, ways, cuts, strict=True)
    )
    return GroupHalves(
        Group(tuple(forward), group.captures, group.sums),
        Group(tuple(backward), tuple(group.captures[k] for k in reads) + tuple(sums),
              tuple(group.captures[k] for k in added)),
        tuple(cuts), reads, added,
    )  # fmt: skip


def _cut(function: Function, found: set[int]) -> Cut:
    places = tuple(sorted(found))
    return Cut(places, tuple(function.args[i] for i in places))


def _expected(group: Group) -> list[Cut]:
    """The arguments that floating results depend on, by way of floating values: those that may have
    adjoints. What is not differentiable on the way is seen only when it is unwound."""
    found: list[set[int]] = [set() for _ in group.functions]

    def reached(body: Body) -> set[int]:
        """The positions of what a body is given on which something floating depends."""
        block = body.block
        ends = {1 + i for branch in body.branches for i in reached(branch)}
        results = enumerate(block.results)
        live = slots(r for i, r in results if not body.branches or i in ends)
        for step in reversed(block.steps):
            if step.primitive is RECUR:
                live |= slots(step.args[i] for i in found[step.static["function"]])
            elif any(y in live and floating(block.kind(y)) for y in step.results):
                live |= slots(step.args)
        return {i for i, p in enumerate(block.params) if p in live and floating(block.kind(p))}

    before: list[set[int]] | None = None
    while found != before:
        before = [set(some) for some in found]
        for some, function in zip(found, group.functions, strict=True):
            some |= {i for i in reached(function.body) if i < len(function.args)}
    return [_cut(f, some) for f, some in zip(group.functions, found, strict=True)]


class Way:
    """A way through a function, run and unwound.

    Attributes:
        kinds: the kinds of its slots; up to where they part, ways number them alike.
        given: the slots of the arguments.
        captures: those of the captures.
        parts: the steps forward of each block on the way.
        indices: which branch goes on, behind each block but the last.
        results: what the leaf gives: results, and what it adds.
        seeds: the slots of the adjoints of the floating results.
        of_sums: those of the floating sums.
        back: the steps backward.
        arrived: the adjoints of arguments, by position.
        contributed: the adjoints of captures: which, the value, and indices.
        saved: the slots that the way back reads, captures left out.
        reads: the captures that it reads.
    """

    def __init__(
        self,
        group: Group,
        function: Function,
        path: tuple[Body, ...],
        cuts: Sequence[Cut],
        wanted: tuple[int, ...],
    ) -> None:
        region, prompt = Recording(), _Unwinding()
        args = [region.parameter(*kind) for kind in function.args]
        captures = [region.parameter(*kind) for kind in group.captures]
        inside = [prompt.variable(x) if floating(k) else x
                  for x, k in zip(args, function.args, strict=True)]  # fmt: skip
        ambient = [prompt.captured(x, k) if k in wanted else x for k, x in enumerate(captures)]
        self.parts: list[Sequence[Step]] = []
        self.indices: list[Any] = []
        values: Sequence[Any] = inside
        with region, prompt:
            for body in path:
                start = len(region.steps)
                values = _run(body.block, [*values, *ambient], prompt, cuts)
                self.parts.append(region.steps[start:])
                if body.branches:
                    self.indices.append(region.reference(box(_below(values[0], prompt))))
                    values = values[1:]
            border = len(region.steps)
            seeds = self.seed(group, function, path[-1], values, region, prompt)
            prompt.unwind()
            arrived = {i: prompt.adjoint_of(x) for i, x in enumerate(inside)
                       if type(x) is Tensor and x.prompt is prompt}  # fmt: skip
            contributed = prompt.contributions(captures)
        refer = region.reference
        self.seeds, self.of_sums = ([x.mark for x in some] for some in seeds)
        self.given, self.captures = [x.mark for x in args], [x.mark for x in captures]
        self.results = [refer(box(_below(y, prompt))) for y in values]
        self.arrived = {i: refer(box(x)) for i, x in arrived.items() if x is not None}
        self.contributed = [
            (k, refer(box(value)), [refer(box(i)) for i in indices])
            for k, value, indices in contributed
        ]
        self.unwound(region, border)
        self.kinds = tuple(region.kinds)

    def seed(
        self,
        group: Group,
        function: Function,
        leaf: Body,
        values: Sequence[Any],
        region: Recording,
        prompt: _Unwinding,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give the results, and what is added to sums, their adjoints; parameters from now on."""
        results, added = leaf.parts(values)
        seeds = [region.parameter(*kind) for kind in function.results if floating(kind)]
        of_sums = {k: region.parameter(*kind) for k, kind in enumerate(group.sums)
                   if floating(kind)}  # fmt: skip
        floats = (y for y, kind in zip(results, function.results, strict=True) if floating(kind))
        for y, adjoint in zip(floats, seeds, strict=True):
            prompt.arrive(y, adjoint)
        for place, value, indices in added:
            if place.sum in of_sums:
                adjoint = of_sums[place.sum]
                at = [_below(i, prompt) for i in indices]  # a node may have held them
                prompt.arrive(value, gather(adjoint, *at) if at else adjoint)
        return seeds, list(of_sums.values())

    def unwound(self, region: Recording, border: int) -> None:
        """What of the steps backward is needed, and what these read."""
        made = [*self.arrived.values()]
        for _, value, indices in self.contributed:
            made += [value, *indices]
        back, reads = needed(region.steps[border:], made)
        free = set(self.captures)
        forward = region.steps[:border]
        frame = reads.difference(self.seeds, self.of_sums)
        self.back, frame = recomputed(forward, back, frame, free, region.kinds)
        self.saved = sorted(frame - free)
        self.reads = [k for k, slot in enumerate(self.captures) if slot in frame]


def _run(
    block: Block, values: Sequence[Any], prompt: _Unwinding, cuts: Sequence[Cut]
) -> Sequence[Any]:
    """Run a block under a prompt; a call is suspended although no operand may belong to it."""
    known: dict[Any, Any] = dict(zip(block.params, values, strict=True))
    for step in block.steps:
        given = [known[a] if type(a) is Slot else a for a in step.args]
        with at_place(step.place):
            if step.primitive is RECUR:
                static = {**step.static, "cut": cuts[step.static["function"]]}
                *out, token = prompt.handle(step.primitive, given, static)
                prompt.arrive(token, np.float32(0))
            else:
                out = step.primitive.perform(*given, **step.static)
        known.update(zip(step.results, out if step.many else (out,), strict=True))
    return [known[r] if type(r) is Slot else r for r in block.results]


def _below(x: Any, prompt: Reverse) -> Any:
    """A value one level down."""
    return x.value if type(x) is Tensor and x.prompt is prompt else x


class _Unwinding(Reverse):
    """The prompt of a way: what arrives at captures is kept apart, rows as rows."""

    __slots__ = ("met", "numbers")

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[int, int] = {}
        self.met: list[tuple[int, Any]] = []

    def captured(self, x: Tensor, number: int) -> Tensor:
        """A variable for a capture."""
        variable = self.variable(x)
        self.numbers[variable.mark[0]] = number
        return variable

    def arrive(self, y: Any, adjoint: Any) -> None:
        """Let an adjoint arrive at a result."""
        if type(y) is Tensor and y.prompt is self:
            self.accumulate(y.mark, adjoint, RESULT)

    def accumulate(self, variable: Any, adjoint: Any, prim: Any) -> None:
        number = self.numbers.get(variable[0])
        if number is None:
            super().accumulate(variable, adjoint, prim)
            return
        if callable(adjoint):
            adjoint = adjoint()
        if adjoint is None:
            return
        if type(adjoint) is not Scatter:
            adjoint = conform(unbox(adjoint), variable[1], variable[2], prim)
        self.met.append((number, adjoint))

    def contributions(self, captures: Sequence[Tensor]) -> list[tuple[int, Any, Sequence[Any]]]:
        """The adjoints of captures: which, one array that others are added to, or rows and
        indices."""
        dense: dict[int, Any] = {}
        rows: list[tuple[int, Any, Sequence[Any]]] = []
        for number, adjoint in self.met:
            x = captures[number]
            if type(adjoint) is Scatter:
                if adjoint.add is scatter_add:
                    rows.append((number, *_rows(adjoint, x)))
                    continue
                adjoint = unbox(adjoint.add_to(None, x.shape, x.dtype))
            dense[number] = dense[number] + adjoint if number in dense else adjoint
        return [*((k, value, ()) for k, value in dense.items()), *rows]


def _rows(adjoint: Scatter, x: Tensor) -> tuple[Any, list[Any]]:
    """Rows in full and in the dtype of the whole, and indices of one shape."""
    places = np.broadcast_shapes(*(i.shape for i in adjoint.index))
    indices = [i if i.shape == places else broadcast_to(i, shape=places) for i in adjoint.index]
    rows, shape = adjoint.rows, (*places, *x.shape[len(indices) :])
    rows = rows if rows.shape == shape else broadcast_to(rows, shape=shape)
    return rows if rows.dtype == x.dtype else cast(rows, dtype=x.dtype), indices


# Forward ------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A block of the forward half.

    Attributes:
        way: one that leads through it; all number its slots alike.
        steps: what it performs.
        results: what it gives; behind the number of a branch what every branch reads.
        reads: the slots of blocks above it that it, or one below it, reads.
        branches: those below it.
    """

    way: Way
    steps: Sequence[Step]
    results: Sequence[Any]
    reads: Sequence[Slot]
    branches: Sequence[Part]

    def body(self, given: Sequence[Slot], like: Body) -> Body:
        """The block, and those below it, for what it is given."""
        kinds = (*self.way.kinds, NODE_KIND)
        block = Block((*given, *self.way.captures), tuple(self.steps), tuple(self.results), kinds)
        below = zip(self.branches, like.branches, strict=True)
        return Body(block, tuple(b.body(self.results[1:], old) for b, old in below), like.adds)


def _forward(group: Group, function: Function, ways: Sequence[Way]) -> Function:
    """The forward half of a function: its tree, with a node behind the results of each leaf."""
    root = _part(function.body, 0, enumerate(ways))
    body = root.body(root.way.given, function.body)
    return Function(function.name, function.args, (*function.results, NODE_KIND), body)


def _part(body: Body, depth: int, left: Iterator[tuple[int, Way]]) -> Part:
    """A block, and those below it; ``left`` has the ways through it and all that come later."""
    if body.branches:
        branches = [_part(branch, depth + 1, left) for branch in body.branches]
        way = branches[0].way
        given = sorted({slot for branch in branches for slot in branch.reads})
        results = (way.indices[depth], *given)
        steps, reads = needed(way.parts[depth], results)
        return Part(way, steps, results, sorted(reads.difference(way.captures)), branches)
    number, way = next(left)
    count, node = len(body.parts(way.results)[0]), Slot(len(way.kinds))
    results = (*way.results[:count], node, *way.results[count:])
    packed = Step(PACK, tuple(way.saved), {"tag": number}, (node,), False, "")
    steps, reads = needed([*way.parts[depth], packed], results)
    return Part(way, steps, results, sorted(reads.difference(way.captures)), ())


# Backward -----------------------------------------------------------------------------------------


def _backward(
    group: Group,
    function: Function,
    ways: Sequence[Way],
    cut: Cut,
    reads: Sequence[int],
    found: Sequence[int],
) -> Function:
    """The backward half of a function: one way for each that leads forward."""
    bodies = tuple(_backward_way(way, number, cut, reads, found) for number, way in enumerate(ways))
    floats = [kind for kind in function.results if floating(kind)]
    args = (NODE_KIND, *floats)
    if len(bodies) == 1:
        return Function(function.name, args, cut.kinds, bodies[0])
    region = Recording()
    params = [region.parameter(*kind) for kind in args]
    for kind in (*(group.captures[k] for k in reads), *filter(floating, group.sums)):
        region.parameter(*kind)
    with region:
        root = region.block([tag(params[0]), *params])
    return Function(function.name, args, cut.kinds, Body(root, bodies))


def _backward_way(
    way: Way, number: int, cut: Cut, reads: Sequence[int], found: Sequence[int]
) -> Body:
    node, kinds = Slot(len(way.kinds)), (*way.kinds, NODE_KIND)
    static = {"kinds": tuple(kinds[slot.number] for slot in way.saved), "tag": number}
    opened = Step(UNPACK, (node,), static, tuple(way.saved), True, "")
    params = (node, *way.seeds, *(way.captures[k] for k in reads), *way.of_sums)
    none = {i: zeros(*kind) for i, kind in zip(cut.found, cut.kinds, strict=True)}
    results = [way.arrived.get(i, none[i]) for i in cut.found]
    adds: list[Added] = []
    for k, value, indices in way.contributed:
        results += [value, *indices]
        adds.append(Added(found.index(k), len(indices)))
    return Body(Block(params, (opened, *way.back), tuple(results), kinds), (), tuple(adds))
