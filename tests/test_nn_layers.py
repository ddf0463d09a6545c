"""Linear, embedding, dropout and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from nn_peer import compare, drawn

import lantern as ln
from lantern import nn
from lantern.errors import DTypeError, IndexRangeError, ShapeError
from lantern.testing import check_grads

KEY = ln.random.key(0)


def array(x):
    return np.asarray(x)


# Linear, embedding, dropout ---------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_linear_against_pytorch(lead):
    torch = pytest.importorskip("torch")
    x, w, b = drawn((*lead, 3), (5, 3), (5,))
    compare(nn.linear, torch.nn.functional.linear, x, w, b)
    compare(nn.linear, torch.nn.functional.linear, x, w)


def test_linear():
    x, w, b = drawn((2, 4, 3), (5, 3), (5,))
    check_grads(nn.linear, (x, w, b))
    y = ln.vmap(nn.linear, in_axes=(0, None, None))(ln.asarray(x), ln.asarray(w), ln.asarray(b))
    np.testing.assert_allclose(array(y), x @ w.T + b)
    ws = ln.asarray(np.stack([w, 2 * w]))
    for k, y in enumerate(ln.unstack(ln.vmap(nn.linear, in_axes=(None, 0))(ln.asarray(x), ws))):
        np.testing.assert_allclose(array(y), (k + 1) * (x @ w.T))
    # The weight's gradient is laid out as the weight, for the optimiser's sake.
    g = ln.grad(lambda w: ln.sum(nn.linear(ln.asarray(x), w)))(ln.asarray(w))
    assert array(g).flags.c_contiguous
    params = nn.linear_init(KEY, 3, 5, dtype=ln.float64)
    assert nn.linear(ln.asarray(x), **params).dtype == ln.float64
    assert float(ln.max(ln.abs(params["weight"]))) <= 3**-0.5
    assert "bias" not in nn.linear_init(KEY, 3, 5, bias=False)
    assert (array(nn.linear_init(KEY, 3, 5, weight=nn.init.ones)["weight"]) == 1).all()
    with pytest.raises(ShapeError, match=r"x is float64\[2, 4, 3\] and the weight float64\[3, 5\]"):
        nn.linear(ln.asarray(x), ln.asarray(w).T)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_embedding(shape):
    (w,) = drawn((5, 3))
    tokens = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2 + 1
    np.testing.assert_array_equal(array(nn.embedding(ln.asarray(w), tokens)), w[tokens])
    check_grads(lambda w: nn.embedding(w, tokens) ** 2, (w,))
    g = ln.grad(lambda w: ln.sum(nn.embedding(w, tokens)))(ln.asarray(w))
    np.testing.assert_array_equal(array(g)[:, 0], np.bincount(tokens.ravel(), minlength=5))


def test_embedding_errors():
    w = ln.asarray(drawn((5, 3))[0])
    for token in (5, -1):
        with pytest.raises(IndexRangeError, match=str(token)):
            nn.embedding(w, ln.asarray([token]))
    with pytest.raises(DTypeError, match="expected integers"):
        nn.embedding(w, ln.asarray([1.0]))
    assert nn.embedding_init(KEY, 5, 3, dtype=ln.float16)["weight"].dtype == ln.float16


def test_dropout():
    x = ln.ones((100, 100))
    y = array(nn.dropout(KEY, x, 0.25))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert nn.dropout(None, x, 0.5, training=False) is x
    assert nn.dropout(None, x, 0.0) is x
    assert (array(nn.dropout(KEY, x, 1.0)) == 0).all()
    g = ln.grad(lambda x: ln.sum(nn.dropout(KEY, x, 0.25)))(x)
    np.testing.assert_array_equal(array(g), y)
    for dtype in (ln.float16, ln.bfloat16, ln.float64):
        assert nn.dropout(KEY, ln.ones((3,), dtype=dtype), 0.5).dtype == dtype
    keys = ln.random.split(KEY, 3)
    masks = array(ln.vmap(lambda k: nn.dropout(k, x, 0.5))(keys))
    np.testing.assert_array_equal(masks[1], array(nn.dropout(keys[1], x, 0.5)))
    with pytest.raises(ValueError, match="no key"):
        nn.dropout(None, x, 0.5)
    with pytest.raises(ValueError, match=r"rate 1\.5"):
        nn.dropout(KEY, x, 1.5)


# Normalisation ----------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5)])
def test_norms_against_pytorch(shape):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    n = shape[-1]
    x, w, b = drawn(shape, (n,), (n,))
    compare(lambda x, w: nn.rms_norm(x, w, 1e-3), lambda x, w: f.rms_norm(x, (n,), w, 1e-3), x, w)
    compare(
        lambda *a: nn.layer_norm(*a, eps=1e-3), lambda x, w, b: f.layer_norm(x, (n,), w, b, 1e-3),
        x, w, b,
    )  # fmt: skip
    compare(nn.layer_norm, lambda x: f.layer_norm(x, (n,)), x)


@pytest.mark.peer
@pytest.mark.parametrize("axis", [1, -1, 0])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_against_pytorch(axis, training):
    torch = pytest.importorskip("torch")
    x, w, b, mean, var = drawn((5, 5, 5), (5,), (5,), (5,), (5,))
    running = {"mean": ln.asarray(mean), "var": ln.asarray(var**2)}
    their_mean, their_var = torch.tensor(mean), torch.tensor(var**2)

    def theirs(x, w, b):
        moved = torch.moveaxis(x, axis, 1)
        y = torch.nn.functional.batch_norm(moved, their_mean, their_var, w, b, training, 0.3, 1e-3)
        return torch.moveaxis(y, 1, axis)

    def ours(x, w, b):
        return nn.batch_norm(x, running, w, b, training=training, momentum=0.3, eps=1e-3, axis=axis)

    compare(lambda *a: ours(*a)[0], theirs, x, w, b)
    after = ours(*map(ln.asarray, (x, w, b)))[1]
    np.testing.assert_allclose(array(after["mean"]), their_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(array(after["var"]), their_var.numpy(), rtol=1e-12)


def test_norms_to_second_order():
    x, w, b = drawn((2, 3, 4), (4,), (4,))
    check_grads(nn.rms_norm, (x, w), rtol=1e-5)
    check_grads(nn.layer_norm, (x, w, b), rtol=1e-5)
    statistics = nn.batch_norm_init(3, dtype=ln.float64)[1]
    for training in (True, False):
        check_grads(
            lambda x, w, b: nn.batch_norm(x, statistics, w, b, training=training)[0],  # noqa: B023
            (x, w[:3], b[:3]),
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm"])
def test_norms_under_vmap(name):
    f = getattr(nn, name)
    x, w = drawn((3, 2, 4), (3, 4))
    x, w = ln.asarray(x), ln.asarray(w)
    both = array(ln.vmap(f)(x, w))
    np.testing.assert_allclose(both, [array(f(x[i], w[i])) for i in range(3)], rtol=1e-12)

    def slope(x, w):
        return ln.grad(lambda *a: ln.sum(ln.sin(f(*a))), argnums=(0, 1))(x, w)

    dx, dw = ln.vmap(slope, in_axes=(0, None))(x, w[0])
    for i in range(3):
        for found, expected in zip((dx, dw), slope(x[i], w[0]), strict=True):
            np.testing.assert_allclose(array(found)[i], array(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16, ln.float32])
def test_norms_keep_dtypes(dtype):
    x = ln.astype(ln.asarray([[300.0, 1.0, -250.0]]), dtype)  # a square overflows float16
    w = ln.ones((3,), dtype=dtype)
    for f in (nn.rms_norm, nn.layer_norm):
        y = f(x, w)
        assert y.dtype == dtype and np.isfinite(array(y).astype(np.float64)).all()
        g = ln.grad(lambda x, f=f: ln.sum(f(x, w)))(x)
        assert g.dtype == dtype
    stats = nn.batch_norm_init(3, dtype=dtype)[1]
    y, stats = nn.batch_norm(ln.concat((x, -x)) / 8, stats, training=True)
    assert y.dtype == stats["mean"].dtype == stats["var"].dtype == dtype


def test_norm_errors():
    x = ln.ones((2, 3))
    with pytest.raises(ShapeError, match=r"rms_norm: x is float32\[2, 3\]"):
        nn.rms_norm(x, ln.ones((2,)))
    with pytest.raises(ShapeError, match="layer_norm"):
        nn.layer_norm(x, None, ln.ones((2,)))
    statistics = nn.batch_norm_init(3)[1]
    with pytest.raises(ShapeError, match="axis 0"):
        nn.batch_norm(x, statistics, training=True, axis=0)
    with pytest.raises(ShapeError, match="no axis 2"):
        nn.batch_norm(x, statistics, training=True, axis=2)
    with pytest.raises(ShapeError, match="1 value for each feature"):
        nn.batch_norm(x[:1], statistics, training=True)


def test_statistics_carry_no_derivative():
    statistics = nn.batch_norm_init(3)[1]

    def f(x):
        return ln.sum(nn.batch_norm(x, statistics, training=True)[1]["var"])

    assert (array(ln.grad(f)(ln.asarray(drawn((4, 3))[0]))) == 0).all()


# Initialisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("normal", 1.0),
        ("xavier_normal", np.sqrt(2 / 700)),
        ("xavier_uniform", np.sqrt(2 / 700)),
        ("kaiming_normal", np.sqrt(2 / 400)),
        ("kaiming_uniform", np.sqrt(2 / 400)),
        ("uniform", np.sqrt(1 / 12)),
        ("truncated_normal", 0.8796),
    ],
)
def test_initialisers(name, deviation):
    f = getattr(nn.init, name)
    w = f(KEY, (300, 400), ln.float64)
    assert w.dtype == ln.float64 and w.shape == (300, 400)
    assert array(w).std() == pytest.approx(deviation, rel=0.01)
    assert f(KEY, (3, 4)).dtype == ln.float32
    assert f(KEY, (3, 4), ln.bfloat16).dtype == ln.bfloat16


def test_other_initialisers():
    assert array(nn.init.kaiming_normal(KEY, (8, 4, 10, 10), gain=1.0)).std() == pytest.approx(
        0.05, rel=0.02
    )
    for shape in ((3, 3), (2, 5), (5, 2), (2, 3, 2)):
        q = array(nn.init.orthogonal(KEY, shape, ln.float64, gain=2.0)).reshape(shape[0], -1)
        small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)
    # Uniform among rotations and reflections: the determinant has either sign.
    keys = ln.random.split(KEY, 40)
    signs = {float(np.sign(np.linalg.det(array(nn.init.orthogonal(k, (3, 3)))))) for k in keys}
    assert signs == {-1.0, 1.0}
    assert (array(nn.init.zeros(None, (2,))) == 0).all()
    assert (array(nn.init.ones(None, (2,), ln.float16)) == 1).all()
    with pytest.raises(ShapeError, match=r"expected \(outputs, inputs"):
        nn.init.xavier_normal(KEY, (3,))
