"""Functions of Python's that rewritten code calls by other ones, which know values of a program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lantern.ops.elementwise import maximum, minimum
from lantern.syntax.calls import rewritten
from lantern.syntax.iterables import enumerate_, range_, zip_
from lantern.syntax.truth import is_staged


def map_(f: Callable[..., Any], *iterables: Any) -> Any:
    """``map``."""
    return map(rewritten(f), *iterables)


def filter_(f: Callable[..., Any] | None, iterable: Any) -> Any:
    """``filter``."""
    return filter(f and rewritten(f), iterable)


def reduce_(f: Callable[..., Any], *args: Any) -> Any:
    """`functools.reduce`."""
    return functools.reduce(rewritten(f), *args)


def max_(*args: Any, **options: Any) -> Any:
    """``max``."""
    if len(args) > 1 and not options and any(map(is_staged, args)):
        return functools.reduce(maximum, args)
    return max(*args, **options)


def min_(*args: Any, **options: Any) -> Any:
    """``min``."""
    if len(args) > 1 and not options and any(map(is_staged, args)):
        return functools.reduce(minimum, args)
    return min(*args, **options)


IN_PLACE_OF: dict[Any, Callable[..., Any]] = {
    range: range_,
    enumerate: enumerate_,
    zip: zip_,
    map: map_,
    filter: filter_,
    functools.reduce: reduce_,
    max: max_,
    min: min_,
}
