"""Reverse-mode differentiation by delimited continuations.

A *primitive* is a generator with one ``yield``::

    def multiply(x, y):
        dz = yield x * y
        return lambda: dz * y, lambda: dz * x

Up to the ``yield`` stands what the operation computes; the ``yield`` hands its result to *the rest
of the program* and suspends; when the rest has run, up to the enclosing *prompt*, the generator is
resumed with the adjoint ``dz`` of its result and returns the adjoints of its arguments. This is
Wang et al. (ICFP 2019), section 3: ``shift`` captures the continuation, calls it, and then runs
the adjoint statements. Here the primitive need not call its continuation, because returning to the
caller *is* calling it: what remains of ``shift`` is the suspended generator on the prompt's stack
(`Reverse.handle`), and what remains of ``reset`` is resuming those generators last in, first out
(`Reverse.unwind`). There is no tape: nothing describes what was computed; there is only code that
has not finished running.

Three things make it whole:

* A `Tensor` that is being differentiated carries its prompt. Prompts are ordered by ``level``, and
  an operation belongs to the innermost prompt among its operands. Its rule then runs on values
  *one level down*, so derivatives nest to any order and cannot be confused: each prompt knows its
  own tensors.
* Adjoints live in a table of the prompt. A missing entry is a zero, and a rule whose result has
  none is never resumed. An adjoint may be returned as a thunk, which runs only if its argument
  wants it.
* Un-broadcasting and accumulation are `Reverse.accumulate`, and nowhere else.

Forward mode (`lantern.forward`) and batching (`lantern.batch`) are two more kinds of prompt over
the same definitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from lantern.checks import checks
from lantern.declare import Deferred, declared_rule
from lantern.errors import RuleError, describe, explain
from lantern.places import Here, backward, here, place, recording, staging
from lantern.ragged import Ragged, zeros
from lantern.symbol import Symbol
from lantern.tensor import Tensor

Rule = Callable[..., Generator[Any, Any, Any]]
Rest = Generator[Any, Any, Any]
Variable = tuple[int, tuple[int, ...], Any]
"""The mark of a tensor in reverse mode: its slot in the table of adjoints, its shape, its dtype."""
ARRAYS = (np.ndarray, np.generic, Symbol, Ragged)
"""What a Tensor holds that no prompt holds."""


class Primitive:
    """An operation: what it computes, its rule, and how it acts on a batch.

    Attributes:
        name: as it appears in errors.
        kernel: the computation on NumPy arrays; None where the rule's own forward half serves.
        rule: a generator function; None where the derivative is zero or the result is discrete.
        batch: ``batch(perform, size, mapped, *values, **params)`` computes all of a batch at once;
            the batch axis leads in the values that are mapped and in the result. None to run the
            rule's generator itself on batched tensors.
        linear: whether the backward half is linear in the adjoint; forward mode relies on it.
        boxed: whether the rule is written on Tensors (a user's), not on bare values.
        selective: whether the rule takes the static parameter ``wanted``, the positions of the
            arguments whose adjoints are wanted.
        effect: whether it does more than compute its result, so that it is performed although
            nothing reads that.
        sparse: whether the rule is resumed with None for the adjoint of a result, of several, that
            nobody asked for; others are with zeros.
    """

    __slots__ = (
        "batch", "boxed", "effect", "kernel", "linear", "name", "rule", "selective", "sparse",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any] | None,
        rule: Rule | None,
        batch: Callable[..., Any] | None = None,
        linear: bool = True,
        boxed: bool = False,
        selective: bool = False,
        effect: bool = False,
        sparse: bool = False,
    ) -> None:
        self.name, self.kernel, self.rule = name, kernel, rule
        self.batch, self.linear, self.boxed, self.selective = batch, linear, boxed, selective
        self.effect, self.sparse = effect, sparse

    def __repr__(self) -> str:
        return f"Primitive({self.name})"

    def perform(self, *args: Any, **params: Any) -> Any:
        """Perform the primitive: arrays positional, static parameters by keyword."""
        prompts = [a.prompt for a in args if type(a) is Tensor and a.prompt is not None]
        if not prompts:
            return evaluate(self, args, params)
        return max(prompts, key=lambda p: p.level).handle(self, args, params)


def primitive(
    kernel: Callable[..., Any], *, batch: Callable[..., Any] | None
) -> Callable[[Rule], Callable[..., Any]]:
    """Declare a built-in primitive from its NumPy kernel and, below the decorator, its rule."""

    def declare(rule: Rule) -> Callable[..., Any]:
        return bound(Primitive(rule.__name__, kernel, declared_rule(rule), batch), rule)

    return declare


def discrete(
    name: str, kernel: Callable[..., Any], *, batch: Callable[..., Any]
) -> Callable[..., Any]:
    """Declare a primitive without a derivative: its result is discrete or piecewise constant."""
    return bound(Primitive(name, kernel, None, batch))


def bound(prim: Primitive, like: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The function that performs ``prim``: arrays positional, static parameters by keyword.

    The primitive itself is its attribute ``primitive``; name and documentation are those of
    ``like``.
    """

    def perform(*args: Any, **params: Any) -> Any:  # Primitive.perform at half its cost
        innermost, level = None, 0
        for a in args:
            if type(a) is Tensor and (p := a.prompt) is not None and p.level > level:
                innermost, level = p, p.level
        if innermost is None:
            return evaluate(prim, args, params)
        return innermost.handle(prim, args, params)

    if like is not None:  # not functools.wraps: behind it stands a generator, not a function
        perform.__doc__, perform.__module__ = like.__doc__, like.__module__
    perform.__name__ = perform.__qualname__ = prim.name
    perform.primitive = prim  # type: ignore[attr-defined]  # a function takes any attribute
    return perform


def evaluate(prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Compute where no prompt is involved; on a Symbol, write the computation into its stage.

    Bare values give bare values; a Tensor among them gives Tensors.
    """
    wrap = False
    stage = None
    values = []
    for a in args:
        if type(a) is Tensor:
            wrap = True
            a = a.value
        if type(a) is Symbol:
            stage = a.stage
        values.append(a)
    if stage is not None and wrap:
        region = recording.get()
        if region is not None and region.types is not stage:
            return region.handle(prim, args, params)  # from outside the body that is recorded
    if prim.kernel is None:
        rest, out = suspend(prim, values, params)
        rest.close()
        many = type(out) is tuple
        for v in out if many else (out,):
            if type(v) is Tensor and v.prompt is not None:  # none of the arguments belongs to it
                v.prompt.refuse_captured(prim, (v,))
        if not wrap:
            return out
        return tuple(map(box, out)) if many else box(out)
    if stage is not None:
        out = stage.perform(prim, values, params)
    else:
        try:
            out = prim.kernel(*values, **params)
        except (ValueError, TypeError, IndexError) as problem:
            raise explain(prim.name, tuple(values), problem) from None
        if (check := checks.get()) is not None:
            check.computed(prim.name, values, out)
    if not wrap:
        return out
    return tuple(map(Tensor, out)) if type(out) is tuple else Tensor(out)


def suspend(prim: Primitive, values: Sequence[Any], params: dict[str, Any]) -> tuple[Rest, Any]:
    """Run a rule to its ``yield``. Returns the reified rest, to be resumed once, and the result."""
    if prim.boxed:
        values = [box(v) for v in values]
    rule = prim.rule
    if isinstance(rule, Deferred):
        prim.rule = rule = rule.ready()
    rest = rule(*values, **params)  # type: ignore[misc]  # callers have seen that there is one
    try:
        out = next(rest)
    except StopIteration:
        raise RuleError(f"rule {prim.name} returned without a yield") from None
    except (ValueError, TypeError, IndexError) as problem:
        if prim.boxed:  # a user's own code: its error is its own
            raise
        raise explain(prim.name, tuple(values), problem) from None
    if prim.boxed:
        out = tuple(bare(v, prim) for v in out) if type(out) is tuple else bare(out, prim)
    if (check := checks.get()) is not None:
        check.computed(prim.name, values, out, rest)
    return rest, out


def bare(x: Any, prim: Primitive) -> Any:
    """What a user's rule yields, one level down."""
    x = unbox(x)
    if not isinstance(x, (Tensor, *ARRAYS)):
        raise RuleError(
            f"rule {prim.name} yielded {describe(x)}; expected a Tensor or a tuple of Tensors"
        )
    return x


def resume(prim: Primitive, rest: Rest, arity: int, adjoint: Any) -> tuple[Any, ...]:
    """Run the backward half: from the adjoint(s) of the result to one adjoint for each argument."""
    if prim.boxed:
        adjoint = tuple(map(box, adjoint)) if type(adjoint) is tuple else box(adjoint)
    try:
        rest.send(adjoint)
    except StopIteration as finished:
        adjoints = finished.value
    else:
        rest.close()
        raise RuleError(f"rule {prim.name} yielded twice; a continuation is resumed once")
    if type(adjoints) is not tuple:
        adjoints = tuple(adjoints) if isinstance(adjoints, (tuple, list)) else (adjoints,)
    if prim.boxed:
        adjoints = tuple(thunk(a) if callable(a) else a for a in adjoints)
    if len(adjoints) != arity:
        raise RuleError(
            f"rule {prim.name} returned {len(adjoints)} adjoints for {arity} arguments; return one "
            "for each positional argument, None where there is none"
        )
    return adjoints


def thunk(compute: Callable[[], Any]) -> Callable[[], Any]:
    """A callable of a user's, such as a `functools.partial`, as a function."""
    return compute if type(compute) is FunctionType else lambda: compute()


def box(x: Any) -> Any:
    """A bare array as a Tensor; Tensors and Python values as they are."""
    return Tensor(x) if isinstance(x, ARRAYS) else x


def unbox(x: Any) -> Any:
    """A Tensor that no prompt holds as its bare array; anything else as it is."""
    return x.value if type(x) is Tensor and x.prompt is None else x


class Prompt:
    """The delimiter of a transformation; levels grow inwards, and the innermost one handles."""

    __slots__ = ("level",)
    levels = itertools.count(1)

    def __init__(self) -> None:
        self.level = next(self.levels)

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """Perform a primitive, some of whose operands are tensors of this prompt."""
        raise NotImplementedError  # every kind of prompt defines its own

    def shape_of(self, value: Any) -> tuple[int, ...]:
        """The shape that a Tensor of this prompt shows, given its value one level down."""
        return value.shape

    def peek(self, x: Tensor, what: str) -> Any:
        """The value of a tensor of this prompt, where a program reads it out."""
        return x.value

    def lower(self, args: Sequence[Any]) -> list[Any]:
        """Operands one level down: tensors of this prompt, and free ones, give up their values."""
        return [
            a.value if type(a) is Tensor and (a.prompt is self or a.prompt is None) else a
            for a in args
        ]

    def passthrough(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """Perform one level down a primitive without a derivative: no concern of this prompt."""
        out = prim.perform(*self.lower(args), **params)
        return tuple(map(box, out)) if type(out) is tuple else box(out)

    def refuse_captured(self, prim: Primitive, values: Sequence[Any]) -> None:
        """Raise if a rule, which runs one level down, made a tensor of this prompt."""
        if any(type(v) is Tensor and v.prompt is self for v in values):
            raise RuleError(
                f"rule {prim.name} closes over a Tensor that {self} differentiates; a rule sees "
                f"derivatives of its positional arguments only: pass it as one"
            )


class Reverse(Prompt):
    """A prompt for reverse mode: a stack of suspended rules and a table of adjoints."""

    __slots__ = ("adjoints", "places", "slots", "stack", "tables")

    def __init__(self) -> None:
        super().__init__()
        # The user's line for each entry of the stack, where it may be asked for.
        self.places: list[str] | None = [] if staging.get() or checks.get() else None
        self.stack: list[tuple[Primitive, Rest, Any, int, list[tuple[int, Variable]]]] = []
        self.adjoints: dict[int, Any] = {}
        self.tables: set[int] = set()  # slots whose adjoint nobody else can see: a Scatter made it
        self.slots = itertools.count()  # its steps are atomic: threads may share a prompt

    def __repr__(self) -> str:
        return "grad"

    def variable(self, value: Any) -> Tensor:
        """A tensor of this prompt: a value one level down and a fresh slot for its adjoint."""
        return Tensor(value, self, (next(self.slots), value.shape, value.dtype))

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """``shift``: run the rule to its yield, keep the rest for later, go on with the result."""
        if (region := recording.get()) is not None and region.level > self.level:
            return region.handle(prim, args, params)  # part of a body that is being recorded
        if prim.rule is None:
            return self.passthrough(prim, args, params)
        values: list[Any] = []
        wanted: list[tuple[int, Variable]] = []
        for a in args:
            if type(a) is Tensor:
                prompt = a.prompt
                if prompt is self:
                    wanted.append((len(values), a.mark))
                    a = a.value
                elif prompt is None:
                    a = a.value
            values.append(a)
        if prim.selective:
            params = {**params, "wanted": tuple([position for position, _ in wanted])}
        rest, out = suspend(prim, values, params)
        if prim.boxed:
            self.refuse_captured(prim, out if type(out) is tuple else (out,))
        if self.places is not None:
            self.places.append(place())
        if type(out) is tuple:
            results = tuple(map(self.variable, out))
            self.stack.append((prim, rest, [r.mark for r in results], len(values), wanted))
            return results
        result = self.variable(out)
        self.stack.append((prim, rest, result.mark[0], len(values), wanted))
        return result

    def unwind(self) -> None:
        """The end of ``reset``: resume what is suspended, last in, first out.

        A rule none of whose results has an adjoint is never resumed. If a rule raises, the rest are
        closed in the same order.
        """
        stack, adjoints, places = self.stack, self.adjoints, self.places
        outer, check = here.get(), checks.get()
        try:
            while stack:
                prim, rest, results, arity, wanted = stack.pop()
                if places is not None:
                    here.set(Here(resumed=backward(places.pop())))
                if type(results) is int:
                    adjoint = adjoints.pop(results, None)
                    if adjoint is None:
                        rest.close()
                        continue
                else:
                    parts = [adjoints.pop(slot, None) for slot, _, _ in results]
                    if all(part is None for part in parts):
                        rest.close()
                        continue
                    adjoint = tuple(
                        zeros(shape, dtype) if part is None and not prim.sparse else part
                        for part, (_, shape, dtype) in zip(parts, results, strict=True)
                    )
                found = resume(prim, rest, arity, adjoint)
                if prim.boxed:
                    self.refuse_captured(prim, found)
                for position, variable in wanted:
                    self.accumulate(variable, found[position], prim)
                    if check is not None:
                        check.arrived(prim.name, rest, adjoint, adjoints.get(variable[0]))
        finally:
            if places is not None:
                here.set(outer)
            self.close()

    def close(self) -> None:
        """Close what is still suspended, last in, first out; nothing is after a full `unwind`."""
        while self.stack:
            self.stack.pop()[1].close()

    def __enter__(self) -> Reverse:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """The end of the program, not of the prompt: only an exception closes what is suspended."""
        if kind is not None:
            self.close()

    def accumulate(self, variable: Variable, adjoint: Any, prim: Primitive) -> None:
        """Add to a variable's adjoint, after undoing what broadcasting and promotion did.

        ``adjoint`` is a value one level down, a thunk that gives one, a `Scatter`, or None.
        """
        if type(adjoint) is FunctionType:
            adjoint = adjoint()
            if prim.boxed:
                self.refuse_captured(prim, (adjoint,))
        if adjoint is None:
            return
        slot, shape, dtype = variable
        old = self.adjoints.get(slot)
        if type(adjoint) is Scatter:
            self.adjoints[slot] = unbox(adjoint.add_to(old, shape, dtype, slot in self.tables))
            self.tables.add(slot)
            return
        adjoint = conform(unbox(adjoint), shape, dtype, prim)
        self.adjoints[slot] = adjoint if old is None else old + adjoint

    def adjoint_of(self, variable: Tensor) -> Any:
        """What arrived at a variable, one level down, after `unwind`; None for a symbolic zero."""
        return self.adjoints.pop(variable.mark[0], None)


class Scatter:
    """An adjoint that is zero but for some elements: ``rows``, to be added in at ``index``.

    A rule returns it in place of a dense adjoint. The accumulation adds it into what has arrived
    so far, so that an embedding's gradient allocates one table however often it is used.

    Attributes:
        index: arrays, passed on to ``add`` and ``into``.
        rows: the elements.
        add: a primitive; ``add(x, rows, *index)`` is ``x`` with the rows added.
        into: the same in place, ``into(out, rows, *index)``, on NumPy arrays.
    """

    __slots__ = ("add", "index", "into", "rows")

    def __init__(
        self,
        index: tuple[Any, ...],
        rows: Any,
        add: Callable[..., Any],
        into: Callable[..., None],
    ) -> None:
        self.index, self.rows, self.add, self.into = index, rows, add, into

    def add_to(self, old: Any, shape: tuple[int, ...], dtype: Any, owned: bool = False) -> Any:
        """``old`` (or zeros) with the rows added: in place if it is ``owned``, else a new array."""
        if any(type(v) in (Tensor, Symbol) for v in (old, self.rows, *self.index)):
            old = zeros(shape, dtype) if old is None else old
            return self.add(old, self.rows, *self.index)
        if old is None:
            old = np.zeros(shape, dtype)
        elif not (owned and old.flags.carray):
            old = np.array(old, order="C")
        self.into(old, self.rows, *self.index)
        return old


def conform(adjoint: Any, shape: tuple[int, ...], dtype: Any, prim: Primitive) -> Any:
    """An adjoint in its argument's shape and dtype: broadcasting and promotion transposed."""
    if not hasattr(adjoint, "shape"):  # a Python number
        adjoint = np.asarray(adjoint, dtype)[()]
    if adjoint.shape != shape:
        adjoint = sum_to(adjoint, shape, prim)
    if adjoint.dtype is not dtype and adjoint.dtype != dtype:
        from lantern.primitives.structure import cast  # primitives are declared with this module

        adjoint = cast(adjoint, dtype=dtype)
    return adjoint


def sum_to(adjoint: Any, shape: tuple[int, ...], prim: Primitive) -> Any:
    """The transpose of broadcasting from ``shape``: add up what came from one element."""
    from lantern.primitives.structure import broadcast_to, reduce_sum, reshape

    found = adjoint.shape
    lead = len(found) - len(shape)
    if lead >= 0 and all(s in (1, f) for f, s in zip(found[lead:], shape, strict=True)):
        axes = tuple(
            i for i, f in enumerate(found) if i < lead or (f != 1 and shape[i - lead] == 1)
        )
        return reshape(reduce_sum(adjoint, axes=axes), shape=shape)
    try:  # a rule may return an adjoint that is constant along an axis, such as 1.0
        return broadcast_to(adjoint, shape=shape)
    except ValueError:
        raise RuleError(
            f"rule {prim.name} returned an adjoint of shape {found}, its argument has {shape}"
        ) from None
