"""Loops that a value of the program ends.

The body is recorded as a step from the variables to the variables. Which of them the step changes,
and what kind of array each is, shows when it is recorded: a Python number that it changes becomes
an array, of a dtype that the numbers and arrays of all steps have in common. Then it is recorded
once more, until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CellType
from typing import Any, NamedTuple

import numpy as np

from lantern import plans, tree
from lantern.control import box
from lantern.convert import asarray
from lantern.errors import ShapeError, StagingError, describe, short_traceback, user_place
from lantern.kinds import is_number, promote
from lantern.ops.logic import equal
from lantern.probing import Unfinished, stand_ins
from lantern.regions import Block, Kind, Recording, union
from lantern.syntax.branching import Names
from lantern.syntax.joining import Mismatch, as_kind, is_array, meeting, same, shown
from lantern.syntax.outcomes import CONTINUING, END, MISSING, NEXT, RETURNING, Outcome
from lantern.syntax.truth import truth
from lantern.syntax.variables import UNBOUND, Undefined, Variables
from lantern.tensor import Tensor

ROUNDS = 8
COUNTER = "the number of a step"  # under this name it is carried
_KIND = ((), np.dtype(np.int32))  # of how control goes on, where that is carried


class State(NamedTuple):
    """The variables at the head of a loop.

    Attributes:
        structure: of the pytree of all of them.
        leaves: what they are before the first step.
        kinds: of each leaf; None for one that no step changes and that is no array.
    """

    structure: tree.Structure
    leaves: list[Any]
    kinds: list[Kind | None]

    def filled(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """The variables, with arrays in place of the leaves that are such."""
        some = iter(arrays)
        return tree.unflatten(
            self.structure,
            [x if k is None else next(some) for x, k in zip(self.leaves, self.kinds, strict=True)],
        )

    def carried(self) -> list[Kind]:
        """The kinds of those that are arrays."""
        return [kind for kind in self.kinds if kind is not None]

    def arrays(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Leaves as arrays of these kinds, without the others."""
        pairs = zip(leaves, self.kinds, strict=True)
        return [as_kind(x, kind[1]) for x, kind in pairs if kind is not None]


class Step(NamedTuple):
    """A recorded body.

    Attributes:
        region: where it was recorded, with a parameter for each array of the state.
        held: the variables behind it.
        leaves: of those that are carried.
        outcome: how control goes on behind it.
    """

    region: Recording
    held: dict[str, Any]
    leaves: list[Any]
    outcome: Outcome


class Recorded(NamedTuple):
    """A recorded loop.

    Attributes:
        state: the variables at its head.
        ending: how control leaves it.
        first: what is carried, before the first step.
        test: whether it goes on.
        body: a step.
        captures: what these read besides.
    """

    state: State
    ending: _Ending
    first: list[Any]
    test: Block
    body: Block
    captures: list[Tensor]

    def parts(self) -> tuple[Block, int, int]:
        """The body, and how much it carries and captures."""
        return self.body, len(self.first), len(self.captures)


class Loop:
    """A ``while`` that a value of the program ends.

    Attributes:
        variables: all that the loop binds.
        start: what those that are carried hold before it.
        where: the loop, for errors.
    """

    def __init__(
        self, test: Callable[[], Any], body: Callable[..., Outcome | None], names: Names,
        holders: Sequence[Any], counter: CellType | None = None,
    ) -> None:  # fmt: skip
        names.check("this loop")
        self.test, self.body, self.names, self.holders = test, body, names, holders
        self.variables = Variables(holders, names.bound)
        live = list(names.live)
        if counter is not None:
            self.variables.cells[COUNTER] = counter
            live.append(COUNTER)
        held = self.variables.read()
        self.start = {
            name: held[name]
            for name in live
            if name in held and not isinstance(held[name], Undefined)
        }
        self.where = user_place()

    def run(self, start: Outcome) -> Outcome:
        """Write the loop, and give the variables the values behind it.

        Args:
            start: how control goes on before the first step, which it may not do at all.
        """
        try:
            loop = plans.body_recorded(lambda: self.recorded(start), Recorded.parts)
        except Unfinished as signal:
            return self.unfinished(signal)
        count = len(loop.first)
        found = plans.while_(
            loop.test, loop.body, *loop.first, *loop.captures, carried=count, limit=None
        )
        outs = [box(y) for y in found]
        count = len(loop.state.carried())
        self.leave(loop.state.filled(outs[:count]))
        return loop.ending.outcome(outs[count:])

    def recorded(self, start: Outcome) -> Recorded:
        """The loop, given how control goes on before it."""
        state, step = self.settled()
        leaving = start.possible | step.outcome.possible
        value = start.value if step.outcome.value is MISSING else step.outcome.value
        ending = _Ending(leaving - {NEXT}, value)
        first = state.arrays(state.leaves) + ending.arrays(start)
        return Recorded(state, ending, first, *self.blocks(state, step, ending))

    def unfinished(self, signal: Unfinished) -> Outcome:
        """Give the variables values of their kinds, where a recursive call leaves the rest open."""
        self.leave(tree.map(lambda x: stand_ins(signal, [x])[0] if is_array(x) else x, self.start))
        return END

    def leave(self, values: dict[str, Any]) -> None:
        """Give the variables their values behind the loop; those without one say why."""
        for name, held in self.variables.read().items():
            if name not in values and (held is UNBOUND or name not in self.names.live):
                values[name] = Undefined(
                    f"{name} has a value only behind the first step of the loop at {self.where}; "
                    "give it one before the loop"
                )
        self.variables.write({name: x for name, x in values.items() if name != COUNTER})

    def settled(self) -> tuple[State, Step]:
        """The state, its kinds those that every step keeps, and the body recorded with it."""
        leaves, structure = tree.flatten(self.start)
        state = State(structure, leaves, [_kind(x) for x in leaves])
        for _ in range(ROUNDS):
            step = self.step(state)
            kinds = self.kinds_behind(state, step)
            if kinds == state.kinds:
                return state, step
            state = state._replace(kinds=kinds)
        raise StagingError("the variables of a loop do not settle to dtypes that each step keeps")

    def step(self, state: State) -> Step:
        """The body, recorded from a state."""
        region = Recording()
        with short_traceback(), region, self.variables.restored():
            params = [region.parameter(*kind) for kind in state.carried()]
            self.variables.write(state.filled(params))
            outcome = after_a_step(self.body(*self.given(region)))
            held = self.variables.read()
            behind = {name: held[name] for name in self.start}
            leaves, structure = tree.flatten(behind)
        if structure != state.structure:
            for name, before in self.start.items():
                now = tree.structure(behind[name])
                if now != tree.structure(before):
                    raise ShapeError(
                        f"{name} is {shown(before)} before the loop, and {shown(behind[name])} "
                        "behind a step of it; a variable that a loop carries keeps its structure: "
                        "give it one like that before the loop"
                    )
        return Step(region, held, leaves, outcome)

    def given(self, region: Recording) -> tuple[Any, ...]:
        """What a step takes besides the variables."""
        return ()

    def kinds_behind(self, state: State, step: Step) -> list[Kind | None]:
        """The kinds that the state has to have, for all that is known from a step."""
        found: list[Kind | None] = []
        paths = tree.paths(self.start)
        every = zip(paths, state.leaves, state.kinds, step.leaves, strict=True)
        for path, before, kind, after in every:
            if kind is None and same(before, after):
                found.append(None)
                continue
            met = _met(before, kind, after)
            if met is None or (is_array(before) and met != kind):
                raise ShapeError(
                    f"{_name(path)} is {describe(before)} before the loop, and {describe(after)} "
                    "behind a step of it; a variable that a loop carries keeps shape and dtype: "
                    "give it those before the loop, or convert it"
                )
            found.append(met)
        return found

    def blocks(
        self, state: State, step: Step, ending: _Ending
    ) -> tuple[Block, Block, list[Tensor]]:
        """The test and the body as blocks, and what they read besides the state."""
        with step.region:
            results = state.arrays(step.leaves) + ending.arrays(step.outcome)
            for kind in ending.kinds:
                step.region.parameter(*kind)
            for y in results:
                step.region.reference(box(y))
        tested = Recording()
        with short_traceback(), tested, self.variables.restored():
            params = [tested.parameter(*kind) for kind in (*state.carried(), *ending.kinds)]
            self.variables.write(state.filled(params))
            holds = ending.going(params[len(state.carried()) :], self.test)
            tested.reference(holds := asarray(holds))
        captures = union([tested, step.region])
        return (
            tested.block([holds], captures=captures),
            step.region.block(results, captures=captures),
            captures,
        )


class _Ending:
    """How control leaves a loop other than by its test, where that may be: values that it carries.

    Attributes:
        ways: the kinds of outcomes.
        kinds: of the carried values: a number for how, then the leaves of what is returned.
        endless: whether its test always holds, so that there is no other end.
    """

    def __init__(self, ways: frozenset[int], value: Any) -> None:
        self.ways, self.value, self.endless = ways, value, False
        leaves, self.structure = tree.flatten(None if value is MISSING else value)
        self.leaves = leaves
        self.places = [i for i, x in enumerate(leaves) if is_array(x) or is_number(x)]
        self.kinds: list[Kind] = []
        if ways:
            self.kinds = [_KIND, *(meeting([leaves[i]]) for i in self.places)]

    def arrays(self, outcome: Outcome) -> list[Any]:
        """An outcome as what is carried."""
        if not self.ways:
            return []
        kind = np.int32(outcome.kind) if outcome.known else outcome.kind
        if outcome.value is MISSING:
            return [kind, *(np.zeros(*k)[()] for k in self.kinds[1:])]
        leaves, structure = tree.flatten(outcome.value)
        if structure != self.structure:
            raise StagingError("the function returns values of different structures from a loop")
        return [
            kind,
            *(as_kind(leaves[i], k[1]) for i, k in zip(self.places, self.kinds[1:], strict=True)),
        ]

    def going(self, carried: Sequence[Any], test: Callable[[], Any]) -> Any:
        """Whether the loop goes on: it has not been left, and its test holds."""
        from lantern.syntax.operators import and_

        def holds() -> Any:
            found = test()
            if type(found) is Tensor:
                return truth(found, "`while`")
            self.endless = bool(found)
            return self.endless

        return and_(equal(carried[0], np.int32(NEXT)), holds) if self.ways else holds()

    def outcome(self, carried: Sequence[Any]) -> Outcome:
        """The outcome behind the loop."""
        if not self.ways:
            return END
        leaves = list(self.leaves)
        for i, x in zip(self.places, carried[1:], strict=True):
            leaves[i] = x
        value = tree.unflatten(self.structure, leaves) if RETURNING in self.ways else MISSING
        possible = self.ways if self.endless else self.ways | {NEXT}
        return Outcome(min(possible) if len(possible) == 1 else carried[0], possible, value)


def after_a_step(outcome: Outcome | None) -> Outcome:
    """Whether a loop goes on: what is left of ``continue`` is nothing."""
    return END if outcome is None else outcome.taken_for_next(CONTINUING)


def _met(before: Any, kind: Kind | None, after: Any) -> Kind | None:
    """The kind that a leaf has before and behind a step; None if there is none."""
    if kind is not None and is_array(after) and after.shape == kind[0]:
        if is_number(before):
            return kind[0], promote(kind[1], after.dtype)
        if after.dtype == kind[1]:
            return kind
    try:
        return meeting([before if kind is None else np.zeros(*kind)[()], after])
    except Mismatch:
        return None


def _kind(x: Any) -> Kind | None:
    return meeting([x]) if is_array(x) else None


def _name(path: str) -> str:
    """A path in the variables, ``['x'][0]``, as it is written: ``x[0]``."""
    first, _, rest = path[2:].partition("']")
    return first + rest
