"""Losses and recurrent cells against PyTorch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from nn_peer import compare, drawn

import lantern as ln
from lantern import nn
from lantern.errors import DTypeError, IndexRangeError, ShapeError
from lantern.testing import check_grads


def array(x):
    return np.asarray(x)


# Cross-entropy ----------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_cross_entropy_against_pytorch(reduction, smoothing, ignored):
    torch = pytest.importorskip("torch")
    (x,) = drawn((2, 5, 4))
    targets = np.array([[0, 3, ignored, 1, 1], [2, 2, 0, ignored, 3]])

    def peer(x):
        return torch.nn.functional.cross_entropy(
            x.movedim(-1, 1),
            torch.tensor(targets),
            ignore_index=ignored,
            label_smoothing=smoothing,
            reduction=reduction,
        )

    def ours(x):
        return nn.cross_entropy(
            x,
            targets,
            ignore_index=ignored,
            label_smoothing=smoothing,
            reduction=reduction,
        )

    compare(ours, peer, x)
    check_grads(ours, (x[:, :5],), rtol=1e-5)


def test_cross_entropy():
    x = ln.asarray([1.0, 2.0, 3.0])
    assert float(nn.cross_entropy(x, 2)) == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)))
    all_ignored = ln.value_and_grad(lambda x: nn.cross_entropy(x, [-100, -100]))
    value, g = all_ignored(ln.ones((2, 3)))
    assert float(value) == 0 and (array(g) == 0).all()
    assert float(nn.cross_entropy(ln.asarray([[1e5, -1e5]]), [1])) == 2e5
    for dtype in (ln.float16, ln.bfloat16):
        half = ln.astype(ln.asarray(drawn((3, 4))[0]), dtype)
        assert nn.cross_entropy(half, [0, 1, 2]).dtype == ln.float32
        assert ln.grad(lambda x: nn.cross_entropy(x, [0, 1, 2]))(half).dtype == dtype


def test_cross_entropy_under_vmap():
    x = ln.asarray(drawn((3, 4, 5))[0])
    targets = ln.asarray(np.random.default_rng(0).integers(0, 5, (3, 4)))

    def slope(x, t):
        return ln.grad(lambda x: nn.cross_entropy(x, t, label_smoothing=0.1))(x)

    for f in (nn.cross_entropy, slope):
        found = array(ln.vmap(f)(x, targets))
        expected = [array(f(x[i], targets[i])) for i in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        found = array(ln.vmap(f, in_axes=(None, 0))(x[0], targets))
        expected = [array(f(x[0], targets[i])) for i in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cross_entropy_errors():
    x = ln.ones((3, 4))
    for bad in ([0, 1, 4], [0, -1, 2]):
        with pytest.raises(IndexRangeError, match=r"of 4 classes; expected 0 to 3"):
            nn.cross_entropy(x, bad)
    with pytest.raises(ShapeError, match=r"logits are float32\[3, 4\] and targets int64\[2\]"):
        nn.cross_entropy(x, [0, 1])
    with pytest.raises(DTypeError, match="expected integers"):
        nn.cross_entropy(x, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="'mean', 'sum' or 'none'"):
        nn.cross_entropy(x, [0, 1, 2], reduction="average")
    with pytest.raises(ValueError, match="label_smoothing 2; expected 0 to 1"):
        nn.cross_entropy(x, [0, 1, 2], label_smoothing=2)


# Other losses -----------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_and_bce_against_pytorch(reduction):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x, y = drawn((3, 4), (3, 4))
    x[0, 0], x[0, 1], x[0, 2] = 0.0, 500.0, -500.0
    compare(
        lambda x, y: nn.mse(x, y, reduction=reduction),
        lambda x, y: f.mse_loss(x, y, reduction=reduction),
        x, y,
    )  # fmt: skip
    compare(
        lambda x, y: nn.bce_with_logits(x, y, reduction=reduction),
        lambda x, y: f.binary_cross_entropy_with_logits(x, y, reduction=reduction),
        x, 1 / (1 + np.exp(-y)),
    )  # fmt: skip


def test_mse_and_bce():
    x, y = drawn((3, 4), (3, 4))
    check_grads(nn.mse, (x, y))
    check_grads(nn.bce_with_logits, (x, y))
    truth = nn.bce_with_logits(ln.asarray([0.0]), ln.asarray([True]))
    assert float(truth) == pytest.approx(math.log(2)) and truth.dtype == ln.float32
    for f in (nn.mse, nn.bce_with_logits):
        with pytest.raises(ShapeError, match="expected equal shapes"):
            f(ln.ones((2, 3)), ln.ones((3,)))


# Connectionist temporal classification ----------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("blank", [0, 3])
def test_ctc_against_pytorch(reduction, blank):
    torch = pytest.importorskip("torch")
    (x,) = drawn((9, 4, 4))
    symbols = [c for c in range(4) if c != blank]
    targets = np.array(symbols)[np.array([[0, 1, 1, 2], [2, 2, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]])]
    inputs, lengths = np.array([9, 8, 5, 1]), np.array([4, 3, 2, 0])

    def peer(x):
        return torch.nn.functional.ctc_loss(
            torch.log_softmax(x, -1),
            torch.tensor(targets),
            tuple(inputs.tolist()),
            tuple(lengths.tolist()),
            blank=blank,
            reduction=reduction,
        )

    def ours(x):
        return nn.ctc(
            ln.log_softmax(x, axis=-1), targets, inputs, lengths, blank=blank, reduction=reduction
        )

    compare(ours, peer, x)


def collapsed(path):
    """A path without repetitions, then without blanks."""
    return tuple(c for c, _ in itertools.groupby(path) if c)


def test_ctc_is_a_sum_over_paths():
    x = ln.log_softmax(ln.asarray(drawn((4, 1, 3))[0]), axis=-1)
    p = np.exp(array(x)[:, 0])
    for target in ((), (1,), (1, 2), (2, 2), (1, 2, 1), (1, 1, 1)):
        total = sum(
            math.prod(p[t, c] for t, c in enumerate(path))
            for path in itertools.product(range(3), repeat=4)
            if collapsed(path) == target
        )
        padded = [[*target, 9, 9]]
        loss = nn.ctc(x, padded, [4], [len(target)], reduction="none")
        expected = -math.log(total) if total else math.inf
        assert float(loss[0]) == pytest.approx(expected, rel=1e-12)


def test_ctc():
    (x,) = drawn((5, 2, 3))
    targets, inputs, lengths = [[1, 2], [1, 1]], [5, 4], [2, 2]

    def f(x):
        return nn.ctc(ln.log_softmax(x, axis=-1), targets, inputs, lengths)

    check_grads(f, (x,), rtol=1e-5)
    batch = ln.asarray(np.stack([x, 2 * x]))
    found = array(ln.vmap(f)(batch))
    np.testing.assert_allclose(found, [float(f(b)) for b in batch], rtol=1e-12)
    slopes = array(ln.vmap(ln.grad(f))(batch))
    np.testing.assert_allclose(slopes[1], array(ln.grad(f)(batch[1])), rtol=1e-9, atol=1e-12)
    # No alignment: an infinite loss, without a gradient.
    value, g = ln.value_and_grad(lambda x: nn.ctc(x, [[1, 1]], [2], [2]))(ln.zeros((2, 1, 3)))
    assert float(value) == math.inf and (array(g) == 0).all()
    half = nn.ctc(ln.astype(ln.asarray(x), ln.float16), targets, inputs, lengths)
    assert half.dtype == ln.float32
    # No targets at all: only blanks.
    empty = ln.zeros((2, 0), dtype=ln.int64)
    logs = ln.log_softmax(ln.asarray(x), axis=-1)
    blanks = nn.ctc(logs, empty, [5, 3], [0, 0], reduction="none")
    expected = [-array(logs)[:5, 0, 0].sum(), -array(logs)[:3, 1, 0].sum()]
    np.testing.assert_allclose(array(blanks), expected, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"expected \(T, B, C\), \(B, L\), \(B,\) and \(B,\)"):
        nn.ctc(ln.asarray(x), targets, [5], lengths)


# Recurrent cells --------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells_against_pytorch(kind):
    """A whole sequence, with the weights of the peer."""
    torch = pytest.importorskip("torch")
    steps, b, inputs, hidden = 4, 2, 3, 5
    cell = getattr(nn, f"{kind.lower()}_cell")
    init = getattr(nn, f"{kind.lower()}_cell_init")
    params = init(ln.random.key(0), inputs, hidden, dtype=ln.float64)
    names = sorted(params)
    x, h, c = drawn((steps, b, inputs), (b, hidden), (b, hidden))
    peer_layer = getattr(torch.nn, kind)(inputs, hidden, dtype=torch.float64)

    def peer(x, h, c, *weights):
        named = {f"{n}_l0": w for n, w in zip(names, weights, strict=True)}
        state = (h[None], c[None]) if kind == "LSTM" else h[None]
        y, last = torch.func.functional_call(peer_layer, named, (x, state))
        last = last[1] if kind == "LSTM" else last
        return torch.cat((y, last))

    def ours(x, h, c, *weights):
        named = dict(zip(names, weights, strict=True))
        state, y = nn.unroll(cell, named, (h, c) if kind == "LSTM" else h, x)
        last = state[1] if kind == "LSTM" else state
        return ln.concat((y, ln.expand_dims(last, axis=0)))

    weights = [array(params[n]) for n in names]
    compare(ours, peer, x, h, c, *weights)
    check_grads(ours, (x[:2], h, c, *weights), order=1, rtol=1e-5)
    one = cell(params, (ln.asarray(h[0]), ln.asarray(c[0])) if kind == "LSTM" else h[0], x[0, 0])
    assert one[1].shape == (hidden,)


def test_unroll_errors():
    with pytest.raises(ShapeError, match="no steps"):
        nn.unroll(nn.rnn_cell, {}, 0.0, ln.zeros((0, 3)))
