"""Functions that call themselves where a value of the program decides: they become recursive ones.

While a function is written it may call itself. Where Python decides how often, that ends by itself.
Where the program decides, it would not: so a call with arguments like those of one that is being
written, from within a branch or loop of that, is where recursion begins. The outer call is then
written once more, as a call of a `lantern.recursive` function, which the inner ones are too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import lantern.recursion
from lantern import tree
from lantern.control import box
from lantern.errors import StagingError
from lantern.kinds import is_number
from lantern.places import recording
from lantern.regions import Recording
from lantern.syntax.joining import Mismatch, as_kind, is_array, meeting, same
from lantern.syntax.trials import Undo

Function = Callable[..., Any]
LIMIT = 32  # calls within each other that differ in Python numbers only


class Call:
    """A call that is being written.

    Attributes:
        f: the user's function.
        leaves: of its arguments.
        structure: of these.
        region: in which it stands.
    """

    def __init__(self, f: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves, self.structure = tree.flatten((args, kwargs))
        self.f, self.leaves = f, [box(x) for x in leaves]
        self.region: Recording | None = recording.get()

    def within(self, outer: Call) -> bool:
        """Whether this call of the same function stands in a branch or loop of an outer one."""
        alike = self.f is outer.f and self.structure == outer.structure
        return alike and self.region is not outer.region

    def repeats(self, outer: Call, numbers: bool = False) -> bool:
        """Whether its arguments are those of an outer call but for the elements of arrays, and, if
        so wanted, for numbers."""
        return all(
            _alike(old, new, numbers) for old, new in zip(outer.leaves, self.leaves, strict=True)
        )


class Repeated(BaseException):
    """A call that is to be written as one of a recursive function; no error, but a signal.

    Attributes:
        outer: the call.
        inner: one that repeats it.
    """

    def __init__(self, outer: Call, inner: Call) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner


def _alike(old: Any, new: Any, numbers: bool) -> bool:
    if is_array(old) or is_array(new):
        try:
            kind = meeting([old, new])
        except Mismatch:
            return False
        return not is_array(old) or kind == (old.shape, old.dtype)
    return same(old, new) or (numbers and is_number(old) and is_number(new))


_calls: ContextVar[tuple[Call, ...]] = ContextVar("calls", default=())
_recursive: ContextVar[dict[Function, Function]] = ContextVar("recursive", default={})  # noqa: B039


def watched(f: Function, run: Function) -> Function:
    """A function of the user's, to be called while a program is written.

    Args:
        f: the function.
        run: what runs in place of it.
    """
    if f in _recursive.get():
        return _recursive.get()[f]

    def called(*args: Any, **kwargs: Any) -> Any:
        call = Call(f, args, kwargs)
        around = _calls.get()
        outer = [c for c in around if call.within(c)]
        for c in outer:
            if call.repeats(c):
                raise Repeated(c, call)
        if len(outer) >= LIMIT and call.repeats(outer[0], numbers=True):
            raise Repeated(outer[0], call)
        token = _calls.set((*around, call))
        undo = Undo()
        try:
            return run(*args, **kwargs)
        except Repeated as signal:
            if signal.outer is not call:
                raise
            inner = signal.inner
        finally:
            _calls.reset(token)
        undo()
        return _Recursive(call, run).written(inner)

    return called


class _Recursive:
    """A call, to be written as one of a recursive function.

    Attributes:
        call: it.
        run: what runs in place of the user's function.
        fixed: the positions of the leaves of the arguments that are the same in all calls: the
            recursive function closes over these.
        kinds: shape and dtype of those that are arrays in some calls and numbers in others.
    """

    def __init__(self, call: Call, run: Function) -> None:
        self.call, self.run = call, run
        self.fixed = set(range(len(call.leaves)))
        self.kinds: dict[int, Any] = {}

    def written(self, inner: Call) -> Any:
        """The result of the call, given one that repeats it."""
        for _ in range(2 * len(self.call.leaves) + 2):
            self.meet(inner)
            self.function = lantern.recursion.recursive(self.body())
            token = _recursive.set({**_recursive.get(), self.call.f: self.called})
            try:
                return self.perform(self.call)
            except Repeated as signal:
                if signal.outer is not self.call:
                    raise
                inner = signal.inner
            finally:
                _recursive.reset(token)
        raise StagingError(f"{self.name}: the kinds of the arguments of its calls do not settle")

    @property
    def name(self) -> str:
        """The name of the user's function."""
        return getattr(self.call.f, "__name__", "the function")

    def meet(self, inner: Call) -> None:
        """Learn from a call which arguments differ."""
        for i, (old, new) in enumerate(zip(self.call.leaves, inner.leaves, strict=True)):
            if not same(old, new):
                self.fixed.discard(i)
            if i not in self.fixed and all(is_array(x) or is_number(x) for x in (old, new)):
                known = self.kinds.get(i)
                values = [old, new] if known is None else [as_kind(old, known[1]), new]
                self.kinds[i] = meeting(values)

    def called(self, *args: Any, **kwargs: Any) -> Any:
        """A call from within."""
        call = Call(self.call.f, args, kwargs)
        if call.structure != self.call.structure:
            raise StagingError(
                f"{self.name} calls itself with arguments of another structure: {call.structure}, "
                f"not {self.call.structure}"
            )
        fits = all(same(self.call.leaves[i], call.leaves[i]) for i in self.fixed)
        if not fits or any(not self.takes(i, x) for i, x in enumerate(call.leaves)):
            raise Repeated(self.call, call)
        return self.perform(call)

    def takes(self, i: int, x: Any) -> bool:
        """Whether a leaf is of the kind that is known of its position."""
        if i not in self.kinds or is_array(x):
            return True
        return is_number(x) and meeting([as_kind(0, self.kinds[i][1]), x]) == self.kinds[i]

    def perform(self, call: Call) -> Any:
        """A call of the recursive function."""
        leaves = [
            as_kind(x, self.kinds[i][1]) if i in self.kinds and is_number(x) else x
            for i, x in enumerate(call.leaves)
            if i not in self.fixed
        ]
        return self.function(*leaves)

    def body(self) -> Function:
        """The user's function, of the leaves of its arguments that differ, under its own name."""

        def body(*varying: Any) -> Any:
            some = iter(varying)
            leaves = [x if i in self.fixed else next(some) for i, x in enumerate(self.call.leaves)]
            args, kwargs = tree.unflatten(self.call.structure, leaves)
            return self.run(*args, **kwargs)

        body.__name__ = self.name
        return body
