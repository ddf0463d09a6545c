"""Where a function of the user's is called: `rewritten`, light enough to be imported by all that
does so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lantern.kinds import DType, default_float, is_floating, promote

_rewriting: ContextVar[bool] = ContextVar("rewriting", default=False)
_floating: ContextVar[DType] = ContextVar("floating", default=default_float)


@contextmanager
def rewriting(on: bool, arrays: Iterable[Any]) -> Iterator[None]:
    """A context in which functions are, or are not, rewritten when they are called.

    Args:
        on: whether they are.
        arrays: the shapes and dtypes of what the program is given, None for what is no array.
    """
    floats = {kind[1] for kind in arrays if kind is not None and is_floating(kind[1])}
    dtype = functools.reduce(promote, floats) if floats else default_float
    tokens = _rewriting.set(on), _floating.set(dtype)
    try:
        yield
    finally:
        _rewriting.reset(tokens[0])
        _floating.reset(tokens[1])


def floating_here() -> DType:
    """The dtype of a float of Python's that becomes an array where no array is beside it: that of
    the floats that the program is given."""
    return _floating.get()


def rewritten(f: Callable[..., Any]) -> Callable[..., Any]:
    """What is called in place of a function while a program is written: the same with control flow
    over values of the program. Elsewhere, and of libraries, the function itself."""
    if not _rewriting.get():
        return f
    from lantern.syntax.functions import in_place_of  # when something is staged

    return in_place_of(f)
