"""Branches that a value of the program decides: each is recorded, and where they meet again their
variables and outcomes are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lantern import branches, tree
from lantern.branches import Recorded
from lantern.control import box
from lantern.errors import StagingError, user_line, user_place
from lantern.ops.elementwise import where
from lantern.syntax.hazards import Hazard
from lantern.syntax.joining import Join, Made, Mismatch
from lantern.syntax.outcomes import END, MISSING, RETURNING, Outcome, Return
from lantern.syntax.variables import UNBOUND, Undefined, Variables
from lantern.tensor import Tensor

Part = Callable[[], Outcome | None]
Values = dict[str, Any]


class Names(NamedTuple):
    """What is known of statements from their text.

    Attributes:
        bound: the names that they bind.
        live: those of these that are read behind them.
        problem: what they do that stays done, if anything.
    """

    bound: tuple[str, ...]
    live: tuple[str, ...]
    problem: Hazard = None

    def check(self, what: str) -> None:
        """Raise where the statements do what a recorded one cannot.

        Raises:
            StagingError: they do; with the line.
        """
        if self.problem is not None:
            line, reason = self.problem
            error = StagingError(f"{what} is decided by a value of the program, but {reason}")
            error.place = user_line(line)
            raise error


def decide(
    test: Tensor, parts: Sequence[Part], holders: Iterable[Any], names: Names, what: str = "if"
) -> Outcome:
    """Record what happens where a test holds and where it does not, and join both.

    Args:
        test: a boolean of the program.
        parts: what to do where it holds, and where it does not.
        holders: the functions that share the variables.
        names: of the variables.
        what: the statement, for errors.
    """
    names.check(f"this `{what}`")
    variables = Variables(holders, names.bound)
    reached: list[tuple[Outcome, Values]] = []

    def recorded(part: Part) -> Callable[[], tuple[()]]:
        def run() -> tuple[()]:
            with variables.restored():
                outcome = part() or END
                reached.append((outcome, variables.read()))
            return ()

        return run

    def settle(recordings: Sequence[Recorded]) -> tuple[list[list[Any]], tree.Structure]:
        outcomes, values = zip(*reversed(reached), strict=True)
        join = Join(len(reached), lambda numbers: where(test, *numbers))
        before = variables.read()
        place = f"`{what}` at {user_place()}"
        meeting.variables = meet(join, before, values, outcomes, names, place)
        meeting.outcome = meet_outcomes(join, outcomes, what)
        results = []
        for way, (region, _, _) in enumerate(recordings):
            with region:
                results.append(join.arrays(len(reached) - 1 - way))
            for y in results[-1]:
                region.reference(box(y))  # one from outside is captured
        return results, tree.structure([0] * len(join.kinds))

    meeting = Meeting()
    body, orelse = map(recorded, parts)
    arrays = branches.choose(test, (orelse, body), (), settle)
    variables.write({name: made(arrays) for name, made in meeting.variables.items()})
    return meeting.outcome(arrays)


class Meeting:
    """Where ways meet: what the variables become, and how control goes on."""

    variables: dict[str, Made]
    outcome: Made


def meet(
    join: Join, before: Values, values: Sequence[Values], outcomes: Sequence[Outcome],
    names: Names, where: str,
) -> dict[str, Made]:  # fmt: skip
    """What each variable becomes: one that is not live, or has no common value, `Undefined`. It
    does not matter what one holds where the function returns."""
    made: dict[str, Made] = {}
    gone = [o.possible == Return(None).possible for o in outcomes]
    for name in before:
        every = [v[name] for v in values]
        found = [MISSING if away else v for v, away in zip(every, gone, strict=True)]
        if all(v is MISSING or v is before[name] for v in found):
            continue
        if name not in names.live:
            why = f"{name} is not in use behind the {where}"
        elif any(isinstance(v, Undefined) for v in found):
            why = absent(name, found, where)
        else:
            try:
                made[name] = join.add(found)
                continue
            except Mismatch as problem:
                why = (
                    f"{name} is {problem} behind the branches of the {where}; a variable that is "
                    "read behind them has one structure, shape and dtype"
                )
        made[name] = _constant(Undefined(why))
    return made


def absent(name: str, found: Sequence[Any], where: str) -> str:
    """Why a variable has no value behind branches, on one of which it has one."""
    for value in found:
        if isinstance(value, Undefined) and value is not UNBOUND:
            return value.why
    way = "does not hold" if found[0] is UNBOUND else "holds"
    return (
        f"{name} has a value only where the condition of the {where} {way}; give it one on both "
        "branches, or before"
    )


def meet_outcomes(join: Join, outcomes: Sequence[Outcome], what: str) -> Made:
    """How control goes on behind branches."""
    possible = frozenset[int]().union(*(o.possible for o in outcomes))
    kind = _constant(min(possible))
    if len(possible) > 1:
        if all(o.known for o in outcomes):
            numbers = [np.int32(o.kind) for o in outcomes]
            kind = lambda arrays: join.select(numbers)  # noqa: E731
        else:
            kind = join.add([np.int32(o.kind) if o.known else o.kind for o in outcomes])
    value = _constant(MISSING)
    if RETURNING in possible:
        try:
            value = join.add([o.value for o in outcomes])
        except Mismatch as problem:
            raise StagingError(
                f"{problem} are what is returned by the two ways of this `{what}`; return the same "
                "structure, shapes and dtypes on both"
            ) from None
    return lambda arrays: Outcome(kind(arrays), possible, value(arrays))


def _constant(value: Any) -> Made:
    return lambda arrays: value
