"""Loops in segments: what is kept is the state before each, not the frame of each step.

A loop of n steps is a loop over about √n segments, each of them a loop of about √n steps that is
replayed (`lantern.replay`): its backward half runs the segment once more, recording the frames of
these steps only, and unwinds it. So a derivative keeps √n states and √n frames, and runs every step
once more. Both loops are ordinary loops; batches, programs and further derivatives need nothing of
their own.

Where nobody knows the number of steps, each segment is one step longer than the one before: n steps
make less than √(2n) segments, and none of them is longer than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np

from lantern.blocks import scan
from lantern.primitives.elementwise import add, less, logical_and, minimum, subtract
from lantern.primitives.indexing import static_slice
from lantern.primitives.structure import concat, reshape
from lantern.regions import Block, Recording
from lantern.replay import replay
from lantern.unbounded import INTEGER, parameters, while_

Values = tuple[Any, ...]


def root(length: int) -> int:
    """The square root of a number of steps, rounded up."""
    return isqrt(max(length - 1, 0)) + 1


def scan_in_segments(
    block: Block, *values: Any, carried: int, captured: int, length: int, reverse: bool, steps: int
) -> Values:
    """`lantern.blocks.scan` in segments of so many steps; those that are left over at the end are
    not replayed, as the way back begins with them."""
    inner = carried + captured
    carry, fixed, rows = values[:carried], values[carried:inner], values[inner:]
    whole = length // steps
    split = length - whole * steps if reverse else whole * steps
    first, last = ((split, length), (0, split)) if reverse else ((0, split), (split, length))
    static = {"carried": carried, "captured": captured, "reverse": reverse}

    def part(x: Any, span: tuple[int, int]) -> Any:
        others = ((0, n, 1) for n in x.shape[1:])
        return x if span == (0, length) else static_slice(x, index=((*span, 1), *others))

    outer = _segment(block, steps, carried, captured, reverse)
    grouped = [reshape(part(x, first), shape=(whole, steps, *x.shape[1:])) for x in rows]
    outs = scan(outer, *carry, *fixed, *grouped, length=whole, **static)
    carry = outs[:carried]
    ends = [reshape(y, shape=(whole * steps, *y.shape[2:])) for y in outs[carried:]]
    if whole * steps < length:
        left = [part(x, last) for x in rows]
        outs = scan(block, *carry, *fixed, *left, length=last[1] - last[0], **static)
        pairs = zip(ends, outs[carried:], strict=True)
        carry = outs[:carried]
        ends = [concat(*((b, a) if reverse else (a, b)), axis=0) for a, b in pairs]
    return (*carry, *ends)


def _segment(block: Block, steps: int, carried: int, captured: int, reverse: bool) -> Block:
    """A block that replays a segment of a scan."""
    key = "segment", steps, carried, captured, reverse
    if key not in block.cut:
        inner = carried + captured
        kinds = [block.kind(p) for p in block.params[:inner]]
        rows = map(block.kind, block.params[inner:])
        kinds += [((steps, *shape), dtype) for shape, dtype in rows]
        region = Recording()
        given = parameters(region, kinds)
        with region:
            segment = region.block(
                scan(block, *given, carried=carried, captured=captured, length=steps,
                     reverse=reverse)
            )  # fmt: skip
        block.cut[key] = _replaying(segment)
    return block.cut[key]


def _replaying(block: Block) -> Block:
    """A block that replays another one."""
    region = Recording()
    given = parameters(region, map(block.kind, block.params))
    with region:
        return region.block(replay(block, *given))


def while_in_segments(
    test: Block, body: Block, *values: Any, carried: int, limit: int | None
) -> Values:
    """The last carry of `lantern.unbounded.while_`, in segments of one step, two steps, and so on;
    there are no lists."""
    key = "segment", test, carried, limit
    if key not in body.cut:
        body.cut[key] = _growing(test, body, carried, limit)
    holds, step = body.cut[key]
    (start,) = test(*values)
    none, one = np.zeros((), INTEGER), np.ones((), INTEGER)
    _, going, _, _, *carry = while_(
        holds, step, start, none, one, *values, carried=carried + 3, limit=None
    )
    return tuple(carry) if limit is None else ended(going, carry, limit)


def ended(going: Any, carry: Sequence[Any], limit: int) -> Values:
    """The carry of a loop that has ended; one that goes on fails as any does beyond its limit, for
    it does so: here, in steps that only count."""
    region = Recording()
    kinds = [(x.shape, x.dtype) for x in carry]
    still, made, *state = parameters(region, [((), np.dtype(bool)), ((), INTEGER), *kinds])
    with region:
        holds, step = region.block([still]), region.block([still, add(made, 1), *state])
    none = np.zeros((), INTEGER)
    return while_(holds, step, going, none, *carry, carried=2 + len(carry), limit=limit)[3:]


def _growing(test: Block, body: Block, carried: int, limit: int | None) -> tuple[Block, Block]:
    """The loop over segments: its carry is whether it goes on, how many steps it has made, how many
    the next segment has, and the carry of the loop."""
    boolean, number = ((), np.dtype(bool)), ((), INTEGER)
    kinds = [body.kind(p) for p in body.params]
    within = Recording()  # a step of a segment; the last of the captures is the segment's length
    going, made, *state, length = parameters(within, [boolean, number, *kinds, number])
    with within:
        goes_on = within.block([logical_and(going, less(made, length))], captures=())
        after = body(*state)
        (still,) = test(*after, *state[carried:])
        step = within.block([still, add(made, 1), *after])
    segment = Recording()
    length, *state = parameters(segment, [number, *kinds])
    with segment:
        _, still, made, *after = while_(
            goes_on, step, np.ones((), bool), np.zeros((), INTEGER), *state, length,
            carried=carried + 2, limit=None,
        )  # fmt: skip
        inside = segment.block([still, made, *after])
    outer = Recording()
    going, total, length, *state = parameters(outer, [boolean, number, number, *kinds])
    with outer:
        more = going if limit is None else logical_and(going, less(total, limit))
        holds = outer.block([more], captures=())
        longest = length if limit is None else minimum(length, subtract(limit, total))
        still, made, *after = replay(inside, longest, *state)
        return holds, outer.block([still, add(total, made), add(length, 1), *after])
