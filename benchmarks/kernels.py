"""Fused elementwise and reduction kernels, forward and backward, out of cache.

What they compute is little: what counts is how often they go over memory. A kernel that reads its
inputs once and writes its results once takes the time that a triad takes for as many bytes.
Inputs that a kernel needs no more are given away, where a library can, so that its result lies in
memory that is mapped already.

    python -m benchmarks.kernels [--only lantern] [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import (
    NATIVE,
    TUNED_MALLOC,
    Contender,
    Options,
    Result,
    Row,
    Workload,
    measure,
    team,
)
from benchmarks.machine import bandwidth
from benchmarks.worker import Clock, Job

ELEMENTS = 1 << 24  # of each large array: 64 MiB
COLUMNS = (1024, 4096, 32_768)
SHARE = 0.9  # of the bandwidth of a triad that a kernel should reach
B1, B2, EPS, RATE, DECAY = 0.9, 0.95, 1e-8, 1e-3, 0.1


class Kernel(NamedTuple):
    """A kernel's name, how many large arrays it moves at least, and which of its inputs it gives
    away."""

    name: str
    moves: int
    given: tuple[int, ...]


KERNELS = (
    Kernel("softmax", 2, (0,)),  # reads x, writes y
    Kernel("softmax backward", 3, (1,)),  # reads x and dy, writes dx
    Kernel("rms_norm", 2, (0,)),
    Kernel("rms_norm backward", 3, (1,)),
    Kernel("cross_entropy", 1, ()),
    Kernel("cross_entropy backward", 2, (0,)),
    Kernel("adamw", 7, (0, 2, 3)),  # reads four, writes three
)


def inputs(name: str, rows: int, columns: int) -> list[np.ndarray[Any, Any]]:
    """A kernel's operands."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape, np.float32)

    x = normal(rows, columns)
    if name.startswith("softmax"):
        return [x, normal(rows, columns)] if "backward" in name else [x]
    if name.startswith("rms_norm"):
        return (
            [x, normal(rows, columns), normal(columns)]
            if "backward" in name
            else [x, normal(columns)]
        )
    if name.startswith("cross_entropy"):
        return [x, rng.integers(columns, size=rows)]
    return [x, normal(rows, columns), normal(rows, columns), np.square(normal(rows, columns))]


class Functions(NamedTuple):
    """What the kernels are written on.

    Attributes:
        numbers: the module of elementwise functions.
        vjp: of a function at its operands, the function from the adjoint of the result, which is
            None where that is a number, to the adjoints of the first operand or of all.
        softmax, cross_entropy, rms_norm: over the last axis.
    """

    numbers: Any
    vjp: Callable[..., Any]
    softmax: Callable[..., Any]
    cross_entropy: Callable[..., Any]
    rms_norm: Callable[..., Any]


def of_lantern() -> Functions:
    """lantern's."""
    import lantern as ln

    def vjp(f: Any, *primals: Any) -> Any:
        value, pullback = ln.vjp(f, *primals)
        return lambda dy: pullback(ln.ones_like(value) if dy is None else dy)

    return Functions(
        ln,
        vjp,
        lambda x: ln.softmax(x),
        lambda x, t: ln.nn.cross_entropy(x, t),
        lambda x, w: ln.nn.rms_norm(x, w, 1e-5),
    )


def of_torch() -> Functions:
    """PyTorch's, its fused ones among them."""
    import torch
    import torch.nn.functional as f

    def vjp(function: Any, *primals: Any) -> Any:
        made: Any = torch.func.vjp(function, *primals)
        value, pullback = made
        return lambda dy: pullback(torch.ones_like(value) if dy is None else dy)

    return Functions(
        torch,
        vjp,
        lambda x: f.softmax(x, dim=-1),
        f.cross_entropy,
        lambda x, w: f.rms_norm(x, (x.shape[-1],), w, eps=1e-5),
    )


def of_jax() -> Functions:
    """JAX's."""
    import jax
    import jax.numpy as jnp

    def vjp(f: Any, *primals: Any) -> Any:
        value, pullback = jax.vjp(f, *primals)
        return lambda dy: pullback(jnp.ones_like(value) if dy is None else dy)

    def rms_norm(x: Any, w: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w

    def cross_entropy(x: Any, t: Any) -> Any:
        chosen = jnp.take_along_axis(x, t[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(x, axis=-1) - chosen)

    return Functions(jnp, vjp, jax.nn.softmax, cross_entropy, rms_norm)


def table_of(library: Functions) -> dict[str, Callable[..., Any]]:
    """The kernels, written on a library's functions."""
    numbers, vjp, softmax, cross_entropy, rms_norm = library

    def adamw(p: Any, g: Any, m: Any, v: Any) -> Any:
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        return p - RATE * (m / (numbers.sqrt(v) + EPS) + DECAY * p), m, v

    return {
        "softmax": softmax,
        "softmax backward": lambda x, dy: vjp(softmax, x)(dy),
        "rms_norm": rms_norm,
        "rms_norm backward": lambda x, dy, w: vjp(rms_norm, x, w)(dy),
        "cross_entropy": cross_entropy,
        "cross_entropy backward": lambda x, t: vjp(lambda x: cross_entropy(x, t), x)(None),
        "adamw": adamw,
    }


def flat(result: Any) -> list[Any]:
    """The arrays of a result, which may be one, or a tuple of them."""
    return list(result) if isinstance(result, (tuple, list)) else [result]


def in_lantern(name: str, rows: int, columns: int, given: tuple[int, ...]) -> Job:
    import lantern as ln

    table = table_of(of_lantern())
    kernel = ln.compile(lambda *operands: table[name](*operands), donate=given)
    arrays = [ln.asarray(x, copy=True) for x in inputs(name, rows, columns)]

    def run(clock: Clock) -> list[Any]:
        results = flat(kernel(*arrays))
        for place, result in zip(given, results, strict=False):
            arrays[place] = result  # the memory goes round
        return results

    return Job(lambda: [np.array(x) for x in run(Clock())], run)


def in_torch(name: str, rows: int, columns: int, compiled: bool, threads: int) -> Job:
    import torch

    torch.set_num_threads(threads)
    table = table_of(of_torch())
    kernel: Any = torch.compile(table[name]) if compiled else table[name]
    arrays = [torch.from_numpy(x) for x in inputs(name, rows, columns)]

    def run(clock: Clock) -> list[Any]:
        return flat(kernel(*arrays))

    return Job(lambda: [x.numpy().copy() for x in run(Clock())], run)


def in_jax(name: str, rows: int, columns: int, given: tuple[int, ...]) -> Job:
    import jax
    import jax.numpy as jnp

    table = table_of(of_jax())
    kernel = jax.jit(table[name], donate_argnums=given)
    arrays = [jnp.array(x) for x in inputs(name, rows, columns)]

    def run(clock: Clock) -> list[Any]:
        results = flat(jax.block_until_ready(kernel(*arrays)))
        for place, result in zip(given, results, strict=False):
            arrays[place] = result
        return results

    return Job(lambda: [np.array(x) for x in run(Clock())], run)


def workload(kernel: Kernel, columns: int, options: Options, limit: float | None) -> Workload:
    """One kernel on rows of some length."""
    elements = ELEMENTS >> 6 if options.quick else ELEMENTS
    rows = elements // columns
    common = {"name": kernel.name, "rows": rows, "columns": columns}
    native = {**common, "given": kernel.given}
    torch = {**common, "threads": options.threads}
    here = "benchmarks.kernels:"
    contenders = [
        Contender("lantern", here + "in_lantern", native, NATIVE),
        Contender(
            "PyTorch", here + "in_torch", {**torch, "compiled": False}, ("torch",), TUNED_MALLOC
        ),
        Contender(
            "torch.compile",
            here + "in_torch",
            {**torch, "compiled": True},
            ("torch",),
            TUNED_MALLOC,
        ),
        Contender("JAX", here + "in_jax", native, ("jax",)),
    ]
    return Workload(
        "kernels",
        f"{kernel.name}, {rows:,} by {columns:,}",
        contenders,
        4 * kernel.moves * elements,
        "B",
        rtol=1e-4,
        rounds=3,
        limit=limit,
        share=SHARE if limit else None,
    )


def row(options: Options) -> list[Result]:
    """Every kernel, on short rows and on long ones."""
    columns = COLUMNS[:1] if options.quick else COLUMNS
    limit = None if options.quick else bandwidth(options)
    with team() as workers:
        return [
            measure(workload(kernel, n, options, limit), options, workers)
            for kernel in KERNELS
            for n in (columns if kernel.name != "adamw" else columns[:1])
        ]


ROWS: dict[str, Row] = {"kernels": row}

if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(ROWS, sys.argv[1:])
