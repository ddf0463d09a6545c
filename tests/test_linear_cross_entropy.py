"""The loss of a layer with many classes, in chunks: the numbers of the layer and the loss apart."""

from __future__ import annotations

import numpy as np
import pytest
from nn_peer import compare, drawn

import lantern as ln
from lantern import nn
from lantern.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from lantern.primitives import losses as primitive
from lantern.testing import check_grads
from staging.ir import Block
from staging.pipeline import optimise
from staging.text import parse_program

TARGETS = np.random.default_rng(5).integers(0, 7, (3, 15))
TARGETS[1, ::4] = -100


@pytest.fixture(params=[None, 1])
def chunk(request, monkeypatch):
    """All rows at once, and sixteen at a time."""
    if request.param:
        monkeypatch.setattr(primitive, "CHUNK", request.param)
    return request.param


@pytest.mark.peer
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_against_pytorch(reduction, smoothing, chunk):
    torch = pytest.importorskip("torch")
    options = {"label_smoothing": smoothing, "reduction": reduction}

    def peer(x, weight):
        scores = torch.nn.functional.linear(x, weight).movedim(-1, 1)
        return torch.nn.functional.cross_entropy(scores, torch.tensor(TARGETS), **options)

    x, weight = drawn((3, 15, 4), (7, 4))
    ours = lambda x, w: nn.linear_cross_entropy(x, w, TARGETS, **options)  # noqa: E731
    compare(ours, peer, x, weight)
    for backend in ("interpreter", "llvm") if reduction != "sum" else ():
        compare_compiled(ours, backend, x, weight)


def compare_compiled(f, backend, *xs):
    """The compiled value and gradients are the eager ones."""

    def both(*xs):
        value, pullback = ln.vjp(f, *xs)
        return value, pullback(ln.cos(value))

    xs = [ln.asarray(x) for x in xs]
    got, want = ln.compile(both, backend=backend)(*xs), both(*xs)
    for a, b in zip(ln.tree.leaves(got), ln.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_to_second_order(reduction):
    x, weight = drawn((2, 3, 2), (4, 2))
    f = lambda x, w: nn.linear_cross_entropy(  # noqa: E731
        x, w, [[0, 1, 3], [-100, 2, 2]], label_smoothing=0.1, reduction=reduction
    )
    check_grads(f, (x, weight), rtol=1e-5)


def test_rows_that_do_not_count():
    x, weight = map(ln.asarray, drawn((4, 3), (5, 3)))
    f = ln.value_and_grad(lambda x, t: nn.linear_cross_entropy(x, weight, t))
    value, g = f(x, ln.asarray([-100] * 4))
    assert float(value) == 0 and not np.asarray(g).any()
    value, g = f(x, ln.asarray([-100, 2, -100, 4]))
    assert not np.asarray(g)[::2].any() and np.asarray(g)[1::2].all()
    want = nn.cross_entropy(nn.linear(x, weight), ln.asarray([-100, 2, -100, 4]))
    assert float(value) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16])
def test_narrow_dtypes_are_computed_in_float32(dtype):
    x, weight = (ln.astype(ln.asarray(a), dtype) for a in drawn((6, 4), (5, 4)))
    f = lambda x, w: nn.linear_cross_entropy(x, w, [0, 1, 2, 3, 4, 0])  # noqa: E731
    value, (dx, dweight) = ln.value_and_grad(f, argnums=(0, 1))(x, weight)
    assert value.dtype == ln.float32
    assert dx.dtype == dweight.dtype == dtype
    exact = f(ln.astype(x, ln.float64), ln.astype(weight, ln.float64))
    assert float(value) == pytest.approx(float(exact), rel=1e-6)


def test_under_vmap():
    x, weight = map(ln.asarray, drawn((2, 3, 4), (2, 5, 4)))
    targets = ln.asarray(np.asarray([[0, 4, 1], [2, -100, 3]]))

    def slopes(x, weight, targets):
        f = lambda x, w: nn.linear_cross_entropy(x, w, targets)  # noqa: E731
        return ln.value_and_grad(f, argnums=(0, 1))(x, weight)

    for axes in ((0, 0, 0), (0, None, 0), (None, 0, None)):
        args = [z if a == 0 else z[0] for z, a in zip((x, weight, targets), axes, strict=True)]
        got = ln.tree.leaves(ln.vmap(slopes, in_axes=axes)(*args))
        for i in range(2):
            one = slopes(*(z if a is None else z[i] for z, a in zip(args, axes, strict=True)))
            for a, b in zip(got, ln.tree.leaves(one), strict=True):
                np.testing.assert_allclose(np.asarray(a)[i], np.asarray(b), rtol=1e-10, atol=1e-12)


def largest(block: Block) -> int:
    """The number of elements of the largest value."""
    values = [v for op in block.ops for v in op.results] + list(block.params)
    inside = [largest(b) for op in block.ops for b in op.blocks]
    return max([v.type.size for v in values] + inside)


def test_no_program_holds_all_logits(monkeypatch):
    monkeypatch.setattr(primitive, "CHUNK", 4 * 16 * 100)
    x, weight = ln.zeros((64, 8)), ln.zeros((100, 8))

    def step(x, weight):
        f = lambda x, w: nn.linear_cross_entropy(x, w, ln.arange(64))  # noqa: E731
        return ln.value_and_grad(f, argnums=(0, 1))(x, weight)

    program = parse_program(ln.compile(step).ir(x, weight))
    assert largest(program.block) <= 16 * 100 < 64 * 100


def test_the_adjoint_one_leaves_the_gradients_alone():
    x, weight = ln.zeros((64, 8)), ln.zeros((100, 8))

    def step(x, weight):
        f = lambda x, w: nn.linear_cross_entropy(x, w, ln.arange(64))  # noqa: E731
        return ln.grad(f, argnums=(0, 1))(x, weight)

    block = optimise(parse_program(ln.compile(step).ir(x, weight))).block
    made = {v: op for op in block.ops for v in op.results}
    assert [made[v].name for v in block.results] == ["matmul", "matmul"]


def test_a_target_out_of_range_is_refused():
    x, weight = ln.zeros((2, 3)), ln.zeros((5, 3))
    for bad in ([0, 5], [-1, 2]):
        with pytest.raises(IndexRangeError, match="of 5 classes"):
            nn.linear_cross_entropy(x, weight, bad)
        with pytest.raises((IndexError, IndexRangeError)):
            ln.compile(lambda t: nn.linear_cross_entropy(x, weight, t))(ln.asarray(bad))


def test_errors():
    x, weight = ln.zeros((2, 3)), ln.zeros((5, 3))
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., D\), \(V, D\)"):
        nn.linear_cross_entropy(x, weight.T, [0, 1])
    with pytest.raises(ShapeError, match="targets"):
        nn.linear_cross_entropy(x, weight, [0, 1, 2])
    with pytest.raises(DTypeError, match="expected integers"):
        nn.linear_cross_entropy(x, weight, [0.0, 1.0])
    with pytest.raises(ArgumentError, match="reduction 'average'"):
        nn.linear_cross_entropy(x, weight, [0, 1], reduction="average")
    with pytest.raises(ArgumentError, match="label_smoothing"):
        nn.linear_cross_entropy(x, weight, [0, 1], label_smoothing=-1)
