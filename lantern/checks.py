"""Where a nan or an infinity comes from: what `lantern.debug.check_nans` looks at."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lantern.errors import NonFiniteError, describe
from lantern.places import Here, here, place

Rest = Generator[Any, Any, Any]
FINITE, INFINITE, NAN = 0, 1, 2
NAMES = ("", "an infinity", "a nan")


def worst(values: Any) -> int:
    """Whether there is a nan among the elements of an array, or of several, or an infinity."""
    if type(values) in (tuple, list):
        return max(map(worst, values), default=FINITE)
    if isinstance(values, float):
        values = np.float64(values)
    if not isinstance(values, (np.ndarray, np.generic)) or values.dtype.kind in "biu":
        return FINITE  # what is not there yet is checked one level down, where it is
    if np.isfinite(values).all():
        return FINITE
    return NAN if np.isnan(values).any() else INFINITE


class Check:
    """Compares what an operation gives with what it was given."""

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[Rest, int] = WeakKeyDictionary()

    def computed(
        self, name: str, values: Sequence[Any], out: Any, rest: Rest | None = None
    ) -> None:
        """An operation has computed ``out``; its backward half, if any, is in ``rest``.

        Raises:
            NonFiniteError: it is worse than the operands.
        """
        before, after = worst(list(values)), worst(out)
        if after > before:
            raise self.error(f"{name}({', '.join(map(describe, values))})", after, out)
        if rest is not None:
            self.known[rest] = before

    def arrived(self, name: str, rest: Rest, adjoint: Any, total: Any) -> None:
        """The backward half of an operation has added to an adjoint of an operand.

        Raises:
            NonFiniteError: what has arrived there is worse than the adjoint that it was given, and
                than its operands.
        """
        after = worst(total)
        if after > max(worst(adjoint), self.known.get(rest, FINITE)):
            parts = adjoint if type(adjoint) is tuple else (adjoint,)
            shown = ", ".join(describe(part) for part in parts if part is not None)
            raise self.error(f"the backward half of {name}, for the adjoint {shown},", after, total)

    def error(self, what: str, found: int, out: Any) -> NonFiniteError:
        """The error that says what gave a nan or an infinity, and where."""
        parts = out if type(out) is tuple else (out,)
        part = np.asarray(next(p for p in parts if worst(p) == found))
        bad = np.isnan(part) if found == NAN else np.isinf(part)
        at = list(map(int, np.unravel_index(int(np.argmax(bad)), part.shape)))
        error = NonFiniteError(
            f"{what} gives {part[tuple(at)]} at {at} of {describe(part)}; "
            f"nothing that it reads has {NAMES[found]}{' or a nan' if found == INFINITE else ''}"
        )
        if here.get() != Here():
            error.place = place()
        return error


checks: ContextVar[Check | None] = ContextVar("checks", default=None)


@contextmanager
def checking() -> Iterator[None]:
    """A context in which everything is checked."""
    token = checks.set(Check())
    try:
        with np.errstate(all="ignore"):  # the error says more than the warning
            yield
    finally:
        checks.reset(token)
