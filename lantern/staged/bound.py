"""`Compiled.bind`: a compiled function whose first arguments stay the same, call after call.

To take a model's parameters apart, compare their kinds and look up where each lies costs about a
microsecond an array, and to see that no variable has changed that the function reads as much for
each of those: together that may be as long as a small step. Here it is done once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lantern.errors import ArgumentError
from lantern.staged.given import Given, alike

if TYPE_CHECKING:
    from lantern.staged.compiled import Compiled
    from lantern.staged.specialization import Executable, Specialization

PyTree = Any


class Known(NamedTuple):
    """A specialization, and for which further arguments it is."""

    rest: Given
    one: Specialization
    execute: Executable


class Bound:
    """A function of the arguments that are left; see `Compiled.bind`."""

    def __init__(self, compiled: Compiled, args: tuple[PyTree, ...]) -> None:
        self.compiled, self.args = compiled, args
        self.first = compiled.given(args, {})
        self.known: Known | None = None
        chosen = compiled.options
        count = len(args)
        if chosen.static:
            raise ArgumentError(
                f"{compiled.__name__}.bind: a function with static arguments cannot be bound; "
                "values that are no arrays are static anyway"
            )
        if any(p < count for p in chosen.donate.positions):
            raise ArgumentError(f"{compiled.__name__}.bind: a donated argument cannot be bound")

    def __repr__(self) -> str:
        return f"{self.compiled!r} with {len(self.args)} arguments bound"

    def __call__(self, *args: PyTree, **kwargs: PyTree) -> PyTree:
        rest = self.compiled.given(args, kwargs)
        if rest.inside or self.first.inside:
            return self.compiled(*self.args, *args, **kwargs)
        known = self.known
        if known is None or not fits(known, rest):
            known = self.known = self.specialized(rest, args, kwargs)
        # In front of the others in their own list: a further list would hold what is donated, too.
        rest.values[:0] = self.first.values
        rest.leaves[:0] = self.first.leaves
        return self.compiled.perform(known.one, known.execute, rest)

    def specialized(
        self, rest: Given, args: tuple[PyTree, ...], kwargs: dict[str, PyTree]
    ) -> Known:
        """The specialization for these arguments, and what runs it with the first ones as bound."""
        one = self.compiled.specialize(self.compiled.given((*self.args, *args), kwargs))
        run = one.run or one.ready(self.compiled.executable(one))
        starting = getattr(one.execute, "starting", None)  # of a backend that gains by it
        first = self.compiled.taken(self.first.values)
        execute = starting(first) if starting else run
        # What is compared later holds no arrays, which would keep others from giving them away.
        return Known(rest._replace(leaves=[], values=[]), one, execute)


def fits(known: Known, rest: Given) -> bool:
    """Whether a specialization is for such further arguments."""
    seen = known.rest
    return (
        seen.structure == rest.structure
        and seen.kinds == rest.kinds
        and seen.checked == rest.checked
        and alike(seen.statics, rest.statics)
    )
