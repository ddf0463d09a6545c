"""Own matrix products against BLAS, on one thread: which is faster for which sizes.

python -m benchmarks.products prints the table of `backends/llvm/gemm/table.py`, and on stderr the
rate of each class of products: own kernels, BLAS, and the ratio of their times.
"""

from __future__ import annotations

import itertools
import sys
import textwrap
import time
from unittest.mock import patch

import numpy as np

from backends.llvm import compile_program
from backends.llvm.executable import Executable
from backends.llvm.gemm.table import CLEARLY, TYPICAL, cell
from staging.ir import Builder, Program, Type

ROUNDS = 9
WORK = 4_000_000  # multiplications of a run: a batch of as many products as that takes


def compiled(shapes: list[tuple[int, ...]], turned: tuple[bool, bool], own: bool) -> Executable:
    """A batch of products by one of the two."""
    b = Builder()
    x, y = (b.param(Type("float32", shape)) for shape in shapes)
    z = b.emit("matmul", x, y, transpose_x=turned[0], transpose_y=turned[1])
    with patch("backends.llvm.products.better", lambda p: own):
        return compile_program(Program("product", b.block(z)), 1)


def measured(turned: tuple[bool, bool], m: int, n: int, k: int) -> tuple[float, float]:
    """Seconds of one product: by own kernels, and by BLAS."""
    batch = max(1, min(256, WORK // (m * n * k)))
    shapes = [
        (batch, *((k, m) if turned[0] else (m, k))),
        (batch, *((n, k) if turned[1] else (k, n))),
    ]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape, np.float32) for shape in shapes]
    ways = [compiled(shapes, turned, own) for own in (True, False)]
    results = [way(inputs)[0] for way in ways]
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-3)
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for way, taken in zip(ways, times, strict=True):
            start = time.perf_counter()
            way(inputs)
            taken.append(time.perf_counter() - start)
    own, blas = (min(taken) / batch for taken in times)
    return own, blas


def main() -> None:
    """Measure a product of each class."""
    won: list[str] = []
    layouts = [(a, b) for a in (False, True) for b in (False, True)]
    for m, n, k in itertools.product(TYPICAL["m"], TYPICAL["n"], TYPICAL["k"]):
        for turned in layouts:
            own, blas = measured(turned, m, n, k)
            name = cell(*turned, m, n, k)
            rates = [2e-9 * m * n * k / seconds for seconds in (own, blas)]
            print(
                f"{name} {m}x{k}x{n}: {rates[0]:.0f} {rates[1]:.0f} GFLOP/s, {blas / own:.2f}",
                file=sys.stderr,
            )
            if blas < CLEARLY * own:
                won.append(name)
    print("\n".join(textwrap.wrap(" ".join(sorted(won)), 94)))


if __name__ == "__main__":
    main()
