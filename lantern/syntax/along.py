"""Loops along the elements of a program: as a scan where the steps are as many as there are
elements, as a ``while`` where that is known only when it runs, or where a step may leave the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CellType
from typing import Any

import numpy as np

from lantern import plans, tree
from lantern.control import box
from lantern.convert import asarray
from lantern.errors import LanternError
from lantern.kinds import is_number
from lantern.lengths import Length
from lantern.loops import steps
from lantern.ops.logic import less
from lantern.probing import Unfinished
from lantern.regions import Block, Kind, Recording
from lantern.syntax.branching import Names
from lantern.syntax.iterables import Elements, as_number
from lantern.syntax.joining import is_array
from lantern.syntax.outcomes import END, NEXT, Outcome
from lantern.syntax.repeating import Loop, State, Step
from lantern.syntax.truth import is_staged
from lantern.syntax.variables import Undefined

Body = Callable[[Any], Outcome | None]


class Unroll(Exception):
    """A loop whose steps have to be written one by one."""


def go_along(
    elements: Elements, body: Body, names: Names, holders: Sequence[Any], calls: bool
) -> Outcome | None:
    """``for ... in elements: body``.

    Args:
        elements: what is gone over.
        body: from an element to how control goes on.
        names: of what the body binds.
        holders: the functions that share the variables.
        calls: whether the body calls functions for what they do; a list may be filled by these, so
            the loop is Python's if it can be.

    Raises:
        Unroll: the number of elements is known, and a loop of the program cannot do what the body
            does.
    """
    if is_staged(elements.count):
        return _while(elements, body, names, holders)
    if calls or names.problem is not None:
        raise Unroll
    if type(elements.count) is not Length and elements.count == 0:
        return None
    try:
        return _Along(elements, body, names, holders).over()
    except LanternError as problem:
        raise Unroll from problem


def _while(elements: Elements, body: Body, names: Names, holders: Sequence[Any]) -> Outcome:
    """The loop as a ``while`` that counts."""
    counter = CellType(asarray(0))
    count = as_number(elements.count)

    def test() -> Any:
        return less(counter.cell_contents, count)

    def step() -> Outcome | None:
        number = counter.cell_contents
        counter.cell_contents = number + 1
        row = tree.map(lambda x: x[number], elements.rows)
        return body(elements.element(number, row))

    return Loop(test, step, names, holders, counter).run(END)


class _Along(Loop):
    """The loop as a scan."""

    def __init__(
        self, elements: Elements, body: Body, names: Names, holders: Sequence[Any]
    ) -> None:
        counter = CellType(asarray(0)) if elements.numbered else None

        def step(row: Any) -> Outcome | None:
            number = None
            if counter is not None:
                number = counter.cell_contents
                counter.cell_contents = number + 1
            return body(elements.element(number, row))

        super().__init__(lambda: True, step, names, holders, counter)
        self.elements, self.plain = elements, body
        self.rows, self.row_structure = tree.flatten(elements.rows)

    def given(self, region: Recording) -> tuple[Any, ...]:
        parts = [region.parameter(x.shape[1:], x.dtype) for x in self.rows]
        return (tree.unflatten(self.row_structure, parts),)

    def over(self) -> Outcome:
        """Write the loop, and give the variables the values behind it."""
        try:
            state, step, block = plans.body_recorded(
                self.body_block,
                lambda made: (made[2], len(made[0].carried()), len(made[1].region.captures)),
            )
        except Unfinished as signal:
            return self.unfinished(signal)
        if not step.outcome.known:
            self.variables.write(self.first_bound(step))
            return _while(self.elements, self.plain, self.names, self.holders)
        if NEXT not in step.outcome.possible:
            raise Unroll  # the first step leaves the loop
        first, captures = state.arrays(state.leaves), step.region.captures
        count = self.elements.count
        found = plans.scan(
            block, *steps(count), *first, *captures, *self.rows,
            carried=len(first), captured=len(captures), length=count, reverse=False,
        )  # fmt: skip
        self.leave(state.filled([box(y) for y in found]))
        return step.outcome

    def body_block(self) -> tuple[State, Step, Block]:
        """The body as a block."""
        state, step = self.settled()
        if new := self.first_bound(step):
            self.start |= new
            state, step = self.settled()
        with step.region:
            results = state.arrays(step.leaves)
        return state, step, step.region.block(results, len(state.carried()))

    def first_bound(self, step: Step) -> dict[str, Any]:
        """Variables that have no value before the loop, where that runs at least once: zeros stand
        in for these."""
        if type(self.elements.count) is Length:
            return {}
        return {
            name: tree.map(_zeros, step.held[name])
            for name, held in self.variables.read().items()
            if name in self.names.live and isinstance(held, Undefined)
            and not isinstance(step.held[name], Undefined)
        }  # fmt: skip

    def kinds_behind(self, state: State, step: Step) -> list[Kind | None]:
        """As for other loops; but numbers that steps count without the program are Python's."""
        found = super().kinds_behind(state, step)
        for before, after, old, new in zip(
            state.leaves, step.leaves, state.kinds, found, strict=True
        ):
            if old is None and new is not None and is_number(before) and is_number(after):
                raise Unroll
        return found


def _parts(made: tuple[State, Step, Block]) -> tuple[Block, int, int]:
    """The body, and how much it carries and captures."""
    state, step, block = made
    return block, len(state.carried()), len(step.region.captures)


def _zeros(x: Any) -> Any:
    return asarray(np.zeros(x.shape, x.dtype)) if is_array(x) else x
