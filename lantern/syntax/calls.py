"""Where a function of the user's is called: `rewritten`, light enough to be imported by all that
does so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from lantern.kinds import DType, default_float, is_floating, promote
from lantern.syntax.libraries import is_library, package_of


class Here(NamedTuple):
    """What holds while a function is written.

    Attributes:
        package: that of the function, which counts as the user's even where it is installed.
        floating: the dtype of a float of Python's that becomes an array where no array is beside
            it: that of the floats that the program is given.
    """

    package: str
    floating: DType = default_float


_here: ContextVar[Here | None] = ContextVar("here", default=None)


@contextmanager
def rewriting(on: bool, f: Callable[..., Any], kinds: Iterable[Any]) -> Iterator[None]:
    """A context in which functions are, or are not, rewritten when they are called.

    Args:
        on: whether they are.
        f: the function that is compiled.
        kinds: the shapes and dtypes of what it is given, None for what is no array.
    """
    floats = {kind[1] for kind in kinds if kind is not None and is_floating(kind[1])}
    dtype = functools.reduce(promote, floats) if floats else default_float
    token = _here.set(Here(package_of(f), dtype) if on else None)
    try:
        yield
    finally:
        _here.reset(token)


def floating_here() -> DType:
    """See `Here.floating`."""
    here = _here.get()
    return default_float if here is None else here.floating


def is_users(module: Any) -> bool:
    """Whether functions of a module are rewritten."""
    here = _here.get()
    ours = here is not None and here.package and (module or "").partition(".")[0] == here.package
    return bool(ours) or not is_library(module)


def rewritten(f: Callable[..., Any]) -> Callable[..., Any]:
    """What is called in place of a function while a program is written: the same with control flow
    over values of the program. Elsewhere, and of libraries, the function itself."""
    if _here.get() is None:
        return f
    from lantern.syntax.functions import in_place_of  # when something is staged

    return in_place_of(f)
