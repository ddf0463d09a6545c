"""Lowerings of attention and its adjoint: a map over heads, in each block of queries a few products
of matrices and one loop nest over scores that stay in cache.

A causal mask is cut into the stripes of `lantern.primitives.attention.stripes`, so that the number
of keys of each is known while compiling. A stripe whose scores are more than `TILE` is a scan over
blocks of queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lantern.primitives import attention as p
from lantern.primitives import elementwise as e
from lantern.primitives.attention import LOWEST, Stripe, stripes
from lantern.primitives.reductions import reduce_max
from lantern.primitives.structure import concat, reduce_sum, wide
from lantern.staged.loops import Symbols, scan
from lantern.staged.stage import (
    Lowering,
    Stage,
    converted,
    emit,
    repeated,
    shaped,
    stage_of,
)
from lantern.staged.structure import part
from lantern.symbol import Symbol

TILE = 2**16  # scores of a block of queries: in float32 a quarter of a MiB, twice in the backward
FEWEST = 16  # queries of a block, however many keys there are

Named = dict[str, Symbol]
Block = Callable[[Symbols, Any, Named, Named], tuple[Symbols, Symbols]]


class Heads:
    """What all heads have in common: sizes, and how the data of what is visible is found.

    Attributes:
        t, g, s: queries, queries that share a key, and keys of one head.
        stacked: for each head its part of what is visible.
        shared: what is visible for all heads alike.
        gathered: whether a head takes its mask out of ``shared["masks"]`` by ``stacked["place"]``.
    """

    def __init__(self, q: Symbol, k: Symbol, data: Symbols, causal: bool, segmented: bool) -> None:
        b, heads, self.t, self.g, _ = q.shape
        self.s, self.causal = k.shape[2], causal
        self.count = b * heads
        self.stacked: Named = {}
        self.shared: Named = {}
        if segmented:
            for name, ids in zip(("of_q", "of_k"), data, strict=False):
                n = ids.shape[1]
                by_head = repeated(shaped(ids, (b, 1, n)), (b, heads, n))
                self.stacked[name] = shaped(by_head, (self.count, n))
        if len(data) > 2 * segmented:
            mask = data[-1]
            lead, one = mask.shape[:2], mask.shape[2:]
            if lead == (b, heads):
                self.stacked["mask"] = shaped(mask, (self.count, *one))
            elif lead == (1, 1):
                self.shared["mask"] = shaped(mask, one)
            else:
                axis = 0 if lead[0] > 1 else 1
                places = emit_iota(q.stage, (b, heads), axis, "int64")
                self.stacked["place"] = shaped(places, (self.count,))
                self.shared["masks"] = shaped(mask, (math.prod(lead), *one))

    def by_head(self, x: Symbol) -> Symbol:
        """The sequences and the heads as one axis."""
        return shaped(x, (self.count, *x.shape[2:]))

    def mapped(
        self, body: Callable[[Named, Named], Symbols], rows: Named, keys: Named
    ) -> list[Symbol]:
        """What ``body`` gives for each head, from what belongs to its queries and to its keys."""
        stacked = {n: self.by_head(x) for n, x in (rows | keys).items()} | self.stacked

        def step(_: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
            found = dict(zip(stacked, slices, strict=True))
            found |= dict(zip(self.shared, captured, strict=True))
            if "masks" in found:
                found["mask"] = emit("gather", found.pop("masks"), found.pop("place"))
            of_rows = {n: widened(found[n]) for n in rows}
            of_keys = {n: widened(found[n]) for n in keys}
            if "of_q" in found:
                of_rows["of_q"], of_keys["of_k"] = found["of_q"], found["of_k"]
            if "mask" in found:
                (of_keys if found["mask"].shape[0] == 1 else of_rows)["mask"] = found["mask"]
            return (), body(of_rows, of_keys)

        _, results = scan(
            step, (), tuple(self.shared.values()), tuple(stacked.values()), length=self.count
        )
        return list(results)

    def stripe(self, stripe: Stripe, rows: Named, keys: Named) -> tuple[Named, Named]:
        """What belongs to the queries, and to the keys, of a stripe."""
        first, last, seen = stripe

        def visible_part(name: str, x: Symbol) -> Symbol:
            return part(x, 2, 0, seen) if name == "mask" and x.shape[2] > 1 else x

        of_rows = {n: part(visible_part(n, x), 0, first, last - first) for n, x in rows.items()}
        of_keys = {
            n: visible_part(n, x) if n == "mask" else part(x, 0, 0, seen) for n, x in keys.items()
        }
        return of_rows, of_keys

    def visible(self, scores: Symbol, stripe: Stripe, start: Any, rows: Named, keys: Named) -> Any:
        """What of the scores (rows, G, keys) may be seen; ``start`` is the first query's place in
        the stripe. None: all."""
        n, _, seen = scores.shape
        allowed: Any = None
        if self.causal and seen > self.s - self.t + stripe.first + 1:
            at = emit_iota(scores.stage, scores.shape, 0, "int32") + start
            at = at + (self.s - self.t + stripe.first)
            allowed = emit_iota(scores.stage, scores.shape, 2, "int32") <= at
        if "of_q" in rows:
            same = shaped(rows["of_q"], (n, 1, 1)) == shaped(keys["of_k"], (1, 1, seen))
            allowed = same if allowed is None else allowed & same
        for found in (rows, keys):
            if "mask" in found:
                allowed = found["mask"] if allowed is None else allowed & found["mask"]
        return allowed

    def in_blocks(
        self, step: Block, carry: Symbols, rows: Named, keys: Named
    ) -> tuple[Symbols, list[Symbol]]:
        """Run ``step(carry, start, rows, keys)`` on blocks of queries, one after another."""
        n = next(iter(rows.values())).shape[0]
        seen = keys["k"].shape[0]
        size = max(FEWEST, TILE // (self.g * seen) // FEWEST * FEWEST)
        if n <= size:
            carry, found = step((), 0, rows, keys)
            return carry, list(found)
        count = n // size

        def one(carry: Symbols, captured: Symbols, slices: Symbols) -> tuple[Symbols, Symbols]:
            place, *parts = slices
            of_rows = dict(zip(rows, parts, strict=True))
            return step(carry, place * size, of_rows, dict(zip(keys, captured, strict=True)))

        places = emit_iota(keys["k"].stage, (count,), 0, "int32")
        parts = [
            shaped(part(x, 0, 0, count * size), (count, size, *x.shape[1:])) for x in rows.values()
        ]
        carry, found = scan(one, carry, tuple(keys.values()), (places, *parts), length=count)
        found = [shaped(x, (count * size, *x.shape[2:])) for x in found]
        if n > count * size:
            rest = {name: part(x, 0, count * size, n - count * size) for name, x in rows.items()}
            carry, more = step(carry, count * size, rest, keys)
            found = [concat(x, y, axis=0) for x, y in zip(found, more, strict=True)]
        return carry, list(found)


def attention(
    q: Symbol, k: Symbol, v: Symbol, *data: Symbol, causal: bool, segmented: bool
) -> tuple[Symbol, Symbol]:
    heads, dtype = Heads(q, k, data, causal, segmented), q.dtype
    b, kh, t, g, _ = q.shape
    e_, s = v.shape[3], k.shape[2]
    if 0 in (heads.count, t, g, s):
        accurate = wide(dtype)
        nothing = repeated(q.stage.constant(0, dtype), (b, kh, t, g, e_))
        return nothing, repeated(q.stage.constant(LOWEST, accurate), (b, kh, t, g))

    def body(rows: Named, keys: Named) -> Symbols:
        found: list[list[Symbol]] = []
        for stripe in stripes(t, s, causal):

            def step(
                carry: Symbols, start: Any, rows: Named, keys: Named, stripe: Stripe = stripe
            ) -> tuple[Symbols, Symbols]:
                flat = matrix(rows["q"])
                scores = product(flat, keys["k"], transpose_y=True)
                scores = shaped(scores, (*rows["q"].shape[:2], keys["k"].shape[0]))
                allowed = heads.visible(scores, stripe, start, rows, keys)
                top = reduce_max(only(allowed, scores, LOWEST), axes=(2,))
                top = e.maximum(top, LOWEST)
                scores = only(allowed, scores, -math.inf)
                weights = e.exp(scores - shaped(top, (*top.shape, 1)))
                total = reduce_sum(weights, axes=(2,))
                total = e.where(total == 0, 1.0, total)
                out = product(shaped(weights, (flat.shape[0], weights.shape[2])), keys["v"])
                out = out / shaped(total, (flat.shape[0], 1))
                out = converted(shaped(out, (*total.shape, out.shape[1])), dtype)
                return (), (out, top + e.log(total))

            of_rows, of_keys = heads.stripe(stripe, rows, keys)
            found.append(heads.in_blocks(step, (), of_rows, of_keys)[1])
        return tuple(joined(parts) for parts in zip(*found, strict=True))

    out, sums = heads.mapped(body, {"q": q}, {"k": k, "v": v})
    return shaped(out, (b, kh, t, g, e_)), shaped(sums, (b, kh, t, g))


def attention_adjoint(
    q: Symbol,
    k: Symbol,
    v: Symbol,
    sums: Any,
    dout: Any,
    mean: Any,
    *data: Symbol,
    causal: bool,
    segmented: bool,
) -> tuple[Symbol, ...]:
    given = q, k, v
    heads = Heads(q, k, data, causal, segmented)
    t, s = q.shape[2], k.shape[2]
    if 0 in (heads.count, t, heads.g, s):
        return tuple(repeated(x.stage.constant(0, x.dtype), x.shape) for x in given)

    def body(rows: Named, keys: Named) -> Symbols:
        of_queries: list[Symbol] = []
        of_stripes: list[Symbols] = []
        cut = stripes(t, s, causal)
        for stripe in cut:

            def step(
                carry: Symbols, start: Any, rows: Named, keys: Named, stripe: Stripe = stripe
            ) -> tuple[Symbols, Symbols]:
                q, dout = matrix(rows["q"]), matrix(rows["dout"])
                shape = (*rows["q"].shape[:2], keys["k"].shape[0])
                flat = (q.shape[0], shape[2])
                scores = shaped(product(q, keys["k"], transpose_y=True), shape)
                less = shaped(product(dout, keys["v"], transpose_y=True), shape)
                allowed = heads.visible(scores, stripe, start, rows, keys)
                scores = only(allowed, scores, -math.inf)
                weights = e.exp(scores - shaped(rows["sums"], (*shape[:2], 1)))
                ds = shaped(weights * (less - shaped(rows["mean"], (*shape[:2], 1))), flat)
                weights = shaped(weights, flat)
                dq = shaped(product(ds, keys["k"]), rows["q"].shape)
                dk = product(ds, q, transpose_x=True)
                dv = product(weights, dout, transpose_x=True)
                if not carry:
                    return (dk, dv), (dq,)
                return (carry[0] + dk, carry[1] + dv), (dq,)

            of_rows, of_keys = heads.stripe(stripe, rows, keys)
            start = tuple(
                repeated(x.stage.constant(0, x.dtype), x.shape)
                for x in (of_keys["k"], of_keys["v"])
            )
            added, (dq,) = heads.in_blocks(step, start, of_rows, of_keys)
            of_queries.append(dq)
            of_stripes.append(added)
        dk, dv = (totals([ds[i] for ds in of_stripes]) for i in range(2))
        results = joined(of_queries), dk, dv
        return tuple(converted(x, y.dtype) for x, y in zip(results, given, strict=True))

    rows = {"q": q, "dout": dout, "sums": sums, "mean": mean}
    found = heads.mapped(body, rows, {"k": k, "v": v})
    return tuple(shaped(x, y.shape) for x, y in zip(found, given, strict=True))


def totals(parts: list[Symbol]) -> Symbol:
    """The sum of arrays that each start at the first key and end at another."""
    ends = sorted({x.shape[0] for x in parts})
    pieces: list[Symbol] = []
    for first, last in zip([0, *ends], ends, strict=False):
        total: Any = None
        for x in parts:
            if x.shape[0] >= last:
                piece = part(x, 0, first, last - first)
                total = piece if total is None else total + piece
        pieces.append(total)
    return joined(pieces)


def only(allowed: Any, scores: Symbol, other: float) -> Symbol:
    """The scores where they are allowed, and another number elsewhere."""
    return scores if allowed is None else e.where(allowed, scores, other)


def joined(parts: Any) -> Symbol:
    """One after another."""
    return concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def matrix(x: Symbol) -> Symbol:
    """(T, G, D) as (T G, D)."""
    return shaped(x, (x.shape[0] * x.shape[1], x.shape[2]))


def widened(x: Symbol) -> Symbol:
    """float16 and bfloat16 as float32."""
    return converted(x, wide(x.dtype))


def product(x: Symbol, y: Symbol, transpose_x: bool = False, transpose_y: bool = False) -> Symbol:
    return emit("matmul", x, y, transpose_x=transpose_x, transpose_y=transpose_y)


def emit_iota(stage: Stage, shape: tuple[int, ...], axis: int, dtype: str) -> Symbol:
    return stage.emit("iota", shape=shape, axis=axis, dtype=dtype)


def tiled(kind: str, lowering: Callable[..., Symbols]) -> Lowering:
    """A lowering as a `call` of a kind, by which a backend that has a kernel for it knows it."""

    def written(*values: Symbol, causal: bool, segmented: bool) -> Symbols:
        stage = stage_of(*values)
        inner = stage.inner()
        inner.builder.place = stage.builder.place
        params = [inner.parameter(x.shape, x.dtype) for x in values]
        results = lowering(*params, causal=causal, segmented=segmented)
        block = inner.builder.block(*(x.value for x in results))
        return stage.emit_all(
            "call", *values, blocks=(block,), kind=kind, causal=causal, segmented=segmented
        )

    return written


LOWERINGS: dict[Any, Lowering] = {
    p.attention: tiled("attention", attention),
    p.attention_adjoint: tiled("attention_adjoint", attention_adjoint),
}
