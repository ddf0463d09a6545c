"""Loops: those of Python, and those that a value of the program ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lantern.ops.logic import equal
from lantern.syntax.along import Unroll, go_along
from lantern.syntax.branching import Names, Part, decide
from lantern.syntax.iterables import elements_of
from lantern.syntax.outcomes import BREAKING, END, NEXT, Outcome
from lantern.syntax.repeating import Loop, after_a_step
from lantern.syntax.trials import Trial, Undo
from lantern.syntax.truth import is_staged

Test = Callable[[], Any]


def then(
    outcome: Outcome | None, rest: Part, holders: Sequence[Any], names: Names
) -> Outcome | None:
    """Do the rest, unless control has gone elsewhere before."""
    if outcome is None or NEXT not in outcome.possible:
        return outcome if outcome is not None else rest()
    if outcome.known:
        return rest()
    elsewhere = outcome.without(NEXT)
    goes_on = equal(outcome.kind, np.int32(NEXT))
    return decide(goes_on, (rest, lambda: elsewhere), holders, names)


def behind(
    outcome: Outcome | None, orelse: Part | None, holders: Sequence[Any], names: Names
) -> Outcome | None:
    """How control goes on behind a loop, from how that ended: ``else`` runs unless it was left."""
    if orelse is not None:
        outcome = then(outcome, orelse, holders, names)
    return outcome and outcome.taken_for_next(BREAKING)


def while_(test: Test, body: Part, orelse: Part | None, names: Names) -> Outcome | None:
    """``while test: body else: orelse``."""
    holders = (test, body, orelse)
    while True:
        undo = Undo()
        holds = test()
        if is_staged(holds):
            undo()
            return behind(Loop(test, body, names, holders).run(END), orelse, holders, names)
        if not holds:
            return orelse() if orelse is not None else None
        first = Trial(holders, names)
        outcome = after_a_step(body())
        if not outcome.known:  # from here on the program decides, better: from the step before
            ended = first.instead(lambda: Loop(test, body, names, holders).run(END))
            ended = ended or Loop(test, body, names, holders).run(outcome)
            return behind(ended, orelse, holders, names)
        if NEXT not in outcome.possible:
            return behind(outcome, orelse, holders, names)


def for_(
    elements: Iterable[Any],
    body: Callable[[Any], Outcome | None],
    orelse: Part | None,
    names: Names,
    calls: bool,
) -> Outcome | None:
    """``for ... in elements: body else: orelse``."""
    holders = (body, orelse)
    if (some := elements_of(elements)) is not None:
        try:
            return behind(go_along(some, body, names, holders, calls), orelse, holders, names)
        except Unroll:
            pass  # what the steps do differs from one to the next, or cannot be recorded
    outcome = END
    for x in elements:
        step = then(outcome, lambda x=x: body(x), holders, names)
        outcome = after_a_step(step)
        if NEXT not in outcome.possible:
            break
    return behind(outcome, orelse, holders, names)
