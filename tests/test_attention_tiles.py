"""Attention in blocks: the same numbers as in whole, compiled and not, and never all the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nn_peer import drawn

import lantern as ln
from lantern.primitives import attention as primitive
from lantern.staged import attention as lowering
from staging.interpret import interpret
from staging.ir import Block, walk
from staging.ops import TILED
from staging.pipeline import DEFAULT, UNOPENED, optimise
from staging.text import parse_program
from staging.verify import verify

CASES = {
    "all": {},
    "causal": {"causal": True},
    "documents": {"causal": True, "segment_ids": "both"},
    "segments": {"segment_ids": "pair"},
    "one mask": {"mask": (1, 1, 70, 90)},
    "mask of sequences": {"mask": (2, 1, 70, 90), "causal": True},
    "mask of keys": {"mask": (2, 1, 1, 90)},
    "mask of heads": {"mask": (1, 4, 70, 90)},
    "every mask": {"mask": (2, 4, 70, 90)},
}


def arguments(name: str, t: int = 70, s: int = 90) -> tuple[list[np.ndarray], dict]:
    """Queries, keys, values and weights of the result; the options of a case."""
    options, rng = dict(CASES[name]), np.random.default_rng(3)
    if options.get("segment_ids") == "both":
        s = t
        options["segment_ids"] = np.sort(rng.integers(0, 4, (2, t)))
    elif "segment_ids" in options:
        options["segment_ids"] = rng.integers(0, 3, (2, t)), rng.integers(0, 3, (2, s))
    if "mask" in options:
        options["mask"] = rng.random(options["mask"]) < 0.5
    return drawn((2, t, 4, 3), (2, s, 2, 3), (2, s, 2, 5), (2, t, 4, 5)), options


def in_whole(q, k, v, w, causal=False, segment_ids=None, mask=None):
    """The result and the adjoints of q, k and v for weights w, by formula, in float64."""
    b, t, h, d = q.shape
    s, heads = k.shape[1:3]
    keys, values = (np.repeat(x, h // heads, axis=2) for x in (k, v))
    allowed = np.ones((b, h, t, s), bool)
    if causal:
        allowed &= np.arange(s) <= np.arange(s - t, s)[:, None]
    if segment_ids is not None:
        of_q, of_k = segment_ids if isinstance(segment_ids, tuple) else (segment_ids,) * 2
        allowed &= (of_q[:, :, None] == of_k[:, None])[:, None]
    if mask is not None:
        allowed &= mask
    scores = np.einsum("bthd,bshd->bhts", q, keys) / math.sqrt(d)
    p = np.where(allowed, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    p /= np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
    out = np.einsum("bhts,bshe->bthe", p, values)
    dp = np.einsum("bthe,bshe->bhts", w, values)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) / math.sqrt(d)
    grouped = lambda x: x.reshape(b, s, heads, h // heads, -1).sum(axis=3)  # noqa: E731
    dq = np.einsum("bhts,bshd->bthd", ds, keys)
    dk = grouped(np.einsum("bhts,bthd->bshd", ds, q))
    return out, dq, dk, grouped(np.einsum("bhts,bthe->bshe", p, w))


def everything(options):
    """The result and the adjoints, as `in_whole`."""

    def f(q, k, v, w):
        def weighted(q, k, v):
            out = ln.nn.attention(q, k, v, **options)
            return ln.sum(out * w), out

        (_, out), found = ln.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return out, *found

    return f


@pytest.mark.parametrize("tile", [None, 1])
@pytest.mark.parametrize("name", CASES)
def test_in_blocks_as_in_whole(name, tile, monkeypatch):
    if tile:
        monkeypatch.setattr(primitive, "_BLOCK", 2000)
        monkeypatch.setattr(lowering, "TILE", tile)
    xs, options = arguments(name)
    want = in_whole(*xs, **options)
    f = everything(options)
    backends = [f, *(ln.compile(f, backend=backend) for backend in ("interpreter", "llvm"))]
    for run in backends[: 2 if tile is None else 3]:
        for a, b in zip(run(*map(ln.asarray, xs)), want, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-9, atol=1e-11)


def largest(block: Block) -> int:
    """The number of elements of the largest value of a program, whose loops hold one part each."""
    values = [v for op in block.ops for v in op.results] + list(block.params)
    inside = [largest(b) for op in block.ops for b in op.blocks]
    return max([v.type.size for v in values] + inside)


@pytest.mark.parametrize("name", ["all", "causal", "documents", "mask of sequences"])
def test_no_program_holds_the_scores(name, monkeypatch):
    monkeypatch.setattr(lowering, "TILE", 2000)
    xs, options = arguments(name)
    text = ln.compile(everything(options)).ir(*(ln.asarray(x, dtype=ln.float32) for x in xs))
    t, s = xs[0].shape[1], xs[1].shape[1]
    # One block of one head; the sum of what a mask of booleans takes is the user's own.
    given = max(x.size for x in xs) if "mask" not in options else options["mask"].size
    assert largest(parse_program(text).block) <= max(given, 2 * 16 * s)
    assert given < xs[0].shape[0] * 4 * t * s


@pytest.mark.parametrize("name", ["all", "mask of keys"])
def test_a_backend_may_keep_attention_whole(name):
    """The passes leave its operands and results alone, also where nothing reads one of them."""
    xs, options = arguments(name)
    f = ln.compile(ln.grad(lambda q: ln.sum(ln.nn.attention(q, *xs[1:3], **options))))
    program = parse_program(f.ir(ln.asarray(xs[0])))
    whole = optimise(program, UNOPENED, lambda _, p: verify(p))
    calls = {op.attributes["kind"]: op for op in walk(whole.block) if op.name == "call"}
    data = int("mask" in options)
    shapes = [(len(calls[kind].inputs), len(calls[kind].results)) for kind in TILED]
    assert shapes == [(3 + data, 2), (6 + data, 3)]
    opened = optimise(program, DEFAULT)
    assert not any(op.attributes.get("kind") in TILED for op in walk(opened.block))
    rng = np.random.default_rng(0)
    drawn = [
        (rng.random(v.type.shape) < 0.5) if v.type.dtype == "bool"
        else rng.standard_normal(v.type.shape) for v in program.block.params
    ]  # fmt: skip
    for a, b in zip(interpret(whole, drawn), interpret(opened, drawn), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
