"""Lowerings of reductions, running reductions, recurrences and the softmax family."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lantern.primitives import decompositions as d
from lantern.primitives import elementwise as e
from lantern.primitives import reductions as p
from lantern.primitives import softmax as s
from lantern.primitives.structure import Shape, permute, reduce_sum, restore
from lantern.staged.elementwise import truth
from lantern.staged.loops import Symbols, scan
from lantern.staged.stage import (
    F32,
    Lowering,
    aligned,
    converted,
    emit,
    is_narrow,
    repeated,
    shaped,
    widened,
)
from lantern.symbol import Symbol

INT64 = np.dtype(np.int64)


def reduced(kind: str) -> Lowering:
    """A reduction along axes, which disappear."""

    def lower(x: Symbol, *, axes: Shape) -> Symbol:
        if not axes:
            return x
        if kind in ("max", "min") and any(x.shape[k] == 0 for k in axes):
            raise ValueError(f"the {kind} of no elements does not exist")
        return emit("reduce", x, kind=kind, axes=tuple(axes))

    return lower


def any_of(x: Symbol, *, axes: Shape) -> Symbol:
    return decided(truth(x), axes, "max", False)


def all_of(x: Symbol, *, axes: Shape) -> Symbol:
    return decided(truth(x), axes, "min", True)


def decided(x: Symbol, axes: Shape, kind: str, of_nothing: bool) -> Symbol:
    if any(x.shape[k] == 0 for k in axes):
        rest = tuple(n for k, n in enumerate(x.shape) if k not in axes)
        return repeated(x.stage.constant(of_nothing, x.dtype), rest)
    return reduced(kind)(x, axes=axes)


def count(x: Symbol, *, axes: Shape) -> Symbol:
    return reduced("sum")(converted(truth(x), INT64), axes=axes)


def comparable(x: Symbol) -> Symbol:
    """``x`` in a dtype of which every comparison is defined: float16 and bfloat16 as float32."""
    return converted(x, F32) if is_narrow(x.dtype) else x


def place_of(kind: str) -> Lowering:
    def lower(x: Symbol, *, axis: int) -> Symbol:
        if x.shape[axis] == 0:
            raise ValueError(f"there is no {kind} of no elements")
        return emit("argreduce", comparable(x), kind=kind, axis=axis)

    return lower


# Running ------------------------------------------------------------------------------------------


def running(kind: str) -> Lowering:
    def lower(x: Symbol, *, axis: int, reverse: bool) -> Symbol:
        return emit("cumulate", x, kind=kind, axis=axis, reverse=reverse)

    return lower


@widened
def recurrence(factors: Any, terms: Any, *, axis: int, reverse: bool) -> Symbol:
    """A scan along the axis, in front meanwhile; the first factor, without effect, becomes 0."""
    factors, terms = aligned(factors, terms)
    n = terms.shape[axis]
    if n == 0:
        return terms
    stage = terms.stage
    places = stage.emit("iota", shape=terms.shape, axis=axis, dtype="int64")
    factors = e.where(places == (n - 1 if reverse else 0), 0, factors)
    order = (axis, *(k for k in range(terms.ndim) if k != axis))
    factors, terms = permute(factors, axes=order), permute(terms, axes=order)

    def step(carry: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        (total,), (factor, term) = carry, slices
        new = (factor * total + term,)
        return new, new

    start = repeated(stage.constant(0, terms.dtype), terms.shape[1:])
    _, (totals,) = scan(step, (start,), (), (factors, terms), length=n, reverse=reverse)
    return permute(totals, axes=tuple(sorted(range(len(order)), key=order.__getitem__)))


# Softmax ------------------------------------------------------------------------------------------


def shifted(x: Symbol, axes: Shape) -> tuple[Symbol, Symbol]:
    """``x`` less its largest element along the axes, and that; -∞ is left out, so that e⁻∞ is 0."""
    if any(x.shape[k] == 0 for k in axes):
        top = reduce_sum(x, axes=axes)
    else:
        top = p.reduce_max(x, axes=axes)
        top = e.where(top == -math.inf, 0.0, top)
    return x - restore(top, axes=axes, shape=x.shape), top


@widened
def softmax(x: Symbol, *, axes: Shape) -> Symbol:
    exponentials = e.exp(shifted(x, axes)[0])
    total = reduce_sum(exponentials, axes=axes)
    return exponentials / restore(total, axes=axes, shape=x.shape)


@widened
def log_softmax(x: Symbol, *, axes: Shape) -> Symbol:
    less, _ = shifted(x, axes)
    total = e.log(reduce_sum(e.exp(less), axes=axes))
    return less - restore(total, axes=axes, shape=x.shape)


@widened
def logsumexp(x: Symbol, *, axes: Shape) -> Symbol:
    less, top = shifted(x, axes)
    infinite = restore(top == math.inf, axes=axes, shape=x.shape)
    return e.log(reduce_sum(e.exp(e.where(infinite, 0.0, less)), axes=axes)) + top


# The norm of a vector -----------------------------------------------------------------------------


@widened
def euclidean_norm(x: Symbol, *, axes: Shape) -> Symbol:
    return e.sqrt(reduce_sum(x * x, axes=axes))


@widened
def guarded_reciprocal(x: Any, limit: Any) -> Symbol:
    small = e.absolute(x) <= limit
    return e.where(small, 0.0, 1.0 / e.where(small, 1.0, x))


def resolution(x: Symbol) -> Symbol:
    """The rounding error of each vector of values, (..., 1, 1)."""
    *lead, n = x.shape
    if not n:
        return repeated(x.stage.constant(0, x.dtype), (*lead, 1, 1))
    largest = shaped(p.reduce_max(e.absolute(x), axes=(len(lead),)), (*lead, 1, 1))
    return largest * (4 * n * float(np.finfo(comparable(x).dtype).eps))


LOWERINGS: dict[Any, Lowering] = {
    reduce_sum: reduced("sum"),
    p.reduce_prod: reduced("prod"),
    p.reduce_max: reduced("max"),
    p.reduce_min: reduced("min"),
    p.any_of: any_of,
    p.all_of: all_of,
    p.count: count,
    p.arg_max: place_of("max"),
    p.arg_min: place_of("min"),
    p.cumulative_sum: running("sum"),
    p.cumulative_prod: running("prod"),
    p.recurrence: recurrence,
    s.softmax: softmax,
    s.log_softmax: log_softmax,
    s.logsumexp: logsumexp,
    d.euclidean_norm: euclidean_norm,
    d.guarded_reciprocal: guarded_reciprocal,
    d.resolution: widened(resolution),
}
