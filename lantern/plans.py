"""How a recorded loop is performed under the policy that is current (`lantern.checkpoint`)."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lantern import blocks, revolve, segments, unbounded
from lantern.blocks import loop_halves, wanted_floats
from lantern.checkpoint_policies import Binomial, Budget, Sqrt, applied, current_policy
from lantern.errors import ArgumentError
from lantern.lengths import Length
from lantern.primitives.elementwise import add, less, logical_and
from lantern.ragged import is_unsized
from lantern.regions import Block, Recording, bytes_of
from lantern.stepping import by_calls, loops_as_calls, takes_steps_as_calls
from lantern.unbounded import INTEGER

Values = tuple[Any, ...]
R = TypeVar("R")
MOST = 1024  # slots: with so many, no step of 180 million is run again more than three times


def scan(
    block: Block, *values: Any, carried: int, captured: int, length: int | Length, reverse: bool
) -> Values:
    """`lantern.blocks.scan`; under a policy the number of steps must be known. In a batch of items
    steps may become calls."""
    if takes_steps_as_calls(block, carried, captured):
        return by_calls(block, values, carried, captured, length, reverse)
    policy = current_policy()
    if policy is None or (length := index(length)) < 2:
        return blocks.scan(
            block, *values, carried=carried, captured=captured, length=length, reverse=reverse
        )
    static = {"carried": carried, "captured": captured, "length": length, "reverse": reverse}
    if isinstance(policy, Budget):
        return _scan_within(policy.bytes, block, values, static)
    if isinstance(policy, Sqrt):
        steps = segments.root(length)
        return segments.scan_in_segments(block, *values, **static, steps=steps)
    return revolve.scan(block, *values, **static, slots=policy.slots)


def while_(test: Block, body: Block, *values: Any, carried: int, limit: int | None) -> Values:
    """The last carry of `lantern.unbounded.while_`."""
    policy = current_policy()
    if isinstance(policy, Sqrt):
        return segments.while_in_segments(test, body, *values, carried=carried, limit=limit)
    if isinstance(policy, Binomial):
        static = {"carried": carried, "limit": limit, "slots": policy.slots}
        return revolve.while_(test, body, *values, **static)[1:]
    if isinstance(policy, Budget):
        return _while_within(policy.bytes, test, body, values, carried, limit)
    return unbounded.while_(test, body, *values, carried=carried, limit=limit)[1:]


# Within a number of bytes -------------------------------------------------------------------------


class Sizes(NamedTuple):
    """What a step of a loop takes.

    Attributes:
        state: the bytes of the carry.
        frame: the bytes that the backward half of a step reads of its forward half.
        whole: whether that is all: no loop in the step keeps lists.
    """

    state: int
    frame: int
    whole: bool


def sizes(block: Block, carried: int, captured: int) -> Sizes:
    """The sizes of a loop's body, if all of its operands have derivatives."""
    h = loop_halves(block, carried, carried + captured, wanted_floats(block, None)).halves
    saved = [h.forward.kind(slot) for slot in h.saved]
    state = sum(bytes_of(block.kind(p)) for p in block.params[:carried])
    return Sizes(state, sum(map(bytes_of, saved)), not any(is_unsized(*kind) for kind in saved))


def body_recorded(record: Callable[[], R], block_of: Callable[[R], tuple[Block, int, int]]) -> R:
    """Record the body of a loop. Within a budget the loops in it keep what they like if a frame of
    the body fits into half of that; else they have that half for themselves."""
    policy = current_policy()
    with loops_as_calls(False):  # only whole loops become calls
        if not isinstance(policy, Budget):
            return record()
        with applied(None):
            made = record()
    size = sizes(*block_of(made))
    if size.whole and size.frame <= policy.bytes // 2:
        return made
    with applied(Budget(policy.bytes // 2)):
        return record()


def slots_within(size: int, sizes: Sizes) -> int:
    """How many states, each with the number of its step, fit beside the frame of one step, and
    beside the lists in it, which have half of the bytes.

    Raises:
        ArgumentError: not even one.
    """
    free = size - sizes.frame - (0 if sizes.whole else size // 2)
    each = sizes.state + INTEGER.itemsize
    if free < each:
        least = (sizes.frame + each) * (1 if sizes.whole else 2)
        raise ArgumentError(
            f"checkpoint: a budget of {size} bytes is not enough for a loop whose state has "
            f"{sizes.state} bytes and whose steps save {sizes.frame} each; give {least} or more"
        )
    return min(MOST, free // each)


def _scan_within(size: int, block: Block, values: Values, static: dict[str, Any]) -> Values:
    """All frames if they fit, else segments if they do, else as many states as fit."""
    length = static["length"]
    one = sizes(block, static["carried"], static["captured"])
    if one.whole and length * one.frame <= size:
        return blocks.scan(block, *values, **static)
    # About n · state / steps + steps · frame bytes, which is least where both parts are equal.
    steps = max(1, round((length * one.state / max(1, one.frame)) ** 0.5))
    if one.whole and -(-length // steps) * one.state + steps * one.frame <= size:
        return segments.scan_in_segments(block, *values, **static, steps=min(steps, length))
    return revolve.scan(block, *values, **static, slots=slots_within(size, one))


def _while_within(
    size: int, test: Block, body: Block, values: Values, carried: int, limit: int | None
) -> Values:
    """Frames as long as they fit into one half of the bytes, and for the rest of the loop as many
    states as fit into the other half."""
    half, fixed = size // 2, values[carried:]
    one = sizes(body, carried, len(fixed))
    most = half // max(1, one.frame) if one.whole else 0
    most = 1 << most.bit_length() - 1 if most else 0  # lists double the room that they have
    counting = one._replace(state=one.state + INTEGER.itemsize)
    slots = slots_within(half if most else size, counting)
    carry: Values = (np.zeros((), INTEGER), *values[:carried])
    if most:
        first = _as_far_as(test, body, carried, most if limit is None else min(most, limit))
        carry = unbounded.while_(*first, *carry, *fixed, carried=1 + carried, limit=None)[1:]
    rest = _as_far_as(test, body, carried, limit)
    static = {"carried": 1 + carried, "limit": None, "slots": slots}
    carry = revolve.while_(*rest, *carry, *fixed, **static)[2:]
    return carry if limit is None else segments.ended(test(*carry, *fixed)[0], carry, limit)


def _as_far_as(test: Block, body: Block, carried: int, most: int | None) -> tuple[Block, Block]:
    """The test and the body of a loop that counts its steps, in front of its carry, and ends after
    so many."""
    key = "as far as", test, carried, most
    if key not in body.cut:
        region = Recording()
        kinds = map(body.kind, body.params)
        made, *values = unbounded.parameters(region, [((), INTEGER), *kinds])
        with region:
            (going,) = test(*values)
            going = going if most is None else logical_and(going, less(made, most))
            holds = region.block([going], captures=())
            step = region.block([add(made, 1), *body(*values)])
        body.cut[key] = holds, step
    return body.cut[key]
