"""Products in loops read matrices that no step changes as they were packed before the loop."""

from __future__ import annotations

import numpy as np
import pytest

import lantern as ln
from backends.llvm.gemm import ahead
from staging.interpret import numpy_dtype

SIZES = [(20, 50, 50), (1, 30, 20), (3, 130, 17), (128, 9, 33), (5, 1, 1)]
DIVIDED = [(64, 240, 150), (128, 60, 300)]  # among threads, along columns and along rows


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("m", "n", "k"), SIZES + DIVIDED)
def test_products_with_captures_agree_with_numpy(dtype: str, m: int, n: int, k: int) -> None:
    """One plain and one transposed product with the same matrix, with and without a tanh."""
    rng = np.random.default_rng(0)
    start, weight = rng.normal(size=(m, k)) / k, rng.normal(size=(k, n)) / n
    start, weight = (x.astype(numpy_dtype(dtype)) for x in (start, weight))

    def loop(start, weight):
        def step(x, _):
            y = ln.tanh(x @ weight)
            z = y @ weight.T
            return z, (z @ weight, y)

        return ln.scan(step, start, None, length=4)

    found = ln.tree.leaves(ln.compile(loop, threads=2)(start, weight))
    expected = ln.tree.leaves(loop(ln.asarray(start), ln.asarray(weight)))
    rtol = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 4e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        a, b = (np.asarray(v).astype(np.float64) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_a_matrix_is_packed_once_for_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    packing = ahead.packing
    monkeypatch.setattr(ahead, "packing", lambda *args: made.append(args) or packing(*args))

    def loop(x, weight):
        return ln.scan(lambda h, _: (h @ weight @ weight @ weight.T, None), x, None, length=3)[0]

    ln.compile(loop, threads=1, cache=False)(np.ones((8, 24), "f"), np.ones((24, 24), "f"))
    assert len(made) == 2


def test_a_matrix_is_packed_once_for_threads_that_share_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    packing = ahead.packing
    monkeypatch.setattr(ahead, "packing", lambda *args: made.append(args) or packing(*args))
    m, n, k = DIVIDED[0]

    def loop(xs, weight):
        return ln.scan(lambda total, x: (total + ln.tanh(x @ weight), None), ln.zeros((m, n)), xs)

    ln.compile(loop, threads=2, cache=False)(np.ones((3, m, k), "f"), np.ones((k, n), "f"))
    assert [cut.parts for _, _, cut, _ in made] == [2]


def test_a_matrix_that_changes_is_not_packed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "packing", lambda *args: pytest.fail("packed ahead"))

    def loop(x, weight):
        def step(state, _):
            x, weight = state
            return (x @ weight, weight * 0.5), None

        return ln.scan(step, (x, weight), None, length=3)[0]

    found, _ = ln.compile(loop, threads=1, cache=False)(np.eye(8, dtype="f"), np.eye(8, dtype="f"))
    np.testing.assert_allclose(found, np.eye(8) / 8)
