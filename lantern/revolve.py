"""Loops that keep a fixed number of states: Griewank and Walther's Revolve (TOMS 2000).

Forward such a loop keeps nothing but the state that it starts from. The way back is one loop over
the steps, from the last to the first, whose carry holds s slots for states, a stack:

    climb:    while the state on top of the stack is not the one that this step starts from,
              run the loop on from there, and push a state where `split` says
    reverse:  run the forward half of this step and, right behind it, its backward half
    pop       the state, if no step before starts from it

So one frame exists at a time. `split` divides d steps so that each part is reversed with the slots
that are free then, and no part needs more runs than the other: with s slots no step is run more
than r times, where d ≤ (s + r)! / (s! r!). The loop back is a loop like others; a derivative of it,
which would keep what it does, is that of the same loop in √n segments (`lantern.segments`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern import blocks, segments, unbounded
from lantern.blocks import LoopHalves, at_positions, declared, frame_of, loop_halves, wanted_floats
from lantern.primitives.elementwise import equal, less, logical_and, minimum
from lantern.primitives.indexing import gather, scatter_set, slice_set
from lantern.primitives.structure import convert, reshape
from lantern.ragged import zeros
from lantern.regions import Block, Kind, Recording
from lantern.replay import gradient, replay, slots_read
from lantern.tensor import Tensor
from lantern.unbounded import INTEGER, parameters

Values = tuple[Any, ...]
NUMBER = (), INTEGER


def scan(
    block: Block,
    *values: Any,
    carried: int,
    captured: int,
    length: int | None,
    reverse: bool,
    slots: int,
) -> Values:
    """`lantern.blocks.scan`, whose derivative keeps ``slots`` states; the length is known."""
    static = {"carried": carried, "captured": captured, "length": length, "reverse": reverse}
    return _SCAN[block.linear](*values, block=block, **static, slots=slots)


def while_(
    test: Block, body: Block, *values: Any, carried: int, limit: int | None, slots: int
) -> Values:
    """`lantern.unbounded.while_` without lists, whose derivative keeps ``slots`` states."""
    static = {"carried": carried, "limit": limit, "slots": slots}
    return _WHILE[body.linear](*values, test=test, body=body, **static)


def split(distance: Any, slots: Any) -> Any:
    """How many steps to run on from a state before the next one is kept.

    With c(s, r) = (s + r)! / (s! r!), and the least r for which distance ≤ c(slots, r), it is the
    smaller of c(slots, r - 1) and distance - c(slots - 1, r - 1): the steps in front of the new
    state are reversed in r - 1 runs, those behind it, with one slot less, in r.

    Args:
        distance: how many steps are to be reversed behind the state, two or more.
        slots: how many states can be kept, that one included, two or more.
    """
    kinds = [NUMBER] * 4
    test, more = Recording(), Recording()
    within, _, all_of_them, _ = parameters(test, kinds)
    with test:
        short = test.block([less(within, all_of_them)])
    within, runs, _, wide = parameters(more, kinds)
    with more:
        runs = runs + 1
        grown = more.block([within * (wide + runs) // runs, runs])
    one, none = np.ones((), INTEGER), np.zeros((), INTEGER)
    _, within, runs = unbounded.while_(
        short, grown, one, none, distance, slots, carried=2, limit=None
    )
    before = within * runs // (slots + runs)
    narrower = before * slots // (slots + runs - 1)
    return minimum(before, distance - narrower)


class Loop(NamedTuple):
    """A loop, and what is wanted of its way back.

    Attributes:
        body: from the carry, captures, and elements of what is stacked.
        halves: of the body.
        carried: how many values the carry has.
        captured: how many captures there are.
        length: the number of steps; None: it is known only when the loop has ended.
        reverse: whether the last step is the first to run.
        slots: how many states the way back keeps.
    """

    body: Block
    halves: LoopHalves
    carried: int
    captured: int
    length: int | None
    reverse: bool
    slots: int

    def parameters(self, region: Recording) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Those of the way back: the number of steps unless it is known, the operands of the loop,
        and the adjoints of its floating results."""
        body, carried, inner = self.body, self.carried, self.carried + self.captured
        at_once = [*map(body.kind, body.params[:inner])]
        results = [(i, body.kind(body.results[i])) for i in self.halves.halves.adjoints]
        return (
            parameters(region, [NUMBER] if self.length is None else []),
            parameters(region, at_once + self.stacked(map(body.kind, body.params[inner:]))),
            parameters(region, [kind for i, kind in results if i < carried])
            + parameters(region, self.stacked(kind for i, kind in results if i >= carried)),
        )

    def stacked(self, kinds: Iterable[Kind]) -> list[Kind]:
        """The kinds of arrays of one element a step."""
        return [((self.length, *shape), dtype) for shape, dtype in kinds]  # type: ignore[misc]

    def run_on(
        self, state: Sequence[Any], start: Any, steps: Any, count: Any, given: Sequence[Any]
    ) -> Values:
        """The state so many steps on from the one before the step ``start``, by the number of steps
        of the loop, and the captures and stacked operands of it, whole."""
        region = Recording()
        number, *carry = parameters(region, [NUMBER, *map(kind_of, state)])
        total, *fixed = parameters(region, [NUMBER, *map(kind_of, given)])
        with region:
            place = total - 1 - number if self.reverse else number
            rows = [gather(x, place) for x in fixed[self.captured :]]
            after = self.body(*carry, *fixed[: self.captured], *rows)[: self.carried]
            step = region.block([number + 1, *after])
        outs = blocks.scan(
            step, steps, start, *state, count, *given,
            carried=1 + self.carried, captured=1 + len(given), length=None, reverse=False,
        )  # fmt: skip
        return outs[1:]


def kind_of(x: Any) -> Kind:
    """The shape and dtype of an array."""
    return x.shape, x.dtype


# The way back -------------------------------------------------------------------------------------


def _revolving(loop: Loop) -> Block:
    """The way back, with slots."""
    region = Recording()
    counted, values, seeds = loop.parameters(region)
    start, given = values[: loop.carried], values[loop.carried :]
    floats, sums = loop.halves.floats, loop.halves.sums
    with region:
        count = counted[0] if counted else np.asarray(loop.length, INTEGER)
        stacks = [_first(x, loop.slots) for x in start]
        carry = [count, np.zeros((), INTEGER), np.zeros(loop.slots, INTEGER), *stacks]
        carry += seeds[: len(floats)]
        carry += [zeros(*kind_of(values[i])) for i in sums]
        fixed = [count, *given]
        step = _reversed_step(loop, [kind_of(x) for x in (*carry, *fixed)], len(carry))
        outs = blocks.scan(
            step, *counted, *carry, *fixed, *given[loop.captured :], *seeds[len(floats) :],
            carried=len(carry), captured=len(fixed), length=loop.length, reverse=not loop.reverse,
        )  # fmt: skip
        return region.block(outs[3 + loop.carried :])


def _first(x: Any, slots: int) -> Any:
    """A stack of so many slots, the first of them filled."""
    full = tuple((0, n, 1) for n in x.shape)
    return slice_set(
        zeros((slots, *x.shape), x.dtype), reshape(x, shape=(1, *x.shape)), index=((0, 1, 1), *full)
    )


def _reversed_step(loop: Loop, kinds: Sequence[Kind], carried: int) -> Block:
    """A step of the loop back. Its carry is how many steps there are to reverse, the top of the
    stacks, the numbers of the steps that start from the states there, the stacks, and the carry of
    `LoopHalves.back`."""
    body, halves, h = loop.body, loop.halves, loop.halves.halves
    region = Recording()
    left, top, numbers, *rest = parameters(region, kinds[:carried])
    count, *given = parameters(region, kinds[carried:])
    rows = parameters(region, map(body.kind, body.params[loop.carried + loop.captured :]))
    of_rows = parameters(
        region, [body.kind(body.results[i]) for i in h.adjoints if i >= loop.carried]
    )
    stacks, adjoints = rest[: loop.carried], rest[loop.carried :]
    with region:
        top, numbers, *stacks = _climbed(loop, top, numbers, stacks, left, count, given)
        start = gather(numbers, top)
        state = [gather(stack, top) for stack in stacks]
        state = loop.run_on(state, start, left - 1 - start, count, given)
        operands = (*state, *given[: loop.captured], *rows)
        outs = h.forward(*operands)
        frame = frame_of(h, dict(zip(h.forward.params, operands, strict=True)), outs)
        read = dict(zip(h.frame, frame, strict=True))
        found = halves.back(
            *adjoints,
            *(outs[i] for i in halves.turned),
            *(read[slot] for slot in halves.fixed),
            *of_rows,
            *(read[slot] for slot in halves.stacked),
        )
        found = (*found[: len(adjoints)], *found[len(adjoints) + len(halves.turned) :])
        popped = top - convert(equal(start, left - 1), dtype=INTEGER)
        return region.block([left - 1, popped, numbers, *stacks, *found])


def _climbed(
    loop: Loop, top: Any, numbers: Any, stacks: Sequence[Any], left: Any, count: Any,
    given: Sequence[Any],
) -> Values:  # fmt: skip
    """The top, the numbers and the stacks, once no slot is free or the state before the last step
    that is to be reversed is on top."""
    operands = [top, numbers, *stacks, left, count, *given]
    test, push = Recording(), Recording()
    top, numbers, *_ = inside = parameters(test, map(kind_of, operands))
    left = inside[2 + len(stacks)]
    with test:
        far = less(gather(numbers, top), left - 1)
        going = test.block([logical_and(far, less(top, loop.slots - 1))])
    top, numbers, *inside = parameters(push, map(kind_of, operands))
    stacks, (left, count, *given) = inside[: len(stacks)], inside[len(stacks) :]
    with push:
        start = gather(numbers, top)
        steps = split(left - start, loop.slots - top)
        state = loop.run_on([gather(s, top) for s in stacks], start, steps, count, given)
        top = minimum(top + 1, loop.slots - 1)  # of a batch, also for elements that do not climb
        pushed = [scatter_set(s, x, top) for s, x in zip(stacks, state, strict=True)]
        step = push.block([top, scatter_set(numbers, start + steps, top), *pushed])
    return unbounded.while_(going, step, *operands, carried=2 + len(stacks), limit=None)[1:]


def _in_segments(loop: Loop, test: Block | None, wanted: tuple[int, ...]) -> Block:
    """The same as `_revolving`, of the loop in segments; this is what is differentiated."""
    region, forward = Recording(), Recording()
    _, values, seeds = loop.parameters(region)
    given = parameters(forward, map(kind_of, values))
    with forward:
        outs = _performed_in_segments(loop, test, given)
        back = gradient(forward.block(outs), wanted)
    with region:
        found = replay(back.block, *(values[i] for i in back.reads), *seeds)
        at = dict(zip(back.found, found, strict=True))
        return region.block(
            [at[i] if i in at else zeros(*kind_of(values[i])) for i in loop.halves.places]
        )


def _performed_in_segments(loop: Loop, test: Block | None, values: Sequence[Any]) -> Values:
    if test is not None:
        return segments.while_in_segments(
            test, loop.body, *values, carried=loop.carried, limit=None
        )
    assert loop.length is not None, "only `while_` does not know its number of steps"
    return segments.scan_in_segments(
        loop.body, *values, carried=loop.carried, captured=loop.captured, length=loop.length,
        reverse=loop.reverse, steps=segments.root(loop.length),
    )  # fmt: skip


class WayBack(NamedTuple):
    """What the rules perform behind their yield.

    Attributes:
        block: from the number of steps unless it is known, the operands in ``reads``, and the
            adjoints of the results in ``adjoints``, to the adjoints of the operands in ``places``.
        like: what is differentiated in place of it.
        reads: positions of operands.
        adjoints: positions of results.
        places: positions of operands.
    """

    block: Block
    like: Block
    reads: tuple[int, ...]
    adjoints: tuple[int, ...]
    places: tuple[int, ...]


def way_back(
    body: Block, test: Block | None, carried: int, captured: int, length: int | None,
    reverse: bool, slots: int, wanted: tuple[int, ...],
) -> WayBack:  # fmt: skip
    """The way back of a loop, made once."""
    key = "revolve", test, carried, captured, length, reverse, slots, wanted
    if key not in body.cut:
        halves = loop_halves(body, carried, carried + captured, wanted)
        loop = Loop(body, halves, carried, captured, length, reverse, slots)
        both = _revolving(loop), _in_segments(loop, test, wanted)
        first, count = int(length is None), len(body.params)
        read = [slots_read(block) for block in both]
        reads = tuple(
            i
            for i in range(count)
            if any(block.params[first + i] in r for block, r in zip(both, read, strict=True))
        )
        kept = [*range(first), *(first + i for i in reads)]
        kept += range(first + count, len(both[0].params))
        block, like = (
            Block(tuple(b.params[i] for i in kept), b.steps, b.results, b.kinds) for b in both
        )
        body.cut[key] = WayBack(block, like, reads, halves.halves.adjoints, halves.places)
    return body.cut[key]


# The primitives -----------------------------------------------------------------------------------


def _scan_rule(
    *values: Any,
    block: Block,
    carried: int,
    captured: int,
    length: int | None,
    reverse: bool,
    slots: int,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    static = {"carried": carried, "captured": captured, "length": length, "reverse": reverse}
    back = way_back(block, None, **static, slots=slots, wanted=wanted_floats(block, wanted))
    outs = scan(block, *values, **static, slots=slots)
    given, arity = [values[i] for i in back.reads], len(values)
    dz = yield outs
    found = replay(back.block, *given, *(dz[i] for i in back.adjoints), like=back.like)
    return at_positions(arity, back.places, found)


def _scan_kernel(*values: Any, slots: int, **static: Any) -> Values:
    return blocks.scan_kernel(*values, **static)


def _while_rule(
    *values: Any,
    test: Block,
    body: Block,
    carried: int,
    limit: int | None,
    slots: int,
    wanted: tuple[int, ...] | None = None,
) -> Any:
    captured, arity = len(values) - carried, len(values)
    back = way_back(body, test, carried, captured, None, False, slots, wanted_floats(body, wanted))
    count, *outs = while_(test, body, *values, carried=carried, limit=limit, slots=slots)
    given = [values[i] for i in back.reads]
    dz = yield (count, *outs)
    seeds = [dz[1 + i] for i in back.adjoints]
    found = replay(back.block, count, *given, *seeds, like=back.like)
    return at_positions(arity, back.places, found)


def _while_kernel(*values: Any, slots: int, **static: Any) -> Values:
    return unbounded.while_kernel(*values, **static)


_SCAN = declared("scan", _scan_kernel, _scan_rule, blocks.scan_batch)
_WHILE = declared("while", _while_kernel, _while_rule, unbounded.while_batch)
SCANS, WHILES = tuple(_SCAN.values()), tuple(_WHILE.values())
