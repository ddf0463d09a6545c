"""Every primitive, compiled: the values, derivatives and batches of the eager one, or a refusal."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from test_primitives import PRIMITIVES, RULES, examples, is_floating, parts

import lantern as ln
import lantern.primitives.elementwise as e
import lantern.primitives.indexing as p
from lantern.control import Primitive
from lantern.errors import LanternError, StagingError
from lantern.staged.lowerings import LOWERINGS
from lantern.tensor import Tensor
from staging.text import parse_program, print_program

compile = functools.partial(ln.compile, backend="interpreter")

LOWERED = {name: prim for name, prim in PRIMITIVES.items() if prim in LOWERINGS}
SMOOTH = [name for name in LOWERED if name in RULES]
FLOATS = (np.float64, np.float32, np.float16, ln.bfloat16)


def test_every_primitive_is_lowered() -> None:
    assert not set(PRIMITIVES.values()) - set(LOWERINGS)


def same(got, want, ulps: int, what: str = "") -> None:
    """The same structure, dtypes and shapes; floats to some units in the last place."""
    got, want = ln.tree.leaves(got), ln.tree.leaves(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), what
        a, b = np.asarray(a), np.asarray(b)
        if b.dtype.kind in "biu":
            np.testing.assert_array_equal(a, b, what)
            continue
        eps = ln.finfo(b.dtype).eps
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = np.max(np.abs(b), where=np.isfinite(b), initial=0)
        np.testing.assert_allclose(
            a, b, rtol=ulps * eps, atol=scale * ulps * eps / 16, err_msg=what
        )


def cases(name: str) -> list:
    """The examples of a primitive; the softmax of attention takes matrices only."""
    found = examples(name)
    return [c for c in found if ("softmax_" not in name and "_softmax" not in name) or
            np.ndim(c[0][0]) > 1 or name == "log_softmax"]  # fmt: skip


def function(prim: Primitive, values, params):
    """The primitive as a function of its floating operands, and these."""
    places = [i for i, v in enumerate(values) if is_floating(v)]

    def f(*xs):
        full = [Tensor(np.asarray(v)[()]) if hasattr(v, "dtype") else v for v in values]
        for i, x in zip(places, xs, strict=True):
            full[i] = x
        return prim.perform(*full, **params)

    return f, [ln.asarray(values[i]) for i in places]


def derivatives(f):
    """The value of ``f``, its gradient and second derivative along fixed weights, and a batch."""

    def weighted(*xs):
        return sum(ln.sum(y * ln.cos(y * 3.0)) for y in parts(f(*xs)))

    def slope(*xs):
        found = ln.grad(weighted, argnums=tuple(range(len(xs))))(*xs)
        return sum(ln.sum(g * g) for g in found), found

    def everything(*xs):
        second, first = ln.grad(slope, argnums=tuple(range(len(xs))), has_aux=True)(*xs)
        batches = [ln.stack([x, x * 0.9]) for x in xs]
        one = ln.vmap(f, in_axes=(0, *(None,) * (len(xs) - 1)))(batches[0], *xs[1:])
        return {"value": f(*xs), "first": first, "second": second,
                "batch": ln.vmap(f)(*batches), "one": one}  # fmt: skip

    return everything


@pytest.mark.parametrize("name", SMOOTH)
def test_values_derivatives_and_batches(name) -> None:
    prim = PRIMITIVES[name]
    for values, params in cases(name):
        f, xs = function(prim, values, params)
        program = derivatives(f)
        got, want = compile(program)(*xs), program(*xs)
        same(got["value"], want["value"], 8, "value")
        for what in ("first", "second", "batch", "one"):
            same(got[what], want[what], 4096, what)


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", SMOOTH)
def test_values_in_other_dtypes(name, dtype) -> None:
    if name == "masked_softmax" and dtype is np.float16:
        pytest.skip("-1e30 is no float16: attention computes its scores in float32 at least")
    for values, params in cases(name)[:2]:
        f, xs = function(PRIMITIVES[name], values, params)
        xs = [ln.astype(x, dtype) for x in xs]
        same(compile(f)(*xs), f(*xs), 8)


# Edge values --------------------------------------------------------------------------------------

EDGES = np.asarray(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 7.0, -7.0, 1e-30, -1e-30, 1e-3, 30.0,
     -30.0, 88.9, -88.9, 1e30, -1e30, 1e38, np.inf, -np.inf, np.nan]
)  # fmt: skip
UNARY = [
    "absolute", "negative", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt",
    "sigmoid", "sin", "cos", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
    "atanh", "sign", "floor", "ceil", "trunc", "round_", "signbit", "isnan", "isinf", "isfinite",
    "logical_not", "erf", "erfc", "lgamma", "digamma", "normal_quantile",
]  # fmt: skip
BINARY = [
    "add", "subtract", "multiply", "divide", "remainder", "floor_divide", "maximum", "minimum",
    "copysign", "logaddexp", "atan2", "hypot", "nextafter", "equal", "not_equal", "less",
    "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor", "power",
]  # fmt: skip


def alike(got, want, ulps: int) -> None:
    """`same`, element by element, and signs of zeros too."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype
    if want.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want) & ~np.isnan(want) |
                                      np.signbit(got) & np.isnan(want))  # fmt: skip
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        np.testing.assert_array_max_ulp(got[finite], want[finite], ulps)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", UNARY)
def test_edge_values(name, dtype) -> None:
    prim = PRIMITIVES[name]
    x = ln.asarray(EDGES.astype(dtype))
    with np.errstate(all="ignore"):
        alike(compile(prim.perform)(x), prim.perform(x), 8 if name in ("log2", "log10") else 4)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", BINARY)
def test_edge_pairs(name, dtype) -> None:
    prim = PRIMITIVES[name]
    x, y = (ln.asarray(v.astype(dtype).ravel()) for v in np.meshgrid(EDGES, EDGES))
    with np.errstate(all="ignore"):
        alike(compile(prim.perform)(x, y), prim.perform(x, y), 4)


@pytest.mark.parametrize("exponent", (0, 1, 2, 3, 4, 7, -1, -2, -3, 0.5, -0.5, 1.5))
def test_constant_exponents(exponent) -> None:
    x = ln.asarray(EDGES)
    with np.errstate(all="ignore"):
        alike(compile(lambda v: v**exponent)(x), x**exponent, 4)


# Integers and booleans ----------------------------------------------------------------------------

INTEGERS = (np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: np.dtype(d).name)
def test_integers(dtype) -> None:
    limits = np.iinfo(dtype)
    edges = np.asarray([0, 1, 2, 3, 7, 31, 100, limits.max - 1, limits.max, limits.min,
                        limits.min + 1], dtype)  # fmt: skip
    x, y = (ln.asarray(v.ravel()) for v in np.meshgrid(edges, edges))
    binary = (
        e.add, e.subtract, e.multiply, e.floor_divide, e.remainder, e.maximum, e.minimum, e.equal,
        e.not_equal, e.less, e.less_equal, e.greater, e.greater_equal, e.logical_and, e.logical_or,
        e.logical_xor, e.bitwise_and, e.bitwise_or, e.bitwise_xor, e.bitwise_left_shift,
        e.bitwise_right_shift,
    )  # fmt: skip
    unary = (
        e.negative, e.absolute, e.sign, e.floor, e.ceil, e.trunc, e.round_, e.isnan, e.isinf,
        e.isfinite, e.logical_not, e.bitwise_invert,
    )  # fmt: skip

    def everything(x, y):
        found = [f(x, y) for f in binary] + [f(x) for f in unary]
        found += [x**3, x < 1000, x == 1000, x <= 1000, x > -1000, ln.cumulative_sum(x)]
        found += [ln.sum(x), ln.prod(x), ln.max(x), ln.min(x), ln.argmax(x), ln.any(x), ln.all(x)]
        return [*found, ln.count_nonzero(x), ln.argsort(x, descending=True), ln.sort(x)]

    with np.errstate(all="ignore"):
        same(compile(everything)(x, y), everything(x, y), 0)


def test_an_integer_power_with_an_exponent_known_at_run_time() -> None:
    x, y = (ln.asarray(v.ravel()) for v in np.meshgrid(np.arange(-4, 5), np.arange(7)))
    same(compile(ln.pow)(x, y), x**y, 0)
    assert compile(ln.pow)(ln.asarray([2, 1, -1, -1]), ln.asarray([-1, -5, -2, -3])).tolist() == [
        0, 1, 1, -1,
    ]  # fmt: skip


def test_booleans() -> None:
    x, y = ln.asarray([True, True, False, False]), ln.asarray([True, False, True, False])

    def everything(x, y):
        found = [f(x, y) for f in (e.logical_and, e.logical_or, e.bitwise_xor, e.equal, e.less)]
        return [*found, ln.where(x, y, x), ~x, ln.any(x), ln.all(y), ln.sum(x), ln.sort(x),
                x * 2.0, x + 1, ln.astype(x, ln.int8), ln.any(x[:0]), ln.all(x[:0])]  # fmt: skip

    same(compile(everything)(x, y), everything(x, y), 0)


@pytest.mark.parametrize("source", (*INTEGERS, bool, *FLOATS), ids=lambda d: np.dtype(d).name)
def test_casts(source) -> None:
    x = ln.asarray(np.asarray([0, 1, 2, 100]).astype(source))

    def everything(x):
        return [ln.astype(x, d) for d in (*INTEGERS, bool, *FLOATS)]

    same(compile(everything)(x), everything(x), 0)


# Indexing and order -------------------------------------------------------------------------------

TABLE = np.arange(60.0).reshape(3, 4, 5)
KEYS = [
    np.s_[1], np.s_[-1, :, 2], np.s_[::-1], np.s_[::2, 3:0:-2], np.s_[..., ::-2], np.s_[1:1],
    np.s_[:, None, 2:3], np.s_[[0, 2, 0]], np.s_[:, [1, 1], [0, -1]], np.s_[[[0], [1]], :, [1, 2]],
    np.s_[5:2:-1],
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_keys(key) -> None:
    x = ln.asarray(TABLE)

    def everything(x):
        u = x.at[key]
        return (
            x[key],
            u.set(-1.0),
            u.add(2.0),
            u.multiply(x[key]),
            u.max(30.0),
            ln.grad(lambda v: ln.sum(v[key] ** 2) + ln.sum(v.at[key].set(v[key] * v[key])))(x),
        )

    same(compile(everything)(x), everything(x), 2)


def test_run_time_indices() -> None:
    x, i = ln.asarray(TABLE), ln.asarray([2, -1, 0, -3])

    def everything(x, i):
        y = x.at[i].set(ln.sin(x[i]))
        return (
            x[i], y, ln.take(x, i, axis=1), x.at[:, i, 1].add(1.0), x.at[i].min(7.0),
            ln.take_along_axis(x, i[:, None][:3, :, None] % 4, axis=1),
            ln.vmap(lambda k: x[k])(i), ln.grad(lambda v: ln.sum(v.at[i].set(v[i] ** 2)))(x),
            x[i[0]], x[0, i[1]],
        )  # fmt: skip

    same(compile(everything)(x, i), everything(x, i), 4)
    same(compile(everything)(x, ln.astype(i % 3, ln.uint8)), everything(x, i % 3), 4)


@pytest.mark.parametrize("index", (3, -4, 2**62))
def test_a_run_time_index_out_of_range_is_an_error_of_the_run(index) -> None:
    read = compile(lambda x, i: x[i])
    written = compile(lambda x, i: x.at[i].set(0.0))
    for f in (read, written):
        with pytest.raises(IndexError, match=r"(?s)out of range.*test_lowerings"):
            f(ln.asarray(TABLE), ln.asarray([index]))
    if index > 0:
        with pytest.raises(IndexError, match="out of range"):
            read(ln.asarray(TABLE), ln.asarray([index], dtype=ln.uint64))


ORDERED = [
    np.asarray([[3.0, np.nan, -0.0, 0.0, np.inf, 1.0, 1.0], [2.0, -np.inf, 2.0, np.nan, 0, 5, 4]]),
    np.asarray([[3, -128, 0, 0, 127, 1, 1], [2, 9, 2, 1, 0, 5, 4]], np.int8),
    np.asarray([[3, 255, 0, 0, 127, 1, 1], [2, 9, 2, 1, 0, 5, 4]], np.uint8),
]


@pytest.mark.parametrize("x", ORDERED, ids=lambda x: x.dtype.name)
def test_order(x) -> None:
    def everything(x):
        rows = ln.sort(x, axis=1)
        found = [ln.argsort(x, axis=a, descending=d) for a in (0, 1) for d in (False, True)]
        for side in ("left", "right"):
            found.append(ln.searchsorted(rows[0], x[1], side=side))
            found.append(ln.vmap(lambda r, v, s=side: ln.searchsorted(r, v, side=s))(rows, x))
        return [*found, ln.argmax(x, axis=1), ln.argmin(x, axis=0)]

    for dtype in {x.dtype, x.dtype if x.dtype.kind != "f" else np.dtype(ln.bfloat16)}:
        y = ln.astype(ln.asarray(x), dtype)
        same(compile(everything)(y), everything(y), 0)


def test_last_writes_of_repeated_indices() -> None:
    i, j = ln.asarray([[0], [1], [0]]), ln.asarray([1, 2, 1])
    f = functools.partial(p.last_writes, shape=(2, 3))
    same(compile(f)(i, j), f(i, j), 0)
    assert compile(f)(i[:, :0], j[:0]).shape == (3, 0)


# Empty arrays -------------------------------------------------------------------------------------


def test_arrays_without_elements() -> None:
    x = ln.asarray(np.zeros((0, 3)))

    def everything(x):
        return (
            ln.sum(x, axis=0), ln.prod(x, axis=0), ln.any(x, axis=0), ln.all(x, axis=0),
            ln.softmax(x, axis=1), ln.logsumexp(x, axis=0), ln.cumulative_sum(x, axis=0),
            ln.flip(x), x[:, ::-1], ln.concat([x, x + 1.0]), x @ ln.ones((3, 2)),
            ln.sort(x, axis=0), ln.pad(x, 1), ln.searchsorted(x[:, 0], ln.ones(2)),
        )  # fmt: skip

    with np.errstate(all="ignore"):
        same(compile(everything)(x), everything(x), 0)
    with pytest.raises(LanternError, match="no elements"):
        compile(lambda v: ln.max(v, axis=0))(x)


# What is not known while compiling ----------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    (
        lambda x: x if x[0] > 0 else -x,
        lambda x: float(x[0]),
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: np.asarray(x),
        lambda x: np.sin(np.asarray(x)),
        lambda x: ln.nonzero(x),
        lambda x: ln.unique_values(x),
        lambda x: x[x > 0],
        lambda x: ln.repeat(x, ln.astype(x, int)),
        lambda x: range(ln.astype(x, int)[0]),
        lambda x: f"{x[0]:.3f}",
        lambda x: ln.vmap(lambda v: float(ln.stop_gradient(v)))(x[None]),
        lambda x: ln.grad(lambda v: v * (1.0 if v > 0 else 2.0))(x[0]),
    ),
)
def test_reading_a_value_says_what_to_do(f) -> None:
    with pytest.raises((StagingError, ln.errors.BatchingError), match=r"(?s)ln\.where.*test_low"):
        compile(f)(ln.asarray([1.0, 2.0]))


def test_a_tensor_prints_as_its_type_while_compiling() -> None:
    seen = []
    compile(lambda x: seen.append(f"{x} {x!r}") or x)(ln.asarray([1.0, 2.0]))
    assert seen == ["Tensor(float32[2], known when it runs) " * 2][:0] or "float32[2]" in seen[0]


def test_programs_print_and_parse() -> None:
    program = compile(ln.grad(lambda x: ln.sum(ln.lgamma(x) * ln.logsumexp(x)))).ir(ln.ones(3))
    assert print_program(parse_program(program)) == program
