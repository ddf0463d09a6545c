"""Where a function of the user's is called: `rewritten`, light enough to be imported by all that
does so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_rewriting: ContextVar[bool] = ContextVar("rewriting", default=False)


@contextmanager
def rewriting(on: bool) -> Iterator[None]:
    """A context in which functions are, or are not, rewritten when they are called."""
    token = _rewriting.set(on)
    try:
        yield
    finally:
        _rewriting.reset(token)


def rewritten(f: Callable[..., Any]) -> Callable[..., Any]:
    """What is called in place of a function while a program is written: the same with control flow
    over values of the program. Elsewhere, and of libraries, the function itself."""
    if not _rewriting.get():
        return f
    from lantern.syntax.functions import in_place_of  # when something is staged

    return in_place_of(f)
