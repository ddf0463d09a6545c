"""Attention against PyTorch and a loop, and rotary embedding against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_peer import compare, drawn

import lantern as ln
from lantern import nn
from lantern.errors import DTypeError, ShapeError
from lantern.testing import check_grads


def array(x):
    return np.asarray(x)


def by_loop(q, k, v, allowed, scale):
    """One query at a time; ``allowed`` is (B, H, T, S)."""
    b, t, h, _ = q.shape
    out = np.zeros((b, t, h, v.shape[3]))
    for i, j, n in np.ndindex(b, t, h):
        m = n // (h // k.shape[2])
        keep = allowed[i, n, j]
        if keep.any():
            scores = k[i, keep, m] @ q[i, j, n] * scale
            p = np.exp(scores - scores.max())
            out[i, j, n] = p / p.sum() @ v[i, keep, m]
    return out


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_against_a_loop(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    b, heads, group, t, d, e = (draw(1, 3) for _ in range(6))
    s = t + draw(0, 2)
    rng = np.random.default_rng(draw(0, 99))
    q = rng.standard_normal((b, t, heads * group, d))
    k = rng.standard_normal((b, s, heads, d))
    v = rng.standard_normal((b, s, heads, e))
    allowed = np.ones((b, heads * group, t, s), bool)
    options = {}
    if data.draw(st.booleans()):
        options["causal"] = True
        allowed &= np.arange(s) <= np.arange(s - t, s)[:, None]
    if data.draw(st.booleans()):
        of_q, of_k = rng.integers(0, 2, (b, t)), rng.integers(0, 2, (b, s))
        of_k = of_q if s == t else of_k
        options["segment_ids"] = of_q if s == t else (of_q, of_k)
        allowed &= (of_q[:, :, None] == of_k[:, None])[:, None]
    if data.draw(st.booleans()):
        shape = [n if data.draw(st.booleans()) else 1 for n in allowed.shape]
        mask = rng.random(shape[draw(0, 2) :] if shape[0] == shape[1] == 1 else shape) < 0.6
        options["mask"] = mask
        allowed &= mask
    scale = data.draw(st.none() | st.just(0.3))
    y = nn.attention(*map(ln.asarray, (q, k, v)), scale=scale, **options)
    expected = by_loop(q, k, v, allowed, scale or 1 / math.sqrt(d))
    np.testing.assert_allclose(array(y), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["full", "causal", "mask", "documents"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
def test_against_pytorch(kind, heads, kv_heads):
    torch = pytest.importorskip("torch")
    b, t, d = 2, 5, 4
    q, k, v = drawn((b, t, heads, d), (b, t, kv_heads, d), (b, t, kv_heads, d))
    documents = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
    mask = np.random.default_rng(1).random((b, heads, t, t)) < 0.7
    mask |= np.eye(t, dtype=bool)
    options, theirs = {
        "full": ({}, {}),
        "causal": ({"causal": True}, {"is_causal": True}),
        "mask": ({"mask": mask}, {"attn_mask": torch.tensor(mask)}),
        "documents": (
            {"causal": True, "segment_ids": documents},
            {
                "attn_mask": torch.tensor(
                    (documents[:, None, :, None] == documents[:, None, None])
                    & np.tri(t, dtype=bool)
                )
            },
        ),
    }[kind]

    def peer(*qkv):
        y = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in qkv), enable_gqa=True, **theirs
        )
        return y.transpose(1, 2)

    compare(lambda *qkv: nn.attention(*qkv, **options), peer, q, k, v)


@pytest.mark.parametrize("options", [{}, {"causal": True, "segment_ids": [[0, 0, 1]]}])
def test_to_second_order(options):
    q, k, v = drawn((1, 3, 2, 2), (1, 3, 1, 2), (1, 3, 1, 2))
    check_grads(lambda *qkv: nn.attention(*qkv, **options), (q, k, v), rtol=1e-5)


def test_nothing_allowed():
    """A position that may attend to nothing: zeros, and no derivative; no nan."""
    q, k, v = map(ln.asarray, drawn((1, 2, 1, 3), (1, 2, 1, 3), (1, 2, 1, 3)))
    mask = ln.asarray([[False, False], [True, True]])
    y = nn.attention(q, k, v, mask=mask)
    assert (array(y)[0, 0] == 0).all() and (array(y)[0, 1] != 0).all()
    dq, dk, dv = ln.grad(
        lambda *qkv: ln.sum(nn.attention(*qkv, mask=mask)[0, 0] ** 2), argnums=(0, 1, 2)
    )(q, k, v)
    assert not any(array(g).any() for g in (dq, dk, dv))


def test_huge_scores():
    q, k, v = (1e3 * ln.asarray(x) for x in drawn((1, 3, 1, 2), (1, 3, 1, 2), (1, 3, 1, 2)))
    y, g = ln.value_and_grad(lambda q: ln.sum(nn.attention(q, k, v, causal=True)))(q)
    assert np.isfinite(array(y)) and np.isfinite(array(g)).all()


@pytest.mark.parametrize("dtype", [ln.float16, ln.bfloat16, ln.float32])
def test_dtypes(dtype):
    q, k, v = (ln.astype(ln.asarray(x), dtype) for x in drawn(*[(1, 3, 2, 4)] * 3))
    y = nn.attention(q, k, v, causal=True)
    exact = nn.attention(*(ln.astype(x, ln.float64) for x in (q, k, v)), causal=True)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        array(y).astype(float), array(exact), atol=4 * float(ln.finfo(dtype).eps)
    )
    assert ln.grad(lambda q: ln.sum(nn.attention(q, k, v)))(q).dtype == dtype


def test_under_vmap():
    q, k, v = map(ln.asarray, drawn((3, 2, 4, 2, 2), (3, 2, 4, 1, 2), (3, 2, 4, 1, 2)))
    ids = ln.asarray(np.random.default_rng(0).integers(0, 2, (3, 2, 4)))

    def f(q, k, v, ids):
        return nn.attention(q, k, v, causal=True, segment_ids=ids)

    def slope(q, k, v, ids):
        return ln.grad(lambda k: ln.sum(f(q, k, v, ids) ** 2))(k)

    for g in (f, slope):
        found = array(ln.vmap(g)(q, k, v, ids))
        expected = [array(g(q[i], k[i], v[i], ids[i])) for i in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        found = array(ln.vmap(g, in_axes=(0, None, None, None))(q, k[0], v[0], ids[0]))
        expected = [array(g(q[i], k[0], v[0], ids[0])) for i in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_cache_of_keys():
    """The last positions, with the keys of all: what the whole sequence gives there."""
    q, k, v = map(ln.asarray, drawn((2, 6, 2, 4), (2, 6, 1, 4), (2, 6, 1, 4)))
    whole = nn.attention(q, k, v, causal=True)
    last = nn.attention(q[:, 4:], k, v, causal=True)
    np.testing.assert_allclose(array(last), array(whole)[:, 4:], rtol=1e-12)


def test_errors():
    q, k = ln.ones((2, 3, 4, 8)), ln.ones((2, 5, 2, 8))
    with pytest.raises(ShapeError, match="K a divisor of H"):
        nn.attention(q, ln.ones((2, 5, 3, 8)), ln.ones((2, 5, 3, 8)))
    with pytest.raises(ShapeError, match=r"q is float32\[3, 4, 8\]"):
        nn.attention(q[0], k, k)
    with pytest.raises(ShapeError, match="segment_ids are"):
        nn.attention(q, k, k, segment_ids=ln.zeros((2, 3), dtype=ln.int64))
    with pytest.raises(ShapeError, match=r"broadcasts to \[2, 4, 3, 5\]"):
        nn.attention(q, k, k, mask=ln.full((3, 3), True))
    with pytest.raises(DTypeError, match="expected bool"):
        nn.attention(q, k, k, mask=ln.ones((3, 5)))


# Rotary embedding -------------------------------------------------------------------------------


def test_rope_is_a_rotation_by_the_position():
    x = drawn((2, 5, 3, 6))[0]
    f = array(nn.rope_frequencies(6, theta=100.0))
    np.testing.assert_allclose(f, 100.0 ** -(np.arange(3) / 3))
    positions = np.array([[0, 1, 2, 0, 7], [3, 4, 5, 6, 100]])
    z = x[..., :3] + 1j * x[..., 3:]
    z = z * np.exp(1j * positions[:, :, None, None] * f)
    expected = np.concatenate((z.real, z.imag), axis=-1)
    y = nn.apply_rope(ln.asarray(x), positions, f)
    np.testing.assert_allclose(array(y), expected, rtol=1e-12)
    shared = nn.apply_rope(ln.asarray(x), positions[0], f)
    np.testing.assert_allclose(array(shared)[0], expected[0], rtol=1e-12)
    assert nn.apply_rope(ln.ones((1, 2, 1, 6)), ln.arange(2), f).dtype == ln.float32
    check_grads(lambda x: nn.apply_rope(x, positions, f) ** 2, (x,))
    check_grads(lambda x, f: nn.apply_rope(x, positions[:, :2], f), (x[:, :2], f), rtol=1e-5)


def test_rope_depends_on_differences_of_positions():
    q, k = map(ln.asarray, drawn((1, 4, 1, 8), (1, 4, 1, 8)))
    f = nn.rope_frequencies(8)

    def scores(shift):
        at = ln.arange(4) + shift
        a, b = nn.apply_rope(q, at, f)[0, :, 0], nn.apply_rope(k, at, f)[0, :, 0]
        return array(a @ b.T)

    np.testing.assert_allclose(scores(0), scores(100_000), rtol=1e-9)


def test_llama3_scaling():
    """The three cases of the published function, frequency by frequency."""
    plain = array(nn.rope_frequencies(128))
    scaled = array(nn.rope_frequencies(128, scaling=nn.Llama3Scaling()))
    kinds = set()
    for f, g in zip(plain, scaled, strict=True):
        wavelength = 2 * math.pi / f
        if wavelength < 8192 / 4:
            kinds.add("kept")
            assert g == pytest.approx(f, rel=1e-14)
        elif wavelength > 8192:
            kinds.add("stretched")
            assert g == pytest.approx(f / 8, rel=1e-14)
        else:
            kinds.add("between")
            smooth = (8192 / wavelength - 1) / (4 - 1)
            assert g == pytest.approx((1 - smooth) * f / 8 + smooth * f, rel=1e-13)
    assert len(kinds) == 3


def test_rope_errors():
    x, f = ln.ones((2, 3, 1, 4)), nn.rope_frequencies(4)
    with pytest.raises(ShapeError, match="even"):
        nn.rope_frequencies(3)
    for bad in (
        lambda: nn.apply_rope(x, ln.arange(4), f),
        lambda: nn.apply_rope(x[0], ln.arange(3), f),
        lambda: nn.apply_rope(x, ln.arange(3), nn.rope_frequencies(6)),
        lambda: nn.apply_rope(ln.ones((2, 3, 1, 5)), ln.arange(3), f),
    ):
        with pytest.raises(ShapeError, match=r"expected \(B, T, H, D\)"):
            bad()
