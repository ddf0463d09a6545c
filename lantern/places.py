"""Which of the user's lines an operation of a staged program belongs to.

The forward half of a rule runs below the line that the user wrote. Its backward half runs below
the call of `grad`, which would say nothing: so while a program is staged, a prompt keeps the line
of each suspended rule, and says which one it resumes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from lantern.errors import is_ours

BACKWARD = " (backward)"


class Here(NamedTuple):
    """What runs now, where the stack of Python does not tell.

    Attributes:
        written: the line of a recorded step that is being performed.
        resumed: the line, marked, of a suspended rule that is being resumed.
    """

    written: str = ""
    resumed: str = ""


staging: ContextVar[bool] = ContextVar("staging", default=False)
writing: ContextVar[Any] = ContextVar("writing", default=None)  # the `Stage` of a block's program
recording: ContextVar[Any] = ContextVar("recording", default=None)  # the innermost `Recording`
here: ContextVar[Here] = ContextVar("here", default=Here())  # noqa: B039  # it is immutable


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """A context for a step that was recorded at a place."""
    token = here.set(Here(written=place))
    try:
        yield
    finally:
        here.reset(token)


def place() -> str:
    """The user's line, as ``file:line``, or ``file:line (backward)``.

    It is the innermost one outside lantern: in a backward half, of the rule or the recomputed
    function where that is the user's own, else of the operation that is being resumed.
    """
    written, resuming = here.get()
    if written:
        return written
    frame = sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        if resuming and frame.f_code.co_name == "unwind":  # `Reverse.unwind`
            return resuming
        frame = frame.f_back
    line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return line + BACKWARD if resuming else line


def backward(forward: str) -> str:
    """The place of the backward half of what stands at a place."""
    return forward if forward.endswith(BACKWARD) else forward + BACKWARD
