"""Lowerings of the loss of a layer with many classes: chunk by chunk of rows, a product of matrices
for the scores, one loop nest over them, and two products for the slopes."""

from __future__ import annotations

from typing import Any

import numpy as np

from lantern.primitives import elementwise as e
from lantern.primitives import losses as p
from lantern.primitives.indexing import gather
from lantern.primitives.losses import chunk_rows
from lantern.primitives.reductions import reduce_max
from lantern.primitives.structure import concat, reduce_sum, wide
from lantern.staged.loops import Step, Symbols, scan
from lantern.staged.stage import Lowering, Stage, converted, emit, repeated, shaped, stage_of
from lantern.staged.structure import part
from lantern.symbol import Symbol

INT32 = np.dtype(np.int32)


def linear_losses(x: Any, weight: Any, targets: Any, *, smoothing: float) -> Symbol:
    stage = stage_of(x, weight, targets)
    x, weight = widened(x), widened(weight)
    if not x.shape[0]:
        return repeated(stage.constant(0, x.dtype), (0,))

    def step(_: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        (x, targets), (weight,) = slices, captured
        return (), (Scores(x, weight, targets, smoothing).losses,)

    _, (losses,) = in_chunks(stage, step, (), (weight,), (x, targets))
    return losses


def linear_loss(x: Any, weight: Any, targets: Any, shares: Any, *, smoothing: float) -> Symbol:
    """The total is carried, so that chunks come one after another, each divided among threads."""
    stage = stage_of(x, weight, targets, shares)
    x, weight, shares = widened(x), widened(weight), widened(shares)
    zero = stage.constant(0, x.dtype)
    if not x.shape[0]:
        return zero

    def step(carry: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        (x, targets, shares), (weight,), (total,) = slices, captured, carry
        losses = Scores(x, weight, targets, smoothing).losses
        return (total + reduce_sum(losses * shares, axes=(0,)),), ()

    (total,), _ = in_chunks(stage, step, (zero,), (weight,), (x, targets, shares))
    return total


def linear_loss_slopes(
    x: Any, weight: Any, targets: Any, shares: Any, *, smoothing: float
) -> tuple[Symbol, ...]:
    stage = stage_of(x, weight, targets, shares)
    x, weight, shares = widened(x), widened(weight), widened(shares)
    if not x.shape[0]:
        zero = stage.constant(0, x.dtype)
        return zero, x, repeated(zero, weight.shape)

    def step(carry: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
        (x, targets, shares), (weight,) = slices, captured
        scores = Scores(x, weight, targets, smoothing)
        slope = scores.slope(shares)
        dx = emit("matmul", slope, weight, transpose_x=False, transpose_y=False)
        dweight = emit("matmul", slope, x, transpose_x=True, transpose_y=False)
        added = dweight if carry[0] is None else carry[0] + dweight
        return (added,), (dx, scores.losses)

    start = (None,)
    (dweight,), (dx, losses) = in_chunks(stage, step, start, (weight,), (x, targets, shares))
    return reduce_sum(losses * shares, axes=(0,)), dx, dweight


class Scores:
    """The scores of some rows, and what is made of them.

    Attributes:
        weights: e to the scores less the largest of their row.
        total: the sum of each row of weights.
        losses: of each row.
    """

    def __init__(self, x: Symbol, weight: Symbol, targets: Symbol, smoothing: float) -> None:
        scores = emit("matmul", x, weight, transpose_x=False, transpose_y=True)
        n, classes = scores.shape
        rows = scores.stage.emit("iota", shape=(n,), axis=0, dtype="int64")
        at = gather(scores, rows, targets)  # refuses a target that does not exist
        top = reduce_max(scores, axes=(1,))
        self.weights = e.exp(scores - shaped(top, (n, 1)))
        self.total = reduce_sum(self.weights, axes=(1,))
        if smoothing:
            mean = reduce_sum(scores, axes=(1,)) * (smoothing / classes)
            at = at * (1 - smoothing) + mean
        self.losses = e.log(self.total) + top - at
        self.targets, self.smoothing = targets, smoothing

    def slope(self, shares: Symbol) -> Symbol:
        """By the scores, of the losses times their shares."""
        n, classes = self.weights.shape
        slope = self.weights * shaped(shares / self.total, (n, 1))
        if self.smoothing:
            slope = slope - shaped(shares * (self.smoothing / classes), (n, 1))
        places = shares.stage.emit("iota", shape=(n, classes), axis=1, dtype="int32")
        hit = places == shaped(converted(self.targets, INT32), (n, 1))
        return slope - e.where(hit, shaped(shares * (1 - self.smoothing), (n, 1)), 0.0)


def in_chunks(
    stage: Stage, step: Step, carry: tuple[Any, ...], captured: Symbols, stacked: Symbols
) -> tuple[Symbols, Symbols]:
    """Run ``step`` on chunks of rows. A carry that is None at first is made by the first chunk."""
    weight = captured[0]
    stacked = tuple(stage.symbol(x) for x in stacked)
    n = stacked[0].shape[0]
    size = chunk_rows(n, weight.shape[0])
    done, found = 0, []

    def rows(number: int) -> Symbols:
        return tuple(part(x, 0, done, number) for x in stacked)

    while done < n:
        count = (n - done) // size
        if count > 1 and all(x is not None for x in carry):
            cut = (shaped(x, (count, size, *x.shape[1:])) for x in rows(count * size))
            carry, results = scan(step, carry, captured, tuple(cut), length=count, stage=stage)
            results = tuple(shaped(x, (count * size, *x.shape[2:])) for x in results)
            done += count * size
        else:
            some = min(size, n - done)
            carry, results = (tuple(xs) for xs in step(carry, captured, rows(some)))
            done += some
        found.append(results)
    return carry, tuple(concat(*xs, axis=0) for xs in zip(*found, strict=True))


def widened(x: Any) -> Symbol:
    """float16 and bfloat16 as float32."""
    return converted(x, wide(x.dtype))


LOWERINGS: dict[Any, Lowering] = {
    p.linear_losses: linear_losses,
    p.linear_loss: linear_loss,
    p.linear_loss_slopes: linear_loss_slopes,
}
