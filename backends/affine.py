"""Positions as sums of loop variables, so that the addresses of views compose before any code is
written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True)
class Var:
    """A loop variable, 0 ≤ value < extent: the ``position``-th factor of the axis ``axis``."""

    name: str
    extent: int
    axis: str = ""
    position: int = 0


class SplitAxis(Exception):
    """The loop over ``var`` should be two loops, the inner one of length ``inner``."""

    def __init__(self, var: Var, inner: int) -> None:
        super().__init__(f"{var.name} by {inner}")
        self.var = var
        self.inner = inner


@dataclass(frozen=True, slots=True)
class Affine:
    """``const`` plus each variable times its coefficient."""

    const: int = 0
    terms: tuple[tuple[Var, int], ...] = ()

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for var, factor in other.terms:
            terms[var] = terms.get(var, 0) + factor
        return make(self.const + other.const, terms)

    def scaled(self, factor: int) -> Affine:
        """This times an integer."""
        return make(self.const * factor, {v: c * factor for v, c in self.terms})

    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value."""
        low = high = self.const
        for var, factor in self.terms:
            reach = factor * (var.extent - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def divided(self, n: int) -> tuple[Affine, Affine] | None:
        """Quotient and remainder by ``n``, where both are affine.

        Raises:
            SplitAxis: they are once a loop is split.
        """
        whole = {v: c for v, c in self.terms if c % n == 0}
        rest = {v: c for v, c in self.terms if c % n}
        quotient, remainder = divmod(self.const, n)
        low = make(remainder, rest)
        first, last = low.bounds()
        if first >= 0 and last < n:
            return make(quotient, {v: c // n for v, c in whole.items()}), low
        for var, factor in rest.items():
            inner = n // factor if factor > 0 and n % factor == 0 else 0
            if var.axis and 1 < inner < var.extent and var.extent % inner == 0:
                raise SplitAxis(var, inner)
        return None


def make(const: int, terms: dict[Var, int]) -> Affine:
    """The normal form: variables in the order of their names, none times 0."""
    kept = [(v, c) for v, c in terms.items() if c and v.extent > 1]
    return Affine(const, tuple(sorted(kept, key=lambda t: t[0].name)))


@dataclass(frozen=True, slots=True)
class View:
    """A strided box in the row-major positions of an array: for each axis a length and a stride."""

    offset: int
    axes: tuple[tuple[int, int], ...]

    def merged(self) -> View:
        """The same positions by as few axes as possible."""
        axes: list[tuple[int, int]] = []
        for n, stride in self.axes:
            if n == 1:
                continue
            if axes and axes[-1][1] == stride * n:
                axes[-1] = (axes[-1][0] * n, stride)
            else:
                axes.append((n, stride))
        return View(self.offset, tuple(axes))

    def through(
        self, position: Affine, quotient: Callable[[Affine, int], tuple[Affine, Affine]]
    ) -> Affine:
        """The position in the array of what the view has at a position.

        Args:
            position: row-major, in the view.
            quotient: gives quotient and remainder of a position.
        """
        if any(n == 0 for n, _ in self.axes):
            return Affine()  # in a loop that never runs
        view = self.merged()
        result = Affine(view.offset)
        for i, (n, stride) in reversed(list(enumerate(view.axes))):
            place = position
            if i > 0:
                position, place = quotient(position, n)
            result = result + place.scaled(stride)
        return result


def strides(shape: Sequence[int]) -> list[int]:
    """Row-major strides, in elements."""
    result = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        result[i] = result[i + 1] * shape[i + 1]
    return result
