"""Everything compiles, and is the same: eagerly, by the reference interpreter and as native code.

Primitives: values, first and second derivatives and batches of every example, other dtypes, edge
values. Public functions: every one, or it is listed with the reason why it is not compiled.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from function_cases import CASES, NOT_COMPILED, VALUES_ONLY, arguments
from test_primitives import FOLDED, PRIMITIVES, RULES, SYMMETRIC, examples, is_floating, parts
from test_public_api import FUNCTIONS
from three_ways import agree, same, staged

import lantern as ln
import lantern.primitives.elementwise as e
import lantern.primitives.indexing as p
from lantern.control import Primitive
from lantern.errors import LanternError
from lantern.primitives import decompositions
from lantern.staged.lowerings import LOWERINGS
from lantern.tensor import Tensor

SMOOTH = sorted(name for name, prim in PRIMITIVES.items() if prim in LOWERINGS and name in RULES)
FLOATS = (np.float64, np.float32, np.float16, ln.bfloat16)
MATRIX = {f.__name__ for f in vars(decompositions).values() if hasattr(f, "primitive")}
SHARDS = 8  # programs that the primitives are compiled in


def shard(names, number):
    """Every so many-th name."""
    return list(names)[number::SHARDS]


# Derivatives and batches of primitives ------------------------------------------------------------


def cases(name: str) -> list:
    """The examples of a primitive; the softmax of attention takes matrices only."""
    found = examples(name)
    return [c for c in found if ("softmax_" not in name and "_softmax" not in name) or
            np.ndim(c[0][0]) > 1 or name == "log_softmax"]  # fmt: skip


def function(prim: Primitive, values, params):
    """The primitive as a function of its floating operands, and these."""
    places = [i for i, v in enumerate(values) if is_floating(v)]

    def f(*xs):
        if prim.name in SYMMETRIC:  # one triangle is read, and one has the derivative
            xs = [(x + ln.matrix_transpose(x)) * 0.5 for x in xs]
        full = [Tensor(np.asarray(v)[()]) if hasattr(v, "dtype") else v for v in values]
        for i, x in zip(places, xs, strict=True):
            full[i] = x
        out = prim.perform(*full, **params)
        return FOLDED[prim.name](*parts(out)) if prim.name in FOLDED else out

    f.__name__ = prim.name
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


@pytest.mark.parametrize("number", range(SHARDS))
def test_values_derivatives_and_batches(number) -> None:
    chosen = [function(PRIMITIVES[name], *case)
              for name in shard(SMOOTH, number) for case in cases(name)[:3]]  # fmt: skip
    programs = [derivatives(f) for f, _ in chosen]

    def everything(*given):
        return [f(*xs) for f, xs in zip(programs, given, strict=True)]

    given = [xs for _, xs in chosen]
    eager = everything(*given)
    for backend, found in staged(everything, *given):
        for got, want, (f, _) in zip(found, eager, chosen, strict=True):
            what = f"{backend} {f.__name__}"
            # LAPACK amplifies rounding by the condition of a matrix, derivatives by its square. And
            # derivatives cancel: of terms of size one, what is left may be small.
            near, far = (2**8, 2**20) if f.__name__ in MATRIX else (8, 2**12)
            same(got.pop("value"), want["value"], near, what)
            same(got, {k: v for k, v in want.items() if k != "value"}, far, what)


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("half", (0, 1))
def test_values_in_other_dtypes(half, dtype) -> None:
    chosen = []
    for name in SMOOTH[half::2]:
        if name == "masked_softmax" and dtype is np.float16:
            continue  # -1e30 is no float16: attention computes its scores in float32 at least
        chosen += [function(PRIMITIVES[name], *case) for case in cases(name)[:2]]

    def everything(*given):
        return {f"{f.__name__} {i}": f(*(ln.astype(x, dtype) for x in xs))
                for i, ((f, _), xs) in enumerate(zip(chosen, given, strict=True))}  # fmt: skip

    # Linear algebra amplifies rounding by the condition of the matrices, about ten.
    agree(everything, *(xs for _, xs in chosen), ulps=64)


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


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_edge_values(dtype) -> None:
    x = ln.asarray(EDGES.astype(dtype))
    # Compositions (logarithms of other bases, hyperbolic functions) add their parts' errors.
    agree(lambda x: {n: PRIMITIVES[n].perform(x) for n in UNARY}, x, ulps=8, exact=True)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_edge_pairs(dtype) -> None:
    x, y = (ln.asarray(v.astype(dtype).ravel()) for v in np.meshgrid(EDGES, EDGES))
    agree(lambda x, y: {n: PRIMITIVES[n].perform(x, y) for n in BINARY}, x, y, ulps=4, exact=True)


def test_constant_exponents() -> None:
    exponents = (0, 1, 2, 3, 4, 7, -1, -2, -3, 0.5, -0.5, 1.5)
    agree(lambda x: [x**n for n in exponents], ln.asarray(EDGES), ulps=4, exact=True)


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

    agree(everything, x, y)


def test_an_integer_power_with_an_exponent_known_at_run_time() -> None:
    x, y = (ln.asarray(v.ravel()) for v in np.meshgrid(np.arange(-4, 5), np.arange(7)))
    agree(ln.pow, x, y)
    below = ln.compile(ln.pow)(ln.asarray([2, 1, -1, -1]), ln.asarray([-1, -5, -2, -3]))
    assert below.tolist() == [0, 1, 1, -1]


def test_booleans() -> None:
    x, y = ln.asarray([True, True, False, False]), ln.asarray([True, False, True, False])

    def everything(x, y):
        found = [f(x, y) for f in (e.logical_and, e.logical_or, e.bitwise_xor, e.equal, e.less)]
        return [*found, ln.where(x, y, x), ~x, ln.any(x), ln.all(y), ln.sum(x), ln.sort(x),
                x * 2.0, x + 1, ln.astype(x, ln.int8), ln.any(x[:0]), ln.all(x[:0])]  # fmt: skip

    agree(everything, x, y)


def test_casts() -> None:
    dtypes = (*INTEGERS, bool, *FLOATS)
    xs = [ln.asarray(np.asarray([0, 1, 2, 100]).astype(source)) for source in dtypes]
    agree(lambda *xs: [[ln.astype(x, d) for d in dtypes] for x in xs], *xs)


# Indexing and order -------------------------------------------------------------------------------

TABLE = np.arange(60.0).reshape(3, 4, 5)
KEYS = [
    np.s_[1], np.s_[-1, :, 2], np.s_[::-1], np.s_[::2, 3:0:-2], np.s_[..., ::-2], np.s_[1:1],
    np.s_[:, None, 2:3], np.s_[[0, 2, 0]], np.s_[:, [1, 1], [0, -1]], np.s_[[[0], [1]], :, [1, 2]],
    np.s_[5:2:-1],
]  # fmt: skip


def test_keys() -> None:
    def everything(x, key):
        u = x.at[key]
        return (
            x[key],
            u.set(-1.0),
            u.add(2.0),
            u.multiply(x[key]),
            u.max(30.0),
            ln.grad(lambda v: ln.sum(v[key] ** 2) + ln.sum(v.at[key].set(v[key] * v[key])))(x),
        )

    agree(lambda x: {str(key): everything(x, key) for key in KEYS}, ln.asarray(TABLE), ulps=2)


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

    agree(everything, x, i, ulps=4)
    agree(everything, x, ln.astype(i % 3, ln.uint8), ulps=4)


@pytest.mark.parametrize("backend", ("interpreter", "llvm"))
@pytest.mark.parametrize("index", (3, -4, 2**62))
def test_a_run_time_index_out_of_range_is_an_error_of_the_run(index, backend) -> None:
    read = ln.compile(lambda x, i: x[i], backend=backend)
    written = ln.compile(lambda x, i: x.at[i].set(0.0), backend=backend)
    for f in (read, written):
        with pytest.raises(IndexError, match=r"(?s)out of range.*test_conformance"):
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
        agree(everything, ln.astype(ln.asarray(x), dtype))


def test_last_writes_of_repeated_indices() -> None:
    i, j = ln.asarray([[0], [1], [0]]), ln.asarray([1, 2, 1])
    f = functools.partial(p.last_writes, shape=(2, 3))
    agree(f, i, j)
    assert ln.compile(f)(i[:, :0], j[:0]).shape == (3, 0)


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

    agree(everything, x)
    with pytest.raises(LanternError, match="no elements"):
        ln.compile(lambda v: ln.max(v, axis=0))(x)


# Random numbers -----------------------------------------------------------------------------------


def test_random_numbers_are_the_same_bits() -> None:
    def draws(k):
        return {
            "bits": ln.random.bits(k, (70,)), "split": ln.random.split(k, 3),
            "randint": ln.random.randint(k, (7, 4), -5, 9),
            "uniform": [ln.random.uniform(k, (70,), d) for d in (np.float16, np.float32, float)],
            "range": ln.random.uniform(k, (70,), np.float64, -1.0, 2.0),
            "permutation": ln.random.permutation(k, 9),
            "bernoulli": ln.random.bernoulli(k, 0.3, (70,)),
        }  # fmt: skip

    agree(draws, ln.random.key(3), exact=True)


def test_normal_random_numbers_are_within_two_places() -> None:
    def draws(k):
        return [ln.random.normal(k, (2**14,), d) for d in (np.float32, np.float64)]

    agree(draws, ln.random.key(3), ulps=2, exact=True)


# Public functions ---------------------------------------------------------------------------------


def test_every_public_function_has_a_case_or_a_reason() -> None:
    known = set(CASES) | set(NOT_COMPILED)
    missing = {n for n in FUNCTIONS if n not in known and not excluded(n)}
    assert not missing, "add a case to tests/function_cases.py, or a reason to NOT_COMPILED"
    assert not set(CASES) & set(NOT_COMPILED)


def excluded(name):
    """Whole modules that have nothing to do in a program."""
    return name.startswith(("ln.io.", "ln.testing.", "ln.tree.", "ln.debug."))


@pytest.mark.parametrize("number", range(SHARDS))
def test_public_functions(number) -> None:
    names = shard(sorted(CASES), number)
    # What is a primitive under the same name has been differentiated above.
    smooth = [n for n in names if n not in VALUES_ONLY and n.removeprefix("ln.") not in RULES]

    def values(a):
        return {n: CASES[n](a) for n in names}

    def total(name, x, a):
        found = ln.tree.leaves(CASES[name](a | {"x": x}))
        floats = [y for y in found if ln.isdtype(y.dtype, "real floating")]
        return sum(ln.sum(y * ln.cos(y * 3.0)) for y in floats) + ln.sum(x) * 0

    def slopes(a):
        found = {}
        for n in smooth:
            first = ln.grad(lambda x, n=n: total(n, x, a))
            second = ln.grad(lambda x, first=first: ln.sum(first(x) ** 2))
            found[n] = first(a["x"]), second(a["x"])
        return found

    def batches(a):
        xs = ln.stack([a["x"], a["x"] * 0.9])
        return {n: ln.vmap(lambda x, n=n: CASES[n](a | {"x": x}))(xs) for n in smooth}

    agree(lambda a: (values(a), slopes(a), batches(a)), arguments(), ulps=8192)
