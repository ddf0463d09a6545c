"""Calls whose results are not known yet: what a recursive function gives, before it was recorded.

Where a function calls itself while it is recorded for the first time, nothing says of what kinds
the results will be. The call raises `Unfinished`; a branch that raises is left out, and another one
tells the kinds. What was recorded then has gaps, so it is recorded once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lantern.regions import Recording
from lantern.tensor import Tensor


class Unfinished(BaseException):
    """Calls of functions whose results are not known yet; no error, but a signal."""

    def __init__(self, functions: frozenset[Any]) -> None:
        super().__init__(functions)
        self.functions = functions


@dataclass
class Gaps:
    """What is missing in what is being recorded.

    Attributes:
        functions: because of which something was left out.
        values: the region of the values that stand in for that.
    """

    functions: list[Any] = field(default_factory=list[Any])
    values: Recording = field(default_factory=Recording)


gaps: ContextVar[Gaps | None] = ContextVar("gaps", default=None)


def together(signals: Sequence[Unfinished]) -> Unfinished:
    """One signal for several."""
    return Unfinished(frozenset().union(*(signal.functions for signal in signals)))


def stand_ins(signal: Unfinished, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Values of the kinds of ``leaves`` in place of what could not be recorded."""
    missing = gaps.get()
    if missing is None:
        raise signal
    missing.functions += signal.functions
    return [missing.values.parameter(x.shape, x.dtype) for x in leaves]
