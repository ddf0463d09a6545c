"""Outcomes: how control leaves the functions that branches and loops are made into.

Reaching the end is None in rewritten code. What is known while a program is written stays a value
of Python; where a value of the program decides, ``kind`` is one, and ``possible`` says of which.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lantern.ops.elementwise import where
from lantern.ops.logic import equal

NEXT, BREAKING, CONTINUING, RETURNING = range(4)
MISSING: Any = object()
"""The value of an outcome that does not return."""


class Outcome(NamedTuple):
    """How control goes on.

    Attributes:
        kind: a number, or an int32 of the program that is one.
        possible: the numbers that it may be.
        value: what is returned, if it is `RETURNING`.
    """

    kind: Any
    possible: frozenset[int]
    value: Any = MISSING

    @property
    def known(self) -> bool:
        """Whether it is known while the program is written."""
        return len(self.possible) == 1

    def without(self, *kinds: int) -> Outcome:
        """The same, where it is known not to be of some kinds."""
        left = self.possible.difference(kinds)
        return Outcome(min(left) if len(left) == 1 else self.kind, left, self.value)

    def taken_for_next(self, kind: int) -> Outcome:
        """The same, where one kind of it leads to where reaching the end does."""
        if kind not in self.possible:
            return self
        left = self.possible - {kind} | {NEXT}
        if len(left) == 1:
            return END
        return Outcome(
            where(equal(self.kind, np.int32(kind)), np.int32(NEXT), self.kind), left, self.value
        )


def _only(kind: int, value: Any = MISSING) -> Outcome:
    return Outcome(kind, frozenset([kind]), value)


END, BREAK, CONTINUE = map(_only, (NEXT, BREAKING, CONTINUING))


def Return(value: Any) -> Outcome:
    """The outcome of a ``return``."""
    return _only(RETURNING, value)
