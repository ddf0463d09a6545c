"""What has been written is taken back, where it turns out that it has to be written otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lantern.errors import LanternError
from lantern.places import recording
from lantern.syntax.branching import Names
from lantern.syntax.outcomes import Outcome
from lantern.syntax.variables import Variables
from lantern.traces import current_trace
from staging.passes.dead import has_effect


class Undo:
    """Takes back the effects of all that is written from now on; what has none, and that nobody
    reads, goes by itself."""

    def __init__(self) -> None:
        self.region, trace = recording.get(), current_trace()
        self.written: list[Any] = [] if trace is None else trace.written
        self.start = self.here()

    def here(self) -> int:
        """How much has been written."""
        return len(self.written if self.region is None else self.region.steps)

    def __call__(self, end: int | None = None) -> None:
        if self.region is not None:
            del self.region.steps[self.start : end]
        else:
            some = self.written[self.start : end]
            self.written[self.start : end] = [op for op in some if not has_effect(op)]


class Trial:
    """A step of a loop that Python runs, which may have to become one of a loop of the program.

    Attributes:
        variables: those that the loop binds.
        before: what they held before it.
    """

    def __init__(self, holders: Iterable[Any], names: Names) -> None:
        self.variables = Variables(holders, names.bound)
        self.before, self.undo = self.variables.read(), Undo()

    def instead(self, write: Callable[[], Outcome]) -> Outcome | None:
        """Write something else in place of the step; None, and all is as it was behind the step,
        where that cannot be done: the first step is unlike the others then."""
        end, behind = self.undo.here(), self.variables.read()
        self.variables.write(self.before)
        try:
            outcome = write()
        except LanternError:
            self.variables.write(behind)
            return None
        self.undo(end)
        return outcome
