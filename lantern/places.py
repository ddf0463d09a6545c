"""Which of the user's lines an operation of a staged program belongs to.

The forward half of a rule runs below the line that the user wrote. Its backward half runs below
the call of `grad`, which would say nothing: so while a program is staged, a prompt keeps the line
of each suspended rule, and says which one it resumes.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

from lantern.errors import is_ours

staging: ContextVar[bool] = ContextVar("staging", default=False)
resumed: ContextVar[str] = ContextVar("resumed", default="")
BACKWARD = " (backward)"


def place() -> str:
    """The user's line, as ``file:line``, or ``file:line (backward)``.

    It is the innermost one outside lantern: in a backward half, of the rule or the recomputed
    function where that is the user's own, else of the operation that is being resumed.
    """
    resuming = resumed.get()
    frame = sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        if resuming and frame.f_code.co_name == "unwind":  # `Reverse.unwind`
            return resuming
        frame = frame.f_back
    here = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return here + BACKWARD if resuming else here


def backward(forward: str) -> str:
    """The place of the backward half of what stands at a place."""
    return forward if forward.endswith(BACKWARD) else forward + BACKWARD
