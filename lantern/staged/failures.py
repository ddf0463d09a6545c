"""What goes wrong in a program that runs, as the error that the eager function raises."""

from __future__ import annotations

from lantern.errors import (
    AssertionFailedError,
    FrameMemoryError,
    IndexRangeError,
    LanternError,
    LimitError,
    NonFiniteError,
)
from lantern.primitives.decompositions import LinAlgError
from staging.failures import (
    AssertionFailure,
    Failure,
    FrameFailure,
    LimitFailure,
    MatrixFailure,
    RequirementFailure,
)


def eager(problem: Exception) -> Exception:
    """The error of the same name and message, at the line of the operation that failed."""
    if not isinstance(problem, Failure):
        return problem
    kinds: dict[type, type[LanternError]] = {
        AssertionFailure: AssertionFailedError,
        FrameFailure: FrameMemoryError,
        LimitFailure: LimitError,
        MatrixFailure: LinAlgError,
        RequirementFailure: NonFiniteError,
    }
    error = kinds.get(type(problem), IndexRangeError)(problem.message)
    error.place = problem.place
    return error
