"""Loops as recursion: the state after a step is a call that asks for the state before it.

`lantern.batch` does the same work of many calls at once, and a loop written so takes part in that:
the steps of sequences of different lengths are then calls at different depths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lantern.branches import cond
from lantern.control import box
from lantern.lengths import Length
from lantern.primitives.indexing import length_of
from lantern.recursion import recursive
from lantern.regions import Block, floating
from lantern.tensor import Tensor

_as_calls: ContextVar[bool] = ContextVar("as_calls", default=False)


@contextmanager
def loops_as_calls(on: bool) -> Iterator[None]:
    """A context in which loops are, or are not, performed as recursion where that can be."""
    token = _as_calls.set(on)
    try:
        yield
    finally:
        _as_calls.reset(token)


def takes_steps_as_calls(block: Block, carried: int, captured: int) -> bool:
    """Whether a loop with this body is performed as recursion here: it goes along arrays, and its
    steps compute a state with floats in it, and nothing else."""
    states = block.params[:carried]
    return (
        _as_calls.get()
        and len(block.results) == carried
        and len(block.params) > carried + captured
        and any(floating(block.kind(slot)) for slot in states)
    )


def by_calls(
    block: Block,
    values: Sequence[Any],
    carried: int,
    captured: int,
    length: int | Length,
    reverse: bool,
) -> tuple[Any, ...]:
    """The state behind a loop that `takes_steps_as_calls`, with arguments as `lantern.blocks.scan`
    has them."""
    if type(length) is Length:
        values = values[1:]  # behind the number of steps, which items have each their own of
    carry, rest = tuple(map(box, values[:carried])), values[carried:]
    captures, rows = rest[:captured], [box(x) for x in rest[captured:]]
    extent = box(length_of(rows[0])) if type(length) is Length else length

    @recursive
    def after(i: Any) -> tuple[Tensor, ...]:
        def step() -> tuple[Tensor, ...]:
            place = extent - i if reverse else i - 1
            return tuple(map(box, block(*after(i - 1), *captures, *(x[place] for x in rows))))

        return cond(i <= 0, lambda: carry, step)

    return after(extent)
