"""From recorded functions to a group: control flow that holds calls is brought into the form that
`lantern.groups.Body` has.

A recorded function is a block in which a call may stand anywhere: in a branch, in a loop, before
more steps. It is run once more here, step by step, with what is still to do as a continuation. A
branch that holds a call ends the block: what follows it is done at the end of each branch; where
that is long, it becomes a function that each branch calls at its end. A loop that holds a call
becomes a function that calls itself at the end of each step.

Each block is recorded in a region of its own. What a region reads of others is handed down to it;
what comes from outside of the group is captured by the group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lantern.blocks import CALLS, SCANS
from lantern.choices import SWITCHES
from lantern.errors import StagingError
from lantern.groups import RECUR, Body, Function, Group, recur
from lantern.places import at_place, recording
from lantern.primitives import indexing
from lantern.primitives import structure as s
from lantern.primitives.effects import within_limit
from lantern.primitives.elementwise import add, greater_equal, less
from lantern.ragged import zeros
from lantern.regions import Block, Kind, Recording, Slot, Step, needed, nested, primitives_of, walk
from lantern.symbol import is_known
from lantern.tensor import Tensor
from lantern.unbounded import WHILES

SHORT = 16  # steps that are done in each branch anew rather than in a function of their own
INTEGER = np.dtype(np.int64)
# What is computed from captures alone is computed outside, if it costs nothing and cannot fail.
HOISTED = primitives_of(indexing.static_slice, s.reshape, s.permute, s.flip, s.cast, s.convert)


class Recorded(NamedTuple):
    """A function as it was recorded.

    Attributes:
        name: for messages.
        block: from the arguments, and what it reads of other regions and of the outside.
        args: how many arguments there are.
        reads: the tensors behind the other parameters.
        results: the kinds of its results.
    """

    name: str
    block: Block
    args: int
    reads: Sequence[Tensor]
    results: tuple[Kind, ...]


class Leaf(NamedTuple):
    """The end of a function: its results."""

    results: Sequence[Any]


class Fork(NamedTuple):
    """The end of a block: the number of the branch that goes on, and what each does."""

    index: Any
    branches: Sequence[Callable[[], Leaf | Fork]]


class Rest(NamedTuple):
    """A continuation: what it does with some values, and how many steps that takes."""

    run: Callable[[Sequence[Any]], Leaf | Fork]
    length: int


@dataclass
class Tree:
    """A body while it is recorded: a region for each of its blocks.

    Attributes:
        region: of this block.
        results: its results, but for what the branches are given.
        branches: below it.
        given: what every branch is given.
    """

    region: Recording
    results: list[Any]
    branches: list[Tree]
    given: list[Tensor]
    reads: list[Tensor] = field(default_factory=list[Tensor])


def grouped(functions: Sequence[Recorded], level: int) -> tuple[Group, list[Tensor]]:
    """The group of recorded functions, which call each other by number; and what it captures.

    Args:
        functions: the first is the entry.
        level: prompts above it belong to the group.
    """
    return _Writer(level).group(functions)


class _Writer:
    """A group while it is written."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.outside = recording.get()
        self.made: dict[int, tuple[str, tuple[Kind, ...], tuple[Kind, ...], Tree]] = {}
        self.captures: dict[int, Tensor] = {}
        self.next = 0
        self.name, self.results = "", ()

    def group(self, functions: Sequence[Recorded]) -> tuple[Group, list[Tensor]]:
        self.next = len(functions)
        for number, f in enumerate(functions):
            self.name = f.name
            kinds = [f.block.kind(p) for p in f.block.params]
            inside = [self.inside(x) for x in f.reads]
            args = tuple(kinds[: f.args]) + tuple(
                kind for kind, own in zip(kinds[f.args :], inside, strict=True) if own
            )

            def run(params: Sequence[Tensor], f: Recorded = f, inside: Any = inside) -> Any:
                hidden = iter(params[f.args :])
                others = (next(hidden) if own else x
                          for x, own in zip(f.reads, inside, strict=True))  # fmt: skip
                return self.follow(f.block, [*params[: f.args], *others], Rest(Leaf, 0))

            self.define(number, f.name, args, f.results, run)
        captures = list(self.captures.values())
        built = (
            Function(name, args, results, _built(tree, captures, tree.reads))
            for _, (name, args, results, tree) in sorted(self.made.items())
        )
        kinds = tuple((x.shape, x.dtype) for x in captures)
        return Group(tuple(built), kinds), captures

    def define(
        self,
        number: int,
        name: str,
        args: Sequence[Kind],
        results: tuple[Kind, ...],
        run: Callable[[Sequence[Tensor]], Leaf | Fork],
    ) -> list[Tensor]:
        """Record the body of a function, and say what else than its arguments it reads of other
        regions: these are arguments too, behind the others."""
        region = Recording()
        params = [region.parameter(*kind) for kind in args]
        outer, self.results = self.results, results
        tree = self.tree(region, lambda: run(params))
        self.results = outer
        hidden = tuple((x.shape, x.dtype) for x in tree.reads)
        self.made[number] = name, (*args, *hidden), results, tree
        return tree.reads

    def tree(self, region: Recording, run: Callable[[], Leaf | Fork]) -> Tree:
        """Record a block and those below it."""
        with region:
            end = run()
        if isinstance(end, Leaf):
            tree = Tree(region, list(end.results), [], [])
        else:
            branches = [self.tree(Recording(), branch) for branch in end.branches]
            given = list({Recording.key(x): x for b in branches for x in b.reads}.values())
            tree = Tree(region, [end.index], branches, given)
        region.block([*tree.results, *tree.given])
        for x in region.captures:
            if self.inside(x):
                tree.reads.append(x)
            else:
                self.captures.setdefault(Recording.key(x), x)
        return tree

    def inside(self, x: Any) -> bool:
        """Whether a value is one of the group's."""
        return type(x) is Tensor and x.prompt is not None and x.prompt.level > self.level

    # Step by step.

    def follow(self, block: Block, values: Sequence[Any], then: Rest) -> Leaf | Fork:
        """Run a block on values of the current region, and then what follows."""
        return self.steps(block, 0, dict(zip(block.params, values, strict=True)), then)

    def steps(self, block: Block, start: int, known: dict[Any, Any], then: Rest) -> Leaf | Fork:
        """Run a block from one of its steps on."""
        for number in range(start, len(block.steps)):
            step = block.steps[number]
            given = [known[a] if type(a) is Slot else a for a in step.args]
            if holds_call(step):
                return self.written(step, given, self.rest(block, number + 1, known, then))
            with at_place(step.place), self.outwards(step, given):
                out = step.primitive.perform(*given, **step.static)
            known.update(zip(step.results, out if step.many else (out,), strict=True))
        return then.run([known[r] if type(r) is Slot else r for r in block.results])

    def rest(self, block: Block, start: int, known: dict[Any, Any], then: Rest) -> Rest:
        """What is to do behind the step before ``start``, from its results on."""
        left, _ = needed(block.steps[start:], block.results)
        calls = sum(holds_call(step) or step.primitive is RECUR for step in left)
        results = block.steps[start - 1].results

        def run(outs: Sequence[Any]) -> Leaf | Fork:
            more = dict(zip(results[len(results) - len(outs) :], outs, strict=True))
            return self.steps(block, start, known | more, then)

        return Rest(run, then.length + len(left) + calls * SHORT)

    @contextmanager
    def outwards(self, step: Step, given: Sequence[Any]) -> Any:
        """A context for a step that is outside of the group if what it reads is."""
        own = step.primitive not in HOISTED or any(map(self.inside, given))
        token = recording.set(recording.get() if own else self.outside)
        try:
            yield
        finally:
            recording.reset(token)

    def written(self, step: Step, given: list[Any], rest: Rest) -> Leaf | Fork:
        """A step that holds calls, and what follows it."""
        static = step.static
        if step.primitive in _CALLS:
            return self.follow(static["block"], given, rest)
        if step.primitive in _SWITCHES:
            return self.fork(step, given, rest)
        if step.primitive in _WHILES:
            return rest.run(self.loop(step.place, given, **static))
        if step.primitive in _SCANS:
            return rest.run(self.scan(step.place, given, **static))
        raise StagingError(
            f"{step.primitive.name} holds a call of a recursive function, which branches and loops "
            "may; call it outside, and pass the result in"
        )

    def fork(self, step: Step, given: list[Any], rest: Rest) -> Fork:
        """Branches, each with what follows at its end: itself, or a call of a function for it."""
        index, *values = given
        blocks = step.static["blocks"]
        if rest.length > SHORT:
            rest = self.joined([blocks[0].kind(r) for r in blocks[0].results], rest)
        branches = [lambda b=b: self.follow(b, values, rest) for b in blocks]
        return Fork(index, branches)

    def joined(self, kinds: Sequence[Kind], rest: Rest) -> Rest:
        """A continuation that calls a function for another one."""
        number, results = self.reserved(), self.results
        reads = self.define(number, f"after a branch of {self.name}", kinds, results, rest.run)

        def call(outs: Sequence[Any]) -> Leaf:
            return Leaf(self.call(number, [*outs, *reads], results))

        return Rest(call, 1)

    def reserved(self) -> int:
        """The number of a new function."""
        self.next += 1
        return self.next - 1

    def call(self, number: int, args: Sequence[Any], kinds: tuple[Kind, ...]) -> Sequence[Any]:
        """Call a function of the group."""
        return recur(*(_bare(x) for x in args), function=number, kinds=kinds, cut=None)

    # Loops.

    def loop(
        self,
        place: str,
        given: list[Any],
        test: Block,
        body: Block,
        carried: int,
        limit: int | None = None,
    ) -> Sequence[Any]:
        """A `while` as a function of its carry, and of what it captures inside of the group."""
        if limit is not None:
            return self.counted(place, given, test, body, carried, limit)
        fixed = given[carried:]
        kinds = tuple(test.kind(p) for p in test.params)
        own = [n for n, x in enumerate(fixed) if self.inside(x)]
        number = self.reserved()

        def run(params: Sequence[Tensor]) -> Leaf | Fork:
            carry, inner = params[:carried], list(fixed)
            for n, x in zip(own, params[carried:], strict=True):
                inner[n] = x

            def again(new: Sequence[Any]) -> Leaf:
                return Leaf(self.call(number, [*new, *params[carried:]], kinds[:carried]))

            def choose(holds: Sequence[Any]) -> Fork:
                step = lambda: self.follow(body, [*carry, *inner], Rest(again, 1))  # noqa: E731
                return Fork(s.convert(holds[0], dtype=INTEGER), [lambda: Leaf(carry), step])

            return self.follow(test, [*carry, *inner], Rest(choose, SHORT))

        args = [*kinds[:carried], *(kinds[carried + n] for n in own)]
        with at_place(place):
            self.define(number, f"a loop of {self.name}", args, kinds[:carried], run)
            return self.call(number, [*given[:carried], *(fixed[n] for n in own)], kinds[:carried])

    def counted(
        self, place: str, given: list[Any], test: Block, body: Block, carried: int, limit: int
    ) -> Sequence[Any]:
        """A `while` that is limited, as such a loop with the number of the step in its carry."""
        from staging.failures import beyond  # which eager programs do without

        kinds = [test.kind(p) for p in test.params]
        kinds.insert(carried, ((), INTEGER))

        def going(*values: Any) -> list[Any]:
            return [test(*values[:carried], *values[carried + 1 :])[0]]

        def step(*values: Any) -> list[Any]:
            number = values[carried]
            within_limit(less(number, limit), message=beyond(limit))
            outs = body(*values[:carried], *values[carried + 1 :])
            return [*outs, add(number, 1)]

        values = [*given[:carried], np.asarray(0, INTEGER), *given[carried:]]
        found = self.loop(place, values, _block(kinds, going), _block(kinds, step), carried + 1)
        return found[:carried]

    def scan(
        self,
        place: str,
        given: list[Any],
        block: Block,
        carried: int,
        captured: int,
        length: int,
        reverse: bool,
    ) -> Sequence[Any]:
        """A `scan` as such a loop, with the number of the step and the stacked results in its
        carry."""
        made = [block.kind(r) for r in block.results[carried:]]
        stacks = [((length, *shape), dtype) for shape, dtype in made]
        state = [((), INTEGER), *(block.kind(p) for p in block.params[:carried]), *stacks]
        others = [(x.shape, x.dtype) for x in given[carried:]]

        def split(values: Sequence[Any]) -> tuple[Any, Sequence[Any], Sequence[Any], Sequence[Any]]:
            inner = 1 + carried + len(stacks)
            return values[0], values[1 : 1 + carried], values[1 + carried : inner], values[inner:]

        def going(number: Any, *_: Any) -> list[Any]:
            return [greater_equal(number, 0) if reverse else less(number, length)]

        def step(*values: Any) -> list[Any]:
            number, carry, stacks, fixed = split(values)
            rows = [indexing.gather(x, number) for x in fixed[captured:]]
            outs = block(*carry, *fixed[:captured], *rows)
            kept = (indexing.scatter_set(stack, y, number)
                    for stack, y in zip(stacks, outs[carried:], strict=True))  # fmt: skip
            return [add(number, -1 if reverse else 1), *outs[:carried], *kept]

        first = np.asarray(length - 1 if reverse else 0, INTEGER)
        values = [first, *given[:carried], *(zeros(*kind) for kind in stacks), *given[carried:]]
        outs = self.loop(
            place, values, _block([*state, *others], going), _block([*state, *others], step),
            len(state),
        )  # fmt: skip
        return outs[1:]


def _block(kinds: Sequence[Kind], run: Callable[..., list[Any]]) -> Block:
    """A function of values of some kinds as a block."""
    region = Recording()
    params = [region.parameter(*kind) for kind in kinds]
    with region:
        return region.block(run(*params))


def _built(tree: Tree, captures: Sequence[Tensor], given: Sequence[Tensor]) -> Body:
    """A recorded body, now that it is known what each block is given."""
    block = tree.region.block([*tree.results, *tree.given], captures=[*given, *captures])
    return Body(block, tuple(_built(b, captures, tree.given) for b in tree.branches))


def _bare(x: Any) -> Any:
    """A constant as its array."""
    return x.value if type(x) is Tensor and is_known(x) else x


def holds_call(step: Step) -> bool:
    """Whether a step performs blocks in which a call stands."""
    return any(inner.primitive is RECUR for block in nested(step) for inner in walk(block))


_CALLS, _SWITCHES, _WHILES, _SCANS = (
    primitives_of(*some) for some in (CALLS, SWITCHES, WHILES, SCANS)
)
