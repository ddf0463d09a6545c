"""How a recorded loop is performed under the policy that is current (`lantern.checkpoint`)."""

from __future__ import annotations

from operator import index
from typing import Any

from lantern import blocks, revolve, segments, unbounded
from lantern.checkpoint_policies import Binomial, Sqrt, current_policy
from lantern.errors import StagingError
from lantern.lengths import Length
from lantern.regions import Block

Values = tuple[Any, ...]


def scan(
    block: Block, *values: Any, carried: int, captured: int, length: int | Length, reverse: bool
) -> Values:
    """`lantern.blocks.scan`; under a policy the number of steps must be known."""
    policy = current_policy()
    if policy is None or (length := index(length)) < 2:
        return blocks.scan(
            block, *values, carried=carried, captured=captured, length=length, reverse=reverse
        )
    static = {"carried": carried, "captured": captured, "length": length, "reverse": reverse}
    if isinstance(policy, Sqrt):
        steps = segments.root(length)
        return segments.scan_in_segments(block, *values, **static, steps=steps)
    if isinstance(policy, Binomial):
        return revolve.scan(block, *values, **static, slots=policy.slots)
    raise StagingError("checkpoint: loops take no budget yet; choose sqrt or binomial")


def while_(test: Block, body: Block, *values: Any, carried: int, limit: int | None) -> Values:
    """The last carry of `lantern.unbounded.while_`."""
    policy = current_policy()
    if isinstance(policy, Sqrt):
        return segments.while_in_segments(test, body, *values, carried=carried, limit=limit)
    if isinstance(policy, Binomial):
        static = {"carried": carried, "limit": limit, "slots": policy.slots}
        return revolve.while_(test, body, *values, **static)[1:]
    if policy is not None:
        raise StagingError("checkpoint: loops take no budget yet; choose sqrt or binomial")
    return unbounded.while_(test, body, *values, carried=carried, limit=limit)[1:]
