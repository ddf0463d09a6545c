"""Reverse-mode differentiation by delimited continuations.

A *primitive* is a generator with one ``yield``::

    def mul(x, y):
        dz = yield x * y
        return lambda: dz * y, lambda: dz * x

Up to the ``yield`` stands what the operation computes; the ``yield`` hands its result to *the rest of the
program* and suspends; when the rest has run, up to the enclosing *prompt*, the generator is resumed with
the adjoint ``dz`` of its result and returns the adjoints of its arguments. This is Wang et al. (ICFP 2019),
section 3: ``shift`` captures the continuation, calls it, and then runs the adjoint statements. Here the
continuation need not be called by the primitive, because returning to the caller *is* calling it. What is
left of ``shift`` is the suspended generator on the prompt's stack, and the end of ``reset`` is `unwind`,
which resumes them last in, first out. There is no tape: nothing describes what was computed, there is only
code that has not finished running.

Three things make it whole:

* A `Tensor` that is being differentiated carries its prompt; prompts are ordered by ``level``, and an operation
  belongs to the innermost prompt among its operands. Its rule then runs on values *one level down*, so
  derivatives nest to any order and cannot be confused (each prompt knows its own tensors).
* Adjoints live in a table of the prompt. A missing entry is a zero: the rule is never resumed. An adjoint
  may be returned as a thunk, which runs only if its argument wants it.
* Un-broadcasting and accumulation are `Reverse.accumulate`, and nowhere else.

Forward mode (`lantern.forward`) and batching (`lantern.batch`) are two more kinds of prompt over the same
definitions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from lantern.declare import checked_rule
from lantern.errors import DifferentiationError, RuleError, describe, explain, user_line
from lantern.tensor import Tensor

Rule = Callable[..., Generator[Any, Any, Any]]
_levels = itertools.count(1)


class Primitive:
    """An operation: what it computes, its rule, and how it acts on a batch.

    Attributes:
        name: as it appears in errors.
        kernel: the computation on NumPy arrays; None when the rule's own forward half serves.
        rule: a generator function; None where the derivative is zero or the result is discrete.
        batch: ``batch(bound, size, mapped, *values, **params)`` computes all of a batch at once, the batch
            axis leading in the values that are mapped and in the result; None to run the rule's generator
            itself on batched tensors.
        linear: whether the backward half is linear in the adjoint, which forward mode relies on.
        boxed: whether the rule is written on Tensors (a user's), not on bare values one level down.
    """

    __slots__ = ("name", "kernel", "rule", "batch", "linear", "boxed", "perform")
    perform: Callable[..., Any]

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any] | None,
        rule: Rule | None,
        batch: Callable[..., Any] | None = None,
        linear: bool = True,
        boxed: bool = False,
    ) -> None:
        self.name, self.kernel, self.rule = name, kernel, rule
        self.batch, self.linear, self.boxed = batch, linear, boxed

    def __repr__(self) -> str:
        return f"Primitive({self.name})"


def primitive(
    kernel: Callable[..., Any], *, batch: Callable[..., Any] | None
) -> Callable[[Rule], Callable[..., Any]]:
    """Declare a built-in primitive from its NumPy kernel and, below the decorator, its rule."""

    def declare(rule: Rule) -> Callable[..., Any]:
        return bound(Primitive(rule.__name__, kernel, checked_rule(rule), batch), rule)

    return declare


def discrete(
    name: str, kernel: Callable[..., Any], *, batch: Callable[..., Any]
) -> Callable[..., Any]:
    """Declare a primitive without a derivative: its result is discrete or piecewise constant."""
    return bound(Primitive(name, kernel, None, batch))


def bound(prim: Primitive, like: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """The function that performs ``prim``: arrays positional, static parameters by keyword."""

    def perform(*args: Any, **params: Any) -> Any:
        innermost = None
        for a in args:
            if type(a) is Tensor and (p := a.prompt) is not None:
                if innermost is None or p.level > innermost.level:
                    innermost = p
        if innermost is None:
            return evaluate(prim, args, params)
        return innermost.handle(prim, args, params)

    if like is not None:
        functools.update_wrapper(perform, like)
        del perform.__wrapped__
    perform.__name__ = prim.name
    prim.perform = perform
    return perform


def evaluate(prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Compute where no prompt is involved. Bare values give bare values; a Tensor among them gives Tensors."""
    wrap = False
    values = []
    for a in args:
        if type(a) is Tensor:
            wrap = True
            a = a.value
        values.append(a)
    if prim.kernel is None:
        step = Suspended(prim, values, params)
        out = step.result
        step.generator.close()
    else:
        try:
            out = prim.kernel(*values, **params)
        except (ValueError, TypeError, IndexError) as problem:
            raise explain(prim.name, tuple(values), problem) from None
    if not wrap:
        return out
    return tuple(map(Tensor, out)) if type(out) is tuple else Tensor(out)


class Suspended:
    """A rule that has run to its ``yield``: the reified rest of one primitive. It can be resumed once."""

    __slots__ = ("prim", "generator", "result", "arity")

    def __init__(self, prim: Primitive, values: Sequence[Any], params: dict[str, Any]) -> None:
        rule = prim.rule
        assert rule is not None
        self.prim, self.arity = prim, len(values)
        if prim.boxed:
            values = [box(v) for v in values]
        self.generator = rule(*values, **params)
        try:
            out = next(self.generator)
        except StopIteration:
            raise RuleError(f"rule {prim.name} returned without a yield") from None
        except (ValueError, TypeError, IndexError) as problem:
            if prim.boxed:
                raise
            raise explain(prim.name, tuple(values), problem) from None
        if prim.boxed:
            out = tuple(map(unbox, out)) if type(out) is tuple else unbox(out)
        self.result = out


def resume(
    prim: Primitive, generator: Generator[Any, Any, Any], arity: int, adjoint: Any
) -> tuple[Any, ...]:
    """Run the backward half: send the adjoint(s) of the result, return one adjoint (or thunk) an argument."""
    if prim.boxed:
        adjoint = tuple(map(box, adjoint)) if type(adjoint) is tuple else box(adjoint)
    try:
        generator.send(adjoint)
    except StopIteration as finished:
        adjoints = finished.value
    else:
        generator.close()
        raise RuleError(f"rule {prim.name} yielded twice; a continuation is resumed once")
    if type(adjoints) is not tuple:
        adjoints = (adjoints,)
    if len(adjoints) != arity:
        raise RuleError(
            f"rule {prim.name} returned {len(adjoints)} adjoints for {arity} arguments; "
            "return one for each positional argument, None where there is none"
        )
    return adjoints


def box(x: Any) -> Any:
    """A bare array as a Tensor; Tensors and Python values as they are."""
    return Tensor(x) if isinstance(x, (np.ndarray, np.generic)) else x


def unbox(x: Any) -> Any:
    """A Tensor that no prompt holds as its bare array; anything else as it is."""
    return x.value if type(x) is Tensor and x.prompt is None else x


class Prompt:
    """The delimiter of a transformation. ``level`` grows inwards; the innermost prompt handles an operation."""

    __slots__ = ("level",)

    def __init__(self) -> None:
        self.level = next(_levels)

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def shape_of(self, value: Any) -> tuple[int, ...]:
        """The shape that a Tensor of this prompt shows, given its value one level down."""
        return value.shape

    def peek(self, x: Tensor, what: str) -> Any:
        """The value of a tensor of this prompt, where a program reads it out."""
        return x.value

    def lower(self, args: Sequence[Any]) -> list[Any]:
        """The operands one level down: this prompt's own tensors and free ones give up their values."""
        return [
            a.value if type(a) is Tensor and (a.prompt is self or a.prompt is None) else a
            for a in args
        ]

    def passthrough(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """A primitive without a derivative: computed one level down, and of no concern to this prompt."""
        out = prim.perform(*self.lower(args), **params)
        return tuple(map(box, out)) if type(out) is tuple else box(out)


class Reverse(Prompt):
    """A prompt for reverse mode: a stack of suspended rules and a table of adjoints."""

    __slots__ = ("stack", "adjoints", "slots")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[Any] = []
        self.adjoints: dict[int, Any] = {}
        self.slots = 0

    def variable(self, value: Any) -> Tensor:
        """A tensor of this prompt: a value one level down and a fresh slot in the table of adjoints."""
        self.slots = slot = self.slots + 1
        return Tensor(value, self, slot)

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """``shift``: run the rule to its yield, push the rest, and go on with the result."""
        if prim.rule is None:
            return self.passthrough(prim, args, params)
        values = []
        inputs: list[tuple[int, Any, Any] | None] = []
        for a in args:
            if type(a) is Tensor:
                prompt = a.prompt
                if prompt is self:
                    v = a.value
                    values.append(v)
                    inputs.append((a.mark, v.shape, a.dtype))
                    continue
                if prompt is None:
                    a = a.value
            values.append(a)
            inputs.append(None)
        step = Suspended(prim, values, params)
        out = step.result
        self.slots = slot = self.slots + 1
        if type(out) is tuple:
            first, self.slots = slot, slot + len(out) - 1
            self.stack.append(
                (prim, step.generator, range(first, self.slots + 1), [zero(v) for v in out], inputs)
            )
            return tuple(Tensor(v, self, first + k) for k, v in enumerate(out))
        self.stack.append((prim, step.generator, slot, None, inputs))
        return Tensor(out, self, slot)

    def unwind(self) -> None:
        """The end of ``reset``: resume what is suspended, last in, first out.

        A rule none of whose results has an adjoint is never resumed. If a rule raises, the rest are closed
        in the same order.
        """
        stack, adjoints = self.stack, self.adjoints
        try:
            while stack:
                prim, generator, slot, zeros, inputs = stack.pop()
                if zeros is None:
                    adjoint = adjoints.pop(slot, None)
                    if adjoint is None:
                        generator.close()
                        continue
                else:
                    parts = [adjoints.pop(s, None) for s in slot]
                    if all(part is None for part in parts):
                        generator.close()
                        continue
                    adjoint = tuple(
                        z() if p is None else p for p, z in zip(parts, zeros, strict=True)
                    )
                for wanted, a in zip(
                    inputs, resume(prim, generator, len(inputs), adjoint), strict=True
                ):
                    if wanted is not None and a is not None:
                        self.accumulate(wanted, a, prim)
        finally:
            while stack:
                stack.pop()[1].close()

    def accumulate(self, wanted: tuple[int, Any, Any], adjoint: Any, prim: Primitive) -> None:
        """Add an adjoint to a slot of the table, after undoing what broadcasting and promotion did.

        ``wanted`` is (slot, shape, dtype) of the argument; ``adjoint`` a value one level down, a thunk that
        gives one, or a `Scatter`.
        """
        slot, shape, dtype = wanted
        if type(adjoint) is FunctionType:
            adjoint = adjoint()
            if adjoint is None:
                return
        old = self.adjoints.get(slot)
        if type(adjoint) is Scatter:
            adjoint, old = adjoint.add_to(old, shape, dtype), None
        adjoint = conform(unbox(adjoint), shape, dtype, prim)
        self.adjoints[slot] = adjoint if old is None else old + adjoint

    def adjoint_of(self, variable: Tensor) -> Any:
        """What arrived at a variable after `unwind`, one level down; None for a symbolic zero."""
        return self.adjoints.pop(variable.mark, None)


class Scatter:
    """An adjoint that is zero but for some rows: rows ``index`` of an array along its first axes.

    A rule returns it in place of a dense adjoint; the accumulation adds it into what has arrived so far, so that an
    embedding's gradient allocates one table however often it is used.
    """

    __slots__ = ("index", "rows", "dense")

    def __init__(self, index: tuple[Any, ...], rows: Any, dense: Callable[..., Any]) -> None:
        self.index, self.rows, self.dense = index, rows, dense

    def add_to(self, old: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """``old`` (or zeros) with the rows added at the index."""
        return self.dense(np.zeros(shape, dtype) if old is None else old, self.rows, *self.index)


def zero(like: Any) -> Callable[[], Any]:
    """A thunk for a zero of the shape and dtype of ``like``, which it does not keep."""
    shape, dtype = like.shape, like.dtype
    return lambda: np.zeros(shape, dtype)


def conform(adjoint: Any, shape: tuple[int, ...], dtype: Any, prim: Primitive) -> Any:
    """Sum an adjoint over the axes that broadcasting added, and cast it back to the argument's dtype."""
    if not hasattr(adjoint, "shape"):
        adjoint = np.asarray(adjoint, dtype)[()]
    if adjoint.shape != shape:
        adjoint = sum_to(adjoint, shape, prim)
    if adjoint.dtype is not dtype and adjoint.dtype != dtype:
        from lantern.primitives.structure import cast

        adjoint = cast(adjoint, dtype=dtype)
    return adjoint


def sum_to(adjoint: Any, shape: tuple[int, ...], prim: Primitive) -> Any:
    """The adjoint of broadcasting: add up what came from one element."""
    from lantern.primitives.structure import broadcast_to, reduce_sum, reshape

    found = adjoint.shape
    lead = len(found) - len(shape)
    if lead < 0 or any(s not in (1, f) for f, s in zip(found[lead:], shape, strict=True)):
        try:  # a rule may return an adjoint that is constant along an axis, such as 1.0
            return broadcast_to(adjoint, shape=shape)
        except ValueError:
            raise RuleError(
                f"rule {prim.name} returned an adjoint of shape {found} for an argument of shape {shape}"
            ) from None
    axes = tuple(i for i, f in enumerate(found) if i < lead or (f != 1 and shape[i - lead] == 1))
    return reshape(reduce_sum(adjoint, axes=axes), shape=shape)


def require_differentiable(x: Any, what: str) -> None:
    """Raise unless ``x`` has a floating dtype."""
    if np.dtype(x.dtype).kind in "biu":
        raise DifferentiationError(
            f"{what}: cannot differentiate with respect to {describe(x)}; derivatives exist for floating dtypes "
            f"only. Convert it with ln.astype, or choose other arguments with argnums.\n  at {user_line()}"
        )
