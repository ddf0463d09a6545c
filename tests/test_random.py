"""Random numbers: known answers, the documented definition, distributions, keys under vmap."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import lantern as ln
from lantern import random
from lantern.errors import DTypeError, ShapeError
from lantern.primitives.random import normal_quantile, philox
from lantern.testing import check_grads

KEY = random.key(1234)
N = 20000


def array(x):
    return np.asarray(x)


def fits(sample, cdf):
    """Kolmogorov-Smirnov; the keys are fixed, so this never fails by chance."""
    assert scipy.stats.kstest(array(sample).ravel(), cdf).pvalue > 1e-3


# Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, words):
    for wrap in (np.uint32, lambda w: np.full((3, 2), w, np.uint32)):
        found = philox(*map(wrap, key), *map(wrap, counter))
        assert all((array(f) == w).all() for f, w in zip(found, words, strict=True))


def by_definition(key, counter):
    """Philox4x32-10 in Python integers."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 % 2**32, p0 >> 32 ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


words = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None)
@given(key=st.tuples(words, words), counter=st.tuples(words, words, words, words))
def test_philox_is_its_definition(key, counter):
    found = philox(*map(np.uint32, (*key, *counter)))
    assert tuple(map(int, found)) == by_definition(key, counter)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(-(2**63), 2**64 - 1), count=st.integers(0, 19), data=st.integers(0, 2**40))
def test_documented_counters(seed, count, data):
    key = random.key(seed)
    low, high = seed % 2**64 % 2**32, seed % 2**64 >> 32
    assert array(key).tolist() == [low, high]
    blocks = [by_definition((low, high), (i, 0, 0, 0)) for i in range(10)]
    stream = [w for block in blocks for w in block]
    assert array(random.bits(key, (count,))).tolist() == stream[:count]
    assert array(random.bits(key, (count,), np.uint8)).tolist() == [w % 256 for w in stream[:count]]
    long = [a + (b << 32) for a, b in zip(stream[::2], stream[1::2], strict=True)]
    assert array(random.bits(key, (count,), np.uint64)).tolist() == long[:count]
    rows = [by_definition((low, high), (i, 0, 0, 1))[:2] for i in range(3)]
    assert array(random.split(key, 3)).tolist() == [list(r) for r in rows]
    folded = by_definition((low, high), (data % 2**32, data >> 32, 0, 2))[:2]
    assert array(random.fold_in(key, data)).tolist() == list(folded)
    assert array(random.fold_in(key, ln.asarray(np.int64(data)))).tolist() == list(folded)


def test_large_draws_are_chunks_of_the_stream():
    large = array(random.bits(KEY, (100_003,)))
    for i in (0, 32767, 32768, 32769, 65535, 65536, 100_002):
        block = by_definition(array(KEY).tolist(), (i // 4, 0, 0, 0))
        assert large[i] == block[i % 4]


@pytest.mark.parametrize("draw", [random.bits, random.uniform, random.normal, random.gumbel])
def test_shapes(draw):
    """A draw depends on the number of elements only, and a shorter one is a prefix."""
    flat = array(draw(KEY, (12,)))
    assert (array(draw(KEY, (3, 4))) == flat.reshape(3, 4)).all()
    assert (array(draw(KEY, (2, 3))).ravel() == flat[:6]).all()
    assert array(draw(KEY, ())) == flat[0]
    assert draw(KEY, (0, 3)).shape == (0, 3)


@pytest.mark.parametrize(("name", "m"), [("float16", 11), ("bfloat16", 8), ("float32", 24)])
def test_uniform_is_exact(name, m):
    dtype = np.dtype(name)
    stream = array(random.bits(KEY, (1000,))).astype(np.float64)
    u = random.uniform(KEY, (1000,), dtype)
    assert u.dtype == dtype
    assert (array(u).astype(np.float64) == np.floor(stream / 2 ** (32 - m)) / 2**m).all()
    u = random.uniform(KEY, (1000,), np.float64)
    long = array(random.bits(KEY, (1000,), np.uint64))
    assert (array(u) == (long >> np.uint64(11)) * 2.0**-53).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(name):
    dtype = np.dtype(name)
    for draw in (
        random.uniform,
        random.normal,
        random.truncated_normal,
        random.gumbel,
        random.exponential,
    ):
        for shape in ((), (5,)):
            x = draw(KEY, shape, dtype)
            assert x.dtype == dtype and x.shape == shape
            assert np.isfinite(array(x).astype(np.float64)).all()
    x = random.uniform(KEY, (5,), dtype, 2, 5)
    assert x.dtype == dtype and (array(x) >= 2).all() and (array(x) <= 5).all()
    bound = ln.asarray(np.array([2.0, 3.0], dtype))
    assert random.uniform(KEY, maxval=bound).dtype == dtype
    assert random.normal(KEY, loc=bound).dtype == dtype


def test_uniform_distribution():
    fits(random.uniform(KEY, (N,), np.float64), "uniform")
    fits(random.uniform(KEY, (N,), np.float32, -2, 3), scipy.stats.uniform(-2, 5).cdf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_distribution(dtype):
    x = array(random.normal(KEY, (N,), dtype)).astype(np.float64)
    fits(x, "norm")
    fits(array(random.normal(KEY, (N,), dtype, 3, 2)), scipy.stats.norm(3, 2).cdf)
    # The halves of the pairs are uncorrelated, and so are their squares.
    for f in (lambda v: v, np.square):
        assert abs(np.corrcoef(f(x[::2]), f(x[1::2]))[0, 1]) < 0.03
    assert abs(scipy.stats.kurtosis(x)) < 0.1


def test_normal_is_box_muller():
    bits = array(random.bits(KEY, (10,), np.uint64)) >> np.uint64(11)
    u, v = (bits[::2] + np.uint64(1)) * 2.0**-53, bits[1::2] * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * v
    expected = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1).ravel()
    np.testing.assert_allclose(array(random.normal(KEY, (9,), np.float64)), expected[:9], 1e-13)


@pytest.mark.parametrize("bounds", [(-2, 2), (-1, 3), (0.5, math.inf), (6, 7), (-math.inf, -9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_truncated_normal_distribution(bounds, dtype):
    x = array(random.truncated_normal(KEY, (N,), dtype, *map(float, bounds)))
    assert (x >= np.asarray(bounds[0], dtype)).all() and (x <= np.asarray(bounds[1], dtype)).all()
    fits(x.astype(np.float64), scipy.stats.truncnorm(*bounds).cdf)


def test_other_distributions():
    fits(random.gumbel(KEY, (N,)), "gumbel_r")
    fits(random.exponential(KEY, (N,), scale=2.0), scipy.stats.expon(scale=2).cdf)
    assert abs(array(random.bernoulli(KEY, 0.3, (N,))).mean() - 0.3) < 0.01
    p = ln.asarray([0.0, 1.0])
    assert array(random.bernoulli(KEY, p, (100, 2))).all(0).tolist() == [False, True]
    assert not array(random.bernoulli(KEY, p, (100, 2)))[:, 0].any()


def test_randint():
    x = array(random.randint(KEY, (N,), -3, 7))
    assert x.dtype == np.int64 and x.min() == -3 and x.max() == 6
    assert scipy.stats.chisquare(np.bincount(x + 3)).pvalue > 1e-3
    bits = array(random.bits(KEY, (5,), np.uint64))
    assert (array(random.randint(KEY, (5,), 0, 10)) == (bits % 10).astype(int)).all()
    whole = random.randint(KEY, (5,), -(2**63), 2**63)
    assert (array(whole) == (bits + np.uint64(2**63)).astype(np.int64)).all()
    assert array(random.randint(KEY, (5,), 0, 2**64, np.uint64)).tolist() == bits.tolist()
    small = array(random.randint(KEY, (1000,), -128, 128, np.int8))
    assert small.dtype == np.int8 and small.min() == -128 and small.max() == 127
    assert random.randint(KEY, (), 5, 6).item() == 5
    low, high = ln.asarray([[-5], [10]]), ln.asarray([0, 11, 12])
    x = array(random.randint(KEY, (2, 3), ln.minimum(low, high - 1), high))
    assert (x < array(high)).all()
    assert random.randint(KEY, (), ln.asarray(-7), ln.asarray(-6)).item() == -7


def test_categorical():
    logits = ln.asarray(
        np.log([0.1, 0.0, 0.6, 0.3], where=[True, False, True, True], out=np.full(4, -np.inf))
    )
    drawn = array(random.categorical(KEY, ln.broadcast_to(logits, (N, 4))))
    counts = np.bincount(drawn, minlength=4)
    assert drawn.dtype == np.int64 and counts[1] == 0
    assert scipy.stats.chisquare(counts[[0, 2, 3]], N * np.array([0.1, 0.6, 0.3])).pvalue > 1e-3
    assert random.categorical(KEY, ln.zeros((3, 5, 2)), axis=1).shape == (3, 2)
    gradient = ln.grad(lambda x: ln.sum(ln.astype(random.categorical(KEY, x), ln.float32) * x[0]))
    assert gradient(ln.zeros((4,))).shape == (4,)


def test_permutation():
    order = array(random.permutation(KEY, 1000))
    assert sorted(order.tolist()) == list(range(1000)) and (order != np.arange(1000)).any()
    x = np.arange(24.0).reshape(4, 6)
    for axis in (0, 1, -1):
        y = array(random.permutation(KEY, ln.asarray(x), axis=axis))
        assert (np.sort(y, axis=axis) == x).all()
    firsts = [int(random.permutation(k, 4)[0].item()) for k in random.split(KEY, 400)]
    assert scipy.stats.chisquare(np.bincount(firsts)).pvalue > 1e-3
    g = ln.grad(lambda v: ln.sum(random.permutation(KEY, v) * ln.arange(5.0)))(ln.ones((5,)))
    assert sorted(array(g).tolist()) == [0, 1, 2, 3, 4]


def test_choice():
    assert sorted(array(random.choice(KEY, 6, (2, 3), replace=False)).ravel().tolist()) == [
        *range(6)
    ]
    p = np.array([0.1, 0.0, 0.7, 0.2])
    drawn = array(random.choice(KEY, 4, (N,), p=ln.asarray(p)))
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0 and abs(counts / N - p).max() < 0.02
    some = random.choice(
        KEY, ln.asarray([1.0, 2.0, 3.0]), (2,), replace=False, p=ln.asarray([1.0, 0.0, 9.0])
    )
    assert sorted(array(some).tolist()) == [1, 3]
    assert random.choice(KEY, ln.zeros((5, 2)), (3,)).shape == (3, 2)
    with pytest.raises(ValueError, match="5 of 4"):
        random.choice(KEY, 4, (5,), replace=False)
    with pytest.raises(ShapeError, match="expected shape"):
        random.choice(KEY, 4, (5,), p=ln.ones((3,)))


def test_keys_are_independent():
    keys = [*random.split(KEY, 20), *(random.fold_in(KEY, i) for i in range(20)), KEY]
    assert len({tuple(array(k).tolist()) for k in keys}) == 41
    draws = np.stack([array(random.uniform(k, (2000,))) for k in keys])
    correlation = np.corrcoef(draws) - np.eye(41)
    assert abs(correlation).max() < 5 / math.sqrt(2000)
    # Numbers at one place, over many keys, are as good as numbers along one draw.
    first = ln.vmap(lambda k: random.uniform(k))(random.split(KEY, 5000))
    fits(first, "uniform")
    folded = ln.vmap(lambda i: random.uniform(random.fold_in(KEY, i)))(ln.arange(5000))
    fits(folded, "uniform")
    seeds = ln.vmap(lambda s: random.uniform(random.key(s)))(ln.arange(5000))
    fits(seeds, "uniform")
    # One flipped bit of the key flips half of the bits.
    a, b = (array(random.bits(random.key(s), (1000,))) for s in (6, 7))
    assert abs(np.mean(np.bitwise_count(a ^ b)) - 16) < 0.5


@pytest.mark.parametrize(
    "draw",
    [
        lambda k: random.split(k, 3),
        lambda k: random.fold_in(k, 7),
        lambda k: random.bits(k, (2, 3), np.uint64),
        lambda k: random.uniform(k, (5,), np.float64, -1, 1),
        lambda k: random.normal(k, (3,)),
        lambda k: random.truncated_normal(k, (3,)),
        lambda k: random.randint(k, (3,), -5, 5),
        lambda k: random.bernoulli(k, 0.5, (8,)),
        lambda k: random.categorical(k, ln.asarray([[0.0, 1.0], [2.0, 1.0]])),
        lambda k: random.gumbel(k, ()),
        lambda k: random.exponential(k, (2,)),
        lambda k: random.permutation(k, 6),
        lambda k: random.permutation(k, ln.asarray([1.0, 2.0, 3.0])),
        lambda k: random.choice(k, 6, (4,)),
    ],
)
def test_vmap_over_keys(draw):
    keys = random.split(KEY, 4)
    expected = np.stack([array(draw(k)) for k in keys])
    assert (array(ln.vmap(draw)(keys)) == expected).all()
    nested = ln.vmap(ln.vmap(draw))(ln.reshape(keys, (2, 2, 2)))
    assert (array(nested).reshape(expected.shape) == expected).all()


def test_vmap_over_parameters():
    scale = ln.asarray([1.0, 2.0, 4.0])
    x = array(ln.vmap(lambda s: random.normal(KEY, (3,), scale=s))(scale))
    assert (x == np.outer(array(scale), x[0])).all()
    folded = ln.vmap(lambda i: random.fold_in(KEY, i))(ln.arange(3))
    assert array(folded).tolist() == [array(random.fold_in(KEY, i)).tolist() for i in range(3)]


def test_gradients():
    low, high = ln.asarray([0.5, 1.0]), ln.asarray(3.0)
    check_grads(lambda a, b: random.uniform(KEY, (2,), np.float64, a, b) ** 2, (low, high))
    check_grads(lambda a, b: random.normal(KEY, (2,), np.float64, a, b) ** 2, (low, high))
    check_grads(lambda s: random.exponential(KEY, (2,), np.float64, s) ** 2, (low,))
    check_grads(lambda a, b: random.truncated_normal(KEY, (2,), np.float64, a, b), (low, high))
    check_grads(normal_quantile, (ln.asarray([0.1, 0.4, 0.5, 0.97, 1e-3]),), eps=1e-6, rtol=1e-5)
    key = random.key(0)
    assert ln.grad(lambda x, k: x * random.uniform(k))(2.0, key).dtype == np.float32


def test_quantile():
    p = np.concatenate([np.random.default_rng(0).random(1000), 10.0 ** -np.arange(1, 300, 7)])
    p = np.concatenate([p, 1 - 10.0 ** -np.arange(1.0, 16), [0, 1, 0.5]])
    np.testing.assert_allclose(normal_quantile(p), scipy.special.ndtri(p), rtol=3e-15, atol=1e-15)
    batch = ln.vmap(normal_quantile)(ln.asarray(p))
    np.testing.assert_array_equal(array(batch), normal_quantile(p))
    assert normal_quantile(p.astype(ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


def test_errors():
    with pytest.raises(DTypeError, match=r"a random key is uint32\[2\].*float32\[3\]"):
        random.uniform(ln.ones((3,)))
    with pytest.raises(DTypeError, match="vmap"):
        random.uniform(random.split(KEY))
    with pytest.raises(DTypeError, match="expected a floating one"):
        random.normal(KEY, (2,), np.int32)
    with pytest.raises(DTypeError, match="expected an unsigned integer"):
        random.bits(KEY, (2,), np.int32)
    with pytest.raises(DTypeError, match="expected an integer"):
        random.randint(KEY, (2,), 0, 2, np.float32)
    with pytest.raises(DTypeError, match="expected one integer"):
        random.fold_in(KEY, 0.5)
    with pytest.raises(ShapeError, match=r"\[3\].*\[2\]"):
        random.uniform(KEY, (2,), minval=ln.zeros((3,)))
    for low, high, dtype in ((3, 3, np.int64), (0, 300, np.uint8), (-1, 3, np.uint8)):
        with pytest.raises(ValueError, match="minval < maxval within"):
            random.randint(KEY, (2,), low, high, dtype)
    with pytest.raises(ShapeError, match="no axis 1"):
        random.permutation(KEY, ln.zeros((3,)), axis=1)
    with pytest.raises(ValueError, match="permutation of -1 integers"):
        random.permutation(KEY, -1)
    with pytest.raises(ValueError, match="split: -1 keys"):
        random.split(KEY, -1)
