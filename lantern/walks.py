"""The way back of a recursion in segments (`lantern.borders`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lantern import activations
from lantern.cells import CELL, NONE, NUMBER, ZERO, Run, Values, replayed, ways_of, written
from lantern.groups import NODE_KIND, RECUR, Added, Body, Function, Group, pack, recur, tag, unpack
from lantern.primitives.elementwise import maximum, multiply, subtract
from lantern.ragged import zeros
from lantern.regions import Block, Kind, Slot, Step, floating, needed, slots
from lantern.reversal import GroupHalves


def function_of(
    name: str,
    args: Sequence[Kind],
    results: Sequence[Kind],
    captures: Sequence[Kind],
    *runs: Run,
    given: Sequence[Kind] = (),
) -> Function:
    """A function written with operations on tensors: its body, or, in front of its branches, what
    chooses one of them; then each of them, from what they are given."""
    first, *rest = (
        Body(written(kinds, captures, run))
        for kinds, run in zip((args, *[given] * (len(runs) - 1)), runs, strict=True)
    )
    return Function(name, tuple(args), tuple(results), Body(first.block, tuple(rest)))


class Back:
    """The way back while it is written.

    Its functions are the backward halves, with one way more where there may be borders; then, for
    each function with borders, ``back`` from its cell, which finds the ``first`` adjoints, those of
    the results of the only call at a border, and then does the ``walk``; at last ``answer``, which
    goes back from the cell of that call, and ``turn``, which turns a list of cells around.

    Args:
        group: without segments.
        h: its halves.
        borders: the functions whose calls may be at borders.
    """

    def __init__(self, group: Group, h: GroupHalves, borders: tuple[int, ...]) -> None:
        self.plain, self.halves, self.borders = group, h, borders
        self.captures = group.captures
        self.replay = replayed(h, group, borders)
        self.floats = [tuple(filter(floating, f.results)) for f in group.functions]
        self.arriving = tuple(kind for k in borders for kind in self.floats[k])
        self.found = self.first_adjoints()

    def number(self, part: str, k: int = 0) -> int:
        """The number of a function."""
        at = len(self.plain.functions)
        if part in ("answer", "turn"):
            return at + 3 * len(self.borders) + ("answer", "turn").index(part)
        return at + 3 * self.borders.index(k) + ("back", "first", "walk").index(part)

    def group(self) -> Group:
        """The whole way back."""
        backward = self.halves.backward
        functions = [self.backward(k) for k in range(len(backward.functions))]
        for k in self.borders:
            functions += [self.back(k), self.first(k), self.walk(k)]
        functions += [self.answer(), self.turn()]
        return Group(tuple(functions), self.captures, backward.sums)

    def call(self, part: str, k: int, *args: Any) -> tuple[Any, ...]:
        """Call a function that stands for a function of the group."""
        kinds = self.arriving if part == "first" else self.halves.cuts[k].kinds
        return recur(*args, function=self.number(part, k), kinds=kinds, cut=None)

    def backward(self, k: int) -> Function:
        """A backward half, which opens cells too."""
        function = self.halves.backward.functions[k]
        ways = function.body.branches or (function.body,)
        ways = tuple(Body(self.widened(b.block), (), b.adds) for b in ways)
        if k in self.borders:

            def run(given: list[Any], _: list[Any]) -> Values:
                node, *seeds = given
                (cell,) = unpack(node, kinds=(NODE_KIND,), tag=ways_of(self.plain.functions[k]))
                return self.call("back", k, cell, *seeds)

            ways = (*ways, Body(written(function.args, self.captures, run)))
        return function._replace(body=self.chosen(function.args, self.captures, ways))

    def chosen(self, args: Sequence[Kind], captures: Sequence[Kind], ways: Sequence[Body]) -> Body:
        """The way that a node names, which is the first of the arguments."""
        if len(ways) == 1:
            return ways[0]
        root = written(args, captures, lambda given, _: [tag(given[0]), *given])
        return Body(root, tuple(ways))

    def widened(self, block: Block) -> Block:
        """A block of the backward half that is given all captures, not only those that it reads."""
        reads, count = self.halves.reads, len(block.kinds)
        split = len(block.params) - len(reads)
        params = [Slot(count + k) for k in range(len(self.captures))]
        for k, slot in zip(reads, block.params[split:], strict=True):
            params[k] = slot
        kinds = (*block.kinds, *self.captures)
        return Block((*block.params[:split], *params), block.steps, block.results, kinds)

    def back(self, k: int) -> Function:
        """From a cell and the adjoints of the results."""
        kinds, seeds = self.halves.cuts[k].kinds, self.floats[k]

        def choose(given: list[Any], _: list[Any]) -> Values:
            cell, *adjoints = given
            _, inner, call, answer, depth, *_ = unpack(cell, kinds=CELL, tag=1)
            before = unpack(inner, kinds=CELL, tag=1)[0]
            alone = multiply(tag(inner), subtract(1, tag(before)))
            known = multiply(tag(answer), 2)
            return [maximum(alone, known), inner, call, answer, depth, *adjoints]

        def at_once(given: list[Any], _: list[Any]) -> Values:
            inner, call, _, depth, *adjoints = given
            turned = recur(inner, NONE, function=self.number("turn"), kinds=(NODE_KIND,), cut=None)
            return self.call("walk", k, call, depth, *turned, *adjoints)

        def after_the_other(given: list[Any], _: list[Any]) -> Values:
            inner, call, _, depth, *adjoints = given
            arriving = self.call("first", k, call, depth, inner, *adjoints)
            (answer,) = recur(
                inner, *arriving, function=self.number("answer"), kinds=(NODE_KIND,), cut=None
            )
            _, _, its_call, _, *numbers = unpack(inner, kinds=CELL, tag=1)
            answered = pack(NONE, NONE, its_call, answer, *numbers, tag=1)
            return self.call("walk", k, call, depth, answered, *adjoints)

        def already(given: list[Any], _: list[Any]) -> Values:
            return unpack(given[2], kinds=kinds, tag=1)

        inner = (NODE_KIND, NODE_KIND, NODE_KIND, NUMBER, *seeds)
        return function_of(
            self.plain.functions[k].name, (NODE_KIND, *seeds), kinds, self.captures,
            choose, at_once, after_the_other, already, given=inner,
        )  # fmt: skip

    def nodes(self, k: int, call: Any, depth: Any, cells: Any, captures: list[Any]) -> Any:
        """The node of a call that is replayed, down to the next borders."""
        function = self.plain.functions[k]
        count, results = len(function.args), len(function.results)
        values = unpack(call, kinds=(*function.args, *function.results), tag=0)
        outs = activations.recurse(
            *values[:count], depth, cells, ZERO, *captures, group=self.replay, entry=k
        )
        return outs[results]

    def first(self, k: int) -> Function:
        """The adjoints of the results of the only call at a border, by a way back that is forgotten
        but for these."""

        def run(given: list[Any], captures: list[Any]) -> Values:
            call, depth, cells, *adjoints = given
            node = self.nodes(k, call, depth, cells, captures)
            reads = [captures[i] for i in self.halves.reads]
            outs = activations.recurse(node, *adjoints, *reads, group=self.found, entry=k)
            return outs[len(outs) - len(self.arriving) :]

        args = (NODE_KIND, NUMBER, NODE_KIND, *self.floats[k])
        return function_of(self.plain.functions[k].name, args, self.arriving, self.captures, run)

    def walk(self, k: int) -> Function:
        """The way back through a segment."""
        kinds = self.halves.cuts[k].kinds

        def run(given: list[Any], captures: list[Any]) -> Values:
            call, depth, cells, *adjoints = given
            node = self.nodes(k, call, depth, cells, captures)
            return recur(node, *adjoints, function=k, kinds=kinds, cut=None)

        args = (NODE_KIND, NUMBER, NODE_KIND, *self.floats[k])
        return function_of(self.plain.functions[k].name, args, kinds, self.captures, run)

    def answer(self) -> Function:
        """The adjoints of the arguments of a call, in a node, from its cell and the adjoints that
        arrive at the results of each function."""

        def of(i: int) -> Run:
            start = sum(len(self.floats[k]) for k in self.borders[:i])
            some = slice(1 + start, 1 + start + len(self.floats[self.borders[i]]))

            def run(given: list[Any], _: list[Any]) -> Values:
                found = self.call("back", self.borders[i], given[0], *given[some])
                return [pack(*found, tag=1)]

            return run

        def choose(given: list[Any], _: list[Any]) -> Values:
            return [unpack(given[0], kinds=CELL, tag=1)[-1], *given]

        args, runs = (NODE_KIND, *self.arriving), [of(i) for i in range(len(self.borders))]
        if len(runs) > 1:
            runs = [choose, *runs]
        return function_of("the way back", args, (NODE_KIND,), self.captures, *runs, given=args)

    def turn(self) -> Function:
        """The cells of a list from the first to the last, before those of another list."""
        kinds = (NODE_KIND, NODE_KIND)

        def choose(given: list[Any], _: list[Any]) -> Values:
            return [tag(given[0]), *given]

        def put(given: list[Any], _: list[Any]) -> Values:
            before, *rest = unpack(given[0], kinds=CELL, tag=1)
            cells = pack(given[1], *rest, tag=1)
            return recur(before, cells, function=self.number("turn"), kinds=(NODE_KIND,), cut=None)

        return function_of(
            "the way back", kinds, (NODE_KIND,), self.captures,
            choose, lambda given, _: given[1:], put, given=kinds,
        )  # fmt: skip

    # What arrives at a border.

    def first_adjoints(self) -> Group:
        """The backward halves without sums of their own: these are the adjoints that arrive at the
        results of calls at a border."""
        backward = self.halves.backward
        functions: list[Function] = []
        for k, function in enumerate(backward.functions):
            ways = [_without_sums(b) for b in function.body.branches or (function.body,)]
            if k in self.borders:
                ways.append(self.arrival(k))
            body = self.chosen(function.args, backward.captures, ways)
            functions.append(function._replace(body=body))
        return Group(_needed_results(functions), backward.captures, self.arriving)

    def arrival(self, k: int) -> Body:
        """The way of a call at a border, where the adjoints of its results are all that counts."""
        function = self.halves.backward.functions[k]
        start = sum(len(self.floats[j]) for j in self.borders[: self.borders.index(k)])

        def run(given: list[Any], _: list[Any]) -> Values:
            return [*(zeros(*kind) for kind in function.results), *given[1:]]

        block = written(function.args, self.halves.backward.captures, run)
        return Body(block, (), tuple(Added(start + i, 0) for i in range(len(self.floats[k]))))


def _without_sums(body: Body) -> Body:
    """A leaf that adds nothing."""
    block = body.block
    results = tuple(body.parts(block.results)[0])
    return Body(Block(block.params, block.steps, results, block.kinds))


def _needed_results(functions: Sequence[Function]) -> tuple[Function, ...]:
    """The functions without the results that no way reads to make another call, or a sum; and then
    without the steps that made those. Their trees are leaves below a choice at most."""
    leaves = [f.body.branches or (f.body,) for f in functions]
    read: list[set[int]] = [set() for _ in functions]
    before: list[set[int]] | None = None
    while read != before:
        before = [set(some) for some in read]
        for some, ways in zip(before, leaves, strict=True):
            for body in ways:
                _note_reads(body, some, read)
    made: list[Function] = []
    for f, some, ways in zip(functions, read, leaves, strict=True):
        kept = sorted(some)
        shorter = tuple(_shorter(body, kept, read) for body in ways)
        body = Body(f.body.block, shorter) if f.body.branches else shorter[0]
        made.append(Function(f.name, f.args, tuple(f.results[i] for i in kept), body))
    return tuple(made)


def _note_reads(body: Body, wanted: set[int], read: list[set[int]]) -> None:
    """Note which results of calls a leaf reads, for the results of it that are wanted."""
    results, added = body.parts(body.block.results)
    live = slots([*(results[i] for i in wanted), *(value for _, value, _ in added)])
    for step in reversed(body.block.steps):
        if step.primitive is RECUR:
            some = {i for i, slot in enumerate(step.results) if slot in live}
            read[step.static["function"]] |= some
        if step.primitive.effect or not live.isdisjoint(step.results):
            live |= slots(step.args)


def _shorter(body: Body, kept: Sequence[int], read: list[set[int]]) -> Body:
    """A leaf with some of its results."""

    def shorter(step: Step) -> Step:
        if step.primitive is not RECUR:
            return step
        some = sorted(read[step.static["function"]])
        kinds = tuple(step.static["kinds"][i] for i in some)
        results = tuple(step.results[i] for i in some)
        return step._replace(static={**step.static, "kinds": kinds}, results=results)

    block = body.block
    count = len(body.parts(block.results)[0])
    results = (*(block.results[i] for i in kept), *block.results[count:])
    steps, _ = needed([*map(shorter, block.steps)], results)
    return Body(Block(block.params, tuple(steps), results, block.kinds), (), body.adds)
