"""`Batch`, the prompt of `lantern.vmap`: each operation acts on a whole batch at once.

A tensor of this prompt holds the batch with its axis leading, and shows the shape of one element.
A primitive with a batch rule computes the batch one level down, where other prompts may
differentiate it. Every other rule is *lifted*: its whole generator runs on batched tensors inside
a generator one level down, so that a user's own derivative stays one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lantern import control
from lantern.control import Primitive, Prompt, resume, suspend, unbox
from lantern.errors import BatchingError, LanternError, describe
from lantern.places import recording
from lantern.primitives.structure import broadcast_to, cast, reduce_sum
from lantern.ragged import Empty, batched, is_ragged, unbatched
from lantern.tensor import Tensor


class Same:
    """Among several results of a batch rule, one that is the same for the whole batch."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Batch(Prompt):
    """A prompt over a batch of ``size`` independent runs of the same program."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __repr__(self) -> str:
        return f"vmap of {self.size}"

    def shape_of(self, value: Any) -> tuple[int, ...]:
        return unbatched(value.shape)

    def peek(self, x: Tensor, what: str) -> Any:
        raise BatchingError(
            f"{what} of a Tensor inside ln.vmap: it is {self.size} values, not one. Choose between "
            "values with ln.where, between computations with ln.cond, and loop with ln.while_loop."
        )

    def handle(self, prim: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if (region := recording.get()) is not None and region.level > self.level:
            return region.handle(prim, args, params)
        mapped = tuple(type(a) is Tensor and a.prompt is self for a in args)
        values = self.lower(args)
        if prim.batch is None:
            return self.lift(prim, mapped, values, params)
        try:
            out = prim.batch(prim.perform, self.size, mapped, *values, **params)
        except LanternError as problem:
            one = f"{prim.name}({', '.join(map(describe, args))})"
            problem.args = (f"{problem.args[0]}; in ln.vmap, and for one example it is {one}",)
            raise
        return tuple(map(self.result, out)) if type(out) is tuple else Tensor(out, self)

    def result(self, value: Any) -> Any:
        """A result of a batch rule as a Tensor."""
        return control.box(value.value) if type(value) is Same else Tensor(value, self)

    def refuse_captured(self, prim: Primitive, values: Sequence[Any]) -> None:
        """A batch that a rule closes over is a constant of it, unless what it holds is not."""
        held = [v.value for v in values if type(v) is Tensor and v.prompt is self]
        for v in held:
            if type(v) is Tensor and v.prompt is not None:
                v.prompt.refuse_captured(prim, (v,))

    def unbatch(self, x: Any) -> Any:
        """The batch behind ``x``, which is repeated if it does not depend on the batch."""
        if type(x) is Tensor and x.prompt is self:
            return x.value
        x = unbox(x) if hasattr(x, "shape") else np.asarray(x)[()]
        return repeated(x, self.size)

    def lift(
        self, prim: Primitive, mapped: tuple[bool, ...], values: list[Any], params: dict[str, Any]
    ) -> Any:
        """Perform a primitive one level down whose rule runs this one's on batched tensors."""

        def lifted(*xs: Any) -> Generator[Any, Any, Any]:
            with self.entered():
                rest, out = suspend(
                    prim,
                    [Tensor(x, self) if m else x for x, m in zip(xs, mapped, strict=True)],
                    params,
                )
                many = type(out) is tuple
                down = tuple(self.unbatch(v) for v in out) if many else self.unbatch(out)
                arity = len(xs)
                del out
            kinds = [(x.shape, x.dtype) if hasattr(x, "shape") else None for x in xs]
            del xs
            dz = yield down
            with self.entered():
                dz = tuple(Tensor(d, self) for d in dz) if many else Tensor(dz, self)
                adjoints = resume(prim, rest, arity, dz)
            return tuple(
                None if a is None or kind is None else self.thunk(prim, a, m, kind)
                for a, m, kind in zip(adjoints, mapped, kinds, strict=True)
            )

        below = Primitive(f"vmap({prim.name})", None, lifted, None, prim.linear)
        out = below.perform(*values)
        if type(out) is tuple:
            return tuple(Tensor(unbox(v), self) for v in out)
        return Tensor(unbox(out), self)

    def thunk(self, prim: Primitive, adjoint: Any, mapped: bool, kind: tuple[Any, Any]) -> Any:
        """An adjoint of a lifted rule, when it is wanted: summed over the batch where unmapped."""
        shape, dtype = kind

        def adjoint_below() -> Any:
            with self.entered():
                a = adjoint() if callable(adjoint) else adjoint
                if a is None:
                    return None
                if type(a) is control.Scatter:
                    a = a.add_to(None, shape[1:] if mapped else shape, dtype)
                a = control.conform(unbox(a), shape[1:] if mapped else shape, dtype, prim)
                below = self.unbatch(a)
                return below if mapped else cast(reduce_sum(below, axes=(0,)), dtype=dtype)

        return adjoint_below

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be the innermost prompt meanwhile: newer prompts may hold the values inside this one."""
        level, self.level = self.level, next(self.levels)
        try:
            yield
        finally:
            self.level = level


def repeated(x: Any, size: int) -> Any:
    """A value that is the same for the whole batch, as a batch."""
    if type(x) is Empty:
        return Empty(batched(size, x.shape), x.dtype)
    if is_ragged(x.shape):
        raise BatchingError(
            "a loop whose steps do not depend on the batch, inside a branch that does, cannot be "
            "differentiated within ln.vmap: move it out of the branch"
        )
    return broadcast_to(x, shape=(size, *x.shape))


def refuse_effects(what: str, blocks: Iterable[Any]) -> None:
    """Raise where blocks do more than compute, though not all of a batch performs them."""
    if any(block.has_effect for block in blocks):
        raise BatchingError(
            f"{what} differs within ln.vmap, so that all elements compute it and some results are "
            "dropped: ln.debug.print cannot stand there; move it out"
        )


def as_wanted(
    xs: Sequence[Any], wanted: Sequence[bool], mapped: Sequence[bool], size: int
) -> tuple[Any, ...]:
    """Values of which some are batches; those that are wanted as batches too are repeated."""
    return tuple(
        repeated(x, size) if w and not m else x for x, w, m in zip(xs, wanted, mapped, strict=True)
    )


def told_apart(xs: Sequence[Any], mapped: Sequence[bool]) -> tuple[Any, ...]:
    """Results of a batch rule, those that are no batches marked as the same for all of it."""
    return tuple(x if m else Same(x) for x, m in zip(xs, mapped, strict=True))
