"""What is ambient while a program is written: the trace, and where steps go."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from lantern.places import recording, staging, writing

if TYPE_CHECKING:
    from staging.ir import Op


class Trace:
    """The program that is being written.

    Attributes:
        blocks: what `lantern.outline` has recorded so far.
        fingerprints: of the functions of these blocks, as they were last.
        written: the operations so far.
    """

    def __init__(self) -> None:
        self.blocks: dict[Hashable, Any] = {}
        self.fingerprints: dict[Callable[..., Any], Any] = {}
        self.written: list[Op] = []


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current_trace() -> Trace | None:
    """The program that is being written here, if there is one."""
    return _trace.get()


@contextmanager
def tracing() -> Iterator[Trace]:
    """A context in which loops are recorded instead of run."""
    trace = Trace()
    token, before = _trace.set(trace), staging.set(True)
    try:
        yield trace
    finally:
        staging.reset(before)
        _trace.reset(token)


@contextmanager
def not_recording(stage: Any = None) -> Iterator[None]:
    """A context in which what is done with tensors of a program is written where they belong, and
    what no operand leads to a program, such as a call on constants, into a stage."""
    token, before = recording.set(None), writing.set(stage)
    try:
        yield
    finally:
        writing.reset(before)
        recording.reset(token)
